"""DPG-Bench's rule: from answers to a prompt's questions to a score. No network.

A question may depend on other questions, its parents: it scores 0 if a parent scores 0.

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
L1 = ("entity", "attribute", "relation", "global", "other")  # broad categories
L2 = (  # detailed categories, except `global -`, which is all of global
    "entity-whole",
    "entity-part",
    "entity-state",
    "attribute-color",
    "attribute-shape",
    "attribute-size",
    "attribute-texture",
    "attribute-other",
    "relation-spatial",
    "relation-non-spatial",
    "other-count",
    "other-text",
)

# What the official script does that a reader would not expect, by id.
QUIRKS: Mapping[str, str] = {
    "first-row": "the table's first row is skipped, so the first item loses its first question",
    "lost-parent": (
        "a question whose parent is missing raises an error, unless an earlier parent scores 0"
    ),
    "whole-item": (
        "every error is caught: the item with all its images is in no score, and only a line on"
        " the screen reports it"
    ),
    "repeated-block": (
        "if an item's rows are not consecutive, its last block of rows replaces those before"
    ),
    "exact-yes": "only the answer `yes`, spelled exactly so, scores 1; any other scores 0",
    "table-order": (
        "zeros are passed on in the table's order, so a child listed before its parent keeps its"
        " answer"
    ),
    "last-tile": "categories count the last image of each item alone",
    "raw-categories": "categories count answers before dependencies are applied",
    "black-tiles": (
        "a grid smaller than --resolution is filled with black, and the black part is scored too"
    ),
    "scrambled-categories": (
        "with several processes, categories are pooled in an order that differs between processes"
    ),
    "integer-dependencies": "a table whose dependencies are all single numbers stops the script",
}
CORRECTIONS: Mapping[str, str] = {
    "first-row": "every row of the table is read",
    "lost-parent": "a missing parent has no effect",
    "whole-item": "an item keeps its other images, and each item has the same weight",
    "repeated-block": "an item has the questions of all its rows",
    "exact-yes": "case, surrounding spaces and a final full stop do not matter",
    "table-order": "a question scores 0 if any of its parents, or of theirs, scores 0",
    "last-tile": "categories count every image",
    "raw-categories": "categories count answers after dependencies, as the score does",
}
QUIRKS_NOT_REPRODUCED: Mapping[str, str] = {
    "black-tiles": "such a grid is rejected",
    "scrambled-categories": (
        "categories are those of one process; the script's differ from run to run"
    ),
    "integer-dependencies": "such a table is scored",
}


@cache
def categories(phrase: str) -> tuple[str, ...]:
    """Return the broad category of a phrase, and its detailed one if they differ.

    >>> categories("entity - whole (dog)"), categories("global - (photo)")
    (('entity', 'entity-whole'), ('global',))
    """
    parts = [part.strip().replace(" ", "-") for part in phrase.split("(")[0].split("-")]
    words = [part for part in parts if part]
    if not words:
        return ()
    return tuple(dict.fromkeys((words[0], "-".join(words))))


class DpgQuestion(Record):
    """A row of the table.

    `row` is its index among all rows, from 0. `id` is its number within the item. `parents` are
    the ids on which it depends, 0 for none.
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
        """Return the categories of the question's phrase."""
        return categories(self.phrase)


class DpgItem(Record):
    """A prompt with its questions in the table's order.

    `official_text` tells whether the prompt's text equals that of the official prompt file; None
    if the suite has no official texts.
    """

    item: str
    questions: tuple[DpgQuestion, ...]
    official_text: bool | None = None


class ImageScore(NamedTuple):
    """The scored answers of one image.

    Attributes:
        raw_answers: 1 for yes and 0 for no, by question id.
        final_answers: the answers after dependencies, by question id.
        zeroing_parents: id of the parent that made a question 0, by question id.
        failure: the error at which the official script drops the item; None without an error.
    """

    raw_answers: dict[int, float]
    final_answers: dict[int, float]
    zeroing_parents: dict[int, int]
    failure: str | None

    @property
    def score(self) -> float:
        """Return the fraction of questions that are 1 after dependencies; 0 without questions."""
        if not self.final_answers:
            return 0.0
        return sum(self.final_answers.values()) / len(self.final_answers)


