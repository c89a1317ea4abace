"""What the micro feature extractors share: a small convolutional network, its shipped weights, and
the plug-in around them.

They take the place of Inception: 64 features, a spatial map and logits from one pass, learned by
`harope-bench train NAME`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harope_bench.core.errors import MissingMemberError
from harope_bench.core.schema import ErrorRate
from harope_bench.core.state_dicts import load_state_strictly, load_weights
from harope_bench.core.toml_file import read_versioned_toml
from harope_bench.judges.base import FeatureExtractor, LoadedFeatureExtractor

FEATURES = 64


class MicroOutputs(NamedTuple):
    """What one pass gives: features (B, 64), map (B, side / 4, side / 4, kept) and logits (B,
    classes).
    """

    features: Tensor
    spatial: Tensor
    logits: Tensor


class SmallNetwork(nn.Module):
    """Four 3 x 3 convolutions, a hidden layer of 64 and logits without bias.

    Args:
        channels: of the image and of the four convolutions. side: of the image in pixels. kept:
            channels of the map that sFID reads.
    """

    def __init__(
        self, channels: tuple[int, int, int, int, int], side: int, kept: int, classes: int
    ):
        super().__init__()
        image, first, second, third, fourth = channels
        self.spatial_channels = kept
        self.conv1 = nn.Conv2d(image, first, 3, padding=1)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1)
        self.conv3 = nn.Conv2d(second, third, 3, padding=1)
        self.conv4 = nn.Conv2d(third, fourth, 3, padding=1)
        self.hidden = nn.Linear(fourth * (side // 4) ** 2, FEATURES)
        self.head = nn.Linear(FEATURES, classes, bias=False)

    def forward(self, x: Tensor) -> MicroOutputs:
        """Return features, map and logits of images (B, C, side, side) in [-1, 1]."""
        x = F.max_pool2d(
            F.silu(self.conv2(F.silu(self.conv1(x)))), 2
        )  # (B, C2, side / 2, side / 2)
        x = F.max_pool2d(F.silu(self.conv3(x)), 2)  # (B, C3, side / 4, side / 4)
        x = F.silu(self.conv4(x))
        # SiLU, not ReLU: a feature that never fires would make the covariance singular
        features = F.silu(self.hidden(x.flatten(1)))  # (B, 64)
        return MicroOutputs(
            features, x[:, : self.spatial_channels].permute(0, 2, 3, 1), self.head(features)
        )


def resize_to_side(x: Tensor, side: int) -> Tensor:
    """Return images (B, C, H, W) of 0 to 255 as (B, C, side, side) in [-1, 1]; other sizes are
    resized with antialias.
    """
    if x.shape[-2:] != (side, side):
        x = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
    return x / 127.5 - 1


class LoadedMicroExtractor(LoadedFeatureExtractor):
    """A small network with its weights."""

    def __init__(
        self,
        network: SmallNetwork,
        prepare: Callable[[np.ndarray], Tensor],
        weights_sha256: str,
        device: str,
    ):
        self.network = network.to(device).eval()
        self.prepare = prepare
        self.weights_sha256 = weights_sha256
        self.device = device

    @torch.inference_mode()
    def extract(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return features (B, 64), spatial (B, numbers of the map) in NHWC order, and logits (B,
        classes); float32.
        """
        outputs: MicroOutputs = self.network(self.prepare(images).to(self.device))
        return {
            "features": outputs.features.cpu().numpy(),
            "spatial": outputs.spatial.flatten(1).cpu().numpy(),
            "logits": outputs.logits.cpu().numpy(),
        }


class MicroExtractor(FeatureExtractor):
    """Base class of the plug-ins: facts, and the door to the network."""

    version = 1
    judge_class = "micro"
    arrays = ("features", "spatial", "logits")
    batch_size = 250
    title: str  # for errors
    metadata_path: (
        Path  # what training recorded: the weights' file and hash, and the held-out accuracy
    )
    case_kind: str  # what a held-out case that it got wrong is called

    def network(self) -> SmallNetwork:
        """Return the network, its weights not set."""
        raise MissingMemberError(self, "network")

    def prepare(self, images: np.ndarray) -> Tensor:
        """Return images (B, H, W, 3) uint8 as the network's input; a plug-in may state a function
        as a static method.
        """
        raise MissingMemberError(self, "prepare")

    def weights_sha256(self) -> str:
        """Return the recorded hash of the shipped weights."""
        return str(read_versioned_toml("judge", self.metadata_path)["sha256"])

    def error_rates(self) -> tuple[ErrorRate, ...]:
        """Return how it did on images that it was not trained on."""
        facts = read_versioned_toml("judge", self.metadata_path)
        of = facts["held_out_images"]
        return (
            ErrorRate(
                case_kind=self.case_kind,
                n_wrong=of - round(facts["held_out_accuracy"] * of),
                n_cases=of,
            ),
        )

    def open(self, device: str = "cpu") -> LoadedMicroExtractor:
        """Load the shipped weights."""
        facts = read_versioned_toml("judge", self.metadata_path)
        network = self.network()
        load_state_strictly(
            network,
            load_weights(self.metadata_path.parent / facts["weights"], facts["sha256"]),
            self.title,
        )
        return LoadedMicroExtractor(network, self.prepare, facts["sha256"], device)
