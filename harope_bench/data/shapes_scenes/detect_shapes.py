"""Reads a drawn scene back: which shapes of which colours lie where. Exact on rendered scenes,
cautious on anything else.

Pixels that differ from the ground are grouped by colour and by touch; a group is the shape whose
ideal silhouette, drawn into the
group's own box, it overlaps most. The score follows that overlap (intersection over union): 0.5 at
0.6, 0.9 at 0.72, so a smear scores low
and a clean shape passes the threshold of GenEval's counting.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from harope_bench.data.shapes_scenes.scene_images import COLOUR_RGB, shape_mask
from harope_bench.data.shapes_scenes.words import COLOURS, SHAPES

# RGB distance from the line between ground and paint within which a pixel is a mixture of the two
COLOUR_TOLERANCE = 54.0
MIN_SIDE = 64  # smaller pictures are read enlarged to this side at least
MAX_GREY_RANGE = 60.0  # largest difference between channels of ground, noise included
MAX_BACKGROUND_LEVEL = 150.0  # ground is darker than this, white paint brighter
OVERLAP_OF_HALF_SCORE = 0.6  # overlap at which a detection scores 0.5
SCORE_SLOPE = 18.0
MAX_ASPECT_RATIO = 1.2  # a box this much longer than wide is still a square's
MIN_SPLIT_GAIN = 0.15  # overlap that two halves must have more than the whole
MIN_AREA_FRACTION = (
    0.025  # share of the picture that a thing covers at least; the smallest drawn one covers 0.055
)
CONNECTIVITY = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True, eq=False)
class ShapeDetection:
    """One thing: shape, colour, score in [0, 1], box (x0, y0, x1, y1) in pixels, ends exclusive,
    and mask (H, W) bool.
    """

    label: str
    colour: str
    score: float
    box: tuple[int, int, int, int]
    mask: np.ndarray


def detect_shapes(image: np.ndarray, min_score: float = 0.0) -> list[ShapeDetection]:
    """Things in an image (H, W, 3) uint8, the surest first; those below `least` are left out.
    Garbage gives few or low scores.
    """
    times = max(1, -(-MIN_SIDE // min(image.shape[:2])))
    pixels = ndimage.zoom(
        image.astype(np.float64), (times, times, 1), order=1, mode="nearest", grid_mode=True
    )
    found = [
        _detect_group(part, colour, times)
        for colour, masks in _colour_groups(pixels)
        for mask in masks
        for part in _split_touching(mask)
    ]
    return sorted(
        (one for one in found if one.score >= min_score), key=lambda one: (-one.score, one.box)
    )


def _colour_groups(pixels: np.ndarray) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Masks of connected pixels of each colour, those large enough."""
    ground = _background_colour(pixels)
    paints = np.array([COLOUR_RGB[colour] for colour in COLOURS], dtype=np.float64)
    share = _colour_fractions(pixels, ground, paints)  # (colours, H, W)
    best = share.argmax(0)
    inked = share.max(0) >= 0.5
    for index, colour in enumerate(COLOURS):
        labels, count = ndimage.label(inked & (best == index), CONNECTIVITY)
        masks = [labels == i for i in range(1, count + 1)]
        yield colour, [mask for mask in masks if mask.sum() >= MIN_AREA_FRACTION * mask.size]


def _background_colour(pixels: np.ndarray) -> np.ndarray:
    """Median colour of the grey and dark pixels, since things may cover more than half; of all
    where there are hardly any such.
    """
    flat = pixels.reshape(-1, 3)
    grey = flat[(np.ptp(flat, axis=1) <= MAX_GREY_RANGE) & (flat.max(1) <= MAX_BACKGROUND_LEVEL)]
    return np.asarray(
        np.median(grey if len(grey) >= MIN_AREA_FRACTION * len(flat) else flat, axis=0)
    )


def _colour_fractions(pixels: np.ndarray, ground: np.ndarray, paints: np.ndarray) -> np.ndarray:
    """How much of each paint a pixel holds, as a mixture of it and the ground; 0 where it is no
    such mixture. (colours, H, W)
    """
    shares = []
    for paint in paints:
        way = paint - ground
        along = ((pixels - ground) @ way) / max(way @ way, 1.0)  # a picture may be all of one paint
        off = np.linalg.norm(pixels - ground - along[..., None] * way, axis=-1)
        shares.append(
            np.where(off <= COLOUR_TOLERANCE, along - 0.3 * off / COLOUR_TOLERANCE, 0.0)
        )  # of two paints on one line the nearer one
    return np.stack(shares)


def _detect_group(fine: np.ndarray, colour: str, times: int) -> ShapeDetection:
    """A group seen `times` as large, in the picture's own pixels."""
    label, overlap = _best_shape(fine)
    height, width = (side // times for side in fine.shape)
    blocks = fine.reshape(height, times, width, times)
    half = np.asarray(blocks.mean((1, 3)) >= 0.5)
    mask = half if half.any() else np.asarray(blocks.any((1, 3)))
    return ShapeDetection(
        label,
        colour,
        float(1 / (1 + np.exp(-SCORE_SLOPE * (overlap - OVERLAP_OF_HALF_SCORE)))),
        _box(mask),
        mask,
    )


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask.any(0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _best_shape(mask: np.ndarray) -> tuple[str, float]:
    """The shape that a mask overlaps most, and how much; less where its box is no square."""
    x0, y0, x1, y1 = _box(mask)
    inner = mask[y0:y1, x0:x1]
    overlaps = [_overlap(inner, _silhouette(shape, *inner.shape)) for shape in SHAPES]
    best = int(np.argmax(overlaps))
    return SHAPES[best], overlaps[best] * min(
        1.0, MAX_ASPECT_RATIO * min(inner.shape) / max(inner.shape)
    )


def _split_touching(mask: np.ndarray) -> list[np.ndarray]:
    """The mask, or its two halves where they are two things of one colour that touch: better read
    apart than as one.
    """
    x0, y0, x1, y1 = _box(mask)
    across = x1 - x0 > y1 - y0
    first, last = (x0, x1) if across else (y0, y1)
    cuts = range(first + (last - first) * 2 // 5, first + (last - first) * 3 // 5 + 1)
    halves = [_split_at(mask, cut, across) for cut in cuts]
    likely = [
        pair for pair in halves if min(half.sum() for half in pair) >= MIN_AREA_FRACTION * mask.size
    ]
    if not likely:
        return [mask]
    apart, pair = max(
        ((min(_best_shape(half)[1] for half in pair), pair) for pair in likely),
        key=lambda one: one[0],
    )
    return list(pair) if apart > _best_shape(mask)[1] + MIN_SPLIT_GAIN else [mask]


def _split_at(mask: np.ndarray, at: int, across: bool) -> tuple[np.ndarray, np.ndarray]:
    before = np.zeros_like(mask)
    before[(slice(None), slice(at)) if across else slice(at)] = True
    return mask & before, mask & ~before


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@lru_cache(maxsize=4096)
def _silhouette(shape: str, height: int, width: int) -> np.ndarray:
    """The shape drawn to fill a box."""
    reach = 0.9 if shape == "square" else 1.0
    v = (2 * np.arange(height) + 1 - height) / height * reach
    u = (2 * np.arange(width) + 1 - width) / width * reach
    return shape_mask(shape, u[None, :], v[:, None])
