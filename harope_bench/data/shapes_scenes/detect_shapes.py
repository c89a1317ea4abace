"""Detection of the shapes in a rendered scene, with their colours and positions.

Pixels that differ from the background are grouped by colour into connected groups. The shape of a
group is the one whose ideal silhouette, scaled to the group's box, has the highest overlap
(intersection over union, IoU) with the group. The score is a logistic function of the overlap: 0.5
at IoU 0.6 and 0.9 at IoU 0.72. A smear therefore has a low score, and a clean shape passes the
threshold of GenEval's counting. Detection is exact on rendered scenes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from harope_bench.data.shapes_scenes.scene_images import COLOUR_RGB, shape_mask
from harope_bench.data.shapes_scenes.words import COLOURS, SHAPES

# A pixel is a mixture of background and an object's colour if its RGB distance from the line
# between the two is at most this.
COLOUR_TOLERANCE = 54.0
MIN_SIDE = 64  # smaller images are enlarged to at least this side
MAX_GREY_RANGE = 60.0  # largest difference between the channels of a background pixel, with noise
MAX_BACKGROUND_LEVEL = 150.0  # the background is darker, white objects are brighter
OVERLAP_OF_HALF_SCORE = 0.6  # IoU at which the score is 0.5
SCORE_SLOPE = 18.0
MAX_ASPECT_RATIO = 1.2  # a box with a larger ratio of its sides lowers the overlap
MIN_SPLIT_GAIN = 0.15  # by how much the IoU of both halves must exceed that of the undivided group
# Minimum fraction of the image that an object covers. The smallest rendered one covers 0.055.
MIN_AREA_FRACTION = 0.025
CONNECTIVITY = np.ones((3, 3), dtype=bool)  # diagonal neighbours are connected


@dataclass(frozen=True, eq=False)
class ShapeDetection:
    """A detected object.

    Attributes:
        label: Name of the shape.
        colour: Name of the colour.
        score: Confidence, 0 to 1.
        box: (x0, y0, x1, y1) in pixels; x1 and y1 are one past the last pixel.
        mask: Pixels of the object, (H, W) bool.
    """

    label: str
    colour: str
    score: float
    box: tuple[int, int, int, int]
    mask: np.ndarray


def detect_shapes(image: np.ndarray, min_score: float = 0.0) -> list[ShapeDetection]:
    """Return the objects in an image (H, W, 3) uint8, by descending score.

    An image that is no scene gives few or low scores.

    Args:
        min_score: Objects with a lower score are omitted.
    """
    # Enlarge a small image by a whole factor, rounded up.
    scale = max(1, -(-MIN_SIDE // min(image.shape[:2])))
    pixels = ndimage.zoom(
        image.astype(np.float64), (scale, scale, 1), order=1, mode="nearest", grid_mode=True
    )  # (scale * H, scale * W, 3)

    detections = []
    for colour, masks in _colour_groups(pixels):
        for mask in masks:
            for object_mask in _split_touching(mask):
                detection = _detect_group(object_mask, colour, scale)
                if detection.score >= min_score:
                    detections.append(detection)
    return sorted(detections, key=lambda detection: (-detection.score, detection.box))


def _colour_groups(pixels: np.ndarray) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield each colour with the masks (H, W) bool of its connected groups of sufficient size."""
    background_rgb = _background_colour(pixels)  # (3,)
    object_rgbs = np.array([COLOUR_RGB[colour] for colour in COLOURS], dtype=np.float64)
    fractions = _colour_fractions(pixels, background_rgb, object_rgbs)  # (colours, H, W)
    best_colour = fractions.argmax(0)  # (H, W)
    is_object_pixel = fractions.max(0) >= 0.5
    for index, colour in enumerate(COLOURS):
        group_numbers, n_groups = ndimage.label(
            is_object_pixel & (best_colour == index), CONNECTIVITY
        )
        masks = [group_numbers == i for i in range(1, n_groups + 1)]
        yield colour, [mask for mask in masks if mask.sum() >= MIN_AREA_FRACTION * mask.size]


def _background_colour(pixels: np.ndarray) -> np.ndarray:
    """Return the median colour (3,) of the dark grey pixels, or of all pixels if there are few.

    The median of all pixels would be wrong where objects cover more than half of the image.
    """
    rgb_rows = pixels.reshape(-1, 3)  # (H * W, 3)
    is_grey = np.ptp(rgb_rows, axis=1) <= MAX_GREY_RANGE
    is_dark = rgb_rows.max(1) <= MAX_BACKGROUND_LEVEL
    background_rows = rgb_rows[is_grey & is_dark]
    if len(background_rows) < MIN_AREA_FRACTION * len(rgb_rows):
        background_rows = rgb_rows
    return np.asarray(np.median(background_rows, axis=0))


