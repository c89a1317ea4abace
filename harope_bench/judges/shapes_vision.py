"""Judge shapes-vision: the exact parser of drawn scenes in the roles of detector, colour namer and visual question answering.

It has no weights; the hash that stands for them is that of the parser's own files.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from harope_bench import scenes
from harope_bench.errors import ShapeError
from harope_bench.perceptions import (
    Answer,
    Answered,
    Answers,
    Ask,
    Box,
    Colours,
    Detection,
    Names,
    Object,
    Objects,
    Questions,
    Sighting,
    encode_mask,
)
from harope_bench.scenes import answer, parse

FILES = ("answer.py", "draw.py", "grammar.py", "parse.py")


class ShapesVision:
    """Finds every thing whatever is asked; colours and answers follow from what it found."""

    version = 1
    judge_class: Literal["official", "equivalent", "substitute", "micro"] = "micro"
    preprocessing = "pixels as they are"
    roles = ("detector", "detector-2d", "colours", "vqa")

    def weights_sha256(self) -> str:
        """Hash of the parser's files."""
        return _hash()

    def open(self, device: str) -> OpenedShapesVision:
        """Ready to look; the device does not matter."""
        return OpenedShapesVision(_hash())


class OpenedShapesVision:
    """Looks at one image at a time."""

    def __init__(self, weights_sha256: str):
        self.weights_sha256 = weights_sha256

    def see(self, role: str, image: np.ndarray, ask: Ask) -> Answer:
        """The answer of a role for an image (H, W, 3) uint8."""
        found = parse.parse(image)
        if isinstance(ask, Names):
            return Sighting(size=(image.shape[1], image.shape[0]), found=tuple(map(_told, found)))
        if isinstance(ask, Objects):
            return Colours(shares=tuple(_shares(_colour(thing, found), ask.candidates) for thing in ask.objects))
        if isinstance(ask, Questions):
            return Answers(answers=tuple(_answered(answer.share(question, found)) for question in ask.questions))
        raise ShapeError(f"shapes-vision has no role {role}; ask it for {', '.join(ShapesVision.roles)}")


@cache
def _hash() -> str:
    folder = Path(scenes.__path__[0])
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in FILES)).hexdigest()


def _told(thing: parse.Detection) -> Detection:
    return Detection(label=thing.label, score=thing.score, box=_box(thing), mask=encode_mask(thing.mask))


def _box(thing: parse.Detection) -> Box:
    x0, y0, x1, y1 = thing.box
    return (float(x0), float(y0), float(x1), float(y1))


def _colour(thing: Object, found: list[parse.Detection]) -> str | None:
    """The colour of the found thing in that box, whatever its class; None where there is none."""
    return next((one.colour for one in found if _box(one) == thing.box), None)


def _shares(colour: str | None, candidates: tuple[str, ...]) -> tuple[float, ...]:
    """All on its colour; alike where that is no candidate."""
    if colour not in candidates:
        return (1 / len(candidates),) * len(candidates)
    return tuple(float(candidate == colour) for candidate in candidates)


def _answered(yes: float | None) -> Answered:
    """yes or no; nothing to a question that the parser does not read."""
    return Answered(text="") if yes is None else Answered(text="yes" if yes > answer.SURE else "no", yes=yes)


PLUGIN = ShapesVision()
