"""Captions of scenes and their clauses: GenEval's six tasks on five shapes and six colours.

A caption is a carrier ("a photo of", always three words) and one of six sentence forms. Some
combinations are held out of the training captions. Every test caption contains one of them:

- a carrier with a shape (single_object), a number with a shape (counting), a colour with a shape
  (colors);
- two pairs of shapes, which no training caption of any task contains (two_object, position,
  color_attr);
- for the other pairs, one relation of an ordered pair of shapes (position), and a colour of a shape
  beside another object (color_attr).

So every word occurs in training captions, but no test caption does. The number of test captions is
5 of single_object, 4 of two_object, 5 of counting, 5 of colors, 24 of position and 24 of
color_attr. No two of them have the same clauses in the same order. The order matters: 12 pairs of
test captions mirror each other ("a circle left of a cross", "a cross right of a circle"), and 7
test captions of position mirror a training caption.

Sentence forms and metadata follow djghosh13/geneval:prompts/.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product
from typing import Literal, NamedTuple

from harope_bench.data.shapes_scenes.words import COLOURS, NUMBERS, PLURALS, RELATIONS, SHAPES

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
CARRIERS = ("a photo of", "a picture of", "a drawing of", "a painting of")
MAX_TEST_CAPTIONS = 24  # test captions per task

# Combinations that no training caption contains.
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
    """One clause of a caption: a number of objects of one shape.

    Attributes:
        colour: Colour of the objects; None if the caption states none.
        position: Relation to the object of an earlier clause, and the number of that clause.
    """

    shape: str
    count: int = 1
    colour: str | None = None
    position: tuple[str, int] | None = None

    def geneval_fields(self) -> dict[str, object]:
        """Return the clause as an item of `include` in GenEval's metadata."""
        fields: dict[str, object] = {"class": self.shape, "count": self.count}
        if self.colour is not None:
            fields["color"] = self.colour
        if self.position is not None:
            fields["position"] = list(self.position)
        return fields


Clauses = tuple[CaptionClause, ...]


@dataclass(frozen=True)
class SceneCaption:
    """A caption: its task, its text and the clauses that a scene must fulfil."""

    task: str
    prompt: str
    clauses: Clauses

    def geneval_metadata(self) -> dict[str, object]:
        """Return a line of GenEval's metadata: tag, include, exclude (only for counting), prompt.

        `exclude` makes an additional object of the counted shape an error.
        """
        metadata: dict[str, object] = {
            "tag": self.task,
            "include": [clause.geneval_fields() for clause in self.clauses],
        }
        if self.task == "counting":
            clause = self.clauses[0]
            metadata["exclude"] = [{"class": clause.shape, "count": clause.count + 1}]
        return metadata | {"prompt": self.prompt}


class SplitCaption(NamedTuple):
    """A caption and whether it contains a held-out combination, which makes it a test caption."""

    caption: SceneCaption
    is_held_out: bool


@lru_cache(maxsize=2)
def list_captions(split: Split) -> tuple[SceneCaption, ...]:
    """Return all captions of a split in a fixed order, task by task in the order of TASKS."""
    is_test = split == "test"
    captions = [item.caption for item in _all_captions() if item.is_held_out == is_test]
    return tuple(_select_test_captions(captions) if is_test else captions)


def _select_test_captions(held_out_captions: list[SceneCaption]) -> Iterator[SceneCaption]:
    """Yield one caption for each combination of clauses, the carriers in turn.

    At most MAX_TEST_CAPTIONS combinations per task are selected, pseudo-randomly. A combination is
    not repeated with another carrier: networks generate nearly equal images for both, so a standard
    error over prompts would be too small.
    """
    for task in TASKS:
        captions_by_clauses: dict[Clauses, list[SceneCaption]] = {}
        for caption in held_out_captions:
            if caption.task == task:
                captions_by_clauses.setdefault(caption.clauses, []).append(caption)

        shuffled_clauses = sorted(captions_by_clauses, key=_random_order_key)
        selected_clauses = set(shuffled_clauses[:MAX_TEST_CAPTIONS])
        n_yielded = 0
        for clauses, captions in captions_by_clauses.items():
            if clauses in selected_clauses:
                yield captions[n_yielded % len(captions)]
                n_yielded += 1


