"""Judge digits-net: a small convolutional network that reads handwritten digits.

It takes the place of Inception in the micro world: 64 features, a spatial map and 10 logits from one
pass. Trained by `harope-bench train digits-net`; its held-out accuracy stands in digits_net.toml.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harope_bench.core.schema import ErrorRate
from harope_bench.core.storage import fit, load_weights
from harope_bench.core.toml_file import read_facts

SIDE = 28
FEATURES = 64
SPATIAL = 4  # channels of the 7 x 7 map kept for sFID: 196 numbers
FACTS = Path(__file__).parent / "digits_net.toml"


class DigitsNet(nn.Module):
    """Four 3 x 3 convolutions, a hidden layer of 64 and ten logits without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.conv3 = nn.Conv2d(16, 32, 3, padding=1)
        self.conv4 = nn.Conv2d(32, 32, 3, padding=1)
        self.hidden = nn.Linear(32 * 7 * 7, FEATURES)
        self.head = nn.Linear(FEATURES, 10, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 1, 28, 28) in [-1, 1] to features (B, 64), map (B, 7, 7, 4) and logits (B, 10)."""
        x = F.max_pool2d(F.silu(self.conv2(F.silu(self.conv1(x)))), 2)  # (B, 16, 14, 14)
        x = F.max_pool2d(F.silu(self.conv3(x)), 2)  # (B, 32, 7, 7)
        x = F.silu(self.conv4(x))
        # SiLU, not ReLU: a feature that never fires would make the covariance singular
        features = F.silu(self.hidden(x.flatten(1)))
        return features, x[:, :SPATIAL].permute(0, 2, 3, 1), self.head(features)


def prepare(images: np.ndarray) -> Tensor:
    """Images (B, H, W, 3) uint8 to (B, 1, 28, 28) float32 in [-1, 1]; other sizes are resized with antialias."""
    grey = torch.from_numpy(images).float().mean(-1)[:, None]
    if grey.shape[-2:] != (SIDE, SIDE):
        grey = F.interpolate(grey, (SIDE, SIDE), mode="bilinear", antialias=True)
    return grey / 127.5 - 1


class OpenedDigitsNet:
    """The network with weights."""

    def __init__(self, network: DigitsNet, weights_sha256: str, device: str):
        self.network, self.weights_sha256, self.device = network.to(device).eval(), weights_sha256, device

    @torch.inference_mode()
    def observe(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """features (B, 64), spatial (B, 196) in NHWC order, logits (B, 10); float32."""
        features, spatial, logits = self.network(prepare(images).to(self.device))
        return {
            "features": features.cpu().numpy(),
            "spatial": spatial.flatten(1).cpu().numpy(),
            "logits": logits.cpu().numpy(),
        }


class DigitsNetJudge:
    """The plug-in: facts, and the door to the network."""

    version = 1
    judge_class = "micro"
    preprocessing = "mean of channels; antialiased bilinear to 28 x 28 where needed; x / 127.5 - 1"
    arrays = ("features", "spatial", "logits")
    widths = {"features": FEATURES, "spatial": SPATIAL * 7 * 7}
    batch = 250

    def weights_sha256(self) -> str:
        """Recorded hash of the shipped weights."""
        return str(read_facts("judge", FACTS)["sha256"])

    def errors(self) -> tuple[ErrorRate, ...]:
        """How it did on images that it was not trained on."""
        facts = read_facts("judge", FACTS)
        of = facts["held_out_images"]
        return (ErrorRate(cases="held-out digits misread", wrong=of - round(facts["held_out_accuracy"] * of), of=of),)

    def open(self, device: str = "cpu") -> OpenedDigitsNet:
        """Loads the shipped weights."""
        facts = read_facts("judge", FACTS)
        network = DigitsNet()
        fit(network, load_weights(FACTS.parent / facts["weights"], facts["sha256"]), "judge digits-net")
        return OpenedDigitsNet(network, facts["sha256"], device)


PLUGIN = DigitsNetJudge()
