"""Base of the micro feature extractors: a small convolutional network and its shipped weights.

They replace Inception at micro scale: 64 features, a spatial map and logits from one pass.
`harope-bench train NAME` trains them.
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
    """Outputs of one pass.

    features: (B, 64). spatial: map (B, side / 4, side / 4, spatial channels). logits: (B, classes).
    """

    features: Tensor
    spatial: Tensor
    logits: Tensor


class SmallNetwork(nn.Module):
    """Four 3 x 3 convolutions, a hidden layer of 64 and logits without bias.

    Args:
        channels: of the image and of the four convolutions.
        side: of the image in pixels.
        spatial_channels: channels of the last map that sFID uses.
    """

    def __init__(
        self,
        channels: tuple[int, int, int, int, int],
        side: int,
        spatial_channels: int,
        classes: int,
    ):
        super().__init__()
        self.spatial_channels = spatial_channels
        self.conv1 = nn.Conv2d(channels[0], channels[1], 3, padding=1)
        self.conv2 = nn.Conv2d(channels[1], channels[2], 3, padding=1)
        self.conv3 = nn.Conv2d(channels[2], channels[3], 3, padding=1)
        self.conv4 = nn.Conv2d(channels[3], channels[4], 3, padding=1)
        self.hidden = nn.Linear(channels[4] * (side // 4) ** 2, FEATURES)
        self.head = nn.Linear(FEATURES, classes, bias=False)

    def forward(self, x: Tensor) -> MicroOutputs:
        """Return features, map and logits of images (B, C, side, side) in [-1, 1]."""
        x = F.silu(self.conv2(F.silu(self.conv1(x))))  # (B, C2, side, side)
        x = F.max_pool2d(x, 2)  # (B, C2, side / 2, side / 2)
        x = F.max_pool2d(F.silu(self.conv3(x)), 2)  # (B, C3, side / 4, side / 4)
        x = F.silu(self.conv4(x))  # (B, C4, side / 4, side / 4)
        # SiLU and not ReLU: a feature that is always 0 would make the covariance singular
        features = F.silu(self.hidden(x.flatten(1)))  # (B, 64)
        spatial = x[:, : self.spatial_channels].permute(0, 2, 3, 1)  # (B, side / 4, side / 4, C)
        return MicroOutputs(features, spatial, self.head(features))


def resize_to_side(x: Tensor, side: int) -> Tensor:
    """Return images (B, C, H, W) of 0 to 255 as (B, C, side, side) in [-1, 1].

    Images of another size are resized bilinear with antialias.
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
        """Return the three arrays of images (B, H, W, 3) uint8, float32.

        features (B, 64), spatial (B, numbers of the map) in NHWC order, and logits (B, classes).
        """
        outputs: MicroOutputs = self.network(self.prepare(images).to(self.device))
        return {
            "features": outputs.features.cpu().numpy(),
            "spatial": outputs.spatial.flatten(1).cpu().numpy(),
            "logits": outputs.logits.cpu().numpy(),
        }


class MicroExtractor(FeatureExtractor):
    """Base class of the plug-ins."""

    version = 1
    judge_class = "micro"
    arrays = ("features", "spatial", "logits")
    batch_size = 250
    title: str  # for messages
    metadata_path: Path  # TOML that training wrote: weights file, hash and held-out accuracy
    case_kind: str  # name of a held-out case that the network got wrong

    def network(self) -> SmallNetwork:
        """Return the network with random weights."""
        raise MissingMemberError(self, "network")

    def prepare(self, images: np.ndarray) -> Tensor:
        """Return images (B, H, W, 3) uint8 as the network's input.

        A plug-in may set a function as a static method.
        """
        raise MissingMemberError(self, "prepare")

    def weights_sha256(self) -> str:
        """Return the recorded hash of the shipped weights."""
        return str(read_versioned_toml("judge", self.metadata_path)["sha256"])

    def error_rates(self) -> tuple[ErrorRate, ...]:
        """Return how many held-out images the network got wrong, as training recorded it."""
        metadata = read_versioned_toml("judge", self.metadata_path)
        n_images = metadata["held_out_images"]
        n_right = round(metadata["held_out_accuracy"] * n_images)
        return (ErrorRate(case_kind=self.case_kind, n_wrong=n_images - n_right, n_cases=n_images),)

    def open(self, device: str = "cpu") -> LoadedMicroExtractor:
        """Load the shipped weights."""
        metadata = read_versioned_toml("judge", self.metadata_path)
        network = self.network()
        weights_path = self.metadata_path.parent / metadata["weights"]
        load_state_strictly(network, load_weights(weights_path, metadata["sha256"]), self.title)
        return LoadedMicroExtractor(network, self.prepare, metadata["sha256"], device)
