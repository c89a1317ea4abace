"""Sizes of the small networks, and their outputs. Reading them needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

FEATURES = 64
DIGITS_SIDE = 28
DIGITS_SPATIAL_CHANNELS = 4  # channels of the 7 x 7 map for sFID: 196 numbers
SHAPES_SIDE = 32
SHAPES_SPATIAL_CHANNELS = 3  # channels of the 8 x 8 map for sFID: 192 numbers


class MicroOutputs(NamedTuple):
    """Outputs of one pass.

    features: (B, 64). spatial: map (B, side / 4, side / 4, spatial channels). logits: (B, classes).
    """

    features: Tensor
    spatial: Tensor
    logits: Tensor
