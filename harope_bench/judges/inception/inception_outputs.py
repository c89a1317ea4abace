"""Outputs of Inception. Reading them needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

SPATIAL_CHANNELS = 7  # first channels of Mixed_6d.branch1x1: 17 x 17 x 7 = 2023 numbers


class InceptionOutputs(NamedTuple):
    """Outputs of one pass, float32.

    features: pool_3 (B, 2048). spatial: map (B, 7, 17, 17) after its ReLU. logits: without bias
    (B, 1008).
    """

    features: Tensor
    spatial: Tensor
    logits: Tensor
