"""A vision transformer as judge: one row of features an image, by a network whose weights come from a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from harope_bench.core.errors import WeightsError
from harope_bench.core.storage import fit, load_weights
from harope_bench.judges.weights.asset_files import Source, Weights
from harope_bench.judges.weights.precision import full_float32

TOLD = 200  # characters of a misfit: a network of another size differs in hundreds of keys


def scaled(images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images (B, H, W, 3) uint8 to (B, 3, H, W) float32: x / 255, less the mean, over the deviation, each of three channels."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


class OpenedTower:
    """The network with weights, ready to look."""

    way: Mapping[str, str | bool] = {"path": "plain", "tf32": False}

    def __init__(self, network: nn.Module, weights_sha256: str, prepare: Callable[[np.ndarray], Tensor], device: str):
        self.network, self.weights_sha256, self.prepare, self.device = network.to(device).eval(), weights_sha256, prepare, device

    @torch.inference_mode()
    def observe(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """features (B, D) float32, for images (B, H, W, 3) uint8."""
        with full_float32():
            seen: Tensor = self.network(self.prepare(images).to(self.device))  # (B, D)
        return {"features": seen.float().cpu().numpy()}


class Tower(ABC):
    """The plug-in: facts, and the door to the network. `sizes` replaces those of the published network; tests make it small."""

    version = 1
    arrays = ("features",)
    width: tuple[str, int]  # of the features: the size that sets it, and the published network's
    title: str
    preprocessing: str
    batch: int
    source: Source

    def __init__(self, sizes: Mapping[str, Any] | None = None):
        self.sizes: Mapping[str, Any] = sizes or {}

    @property
    def widths(self) -> dict[str, int]:
        """How many numbers a row of features has."""
        size, published = self.width
        return {"features": int(self.sizes.get(size, published))}

    @abstractmethod
    def blank(self) -> nn.Module:
        """The network, images (B, 3, S, S) to features (B, D); its numbers do not matter."""

    @abstractmethod
    def prepare(self, images: np.ndarray) -> Tensor:
        """Images (B, H, W, 3) uint8 to (B, 3, S, S) float32."""

    @abstractmethod
    def arranged(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The file's tensors under the names of `blank`; what is not understood stays, so that it is found."""

    def state(self, found: Weights) -> Mapping[str, Tensor]:
        """The tensors of the file, hash checked, nothing else unpickled."""
        return load_weights(found.path, found.sha256)

    @property
    def judge_class(self) -> Literal["equivalent", "substitute"]:
        """Equivalent with the published weights; anything else is a substitute."""
        try:
            return "equivalent" if self.source.found().sha256 == self.source.known_sha256() else "substitute"
        except WeightsError:
            return "substitute"

    def weights_sha256(self) -> str:
        """Hash of the file in use."""
        return self.source.found().sha256

    def warnings(self) -> tuple[str, ...]:
        """What a result must say of the judge."""
        if self.weights_sha256() == self.source.known_sha256():
            return ()
        return (f"judge: other weights than {self.title}'s, or a copy of another hash; numbers compare with nothing published",)

    def open(self, device: str = "cpu") -> OpenedTower:
        """Loads the weights strictly, hash checked first.

        Raises:
            WeightsError: not here, altered, unsafe, or of another network.
        """
        found = self.source.found()
        return OpenedTower(self._filled(found), found.sha256, self.prepare, device)

    def _filled(self, found: Weights) -> nn.Module:
        state = self.state(found)
        with torch.device("meta"):  # neither time nor random numbers for weights that are replaced
            network = self.blank()
        network.to_empty(device="cpu")
        try:
            fit(network, self.arranged(state), str(found.path))
        except WeightsError as error:
            told = str(error).partition(" does not fit: ")[2].partition("; check --")[0][:TOLD]
            raise WeightsError(f"{found.path} does not fit {self.title}: {told}; harope-bench fetch {self.source.asset}") from error
        return network
