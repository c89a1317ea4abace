"""Prompt metadata of other benchmarks for the captions of scenes: DPG-Bench's questions with their
dependencies, and T2I-CompBench's items.

The formats follow TencentQQGYLab/ELLA:dpg_bench/dpg_bench.csv and Karine-Huang/T2I-CompBench.
"""

from __future__ import annotations

from dataclasses import dataclass

from harope_bench.data.shapes_scenes.grammar import CaptionClause, SceneCaption
from harope_bench.data.shapes_scenes.words import NUMBERS, PLURALS

NO_PARENT = 0  # the parent of a question that depends on no other question
RELATION_PHRASES = {
    "left of": "on the left of",
    "right of": "on the right of",
    "above": "on the top of",
    "below": "on the bottom of",
}


@dataclass(frozen=True)
class CaptionQuestion:
    """One question about a caption.

    Attributes:
        id: Number of the question in its caption, from 1.
        parents: Numbers of the questions on which it depends.
        text: The question.
        dpg_tuple: Category and arguments, DPG-Bench's column `tuple`.
    """

    id: int
    parents: tuple[int, ...]
    text: str
    dpg_tuple: str

    @property
    def category_broad(self) -> str:
        """Return the broad category: entity, attribute, relation or other."""
        return self.dpg_tuple.split(" - ")[0]

    @property
    def category_detailed(self) -> str:
        """Return the detailed category: whole, color, spatial or count."""
        return self.dpg_tuple.split(" - ")[1].split(" (")[0]


def caption_questions(caption: SceneCaption) -> tuple[CaptionQuestion, ...]:
    """Return a question for each statement of a caption, parents first.

    The first questions are about the presence of the objects. Those about number, colour and
    position depend on them.
    """
    questions: list[CaptionQuestion] = []
    presence_ids = []
    for clause in caption.clauses:
        presence_ids.append(_append_question(questions, (NO_PARENT,), *_presence_question(clause)))

    for presence_id, clause in zip(presence_ids, caption.clauses, strict=True):
        shape = clause.shape
        if clause.count > 1:
            plural = PLURALS[shape]
            text = f"Are there {NUMBERS[clause.count]} {plural}?"
            dpg_tuple = f"other - count ({plural}, =={clause.count})"
            _append_question(questions, (presence_id,), text, dpg_tuple)
        if clause.colour is not None:
            text = f"Is the {shape} {clause.colour}?"
            dpg_tuple = f"attribute - color ({shape}, {clause.colour})"
            _append_question(questions, (presence_id,), text, dpg_tuple)
        if clause.position is not None:
            relation, reference_number = clause.position
            reference = caption.clauses[reference_number].shape
            parents = (presence_ids[reference_number], presence_id)
            text = f"Is the {shape} {relation} the {reference}?"
            dpg_tuple = f"relation - spatial ({shape}, {reference}, {relation})"
            _append_question(questions, parents, text, dpg_tuple)
    return tuple(questions)


def _presence_question(clause: CaptionClause) -> tuple[str, str]:
    """Return the text and DPG-Bench's tuple of the question whether the objects are present."""
    if clause.count > 1:
        return f"Are there {PLURALS[clause.shape]}?", f"entity - whole ({PLURALS[clause.shape]})"
    return f"Is there a {clause.shape}?", f"entity - whole ({clause.shape})"


def _append_question(
    questions: list[CaptionQuestion], parents: tuple[int, ...], text: str, dpg_tuple: str
) -> int:
    """Append a question to the list and return its id."""
    question_id = len(questions) + 1
    questions.append(CaptionQuestion(question_id, parents, text, dpg_tuple))
    return question_id


def dpg_item(caption: SceneCaption, name: str, first_row: int) -> dict[str, object]:
    """Return a caption as an item of DPG-Bench (evaluators/rules/dpg.py).

    Args:
        name: Name of the item.
        first_row: Number of its first question in the table of all items. The official rules skip
            row 0.
    """
    questions = [
        {
            "row": first_row + k,
            "id": question.id,
            "question": question.text,
            "parents": list(question.parents),
            "broad": question.category_broad,
            "detailed": question.category_detailed,
            "tuple": question.dpg_tuple,
        }
        for k, question in enumerate(caption_questions(caption))
    ]
    return {"item": name, "official_text": None, "questions": questions}


def compbench_item(caption: SceneCaption, position: int) -> dict[str, object] | None:
    """Return a caption as an item of T2I-CompBench; None for a task that it does not have.

    Counting and two_object become numeracy, position becomes a 2D relation (spatial), colors and
    color_attr become colour binding (color).

    Args:
        position: Number of the item in its category.
    """
    common_fields: dict[str, object] = {"place": position, "text": caption.prompt}
    if caption.task in ("counting", "two_object"):
        countable_objects = [[clause.shape, PLURALS[clause.shape]] for clause in caption.clauses]
        return {"category": "numeracy", **common_fields, "known": countable_objects}
    if caption.task == "position":
        reference, target = caption.clauses
        assert target.position is not None
        relation_phrase = RELATION_PHRASES[target.position[0]]
        text = f"a {target.shape} {relation_phrase} a {reference.shape}"
        nouns = [target.shape, reference.shape]
        return {"category": "spatial", **common_fields, "text": text, "nouns": nouns}
    if caption.task in ("colors", "color_attr"):
        chunks = [f"a {clause.colour} {clause.shape}" for clause in caption.clauses]
        return {"category": "color", **common_fields, "chunks": chunks}
    return None
