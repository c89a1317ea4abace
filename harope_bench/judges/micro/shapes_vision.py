"""Judge shapes-vision: the exact parser of rendered scenes as detector, colour namer and VQA judge.

It has no weights; the hash of the parser's files replaces their hash. shapes_vision.toml and every
result state how often it is wrong on known scenes: sharp, blurred and noisy ones.
`harope-bench train shapes-vision` measures that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

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
from harope_bench.core.errors import OptionError
from harope_bench.core.schema import ErrorRate
from harope_bench.core.toml_file import read_versioned_toml
from harope_bench.data import shapes_scenes
from harope_bench.data.shapes_scenes.words import COLOURS
from harope_bench.judges.base import Annotator, LoadedAnnotator, NamedCheck

if TYPE_CHECKING:
    from harope_bench.data.shapes_scenes.detect_shapes import ShapeDetection
    from harope_bench.data.shapes_scenes.parser_errors import SceneAnnotation

CHECK_SCENES = 12  # scenes of the self-check, at each of the sizes and distortions
METADATA_PATH = Path(__file__).parent / "shapes_vision.toml"
PARSER_FILES = ("answer_questions.py", "scene_images.py", "detect_shapes.py", "words.py")


class ShapesVision(Annotator):
    """The plug-in.

    It detects every object whatever the query. Colours and answers follow from the detections.
    """

    version = 1
    judge_class = "micro"
    packages = ("scipy",)
    preprocessing = "pixels as they are"
    roles = ("detector", "detector-2d", "colours", "vqa")

    def self_checks(self) -> tuple[NamedCheck, ...]:
        """Return a check with known scenes: sharp, blurred and noisy ones."""
        return (NamedCheck("known scenes", check_known_scenes),)

    def weights_sha256(self) -> str:
        """Return the hash of the parser's files."""
        return _parser_sha256()

    def measure_judge_errors(self, count: int) -> dict[str, object]:
        """Return the parser's errors in `count` known scenes and the hash of the parser.

        The errors are a table for each distortion and side, like `sharp_32`.
        """
        from harope_bench.data.shapes_scenes.parser_errors import measure_parser_errors

        errors = measure_parser_errors(count, annotate=partial(_read_scene, self.open("cpu")))
        tables = {
            f"{distortion}_{side}": error_counts._asdict()
            for (side, distortion), error_counts in errors.items()
        }
        return {"parser_sha256": _parser_sha256(), **tables}

    def error_rates(self) -> tuple[ErrorRate, ...]:
        """Return the recorded errors, or none where the parser has changed since."""
        metadata = read_versioned_toml("judge", METADATA_PATH)
        if metadata["parser_sha256"] != _parser_sha256():
            return ()
        return tuple(
            error_rate
            for name, table in metadata.items()
            if isinstance(table, dict)
            for error_rate in _error_rates(name, table)
        )

    def open(self, device: str) -> LoadedShapesVision:
        """Return the judge, one for the whole process; the device does not matter."""
        return _load()


class LoadedShapesVision(LoadedAnnotator):
    """The parser, which caches its detections in the last image.

    An image is queried in several roles one after the other.
    """

    def __init__(self, weights_sha256: str):
        self.weights_sha256 = weights_sha256
        self._cache: tuple[np.ndarray, list[ShapeDetection]] | None = None

    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        """Return the annotation of a role for an image (H, W, 3) uint8."""
        from harope_bench.data.shapes_scenes import answer_questions

        detections = self._detect(image)
        if isinstance(query, DetectionQuery):
            return DetectionAnnotation(
                size=(image.shape[1], image.shape[0]),
                detections=tuple(map(_to_detection, detections)),
            )
        if isinstance(query, ColourQuery):
            return ColourAnnotation(
                probabilities=tuple(
                    _probabilities(_object_colour(colour_object, detections), query.candidates)
                    for colour_object in query.objects
                )
            )
        if isinstance(query, VqaQuery):
            return VqaAnnotation(
                answers=tuple(
                    _to_answer(answer_questions.answer_question(question, detections))
                    for question in query.questions
                )
            )
        raise OptionError(
            f"judge shapes-vision has the roles {', '.join(ShapesVision.roles)}, wanted {role};"
            " choose another judge"
        )

    def _detect(self, image: np.ndarray) -> list[ShapeDetection]:
        """Return the parser's detections in an image."""
        from harope_bench.data.shapes_scenes import detect_shapes

        if self._cache is None or not np.array_equal(self._cache[0], image):
            self._cache = (image.copy(), detect_shapes.detect_shapes(image))
        return self._cache[1]