def _colour_fractions(
    pixels: np.ndarray, background_rgb: np.ndarray, object_rgbs: np.ndarray
) -> np.ndarray:
    """Return the fraction of each object colour in each pixel, (colours, H, W).

    A pixel at an edge is a mixture of background and object colour, so it is on the line between
    the two in RGB space. The fraction is the position on the line, reduced by the distance from the
    line; 0 for a pixel that is too far from it. The reduction decides between colours on one line.
    """
    fractions = []
    for object_rgb in object_rgbs:
        direction = object_rgb - background_rgb  # (3,)
        squared_length = max(direction @ direction, 1.0)  # 0 if the object fills the image
        position = ((pixels - background_rgb) @ direction) / squared_length  # (H, W)
        nearest_rgb = position[..., None] * direction  # (H, W, 3), relative to the background
        distance = np.linalg.norm(pixels - background_rgb - nearest_rgb, axis=-1)  # (H, W)
        reduced_position = position - 0.3 * distance / COLOUR_TOLERANCE
        fractions.append(np.where(distance <= COLOUR_TOLERANCE, reduced_position, 0.0))
    return np.stack(fractions)  # (colours, H, W)


def _detect_group(mask: np.ndarray, colour: str, scale: int) -> ShapeDetection:
    """Return the detection of a group of pixels, in the pixels of the image before enlargement.

    Args:
        mask: The group in the enlarged image, (scale * H, scale * W) bool.
        scale: Factor of the enlargement.
    """
    label, overlap = _best_shape(mask)
    score = float(1 / (1 + np.exp(-SCORE_SLOPE * (overlap - OVERLAP_OF_HALF_SCORE))))

    # A pixel of the image belongs to the object if at least half of its block does.
    height, width = (side // scale for side in mask.shape)
    blocks = mask.reshape(height, scale, width, scale)  # (H, scale, W, scale)
    image_mask = np.asarray(blocks.mean((1, 3)) >= 0.5)  # (H, W)
    if not image_mask.any():
        image_mask = np.asarray(blocks.any((1, 3)))  # (H, W)
    return ShapeDetection(label, colour, score, _box(image_mask), image_mask)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return the bounding box (x0, y0, x1, y1) of a mask."""
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask.any(0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _best_shape(mask: np.ndarray) -> tuple[str, float]:
    """Return the shape with the highest overlap with a mask, and the overlap.

    The overlap is reduced if the box of the mask is not nearly a square.
    """
    x0, y0, x1, y1 = _box(mask)
    box_mask = mask[y0:y1, x0:x1]  # (box height, box width)
    overlaps = [_overlap(box_mask, _silhouette(shape, *box_mask.shape)) for shape in SHAPES]
    best_index = int(np.argmax(overlaps))
    squareness = min(1.0, MAX_ASPECT_RATIO * min(box_mask.shape) / max(box_mask.shape))
    return SHAPES[best_index], overlaps[best_index] * squareness


def _split_touching(mask: np.ndarray) -> list[np.ndarray]:
    """Return the masks of two touching objects of one colour, or the undivided mask.

    The mask is cut across its longer side, near the middle. It is divided if both halves overlap a
    shape clearly better than the undivided mask does.
    """
    x0, y0, x1, y1 = _box(mask)
    is_wide = x1 - x0 > y1 - y0
    start, end = (x0, x1) if is_wide else (y0, y1)
    length = end - start
    cuts = range(start + length * 2 // 5, start + length * 3 // 5 + 1)

    # The overlap of a pair is that of its worse half.
    best_pair = None
    best_overlap = -1.0
    for cut in cuts:
        halves = _split_at(mask, cut, is_wide)
        if min(half.sum() for half in halves) < MIN_AREA_FRACTION * mask.size:
            continue
        overlap = min(_best_shape(half)[1] for half in halves)
        if overlap > best_overlap:
            best_pair = halves
            best_overlap = overlap

    if best_pair is not None and best_overlap > _best_shape(mask)[1] + MIN_SPLIT_GAIN:
        return list(best_pair)
    return [mask]


def _split_at(mask: np.ndarray, position: int, is_wide: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts of a mask before and after a column (is_wide) or a row."""
    is_before = np.zeros_like(mask)
    if is_wide:
        is_before[:, :position] = True
    else:
        is_before[:position] = True
    return mask & is_before, mask & ~is_before


def _overlap(mask_a: np.ndarray, mask_b: np.ndarray) -> float:
    """Return the intersection over union of two masks."""
    return float((mask_a & mask_b).sum() / (mask_a | mask_b).sum())


@lru_cache(maxsize=4096)
def _silhouette(shape: str, height: int, width: int) -> np.ndarray:
    """Return the mask (height, width) bool of a shape that fills its box."""
    half_side = 0.9 if shape == "square" else 1.0  # of the shape, in the coordinates of shape_mask
    v = (2 * np.arange(height) + 1 - height) / height * half_side  # (height,)
    u = (2 * np.arange(width) + 1 - width) / width * half_side  # (width,)
    return shape_mask(shape, u[None, :], v[:, None])  # (height, width)
