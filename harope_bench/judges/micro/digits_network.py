"""The network of judge digits-net. It needs torch."""

from __future__ import annotations

from harope_bench.judges.micro.network_sizes import DIGITS_SIDE, DIGITS_SPATIAL_CHANNELS
from harope_bench.judges.micro.small_network import SmallNetwork


class DigitsNet(SmallNetwork):
    """Network from images (B, 1, 28, 28) to features (B, 64), map (B, 7, 7, 4) and ten logits."""

    def __init__(self) -> None:
        super().__init__((1, 16, 16, 32, 32), DIGITS_SIDE, DIGITS_SPATIAL_CHANNELS, classes=10)
