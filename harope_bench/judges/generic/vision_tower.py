"""Feature extractors that are vision transformers: one row of features per image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from harope_bench.core.errors import MissingMemberError
from harope_bench.core.state_dicts import load_state_strictly, load_weights
from harope_bench.judges.base import FeatureExtractor, LoadedFeatureExtractor
from harope_bench.judges.weights.asset_files import WeightsFile
from harope_bench.judges.weights.precision import full_float32, without_gradients
from harope_bench.judges.weights.published_weights import (
    PublishedWeightsJudge,
    shorten_mismatch_error,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


def normalize_images(images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return images (B, H, W, 3) uint8 as (B, 3, H, W) float32: (x / 255 - mean) / std.

    Mean and standard deviation are those of the three channels.
    """
    import torch

    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def resize_square(
    images: Iterable[np.ndarray], side: int, pillow_filter: Image.Resampling
) -> np.ndarray:
    """Return images (H, W, 3) uint8 as (B, side, side, 3) uint8, resized by Pillow.

    Pillow's filters are antialiased. Images that are not square are stretched.
    """
    return np.stack(
        [np.asarray(Image.fromarray(image).resize((side, side), pillow_filter)) for image in images]
    )


class LoadedVisionTower(LoadedFeatureExtractor):
    """A vision transformer with its weights."""

    numerics = {"network": "plain", "tf32": False}

    def __init__(
        self,
        network: nn.Module,
        weights_sha256: str,
        prepare: Callable[[np.ndarray], Tensor],
        device: str,
    ):
        self.network = network.to(device).eval()
        self.weights_sha256 = weights_sha256
        self.prepare = prepare
        self.device = device

    @without_gradients
    def extract(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return `features` (B, D) float32 of images (B, H, W, 3) uint8."""
        with full_float32():
            features: Tensor = self.network(self.prepare(images).to(self.device))  # (B, D)
        return {"features": features.float().cpu().numpy()}


class VisionTower(PublishedWeightsJudge[LoadedFeatureExtractor], FeatureExtractor):
    """Base class of the plug-ins.

    Args:
        sizes: options of the network's library that replace those of the published network; tests
            make it small.
    """

    arrays = ("features",)
    width_option: tuple[str, int]  # the option that sets the features' width, and its default

    def __init__(self, sizes: Mapping[str, int] | None = None):
        self.sizes: Mapping[str, int] = sizes or {}

    @property
    def widths(self) -> dict[str, int]:
        """Return the numbers per row of features."""
        option, default = self.width_option
        return {"features": self.sizes.get(option, default)}

    def build_network(self) -> nn.Module:
        """Return the network, images (B, 3, S, S) to features (B, D), with any weights."""
        raise MissingMemberError(self, "build_network")

    def prepare(self, images: np.ndarray) -> Tensor:
        """Return images (B, H, W, 3) uint8 as the network's input (B, 3, S, S) float32."""
        raise MissingMemberError(self, "prepare")

    def convert_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the file's tensors under the keys of `build_network`.

        An unknown key stays as it is, so that loading reports it.
        """
        raise MissingMemberError(self, "convert_state")

    def load_state(self, weights_file: WeightsFile) -> Mapping[str, Tensor]:
        """Return the tensors of the file after checking its hash; unpickle nothing else."""
        return load_weights(weights_file.path, weights_file.sha256)

    def open(self, device: str = "cpu") -> LoadedVisionTower:
        """Load the weights strictly after checking their hash.

        Raises:
            MissingAssetError: The weights are missing.
            WeightsError: The weights are altered, unsafe, or of another network.
        """
        weights_file = self.source.find()
        network = self._load_network(weights_file)
        return LoadedVisionTower(network, weights_file.sha256, self.prepare, device)

    def _load_network(self, weights_file: WeightsFile) -> nn.Module:
        """Return the network with the weights of the file."""
        import torch

        state = self.load_state(weights_file)
        # no time and no random numbers for weights that are replaced
        with torch.device("meta"):
            network = self.build_network()
        network.to_empty(device="cpu")
        with shorten_mismatch_error(str(weights_file.path), self.title, self.source.asset):
            load_state_strictly(network, self.convert_state(state), str(weights_file.path))
        return network
