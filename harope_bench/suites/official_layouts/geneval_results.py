"""Results of GenEval's official script, results.jsonl, to the digits that its summary prints.

A line has the verdict, the reason, the prompt's metadata and the counted boxes (`details`: by
class, x0, y0, x1, y1, score, highest score first). Together with the colours in the reason this is
all that the rule of harope-bench needs. Therefore the result states on how many images the rule
agrees with the script's verdict.

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
from harope_bench.core.index_ranges import parse_whole_number
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
# Limit for the objects of a colour that a reason counts; no prompt has more than a few.
MAX_COLOURED_OBJECTS = 1000
ScoredBox = tuple[
    float, float, float, float, Annotated[float, Field(ge=0)]
]  # x0, y0, x1, y1, score
BOXES = TypeAdapter(dict[str, list[ScoredBox]])
COLOUR_REASON = re.compile(
    r"expected (?P<colour>\w+) (?P<name>.+?)>=\d+, found \d+ (?P=colour); and (?P<counts>.+)"
)


class ResultLine(Record):
    """A line of the file.

    `metadata` and `details` are objects, or JSON inside JSON as pandas writes them. Fields of other
    programs are ignored. Without metadata the text of the prompt identifies it.
    """

    model_config = ConfigDict(extra="ignore")
    filename: str
    prompt: str
    correct: bool
    reason: str = ""
    metadata: str | dict[str, JsonValue] | None = None
    details: str | dict[str, JsonValue] = Field(default="{}")


class ResultRow(NamedTuple):
    """A line with its parsed metadata and its parsed boxes by class."""

    line: ResultLine
    metadata: Metadata
    boxes: dict[str, list[ScoredBox]]


def is_results_file(path: Path) -> bool:
    """Return whether a file is such a results file, by its first line."""
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    with open_regular(path) as file:
        start = file.read(1 << 20)
    first_line = start.decode(detect_charset(start), errors="replace").partition("\n")[0]
    return all(f'"{field}"' in first_line for field in ("filename", "correct", "prompt"))


def import_scores(
    path: Path, suite: PromptSuite, is_lenient: bool = False, rules: str = "official"
) -> EvaluatorOutput:
    """Return the measurements of a finished run.

    Args:
        suite: geneval, which has the prompts. Each prompt should have as many images as the one
            with most.
        is_lenient: score the images with results, as the summary does; otherwise a metric with a
            missing image is None.

    Raises:
        StorageError: The file is another one, a prompt is unknown, or a prompt has more images than
            the suite has copies.
    """
    rows, row_warnings = rows_by_index(read_rows(path), PromptIndex(suite), suite, path)
    prompts = suite.count // suite.copies
    copies = 1 + max(rows) // prompts

    annotated_images = []
    verdicts = {}
    for index in range(copies * prompts):
        case = suite.case(index)
        row = rows.get(index)
        annotations: dict[str, Annotation] = {}
        failure = f"not in {path.name}"
        if row:
            annotations = _annotations_of_row(row)
            verdicts[index] = OfficialVerdict(row.line.correct, row.line.reason)
        annotated_images.append(
            AnnotatedImage(
                index,
                case.prompt_index,
                case.copy,
                case.prompt,
                case.metadata["geneval"],
                annotations,
                None if row else failure,
            )
        )

    output = GenEvalEvaluator(verdicts).evaluate(annotated_images, rules, is_lenient)
    warnings = (*row_warnings, *copies_warnings(copies, suite.copies), *output.warnings)
    return output._replace(warnings=warnings)


def read_rows(path: Path) -> list[ResultRow]:
    """Return all lines; raise StorageError with the number of an invalid one."""
    rows = []
    for line_number, content in enumerate(read_lines(path), 1):
        try:
            line = ResultLine.model_validate(content)
            boxes = BOXES.validate_python(_parse_object(line.details))
            metadata: Metadata = {"prompt": line.prompt}
            if line.metadata is not None:
                metadata = _parse_object(line.metadata)
        except ValidationError as error:
            raise StorageError(
                f"{path} line {line_number} is no GenEval result ({validation_summary(error)});"
                " give the script's own file"
            ) from error
        except ValueError as error:
            raise StorageError(
                f"{path} line {line_number} has no metadata or details in JSON; give the script's"
                " own file"
            ) from error
        rows.append(ResultRow(line, metadata, boxes))
    if not rows:
        raise StorageError(f"{path} has no results; give the file that evaluate_images.py wrote")
    return rows


def _parse_object(value: str | dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the object that a field is or has as JSON; raise ValueError for another value."""
    parsed_value = parse_json(value) if isinstance(value, str) else value
    if not isinstance(parsed_value, dict):
        raise ValueError("no JSON object")
    return parsed_value


def rows_by_index(
    rows: Sequence[ResultRow], suite_prompts: PromptIndex, suite: PromptSuite, path: Path
) -> tuple[dict[int, ResultRow], tuple[str, ...]]:
    """Return the row of each index of the suite, and warnings about rows that are not used.

    The metadata of a row determine its prompt. Its copy follows from the file names of all rows of
    this prompt. Rows beyond the suite's copies are not used.

    Raises:
        StorageError: A prompt is unknown, or an image has two rows.
    """
    prompts = suite.count // suite.copies
    n_excess = 0
    by_index: dict[int, ResultRow] = {}
    for prompt_index, group in _rows_by_prompt(rows, suite_prompts, path).items():
        names = [row.line.filename for row in group]
        if len(set(names)) < len(names):
            text = printable_line(group[0].line.prompt)
            raise StorageError(
                f"{path} has {len(group)} images of {text!r}, some of one file name; remove the"
                " lines of one of the runs"
            )
        for copy, row in zip(_copies_of_names(names, suite.copies), group, strict=True):
            if copy < suite.copies:
                by_index[copy * prompts + prompt_index] = row
        n_excess += max(0, len(group) - suite.copies)

    if not n_excess:
        return by_index, ()
    warning = f"lines: {n_excess:,} beyond the first {suite.copies} of a prompt are not read"
    return by_index, (warning,)


