"""Cases that an opened judge must pass before it is believed, and the checks that several detectors share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from harope_bench.judges._instances import CLASSES, Prepared
from harope_bench.perceptions import Sighting

SIDE = 64  # pixels of the images that are shown


class Case(NamedTuple):
    """A check by name: given the opened judge it says what is wrong, or None."""

    name: str
    check: Callable[[Any], str | None]


def red_image() -> np.ndarray:
    """Pure red, (64, 64, 3) uint8."""
    image = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    image[..., 0] = 255
    return image


def red_comes_first(tensor: Tensor) -> str | None:
    """Whether a red image (1, 3, H, W), as prepared, is brightest in its first plane and dark in the others."""
    top, left = tensor.shape[-2] // 2, tensor.shape[-1] // 2
    red, green, blue = tensor[0, :, top, left].tolist()
    return (
        None if red > 0 > max(green, blue) else f"a red image reaches the network as ({red:.2f}, {green:.2f}, {blue:.2f}), wanted red first"
    )


def box_is_exclusive(instances: Callable[[Tensor, Tensor, Prepared], Sighting]) -> str | None:
    """Whether logits of one rectangle become its label, its box with far edges one past the last pixel, and its mask."""
    classes, masks = torch.full((2, len(CLASSES) + 1), -10.0), torch.full((2, 8, 8), -10.0)
    classes[0, 3], classes[1, -1], masks[0, 2:5, 1:7] = 10.0, 10.0, 10.0  # rows 8 to 19, columns 4 to 27 of 32
    found = instances(classes, masks, Prepared(torch.zeros(1, 3, 32, 32), (32, 32), (32, 32))).found
    told = [(d.label, d.box, d.mask is not None) for d in found]
    wanted = [(CLASSES[3], (4.0, 8.0, 28.0, 20.0), True)]
    return None if told == wanted else f"a rectangle is told as {told}, wanted {wanted}"
