"""Captions of scenes and what they ask for: the six GenEval tasks over five shapes and six colours.

A caption is a carrier ("a photo of", three words long) and one of six forms. Combinations are held out of the training captions, and
every test caption needs one:

- a carrier with a shape (single_object), a number with a shape (counting), a colour with a shape (colors);
- two pairs of shapes: no training caption of any task names both (two_object, position, color_attr);
- beyond these pairs, one relation of an ordered pair of shapes (position), and a colour binding beside another object (color_attr).

So every word stands in training captions, and no test caption does. No two test captions say the same: 5 of single_object, 4 of
two_object, 5 of counting, 5 of colors, 24 of position, 24 of color_attr. The order in which things are named counts: 12 pairs mirror each
other ("a circle left of a cross", "a cross right of a circle"), and 7 captions of position mirror one of the training.
Sentence form and facts follow djghosh13/geneval:prompts/.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product
from typing import Literal

from harope_bench.data.shapes_world.words import COLOURS, NUMBERS, PLURALS, RELATIONS, SHAPES

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
CARRIERS = ("a photo of", "a picture of", "a drawing of", "a painting of")

HELD_PAIRS = (frozenset({"circle", "cross"}), frozenset({"square", "ring"}))
HELD_COLOURS = {"circle": "green", "square": "purple", "triangle": "blue", "cross": "yellow", "ring": "red"}
HELD_NUMBERS = {"circle": 3, "square": 4, "triangle": 2, "cross": 3, "ring": 4}
HELD_CARRIERS = {
    "circle": "a painting of",
    "square": "a drawing of",
    "triangle": "a picture of",
    "cross": "a photo of",
    "ring": "a painting of",
}

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Wanted:
    """One clause of a caption: `count` things of a shape, perhaps of a colour, perhaps placed relative to an earlier clause."""

    shape: str
    count: int = 1
    colour: str | None = None
    position: tuple[str, int] | None = None

    def facts(self) -> dict[str, object]:
        """As a line of GenEval's metadata says it."""
        said: dict[str, object] = {"class": self.shape, "count": self.count}
        if self.colour is not None:
            said["color"] = self.colour
        if self.position is not None:
            said["position"] = list(self.position)
        return said


@dataclass(frozen=True)
class Case:
    """One caption: its task, its words, and the clauses it asks for. Only counting excludes: one more would be wrong."""

    task: str
    prompt: str
    include: tuple[Wanted, ...]

    def metadata(self) -> dict[str, object]:
        """A line of GenEval's metadata: tag, include, exclude for counting, prompt."""
        said: dict[str, object] = {"tag": self.task, "include": [wanted.facts() for wanted in self.include]}
        if self.task == "counting":
            one = self.include[0]
            said["exclude"] = [{"class": one.shape, "count": one.count + 1}]
        return said | {"prompt": self.prompt}


@lru_cache(maxsize=2)
def cases(split: Split) -> tuple[Case, ...]:
    """All captions of a split, task by task in the order of TASKS, always in the same order."""
    if split == "train":
        return tuple(case for case, held in _all() if not held)
    return tuple(_chosen([case for case, held in _all() if held]))


MOST = 24  # test captions of a task


def _chosen(held: list[Case]) -> Iterator[Case]:
    """Each held combination of a task once, under the next of its carriers; of more than MOST, that many drawn by lot.

    The same thing asked under another carrier is no second prompt: networks draw it alike, and an error over prompts would be too small.
    """
    for task in TASKS:
        worded: dict[tuple[Wanted, ...], list[Case]] = {}
        for case in held:
            if case.task == task:
                worded.setdefault(case.include, []).append(case)
        drawn = set(sorted(worded, key=_lot)[:MOST])
        for i, captions in enumerate(captions for combination, captions in worded.items() if combination in drawn):
            yield captions[i % len(captions)]


def _lot(combination: tuple[Wanted, ...]) -> str:
    """A draw that is the same everywhere: the order of the captions would favour some words."""
    return hashlib.sha256(repr([wanted.facts() for wanted in combination]).encode()).hexdigest()


def _all() -> Iterator[tuple[Case, bool]]:
    """Every caption and whether it needs a held combination."""
    for form in (_single, _two, _counting, _colours, _position, _bound):
        yield from form()


def _single() -> Iterator[tuple[Case, bool]]:
    for carrier, shape in product(CARRIERS, SHAPES):
        yield Case("single_object", f"{carrier} a {shape}", (Wanted(shape),)), HELD_CARRIERS[shape] == carrier


def _two() -> Iterator[tuple[Case, bool]]:
    for carrier, (one, other) in product(CARRIERS, permutations(SHAPES, 2)):
        yield Case("two_object", f"{carrier} a {one} and a {other}", (Wanted(one), Wanted(other))), held_pair(one, other)


def _counting() -> Iterator[tuple[Case, bool]]:
    for carrier, shape, count in product(CARRIERS, SHAPES, NUMBERS):
        held = HELD_NUMBERS[shape] == count
        yield Case("counting", f"{carrier} {NUMBERS[count]} {PLURALS[shape]}", (Wanted(shape, count),)), held


def _colours() -> Iterator[tuple[Case, bool]]:
    for carrier, shape, colour in product(CARRIERS, SHAPES, COLOURS):
        yield Case("colors", f"{carrier} a {colour} {shape}", (Wanted(shape, colour=colour),)), HELD_COLOURS[shape] == colour


def _position() -> Iterator[tuple[Case, bool]]:
    """The second noun is the reference and stands first in the facts, as in GenEval."""
    for carrier, (one, other), relation in product(CARRIERS, permutations(SHAPES, 2), RELATIONS):
        wanted = (Wanted(other), Wanted(one, position=(relation, 0)))
        held = held_pair(one, other) or held_relation(one, other) == relation
        yield Case("position", f"{carrier} a {one} {relation} a {other}", wanted), held


def _bound() -> Iterator[tuple[Case, bool]]:
    for carrier, (one, other), (first, second) in product(CARRIERS, permutations(SHAPES, 2), permutations(COLOURS, 2)):
        wanted = (Wanted(one, colour=first), Wanted(other, colour=second))
        held = held_pair(one, other) or HELD_COLOURS[one] == first or HELD_COLOURS[other] == second
        yield Case("color_attr", f"{carrier} a {first} {one} and a {second} {other}", wanted), held


def held_pair(one: str, other: str) -> bool:
    """Whether no training caption names both shapes."""
    return frozenset({one, other}) in HELD_PAIRS


def held_relation(one: str, other: str) -> str:
    """The relation of `one` to `other` that no training caption states."""
    return RELATIONS[(2 * SHAPES.index(one) + SHAPES.index(other)) % len(RELATIONS)]
