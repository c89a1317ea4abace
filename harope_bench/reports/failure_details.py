"""What stands behind the score of an image, as flat texts: boxes, answers and other evidence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

Row = Mapping[str, object]  # the score of one image, as its file has it
# fields of a row, in the order of the csv columns
ROW_FIELDS = ("result", "index", "prompt_index", "copy", "task", "prompt", "verdict", "reason")
EVIDENCE_TEXTS = ("expected", "boxes", "best_scores", "answers")  # columns made of evidence
CLAUSES = "clauses"
ZERO_QUESTIONS = "zero_questions"


@dataclass(frozen=True)
class DetectedBox:
    """One detection: class, score, colour if it was queried, and corners in pixels."""

    label: str
    score: float
    corners: tuple[float, float, float, float]
    colour: str | None = None

    def __str__(self) -> str:
        """Return the detection as `red owl 0.97 [7 7 25 24]`."""
        name = f"{self.colour} {self.label}" if self.colour else self.label
        return f"{name} {self.score:.2f} [{' '.join(f'{value:g}' for value in self.corners)}]"


def detected_boxes(row: Row) -> list[DetectedBox]:
    """Return the detections behind a score, none where the evidence has another form."""
    boxes = []
    for clause in _records(_evidence(row).get(CLAUSES)):
        label = str(_mapping(clause.get("expected")).get("class", ""))
        for detection in _records(clause.get("detections")):
            corners = detection.get("box")
            if not isinstance(corners, list) or len(corners) != 4:
                continue
            if not all(_is_number(value) for value in (*corners, detection.get("score"))):
                continue
            x1, y1, x2, y2 = map(float, corners)
            colour = detection.get("colour")
            score = float(str(detection["score"]))
            box = DetectedBox(label, score, (x1, y1, x2, y2), str(colour) if colour else None)
            boxes.append(box)
    return boxes


def answer_texts(row: Row) -> list[str]:
    """Return the questions that scored 0, as `Is there a cross? no`."""
    texts = []
    for question in _records(_evidence(row).get(ZERO_QUESTIONS)):
        text = f"{question.get('question', '')} {question.get('answer', '')}".strip()
        if "zeroed_by" in question:
            text += f" (its parent, question {question['zeroed_by']}, scored 0)"
        texts.append(text)
    return texts


def main_score(row: Row) -> float | None:
    """Return the score of an image in the metric of its task, or the lowest; None without one."""
    scores = _mapping(row.get("scores"))
    numbers = {name: float(str(value)) for name, value in scores.items() if _is_number(value)}
    if not numbers:
        return None
    return numbers.get(str(row.get("task")), min(numbers.values()))


def worst_first(rows: Iterable[Row]) -> list[Row]:
    """Return the rows by their score, those without one first; equal ones keep their order."""
    return sorted(rows, key=lambda row: -1.0 if (score := main_score(row)) is None else score)


def flat_row(row: Row) -> dict[str, object]:
    """Return a row of sample scores with one text or number in each column.

    Boxes and answers are texts. Scores have a column for each metric, other evidence one for each
    value, named by its path.
    """
    columns = {name: row.get(name) for name in ROW_FIELDS}
    columns |= {f"score.{name}": value for name, value in _flat_values(_mapping(row.get("scores")))}

    clauses = _records(_evidence(row).get(CLAUSES))
    texts = {
        "expected": [_expected_text(_mapping(clause.get("expected"))) for clause in clauses],
        "boxes": [str(box) for box in detected_boxes(row)],
        "best_scores": [
            f"{_mapping(clause.get('expected')).get('class')} {clause['best_score_of_class']}"
            for clause in clauses
            if "best_score_of_class" in clause
        ],
        "answers": answer_texts(row),
    }
    columns |= {name: "; ".join(texts[name]) for name in EVIDENCE_TEXTS}

    other_evidence = {
        key: value
        for key, value in _evidence(row).items()
        if key not in (CLAUSES, ZERO_QUESTIONS) or not isinstance(value, list)
    }
    columns |= {f"evidence.{name}": value for name, value in _flat_values(other_evidence)}
    columns |= {
        f"other_rules.{name}": value
        for name, value in _flat_values(_mapping(row.get("other_rules")))
    }
    return columns


def _expected_text(expected: Row) -> str:
    """Return the objects that a prompt asks for, as `2 red owl, below object 1`."""
    name = " ".join(str(expected[key]) for key in ("count", "color", "class") if key in expected)
    position = expected.get("position")
    if isinstance(position, list) and len(position) == 2 and isinstance(position[1], int):
        return f"{name}, {position[0]} object {position[1] + 1}"
    return name


def _flat_values(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield (path, value) of every text or number in nested values; keys are joined by a dot."""
    if isinstance(value, Mapping):
        for key in sorted(value):
            yield from _flat_values(value[key], f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        for i, item in enumerate(value):
            yield from _flat_values(item, f"{path}.{i}" if path else str(i))
    elif isinstance(value, list):
        yield path, "; ".join(map(str, value))
    else:
        yield path, value


def _evidence(row: Row) -> Row:
    """Return the evidence of a row, empty without one."""
    return _mapping(row.get("evidence"))


def _mapping(value: object) -> Row:
    """Return a value if it is an object of JSON, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def _records(value: object) -> Sequence[Row]:
    """Return the objects of a JSON list, none where the value is no list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _is_number(value: object) -> bool:
    """Return whether a value of JSON is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
