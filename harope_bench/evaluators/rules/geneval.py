"""GenEval's rule: whether an image's detections are what a prompt asks for. No network.

Scores and boxes are compared in float32, as the official script does.

Source: djghosh13/geneval af4902f2, evaluation/evaluate_images.py: `evaluate_image`, `evaluate`,
`relative_position`, `compute_iou`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from harope_bench.core.annotations import Box, Detection
from harope_bench.core.record_base import Record

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COUNTING = "counting"
MIN_OFFSET = 1e-3  # pixels of offset below which no relation holds
MIN_DIRECTION = 0.5  # fraction of the offset's length that an axis needs for a relation

# What the official script does that a reader would not expect, by id.
QUIRKS: Mapping[str, str] = {
    "strict-threshold": "a score equal to the threshold (0.3; 0.9 for counting) does not count",
    "counting-threshold": (
        "counting prompts use 0.9, all others 0.3, for every class of the image"
    ),
    "top-16": "at most the 16 detections of a class with the highest scores count",
    "no-nms": (
        "overlapping boxes of one class all count, since max_overlap is 1; if it is set, boxes"
        " are measured one pixel larger"
    ),
    "tie-order": "of detections of one class with equal scores the later one comes first",
    "surest-only": (
        "colour and position are checked for the `count` detections with the highest scores alone"
    ),
    "shared-things": (
        "clauses do not use detections up: one detection may satisfy two clauses, and one mask"
        " found under two classes counts for both"
    ),
    "extras-ignored": (
        "objects beyond the prompt cost nothing except in counting, where count + 1 of the class"
        " is wrong"
    ),
    "every-pair": "a position must hold for every pair of a detection and a reference",
    "dead-zone": (
        "a tenth of both full sizes is subtracted from the offset, but the direction is divided by"
        " the full offset"
    ),
    "two-relations": "on a diagonal two relations hold at once, and between they may none hold",
    "colour-ties": "of equally likely colours the first in the list wins",
    "any-task": (
        "the overall score averages whichever tasks occur, and missing images shrink a task"
        " without a warning"
    ),
}
CORRECTIONS: Mapping[str, str] = {
    "tie-order": (
        "of detections of one class with equal scores the one that the detector lists first comes"
        " first"
    )
}


class Clause(Record):
    """What a prompt asks for: `count` objects of a class, perhaps with a colour and a position.

    A position is a relation and the number of an earlier clause. Other fields are ignored.
    """

    model_config = ConfigDict(extra="ignore")

    name: str = Field(alias="class")
    count: int = Field(ge=1)
    color: str | None = None
    position: tuple[str, int] | None = None


class PromptSpec(Record):
    """A line of evaluation_metadata.jsonl. Fields that other programs add are ignored."""

    model_config = ConfigDict(extra="ignore")

    tag: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...] = ()
    prompt: str

    @model_validator(mode="after")
    def _check_positions(self) -> PromptSpec:
        """Raise ValueError if a position refers to a clause that is not an earlier one."""
        for number, clause in enumerate(self.include):
            if clause.position is not None and not 0 <= clause.position[1] < number:
                raise ValueError(
                    f"the position of clause {number} refers to clause {clause.position[1]}, which"
                    " is no earlier one"
                )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Return the class names of all clauses, without repeats."""
        return tuple(dict.fromkeys(clause.name for clause in (*self.include, *self.exclude)))


class PartialPromptSpec(Record):
    """The fields of a PromptSpec that a file of another program states."""

    model_config = ConfigDict(extra="ignore")
    prompt: str
    tag: str | None = None
    include: tuple[Clause, ...] = ()
    exclude: tuple[Clause, ...] = ()


class GenevalOptions(NamedTuple):
    """Thresholds of GenEval's evaluate_images.py, with its defaults.

    Attributes:
        threshold: score above which a detection counts.
        counting_threshold: the same for prompts of the task counting.
        max_per_class: number of detections of one class that count, the highest scores first.
        max_overlap: intersection over union at which the lower of two detections is dropped; 1
            drops none.
        dead_zone: fraction of the summed box sizes by which centres must be apart to count as left,
            right, above or below.
    """

    threshold: float = 0.3
    counting_threshold: float = 0.9
    max_per_class: int = 16
    max_overlap: float = 1.0
    dead_zone: float = 0.1


class ClauseResult(NamedTuple):
    """The result of one clause.

    Attributes:
        detections: indices of the detections for which the clause was checked.
        failure: why the clause fails; None if it holds.
    """

    detections: tuple[int, ...]
    failure: str | None


