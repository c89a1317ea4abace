"""Error rates of the shape detector on scenes with known content: sharp, blurred and noisy."""

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
from harope_bench.data.shapes_scenes.scene_images import Scene, render_scene
from harope_bench.data.shapes_scenes.scene_pool import compose_indexed_scene

SIDES = (32, 48, 64, 128)  # sides of the images in pixels
# The styles alternate after each round of the tasks.
STYLES = (
    Style(textured_fraction=0.5),
    Style(textured_fraction=0.5, has_one_colour=True),
)


class ParserErrors(NamedTuple):
    """Numbers of errors at one image size under one distortion, and of cases.

    Attributes:
        misread_scenes: Scenes of which not all shapes and colours were detected correctly.
        scenes: Number of scenes.
        missed_objects: Objects that were not detected.
        extra_objects: Detections without an object.
        objects: Number of objects.
        wrong_answers: Questions with a wrong or no answer.
        questions: Number of questions. About half of them are about another scene.
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
        """Return the number of errors of every kind."""
        return self.misread_scenes + self.missed_objects + self.extra_objects + self.wrong_answers


class SceneAnnotation(NamedTuple):
    """What an annotator reports about a scene.

    Attributes:
        objects: Shape and colour of each object above the threshold.
        answers: Score of the answer yes to each question; None is no answer.
    """

    objects: Sequence[tuple[str, str]]
    answers: Sequence[float | None]


def keep_image(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the image unchanged."""
    return image


def blur_image(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the image with a Gaussian blur, sigma 1/50 of the side."""
    sigmas = (image.shape[0] / 50, image.shape[1] / 50, 0)
    blurred_image = ndimage.gaussian_filter(image.astype(np.float64), sigmas)
    return np.rint(blurred_image).astype(np.uint8)


def add_noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the image with Gaussian noise, standard deviation 12 of 255."""
    return np.clip(np.rint(image + rng.normal(0, 12, image.shape)), 0, 255).astype(np.uint8)


DISTORTIONS: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "sharp": keep_image,
    "blurred": blur_image,
    "noisy": add_noise,
}

# A function of an image (H, W, 3) uint8 and questions.
AnnotateScene = Callable[[np.ndarray, Sequence[str]], SceneAnnotation]


def annotate_with_parser(image: np.ndarray, questions: Sequence[str]) -> SceneAnnotation:
    """Return the detections and answers of the shape detector alone."""
    detections = detect_shapes(image)
    return SceneAnnotation(
        [(d.label, d.colour) for d in detections if d.score > DETECTION_THRESHOLD],
        [answer_question(question, detections) for question in questions],
    )


def measure_parser_errors(
    count: int = 120, sides: Sequence[int] = SIDES, annotate: AnnotateScene = annotate_with_parser
) -> dict[tuple[int, str], ParserErrors]:
    """Return the errors of an annotator by image side and distortion.

    Half of the scenes have a textured background. Half of the counted objects have one colour.

    Args:
        count: Number of scenes of the test split.
        sides: Sides of the images in pixels.
        annotate: The annotator.
    """
    return {
        (side, distortion): _measure_distortion(count, side, distortion, annotate)
        for side in sides
        for distortion in DISTORTIONS
    }


def _measure_distortion(
    count: int, side: int, distortion: str, annotate: AnnotateScene
) -> ParserErrors:
    """Return the sum of the errors over scenes at one image side under one distortion."""
    captioned_scenes = [
        compose_indexed_scene("test", index, STYLES[index // len(TASKS) % 2])
        for index in range(count)
    ]
    errors_by_scene = []
    for index, (caption, scene) in enumerate(captioned_scenes):
        next_caption, _ = captioned_scenes[(index + 1) % count]
        expected_answers = _questions_with_answers(caption, next_caption)
        rng = np.random.default_rng(index)
        image = DISTORTIONS[distortion](render_scene(scene, side), rng)
        annotation = annotate(image, list(expected_answers))
        errors_by_scene.append(_count_errors(scene, expected_answers, annotation))
    return ParserErrors(*(sum(column) for column in zip(*errors_by_scene, strict=True)))


def _count_errors(
    scene: Scene, expected_answers: Mapping[str, bool], annotation: SceneAnnotation
) -> ParserErrors:
    """Return the errors of an annotation of one scene."""
    scene_objects = Counter((item.shape, item.colour) for item in scene.objects)
    detected_objects = Counter(annotation.objects)
    n_wrong_answers = sum(
        score is None or (score > DETECTION_THRESHOLD) != is_yes
        for score, is_yes in zip(annotation.answers, expected_answers.values(), strict=True)
    )
    return ParserErrors(
        misread_scenes=int(scene_objects != detected_objects),
        scenes=1,
        missed_objects=(scene_objects - detected_objects).total(),
        extra_objects=(detected_objects - scene_objects).total(),
        objects=len(scene.objects),
        wrong_answers=n_wrong_answers,
        questions=len(expected_answers),
    )


def _questions_with_answers(caption: SceneCaption, other_caption: SceneCaption) -> dict[str, bool]:
    """Return questions about a scene and whether the answer is yes.

    The questions of its own caption have the answer yes. Questions of another caption about shapes
    that are not in the scene have the answer no.
    """
    shapes = {clause.shape for clause in caption.clauses}
    questions_with_no = [
        question.text
        for question in caption_questions(other_caption)
        if not any(shape in question.text for shape in shapes)
    ]
    questions_with_yes = [question.text for question in caption_questions(caption)]
    return {**dict.fromkeys(questions_with_no, False), **dict.fromkeys(questions_with_yes, True)}
