"""Yes or no to the questions of data/shapes_world/questions.py and to noun chunks, from what a
parser found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from harope_bench.data.shapes_scenes.detect_shapes import ShapeDetection
from harope_bench.data.shapes_scenes.words import COLOURS, NUMBERS, PLURALS, RELATIONS, SHAPES

DETECTION_THRESHOLD = 0.5  # score above which a thing is there
SHAPE_PATTERN = "|".join(SHAPES)
PLURAL_PATTERN = "|".join(PLURALS.values())
SINGULAR_BY_PLURAL = {many: one for one, many in PLURALS.items()}
NUMBER_VALUES = {word: number for number, word in NUMBERS.items()}


class QuestionForm(NamedTuple):
    """Words of a question, and the share of yes that the sure things and the matched words give."""

    pattern: re.Pattern[str]
    score_answer: Callable[[Sequence[ShapeDetection], re.Match[str]], float]


def answer_question(question: str, found: Sequence[ShapeDetection]) -> float | None:
    """How far the answer is yes, 0 to 1: the score of the surest things that make it true. None for
    a question of another form.

    >>> share("Is there a circle?", []), share("Who is there?", [])
    (0.0, None)
    """
    sure = [thing for thing in found if thing.score > DETECTION_THRESHOLD]
    for form in QUESTION_FORMS:
        if match := form.pattern.fullmatch(question.strip().lower()):
            return form.score_answer(sure, match)
    return None


def is_related(one: ShapeDetection, other: ShapeDetection, relation: str) -> bool:
    """Whether the centre of `one` lies to that side of the other's, more so than along the other
    axis.
    """
    right = (one.box[0] + one.box[2] - other.box[0] - other.box[2]) / 2
    down = (one.box[1] + one.box[3] - other.box[1] - other.box[3]) / 2
    along, across = (right, down) if relation in ("left of", "right of") else (down, right)
    return abs(along) > abs(across) and (along < 0) == (relation in ("left of", "above"))


def _highest_score(things: Sequence[ShapeDetection]) -> float:
    return max((thing.score for thing in things), default=0.0)


def _score_presence(found: Sequence[ShapeDetection], match: re.Match[str]) -> float:
    shape = SINGULAR_BY_PLURAL.get(match["shape"], match["shape"])
    return _highest_score([thing for thing in found if thing.label == shape])


def _score_count(found: Sequence[ShapeDetection], match: re.Match[str]) -> float:
    things = [thing for thing in found if thing.label == SINGULAR_BY_PLURAL[match["shape"]]]
    return (
        min((thing.score for thing in things), default=0.0)
        if len(things) == NUMBER_VALUES[match["number"]]
        else 0.0
    )


def _score_colour(found: Sequence[ShapeDetection], match: re.Match[str]) -> float:
    return _highest_score(
        [
            thing
            for thing in found
            if (thing.label, thing.colour) == (match["shape"], match["colour"])
        ]
    )


def _score_relation(found: Sequence[ShapeDetection], match: re.Match[str]) -> float:
    ones, others = (
        [thing for thing in found if thing.label == match[name]] for name in ("shape", "other")
    )
    pairs = [
        min(a.score, b.score)
        for a in ones
        for b in others
        if a is not b and is_related(a, b, match["relation"])
    ]
    return max(pairs, default=0.0)


QUESTION_FORMS = (
    QuestionForm(re.compile(rf"is there a (?P<shape>{SHAPE_PATTERN})\?"), _score_presence),
    QuestionForm(re.compile(rf"are there (?P<shape>{PLURAL_PATTERN})\?"), _score_presence),
    QuestionForm(
        re.compile(
            rf"are there (?P<number>{'|'.join(NUMBER_VALUES)}) (?P<shape>{PLURAL_PATTERN})\?"
        ),
        _score_count,
    ),
    QuestionForm(
        re.compile(rf"is the (?P<shape>{SHAPE_PATTERN}) (?P<colour>{'|'.join(COLOURS)})\?"),
        _score_colour,
    ),
    QuestionForm(
        re.compile(rf"a (?P<colour>{'|'.join(COLOURS)}) (?P<shape>{SHAPE_PATTERN})\?"),
        _score_colour,
    ),
    QuestionForm(
        re.compile(
            rf"is the (?P<shape>{SHAPE_PATTERN}) (?P<relation>{'|'.join(RELATIONS)}) the"
            rf" (?P<other>{SHAPE_PATTERN})\?"
        ),
        _score_relation,
    ),
)
