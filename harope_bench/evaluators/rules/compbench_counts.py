"""T2I-CompBench's numeracy rule: how many of what a prompt asks for, and how many were found.

Source: UniDet_eval/numeracy_eval.py at 1b709499; what is odd stands in compbench_quirks.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from harope_bench.core.annotations import Box, Sighting
from harope_bench.evaluators.rules.compbench_detections import PERSON, Thing, things, within
from harope_bench.evaluators.rules.compbench_quirks import Rules, Verdict

NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
ARTICLES = ("a", "an")  # no number can be read from these
SINGLE = (*ARTICLES, "one")
ALIASES = {**PERSON, "ship": "boat", "goldfish": "fish", "painting": "picture"}  # prompt's word to detector's
SAME = 0.9  # share of a box, or of the union, above which two detections are one
TOKEN = re.compile(r"\w+|[^\w\s]")

Known = Sequence[Sequence[str]]  # singular and plural of each countable object


class Wanted(NamedTuple):
    """Objects a prompt asks for and how many of each; official numbers may be fewer than objects. fault: where the script stops."""

    names: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    fault: str | None = None


def wanted(prompt: str, known: Known, rules: Rules) -> Wanted:
    """What a prompt asks for.

    >>> wanted("two cups and a dog", [["cup", "cups"], ["dog", "dogs"]], "official")
    Wanted(names=('cup', 'dog'), numbers=(2, 1), fault=None)
    """
    words = TOKEN.findall(prompt)
    found = _official(words, known) if rules == "official" else _corrected(words, known)
    if found.names or found.fault:
        return found
    return Wanted(fault="no known object" + (": the official script stops (ZeroDivisionError)" if rules == "official" else ""))


def _official(words: Sequence[str], known: Known) -> Wanted:
    singular, plural = [one for one, _ in known], [many for _, many in known]
    names: list[str] = []
    numbers: list[int] = []
    for k, word in enumerate(words):
        if word not in NUMBERS:
            continue
        two = " ".join(words[k + 1 : k + 3]) if k < len(words) - 2 else None
        if two in singular or two in plural:
            many = two in plural and word not in SINGLE
            names.append(singular[plural.index(two)] if many and two else str(two))
            numbers.append(NUMBERS[word] if many else 1)
            continue
        if k + 1 == len(words):
            return Wanted(fault=f"the official script stops: nothing after {word!r} (IndexError)")
        one = words[k + 1]
        if one in singular and word in SINGLE:
            names.append(one)
            numbers.append(1)
        elif one in plural:
            names.append(singular[plural.index(one)])
            numbers += [] if word in ARTICLES else [NUMBERS[word]]
        elif one in singular:
            return Wanted(fault=f"the official script stops: {word} {one} (ValueError)")
    return Wanted(tuple(names), tuple(numbers))


def _corrected(words: Sequence[str], known: Known) -> Wanted:
    forms = {form: one for one, many in reversed(list(known)) for form in (one, many)}
    found: dict[str, int] = {}
    for k, word in enumerate(words):
        after = (" ".join(words[k + 1 : k + 3]), words[k + 1] if k + 1 < len(words) else "")
        form = next((text for text in after if text in forms), None)
        if word in NUMBERS and form is not None:
            name = ALIASES.get(forms[form], forms[form])
            found[name] = found.get(name, 0) + NUMBERS[word]
    return Wanted(tuple(found), tuple(found.values()))


def merged(found: Sequence[Thing]) -> list[Thing]:
    """Detections without those that are one with a surer one of their label."""
    kept: list[Thing] = []
    for thing in found:
        if not any(thing.label == other.label and alike(thing.box, other.box) for other in kept):
            kept.append(thing)
    return kept


def alike(one: Box, other: Box) -> bool:
    """Whether two boxes are of one thing; a box's last pixel counts as part of it."""
    across = max(0.0, min(one[2], other[2]) - max(one[0], other[0]) + 1)
    down = max(0.0, min(one[3], other[3]) - max(one[1], other[1]) + 1)
    both, areas = across * down, [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (one, other)]
    return both / (sum(areas) - both) > SAME or any(both / own > SAME for own in areas)


def counted(prompt: str, known: Known, sighting: Sighting, rules: Rules) -> Verdict:
    """Numeracy score of an image: of each object half a share for being there and half for the exact number."""
    asked = wanted(prompt, known, rules)
    if asked.fault:
        return Verdict(None, asked.fault)
    labels = [thing.label for thing in merged(things(sighting))]
    names = [ALIASES.get(name, name) for name in asked.names]
    share, score, told = 1.0 / len(names), 0.0, []
    for k, name in enumerate(names):
        there, labels = _count(name, labels, rules)
        if there and k >= len(asked.numbers):
            return Verdict(None, f"the official script stops: no number for {name} (IndexError)")
        number = asked.numbers[k] if k < len(asked.numbers) else None
        score += 0.5 * share * bool(there)
        score += 0.5 * share * bool(there and there == number)
        told.append(f"{name}: {there} found, {number} wanted")
    return Verdict(score, "; ".join(told))


def _count(name: str, labels: list[str], rules: Rules) -> tuple[int, list[str]]:
    """How many are there, and the labels as the next object finds them."""
    if rules == "corrected":
        return len(within(name, labels, rules)), labels
    renamed = labels if name in labels else [name if name in label else label for label in labels]
    return renamed.count(name), renamed