def _rows_by_prompt(
    rows: Sequence[ResultRow], suite_prompts: PromptIndex, path: Path
) -> dict[int, list[ResultRow]]:
    """Return the rows of each prompt, with the suite's metadata instead of their own."""
    by_prompt: dict[int, list[ResultRow]] = {}
    for row in rows:
        try:
            prompt_index = suite_prompts.find({"prompt": row.line.prompt, **row.metadata})
        except UnknownMetadataError as error:
            text = printable_line(row.line.prompt)
            raise StorageError(
                f"{path}: {text!r} is no prompt of GenEval's as fetched ({error}); score a file of"
                " the official prompts"
            ) from error
        metadata = dict(suite_prompts.metadata[prompt_index])
        by_prompt.setdefault(prompt_index, []).append(row._replace(metadata=metadata))
    return by_prompt


def _copies_of_names(names: Sequence[str], copies: int) -> list[int]:
    """Return the copy of each file name.

    It is the number in the name if all numbers are valid copies, otherwise the position of the name
    in natural order.
    """
    stems = [Path(name.replace("\\", "/")).stem for name in names]
    numbers = [copies if number is None else number for number in map(parse_whole_number, stems)]
    if len(set(numbers)) == len(numbers) and max(numbers) < copies:
        return numbers
    order = sorted(range(len(names)), key=lambda k: (numbers[k], natural_key(names[k])))
    return [order.index(k) for k in range(len(names))]


def _annotations_of_row(row: ResultRow) -> dict[str, Annotation]:
    """Return annotations that agree with a row; boxes of a class are in the script's order."""
    detections = [
        Detection(label=name, score=score, box=box)
        for name, boxes in row.boxes.items()
        for score, box in _descending_scores(boxes)
    ]
    width = int(max((detection.box[2] for detection in detections), default=1))
    height = int(max((detection.box[3] for detection in detections), default=1))
    annotations: dict[str, Annotation] = {
        "detector": DetectionAnnotation(size=(width, height), detections=tuple(detections))
    }

    prompt_spec = rule.PromptSpec.model_validate(row.metadata)
    detection_indices = rule.colour_query_indices(prompt_spec, detections)
    if detection_indices:
        probabilities = _colour_fractions(
            prompt_spec, detections, detection_indices, row.line.reason
        )
        annotations["colours"] = ColourAnnotation(probabilities=probabilities)
    return annotations


def _descending_scores(boxes: Sequence[ScoredBox]) -> Iterator[tuple[float, Box]]:
    """Yield scores and boxes in the script's order; of equal scores later ones become smaller.

    The difference is one step of float32. It preserves the script's order, because the order of the
    detector is unknown.
    """
    previous_score = np.float32(np.inf)
    for x0, y0, x1, y1, score in boxes:
        next_lower = np.nextafter(previous_score, np.float32(0), dtype=np.float32)
        previous_score = min(np.float32(score), next_lower)
        yield min(float(previous_score), 1.0), (x0, y0, x1, y1)


def _colour_fractions(
    prompt_spec: rule.PromptSpec,
    detections: Sequence[Detection],
    detection_indices: Sequence[int],
    reason: str,
) -> tuple[tuple[float, ...], ...]:
    """Return the probability of each colour (1 or 0) for the detections with these indices.

    The colours are those that the reason counts, or the expected one where it has no counts.

    Raises:
        StorageError: A reason counts another number of objects than there are boxes.
    """
    counted_colours: dict[tuple[str, str], list[str]] = {}  # by class and expected colour
    for line in reason.splitlines():
        match = COLOUR_REASON.fullmatch(line)
        if match:
            counted_colours[match["name"], match["colour"]] = _expand_counts(match["counts"])

    colour_by_index: dict[int, str] = {}
    indices_by_class = rule.counted_detections(detections, prompt_spec.tag)
    for clause in prompt_spec.include:
        indices = indices_by_class.get(clause.name, [])[: clause.count]
        if clause.color is None or len(indices) != clause.count:
            continue
        expected_colours = [clause.color] * clause.count
        colours = counted_colours.get((clause.name, clause.color), expected_colours)
        if len(colours) != len(indices):
            raise StorageError(
                f"a reason has {len(colours)} colours of {len(indices)} {clause.name}; score a"
                " file that the script wrote"
            )
        colour_by_index |= dict(zip(indices, colours, strict=True))
    return tuple(
        tuple(float(colour == colour_by_index.get(index)) for colour in rule.COLOURS)
        for index in detection_indices
    )


def _expand_counts(counts_text: str) -> list[str]:
    """Return the colours in a text of counts, each as often as counted.

    >>> _expand_counts("1 red, 2 blue")
    ['red', 'blue', 'blue']
    """
    colours = []
    for number, colour in re.findall(r"(\d+) (\w+)", counts_text):
        count = min(parse_whole_number(number) or 0, MAX_COLOURED_OBJECTS)
        colours += [colour] * count
    return colours
