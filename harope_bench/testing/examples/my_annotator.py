"""Judge my-annotator: answers questions about colours by the colour of most pixels."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from harope_bench.core.annotations import Annotation, Query, VqaAnnotation, VqaAnswer, VqaQuery
from harope_bench.core.errors import ShapeError
from harope_bench.judges.base import AnnotationCheck, Annotator, LoadedAnnotator

COLOURS = {
    "red": (220, 50, 50),
    "green": (50, 170, 80),
    "blue": (60, 90, 220),
    "yellow": (230, 200, 60),
    "purple": (150, 70, 190),
    "white": (240, 240, 240),
}
WEIGHTS_SHA256 = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
RED_IMAGE = np.full((8, 8, 3), COLOURS["red"], dtype=np.uint8)
RED_QUERY = VqaQuery(questions=("a red circle?",))


class MyAnnotator(Annotator):
    """The plug-in, which describes the annotator and loads nothing."""

    version = 1  # raise it where annotations change
    judge_class = "micro"  # or official, equivalent, substitute: see docs/concepts.md
    preprocessing = "pixels as they are"
    roles = ("vqa",)  # the kinds of queries that it answers, of core/annotations.py

    def weights_sha256(self) -> str:
        """Return the hash of this file, which stands for weights."""
        return WEIGHTS_SHA256

    def open(self, device: str) -> LoadedMyAnnotator:
        """Return the annotator; a network would be loaded to the device here."""
        return LoadedMyAnnotator()

    def self_checks(self) -> tuple[AnnotationCheck, ...]:
        """Return the checks that run before every use of the annotator."""
        return (AnnotationCheck("a red image is red", "vqa", RED_IMAGE, RED_QUERY, _is_yes),)


class LoadedMyAnnotator(LoadedAnnotator):
    """The annotator that is ready for images."""

    weights_sha256 = WEIGHTS_SHA256

    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        """Return an answer to each question about an image (H, W, 3) uint8."""
        if not isinstance(query, VqaQuery):
            raise ShapeError(f"my-annotator has role vqa, wanted {role}; choose another judge")
        fractions = colour_fractions(image)
        return VqaAnnotation(answers=tuple(_answer(text, fractions) for text in query.questions))


def colour_fractions(image: np.ndarray) -> dict[str, float]:
    """Return, of the pixels that are not dark, the fraction that each of COLOURS is nearest to."""
    pixels = image.reshape(-1, 3).astype(np.int64)  # (H * W, 3)
    pixels = pixels[pixels.max(1) > 100]
    palette = np.array(list(COLOURS.values()))  # (colours, 3)
    nearest = ((pixels[:, None] - palette) ** 2).sum(2).argmin(1)  # (pixels,)
    counts = np.bincount(nearest, minlength=len(COLOURS))  # (colours,)
    return dict(zip(COLOURS, (counts / max(1, len(pixels))).tolist(), strict=True))


def _answer(question: str, fractions: dict[str, float]) -> VqaAnswer:
    """Return yes where most pixels have the colour in the question; no text without a colour."""
    colours = [word for word in question.lower().split() if word in fractions]
    if not colours:
        return VqaAnswer(text="")
    fraction = fractions[colours[0]]
    return VqaAnswer(text="yes" if fraction > 0.5 else "no", yes_probability=fraction)


def _is_yes(annotation: Annotation) -> bool:
    return isinstance(annotation, VqaAnnotation) and annotation.answers[0].text == "yes"


PLUGIN = MyAnnotator()
