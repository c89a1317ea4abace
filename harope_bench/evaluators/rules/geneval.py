"""GenEval's rule: whether the things that a detector found are what a prompt asks for. No network.

Source: djghosh13/geneval af4902f2, evaluation/evaluate_images.py: `evaluate_image`, `evaluate`,
`relative_position`, `compute_iou`.
Scores and boxes are compared in float32, as there.
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
MIN_OFFSET = 1e-3  # pixels of offset below which there is no relation
MIN_DIRECTION = 0.5  # share of the whole offset that an axis must have

QUIRKS: Mapping[str, str] = {
    "strict-threshold": "a score equal to the threshold (0.3; 0.9 for counting) does not count",
    "counting-threshold": "counting prompts take 0.9, all others 0.3, for every class of the image",
    "top-16": "at most the 16 surest of a class are kept",
    "no-nms": (
        "overlapping boxes of one class all count, since max_overlap is 1; where it is set, boxes"
        " are measured one pixel larger"
    ),
    "tie-order": "of equally sure things of one class the later one comes first",
    "surest-only": "colour and position are asked of the `count` surest things alone",
    "shared-things": (
        "clauses do not use things up: one thing may answer two clauses, one mask found under two"
        " classes counts for both"
    ),
    "extras-ignored": (
        "things beyond the prompt cost nothing except in counting, where count + 1 of the class is"
        " wrong"
    ),
    "every-pair": "a position must hold for every pair of a found thing and a reference",
    "dead-zone": (
        "a tenth of both full sizes is taken off the offset, but the direction is divided by the"
        " whole offset"
    ),
    "two-relations": "on a diagonal two relations hold at once, and between they may none hold",
    "colour-ties": "of equally likely colours the first in the list wins",
    "any-task": (
        "the overall score averages whichever tasks occur, and missing images shrink a task in"
        " silence"
    ),
}
CORRECTIONS: Mapping[str, str] = {
    "tie-order": (
        "of equally sure things of one class the one that the detector names first comes first"
    )
}


class Clause(Record):
    """`count` things of a class, perhaps of a colour, perhaps (relation, number of an earlier
    clause) placed; other fields are ignored.
    """

    model_config = ConfigDict(extra="ignore")

    name: str = Field(alias="class")
    count: int = Field(ge=1)
    color: str | None = None
    position: tuple[str, int] | None = None


class PromptSpec(Record):
    """A line of evaluation_metadata.jsonl; fields that other programs add are ignored."""

    model_config = ConfigDict(extra="ignore")

    tag: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...] = ()
    prompt: str

    @model_validator(mode="after")
    def _refers_back(self) -> PromptSpec:
        for place, clause in enumerate(self.include):
            if clause.position is not None and not 0 <= clause.position[1] < place:
                raise ValueError(
                    f"clause {place} is placed by clause {clause.position[1]}, which is no"
                    " earlier one"
                )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that are named, each once."""
        return tuple(dict.fromkeys(clause.name for clause in (*self.include, *self.exclude)))


class PartialPromptSpec(Record):
    """As much of such a line as a foreign file states."""

    model_config = ConfigDict(extra="ignore")
    prompt: str
    tag: str | None = None
    include: tuple[Clause, ...] = ()
    exclude: tuple[Clause, ...] = ()


class ScriptOptions(NamedTuple):
    """The script's options and their defaults."""

    threshold: float = 0.3
    counting_threshold: float = 0.9
    max_per_class: int = 16
    max_overlap: float = 1.0
    dead_zone: float = 0.1


class ClauseResult(NamedTuple):
    """One clause: which things (places in the detector's list) it was asked of, and why it fails,
    or None where it holds.
    """

    detections: tuple[int, ...]
    failure: str | None


class ImageVerdict(NamedTuple):
    """Whether the image is right, each clause to include, and every reason why not."""

    is_correct: bool
    clauses: tuple[ClauseResult, ...]
    reasons: tuple[str, ...]


DEFAULT_OPTIONS = ScriptOptions()


def threshold(tag: str, limits: ScriptOptions = DEFAULT_OPTIONS) -> float:
    """The score above which a thing counts for prompts of this task."""
    return limits.counting_threshold if tag == COUNTING else limits.threshold


def counted_detections(
    found: Sequence[Detection],
    tag: str,
    rules: str = "official",
    limits: ScriptOptions = DEFAULT_OPTIONS,
) -> dict[str, list[int]]:
    """Places of the things that count, by class, the surest first."""
    least = np.float32(threshold(tag, limits))
    by_class: dict[str, list[int]] = {}
    for place, thing in enumerate(found):
        if np.float32(thing.score) > least:
            by_class.setdefault(thing.label, []).append(place)
    later_first = rules == "official"
    return {
        name: _suppress_overlaps(
            _sort_by_score(places, found, later_first)[: limits.max_per_class],
            found,
            limits.max_overlap,
        )
        for name, places in by_class.items()
    }


def _sort_by_score(
    places: Sequence[int], found: Sequence[Detection], later_first: bool
) -> list[int]:
    # the script turns an ascending sort round, which turns ties round too
    return sorted(
        places, key=lambda p: (-float(np.float32(found[p].score)), -p if later_first else p)
    )


