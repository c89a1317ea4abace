"""Yes or no to the questions of data/shapes_world/questions.py and to noun chunks, from what a parser found."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from harope_bench.data.shapes_world.parse import Detection
from harope_bench.data.shapes_world.words import COLOURS, NUMBERS, PLURALS, RELATIONS, SHAPES

SURE = 0.5  # score above which a thing is there
SHAPE, MANY = "|".join(SHAPES), "|".join(PLURALS.values())
SINGULAR = {many: one for one, many in PLURALS.items()}
NUMBER = {word: number for number, word in NUMBERS.items()}


class Form(NamedTuple):
    """Words of a question, and the share of yes that the sure things and the matched words give."""

    words: re.Pattern[str]
    share: Callable[[Sequence[Detection], re.Match[str]], float]


def share(question: str, found: Sequence[Detection]) -> float | None:
    """How far the answer is yes, 0 to 1: the score of the surest things that make it true. None for a question of another form.

    >>> share("Is there a circle?", []), share("Who is there?", [])
    (0.0, None)
    """
    sure = [thing for thing in found if thing.score > SURE]
    for form in FORMS:
        if match := form.words.fullmatch(question.strip().lower()):
            return form.share(sure, match)
    return None


def related(one: Detection, other: Detection, relation: str) -> bool:
    """Whether the centre of `one` lies to that side of the other's, more so than along the other axis."""
    right = (one.box[0] + one.box[2] - other.box[0] - other.box[2]) / 2
    down = (one.box[1] + one.box[3] - other.box[1] - other.box[3]) / 2
    along, across = (right, down) if relation in ("left of", "right of") else (down, right)
    return abs(along) > abs(across) and (along < 0) == (relation in ("left of", "above"))


def _surest(things: Sequence[Detection]) -> float:
    return max((thing.score for thing in things), default=0.0)


def _there(found: Sequence[Detection], match: re.Match[str]) -> float:
    shape = SINGULAR.get(match["shape"], match["shape"])
    return _surest([thing for thing in found if thing.label == shape])


def _counted(found: Sequence[Detection], match: re.Match[str]) -> float:
    things = [thing for thing in found if thing.label == SINGULAR[match["shape"]]]
    return min((thing.score for thing in things), default=0.0) if len(things) == NUMBER[match["number"]] else 0.0


def _coloured(found: Sequence[Detection], match: re.Match[str]) -> float:
    return _surest([thing for thing in found if (thing.label, thing.colour) == (match["shape"], match["colour"])])


def _placed(found: Sequence[Detection], match: re.Match[str]) -> float:
    ones, others = ([thing for thing in found if thing.label == match[name]] for name in ("shape", "other"))
    pairs = [min(a.score, b.score) for a in ones for b in others if a is not b and related(a, b, match["relation"])]
    return max(pairs, default=0.0)


FORMS = (
    Form(re.compile(rf"is there a (?P<shape>{SHAPE})\?"), _there),
    Form(re.compile(rf"are there (?P<shape>{MANY})\?"), _there),
    Form(re.compile(rf"are there (?P<number>{'|'.join(NUMBER)}) (?P<shape>{MANY})\?"), _counted),
    Form(re.compile(rf"is the (?P<shape>{SHAPE}) (?P<colour>{'|'.join(COLOURS)})\?"), _coloured),
    Form(re.compile(rf"a (?P<colour>{'|'.join(COLOURS)}) (?P<shape>{SHAPE})\?"), _coloured),
    Form(re.compile(rf"is the (?P<shape>{SHAPE}) (?P<relation>{'|'.join(RELATIONS)}) the (?P<other>{SHAPE})\?"), _placed),
)