def row_indices(item: DpgItem, rules: str) -> dict[int, int]:
    """Return, by question id, the index in `item.questions` of the row that counts.

    The order of the ids is the order in which the questions are scored.
    """
    rows = list(enumerate(item.questions))
    if rules == "official":
        rows = _last_block([(index, question) for index, question in rows if question.row != 0])
    # Of rows with the same id the last one counts, in the order of the first one.
    return {question.id: index for index, question in rows}


def _last_block(rows: Sequence[tuple[int, DpgQuestion]]) -> list[tuple[int, DpgQuestion]]:
    """Return the last block of consecutive rows of the table."""
    block: list[tuple[int, DpgQuestion]] = []
    for index, question in rows:
        if block and block[-1][1].row + 1 != question.row:
            block = []
        block.append((index, question))
    return block


def can_crash_official_script(item: DpgItem) -> bool:
    """Return whether the official script can crash on the item itself.

    It can if the item has no question left, or lacks one on which another depends.
    """
    indices = row_indices(item, "official")
    if not indices:
        return True
    parents = [parent for index in indices.values() for parent in item.questions[index].parents]
    return any(parent and parent not in indices for parent in parents)


def answer_value(answer: str, rules: str) -> float:
    """Return 1 for yes, else 0."""
    if rules == "official":
        return float(answer == YES)
    return float(answer.strip().lower().removesuffix(".") == YES)


def score_answers(item: DpgItem, answers: Sequence[str], rules: str = "official") -> ImageScore:
    """Return the score of one image under a set of rules.

    Args:
        item: the prompt's questions.
        answers: one answer for each of `item.questions`.
        rules: "official" or "corrected".
    """
    indices = row_indices(item, rules)
    raw_answers = {number: answer_value(answers[index], rules) for number, index in indices.items()}
    parents = {number: item.questions[index].parents for number, index in indices.items()}
    if not raw_answers:
        return ImageScore(
            raw_answers, final_answers={}, zeroing_parents={}, failure="no question is read"
        )
    if rules == "official":
        return _apply_in_table_order(raw_answers, parents)
    return _apply_in_dependency_order(raw_answers, parents)


def _apply_in_table_order(
    raw_answers: dict[int, float], parents: Mapping[int, Sequence[int]]
) -> ImageScore:
    """Apply dependencies in the order of the questions, as the official script does."""
    final_answers = dict(raw_answers)
    zeroing_parents = dict[int, int]()
    for number, parent_numbers in parents.items():
        for parent in parent_numbers:
            if parent == 0:
                continue
            if parent not in final_answers:
                failure = f"question {number} depends on question {parent}, which is missing"
                return ImageScore(raw_answers, final_answers, zeroing_parents, failure)
            if final_answers[parent] == 0:
                final_answers[number] = 0.0
                zeroing_parents[number] = parent
                break
    return ImageScore(raw_answers, final_answers, zeroing_parents, failure=None)


def _apply_in_dependency_order(
    raw_answers: dict[int, float], parents: Mapping[int, Sequence[int]]
) -> ImageScore:
    """Pass zeros on from parents to children until nothing changes.

    This also ends if questions depend on each other in a cycle.
    """
    final_answers = dict(raw_answers)
    zeroing_parents = dict[int, int]()
    has_changed = True
    while has_changed:
        has_changed = False
        for number, parent_numbers in parents.items():
            zero_parents = [p for p in parent_numbers if p and final_answers.get(p) == 0]
            if zero_parents and number not in zeroing_parents:
                has_changed = has_changed or final_answers[number] != 0
                final_answers[number] = 0.0
                zeroing_parents[number] = zero_parents[0]
    return ImageScore(raw_answers, final_answers, zeroing_parents, failure=None)


def category_sums(
    item: DpgItem, image_score: ImageScore, rules: str
) -> dict[str, tuple[float, int]]:
    """Return sum and number of answers of each category that the item's questions have."""
    answers = image_score.raw_answers if rules == "official" else image_score.final_answers
    sums: dict[str, tuple[float, int]] = {}
    for number, index in row_indices(item, rules).items():
        for name in item.questions[index].categories:
            total, count = sums.get(name, (0.0, 0))
            sums[name] = (total + answers[number], count + 1)
    return sums
