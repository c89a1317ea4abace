"""T2I-CompBench's spatial rules: where two objects are, in the image and in depth.

Boxes are in the frame of 479 pixels. Source: UniDet_eval/2D_spatial_eval.py and 3D_spatial_eval.py
at 1b709499; what is odd stands in
compbench_quirks.py.
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

NEAR_PIXELS = 150.0  # pixels
MAX_SIDE_OVERLAP = 0.1  # overlap above which a side loses
FULL_DEPTH_OVERLAP = 0.5  # overlap from which depth counts in full
MIN_2D_SCORE = 0.5  # a 2D score below is 0

NEAR_RELATIONS = ("on side of", "next to", "near")
SIDE_RELATIONS = {  # axis (0 across, 1 down) and sign of second minus first
    "on the left of": (0, 1),
    "on the right of": (0, -1),
    "on the bottom of": (1, -1),
    "on the top of": (1, 1),
}
RELATIONS = (
    *NEAR_RELATIONS,
    *SIDE_RELATIONS,
    "on top of",
)  # in the order in which the script looks for them
CORRECTED_RELATIONS = {  # corrected: words that the script reads and has no rule for
    "on top of": "on the top of",
    "on bottom of": "on the bottom of",
    "on the left": "on the left of",
    "on the right": "on the right of",
}
DEPTH_RELATIONS = {
    "in front of": 1,
    "behind": -1,
    "hidden": -1,
}  # sign of the first's nearness minus the second's

# Nouns of the prompts that equal no label of UniDet's list of 722 strings, so that no image can
# score 0.5 in 2D; the last two are what
# the tagger makes of `side` and `left`. Counted with that list: 200 (model 3.8.0) and 198 (3.6.0)
# of 300 prompts are left.
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

DetectionPair = tuple[int | None, int | None]


def parse_relation(prompt: str, rules: Rules) -> str | None:
    """The relation that a prompt's words name.

    >>> relation("a cup on top of a desk", "official"), relation("a cup on top of a desk", "corrected")
    ('on top of', 'on the top of')
    """
    if rules == "official":
        return next((words for words in RELATIONS if words in prompt), None)
    known = sorted({*RELATIONS, *CORRECTED_RELATIONS}, key=len, reverse=True)
    found = re.search(rf"(?<!\w)({'|'.join(map(re.escape, known))})(?!\w)", prompt)
    return CORRECTED_RELATIONS.get(found[1], found[1]) if found else None


def score_position(words: str | None, first: Box, second: Box, rules: Rules) -> RuleOutcome:
    """How well two boxes fit a relation, 0 to 1; None where the official script divides by zero.

    Args:
        words: of `relation`. first, second: boxes in the frame.
    """
    shared = box_iou(first, second)
    if shared is None:
        if rules == "official":
            return RuleOutcome(
                None, "the official script stops: two boxes without area (ZeroDivisionError)"
            )
        shared = 0.0
    apart = (_middle(second, 0) - _middle(first, 0), _middle(second, 1) - _middle(first, 1))
    if words in NEAR_RELATIONS:
        return _score_near(apart)
    if words in SIDE_RELATIONS:
        return _score_side(words, apart, shared)
    return RuleOutcome(0.0, f"no rule for {words!r}" if words else "no relation in the prompt")


def _middle(box: Box, axis: int) -> float:
    return (box[axis] + box[axis + 2]) / 2


def _score_near(apart: tuple[float, float]) -> RuleOutcome:
    across = abs(apart[0])
    down = abs(apart[1])
    if across < NEAR_PIXELS or down < NEAR_PIXELS:
        return RuleOutcome(1.0, f"{across:.0f} px across, {down:.0f} px down apart: near")
    return RuleOutcome(
        NEAR_PIXELS / max(across, down),
        f"{across:.0f} px across, {down:.0f} px down apart: more than {NEAR_PIXELS:.0f} both ways",
    )


def _score_side(words: str, apart: tuple[float, float], shared: float) -> RuleOutcome:
    axis, sign = SIDE_RELATIONS[words]
    if apart[axis] * sign <= 0:
        return RuleOutcome(0.0, f"not {words}")
    if abs(apart[axis]) <= abs(apart[1 - axis]):
        return RuleOutcome(0.0, f"{words}, but farther apart the other way")
    return (
        RuleOutcome(1.0, words)
        if shared < MAX_SIDE_OVERLAP
        else RuleOutcome(MAX_SIDE_OVERLAP / shared, f"{words}, overlapping by {shared:.2f}")
    )


def score_depth_position(
    words: str | None,
    first: Box,
    second: Box,
    depths: tuple[BoxDepth | None, BoxDepth | None],
    rules: Rules,
) -> RuleOutcome:
    """How well two boxes fit a relation in depth, 0 to 1; None where the official script divides by
    zero or a depth is not told.
    """
    shared = box_iou(first, second)
    if shared is None:
        if rules == "official":
            return RuleOutcome(
                None, "the official script stops: two boxes without area (ZeroDivisionError)"
            )
        shared = 0.0
    if words is None:
        return RuleOutcome(0.0, "no relation in the prompt")
    if depths[0] is None or depths[1] is None:
        return RuleOutcome(None, "no answer of the depth judge")
    one, other = (d.transposed_mean if rules == "official" else d.mean for d in depths if d)
    if one is None or other is None:
        return RuleOutcome(0.0, "no pixel of the depth map in a box")
    told = f"nearness {one:.1f} and {other:.1f}, overlap {shared:.2f}"
    if (one - other) * DEPTH_RELATIONS[words] <= 0:
        return RuleOutcome(0.0, f"not {words}: {told}")
    if shared == FULL_DEPTH_OVERLAP and rules == "official":
        return RuleOutcome(0.0, f"{words}: {told}, and 0.5 itself has no rule")
    return RuleOutcome(
        1.0 if shared >= FULL_DEPTH_OVERLAP else shared / FULL_DEPTH_OVERLAP, f"{words}: {told}"
    )


def detector_nouns(nouns: Sequence[str]) -> tuple[str, ...]:
    """The nouns, with girl, boy, man and woman as the detector names them."""
    return tuple(PERSON_WORDS.get(noun, noun) for noun in nouns)


def score_2d(
    prompt: str, nouns: Sequence[str], sighting: DetectionAnnotation, rules: Rules
) -> RuleOutcome:
    """2D score of an image: a quarter of each object's score and half of the position's; below 0.5
    it is 0.

    Args:
        nouns: the two objects; none where a complex prompt does not have two.
    """
    if len(nouns) != 2:
        return RuleOutcome(
            0.0 if rules == "official" else None,
            f"{len(nouns)} objects were read in the prompt, wanted 2",
        )
    found = framed_detections(sighting)
    words = parse_relation(prompt, rules)
    first, second = (
        match_whole_label(noun, [thing.label for thing in found], rules)
        for noun in detector_nouns(nouns)
    )
    tried = (
        object_pairs(first, second) if rules == "corrected" else [(_first(first), _first(second))]
    )
    verdict = _best_outcome(
        [
            _score_pair(found, pair, nouns, lambda a, b: score_position(words, a.box, b.box, rules))
            for pair in tried
        ]
    )
    if verdict.value is not None and 0 < verdict.value < MIN_2D_SCORE:
        return RuleOutcome(0.0, f"{verdict.reason}; {verdict.value:.3f} is below {MIN_2D_SCORE}")
    return verdict


def parse_depth_relation(prompt: str) -> str | None:
    """The relation in depth that a prompt's words name."""
    return next((words for words in DEPTH_RELATIONS if words in prompt), None)


