"""Captions of scenes and what they ask for: the six GenEval tasks over five shapes and six colours.

A caption is a carrier ("a photo of", three words long) and one of six forms. Combinations are held
out of the training captions, and
every test caption needs one:

- a carrier with a shape (single_object), a number with a shape (counting), a colour with a shape
  (colors);
- two pairs of shapes: no training caption of any task names both (two_object, position,
  color_attr);
- beyond these pairs, one relation of an ordered pair of shapes (position), and a colour binding
  beside another object (color_attr).

So every word stands in training captions, and no test caption does. No two test captions say the
same: 5 of single_object, 4 of
two_object, 5 of counting, 5 of colors, 24 of position, 24 of color_attr. The order in which things
are named counts: 12 pairs mirror each
other ("a circle left of a cross", "a cross right of a circle"), and 7 captions of position mirror
one of the training.
Sentence form and facts follow djghosh13/geneval:prompts/.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product
from typing import Literal

from harope_bench.data.shapes_scenes.words import COLOURS, NUMBERS, PLURALS, RELATIONS, SHAPES

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
CARRIERS = ("a photo of", "a picture of", "a drawing of", "a painting of")

HELD_OUT_PAIRS = (frozenset({"circle", "cross"}), frozenset({"square", "ring"}))
HELD_OUT_COLOURS = {
    "circle": "green",
    "square": "purple",
    "triangle": "blue",
    "cross": "yellow",
    "ring": "red",
}
HELD_OUT_NUMBERS = {"circle": 3, "square": 4, "triangle": 2, "cross": 3, "ring": 4}
HELD_OUT_CARRIERS = {
    "circle": "a painting of",
    "square": "a drawing of",
    "triangle": "a picture of",
    "cross": "a photo of",
    "ring": "a painting of",
}

Split = Literal["train", "test"]


@dataclass(frozen=True)
class CaptionClause:
    """One clause of a caption: `count` things of a shape, perhaps of a colour, perhaps placed
    relative to an earlier clause.
    """

    shape: str
    count: int = 1
    colour: str | None = None
    position: tuple[str, int] | None = None

    def geneval_fields(self) -> dict[str, object]:
        """As a line of GenEval's metadata says it."""
        said: dict[str, object] = {"class": self.shape, "count": self.count}
        if self.colour is not None:
            said["color"] = self.colour
        if self.position is not None:
            said["position"] = list(self.position)
        return said


@dataclass(frozen=True)
class SceneCaption:
    """One caption: its task, its words, and the clauses it asks for. Only counting excludes: one
    more would be wrong.
    """

    task: str
    prompt: str
    clauses: tuple[CaptionClause, ...]

    def geneval_metadata(self) -> dict[str, object]:
        """A line of GenEval's metadata: tag, include, exclude for counting, prompt."""
        said: dict[str, object] = {
            "tag": self.task,
            "include": [wanted.geneval_fields() for wanted in self.clauses],
        }
        if self.task == "counting":
            one = self.clauses[0]
            said["exclude"] = [{"class": one.shape, "count": one.count + 1}]
        return said | {"prompt": self.prompt}


@lru_cache(maxsize=2)
def list_captions(split: Split) -> tuple[SceneCaption, ...]:
    """All captions of a split, task by task in the order of TASKS, always in the same order."""
    if split == "train":
        return tuple(case for case, held in _all_captions() if not held)
    return tuple(_select_test_captions([case for case, held in _all_captions() if held]))


MAX_TEST_CAPTIONS = 24  # test captions of a task


def _select_test_captions(held: list[SceneCaption]) -> Iterator[SceneCaption]:
    """Each held combination of a task once, under the next of its carriers; of more than MOST, that
    many drawn by lot.

    The same thing asked under another carrier is no second prompt: networks draw it alike, and an
    error over prompts would be too small.
    """
    for task in TASKS:
        worded: dict[tuple[CaptionClause, ...], list[SceneCaption]] = {}
        for case in held:
            if case.task == task:
                worded.setdefault(case.clauses, []).append(case)
        drawn = set(sorted(worded, key=_random_order_key)[:MAX_TEST_CAPTIONS])
        for i, captions in enumerate(
            captions for combination, captions in worded.items() if combination in drawn
        ):
            yield captions[i % len(captions)]


