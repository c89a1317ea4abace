"""How often the parser is right on scenes whose truth is known, sharp, blurred and noisy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from harope_bench.data.shapes_scenes.answer_questions import DETECTION_THRESHOLD, answer_question
from harope_bench.data.shapes_scenes.detect_shapes import detect_shapes
from harope_bench.data.shapes_scenes.grammar import TASKS, SceneCaption
from harope_bench.data.shapes_scenes.layout import Style
from harope_bench.data.shapes_scenes.questions import caption_questions
from harope_bench.data.shapes_scenes.scene_images import render_scene
from harope_bench.data.shapes_scenes.scene_pool import compose_indexed_scene

SIDES = (32, 48, 64, 128)
STYLES = (
    Style(textured_fraction=0.5),
    Style(textured_fraction=0.5, has_one_colour=True),
)  # by turns, a round of the tasks each


class ParserErrors(NamedTuple):
    """Errors of the parser at one size under one spoiling, and of how many.

    misread: scenes in which shapes and colours were not all read. missed, invented: things, of
    those drawn. lies: questions wrongly
    answered, about half of them of another scene.
    """

    misread_scenes: int
    scenes: int
    missed_objects: int
    extra_objects: int
    objects: int
    wrong_answers: int
    questions: int

    @property
    def n_errors(self) -> int:
        """Errors of every kind."""
        return self.misread_scenes + self.missed_objects + self.extra_objects + self.wrong_answers


class SceneAnnotation(NamedTuple):
    """Shape and colour of each thing that was surely found, and how far each question was answered
    yes; None is no answer.
    """

    objects: Sequence[tuple[str, str]]
    answers: Sequence[float | None]


def keep_image(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As it is."""
    return image


def blur_image(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian, sigma a fiftieth of the side."""
    soft = ndimage.gaussian_filter(
        image.astype(np.float64), (image.shape[0] / 50, image.shape[1] / 50, 0)
    )
    return np.rint(soft).astype(np.uint8)


def add_noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of 12 levels on every channel."""
    return np.clip(np.rint(image + rng.normal(0, 12, image.shape)), 0, 255).astype(np.uint8)


DISTORTIONS: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "sharp": keep_image,
    "blurred": blur_image,
    "noisy": add_noise,
}


AnnotateScene = Callable[
    [np.ndarray, Sequence[str]], SceneAnnotation
]  # of an image (H, W, 3) uint8 and questions


def annotate_with_parser(image: np.ndarray, asked: Sequence[str]) -> SceneAnnotation:
    """What the parser alone makes of an image."""
    found = detect_shapes(image)
    return SceneAnnotation(
        [(one.label, one.colour) for one in found if one.score > DETECTION_THRESHOLD],
        [answer_question(question, found) for question in asked],
    )


def measure_parser_errors(
    count: int = 120, sides: Sequence[int] = SIDES, annotate: AnnotateScene = annotate_with_parser
) -> dict[tuple[int, str], ParserErrors]:
    """Errors by side and spoiling over `count` scenes of the test split, half of them on textured
    grounds, half of the counted
    things of one colour."""
    return {
        (side, spoiling): _measure_distortion(count, side, spoiling, annotate)
        for side in sides
        for spoiling in DISTORTIONS
    }


def _measure_distortion(count: int, side: int, spoiling: str, look: AnnotateScene) -> ParserErrors:
    truths = [
        compose_indexed_scene("test", index, STYLES[index // len(TASKS) % 2])
        for index in range(count)
    ]
    wrong = missed = invented = things = asked = lies = 0
    for index, (case, drawn) in enumerate(truths):
        right = _questions_with_answers(case, truths[(index + 1) % count][0])
        image = DISTORTIONS[spoiling](render_scene(drawn, side), np.random.default_rng(index))
        seen = look(image, list(right))
        there = Counter((thing.shape, thing.colour) for thing in drawn.objects)
        found = Counter(seen.objects)
        things += len(drawn.objects)
        missed += (there - found).total()
        invented += (found - there).total()
        wrong += there != found
        asked += len(right)
        lies += sum(
            said is None or (said > DETECTION_THRESHOLD) != true
            for said, true in zip(seen.answers, right.values(), strict=True)
        )
    return ParserErrors(wrong, count, missed, invented, things, lies, asked)


def _questions_with_answers(case: SceneCaption, other: SceneCaption) -> dict[str, bool]:
    """Questions of a case with the answer yes, and those of another one that its words make
    false.
    """
    shapes = {clause.shape for clause in case.clauses}
    false = [
        question.text
        for question in caption_questions(other)
        if not any(shape in question.text for shape in shapes)
    ]
    return {
        **dict.fromkeys(false, False),
        **{question.text: True for question in caption_questions(case)},
    }
