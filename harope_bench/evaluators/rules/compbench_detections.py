"""Detections as T2I-CompBench's rules see them: in a frame of 479 pixels, above a score of 0.5,
known by their label's text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from harope_bench.core.annotations import Box, DetectionAnnotation
from harope_bench.evaluators.rules.compbench_quirks import Rules

# pixels: the shorter side, and the most that the longer one may have
FRAME_SHORT_SIDE = 479
FRAME_LONG_SIDE = 480
MIN_SCORE = 0.5  # detections must be above
PERSON_WORDS = dict.fromkeys(("girl", "boy", "man", "woman"), "person")


class FramedDetection(NamedTuple):
    """One detection: its label's whole text, how sure (0 to 1), its box in the frame, and its place
    in the image's own pixels.
    """

    label: str
    score: float
    box: Box
    image_box: Box


def framed_detections(sighting: DetectionAnnotation) -> list[FramedDetection]:
    """The detections that count, the surest first, in the frame."""
    across, down = frame_scales(sighting.size)
    factors = (across, down, across, down)
    seen = [d for d in sighting.detections if d.score > MIN_SCORE]
    found = [FramedDetection(d.label, d.score, _scale_box(d.box, factors), d.box) for d in seen]
    return sorted(found, key=lambda thing: -thing.score)


def _scale_box(box: Box, factors: Box) -> Box:
    return (box[0] * factors[0], box[1] * factors[1], box[2] * factors[2], box[3] * factors[3])


def frame_scales(size: tuple[int, int]) -> tuple[float, float]:
    """Frame pixels for each image pixel, across and down, of an image of that (width, height);
    sides are cut to whole pixels.

    Source: UniDet_eval/experts/model_bank.py, torchvision's Resize with a longest side.
    """
    short = min(size)
    long = max(size)
    frame = (FRAME_SHORT_SIDE, int(FRAME_SHORT_SIDE * long / short))
    if frame[1] > FRAME_LONG_SIDE:
        frame = (int(FRAME_LONG_SIDE * FRAME_SHORT_SIDE / frame[1]), FRAME_LONG_SIDE)
    width, height = frame if size[0] <= size[1] else frame[::-1]
    return width / size[0], height / size[1]


def box_iou(one: Box, other: Box) -> float | None:
    """Intersection over union; None where neither box has an area."""
    across = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    down = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    both = across * down
    union = box_area(one) + box_area(other) - both
    return both / union if union else None


def box_area(box: Box) -> float:
    """Of a box, in square pixels."""
    return (box[2] - box[0]) * (box[3] - box[1])


def match_names(name: str, labels: Sequence[str]) -> list[int]:
    """Places of the labels that mean this name, as the corrected rules read labels.

    A label is a list of names between commas or slashes. Labels of which the name is one; if there
    are none, those that hold it as
    whole words (`mobile phone` for phone).
    """
    own = [k for k, label in enumerate(labels) if name in label_names(label)]
    return own or [
        k
        for k, label in enumerate(labels)
        if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", label.lower())
    ]


def label_names(label: str) -> list[str]:
    """The names in a label."""
    return [part.strip() for part in re.split("[,/]", label.lower())]


def match_whole_label(name: str, labels: Sequence[str], rules: Rules) -> list[int]:
    """Places of the labels that mean this name in 2D."""
    return (
        match_names(name, labels)
        if rules == "corrected"
        else [k for k, label in enumerate(labels) if label == name]
    )


def match_label_part(name: str, labels: Sequence[str], rules: Rules) -> list[int]:
    """Places of the labels that mean this name in 3D and numeracy."""
    return (
        match_names(name, labels)
        if rules == "corrected"
        else [k for k, label in enumerate(labels) if name in label]
    )


def object_pairs(
    first: Sequence[int], second: Sequence[int]
) -> list[tuple[int | None, int | None]]:
    """Which detections may be the two objects under the corrected rules: the surest of each, never
    the same one twice.

    Two names with the same detections give both orders.
    """
    if not first or not second:
        return [(first[0] if first else None, second[0] if second else None)]
    if list(first) == list(second):
        return (
            [(first[0], first[1]), (first[1], first[0])] if len(first) > 1 else [(first[0], None)]
        )
    if first[0] != second[0]:
        return [(first[0], second[0])]
    return [(first[0], second[1])] if len(second) > 1 else [(first[1], second[0])]
