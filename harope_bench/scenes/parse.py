"""Reads a drawn scene back: which shapes of which colours lie where. Exact on rendered scenes, cautious on anything else.

Pixels that differ from the ground are grouped by colour and by touch; a group is the shape whose ideal silhouette, drawn into the
group's own box, it overlaps most. The score of a detection is that overlap (intersection over union), so a smear scores low.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from harope_bench.scenes.draw import PAINT, inside
from harope_bench.scenes.grammar import COLOURS, SHAPES

LEVEL = 32  # all pictures are read at this side or above
NEAR = 90.0  # RGB distance within which a pixel has a colour
LEAST = 0.008  # share of the picture that a thing covers at least
TOUCH = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True, eq=False)
class Detection:
    """One thing: shape, colour, score in [0, 1], box (x0, y0, x1, y1) in pixels, ends exclusive, and mask (H, W) bool."""

    label: str
    colour: str
    score: float
    box: tuple[int, int, int, int]
    mask: np.ndarray


def parse(image: np.ndarray, least: float = 0.0) -> list[Detection]:
    """Things in an image (H, W, 3) uint8, the surest first; those below `least` are left out. Garbage gives few or low scores."""
    pixels = image.astype(np.float64)
    found = [_read(mask, colour) for colour, masks in _groups(pixels) for mask in masks]
    return sorted((one for one in found if one.score >= least), key=lambda one: (-one.score, one.box))


def _groups(pixels: np.ndarray) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Masks of connected pixels of each colour, those large enough."""
    ground = np.median(pixels.reshape(-1, 3), axis=0)
    paints = np.array([PAINT[colour] for colour in COLOURS], dtype=np.float64)
    share = _mixed(pixels, ground, paints)  # (colours, H, W)
    best = share.argmax(0)
    inked = share.max(0) >= 0.5
    for index, colour in enumerate(COLOURS):
        labels, count = ndimage.label(inked & (best == index), TOUCH)
        masks = [labels == i for i in range(1, count + 1)]
        yield colour, [mask for mask in masks if mask.sum() >= LEAST * mask.size]


def _mixed(pixels: np.ndarray, ground: np.ndarray, paints: np.ndarray) -> np.ndarray:
    """How much of each paint a pixel holds, as a mixture of it and the ground; 0 where it is no such mixture. (colours, H, W)"""
    shares = []
    for paint in paints:
        way = paint - ground
        along = ((pixels - ground) @ way) / (way @ way)
        off = np.linalg.norm(pixels - ground - along[..., None] * way, axis=-1)
        shares.append(np.where(off <= NEAR * 0.6, along - off / NEAR * 0.5, 0.0))
    return np.stack(shares)


def _read(mask: np.ndarray, colour: str) -> Detection:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    inner = mask[box[1] : box[3], box[0] : box[2]]
    overlaps = [_overlap(inner, _silhouette(shape, *inner.shape)) for shape in SHAPES]
    best = int(np.argmax(overlaps))
    return Detection(SHAPES[best], colour, float(overlaps[best]), box, mask)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@lru_cache(maxsize=4096)
def _silhouette(shape: str, height: int, width: int) -> np.ndarray:
    """The shape drawn to fill a box."""
    reach = 0.9 if shape == "square" else 1.0
    v = (2 * np.arange(height) + 1 - height) / height * reach
    u = (2 * np.arange(width) + 1 - width) / width * reach
    return inside(shape, u[None, :], v[:, None])
