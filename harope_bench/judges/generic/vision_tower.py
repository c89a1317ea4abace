"""A vision transformer as judge: one row of features an image, by a network whose weights come from
a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from harope_bench.core.errors import MissingMemberError
from harope_bench.core.state_dicts import load_state_strictly, load_weights
from harope_bench.judges.base import FeatureExtractor, LoadedFeatureExtractor
from harope_bench.judges.weights.asset_files import WeightsFile
from harope_bench.judges.weights.precision import full_float32
from harope_bench.judges.weights.published_weights import PublishedWeightsJudge, explain_misfit


def normalize_images(images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images (B, H, W, 3) uint8 to (B, 3, H, W) float32: x / 255, less the mean, over the
    deviation, each of three channels.
    """
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def resize_square(
    images: Iterable[np.ndarray], side: int, pillow_filter: Image.Resampling
) -> np.ndarray:
    """Images of (H, W, 3) uint8 as (B, side, side, 3) uint8, resized by pillow with antialias and
    stretched where not square.
    """
    return np.stack(
        [np.asarray(Image.fromarray(image).resize((side, side), pillow_filter)) for image in images]
    )


class LoadedVisionTower(LoadedFeatureExtractor):
    """The network with weights, ready to look."""

    numerics = {"path": "plain", "tf32": False}

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

    @torch.inference_mode()
    def extract(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """features (B, D) float32, for images (B, H, W, 3) uint8."""
        with full_float32():
            seen: Tensor = self.network(self.prepare(images).to(self.device))  # (B, D)
        return {"features": seen.float().cpu().numpy()}


class VisionTower(PublishedWeightsJudge[LoadedFeatureExtractor], FeatureExtractor):
    """The plug-in: facts, and the door to the network. `sizes` replaces those of the published
    network; tests make it small.
    """

    arrays = ("features",)
    width_option: tuple[
        str, int
    ]  # of the features: the size that sets it, and the published network's

    def __init__(self, sizes: Mapping[str, int] | None = None):
        self.sizes: Mapping[str, int] = sizes or {}  # options of the network's own library

    @property
    def widths(self) -> dict[str, int]:
        """How many numbers a row of features has."""
        size, published = self.width_option
        return {"features": self.sizes.get(size, published)}

    def build_network(self) -> nn.Module:
        """The network, images (B, 3, S, S) to features (B, D); its numbers do not matter."""
        raise MissingMemberError(self, "build_network")

    def prepare(self, images: np.ndarray) -> Tensor:
        """Images (B, H, W, 3) uint8 to (B, 3, S, S) float32."""
        raise MissingMemberError(self, "prepare")

    def convert_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The file's tensors under the names of `blank`; what is not understood stays, so that it
        is found.
        """
        raise MissingMemberError(self, "convert_state")

    def load_state(self, found: WeightsFile) -> Mapping[str, Tensor]:
        """The tensors of the file, hash checked, nothing else unpickled."""
        return load_weights(found.path, found.sha256)

    def open(self, device: str = "cpu") -> LoadedVisionTower:
        """Loads the weights strictly, hash checked first.

        Raises:
            WeightsError: not here, altered, unsafe, or of another network.
        """
        found = self.source.find()
        return LoadedVisionTower(self._fill_network(found), found.sha256, self.prepare, device)

    def _fill_network(self, found: WeightsFile) -> nn.Module:
        state = self.load_state(found)
        with torch.device("meta"):  # neither time nor random numbers for weights that are replaced
            network = self.build_network()
        network.to_empty(device="cpu")
        with explain_misfit(str(found.path), self.title, self.source.asset):
            load_state_strictly(network, self.convert_state(state), str(found.path))
        return network
