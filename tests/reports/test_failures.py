"""Which images of prompts are listed as wrong, and in which form."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harope_bench.cli import main
from harope_bench.core.errors import StorageError
from harope_bench.reports.failures import ROW_FIELDS, read_failures, rows_csv

ROWS = [
    {
        "index": 0,
        "prompt_index": 0,
        "copy": 0,
        "prompt": "a red dog",
        "task": "colors",
        "reason": "right",
        "scores": {"colors": 1.0},
    },
    {
        "index": 1,
        "prompt_index": 1,
        "copy": 0,
        "prompt": "=cmd()",
        "task": "colors",
        "reason": "expected red, found blue",
        "scores": {"colors": 0.0},
    },
    {
        "index": 2,
        "prompt_index": 2,
        "copy": 0,
        "prompt": "two dogs",
        "verdict": "failed",
        "reason": "eye: crashed",
    },
    {
        "index": 3,
        "prompt_index": 3,
        "copy": 0,
        "prompt": "a dpg prompt",
        "task": "dpg",
        "reason": "all yes",
        "scores": {"dpg": 100.0},
    },
    {
        "index": 5,
        "prompt_index": 5,
        "copy": 0,
        "prompt": "a",
        "task": "numeracy",
        "verdict": "unread",
        "reason": "no number",
        "scores": {},
    },
    {
        "index": 6,
        "prompt_index": 6,
        "copy": 0,
        "prompt": "b",
        "verdict": "excluded",
        "reason": "the rules exclude it",
    },
    {
        "index": 4,
        "prompt_index": 4,
        "copy": 0,
        "prompt": "a dpg prompt",
        "task": "dpg",
        "reason": "one no",
        "scores": {"dpg": 75.0},
    },
]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    path = tmp_path / "a" / "results" / "geneval.sample_scores.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def test_wrong_and_failed_images_are_listed_and_right_ones_are_not(runs: Path) -> None:
    assert [row["index"] for row in read_failures(runs)] == [1, 2, 5, 4]
    assert [row["index"] for row in read_failures(runs, include_all=True)] == [0, 1, 2, 3, 5, 6, 4]
    assert read_failures(runs)[0]["result"] == "a/results/geneval"


def test_csv_holds_one_row_an_image_and_no_formula(runs: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(rows_csv(read_failures(runs)))))
    assert (
        tuple(rows[0]) == ROW_FIELDS
        and rows[0]["prompt"] == "'=cmd()"
        and json.loads(rows[0]["scores"]) == {"colors": 0.0}
    )


def test_the_verb_writes_json_lines(runs: Path) -> None:
    command_result = CliRunner().invoke(main, ["failures", str(runs)])
    assert command_result.exit_code == 0 and [
        json.loads(line)["index"] for line in command_result.output.splitlines()
    ] == [1, 2, 5, 4]


def test_a_folder_without_verdicts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no scores of single images"):
        read_failures(tmp_path)