def depth_pairs(
    nouns: Sequence[str], found: Sequence[FramedDetection], rules: Rules
) -> list[DetectionPair]:
    """Which detections may be the two objects in 3D."""
    labels = [thing.label for thing in found]
    first, second = (match_label_part(noun, labels, rules) for noun in detector_nouns(nouns))
    if rules == "corrected":
        return object_pairs(first, second)
    if not first or not second:
        return [(_first(first), _first(second))]
    # the script walks through all detections, lets each object's index move on, and stops when both
    # are found
    both = max(first[0], second[0])
    return [(max(k for k in first if k <= both), max(k for k in second if k <= both))]


def depth_boxes(nouns: Sequence[str], sighting: DetectionAnnotation) -> list[Box]:
    """Places (in the image's own pixels) whose depth either set of rules needs, without repeats."""
    found = framed_detections(sighting)
    wanted = [
        pair for rules in ("official", "corrected") for pair in depth_pairs(nouns, found, rules)
    ]
    return list(
        dict.fromkeys(
            found[k].image_box for pair in wanted if None not in pair for k in pair if k is not None
        )
    )


def score_3d(
    prompt: str,
    nouns: Sequence[str],
    sighting: DetectionAnnotation,
    depths: Sequence[BoxDepth],
    rules: Rules,
) -> RuleOutcome:
    """3D score of an image: as in 2D without the cut.

    Args:
        nouns: the first and the last noun. depths: of `depth_boxes`, in order; none where they were
            not told.
    """
    found = framed_detections(sighting)
    words = parse_depth_relation(prompt)
    known = dict(zip(depth_boxes(nouns, sighting), depths, strict=True)) if depths else {}

    def fit(a: FramedDetection, b: FramedDetection) -> RuleOutcome:
        return score_depth_position(
            words, a.box, b.box, (known.get(a.image_box), known.get(b.image_box)), rules
        )

    return _best_outcome(
        [_score_pair(found, pair, nouns, fit) for pair in depth_pairs(nouns, found, rules)]
    )


def _first(places: Sequence[int]) -> int | None:
    return places[0] if places else None


def _score_pair(
    found: Sequence[FramedDetection],
    pair: DetectionPair,
    nouns: Sequence[str],
    fit: Callable[[FramedDetection, FramedDetection], RuleOutcome],
) -> RuleOutcome:
    """Presence and position of two detections, of which one or both may be missing."""
    one, other = pair
    if one is None or other is None:
        present = other if one is None else one
        if present is None:
            return RuleOutcome(0.0, f"neither {nouns[0]} nor {nouns[1]} was found")
        here, gone = (nouns[1], nouns[0]) if one is None else (nouns[0], nouns[1])
        score = 0.25 * found[present].score
        return RuleOutcome(score, f"{here} was found, {gone} was not", score)
    score = 0.25 * found[one].score + 0.25 * found[other].score
    placed = fit(found[one], found[other])
    if placed.value is None:
        return placed
    return RuleOutcome(
        score + placed.value / 2,
        f"{nouns[0]} and {nouns[1]} were found, position {placed.value:.3f}: {placed.reason}",
        score,
    )


def _best_outcome(tried: Sequence[RuleOutcome]) -> RuleOutcome:
    told = [verdict for verdict in tried if verdict.value is not None]
    return max(told, key=lambda verdict: verdict.value or 0.0) if told else tried[0]
