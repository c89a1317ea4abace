"""T2I-CompBench's numeracy rule: compares the numbers that a prompt names with detections.

Source: UniDet_eval/numeracy_eval.py at 1b709499. compbench_quirks.py lists its oddities.
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
ARTICLES = ("a", "an")  # the official script reads no number from these before a plural
SINGULAR_WORDS = (*ARTICLES, "one")
ALIASES = {  # from the prompt's word to the detector's
    **PERSON_WORDS,
    "ship": "boat",
    "goldfish": "fish",
    "painting": "picture",
}
SAME_OBJECT_OVERLAP = (
    0.9  # fraction of a box, or of the union, above which two boxes are one object
)
TOKEN = re.compile(r"\w+|[^\w\s]")

CountableObjects = Sequence[Sequence[str]]  # singular and plural of each countable object


class ObjectCounts(NamedTuple):
    """The objects that a prompt asks for and the number of each.

    Attributes:
        names: names of the objects.
        numbers: number of each object. Under the official rules there may be fewer than names.
        failure: where the official script crashes; None if it does not.
    """

    names: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    failure: str | None = None


def parse_object_counts(
    prompt: str, countable_objects: CountableObjects, rules: Rules
) -> ObjectCounts:
    """Return the objects that a prompt asks for and their numbers.

    >>> parse_object_counts("two cups and a dog", [["cup", "cups"], ["dog", "dogs"]], "official")
    ObjectCounts(names=('cup', 'dog'), numbers=(2, 1), failure=None)
    """
    words = TOKEN.findall(prompt)
    if rules == "official":
        counts = _parse_official(words, countable_objects)
        failure = "no known object: the official script crashes (ZeroDivisionError)"
    else:
        counts = _parse_corrected(words, countable_objects)
        failure = "no known object"
    if counts.names or counts.failure:
        return counts
    return ObjectCounts(failure=failure)


def _parse_official(words: Sequence[str], countable_objects: CountableObjects) -> ObjectCounts:
    """Return the objects and numbers that the official script reads.

    Names of two words come before names of one word.
    """
    singulars = [singular for singular, _ in countable_objects]
    plurals = [plural for _, plural in countable_objects]
    names: list[str] = []
    numbers: list[int] = []
    for k, word in enumerate(words):
        if word not in NUMBERS:
            continue

        two_words = " ".join(words[k + 1 : k + 3]) if k < len(words) - 2 else None
        if two_words in singulars or two_words in plurals:
            is_plural = two_words in plurals and word not in SINGULAR_WORDS
            if is_plural and two_words:
                names.append(singulars[plurals.index(two_words)])
            else:
                names.append(str(two_words))
            numbers.append(NUMBERS[word] if is_plural else 1)
            continue

        if k + 1 == len(words):
            return ObjectCounts(
                failure=f"the official script crashes: nothing after {word!r} (IndexError)"
            )
        noun = words[k + 1]
        if noun in singulars and word in SINGULAR_WORDS:
            names.append(noun)
            numbers.append(1)
        elif noun in plurals:
            names.append(singulars[plurals.index(noun)])
            if word not in ARTICLES:
                numbers.append(NUMBERS[word])
        elif noun in singulars:
            return ObjectCounts(failure=f"the official script crashes: {word} {noun} (ValueError)")
    return ObjectCounts(tuple(names), tuple(numbers))


def _parse_corrected(words: Sequence[str], countable_objects: CountableObjects) -> ObjectCounts:
    """Return the objects and numbers as the corrected rules read them.

    Numbers of the same object are added.
    """
    # Of objects that share a form the first one counts, so it is entered last.
    singular_of_form = {
        form: singular
        for singular, plural in reversed(list(countable_objects))
        for form in (singular, plural)
    }
    counts: dict[str, int] = {}
    for k, word in enumerate(words):
        next_word = words[k + 1] if k + 1 < len(words) else ""
        next_texts = (" ".join(words[k + 1 : k + 3]), next_word)
        form = next((text for text in next_texts if text in singular_of_form), None)
        if word in NUMBERS and form is not None:
            singular = singular_of_form[form]
            name = ALIASES.get(singular, singular)
            counts[name] = counts.get(name, 0) + NUMBERS[word]
    return ObjectCounts(tuple(counts), tuple(counts.values()))


def merge_detections(detections: Sequence[FramedDetection]) -> list[FramedDetection]:
    """Return the detections without those of an object that an earlier one has already detected.

    Only detections with the same label are merged.
    """
    remaining: list[FramedDetection] = []
    for detection in detections:
        is_repeated = any(
            detection.label == earlier.label and is_same_object(detection.box, earlier.box)
            for earlier in remaining
        )
        if not is_repeated:
            remaining.append(detection)
    return remaining


def is_same_object(first_box: Box, second_box: Box) -> bool:
    """Return whether two boxes (x0, y0, x1, y1) are of one object.

    Boxes include their last pixel.
    """
    width = max(0.0, min(first_box[2], second_box[2]) - max(first_box[0], second_box[0]) + 1)
    height = max(0.0, min(first_box[3], second_box[3]) - max(first_box[1], second_box[1]) + 1)
    intersection = width * height
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (first_box, second_box)]
    union = sum(areas) - intersection
    if intersection / union > SAME_OBJECT_OVERLAP:
        return True
    return any(intersection / area > SAME_OBJECT_OVERLAP for area in areas)


def score_numeracy(
    prompt: str,
    countable_objects: CountableObjects,
    annotation: DetectionAnnotation,
    rules: Rules,
) -> RuleOutcome:
    """Return the numeracy score of an image, 0 to 1.

    Each object has an equal share of the score: half for its presence, half for its exact number.
    """
    expected = parse_object_counts(prompt, countable_objects, rules)
    if expected.failure:
        return RuleOutcome(None, expected.failure)
    detections = merge_detections(framed_detections(annotation))
    labels = [detection.label for detection in detections]
    names = [ALIASES.get(name, name) for name in expected.names]

    share = 1.0 / len(names)
    score = 0.0
    reasons = []
    for k, name in enumerate(names):
        count, labels = _count_label(name, labels, rules)
        if count and k >= len(expected.numbers):
            return RuleOutcome(
                None, f"the official script crashes: no number for {name} (IndexError)"
            )
        number = expected.numbers[k] if k < len(expected.numbers) else None
        score += 0.5 * share * bool(count)
        score += 0.5 * share * bool(count and count == number)
        reasons.append(f"{name}: {count} detected, {number} expected")
    return RuleOutcome(score, "; ".join(reasons))


def _count_label(name: str, labels: list[str], rules: Rules) -> tuple[int, list[str]]:
    """Return the number of labels that denote an object, and the labels for the next object.

    Without an equal label, the official script renames labels that contain the name, and they stay
    renamed.
    """
    if rules == "corrected":
        return len(match_label_part(name, labels, rules)), labels
    if name in labels:
        return labels.count(name), labels
    renamed_labels = [name if name in label else label for label in labels]
    return renamed_labels.count(name), renamed_labels
