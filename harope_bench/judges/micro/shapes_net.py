"""Judge shapes-net: a small convolutional network that names what a drawn scene holds, for
distances between sets of images.

Unlike shapes-vision it sees how cleanly things are drawn. Trained by `harope-bench train
shapes-net`; its held-out accuracy is in
shapes_net.toml.
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
SPATIAL = 3  # channels of the 8 x 8 map kept for sFID: 192 numbers
FACTS = Path(__file__).parent / "shapes_net.toml"


class ShapesNet(SmallNetwork):
    """Images (B, 3, 32, 32) to features (B, 64), map (B, 8, 8, 3) and a logit for each content.

    `colours` gives logits (B, 6) of features, one for each colour; training alone reads them.
    """

    def __init__(self) -> None:
        super().__init__((3, 16, 24, 32, 24), SIDE, SPATIAL, classes=len(CONTENTS))
        self.colours = nn.Linear(FEATURES, len(COLOURS), bias=False)


def prepare(images: np.ndarray) -> Tensor:
    """Return images (B, H, W, 3) uint8 as (B, 3, 32, 32) float32 in [-1, 1]."""
    return resize_to_side(torch.from_numpy(images).float().permute(0, 3, 1, 2), SIDE)


class ShapesNetJudge(MicroExtractor):
    """The plug-in."""

    preprocessing = "antialiased bilinear to 32 x 32 where needed; x / 127.5 - 1"
    widths = {"features": FEATURES, "spatial": SPATIAL * 8 * 8}
    prepare = staticmethod(prepare)
    title = "judge shapes-net"
    metadata_path = FACTS
    case_kind = "held-out scenes misread"

    def network(self) -> ShapesNet:
        """Return the network, its weights not set."""
        return ShapesNet()


PLUGIN = ShapesNetJudge()
