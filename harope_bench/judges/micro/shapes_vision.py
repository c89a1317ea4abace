"""Judge shapes-vision: the exact parser of drawn scenes in the roles of detector, colour namer and visual question answering.

It has no weights; the hash that stands for them is that of the parser's own files. How often it errs on known scenes, sharp, blurred and
noisy, stands in shapes_vision.toml and in every result; `harope-bench train shapes-vision` measures it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np

from harope_bench.core.annotations import (
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
from harope_bench.core.errors import ShapeError
from harope_bench.core.schema import ErrorRate
from harope_bench.core.toml_file import read_facts
from harope_bench.data import shapes_world
from harope_bench.data.shapes_world import answer, parse
from harope_bench.data.shapes_world.measured import Seen, measured
from harope_bench.data.shapes_world.words import COLOURS
from harope_bench.judges.base import Annotator, Canary, LoadedAnnotator

SCENES = 12  # of the self-check, at three sizes and three spoilings each
FACTS = Path(__file__).parent / "shapes_vision.toml"
FILES = ("answer.py", "draw.py", "parse.py", "words.py")
# The room's name in code and in words, and what it was when results first recorded the parser's hash
NAMES = ((shapes_world.__name__, "harope_bench.scenes"), ("data/shapes_world/", "scenes/"))


class ShapesVision(Annotator):
    """Finds every thing whatever is asked; colours and answers follow from what it found."""

    version = 1
    judge_class = "micro"
    preprocessing = "pixels as they are"
    roles = ("detector", "detector-2d", "colours", "vqa")

    def canary(self) -> tuple[Canary, ...]:
        """Scenes whose truth is known, sharp, blurred and noisy."""
        return (Canary("truth", reads_the_truth),)

    def weights_sha256(self) -> str:
        """Hash of the parser's files."""
        return _hash()

    def examine(self, count: int) -> dict[str, object]:
        """The parser's errors in that many scenes of known truth, by spoiling and side, and the hash of the parser that made them."""
        errors = measured(count, look=partial(_asked, self.open("cpu")))
        found = {f"{spoiling}_{side}": told._asdict() for (side, spoiling), told in errors.items()}
        return {"parser_sha256": _hash(), **found}

    def errors(self) -> tuple[ErrorRate, ...]:
        """What `examine` found, as shipped; nothing where the parser is another one now."""
        facts = read_facts("judge", FACTS)
        if facts["parser_sha256"] != _hash():
            return ()
        return tuple(rate for kind, told in facts.items() if isinstance(told, dict) for rate in _rates(kind, told))

    def open(self, device: str) -> LoadedShapesVision:
        """Ready to look, one for all; the device does not matter."""
        return _opened()


class LoadedShapesVision(LoadedAnnotator):
    """Looks at one image at a time; the last one is remembered, since it is asked about in several roles."""

    def __init__(self, weights_sha256: str):
        self.weights_sha256 = weights_sha256
        self._last: tuple[np.ndarray, list[parse.Detection]] | None = None

    def see(self, role: str, image: np.ndarray, ask: Ask) -> Answer:
        """The answer of a role for an image (H, W, 3) uint8."""
        found = self._parse(image)
        if isinstance(ask, Names):
            return Sighting(size=(image.shape[1], image.shape[0]), found=tuple(map(_told, found)))
        if isinstance(ask, Objects):
            return Colours(shares=tuple(_shares(_colour(thing, found), ask.candidates) for thing in ask.objects))
        if isinstance(ask, Questions):
            return Answers(answers=tuple(_answered(answer.share(question, found)) for question in ask.questions))
        raise ShapeError(f"shapes-vision has no role {role}; ask it for {', '.join(ShapesVision.roles)}")

    def _parse(self, image: np.ndarray) -> list[parse.Detection]:
        if self._last is None or not np.array_equal(self._last[0], image):
            self._last = (image.copy(), parse.parse(image))
        return self._last[1]


def _rates(kind: str, told: dict[str, int]) -> Iterator[ErrorRate]:
    spoiling, side = kind.split("_")
    yield ErrorRate(cases=f"{spoiling} scenes of {side} px misread", wrong=told["misread"], of=told["scenes"])
    yield ErrorRate(cases=f"questions on {spoiling} scenes of {side} px answered wrongly", wrong=told["lies"], of=told["questions"])


@cache
def _opened() -> LoadedShapesVision:
    return LoadedShapesVision(_hash())


@cache
def reads_the_truth(opened: LoadedAnnotator) -> str | None:
    """What the judge gets wrong in a few rendered scenes in all its roles, None where nothing is."""
    for (side, spoiling), errors in measured(SCENES, look=partial(_asked, opened)).items():
        if errors.wrong:
            return f"{errors.misread} of {SCENES} {spoiling} scenes of {side} pixels are not read as drawn, {errors.lies} answers are wrong"
    return None


def _asked(opened: LoadedAnnotator, image: np.ndarray, questions: Sequence[str]) -> Seen:
    """A scene as the judge tells of it: detector, then the colours of what it found, then answers."""
    sighting = opened.see("detector", image, Names())
    assert isinstance(sighting, Sighting)
    sure = tuple(Object(name=one.label, box=one.box, mask=one.mask) for one in sighting.found if one.score > answer.SURE)
    named = opened.see("colours", image, Objects(objects=sure, candidates=COLOURS))
    told = opened.see("vqa", image, Questions(questions=tuple(questions)))
    assert isinstance(named, Colours) and isinstance(told, Answers)
    painted = [COLOURS[int(np.argmax(shares))] for shares in named.shares]
    return Seen([(one.name, colour) for one, colour in zip(sure, painted, strict=True)], [one.yes for one in told.answers])


@cache
def _hash() -> str:
    """Return the sha256 of the parser's files as they were in their first room: where they lie makes no other parser."""
    folder = Path(shapes_world.__path__[0])
    source = b"".join((folder / name).read_bytes() for name in FILES)
    for here, first in NAMES:
        source = source.replace(here.encode(), first.encode())
    return hashlib.sha256(source).hexdigest()


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
