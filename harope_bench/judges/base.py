"""The contract of a judge: a network that looks at images and says what it saw."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np


class Opened(Protocol):
    """A judge with its weights in place.

    It may also have `notes`, lines that a result must say of how it looked, and `way`, facts of how it computes that may move last bits:
    `path` (plain, folded, compiled) and `tf32`; both are read after it has looked.
    """

    weights_sha256: str

    def observe(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Named float32 arrays of one row an image, for images (B, H, W, 3) uint8."""


class Judge(Protocol):
    """What a judge module's PLUGIN offers. `arrays` names what `observe` returns."""

    version: int
    judge_class: Literal["official", "equivalent", "substitute", "micro"]
    preprocessing: str
    arrays: tuple[str, ...]
    batch: int

    def weights_sha256(self) -> str:
        """Recorded hash of its weights, without opening them."""

    def open(self, device: str) -> Opened:
        """Loads the weights (hash checked first); WeightsError if they are missing or altered."""
