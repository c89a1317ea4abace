"""Detections in the form in which T2I-CompBench's rules read them.

The scripts resize images to a frame whose shorter side has 479 pixels. Detections count above a
score of 0.5 and are matched by the text of their labels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from harope_bench.core.annotations import Box, DetectionAnnotation
from harope_bench.evaluators.rules.compbench_quirks import Rules

# pixels: the shorter side of the frame, and the maximum of the longer side
FRAME_SHORT_SIDE = 479
FRAME_LONG_SIDE = 480
MIN_SCORE = 0.5  # detections need a higher score
PERSON_WORDS = dict.fromkeys(("girl", "boy", "man", "woman"), "person")


class FramedDetection(NamedTuple):
    """One detection in the frame.

    Attributes:
        label: the full text of its label.
        score: confidence, 0 to 1.
        box: (x0, y0, x1, y1) in pixels of the frame.
        image_box: (x0, y0, x1, y1) in pixels of the image.
    """

    label: str
    score: float
    box: Box
    image_box: Box


def framed_detections(annotation: DetectionAnnotation) -> list[FramedDetection]:
    """Return the detections that count, in the frame, the highest score first."""
    x_scale, y_scale = frame_scales(annotation.size)
    factors = (x_scale, y_scale, x_scale, y_scale)
    detections = [
        FramedDetection(
            detection.label, detection.score, _scale_box(detection.box, factors), detection.box
        )
        for detection in annotation.detections
        if detection.score > MIN_SCORE
    ]
    return sorted(detections, key=lambda detection: -detection.score)


def _scale_box(box: Box, factors: Box) -> Box:
    return (box[0] * factors[0], box[1] * factors[1], box[2] * factors[2], box[3] * factors[3])


def frame_scales(size: tuple[int, int]) -> tuple[float, float]:
    """Return the numbers of frame pixels per image pixel, horizontally and vertically.

    Args:
        size: (width, height) of the image. The frame's sides are truncated to integers.

    Source: UniDet_eval/experts/model_bank.py, torchvision's Resize with a maximum size.
    """
    short_side = min(size)
    long_side = max(size)
    frame = (FRAME_SHORT_SIDE, int(FRAME_SHORT_SIDE * long_side / short_side))
    if frame[1] > FRAME_LONG_SIDE:
        frame = (int(FRAME_LONG_SIDE * FRAME_SHORT_SIDE / frame[1]), FRAME_LONG_SIDE)
    width, height = frame if size[0] <= size[1] else frame[::-1]
    return width / size[0], height / size[1]


def box_iou(first_box: Box, second_box: Box) -> float | None:
    """Return the intersection over union of two boxes; None if neither has an area."""
    width = max(0.0, min(first_box[2], second_box[2]) - max(first_box[0], second_box[0]))
    height = max(0.0, min(first_box[3], second_box[3]) - max(first_box[1], second_box[1]))
    intersection = width * height
    union = box_area(first_box) + box_area(second_box) - intersection
    return intersection / union if union else None


def box_area(box: Box) -> float:
    """Return the area of a box in square pixels."""
    return (box[2] - box[0]) * (box[3] - box[1])


def match_names(name: str, labels: Sequence[str]) -> list[int]:
    """Return the indices of the labels that denote an object, as the corrected rules read labels.

    A label is a list of names between commas or slashes. A label matches if one of its names is
    equal. Without such a label, those match that contain the name as whole words (`mobile phone`
    for phone).
    """
    equal_indices = [k for k, label in enumerate(labels) if name in label_names(label)]
    if equal_indices:
        return equal_indices
    pattern = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
    return [k for k, label in enumerate(labels) if pattern.search(label.lower())]


def label_names(label: str) -> list[str]:
    """Return the names in a label, in lower case."""
    return [part.strip() for part in re.split("[,/]", label.lower())]


def match_whole_label(name: str, labels: Sequence[str], rules: Rules) -> list[int]:
    """Return the indices of the labels that denote an object in the 2D rule."""
    if rules == "corrected":
        return match_names(name, labels)
    return [k for k, label in enumerate(labels) if label == name]


def match_label_part(name: str, labels: Sequence[str], rules: Rules) -> list[int]:
    """Return the indices of the labels that denote an object in the 3D and numeracy rules."""
    if rules == "corrected":
        return match_names(name, labels)
    return [k for k, label in enumerate(labels) if name in label]


def object_pairs(
    first_indices: Sequence[int], second_indices: Sequence[int]
) -> list[tuple[int | None, int | None]]:
    """Return the pairs of detections that the corrected rules try as the two objects.

    Each object is its detection with the highest score, and the two are never the same detection.
    Two names that match the same detections give both orders.

    Args:
        first_indices: detections that match the first object, the highest score first.
        second_indices: detections that match the second object, likewise.
    """
    if not first_indices or not second_indices:
        first_index = first_indices[0] if first_indices else None
        second_index = second_indices[0] if second_indices else None
        return [(first_index, second_index)]

    if list(first_indices) == list(second_indices):
        if len(first_indices) == 1:
            return [(first_indices[0], None)]
        return [(first_indices[0], first_indices[1]), (first_indices[1], first_indices[0])]

    if first_indices[0] != second_indices[0]:
        return [(first_indices[0], second_indices[0])]
    if len(second_indices) > 1:
        return [(first_indices[0], second_indices[1])]
    return [(first_indices[1], second_indices[0])]