def _random_order_key(combination: tuple[CaptionClause, ...]) -> str:
    """A draw that is the same everywhere: the order of the captions would favour some words."""
    return hashlib.sha256(
        repr([wanted.geneval_fields() for wanted in combination]).encode()
    ).hexdigest()


def _all_captions() -> Iterator[tuple[SceneCaption, bool]]:
    """Every caption and whether it needs a held combination."""
    for form in (
        _single_object_captions,
        _two_object_captions,
        _counting_captions,
        _colour_captions,
        _position_captions,
        _colour_binding_captions,
    ):
        yield from form()


def _single_object_captions() -> Iterator[tuple[SceneCaption, bool]]:
    for carrier, shape in product(CARRIERS, SHAPES):
        yield (
            SceneCaption("single_object", f"{carrier} a {shape}", (CaptionClause(shape),)),
            HELD_OUT_CARRIERS[shape] == carrier,
        )


def _two_object_captions() -> Iterator[tuple[SceneCaption, bool]]:
    for carrier, (one, other) in product(CARRIERS, permutations(SHAPES, 2)):
        yield (
            SceneCaption(
                "two_object",
                f"{carrier} a {one} and a {other}",
                (CaptionClause(one), CaptionClause(other)),
            ),
            is_held_out_pair(one, other),
        )


def _counting_captions() -> Iterator[tuple[SceneCaption, bool]]:
    for carrier, shape, count in product(CARRIERS, SHAPES, NUMBERS):
        held = HELD_OUT_NUMBERS[shape] == count
        yield (
            SceneCaption(
                "counting",
                f"{carrier} {NUMBERS[count]} {PLURALS[shape]}",
                (CaptionClause(shape, count),),
            ),
            held,
        )


def _colour_captions() -> Iterator[tuple[SceneCaption, bool]]:
    for carrier, shape, colour in product(CARRIERS, SHAPES, COLOURS):
        yield (
            SceneCaption(
                "colors", f"{carrier} a {colour} {shape}", (CaptionClause(shape, colour=colour),)
            ),
            HELD_OUT_COLOURS[shape] == colour,
        )


def _position_captions() -> Iterator[tuple[SceneCaption, bool]]:
    """The second noun is the reference and stands first in the facts, as in GenEval."""
    for carrier, (one, other), relation in product(CARRIERS, permutations(SHAPES, 2), RELATIONS):
        wanted = (CaptionClause(other), CaptionClause(one, position=(relation, 0)))
        held = is_held_out_pair(one, other) or held_out_relation(one, other) == relation
        yield SceneCaption("position", f"{carrier} a {one} {relation} a {other}", wanted), held


def _colour_binding_captions() -> Iterator[tuple[SceneCaption, bool]]:
    for carrier, (one, other), (first, second) in product(
        CARRIERS, permutations(SHAPES, 2), permutations(COLOURS, 2)
    ):
        wanted = (CaptionClause(one, colour=first), CaptionClause(other, colour=second))
        held = (
            is_held_out_pair(one, other)
            or HELD_OUT_COLOURS[one] == first
            or HELD_OUT_COLOURS[other] == second
        )
        yield (
            SceneCaption("color_attr", f"{carrier} a {first} {one} and a {second} {other}", wanted),
            held,
        )


def is_held_out_pair(one: str, other: str) -> bool:
    """Whether no training caption names both shapes."""
    return frozenset({one, other}) in HELD_OUT_PAIRS


def held_out_relation(one: str, other: str) -> str:
    """The relation of `one` to `other` that no training caption states."""
    return RELATIONS[(2 * SHAPES.index(one) + SHAPES.index(other)) % len(RELATIONS)]
