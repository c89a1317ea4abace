"""How often the parser is right on scenes whose truth is known, sharp, blurred and noisy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from harope_bench.data.shapes_world.answer import SURE, share
from harope_bench.data.shapes_world.draw import draw
from harope_bench.data.shapes_world.grammar import TASKS, Case
from harope_bench.data.shapes_world.layout import Style
from harope_bench.data.shapes_world.parse import parse
from harope_bench.data.shapes_world.pool import scene
from harope_bench.data.shapes_world.questions import questions

SIDES = (32, 48, 64, 128)
STYLES = (Style(textured=0.5), Style(textured=0.5, alike=True))  # by turns, a round of the tasks each


class Measured(NamedTuple):
    """Errors of the parser at one size under one spoiling, and of how many.

    misread: scenes in which shapes and colours were not all read. missed, invented: things, of those drawn. lies: questions wrongly
    answered, about half of them of another scene.
    """

    misread: int
    scenes: int
    missed: int
    invented: int
    things: int
    lies: int
    questions: int

    @property
    def wrong(self) -> int:
        """Errors of every kind."""
        return self.misread + self.missed + self.invented + self.lies


class Seen(NamedTuple):
    """Shape and colour of each thing that was surely found, and how far each question was answered yes; None is no answer."""

    things: Sequence[tuple[str, str]]
    answers: Sequence[float | None]


def sharp(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As it is."""
    return image


def blurred(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian, sigma a fiftieth of the side."""
    soft = ndimage.gaussian_filter(image.astype(np.float64), (image.shape[0] / 50, image.shape[1] / 50, 0))
    return np.rint(soft).astype(np.uint8)


def noisy(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of 12 levels on every channel."""
    return np.clip(np.rint(image + rng.normal(0, 12, image.shape)), 0, 255).astype(np.uint8)


SPOILINGS: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {"sharp": sharp, "blurred": blurred, "noisy": noisy}


Look = Callable[[np.ndarray, Sequence[str]], Seen]  # of an image (H, W, 3) uint8 and questions


def parsed(image: np.ndarray, asked: Sequence[str]) -> Seen:
    """What the parser alone makes of an image."""
    found = parse(image)
    return Seen([(one.label, one.colour) for one in found if one.score > SURE], [share(question, found) for question in asked])


def measured(count: int = 120, sides: Sequence[int] = SIDES, look: Look = parsed) -> dict[tuple[int, str], Measured]:
    """Errors by side and spoiling over `count` scenes of the test split, half of them on textured grounds, half of the counted
    things of one colour."""
    return {(side, spoiling): _one(count, side, spoiling, look) for side in sides for spoiling in SPOILINGS}


def _one(count: int, side: int, spoiling: str, look: Look) -> Measured:
    truths = [scene("test", index, STYLES[index // len(TASKS) % 2]) for index in range(count)]
    wrong = missed = invented = things = asked = lies = 0
    for index, (case, drawn) in enumerate(truths):
        right = _questions(case, truths[(index + 1) % count][0])
        image = SPOILINGS[spoiling](draw(drawn, side), np.random.default_rng(index))
        seen = look(image, list(right))
        there, found = Counter((thing.shape, thing.colour) for thing in drawn.things), Counter(seen.things)
        things += len(drawn.things)
        missed += (there - found).total()
        invented += (found - there).total()
        wrong += there != found
        asked += len(right)
        lies += sum(said is None or (said > SURE) != true for said, true in zip(seen.answers, right.values(), strict=True))
    return Measured(wrong, count, missed, invented, things, lies, asked)


def _questions(case: Case, other: Case) -> dict[str, bool]:
    """Questions of a case with the answer yes, and those of another one that its words make false."""
    shapes = {clause.shape for clause in case.include}
    false = [question.text for question in questions(other) if not any(shape in question.text for shape in shapes)]
    return {**dict.fromkeys(false, False), **{question.text: True for question in questions(case)}}
