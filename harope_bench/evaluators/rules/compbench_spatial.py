"""T2I-CompBench's spatial rules: the relation of two objects in the image and in depth.

Boxes are in the frame of 479 pixels.

Source: UniDet_eval/2D_spatial_eval.py and 3D_spatial_eval.py at 1b709499. compbench_quirks.py
lists their oddities.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from harope_bench.core.annotations import Box, BoxDepth, DetectionAnnotation
from harope_bench.evaluators.rules.compbench_detections import (
    PERSON_WORDS,
    FramedDetection,
    box_iou,
    framed_detections,
    match_label_part,
    match_whole_label,
    object_pairs,
)
from harope_bench.evaluators.rules.compbench_quirks import RuleOutcome, Rules

NEAR_PIXELS = 150.0  # distance of the centres below which two objects are near
MAX_SIDE_OVERLAP = 0.1  # overlap above which the score of a side relation decreases
FULL_DEPTH_OVERLAP = 0.5  # overlap from which a depth relation scores in full
MIN_2D_SCORE = 0.5  # a lower 2D score becomes 0

NEAR_RELATIONS = ("on side of", "next to", "near")
SIDE_RELATIONS = {  # axis (0 horizontal, 1 vertical) and sign of second centre minus first
    "on the left of": (0, 1),
    "on the right of": (0, -1),
    "on the bottom of": (1, -1),
    "on the top of": (1, 1),
}
RELATIONS = (*NEAR_RELATIONS, *SIDE_RELATIONS, "on top of")  # in the script's search order
CORRECTED_RELATIONS = {  # phrases that the script finds but does not score
    "on top of": "on the top of",
    "on bottom of": "on the bottom of",
    "on the left": "on the left of",
    "on the right": "on the right of",
}
DEPTH_RELATIONS = {  # sign of the first object's nearness minus the second's
    "in front of": 1,
    "behind": -1,
    "hidden": -1,
}

# Nouns of the prompts that equal none of the 722 labels of UniDet, so that no image can score 0.5
# in 2D. The last two are what the tagger makes of `side` and `left`. With that list, 200 (tagger
# 3.8.0) and 198 (3.6.0) of 300 prompts remain.
UNIDET_MISSING_NOUNS = frozenset(
    [
        "wallet",
        "mouse",
        "cow",
        "table",
        "phone",
        "sofa",
        "bag",
        "painting",
        "computer",
        "side",
        "left",
    ]
)

DetectionPair = tuple[int | None, int | None]  # indices of the two objects, None if undetected
BoxScore = Callable[[FramedDetection, FramedDetection], RuleOutcome]


def parse_relation(prompt: str, rules: Rules) -> str | None:
    """Return the relation that a prompt names; None if it names none.

    >>> prompt = "a cup on top of a desk"
    >>> parse_relation(prompt, "official"), parse_relation(prompt, "corrected")
    ('on top of', 'on the top of')
    """
    if rules == "official":
        return next((relation for relation in RELATIONS if relation in prompt), None)
    phrases = sorted({*RELATIONS, *CORRECTED_RELATIONS}, key=len, reverse=True)
    match = re.search(rf"(?<!\w)({'|'.join(map(re.escape, phrases))})(?!\w)", prompt)
    if match is None:
        return None
    return CORRECTED_RELATIONS.get(match[1], match[1])


def _box_overlap(first_box: Box, second_box: Box, rules: Rules) -> float | RuleOutcome:
    """Return the intersection over union of two boxes.

    If neither has an area, the official script divides by zero: the outcome has no value. Under
    the corrected rules such boxes do not overlap.
    """
    overlap = box_iou(first_box, second_box)
    if overlap is not None:
        return overlap
    if rules == "official":
        return RuleOutcome(
            None, "the official script crashes: two boxes without area (ZeroDivisionError)"
        )
    return 0.0


def score_position(
    relation: str | None, first_box: Box, second_box: Box, rules: Rules
) -> RuleOutcome:
    """Return how well two boxes fit a relation in the image, 0 to 1.

    Args:
        relation: result of `parse_relation`.
        first_box: box of the first object, in the frame.
        second_box: box of the second object, in the frame.
        rules: "official" or "corrected".
    """
    overlap = _box_overlap(first_box, second_box, rules)
    if isinstance(overlap, RuleOutcome):
        return overlap
    offset = (
        _centre(second_box, 0) - _centre(first_box, 0),
        _centre(second_box, 1) - _centre(first_box, 1),
    )
    if relation in NEAR_RELATIONS:
        return _score_near(offset)
    if relation in SIDE_RELATIONS:
        return _score_side(relation, offset, overlap)
    reason = f"no rule for {relation!r}" if relation else "no relation in the prompt"
    return RuleOutcome(0.0, reason)


def _centre(box: Box, axis: int) -> float:
    """Return the centre of a box along an axis, 0 horizontal, 1 vertical."""
    return (box[axis] + box[axis + 2]) / 2


def _score_near(offset: tuple[float, float]) -> RuleOutcome:
    """Return 1 for near objects, else a score that falls with their distance."""
    horizontal = abs(offset[0])
    vertical = abs(offset[1])
    distances = f"{horizontal:.0f} px horizontally, {vertical:.0f} px vertically apart"
    if horizontal < NEAR_PIXELS or vertical < NEAR_PIXELS:
        return RuleOutcome(1.0, f"{distances}: near")
    return RuleOutcome(
        NEAR_PIXELS / max(horizontal, vertical),
        f"{distances}: both more than {NEAR_PIXELS:.0f}",
    )


def _score_side(relation: str, offset: tuple[float, float], overlap: float) -> RuleOutcome:
    """Return 1 for the correct side, less if the boxes overlap, 0 for another side."""
    axis, sign = SIDE_RELATIONS[relation]
    if offset[axis] * sign <= 0:
        return RuleOutcome(0.0, f"not {relation}")
    if abs(offset[axis]) <= abs(offset[1 - axis]):
        return RuleOutcome(0.0, f"{relation}, but farther apart along the other axis")
    if overlap < MAX_SIDE_OVERLAP:
        return RuleOutcome(1.0, relation)
    return RuleOutcome(MAX_SIDE_OVERLAP / overlap, f"{relation}, overlapping by {overlap:.2f}")


def score_depth_position(
    relation: str | None,
    first_box: Box,
    second_box: Box,
    depths: tuple[BoxDepth | None, BoxDepth | None],
    rules: Rules,
) -> RuleOutcome:
    """Return how well two boxes fit a relation in depth, 0 to 1.

    The outcome has no value if the official script divides by zero or a depth is missing.

    Args:
        relation: result of `parse_depth_relation`.
        first_box: box of the first object, in the frame.
        second_box: box of the second object, in the frame.
        depths: depth of both boxes, None if the annotator has not measured it.
        rules: "official" or "corrected".
    """
    overlap = _box_overlap(first_box, second_box, rules)
    if isinstance(overlap, RuleOutcome):
        return overlap
    if relation is None:
        return RuleOutcome(0.0, "no relation in the prompt")
    if depths[0] is None or depths[1] is None:
        return RuleOutcome(None, "no annotation of the depth annotator")

    # The official script exchanges rows and columns of the depth map.
    first_nearness, second_nearness = (
        depth.transposed_mean if rules == "official" else depth.mean for depth in depths if depth
    )
    if first_nearness is None or second_nearness is None:
        return RuleOutcome(0.0, "no pixel of the depth map in a box")

    values = f"nearness {first_nearness:.1f} and {second_nearness:.1f}, overlap {overlap:.2f}"
    if (first_nearness - second_nearness) * DEPTH_RELATIONS[relation] <= 0:
        return RuleOutcome(0.0, f"not {relation}: {values}")
    if overlap == FULL_DEPTH_OVERLAP and rules == "official":
        return RuleOutcome(0.0, f"{relation}: {values}, and 0.5 itself has no rule")
    score = 1.0 if overlap >= FULL_DEPTH_OVERLAP else overlap / FULL_DEPTH_OVERLAP
    return RuleOutcome(score, f"{relation}: {values}")


def detector_nouns(nouns: Sequence[str]) -> tuple[str, ...]:
    """Return the nouns with girl, boy, man and woman replaced by the detector's label, person."""
    return tuple(PERSON_WORDS.get(noun, noun) for noun in nouns)


