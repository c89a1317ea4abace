"""T2I-CompBench's numeracy rule: how many of what a prompt asks for, and how many were found.

Source: UniDet_eval/numeracy_eval.py at 1b709499; what is odd stands in compbench_quirks.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from harope_bench.core.annotations import Box, DetectionAnnotation
from harope_bench.evaluators.rules.compbench_detections import (
    PERSON_WORDS,
    FramedDetection,
    framed_detections,
    match_label_part,
)
from harope_bench.evaluators.rules.compbench_quirks import RuleOutcome, Rules

NUMBERS = {
    "a": 1,
    "an": 1,
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
}
ARTICLES = ("a", "an")  # no number can be read from these
SINGULAR_WORDS = (*ARTICLES, "one")
ALIASES = {
    **PERSON_WORDS,
    "ship": "boat",
    "goldfish": "fish",
    "painting": "picture",
}  # prompt's word to detector's
SAME_OBJECT_OVERLAP = 0.9  # share of a box, or of the union, above which two detections are one
TOKEN = re.compile(r"\w+|[^\w\s]")

CountableObjects = Sequence[Sequence[str]]  # singular and plural of each countable object


class ObjectCounts(NamedTuple):
    """Objects a prompt asks for and how many of each; official numbers may be fewer than objects.
    fault: where the script stops.
    """

    names: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    failure: str | None = None


def parse_object_counts(prompt: str, known: CountableObjects, rules: Rules) -> ObjectCounts:
    """What a prompt asks for.

    >>> wanted("two cups and a dog", [["cup", "cups"], ["dog", "dogs"]], "official")
    Wanted(names=('cup', 'dog'), numbers=(2, 1), fault=None)
    """
    words = TOKEN.findall(prompt)
    found = _parse_official(words, known) if rules == "official" else _parse_corrected(words, known)
    if found.names or found.failure:
        return found
    return ObjectCounts(
        failure="no known object"
        + (": the official script stops (ZeroDivisionError)" if rules == "official" else "")
    )


def _parse_official(words: Sequence[str], known: CountableObjects) -> ObjectCounts:
    singular = [one for one, _ in known]
    plural = [many for _, many in known]
    names: list[str] = []
    numbers: list[int] = []
    for k, word in enumerate(words):
        if word not in NUMBERS:
            continue
        two = " ".join(words[k + 1 : k + 3]) if k < len(words) - 2 else None
        if two in singular or two in plural:
            many = two in plural and word not in SINGULAR_WORDS
            names.append(singular[plural.index(two)] if many and two else str(two))
            numbers.append(NUMBERS[word] if many else 1)
            continue
        if k + 1 == len(words):
            return ObjectCounts(
                failure=f"the official script stops: nothing after {word!r} (IndexError)"
            )
        one = words[k + 1]
        if one in singular and word in SINGULAR_WORDS:
            names.append(one)
            numbers.append(1)
        elif one in plural:
            names.append(singular[plural.index(one)])
            numbers += [] if word in ARTICLES else [NUMBERS[word]]
        elif one in singular:
            return ObjectCounts(failure=f"the official script stops: {word} {one} (ValueError)")
    return ObjectCounts(tuple(names), tuple(numbers))


def _parse_corrected(words: Sequence[str], known: CountableObjects) -> ObjectCounts:
    forms = {form: one for one, many in reversed(list(known)) for form in (one, many)}
    found: dict[str, int] = {}
    for k, word in enumerate(words):
        after = (" ".join(words[k + 1 : k + 3]), words[k + 1] if k + 1 < len(words) else "")
        form = next((text for text in after if text in forms), None)
        if word in NUMBERS and form is not None:
            name = ALIASES.get(forms[form], forms[form])
            found[name] = found.get(name, 0) + NUMBERS[word]
    return ObjectCounts(tuple(found), tuple(found.values()))


def merge_detections(found: Sequence[FramedDetection]) -> list[FramedDetection]:
    """Detections without those that are one with a surer one of their label."""
    kept: list[FramedDetection] = []
    for thing in found:
        if not any(
            thing.label == other.label and is_same_object(thing.box, other.box) for other in kept
        ):
            kept.append(thing)
    return kept


def is_same_object(one: Box, other: Box) -> bool:
    """Whether two boxes are of one thing; a box's last pixel counts as part of it."""
    across = max(0.0, min(one[2], other[2]) - max(one[0], other[0]) + 1)
    down = max(0.0, min(one[3], other[3]) - max(one[1], other[1]) + 1)
    both = across * down
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (one, other)]
    return both / (sum(areas) - both) > SAME_OBJECT_OVERLAP or any(
        both / own > SAME_OBJECT_OVERLAP for own in areas
    )


def score_numeracy(
    prompt: str, known: CountableObjects, sighting: DetectionAnnotation, rules: Rules
) -> RuleOutcome:
    """Numeracy score of an image: of each object half a share for being there and half for the
    exact number.
    """
    asked = parse_object_counts(prompt, known, rules)
    if asked.failure:
        return RuleOutcome(None, asked.failure)
    labels = [thing.label for thing in merge_detections(framed_detections(sighting))]
    names = [ALIASES.get(name, name) for name in asked.names]
    share = 1.0 / len(names)
    score = 0.0
    told = []
    for k, name in enumerate(names):
        there, labels = _count_label(name, labels, rules)
        if there and k >= len(asked.numbers):
            return RuleOutcome(
                None, f"the official script stops: no number for {name} (IndexError)"
            )
        number = asked.numbers[k] if k < len(asked.numbers) else None
        score += 0.5 * share * bool(there)
        score += 0.5 * share * bool(there and there == number)
        told.append(f"{name}: {there} found, {number} wanted")
    return RuleOutcome(score, "; ".join(told))


def _count_label(name: str, labels: list[str], rules: Rules) -> tuple[int, list[str]]:
    """How many are there, and the labels as the next object finds them."""
    if rules == "corrected":
        return len(match_label_part(name, labels, rules)), labels
    renamed = labels if name in labels else [name if name in label else label for label in labels]
    return renamed.count(name), renamed