def _random_order_key(clauses: Clauses) -> str:
    """Return a pseudo-random sort key that is the same on every machine.

    Taking combinations in the order of the captions would prefer some words.
    """
    fields = [clause.geneval_fields() for clause in clauses]
    return hashlib.sha256(repr(fields).encode()).hexdigest()


def _all_captions() -> Iterator[SplitCaption]:
    """Yield every caption of both splits."""
    yield from _single_object_captions()
    yield from _two_object_captions()
    yield from _counting_captions()
    yield from _colour_captions()
    yield from _position_captions()
    yield from _colour_binding_captions()


def _single_object_captions() -> Iterator[SplitCaption]:
    for carrier, shape in product(CARRIERS, SHAPES):
        text = f"{carrier} a {shape}"
        caption = SceneCaption("single_object", text, (CaptionClause(shape),))
        yield SplitCaption(caption, HELD_OUT_CARRIERS[shape] == carrier)


def _two_object_captions() -> Iterator[SplitCaption]:
    for carrier, (shape_a, shape_b) in product(CARRIERS, permutations(SHAPES, 2)):
        text = f"{carrier} a {shape_a} and a {shape_b}"
        clauses = (CaptionClause(shape_a), CaptionClause(shape_b))
        caption = SceneCaption("two_object", text, clauses)
        yield SplitCaption(caption, is_held_out_pair(shape_a, shape_b))


def _counting_captions() -> Iterator[SplitCaption]:
    for carrier, shape, count in product(CARRIERS, SHAPES, NUMBERS):
        text = f"{carrier} {NUMBERS[count]} {PLURALS[shape]}"
        caption = SceneCaption("counting", text, (CaptionClause(shape, count),))
        yield SplitCaption(caption, HELD_OUT_NUMBERS[shape] == count)


def _colour_captions() -> Iterator[SplitCaption]:
    for carrier, shape, colour in product(CARRIERS, SHAPES, COLOURS):
        text = f"{carrier} a {colour} {shape}"
        caption = SceneCaption("colors", text, (CaptionClause(shape, colour=colour),))
        yield SplitCaption(caption, HELD_OUT_COLOURS[shape] == colour)


def _position_captions() -> Iterator[SplitCaption]:
    """Yield the captions of position.

    The second noun is the reference. Its clause precedes the other in the metadata, as in GenEval.
    """
    for carrier, (target, reference), relation in product(
        CARRIERS, permutations(SHAPES, 2), RELATIONS
    ):
        text = f"{carrier} a {target} {relation} a {reference}"
        clauses = (CaptionClause(reference), CaptionClause(target, position=(relation, 0)))
        is_held_out = (
            is_held_out_pair(target, reference) or held_out_relation(target, reference) == relation
        )
        yield SplitCaption(SceneCaption("position", text, clauses), is_held_out)


def _colour_binding_captions() -> Iterator[SplitCaption]:
    for carrier, (shape_a, shape_b), (colour_a, colour_b) in product(
        CARRIERS, permutations(SHAPES, 2), permutations(COLOURS, 2)
    ):
        text = f"{carrier} a {colour_a} {shape_a} and a {colour_b} {shape_b}"
        clauses = (
            CaptionClause(shape_a, colour=colour_a),
            CaptionClause(shape_b, colour=colour_b),
        )
        is_held_out = (
            is_held_out_pair(shape_a, shape_b)
            or HELD_OUT_COLOURS[shape_a] == colour_a
            or HELD_OUT_COLOURS[shape_b] == colour_b
        )
        yield SplitCaption(SceneCaption("color_attr", text, clauses), is_held_out)


def is_held_out_pair(shape_a: str, shape_b: str) -> bool:
    """Return whether no training caption contains both shapes."""
    return frozenset({shape_a, shape_b}) in HELD_OUT_PAIRS


def held_out_relation(target: str, reference: str) -> str:
    """Return the relation of a target shape to a reference that no training caption states."""
    number = 2 * SHAPES.index(target) + SHAPES.index(reference)
    return RELATIONS[number % len(RELATIONS)]
