"""Answers to the questions of questions.py, and to noun chunks, from detections of shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from harope_bench.data.shapes_scenes.detect_shapes import ShapeDetection
from harope_bench.data.shapes_scenes.words import COLOURS, NUMBERS, PLURALS, RELATIONS, SHAPES

DETECTION_THRESHOLD = 0.5  # score above which an object counts as present
SHAPE_PATTERN = "|".join(SHAPES)
PLURAL_PATTERN = "|".join(PLURALS.values())
COLOUR_PATTERN = "|".join(COLOURS)
RELATION_PATTERN = "|".join(RELATIONS)
NUMBER_VALUES = {word: number for number, word in NUMBERS.items()}
NUMBER_PATTERN = "|".join(NUMBER_VALUES)
SINGULAR_BY_PLURAL = {plural: singular for singular, plural in PLURALS.items()}


class QuestionForm(NamedTuple):
    """A form of questions.

    Attributes:
        pattern: Text of the question.
        score_answer: Function from confident detections and the match of the pattern to the score
            of the answer yes, 0 to 1.
    """

    pattern: re.Pattern[str]
    score_answer: Callable[[Sequence[ShapeDetection], re.Match[str]], float]


def answer_question(question: str, detections: Sequence[ShapeDetection]) -> float | None:
    """Return the score of the answer yes, 0 to 1; None for a question of an unknown form.

    It is the score of the most confident detections that make the answer true.

    >>> answer_question("Is there a circle?", []), answer_question("Who is there?", [])
    (0.0, None)
    """
    confident_detections = [d for d in detections if d.score > DETECTION_THRESHOLD]
    for form in QUESTION_FORMS:
        if match := form.pattern.fullmatch(question.strip().lower()):
            return form.score_answer(confident_detections, match)
    return None


def is_related(target: ShapeDetection, reference: ShapeDetection, relation: str) -> bool:
    """Return whether the target is, for instance, left of the reference.

    The distance of the centres along the axis of the relation must be larger than along the other
    axis.
    """
    x_distance = (target.box[0] + target.box[2] - reference.box[0] - reference.box[2]) / 2
    y_distance = (target.box[1] + target.box[3] - reference.box[1] - reference.box[3]) / 2
    if relation in ("left of", "right of"):
        is_larger = abs(x_distance) > abs(y_distance)
        is_negative = x_distance < 0
    else:
        is_larger = abs(y_distance) > abs(x_distance)
        is_negative = y_distance < 0
    return is_larger and is_negative == (relation in ("left of", "above"))


def _highest_score(detections: Sequence[ShapeDetection]) -> float:
    return max((detection.score for detection in detections), default=0.0)


def _select_shape(detections: Sequence[ShapeDetection], shape: str) -> list[ShapeDetection]:
    return [detection for detection in detections if detection.label == shape]


def _score_presence(detections: Sequence[ShapeDetection], match: re.Match[str]) -> float:
    shape = SINGULAR_BY_PLURAL.get(match["shape"], match["shape"])
    return _highest_score(_select_shape(detections, shape))


def _score_count(detections: Sequence[ShapeDetection], match: re.Match[str]) -> float:
    """Return the lowest score of the counted objects; 0 for a wrong count."""
    counted_detections = _select_shape(detections, SINGULAR_BY_PLURAL[match["shape"]])
    if len(counted_detections) != NUMBER_VALUES[match["number"]]:
        return 0.0
    return min((detection.score for detection in counted_detections), default=0.0)


def _score_colour(detections: Sequence[ShapeDetection], match: re.Match[str]) -> float:
    same_shape = _select_shape(detections, match["shape"])
    return _highest_score([d for d in same_shape if d.colour == match["colour"]])


def _score_relation(detections: Sequence[ShapeDetection], match: re.Match[str]) -> float:
    """Return the highest score of a related pair; the score of a pair is the lower of both."""
    pair_scores = [
        min(target.score, reference.score)
        for target in _select_shape(detections, match["shape"])
        for reference in _select_shape(detections, match["other"])
        if target is not reference and is_related(target, reference, match["relation"])
    ]
    return max(pair_scores, default=0.0)


QUESTION_FORMS = (
    QuestionForm(re.compile(rf"is there a (?P<shape>{SHAPE_PATTERN})\?"), _score_presence),
    QuestionForm(re.compile(rf"are there (?P<shape>{PLURAL_PATTERN})\?"), _score_presence),
    QuestionForm(
        re.compile(rf"are there (?P<number>{NUMBER_PATTERN}) (?P<shape>{PLURAL_PATTERN})\?"),
        _score_count,
    ),
    QuestionForm(
        re.compile(rf"is the (?P<shape>{SHAPE_PATTERN}) (?P<colour>{COLOUR_PATTERN})\?"),
        _score_colour,
    ),
    QuestionForm(
        re.compile(rf"a (?P<colour>{COLOUR_PATTERN}) (?P<shape>{SHAPE_PATTERN})\?"),
        _score_colour,
    ),
    QuestionForm(
        re.compile(
            rf"is the (?P<shape>{SHAPE_PATTERN}) (?P<relation>{RELATION_PATTERN}) the"
            rf" (?P<other>{SHAPE_PATTERN})\?"
        ),
        _score_relation,
    ),
)
