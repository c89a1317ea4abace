"""Judge shapes-vision: the exact parser of drawn scenes in the roles of detector, colour namer and
visual question answering.

It has no weights; the hash that stands for them is that of the parser's own files. How often it
errs on known scenes, sharp, blurred and
noisy, stands in shapes_vision.toml and in every result; `harope-bench train shapes-vision` measures
it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np

from harope_bench.core.annotations import (
    Annotation,
    Box,
    ColourAnnotation,
    ColourObject,
    ColourQuery,
    Detection,
    DetectionAnnotation,
    DetectionQuery,
    Query,
    VqaAnnotation,
    VqaAnswer,
    VqaQuery,
    encode_mask,
)
from harope_bench.core.errors import ShapeError
from harope_bench.core.schema import ErrorRate
from harope_bench.core.toml_file import read_versioned_toml
from harope_bench.data import shapes_scenes
from harope_bench.data.shapes_scenes import answer_questions, detect_shapes
from harope_bench.data.shapes_scenes.parser_errors import SceneAnnotation, measure_parser_errors
from harope_bench.data.shapes_scenes.words import COLOURS
from harope_bench.judges.base import Annotator, LoadedAnnotator, NamedCheck

CHECK_SCENES = 12  # of the self-check, at three sizes and three spoilings each
FACTS = Path(__file__).parent / "shapes_vision.toml"
PARSER_FILES = ("answer.py", "draw.py", "parse.py", "words.py")
# The room's name in code and in words, and what it was when results first recorded the parser's
# hash
HASHED_NAMES = ((shapes_scenes.__name__, "harope_bench.scenes"), ("data/shapes_world/", "scenes/"))


class ShapesVision(Annotator):
    """Finds every thing whatever is asked; colours and answers follow from what it found."""

    version = 1
    judge_class = "micro"
    preprocessing = "pixels as they are"
    roles = ("detector", "detector-2d", "colours", "vqa")

    def self_checks(self) -> tuple[NamedCheck, ...]:
        """Scenes whose truth is known, sharp, blurred and noisy."""
        return (NamedCheck("truth", check_known_scenes),)

    def weights_sha256(self) -> str:
        """Hash of the parser's files."""
        return _parser_sha256()

    def measure_judge_errors(self, count: int) -> dict[str, object]:
        """The parser's errors in that many scenes of known truth, by spoiling and side, and the
        hash of the parser that made them.
        """
        errors = measure_parser_errors(count, annotate=partial(_read_scene, self.open("cpu")))
        found = {f"{spoiling}_{side}": told._asdict() for (side, spoiling), told in errors.items()}
        return {"parser_sha256": _parser_sha256(), **found}

    def error_rates(self) -> tuple[ErrorRate, ...]:
        """What `examine` found, as shipped; nothing where the parser is another one now."""
        facts = read_versioned_toml("judge", FACTS)
        if facts["parser_sha256"] != _parser_sha256():
            return ()
        return tuple(
            rate
            for kind, told in facts.items()
            if isinstance(told, dict)
            for rate in _error_rates(kind, told)
        )

    def open(self, device: str) -> LoadedShapesVision:
        """Ready to look, one for all; the device does not matter."""
        return _load()


class LoadedShapesVision(LoadedAnnotator):
    """Looks at one image at a time; the last one is remembered, since it is asked about in several
    roles.
    """

    def __init__(self, weights_sha256: str):
        self.weights_sha256 = weights_sha256
        self._last: tuple[np.ndarray, list[detect_shapes.ShapeDetection]] | None = None

    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        """The answer of a role for an image (H, W, 3) uint8."""
        found = self._parse(image)
        if isinstance(query, DetectionQuery):
            return DetectionAnnotation(
                size=(image.shape[1], image.shape[0]), detections=tuple(map(_to_detection, found))
            )
        if isinstance(query, ColourQuery):
            return ColourAnnotation(
                probabilities=tuple(
                    _shares(_colour(thing, found), query.candidates) for thing in query.objects
                )
            )
        if isinstance(query, VqaQuery):
            return VqaAnnotation(
                answers=tuple(
                    _to_answer(answer_questions.answer_question(question, found))
                    for question in query.questions
                )
            )
        raise ShapeError(
            f"shapes-vision has no role {role}; ask it for {', '.join(ShapesVision.roles)}"
        )

    def _parse(self, image: np.ndarray) -> list[detect_shapes.ShapeDetection]:
        if self._last is None or not np.array_equal(self._last[0], image):
            self._last = (image.copy(), detect_shapes.detect_shapes(image))
        return self._last[1]


