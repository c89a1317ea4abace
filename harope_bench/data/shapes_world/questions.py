"""What other benchmarks would ask of a case: DPG-Bench's questions with their dependencies, and T2I-CompBench's facts.

Forms follow TencentQQGYLab/ELLA:dpg_bench/dpg_bench.csv and Karine-Huang/T2I-CompBench; the scenes are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from harope_bench.data.shapes_world.grammar import Case, Wanted
from harope_bench.data.shapes_world.words import NUMBERS, PLURALS

NONE = 0  # the parent of a question that depends on no other
SIDES = {"left of": "on the left of", "right of": "on the right of", "above": "on the top of", "below": "on the bottom of"}


@dataclass(frozen=True)
class Question:
    """One question about a case: its number from 1, the numbers it depends on, its words, and its category with arguments."""

    id: int
    parents: tuple[int, ...]
    text: str
    phrase: str

    @property
    def broad(self) -> str:
        """entity, attribute, relation or other."""
        return self.phrase.split(" - ")[0]

    @property
    def detailed(self) -> str:
        """The second level: whole, color, spatial or count."""
        return self.phrase.split(" - ")[1].split(" (")[0]


def questions(case: Case) -> tuple[Question, ...]:
    """Everything the caption says, parents first: that things are there, how many, their colours, their places."""
    found: list[Question] = []
    entities = []
    for clause in case.include:
        entities.append(_add(found, (NONE,), *_there(clause)))
    for parent, clause in zip(entities, case.include, strict=True):
        if clause.count > 1:
            number, many = NUMBERS[clause.count], PLURALS[clause.shape]
            _add(found, (parent,), f"Are there {number} {many}?", f"other - count ({many}, =={clause.count})")
        if clause.colour is not None:
            _add(found, (parent,), f"Is the {clause.shape} {clause.colour}?", f"attribute - color ({clause.shape}, {clause.colour})")
        if clause.position is not None:
            relation, place = clause.position
            other = case.include[place].shape
            phrase = f"relation - spatial ({clause.shape}, {other}, {relation})"
            _add(found, (entities[place], parent), f"Is the {clause.shape} {relation} the {other}?", phrase)
    return tuple(found)


def _there(clause: Wanted) -> tuple[str, str]:
    if clause.count > 1:
        return f"Are there {PLURALS[clause.shape]}?", f"entity - whole ({PLURALS[clause.shape]})"
    return f"Is there a {clause.shape}?", f"entity - whole ({clause.shape})"


def _add(found: list[Question], parents: tuple[int, ...], text: str, phrase: str) -> int:
    found.append(Question(len(found) + 1, parents, text, phrase))
    return len(found)


def item(case: Case, name: str, first: int) -> dict[str, object]:
    """Return the case as evaluators/rules/dpg.py reads an item.

    first: the row of its first question in the whole table; row 0 the official rules skip.
    """
    rows = [
        {
            "row": first + place,
            "id": question.id,
            "question": question.text,
            "parents": list(question.parents),
            "broad": question.broad,
            "detailed": question.detailed,
            "tuple": question.phrase,
        }
        for place, question in enumerate(questions(case))
    ]
    return {"item": name, "official_text": None, "questions": rows}


def compbench(case: Case, place: int) -> dict[str, object] | None:
    """The case as T2I-CompBench's rules read it: numeracy, 2D relation or colour binding; None for the other tasks."""
    if case.task in ("counting", "two_object"):
        known = [[clause.shape, PLURALS[clause.shape]] for clause in case.include]
        return {"category": "numeracy", "place": place, "text": case.prompt, "known": known}
    if case.task == "position":
        reference, target = case.include
        assert target.position is not None
        text = f"a {target.shape} {SIDES[target.position[0]]} a {reference.shape}"
        return {"category": "spatial", "place": place, "text": text, "nouns": [target.shape, reference.shape]}
    if case.task in ("colors", "color_attr"):
        chunks = [f"a {clause.colour} {clause.shape}" for clause in case.include]
        return {"category": "color", "place": place, "text": case.prompt, "chunks": chunks}
    return None