def score_2d(
    prompt: str, nouns: Sequence[str], annotation: DetectionAnnotation, rules: Rules
) -> RuleOutcome:
    """Return the 2D score of an image, 0 to 1.

    It is a quarter of each object's confidence plus half of the position's score. Below 0.5 it
    becomes 0.

    Args:
        prompt: text of the prompt.
        nouns: the two objects. A complex prompt may have another number of them.
        annotation: the detections.
        rules: "official" or "corrected".
    """
    if len(nouns) != 2:
        return RuleOutcome(
            0.0 if rules == "official" else None,
            f"{len(nouns)} objects were read in the prompt, expected 2",
        )
    detections = framed_detections(annotation)
    labels = [detection.label for detection in detections]
    relation = parse_relation(prompt, rules)
    first_indices, second_indices = (
        match_whole_label(noun, labels, rules) for noun in detector_nouns(nouns)
    )
    if rules == "corrected":
        pairs = object_pairs(first_indices, second_indices)
    else:
        pairs = [(_first_or_none(first_indices), _first_or_none(second_indices))]

    def score_boxes(
        first_detection: FramedDetection, second_detection: FramedDetection
    ) -> RuleOutcome:
        return score_position(relation, first_detection.box, second_detection.box, rules)

    outcome = _best_outcome([_score_pair(detections, pair, nouns, score_boxes) for pair in pairs])
    if outcome.value is not None and 0 < outcome.value < MIN_2D_SCORE:
        return RuleOutcome(0.0, f"{outcome.reason}; {outcome.value:.3f} is below {MIN_2D_SCORE}")
    return outcome