class ImageVerdict(NamedTuple):
    """Whether an image is correct, the results of its clauses, and the reasons if it is not."""

    is_correct: bool
    clauses: tuple[ClauseResult, ...]
    reasons: tuple[str, ...]


DEFAULT_OPTIONS = GenevalOptions()


def detection_threshold(tag: str, options: GenevalOptions = DEFAULT_OPTIONS) -> float:
    """Return the score above which a detection counts for prompts of this task.

    Args:
        tag: task of the prompt, such as "counting".
        options: thresholds of the official script.
    """
    return options.counting_threshold if tag == COUNTING else options.threshold


def counted_detections(
    detections: Sequence[Detection],
    tag: str,
    rules: str = "official",
    options: GenevalOptions = DEFAULT_OPTIONS,
) -> dict[str, list[int]]:
    """Return the indices of the detections that count, by class, the highest score first."""
    min_score = np.float32(detection_threshold(tag, options))
    indices_by_class: dict[str, list[int]] = {}
    for index, detection in enumerate(detections):
        if np.float32(detection.score) > min_score:
            indices_by_class.setdefault(detection.label, []).append(index)

    is_later_first = rules == "official"
    indices_of_class: dict[str, list[int]] = {}
    for name, indices in indices_by_class.items():
        sorted_indices = _sort_by_score(indices, detections, is_later_first)
        top_indices = sorted_indices[: options.max_per_class]
        indices_of_class[name] = _suppress_overlaps(top_indices, detections, options.max_overlap)
    return indices_of_class


def _sort_by_score(
    indices: Sequence[int], detections: Sequence[Detection], is_later_first: bool
) -> list[int]:
    """Return the indices by descending score.

    The official script reverses an ascending sort, which also reverses the order of equal scores.
    """

    def sort_key(index: int) -> tuple[float, int]:
        score = float(np.float32(detections[index].score))
        return -score, -index if is_later_first else index

    return sorted(indices, key=sort_key)


def _suppress_overlaps(
    indices: Sequence[int], detections: Sequence[Detection], max_overlap: float
) -> list[int]:
    """Return the indices without detections that overlap an earlier one by `max_overlap` or more.

    With 1 nothing is suppressed, not even equal boxes.
    """
    if max_overlap == 1:
        return list(indices)
    remaining_indices: list[int] = []
    for index in indices:
        box = detections[index].box
        if all(
            inclusive_box_iou(detections[earlier_index].box, box) < max_overlap
            for earlier_index in remaining_indices
        ):
            remaining_indices.append(index)
    return remaining_indices


def inclusive_box_iou(first_box: Box, second_box: Box) -> float:
    """Return the intersection over union of two boxes that include their last pixel.

    Each box (x0, y0, x1, y1) is therefore one pixel wider than x1 - x0 and one higher than
    y1 - y0. Two empty boxes give 0.
    """

    def inclusive_area(box: Sequence[float]) -> float:
        return max(box[2] - box[0] + 1, 0) * max(box[3] - box[1] + 1, 0)

    intersection = inclusive_area(
        [
            max(first_box[0], second_box[0]),
            max(first_box[1], second_box[1]),
            min(first_box[2], second_box[2]),
            min(first_box[3], second_box[3]),
        ]
    )
    union = inclusive_area(first_box) + inclusive_area(second_box) - intersection
    return intersection / union if union else 0.0


def relative_positions(
    box: Box, reference: Box, dead_zone: float = DEFAULT_OPTIONS.dead_zone
) -> frozenset[str]:
    """Return where a box is relative to a reference box.

    Returns:
        A subset of "left of", "right of", "above" and "below": empty, one relation, or two on a
        diagonal.
    """
    boxes = np.array([box, reference], dtype=np.float32).reshape(2, 2, 2)  # (box, corner, axis)
    centres = boxes.mean(axis=1)  # (box, axis)
    sizes = np.abs(boxes[:, 1] - boxes[:, 0])  # (box, axis)

    # Offsets within the dead zone do not count, but the direction is that of the full offset.
    offset = centres[0] - centres[1]  # (axis,)
    distance_beyond = np.maximum(np.abs(offset) - dead_zone * (sizes[0] + sizes[1]), 0)
    offset_beyond = distance_beyond * np.sign(offset)
    if (np.abs(offset_beyond) < MIN_OFFSET).all():
        return frozenset()
    across, down = offset_beyond / np.linalg.norm(offset)

    relations = {
        "left of": across < -MIN_DIRECTION,
        "right of": across > MIN_DIRECTION,
        "above": down < -MIN_DIRECTION,
        "below": down > MIN_DIRECTION,
    }
    return frozenset(name for name, holds in relations.items() if holds)


