"""Judge digits-net: a small convolutional network that classifies handwritten digits.

It replaces Inception at micro scale. `harope-bench train digits-net` trains it; digits_net.toml
records its accuracy on held-out images.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harope_bench.judges.micro.micro_extractor import (
    MicroExtractor,
    resize_to_side,
)
from harope_bench.judges.micro.network_sizes import DIGITS_SIDE, DIGITS_SPATIAL_CHANNELS, FEATURES

if TYPE_CHECKING:
    from torch import Tensor

    from harope_bench.judges.micro.digits_network import DigitsNet

METADATA_PATH = Path(__file__).parent / "digits_net.toml"


def prepare(images: np.ndarray) -> Tensor:
    """Return images (B, H, W, 3) uint8 as (B, 1, 28, 28) float32 in [-1, 1]."""
    import torch

    grey = torch.from_numpy(images).float().mean(-1)[:, None]  # (B, 1, H, W)
    return resize_to_side(grey, DIGITS_SIDE)


class DigitsNetJudge(MicroExtractor):
    """The plug-in."""

    preprocessing = "mean of channels; antialiased bilinear to 28 x 28 where needed; x / 127.5 - 1"
    widths = {"features": FEATURES, "spatial": DIGITS_SPATIAL_CHANNELS * 7 * 7}
    prepare = staticmethod(prepare)
    title = "judge digits-net"
    metadata_path = METADATA_PATH
    case_kind = "held-out digits misread"

    def network(self) -> DigitsNet:
        """Return the network with random weights."""
        from harope_bench.judges.micro.digits_network import DigitsNet

        return DigitsNet()


PLUGIN = DigitsNetJudge()