def parse_depth_relation(prompt: str) -> str | None:
    """Return the relation in depth that a prompt names; None if it names none."""
    return next((relation for relation in DEPTH_RELATIONS if relation in prompt), None)


def depth_pairs(
    nouns: Sequence[str], detections: Sequence[FramedDetection], rules: Rules
) -> list[DetectionPair]:
    """Return the pairs of detections that the 3D rule tries as the two objects."""
    labels = [detection.label for detection in detections]
    first_indices, second_indices = (
        match_label_part(noun, labels, rules) for noun in detector_nouns(nouns)
    )
    if rules == "corrected":
        return object_pairs(first_indices, second_indices)
    if not first_indices or not second_indices:
        return [(_first_or_none(first_indices), _first_or_none(second_indices))]

    # The script goes through all detections, replaces the index of each object by later ones, and
    # stops when both objects are detected.
    stop_index = max(first_indices[0], second_indices[0])
    first_index = max(index for index in first_indices if index <= stop_index)
    second_index = max(index for index in second_indices if index <= stop_index)
    return [(first_index, second_index)]


def depth_boxes(nouns: Sequence[str], annotation: DetectionAnnotation) -> list[Box]:
    """Return the boxes whose depth either set of rules needs, without repeats.

    They are in pixels of the image, not of the frame.
    """
    detections = framed_detections(annotation)
    boxes: dict[Box, None] = {}
    for rules in ("official", "corrected"):
        for first_index, second_index in depth_pairs(nouns, detections, rules):
            if first_index is not None and second_index is not None:
                boxes[detections[first_index].image_box] = None
                boxes[detections[second_index].image_box] = None
    return list(boxes)


def score_3d(
    prompt: str,
    nouns: Sequence[str],
    annotation: DetectionAnnotation,
    depths: Sequence[BoxDepth],
    rules: Rules,
) -> RuleOutcome:
    """Return the 3D score of an image, 0 to 1: as in 2D, but low scores stay.

    Args:
        prompt: text of the prompt.
        nouns: the first and the last noun of the prompt.
        annotation: the detections.
        depths: depths of `depth_boxes`, in their order; empty if none were measured.
        rules: "official" or "corrected".
    """
    detections = framed_detections(annotation)
    relation = parse_depth_relation(prompt)
    depth_by_box = dict(zip(depth_boxes(nouns, annotation), depths, strict=True)) if depths else {}

    def score_boxes(
        first_detection: FramedDetection, second_detection: FramedDetection
    ) -> RuleOutcome:
        box_depths = (
            depth_by_box.get(first_detection.image_box),
            depth_by_box.get(second_detection.image_box),
        )
        return score_depth_position(
            relation, first_detection.box, second_detection.box, box_depths, rules
        )

    pairs = depth_pairs(nouns, detections, rules)
    return _best_outcome([_score_pair(detections, pair, nouns, score_boxes) for pair in pairs])


def _first_or_none(indices: Sequence[int]) -> int | None:
    return indices[0] if indices else None


def _score_pair(
    detections: Sequence[FramedDetection],
    pair: DetectionPair,
    nouns: Sequence[str],
    score_boxes: BoxScore,
) -> RuleOutcome:
    """Return the score of two detections, of which one or both may be missing.

    Args:
        detections: all detections of the image.
        pair: indices of the two objects.
        nouns: names of the two objects.
        score_boxes: scores the position of two detections.
    """
    first_index, second_index = pair
    if first_index is None and second_index is None:
        return RuleOutcome(0.0, f"neither {nouns[0]} nor {nouns[1]} was detected")
    if second_index is None and first_index is not None:
        score = 0.25 * detections[first_index].score
        return RuleOutcome(score, f"{nouns[0]} was detected, {nouns[1]} was not", score)
    if first_index is None and second_index is not None:
        score = 0.25 * detections[second_index].score
        return RuleOutcome(score, f"{nouns[1]} was detected, {nouns[0]} was not", score)

    assert first_index is not None and second_index is not None
    score = 0.25 * detections[first_index].score + 0.25 * detections[second_index].score
    position = score_boxes(detections[first_index], detections[second_index])
    if position.value is None:
        return position
    return RuleOutcome(
        score + position.value / 2,
        f"{nouns[0]} and {nouns[1]} were detected, position {position.value:.3f}:"
        f" {position.reason}",
        score,
    )


def _best_outcome(outcomes: Sequence[RuleOutcome]) -> RuleOutcome:
    """Return the outcome with the highest value; without values, the first outcome."""
    with_value = [outcome for outcome in outcomes if outcome.value is not None]
    if not with_value:
        return outcomes[0]
    return max(with_value, key=lambda outcome: outcome.value or 0.0)
