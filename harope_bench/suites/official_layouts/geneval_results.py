"""A results.jsonl of GenEval's official script, to the same numbers as its summary prints.

A line holds the verdict, the reason, the prompt's metadata and the boxes that counted (`details`:
by class, x0, y0, x1, y1, score, the
surest first). With the colours that a reason names, that is all our rule reads; so beside the
script's verdicts stands on how many
images the rule says the same.

Source: djghosh13/geneval af4902f2, evaluation/evaluate_images.py `evaluate_image`,
evaluation/summary_scores.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from harope_bench.core.annotations import (
    Annotation,
    Box,
    ColourAnnotation,
    Detection,
    DetectionAnnotation,
)
from harope_bench.core.errors import StorageError
from harope_bench.core.escaping import printable_line
from harope_bench.core.index_ranges import whole_number
from harope_bench.core.json_file import parse_json
from harope_bench.core.json_lines import read_lines
from harope_bench.core.record_base import Record, validation_summary
from harope_bench.core.regular_file import open_regular
from harope_bench.core.text_file import detect_charset
from harope_bench.data.image_folder import natural_key
from harope_bench.evaluators.base import AnnotatedImage, EvaluatorOutput, Metadata
from harope_bench.evaluators.geneval import GenEvalEvaluator, OfficialVerdict
from harope_bench.evaluators.rules import geneval as rule
from harope_bench.suites.base import PromptSuite
from harope_bench.suites.official_layouts.base import copies_warnings
from harope_bench.suites.official_layouts.geneval_prompts import PromptIndex, UnknownMetadataError

RESULTS_OF = "geneval"
MAX_COLOURED_OBJECTS = (
    1000  # things of a colour that a reason counts; no prompt asks for more than a few
)
ScoredBox = tuple[
    float, float, float, float, Annotated[float, Field(ge=0)]
]  # x0, y0, x1, y1, score
BOXES = TypeAdapter(dict[str, list[ScoredBox]])
COLOUR_REASON = re.compile(
    r"expected (?P<colour>\w+) (?P<name>.+?)>=\d+, found \d+ (?P=colour); and (?P<seen>.+)"
)


class ResultLine(Record):
    """A line of the file; `metadata` and `details` are JSON in JSON, as pandas wrote them, or
    objects.

    Fields that other programs add are ignored. Without metadata the prompt's text tells whose line
    it is.
    """

    model_config = ConfigDict(extra="ignore")
    filename: str
    prompt: str
    correct: bool
    reason: str = ""
    metadata: str | dict[str, JsonValue] | None = None
    details: str | dict[str, JsonValue] = Field(default="{}")


class ResultRow(NamedTuple):
    """A line with its metadata and boxes read."""

    line: ResultLine
    metadata: Metadata
    boxes: dict[str, list[ScoredBox]]


def is_results_file(path: Path) -> bool:
    """Whether a file is such a results file, by its first line."""
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    with open_regular(path) as file:
        start = file.read(1 << 20)
    first = start.decode(detect_charset(start), errors="replace").partition("\n")[0]
    return all(f'"{field}"' in first for field in ("filename", "correct", "prompt"))


def import_scores(
    path: Path, suite: PromptSuite, lenient: bool = False, rules: str = "official"
) -> EvaluatorOutput:
    """The measurements of a finished run.

    Args:
        suite: geneval, which knows the prompts; each should have as many images as the one that has
            most. lenient: score what is
            there, as the summary does; else a metric with a missing image is None.

    Raises:
        StorageError: not such a file, a prompt that the suite does not know, or more images of a
            prompt than it has copies.
    """
    found = read_rows(path)
    places, warnings = rows_by_index(found, PromptIndex(suite), suite, path)
    sights = []
    verdicts = {}
    prompts = suite.count // suite.copies
    copies = 1 + max(places) // prompts
    for index in range(copies * prompts):
        case = suite.case(index)
        held = places.get(index)
        seen = _annotations_of_row(held) if held else {}
        missing = None if held else f"not in {path.name}"
        sights.append(
            AnnotatedImage(
                index,
                case.prompt_index,
                case.copy,
                case.prompt,
                case.metadata["geneval"],
                seen,
                missing,
            )
        )
        if held:
            verdicts[index] = OfficialVerdict(held.line.correct, held.line.reason)
    score = GenEvalEvaluator(verdicts).assess(sights, rules, lenient)
    return score._replace(
        warnings=(*warnings, *copies_warnings(copies, suite.copies), *score.warnings)
    )


def read_rows(path: Path) -> list[ResultRow]:
    """Every line; StorageError names one that is none."""
    found = []
    for number, facts in enumerate(read_lines(path), 1):
        try:
            line = ResultLine.model_validate(facts)
            boxes = BOXES.validate_python(_parse_object(line.details))
            found.append(
                ResultRow(
                    line,
                    (
                        {"prompt": line.prompt}
                        if line.metadata is None
                        else _parse_object(line.metadata)
                    ),
                    boxes,
                )
            )
        except ValidationError as error:
            raise StorageError(
                f"{path} line {number} is no GenEval result ({validation_summary(error)}); give the"
                " script's own file"
            ) from error
        except ValueError as error:
            raise StorageError(
                f"{path} line {number} holds no metadata or details in JSON; give the script's own"
                " file"
            ) from error
    if not found:
        raise StorageError(f"{path} holds no results; give the file that evaluate_images.py wrote")
    return found


def _parse_object(value: str | dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the object that a field is, or holds as JSON; ValueError where it is none."""
    found = parse_json(value) if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def rows_by_index(
    found: Sequence[ResultRow], known: PromptIndex, suite: PromptSuite, path: Path
) -> tuple[dict[int, ResultRow], tuple[str, ...]]:
    """Return the line of each index, and what must be said of lines that are not read.

    A line's prompt is known by its metadata, its copy by the order of the file names of that
    prompt. Lines beyond the suite's copies
    are not read.

    Raises:
        StorageError: A prompt that the suite does not know, or an image that has two lines.
    """
    of_prompt: dict[int, list[ResultRow]] = {}
    for row in found:
        try:
            prompt = known.find({"prompt": row.line.prompt, **row.metadata})
        except UnknownMetadataError as error:
            text = printable_line(row.line.prompt)
            raise StorageError(
                f"{path}: {text!r} is no prompt of GenEval's as fetched ({error}); score a file of"
                " the official prompts"
            ) from error
        of_prompt.setdefault(prompt, []).append(row._replace(metadata=dict(known.metadata[prompt])))
    prompts = suite.count // suite.copies
    beyond = 0
    places: dict[int, ResultRow] = {}
    for prompt, group in of_prompt.items():
        names = [row.line.filename for row in group]
        if len(set(names)) < len(names):
            text = printable_line(group[0].line.prompt)
            raise StorageError(
                f"{path} has {len(group)} images of {text!r}, some of one file name; remove the"
                " lines of one of the runs"
            )
        copies = zip(_copies_of_names(names, suite.copies), group, strict=True)
        places |= {copy * prompts + prompt: row for copy, row in copies if copy < suite.copies}
        beyond += max(0, len(group) - suite.copies)
    return places, (
        (f"lines: {beyond:,} beyond the first {suite.copies} of a prompt are not read",)
        if beyond
        else ()
    )