def likeliest_colour(probabilities: Sequence[float]) -> str:
    """Return the likeliest of COLOURS; of equal probabilities the first."""
    return COLOURS[int(np.argmax(np.asarray(probabilities)))]


def colour_query_indices(
    prompt_spec: PromptSpec, detections: Sequence[Detection]
) -> tuple[int, ...]:
    """Return the indices of the detections whose colour either set of rules needs.

    They have no repeats and are in the order of the query to the colour annotator.
    """
    indices: list[int] = []
    for rules in ("official", "corrected"):
        indices_of_class = counted_detections(detections, prompt_spec.tag, rules)
        for clause in prompt_spec.include:
            clause_indices = indices_of_class.get(clause.name, [])[: clause.count]
            if clause.color is not None and len(clause_indices) == clause.count:
                indices += clause_indices
    return tuple(dict.fromkeys(indices))


def evaluate_image(
    prompt_spec: PromptSpec,
    detections: Sequence[Detection],
    colours: Mapping[int, str],
    rules: str = "official",
    options: GenevalOptions = DEFAULT_OPTIONS,
) -> ImageVerdict:
    """Return the verdict on one image.

    Args:
        prompt_spec: what the prompt asks for.
        detections: all detections, under GenEval's class names.
        colours: colour of each detection of `colour_query_indices`, by index.
        rules: "official" or "corrected".
        options: thresholds of the official script.

    Raises:
        KeyError: A detection whose colour is checked has none.
    """
    indices_of_class = counted_detections(detections, prompt_spec.tag, rules, options)

    clauses: list[ClauseResult] = []
    for clause in prompt_spec.include:
        indices = tuple(indices_of_class.get(clause.name, [])[: clause.count])
        failure = _clause_failure(clause, indices, clauses, detections, colours, options)
        clauses.append(ClauseResult(indices, failure))
    reasons = [clause.failure for clause in clauses if clause.failure is not None]

    for clause in prompt_spec.exclude:
        count = len(indices_of_class.get(clause.name, []))
        if count >= clause.count:
            reasons.append(f"{count} of {clause.name}, expected fewer than {clause.count}")
    return ImageVerdict(not reasons, tuple(clauses), tuple(reasons))


def _clause_failure(
    clause: Clause,
    indices: Sequence[int],
    earlier_clauses: Sequence[ClauseResult],
    detections: Sequence[Detection],
    colours: Mapping[int, str],
    options: GenevalOptions,
) -> str | None:
    """Return why a clause fails for the detections of these indices; None if it holds.

    Number, colour and position are checked in this order.
    """
    if len(indices) < clause.count:
        return f"{len(indices)} of {clause.name}, expected {clause.count}"
    if clause.color is not None:
        failure = _colour_failure(clause, [colours[index] for index in indices])
        if failure:
            return failure
    if clause.position is None:
        return None

    relation, reference_number = clause.position
    reference_clause = earlier_clauses[reference_number]
    if reference_clause.failure is not None:
        return f"{clause.name} should be {relation} an object that is itself not as expected"
    return _position_failure(
        clause.name, relation, indices, reference_clause.detections, detections, options
    )


def _colour_failure(clause: Clause, detected_colours: Sequence[str]) -> str | None:
    """Return why too few objects have the clause's colour; None if enough have."""
    n_correct = detected_colours.count(str(clause.color))
    if n_correct >= clause.count:
        return None
    counts = ", ".join(
        f"{detected_colours.count(colour)} {colour}"
        for colour in COLOURS
        if colour in detected_colours
    )
    return f"{n_correct} {clause.color} {clause.name}, expected {clause.count}; detected: {counts}"


def _position_failure(
    name: str,
    relation: str,
    object_indices: Sequence[int],
    reference_indices: Sequence[int],
    detections: Sequence[Detection],
    options: GenevalOptions,
) -> str | None:
    """Return why the first wrong pair of an object and a reference fails; None if all pairs hold.

    Args:
        name: class of the objects, for the text.
        relation: expected relation, such as "left of".
        object_indices: indices in `detections` of the objects.
        reference_indices: indices in `detections` of the objects that they are related to.
        detections: all detections of the image.
        options: holds the dead zone.
    """
    for index in object_indices:
        for reference_index in reference_indices:
            reference = detections[reference_index]
            positions = relative_positions(detections[index].box, reference.box, options.dead_zone)
            if relation not in positions:
                if positions:
                    position = f"is {' and '.join(sorted(positions))}"
                else:
                    position = "has no clear position relative to"
                return f"{name} {position} {reference.label}, expected {relation}"
    return None
