"""Judge shapes-net: a small convolutional network that classifies the contents of rendered scenes.

It is for distances between sets of images. Unlike shapes-vision it depends on how cleanly objects
are rendered. `harope-bench train shapes-net` trains it; shapes_net.toml records its accuracy on
held-out images.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harope_bench.judges.micro.micro_extractor import (
    MicroExtractor,
    resize_to_side,
)
from harope_bench.judges.micro.network_sizes import FEATURES, SHAPES_SIDE, SHAPES_SPATIAL_CHANNELS

if TYPE_CHECKING:
    from torch import Tensor

    from harope_bench.judges.micro.shapes_network import ShapesNet

METADATA_PATH = Path(__file__).parent / "shapes_net.toml"


def prepare(images: np.ndarray) -> Tensor:
    """Return images (B, H, W, 3) uint8 as (B, 3, 32, 32) float32 in [-1, 1]."""
    import torch

    return resize_to_side(torch.from_numpy(images).float().permute(0, 3, 1, 2), SHAPES_SIDE)


class ShapesNetJudge(MicroExtractor):
    """The plug-in."""

    preprocessing = "antialiased bilinear to 32 x 32 where needed; x / 127.5 - 1"
    widths = {"features": FEATURES, "spatial": SHAPES_SPATIAL_CHANNELS * 8 * 8}
    prepare = staticmethod(prepare)
    title = "judge shapes-net"
    metadata_path = METADATA_PATH
    case_kind = "held-out scenes misread"

    def network(self) -> ShapesNet:
        """Return the network with random weights."""
        from harope_bench.judges.micro.shapes_network import ShapesNet

        return ShapesNet()


PLUGIN = ShapesNetJudge()
