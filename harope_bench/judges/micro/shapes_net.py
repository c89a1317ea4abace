"""Judge shapes-net: a small convolutional network that classifies the contents of rendered scenes.

It is for distances between sets of images. Unlike shapes-vision it depends on how cleanly objects
are rendered. `harope-bench train shapes-net` trains it; shapes_net.toml records its accuracy on
held-out images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from harope_bench.data.shapes_scenes.contents import CONTENTS
from harope_bench.data.shapes_scenes.words import COLOURS
from harope_bench.judges.micro.micro_extractor import (
    FEATURES,
    MicroExtractor,
    SmallNetwork,
    resize_to_side,
)

SIDE = 32
SPATIAL_CHANNELS = 3  # channels of the 8 x 8 map for sFID: 192 numbers
METADATA_PATH = Path(__file__).parent / "shapes_net.toml"


class ShapesNet(SmallNetwork):
    """Network from images (B, 3, 32, 32) to features (B, 64), map (B, 8, 8, 3) and logits.

    There is a logit for each content. `colours` maps features to logits (B, 6), one for each
    colour; only training uses it.
    """

    def __init__(self) -> None:
        super().__init__((3, 16, 24, 32, 24), SIDE, SPATIAL_CHANNELS, classes=len(CONTENTS))
        self.colours = nn.Linear(FEATURES, len(COLOURS), bias=False)


def prepare(images: np.ndarray) -> Tensor:
    """Return images (B, H, W, 3) uint8 as (B, 3, 32, 32) float32 in [-1, 1]."""
    return resize_to_side(torch.from_numpy(images).float().permute(0, 3, 1, 2), SIDE)


class ShapesNetJudge(MicroExtractor):
    """The plug-in."""

    preprocessing = "antialiased bilinear to 32 x 32 where needed; x / 127.5 - 1"
    widths = {"features": FEATURES, "spatial": SPATIAL_CHANNELS * 8 * 8}
    prepare = staticmethod(prepare)
    title = "judge shapes-net"
    metadata_path = METADATA_PATH
    case_kind = "held-out scenes misread"

    def network(self) -> ShapesNet:
        """Return the network with random weights."""
        return ShapesNet()


PLUGIN = ShapesNetJudge()
