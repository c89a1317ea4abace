"""Results and sample scores as rows: one row a measurement, or one row an image."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harope_bench.core.errors import StorageError
from harope_bench.core.escaping import csv_text
from harope_bench.core.schema import Result, SampleRecord
from harope_bench.data.result_paths import (
    SAMPLE_SCORES_SUFFIX,
    run_folder_of,
    sample_scores_paths_below,
)
from harope_bench.data.result_store import read_results
from harope_bench.data.run_folder import PLAN_FILE, RunFolder
from harope_bench.reports.failures import read_sample_scores

RESULT_COLUMNS = (
    "run",
    "checkpoint",
    "encoding",
    "suite",
    "resolution",
    "metric",
    "value",
    "se",
    "low",
    "high",
    "n",
    "judge",
    "profile",
    "name",
    "evaluator",
    "rules",
    "scale",
    "label",
    "reason",
)
SAMPLE_COLUMNS = ("index", "label", "prompt", "status", "reason", "file")
TABLE_COLUMNS = ("run", "name", "value", "se", "low", "high", "n", "judge", "profile")


def read_result_rows(folder: Path) -> list[dict[str, object]]:
    """Return one row for each measurement of the run folders at and below a folder.

    The columns are RESULT_COLUMNS. `run` is the path below the folder. A value that is missing is
    None.

    Raises:
        StorageError: The folder is missing, holds no result, or a file is not a result.
        AlteredFileError: A file does not have its recorded hash.
    """
    rows = [
        row
        for stored_result in read_results(folder)
        for row in measurement_rows(stored_result.result, stored_result.path, folder)
    ]
    if not rows:
        raise StorageError(f"{folder} holds no result; evaluate a run: harope-bench eval RUN")
    return rows


def measurement_rows(result: Result, path: Path, folder: Path) -> list[dict[str, object]]:
    """Return one row for each measurement of a result.

    Args:
        path: File of the result.
        folder: Folder that the names of runs start from.
    """
    plan = result.plan
    shared_fields: dict[str, object] = {
        "run": _run_name(run_folder_of(path), folder),
        "checkpoint": plan.checkpoint.name if plan else result.target,
        "encoding": plan.checkpoint.encoding if plan else None,
        "suite": result.suite_name,
        "resolution": result.side,
        "judge": result.judge.name,
        "profile": result.profile,
        "evaluator": result.evaluator,
        "rules": result.rules,
        "scale": result.scale,
        "label": result.label,
    }
    rows: list[dict[str, object]] = []
    for measurement in result.measurements:
        fields: dict[str, object] = {
            **shared_fields,
            "metric": measurement.metric,
            "name": measurement.name,
            "value": measurement.value,
            "se": measurement.se,
            "low": measurement.low,
            "high": measurement.high,
            "n": measurement.n_scored,
            "reason": measurement.reason,
        }
        rows.append({column: fields[column] for column in RESULT_COLUMNS})
    return rows


def _run_name(run: Path, folder: Path) -> str:
    """Return the path of a run below a folder; the name of the folder itself."""
    name = run.relative_to(folder).as_posix()
    return folder.resolve().name if name == "." else name


# ------------------------------------------------------------------------------------------- images


def read_sample_rows(run: Path) -> list[dict[str, object]]:
    """Return one row for each sample of a run, by index.

    The columns are SAMPLE_COLUMNS and one for each score: the metric's name, or `RESULT.METRIC`
    where several results score it. `label` and `prompt` are what was asked for. `reason` says why
    a sample failed, or what the rule of the first result says of it.

    Raises:
        StorageError: The folder is no run, or a line of scores is damaged.
        SampleError: A record is damaged.
    """
    if not (run / PLAN_FILE).is_file():
        raise StorageError(f"{run} holds no {PLAN_FILE}, so it is no run folder; give a run folder")
    rows = {
        index: _sample_row(record)
        for index, record in sorted(RunFolder(run).read_records().items())
    }
    paths = [path for path in sample_scores_paths_below(run) if run_folder_of(path) == run]
    scores_by_result = {
        path.name.removesuffix(SAMPLE_SCORES_SUFFIX): list(read_sample_scores(path))
        for path in paths
    }

    metric_counts = _metric_counts(scores_by_result)
    for result_name, score_rows in scores_by_result.items():
        for score_row in score_rows:
            index = score_row.get("index")
            if isinstance(index, int) and index in rows:
                _add_scores(rows[index], result_name, score_row, metric_counts)
    return list(rows.values())


def _sample_row(record: SampleRecord) -> dict[str, object]:
    return {column: getattr(record, column) for column in SAMPLE_COLUMNS}


def _scores(score_row: Mapping[str, object]) -> Mapping[str, object]:
    scores = score_row.get("scores")
    return scores if isinstance(scores, dict) else {}


def _metric_counts(
    scores_by_result: Mapping[str, Sequence[Mapping[str, object]]],
) -> dict[str, int]:
    """Return by metric how many results have scores of it."""
    counts: dict[str, int] = {}
    for score_rows in scores_by_result.values():
        for metric in dict.fromkeys(name for row in score_rows for name in _scores(row)):
            counts[metric] = counts.get(metric, 0) + 1
    return counts


def _add_scores(
    row: dict[str, object],
    result_name: str,
    score_row: Mapping[str, object],
    metric_counts: Mapping[str, int],
) -> None:
    """Add the scores of one result to the row of a sample."""
    for metric, score in _scores(score_row).items():
        column = metric if metric_counts[metric] == 1 else f"{result_name}.{metric}"
        row[column] = score
    if row["reason"] is None:
        row["reason"] = score_row.get("reason")


def sample_columns(rows: Iterable[Mapping[str, object]]) -> list[str]:
    """Return SAMPLE_COLUMNS and the columns of scores, in the order of their first use."""
    return list(dict.fromkeys([*SAMPLE_COLUMNS, *(column for row in rows for column in row)]))


# -------------------------------------------------------------------------------------------- texts


def result_rows_text(rows: Sequence[Mapping[str, object]], format_name: str) -> str:
    """Return the rows of results as csv, json or an aligned table, ending in a newline.

    Cells of the csv that a spreadsheet would run as a formula are escaped.
    """
    if format_name == "json":
        return json.dumps(list(rows), allow_nan=False, indent=1) + "\n"
    if format_name == "csv":
        lines = [[row.get(column) for column in RESULT_COLUMNS] for row in rows]
        return csv_text([RESULT_COLUMNS, *lines])
    cells = [[_cell_text(row.get(column)) for column in TABLE_COLUMNS] for row in rows]
    return "\n".join(_aligned_lines([list(TABLE_COLUMNS), *cells])) + "\n"


def _cell_text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _aligned_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines whose columns are aligned to the left."""
    widths = [max(len(row[position]) for row in rows) for position in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
