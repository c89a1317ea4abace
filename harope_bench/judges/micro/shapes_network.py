"""The network of judge shapes-net. It needs torch."""

from __future__ import annotations

from torch import nn

from harope_bench.data.shapes_scenes.contents import CONTENTS
from harope_bench.data.shapes_scenes.words import COLOURS
from harope_bench.judges.micro.network_sizes import FEATURES, SHAPES_SIDE, SHAPES_SPATIAL_CHANNELS
from harope_bench.judges.micro.small_network import SmallNetwork


class ShapesNet(SmallNetwork):
    """Network from images (B, 3, 32, 32) to features (B, 64), map (B, 8, 8, 3) and logits.

    There is a logit for each content. `colours` maps features to logits (B, 6), one for each
    colour; only training uses it.
    """

    def __init__(self) -> None:
        super().__init__(
            (3, 16, 24, 32, 24), SHAPES_SIDE, SHAPES_SPATIAL_CHANNELS, classes=len(CONTENTS)
        )
        self.colours = nn.Linear(FEATURES, len(COLOURS), bias=False)
