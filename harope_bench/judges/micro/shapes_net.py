"""Judge shapes-net: a small convolutional network that names what a drawn scene holds, for distances between sets of images.

64 features, a spatial map and 30 logits of one pass, as digits-net has them. Unlike shapes-vision it sees how cleanly things are drawn.
Trained by `harope-bench train shapes-net`; its held-out accuracy stands in shapes_net.toml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harope_bench.core.schema import ErrorRate
from harope_bench.core.storage import fit, load_weights
from harope_bench.core.toml_file import read_facts
from harope_bench.data.shapes_world.contents import CONTENTS
from harope_bench.data.shapes_world.words import COLOURS

SIDE = 32
FEATURES = 64
SPATIAL = 3  # channels of the 8 x 8 map kept for sFID: 192 numbers
FACTS = Path(__file__).parent / "shapes_net.toml"


class ShapesNet(nn.Module):
    """Four 3 x 3 convolutions, a hidden layer of 64, a logit for each content, and one for each colour that training alone reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 24, 3, padding=1)
        self.conv3 = nn.Conv2d(24, 32, 3, padding=1)
        self.conv4 = nn.Conv2d(32, 24, 3, padding=1)
        self.hidden = nn.Linear(24 * 8 * 8, FEATURES)
        self.head = nn.Linear(FEATURES, len(CONTENTS), bias=False)
        self.colours = nn.Linear(FEATURES, len(COLOURS), bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images (B, 3, 32, 32) in [-1, 1] to features (B, 64), map (B, 8, 8, 3), logits (B, 30) and colour logits (B, 6)."""
        x = F.max_pool2d(F.silu(self.conv2(F.silu(self.conv1(x)))), 2)  # (B, 24, 16, 16)
        x = F.max_pool2d(F.silu(self.conv3(x)), 2)  # (B, 32, 8, 8)
        x = F.silu(self.conv4(x))
        features = F.silu(self.hidden(x.flatten(1)))  # no dead feature, so that no covariance is singular
        return features, x[:, :SPATIAL].permute(0, 2, 3, 1), self.head(features), self.colours(features)


def prepare(images: np.ndarray) -> Tensor:
    """Images (B, H, W, 3) uint8 to (B, 3, 32, 32) float32 in [-1, 1]; other sizes are resized with antialias."""
    x = torch.from_numpy(images).float().permute(0, 3, 1, 2)
    if x.shape[-2:] != (SIDE, SIDE):
        x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
    return x / 127.5 - 1


class OpenedShapesNet:
    """The network with weights."""

    def __init__(self, network: ShapesNet, weights_sha256: str, device: str):
        self.network, self.weights_sha256, self.device = network.to(device).eval(), weights_sha256, device

    @torch.inference_mode()
    def observe(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """features (B, 64), spatial (B, 192) in NHWC order, logits (B, 30); float32."""
        features, spatial, logits, _ = self.network(prepare(images).to(self.device))
        return {
            "features": features.cpu().numpy(),
            "spatial": spatial.flatten(1).cpu().numpy(),
            "logits": logits.cpu().numpy(),
        }


class ShapesNetJudge:
    """The plug-in: facts, and the door to the network."""

    version = 1
    judge_class: Literal["official", "equivalent", "substitute", "micro"] = "micro"
    preprocessing = "antialiased bilinear to 32 x 32 where needed; x / 127.5 - 1"
    arrays = ("features", "spatial", "logits")
    widths = {"features": FEATURES, "spatial": SPATIAL * 8 * 8}
    batch = 250

    def weights_sha256(self) -> str:
        """Recorded hash of the shipped weights."""
        return str(read_facts("judge", FACTS)["sha256"])

    def errors(self) -> tuple[ErrorRate, ...]:
        """How it did on images that it was not trained on."""
        facts = read_facts("judge", FACTS)
        of = facts["held_out_images"]
        return (ErrorRate(cases="held-out scenes misread", wrong=of - round(facts["held_out_accuracy"] * of), of=of),)

    def open(self, device: str = "cpu") -> OpenedShapesNet:
        """Loads the shipped weights."""
        facts = read_facts("judge", FACTS)
        network = ShapesNet()
        fit(network, load_weights(FACTS.parent / facts["weights"], facts["sha256"]), "judge shapes-net")
        return OpenedShapesNet(network, facts["sha256"], device)


PLUGIN = ShapesNetJudge()
