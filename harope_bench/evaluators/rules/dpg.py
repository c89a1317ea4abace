"""DPG-Bench's rule: answers to a prompt's questions, with questions that depend on others, to a
score. No network.

Source: TencentQQGYLab/ELLA 3c228f1d, dpg_bench/compute_dpg_bench.py: `prepare_dpg_data`,
`compute_dpg_one_sample`, `main`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

from pydantic import Field

from harope_bench.core.record_base import Record

YES = "yes"
L1 = ("entity", "attribute", "relation", "global", "other")
L2 = (
    *("entity-whole", "entity-part", "entity-state"),
    *(
        "attribute-color",
        "attribute-shape",
        "attribute-size",
        "attribute-texture",
        "attribute-other",
    ),
    *("relation-spatial", "relation-non-spatial", "other-count", "other-text"),
)  # and `global -`, which is all of global

QUIRKS: Mapping[str, str] = {
    "first-row": "the table's first row is skipped, so the first item loses its first question",
    "lost-parent": (
        "a question that depends on a question that is not there raises, unless an earlier parent"
        " of it is at 0"
    ),
    "whole-item": (
        "whatever raises is caught: the item leaves every score with all its tiles, and only a line"
        " on the screen tells"
    ),
    "repeated-block": (
        "rows of an item that do not follow one another: the last block replaces those before"
    ),
    "exact-yes": "only the answer `yes`, written so, is worth 1; anything else is 0",
    "table-order": (
        "zeros are passed on in the table's order, so a child that stands before its parent keeps"
        " its answer"
    ),
    "last-tile": "categories are counted on the last image of each item alone",
    "raw-categories": "categories count answers as given, before dependencies",
    "black-tiles": (
        "a grid smaller than --resolution says is filled with black, which is then judged"
    ),
    "scrambled-categories": (
        "with several processes, categories are pooled in an order that each process picks for"
        " itself"
    ),
    "integer-dependencies": "a table whose dependencies are all single numbers stops the script",
}
CORRECTIONS: Mapping[str, str] = {
    "first-row": "every row of the table is read",
    "lost-parent": "a parent that is not there asks for nothing",
    "whole-item": "an item keeps its other images, each item weighs the same",
    "repeated-block": "an item has the questions of all its rows",
    "exact-yes": "case, blanks around and a final stop do not matter",
    "table-order": "a question is 0 where anything that it depends on, near or far, is",
    "last-tile": "categories are counted on every image",
    "raw-categories": "categories count answers after dependencies, as the score does",
}
QUIRKS_NOT_REPRODUCED: Mapping[str, str] = {
    "black-tiles": "such a grid is refused",
    "scrambled-categories": (
        "categories are those of one process; the script's differ from run to run"
    ),
    "integer-dependencies": "such a table is scored",
}


@cache
def categories(phrase: str) -> tuple[str, ...]:
    """L1, and L2 where it is another: entity and entity-whole of `entity - whole (dog)`; global of
    `global - (photo)`.
    """
    parts = [part.strip().replace(" ", "-") for part in phrase.split("(")[0].split("-")]
    named = [part for part in parts if part]
    return tuple(dict.fromkeys((named[0], "-".join(named)))) if named else ()


class DpgQuestion(Record):
    """A row of the table: its place among all rows from 0, its number within the item, and the
    numbers it depends on (0: none).
    """

    row: int = Field(ge=0)
    id: int
    question: str
    parents: tuple[int, ...]
    broad_category: str = Field(alias="broad")
    detailed_category: str = Field(alias="detailed")
    phrase: str = Field(alias="tuple")

    @property
    def categories(self) -> tuple[str, ...]:
        """As `categories` says."""
        return categories(self.phrase)


class DpgItem(Record):
    """A prompt with its questions in the table's order; official_text: whether its text is that of
    the official prompt file.
    """

    item: str
    questions: tuple[DpgQuestion, ...]
    official_text: bool | None = None


class ImageScore(NamedTuple):
    """One image: by question number, the answers as given and after dependencies, and the parent
    that made it 0.

    lost: what raised, in which case the official script drops the item.
    """

    raw_answers: dict[int, float]
    final_answers: dict[int, float]
    zeroed_by: dict[int, int]
    failure: str | None

    @property
    def score(self) -> float:
        """Share of questions that are 1 after dependencies."""
        return (
            sum(self.final_answers.values()) / len(self.final_answers)
            if self.final_answers
            else 0.0
        )


def row_indices(item: DpgItem, rules: str) -> dict[int, int]:
    """By question number, in the order they are gone through, the place in `item.questions` of the
    row that counts.
    """
    rows = list(enumerate(item.questions))
    if rules == "official":
        rows = _last_block([(place, q) for place, q in rows if q.row != 0])
    return {
        q.id: place for place, q in rows
    }  # of rows of one number the last counts, at the first's place


def _last_block(rows: Sequence[tuple[int, DpgQuestion]]) -> list[tuple[int, DpgQuestion]]:
    block: list[tuple[int, DpgQuestion]] = []
    for place, question in rows:
        if block and block[-1][1].row + 1 != question.row:
            block = []
        block.append((place, question))
    return block


def can_fail(item: DpgItem) -> bool:
    """Whether the official script can fail on the item itself: it lost all questions, or one that
    another depends on.
    """
    known = row_indices(item, "official")
    return not known or any(
        p and p not in known for place in known.values() for p in item.questions[place].parents
    )


def answer_value(answer: str, rules: str) -> float:
    """1 for yes, else 0."""
    if rules == "official":
        return float(answer == YES)
    return float(answer.strip().lower().removesuffix(".") == YES)


def score_answers(item: DpgItem, answers: Sequence[str], rules: str = "official") -> ImageScore:
    """One image's answers, one for each of `item.questions`, under these rules."""
    known = row_indices(item, rules)
    raw = {number: answer_value(answers[place], rules) for number, place in known.items()}
    parents = {number: item.questions[place].parents for number, place in known.items()}
    if not raw:
        return ImageScore(raw, {}, {}, "no question is read")
    return (
        _apply_in_table_order(raw, parents)
        if rules == "official"
        else _apply_in_dependency_order(raw, parents)
    )


