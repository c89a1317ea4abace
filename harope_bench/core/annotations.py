"""What a judge is asked about one image, and what it answers: JSON values by role. Rules read these
alone, so they run without a network.

| role | asked | answered |
|---|---|---|
| `detector`, `detector-2d` | `Names`: what may be in the image | `Sighting`: what was found |
| `colours` | `Objects`: found things to be named a colour | `Colours`: of each, a share for each colour |
| `vqa` | `Questions` | `Answers`: the text of each, and the share of yes where the judge has one |
| `depth` | `Boxes` | `Depths`: mean nearness in each |
| `similarity` | `Texts` | `Cosines` of image and text |

A protocol that has two detectors of its own (T2I-CompBench's 2D score) calls the second
`detector-2d`.
Pixels count from 0 at the top left, x to the right; a box is (x0, y0, x1, y1) with x1 and y1 one
past the last pixel.
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
    """A mask as COCO's uncompressed run lengths: column by column, zeros first. size is (height,
    width).
    """

    size: tuple[int, int]
    counts: tuple[int, ...]


class DetectionQuery(Record):
    """What may be in the image; a detector of a closed set finds its own classes whatever is
    asked.
    """

    names: tuple[str, ...] = ()


class Detection(Record):
    """One thing found: its class, how sure (0 to 1), where."""

    label: str
    score: float = Field(ge=0, le=1)
    box: Box
    mask: Mask | None = None


class DetectionAnnotation(Record):
    """Everything a detector found in an image of that (width, height), the surest first."""

    size: tuple[int, int]
    detections: tuple[Detection, ...]


class ColourObject(Record):
    """A found thing whose colour is asked: its class name, box and mask."""

    name: str
    box: Box
    mask: Mask | None = None


class ColourQuery(Record):
    """Things whose colours are asked, out of these candidates."""

    objects: tuple[ColourObject, ...]
    candidates: tuple[str, ...]


class ColourAnnotation(Record):
    """Of each object, the share of each candidate in the order asked; they sum to 1."""

    probabilities: tuple[tuple[float, ...], ...]


class VqaQuery(Record):
    """Questions in words."""

    questions: tuple[str, ...]


class VqaAnswer(Record):
    """One answer: its text, and the share of yes against no where the judge has one."""

    text: str
    yes_probability: float | None = Field(default=None, ge=0, le=1)


class VqaAnnotation(Record):
    """An answer to each question, in order."""

    answers: tuple[VqaAnswer, ...]


class DepthQuery(Record):
    """Places whose depth is asked."""

    boxes: tuple[Box, ...]


class BoxDepth(Record):
    """Mean nearness (larger is nearer, 0 to 255) in a box, and in the box with x and y exchanged;
    None where that holds no pixel.
    """

    mean: float | None
    transposed_mean: float | None


class DepthAnnotation(Record):
    """The depth of each box, in order."""

    depths: tuple[BoxDepth, ...]


class SimilarityQuery(Record):
    """Texts an image is compared with."""

    texts: tuple[str, ...]


class SimilarityAnnotation(Record):
    """Cosine of image and each text, -1 to 1."""

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
    """Return whether an answer has as many parts as were asked for; names may be answered with any
    number of detections.
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
    """Run lengths of a mask (H, W) bool."""
    flat = np.asarray(mask, dtype=bool).ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(np.int8)))
    ends = np.concatenate([edges, [flat.size]]) if not flat.size or not flat[-1] else edges
    counts = np.diff(np.concatenate([[0], ends]))
    return Mask(size=(mask.shape[0], mask.shape[1]), counts=tuple(int(c) for c in counts))


def decode_mask(mask: Mask) -> np.ndarray:
    """The mask (H, W) bool; ShapeError if its runs do not fill it."""
    height, width = mask.size
    if min(mask.counts, default=0) < 0 or sum(mask.counts) != height * width:
        raise ShapeError(
            f"a mask of {height}x{width} has runs of {sum(mask.counts)} pixels; ask the detector"
            " again"
        )
    flat = np.zeros(height * width, dtype=bool)
    ends = list(accumulate(mask.counts))
    for start, stop in zip(
        ends[0::2], ends[1::2], strict=False
    ):  # a last run of background has no partner
        flat[start:stop] = True
    return flat.reshape((height, width), order="F")