def _copies_of_names(names: Sequence[str], copies: int) -> list[int]:
    """The number in each file name where all are copies' numbers, else their order."""
    stems = [Path(name.replace("\\", "/")).stem for name in names]
    numbers = [copies if number is None else number for number in map(whole_number, stems)]
    if len(set(numbers)) == len(numbers) and max(numbers) < copies:
        return numbers
    order = sorted(range(len(names)), key=lambda k: (numbers[k], natural_key(names[k])))
    return [order.index(k) for k in range(len(names))]


def _annotations_of_row(row: ResultRow) -> dict[str, Annotation]:
    """What the judges must have answered, the boxes of a class in the script's order."""
    found = [
        Detection(label=name, score=score, box=box)
        for name, boxes in row.boxes.items()
        for score, box in _descending_scores(boxes)
    ]
    edges = [thing.box for thing in found]
    size = (int(max((b[2] for b in edges), default=1)), int(max((b[3] for b in edges), default=1)))
    seen: dict[str, Annotation] = {
        "detector": DetectionAnnotation(size=size, detections=tuple(found))
    }
    wanted = rule.PromptSpec.model_validate(row.metadata)
    if places := rule.colour_query_indices(wanted, found):
        seen["colours"] = ColourAnnotation(
            probabilities=_colour_fractions(wanted, found, places, row.line.reason)
        )
    return seen


def _descending_scores(boxes: Sequence[ScoredBox]) -> Iterator[tuple[float, Box]]:
    """Boxes with their scores, of equal ones the later a hair less sure: their order is the
    script's, the detector's is not known.
    """
    last = np.float32(np.inf)
    for x0, y0, x1, y1, score in boxes:
        last = min(np.float32(score), np.nextafter(last, np.float32(0), dtype=np.float32))
        yield min(float(last), 1.0), (x0, y0, x1, y1)


def _colour_fractions(
    wanted: rule.PromptSpec, found: Sequence[Detection], places: Sequence[int], reason: str
) -> tuple[tuple[float, ...], ...]:
    """Colours as the reasons tell them: the wanted one where nothing is said, else those that were
    counted.
    """
    told: dict[tuple[str, str], list[str]] = {}
    for line in reason.splitlines():
        if match := COLOUR_REASON.fullmatch(line):
            told[match["name"], match["colour"]] = _expand_counts(match["seen"])
    named: dict[int, str] = {}
    things = rule.counted_detections(found, wanted.tag)
    for clause in wanted.include:
        group = things.get(clause.name, [])[: clause.count]
        if clause.color is not None and len(group) == clause.count:
            colours = told.get((clause.name, clause.color), [clause.color] * clause.count)
            if len(colours) != len(group):
                raise StorageError(
                    f"a reason names {len(colours)} colours of {len(group)} {clause.name}; score a"
                    " file that the script wrote"
                )
            named |= dict(zip(group, colours, strict=True))
    return tuple(
        tuple(float(colour == named.get(place)) for colour in rule.COLOURS) for place in places
    )


def _expand_counts(seen: str) -> list[str]:
    """["red", "blue", "blue"] of "1 red, 2 blue"."""
    found = re.findall(r"(\d+) (\w+)", seen)
    return [
        colour
        for number, colour in found
        for _ in range(min(whole_number(number) or 0, MAX_COLOURED_OBJECTS))
    ]
