"""The images that a prompt benchmark scores as wrong: one row per image.

A row has the reason as a text and the detections or answers behind it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harope_bench.core.checksums import check_recorded_hash
from harope_bench.core.errors import StorageError
from harope_bench.core.escaping import csv_text
from harope_bench.core.json_lines import read_lines
from harope_bench.data.result_paths import (
    SAMPLE_SCORES_SUFFIX,
    result_path_beside,
    sample_scores_paths_below,
)
from harope_bench.data.result_store import ALTERED_ADVICE, read_result
from harope_bench.reports.failure_details import EVIDENCE_TEXTS, ROW_FIELDS, flat_row

# of the csv columns that depend on the evaluator
COLUMN_STARTS = ("score.", "evidence.", "other_rules.")


def read_failures(runs: Path, include_all: bool = False) -> list[dict[str, object]]:
    """Return the rows of images that failed, were not scored or scored below 1.

    Args:
        runs: folder with run folders.
        include_all: return the rows of all images.

    Raises:
        StorageError: no result below the folder has scores of single images.
    """
    if not runs.exists():
        raise StorageError(f"{runs} does not exist; give a run folder or a folder of runs")
    paths = sample_scores_paths_below(runs)
    if not paths:
        raise StorageError(
            f"{runs} has no scores of single images (results/*{SAMPLE_SCORES_SUFFIX}); evaluate a"
            " prompt suite there first"
        )
    return [
        row for path in paths for row in _read_rows(path, runs) if include_all or is_failure(row)
    ]


def read_warnings(runs: Path) -> list[str]:
    """Return the warnings of the results below a folder, each after the result's name."""
    lines = []
    for path in sample_scores_paths_below(runs):
        name = str(path.relative_to(runs)).removesuffix(SAMPLE_SCORES_SUFFIX)
        result_path = result_path_beside(path)
        if result_path.is_file():
            lines += [f"{name}: {line}" for line in read_result(result_path).warning_texts]
    return lines


def _read_rows(path: Path, runs: Path) -> Iterator[dict[str, object]]:
    """Yield the rows of one file of sample scores, each with the name of its result."""
    name = str(path.relative_to(runs)).removesuffix(SAMPLE_SCORES_SUFFIX)
    for row in read_sample_scores(path):
        yield {"result": name, **row}


def read_sample_scores(path: Path) -> Iterator[dict[str, object]]:
    """Yield the rows of one file of sample scores.

    Raises:
        StorageError: A line is not a row of sample scores.
        AlteredFileError: The file does not have its recorded hash.
    """
    check_recorded_hash(path, ALTERED_ADVICE)
    for number, row in enumerate(read_lines(path), 1):
        if not _is_row(row):
            raise StorageError(
                f"{path} line {number} is not a row of sample scores (scores by metric, finite"
                " numbers); run eval --rescore"
            )
        yield row


def _is_row(row: Mapping[str, object]) -> bool:
    """Return whether the scores of a row are numbers by metric, and all its numbers are finite."""
    scores = row.get("scores") or {}
    try:
        json.dumps(row, allow_nan=False)
    except ValueError:
        return False
    return isinstance(scores, dict) and all(
        isinstance(value, int | float) for value in scores.values()
    )


def is_failure(row: Mapping[str, object]) -> bool:
    """Return whether an image failed, was not scored, or has a score below the best one.

    The best score is 1, or 100 for metrics in percent.
    """
    scores = row.get("scores")
    if not isinstance(scores, dict) or not scores:
        return row.get("verdict") in ("failed", "unread")
    return any(value < (100 if value > 1 else 1) for value in scores.values())


def rows_jsonl(rows: list[dict[str, object]]) -> str:
    """Return one JSON object per line, with sorted keys."""
    return "".join(json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in rows)


def rows_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Return the rows as CSV, one text or number in a column.

    The columns are ROW_FIELDS, a score for each metric, boxes and answers as texts, and each other
    value of the evidence. A leading = + - @ is quoted so that a spreadsheet does not run it.
    """
    flat_rows = [flat_row(row) for row in rows]
    names = _column_names(flat_rows)
    return csv_text([names, *([row.get(name) for name in names] for row in flat_rows)])


def _column_names(flat_rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the columns of all rows: scores behind the reason, then evidence, then other rules.

    Columns of one group are sorted, so that they do not depend on the first row.
    """
    names = {name for row in flat_rows for name in row}
    groups = [sorted(name for name in names if name.startswith(start)) for start in COLUMN_STARTS]
    scores, evidence, other_rules = groups
    return [*ROW_FIELDS, *scores, *EVIDENCE_TEXTS, *evidence, *other_rules]
