"""What other benchmarks would ask of a case: DPG-Bench's questions with their dependencies, and
T2I-CompBench's facts.

Forms follow TencentQQGYLab/ELLA:dpg_bench/dpg_bench.csv and Karine-Huang/T2I-CompBench; the scenes
are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from harope_bench.data.shapes_scenes.grammar import CaptionClause, SceneCaption
from harope_bench.data.shapes_scenes.words import NUMBERS, PLURALS

NO_PARENT = 0  # the parent of a question that depends on no other
RELATION_PHRASES = {
    "left of": "on the left of",
    "right of": "on the right of",
    "above": "on the top of",
    "below": "on the bottom of",
}


@dataclass(frozen=True)
class CaptionQuestion:
    """One question about a case: its number from 1, the numbers it depends on, its words, and its
    category with arguments.
    """

    id: int
    parents: tuple[int, ...]
    text: str
    dpg_tuple: str

    @property
    def category_broad(self) -> str:
        """entity, attribute, relation or other."""
        return self.dpg_tuple.split(" - ")[0]

    @property
    def category_detailed(self) -> str:
        """The second level: whole, color, spatial or count."""
        return self.dpg_tuple.split(" - ")[1].split(" (")[0]


def caption_questions(case: SceneCaption) -> tuple[CaptionQuestion, ...]:
    """Everything the caption says, parents first: that things are there, how many, their colours,
    their places.
    """
    found: list[CaptionQuestion] = []
    entities = []
    for clause in case.clauses:
        entities.append(_append_question(found, (NO_PARENT,), *_presence_question(clause)))
    for parent, clause in zip(entities, case.clauses, strict=True):
        if clause.count > 1:
            number = NUMBERS[clause.count]
            many = PLURALS[clause.shape]
            _append_question(
                found,
                (parent,),
                f"Are there {number} {many}?",
                f"other - count ({many}, =={clause.count})",
            )
        if clause.colour is not None:
            _append_question(
                found,
                (parent,),
                f"Is the {clause.shape} {clause.colour}?",
                f"attribute - color ({clause.shape}, {clause.colour})",
            )
        if clause.position is not None:
            relation, place = clause.position
            other = case.clauses[place].shape
            phrase = f"relation - spatial ({clause.shape}, {other}, {relation})"
            _append_question(
                found,
                (entities[place], parent),
                f"Is the {clause.shape} {relation} the {other}?",
                phrase,
            )
    return tuple(found)


def _presence_question(clause: CaptionClause) -> tuple[str, str]:
    if clause.count > 1:
        return f"Are there {PLURALS[clause.shape]}?", f"entity - whole ({PLURALS[clause.shape]})"
    return f"Is there a {clause.shape}?", f"entity - whole ({clause.shape})"


def _append_question(
    found: list[CaptionQuestion], parents: tuple[int, ...], text: str, phrase: str
) -> int:
    found.append(CaptionQuestion(len(found) + 1, parents, text, phrase))
    return len(found)


def dpg_item(case: SceneCaption, name: str, first_row: int) -> dict[str, object]:
    """Return the case as evaluators/rules/dpg.py reads an item.

    first: the row of its first question in the whole table; row 0 the official rules skip.
    """
    rows = [
        {
            "row": first_row + place,
            "id": question.id,
            "question": question.text,
            "parents": list(question.parents),
            "broad": question.category_broad,
            "detailed": question.category_detailed,
            "tuple": question.dpg_tuple,
        }
        for place, question in enumerate(caption_questions(case))
    ]
    return {"item": name, "official_text": None, "questions": rows}


def compbench_item(case: SceneCaption, position: int) -> dict[str, object] | None:
    """The case as T2I-CompBench's rules read it: numeracy, 2D relation or colour binding; None for
    the other tasks.
    """
    if case.task in ("counting", "two_object"):
        known = [[clause.shape, PLURALS[clause.shape]] for clause in case.clauses]
        return {"category": "numeracy", "place": position, "text": case.prompt, "known": known}
    if case.task == "position":
        reference, target = case.clauses
        assert target.position is not None
        text = f"a {target.shape} {RELATION_PHRASES[target.position[0]]} a {reference.shape}"
        return {
            "category": "spatial",
            "place": position,
            "text": text,
            "nouns": [target.shape, reference.shape],
        }
    if case.task in ("colors", "color_attr"):
        chunks = [f"a {clause.colour} {clause.shape}" for clause in case.clauses]
        return {"category": "color", "place": position, "text": case.prompt, "chunks": chunks}
    return None