def _error_rates(kind: str, told: dict[str, int]) -> Iterator[ErrorRate]:
    spoiling, side = kind.split("_")
    yield ErrorRate(
        case_kind=f"{spoiling} scenes of {side} px misread",
        n_wrong=told["misread"],
        n_cases=told["scenes"],
    )
    yield ErrorRate(
        case_kind=f"questions on {spoiling} scenes of {side} px answered wrongly",
        n_wrong=told["lies"],
        n_cases=told["questions"],
    )


@cache
def _load() -> LoadedShapesVision:
    return LoadedShapesVision(_parser_sha256())


@cache
def check_known_scenes(opened: LoadedAnnotator) -> str | None:
    """What the judge gets wrong in a few rendered scenes in all its roles, None where nothing
    is.
    """
    for (side, spoiling), errors in measure_parser_errors(
        CHECK_SCENES, annotate=partial(_read_scene, opened)
    ).items():
        if errors.n_errors:
            return (
                f"{errors.misread_scenes} of {CHECK_SCENES} {spoiling} scenes of {side} pixels are"
                f" not read as drawn, {errors.wrong_answers} answers are wrong"
            )
    return None


def _read_scene(
    opened: LoadedAnnotator, image: np.ndarray, questions: Sequence[str]
) -> SceneAnnotation:
    """A scene as the judge tells of it: detector, then the colours of what it found, then
    answers.
    """
    sighting = opened.annotate("detector", image, DetectionQuery())
    assert isinstance(sighting, DetectionAnnotation)
    sure = tuple(
        ColourObject(name=one.label, box=one.box, mask=one.mask)
        for one in sighting.detections
        if one.score > answer_questions.DETECTION_THRESHOLD
    )
    named = opened.annotate("colours", image, ColourQuery(objects=sure, candidates=COLOURS))
    told = opened.annotate("vqa", image, VqaQuery(questions=tuple(questions)))
    assert isinstance(named, ColourAnnotation) and isinstance(told, VqaAnnotation)
    painted = [COLOURS[int(np.argmax(shares))] for shares in named.probabilities]
    return SceneAnnotation(
        [(one.name, colour) for one, colour in zip(sure, painted, strict=True)],
        [one.yes_probability for one in told.answers],
    )


@cache
def _parser_sha256() -> str:
    """Return the sha256 of the parser's files as they were in their first room: where they lie
    makes no other parser.
    """
    folder = Path(shapes_scenes.__path__[0])
    source = b"".join((folder / name).read_bytes() for name in PARSER_FILES)
    for here, first in HASHED_NAMES:
        source = source.replace(here.encode(), first.encode())
    return hashlib.sha256(source).hexdigest()


def _to_detection(thing: detect_shapes.ShapeDetection) -> Detection:
    return Detection(
        label=thing.label, score=thing.score, box=_box(thing), mask=encode_mask(thing.mask)
    )


def _box(thing: detect_shapes.ShapeDetection) -> Box:
    x0, y0, x1, y1 = thing.box
    return (float(x0), float(y0), float(x1), float(y1))


def _colour(thing: ColourObject, found: list[detect_shapes.ShapeDetection]) -> str | None:
    """The colour of the found thing in that box, whatever its class; None where there is none."""
    return next((one.colour for one in found if _box(one) == thing.box), None)


def _shares(colour: str | None, candidates: tuple[str, ...]) -> tuple[float, ...]:
    """All on its colour; alike where that is no candidate."""
    if colour not in candidates:
        return (1 / len(candidates),) * len(candidates)
    return tuple(float(candidate == colour) for candidate in candidates)


def _to_answer(yes: float | None) -> VqaAnswer:
    """yes or no; nothing to a question that the parser does not read."""
    return (
        VqaAnswer(text="")
        if yes is None
        else VqaAnswer(
            text="yes" if yes > answer_questions.DETECTION_THRESHOLD else "no", yes_probability=yes
        )
    )


PLUGIN = ShapesVision()
