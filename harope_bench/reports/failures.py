"""The images that a benchmark of prompts holds wrong, one row each, with the reason in words and
what was seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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

ROW_FIELDS = (
    "result",
    "index",
    "prompt_index",
    "copy",
    "task",
    "prompt",
    "verdict",
    "reason",
    "scores",
    "other_rules",
    "evidence",
)


def read_failures(runs: Path, include_all: bool = False) -> list[dict[str, object]]:
    """Rows of all results below a folder: images that failed, are unread or scored below 1, or
    every image.

    Raises:
        StorageError: no result there holds rows of single images.
    """
    paths = sample_scores_paths_below(runs)
    if not paths:
        raise StorageError(
            f"{runs} holds no verdicts on single images (results/*{SAMPLE_SCORES_SUFFIX}); eval a"
            " suite of prompts there first"
        )
    return [
        row for path in paths for row in _read_rows(path, runs) if include_all or _is_wrong(row)
    ]


def read_warnings(runs: Path) -> list[str]:
    """Return what the results that hold these rows say of themselves, each line behind the result's
    name.
    """
    lines = []
    for path in sample_scores_paths_below(runs):
        name = str(path.relative_to(runs)).removesuffix(SAMPLE_SCORES_SUFFIX)
        result = result_path_beside(path)
        lines += (
            [f"{name}: {line}" for line in read_result(result).warning_texts]
            if result.is_file()
            else []
        )
    return lines


def _read_rows(path: Path, runs: Path) -> Iterator[dict[str, object]]:
    name = str(path.relative_to(runs)).removesuffix(SAMPLE_SCORES_SUFFIX)
    check_recorded_hash(path, ALTERED_ADVICE)
    for number, row in enumerate(read_lines(path), 1):
        if not _is_row(row):
            raise StorageError(
                f"{path} row {number} is not what eval writes (scores by metric, finite numbers);"
                " run eval --rescore"
            )
        yield {"result": name, **row}


def _is_row(row: Mapping[str, object]) -> bool:
    """Return whether scores are numbers by metric, or there are none, and no number of the row is
    infinite or NaN.
    """
    scores = row.get("scores") or {}
    try:
        json.dumps(row, allow_nan=False)
    except ValueError:
        return False
    return isinstance(scores, dict) and all(
        isinstance(value, int | float) for value in scores.values()
    )


def _is_wrong(row: Mapping[str, object]) -> bool:
    """Whether an image failed, has no score by the rules (unread) or is not fully right.

    Scores are shares, or percent for metrics that count so.
    """
    scores = row.get("scores")
    if not isinstance(scores, dict) or not scores:
        return row.get("verdict") in ("failed", "unread")
    return any(value < (100 if value > 1 else 1) for value in scores.values())


def rows_jsonl(rows: list[dict[str, object]]) -> str:
    """A JSON object a line, keys sorted."""
    return "".join(json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in rows)


def rows_csv(rows: list[dict[str, object]]) -> str:
    """Columns as FIELDS; values that are no single word or number stand as JSON. A leading = + - @
    is quoted against spreadsheets.
    """
    return csv_text(
        [ROW_FIELDS, *([_csv_value(row.get(name)) for name in ROW_FIELDS] for row in rows)]
    )


def _csv_value(value: object) -> str:
    return (
        ""
        if value is None
        else value
        if isinstance(value, str)
        else json.dumps(value, sort_keys=True)
    )
