"""Queries to annotators and their annotations, by role. Evaluators read only these records, so they
run without a network.

| role | query | annotation |
|---|---|---|
| `detector`, `detector-2d` | `DetectionQuery`: class names | `DetectionAnnotation`: detections |
| `colours` | `ColourQuery`: objects, colours | `ColourAnnotation`: probability of each colour |
| `vqa` | `VqaQuery`: questions | `VqaAnnotation`: answers, probability of yes if available |
| `depth` | `DepthQuery`: boxes | `DepthAnnotation`: mean nearness in each box |
| `similarity` | `SimilarityQuery`: texts | `SimilarityAnnotation`: cosine of image and text |

A protocol with two detectors (T2I-CompBench's 2D score) calls the second one `detector-2d`.

Pixel coordinates start at 0 in the top left corner, x to the right. A box is (x0, y0, x1, y1),
where x1 and y1 are one past the last pixel.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Literal

import numpy as np
from pydantic import Field

from harope_bench.core.errors import ShapeError
from harope_bench.core.record_base import Record

Role = Literal["detector", "detector-2d", "colours", "vqa", "depth", "similarity"]
Box = tuple[float, float, float, float]


class Mask(Record):
    """A mask in COCO's uncompressed run-length encoding: column by column, background first.

    `size` is (height, width). `counts` are the lengths of the runs in pixels.
    """

    size: tuple[int, int]
    counts: tuple[int, ...]


class DetectionQuery(Record):
    """Class names to detect. A detector with fixed classes ignores them and reports its classes."""

    names: tuple[str, ...] = ()


class Detection(Record):
    """One detected object: class, confidence (0 to 1), box and mask."""

    label: str
    score: float = Field(ge=0, le=1)
    box: Box
    mask: Mask | None = None


class DetectionAnnotation(Record):
    """All detections in an image of `size` (width, height), by descending confidence."""

    size: tuple[int, int]
    detections: tuple[Detection, ...]


class ColourObject(Record):
    """A detected object whose colour is queried: class name, box and mask."""

    name: str
    box: Box
    mask: Mask | None = None


class ColourQuery(Record):
    """Objects whose colours are queried, and the candidate colours."""

    objects: tuple[ColourObject, ...]
    candidates: tuple[str, ...]


class ColourAnnotation(Record):
    """The probability of each candidate colour, by object, in the query's order. Rows sum to 1."""

    probabilities: tuple[tuple[float, ...], ...]


class VqaQuery(Record):
    """Questions about the image, as text."""

    questions: tuple[str, ...]


class VqaAnswer(Record):
    """One answer: its text, and the probability of yes against no if the annotator reports it."""

    text: str
    yes_probability: float | None = Field(default=None, ge=0, le=1)


class VqaAnnotation(Record):
    """The answer to each question, in the query's order."""

    answers: tuple[VqaAnswer, ...]


class DepthQuery(Record):
    """Boxes whose depth is queried."""

    boxes: tuple[Box, ...]


class BoxDepth(Record):
    """Mean nearness (0 to 255, larger is nearer) in a box, and in the box with x and y exchanged.

    A mean is None if the box contains no pixel.
    """

    mean: float | None
    transposed_mean: float | None


class DepthAnnotation(Record):
    """The depth of each box, in the query's order."""

    depths: tuple[BoxDepth, ...]


class SimilarityQuery(Record):
    """Texts that are compared with the image."""

    texts: tuple[str, ...]


class SimilarityAnnotation(Record):
    """The cosine similarity of the image and each text, -1 to 1."""

    cosines: tuple[float, ...]


Query = DetectionQuery | ColourQuery | VqaQuery | DepthQuery | SimilarityQuery
Annotation = (
    DetectionAnnotation | ColourAnnotation | VqaAnnotation | DepthAnnotation | SimilarityAnnotation
)
QUERY_TYPES: dict[str, type[Query]] = {
    "detector": DetectionQuery,
    "detector-2d": DetectionQuery,
    "colours": ColourQuery,
    "vqa": VqaQuery,
    "depth": DepthQuery,
    "similarity": SimilarityQuery,
}
ANNOTATION_TYPES: dict[str, type[Annotation]] = {
    "detector": DetectionAnnotation,
    "detector-2d": DetectionAnnotation,
    "colours": ColourAnnotation,
    "vqa": VqaAnnotation,
    "depth": DepthAnnotation,
    "similarity": SimilarityAnnotation,
}


def is_complete_annotation(query: Query, annotation: Annotation) -> bool:
    """Return whether an annotation has one entry for each entry of its query.

    A detection query may have any number of detections.
    """
    match query, annotation:
        case ColourQuery(), ColourAnnotation():
            return len(query.objects) == len(annotation.probabilities)
        case VqaQuery(), VqaAnnotation():
            return len(query.questions) == len(annotation.answers)
        case DepthQuery(), DepthAnnotation():
            return len(query.boxes) == len(annotation.depths)
        case SimilarityQuery(), SimilarityAnnotation():
            return len(query.texts) == len(annotation.cosines)
        case _:
            return isinstance(query, DetectionQuery)


def encode_mask(mask: np.ndarray) -> Mask:
    """Return the run lengths of a mask (H, W) bool."""
    pixels = np.asarray(mask, dtype=bool).ravel(order="F")  # (H * W,), column by column

    # A run ends where the value changes; the background after the last run ends with the image.
    padded_pixels = np.concatenate([[False], pixels, [False]]).astype(np.int8)  # (H * W + 2,)
    ends = np.flatnonzero(np.diff(padded_pixels))
    ends_in_background = not pixels.size or not pixels[-1]
    if ends_in_background:
        ends = np.concatenate([ends, [pixels.size]])

    counts = np.diff(np.concatenate([[0], ends]))
    return Mask(size=(mask.shape[0], mask.shape[1]), counts=tuple(int(c) for c in counts))


def decode_mask(mask: Mask) -> np.ndarray:
    """Return the mask as an array (H, W) bool.

    Raises:
        ShapeError: The runs do not add up to the size of the mask.
    """
    height, width = mask.size
    if min(mask.counts, default=0) < 0 or sum(mask.counts) != height * width:
        raise ShapeError(
            f"a mask of {height}x{width} has runs of {sum(mask.counts)} pixels; ask the detector"
            " again"
        )
    pixels = np.zeros(height * width, dtype=bool)
    ends = list(accumulate(mask.counts))
    # Runs of background and of object alternate. Where the last run is background, it has no
    # successor, so the two lists differ by one and strict=True would reject a valid mask.
    for start, stop in zip(ends[0::2], ends[1::2], strict=False):
        pixels[start:stop] = True
    return pixels.reshape((height, width), order="F")  # (H, W)