def _suppress_overlaps(
    places: Sequence[int], found: Sequence[Detection], overlap: float
) -> list[int]:
    """Those that overlap no surer one by `overlap` or more; 1 keeps all, even equal boxes."""
    if overlap == 1:
        return list(places)
    chosen: list[int] = []
    for place in places:
        if all(inclusive_box_iou(found[other].box, found[place].box) < overlap for other in chosen):
            chosen.append(place)
    return chosen


def inclusive_box_iou(one: Box, two: Box) -> float:
    """Intersection over union of boxes whose last pixel is counted in, so that each is one pixel
    wider and higher; 0 for two empty ones.
    """

    def area(box: Sequence[float]) -> float:
        return max(box[2] - box[0] + 1, 0) * max(box[3] - box[1] + 1, 0)

    both = area(
        [max(one[0], two[0]), max(one[1], two[1]), min(one[2], two[2]), min(one[3], two[3])]
    )
    union = area(one) + area(two) - both
    return both / union if union else 0.0


def relative_positions(
    one: Box, other: Box, dead_zone: float = DEFAULT_OPTIONS.dead_zone
) -> frozenset[str]:
    """Where `one` lies as seen from `other`: of left of, right of, above, below, none, one, or two
    on a diagonal.
    """
    boxes = np.array([one, other], dtype=np.float32).reshape(2, 2, 2)  # thing, corner, axis
    centres = boxes.mean(axis=1)
    sizes = np.abs(boxes[:, 1] - boxes[:, 0])
    offset = centres[0] - centres[1]
    shrunk = np.maximum(np.abs(offset) - dead_zone * (sizes[0] + sizes[1]), 0) * np.sign(offset)
    if (np.abs(shrunk) < MIN_OFFSET).all():
        return frozenset()
    across, down = shrunk / np.linalg.norm(offset)
    held = {
        "left of": across < -MIN_DIRECTION,
        "right of": across > MIN_DIRECTION,
        "above": down < -MIN_DIRECTION,
        "below": down > MIN_DIRECTION,
    }
    return frozenset(name for name, holds in held.items() if holds)


def likeliest_colour(shares: Sequence[float]) -> str:
    """The likeliest of COLOURS, the first of equals."""
    return COLOURS[int(np.argmax(np.asarray(shares)))]


def colour_query_indices(wanted: PromptSpec, found: Sequence[Detection]) -> tuple[int, ...]:
    """Places of the things whose colour some set of rules needs, each once; the order that a colour
    judge is asked in.
    """
    places: list[int] = []
    for rules in ("official", "corrected"):
        things = counted_detections(found, wanted.tag, rules)
        for clause in wanted.include:
            group = things.get(clause.name, [])[: clause.count]
            places += group if clause.color is not None and len(group) == clause.count else []
    return tuple(dict.fromkeys(places))


def evaluate_image(
    wanted: PromptSpec,
    found: Sequence[Detection],
    colours: Mapping[int, str],
    rules: str = "official",
    limits: ScriptOptions = DEFAULT_OPTIONS,
) -> ImageVerdict:
    """The verdict on one image.

    Args:
        found: all that the detector found, under GenEval's class names. colours: of the things that
            `coloured` names, by place.

    Raises:
        KeyError: a thing whose colour is asked has none.
    """
    things = counted_detections(found, wanted.tag, rules, limits)
    clauses: list[ClauseResult] = []
    for clause in wanted.include:
        group = tuple(things.get(clause.name, [])[: clause.count])
        clauses.append(
            ClauseResult(group, _clause_failure(clause, group, clauses, found, colours, limits))
        )
    reasons = [held.failure for held in clauses if held.failure is not None]
    for clause in wanted.exclude:
        if (number := len(things.get(clause.name, []))) >= clause.count:
            reasons.append(f"{number} of {clause.name}, wanted fewer than {clause.count}")
    return ImageVerdict(not reasons, tuple(clauses), tuple(reasons))


def _clause_failure(
    clause: Clause,
    group: Sequence[int],
    earlier: Sequence[ClauseResult],
    found: Sequence[Detection],
    colours: Mapping[int, str],
    limits: ScriptOptions,
) -> str | None:
    if len(group) < clause.count:
        return f"{len(group)} of {clause.name}, wanted {clause.count}"
    if clause.color is not None and (
        fault := _colour_failure(clause, [colours[place] for place in group])
    ):
        return fault
    if clause.position is None:
        return None
    relation, number = clause.position
    if earlier[number].failure is not None:
        return f"{clause.name} should be {relation} something that is itself not as wanted"
    return _position_failure(
        clause.name, relation, group, earlier[number].detections, found, limits
    )


def _colour_failure(clause: Clause, named: Sequence[str]) -> str | None:
    right = named.count(str(clause.color))
    if right >= clause.count:
        return None
    seen = ", ".join(f"{named.count(c)} {c}" for c in COLOURS if c in named)
    return f"{right} {clause.color} {clause.name}, wanted {clause.count}; seen: {seen}"


def _position_failure(
    name: str,
    relation: str,
    group: Sequence[int],
    references: Sequence[int],
    found: Sequence[Detection],
    limits: ScriptOptions,
) -> str | None:
    for place in group:
        for reference in references:
            held = relative_positions(found[place].box, found[reference].box, limits.dead_zone)
            if relation not in held:
                where = " and ".join(sorted(held)) or "in no clear place from"
                return f"{name} is {where} {found[reference].label}, wanted {relation}"
    return None