def _error_rates(name: str, table: dict[str, int]) -> Iterator[ErrorRate]:
    """Yield the error rates of a table of shapes_vision.toml, whose name is like `sharp_32`."""
    distortion, side = name.split("_")
    yield ErrorRate(
        case_kind=f"{distortion} scenes of {side} px misread",
        n_wrong=table["misread_scenes"],
        n_cases=table["scenes"],
    )
    yield ErrorRate(
        case_kind=f"questions on {distortion} scenes of {side} px answered wrongly",
        n_wrong=table["wrong_answers"],
        n_cases=table["questions"],
    )


@cache
def _load() -> LoadedShapesVision:
    """Return the loaded judge of the process."""
    return LoadedShapesVision(_parser_sha256())


@cache
def check_known_scenes(judge: LoadedAnnotator) -> str | None:
    """Return what the judge gets wrong in a few rendered scenes in all its roles, or None."""
    from harope_bench.data.shapes_scenes.parser_errors import measure_parser_errors

    errors = measure_parser_errors(CHECK_SCENES, annotate=partial(_read_scene, judge))
    for (side, distortion), error_counts in errors.items():
        if error_counts.n_errors:
            return (
                f"{error_counts.misread_scenes} of {CHECK_SCENES} {distortion} scenes of {side}"
                f" pixels are not read as drawn, {error_counts.wrong_answers} answers are wrong"
            )
    return None


def _read_scene(
    judge: LoadedAnnotator, image: np.ndarray, questions: Sequence[str]
) -> SceneAnnotation:
    """Return the judge's detections with their colours, and its answers to questions."""
    from harope_bench.data.shapes_scenes import answer_questions
    from harope_bench.data.shapes_scenes.parser_errors import SceneAnnotation

    detection_annotation = judge.annotate("detector", image, DetectionQuery())
    assert isinstance(detection_annotation, DetectionAnnotation)
    colour_objects = tuple(
        ColourObject(name=detection.label, box=detection.box, mask=detection.mask)
        for detection in detection_annotation.detections
        if detection.score > answer_questions.DETECTION_THRESHOLD
    )

    colour_query = ColourQuery(objects=colour_objects, candidates=COLOURS)
    colour_annotation = judge.annotate("colours", image, colour_query)
    assert isinstance(colour_annotation, ColourAnnotation)
    colours = [
        COLOURS[int(np.argmax(probabilities))] for probabilities in colour_annotation.probabilities
    ]

    vqa_annotation = judge.annotate("vqa", image, VqaQuery(questions=tuple(questions)))
    assert isinstance(vqa_annotation, VqaAnnotation)
    return SceneAnnotation(
        [
            (colour_object.name, colour)
            for colour_object, colour in zip(colour_objects, colours, strict=True)
        ],
        [answer.yes_probability for answer in vqa_annotation.answers],
    )


@cache
def _parser_sha256() -> str:
    """Return the sha256 of the contents of the parser's files, wherever they are."""
    folder = Path(shapes_scenes.__path__[0])
    return hashlib.sha256(
        b"".join((folder / name).read_bytes() for name in PARSER_FILES)
    ).hexdigest()


def _to_detection(detection: ShapeDetection) -> Detection:
    """Return the parser's detection as a detection of the annotator."""
    return Detection(
        label=detection.label,
        score=detection.score,
        box=_box(detection),
        mask=encode_mask(detection.mask),
    )


def _box(detection: ShapeDetection) -> Box:
    """Return the box of the parser's detection as floats."""
    x0, y0, x1, y1 = detection.box
    return (float(x0), float(y0), float(x1), float(y1))


def _object_colour(colour_object: ColourObject, detections: list[ShapeDetection]) -> str | None:
    """Return the colour of the detection with the object's box, whatever its class, or None."""
    for detection in detections:
        if _box(detection) == colour_object.box:
            return detection.colour
    return None


def _probabilities(colour: str | None, candidates: tuple[str, ...]) -> tuple[float, ...]:
    """Return probability 1 for the colour, or equal ones where it is no candidate."""
    if colour not in candidates:
        return (1 / len(candidates),) * len(candidates)
    return tuple(float(candidate == colour) for candidate in candidates)


def _to_answer(yes_probability: float | None) -> VqaAnswer:
    """Return yes or no, or an empty text for a question that the parser cannot read."""
    from harope_bench.data.shapes_scenes import answer_questions

    if yes_probability is None:
        return VqaAnswer(text="")
    is_yes = yes_probability > answer_questions.DETECTION_THRESHOLD
    return VqaAnswer(text="yes" if is_yes else "no", yes_probability=yes_probability)


PLUGIN = ShapesVision()