def _apply_in_table_order(
    raw: dict[int, float], parents: Mapping[int, Sequence[int]]
) -> ImageScore:
    final = dict(raw)
    zeroed = dict[int, int]()
    for number, needed in parents.items():
        for parent in needed:
            if parent == 0:
                continue
            if parent not in final:
                return ImageScore(
                    raw,
                    final,
                    zeroed,
                    f"question {number} depends on question {parent}, which is not read",
                )
            if final[parent] == 0:
                final[number] = 0.0
                zeroed[number] = parent
                break
    return ImageScore(raw, final, zeroed, None)


def _apply_in_dependency_order(
    raw: dict[int, float], parents: Mapping[int, Sequence[int]]
) -> ImageScore:
    """Zeros are passed on until nothing changes, which also ends where questions depend on each
    other in a ring.
    """
    final = dict(raw)
    zeroed = dict[int, int]()
    changed = True
    while changed:
        changed = False
        for number, needed in parents.items():
            guilty = next((p for p in needed if p and final.get(p) == 0), None)
            if guilty is not None and number not in zeroed:
                changed = changed or final[number] != 0
                final[number] = 0.0
                zeroed[number] = guilty
    return ImageScore(raw, final, zeroed, None)


def category_sums(item: DpgItem, tile: ImageScore, rules: str) -> dict[str, tuple[float, int]]:
    """Sum and number of answers of each category that the image's questions have."""
    answers = tile.raw_answers if rules == "official" else tile.final_answers
    found: dict[str, tuple[float, int]] = {}
    for number, place in row_indices(item, rules).items():
        for name in item.questions[place].categories:
            total, count = found.get(name, (0.0, 0))
            found[name] = (total + answers[number], count + 1)
    return found
