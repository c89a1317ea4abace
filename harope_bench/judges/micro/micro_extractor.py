"""Base of the micro feature extractors: a small convolutional network and its shipped weights.

They replace Inception at micro scale: 64 features, a spatial map and logits from one pass.
`harope-bench train NAME` trains them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harope_bench.core.errors import MissingMemberError
from harope_bench.core.schema import ErrorRate
from harope_bench.core.state_dicts import load_state_strictly, load_weights
from harope_bench.core.toml_file import read_versioned_toml
from harope_bench.judges.base import FeatureExtractor, LoadedFeatureExtractor
from harope_bench.judges.micro.network_sizes import MicroOutputs
from harope_bench.judges.weights.precision import without_gradients

if TYPE_CHECKING:
    from torch import Tensor

    from harope_bench.judges.micro.small_network import SmallNetwork


def resize_to_side(x: Tensor, side: int) -> Tensor:
    """Return images (B, C, H, W) of 0 to 255 as (B, C, side, side) in [-1, 1].

    Images of another size are resized bilinear with antialias.
    """
    from torch.nn import functional as F

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

    @without_gradients
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
    packages = ("torch", "safetensors")
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
