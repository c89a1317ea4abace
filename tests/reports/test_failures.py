"""Which images of prompts are listed as wrong, and in which form."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import fake_runs as fake
import pytest
from click.testing import CliRunner, Result
from document import HOSTILE, Document

from harope_bench.cli import main
from harope_bench.commands import failures as failures_command
from harope_bench.core.errors import StorageError
from harope_bench.reports import failures_page
from harope_bench.reports.failure_details import ROW_FIELDS, detected_boxes
from harope_bench.reports.failures import read_failures, rows_csv
from harope_bench.reports.failures_table import failures_table

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
    assert tuple(rows[0])[: len(ROW_FIELDS)] == ROW_FIELDS
    assert rows[0]["prompt"] == "'=cmd()" and rows[0]["score.colors"] == "0.0"
    assert rows[3]["score.dpg"] == "75.0" and rows[3]["score.colors"] == ""


def evidence_row(**evidence: object) -> dict[str, object]:
    """A row with evidence."""
    return {"result": "a", "index": 0, "scores": {"position": 0.0}, "evidence": evidence}


GENEVAL_EVIDENCE = {
    "threshold": 0.3,
    "clauses": [
        {
            "expected": {"class": "owl", "count": 2, "color": "red"},
            "is_met": False,
            "detections": [{"box": [1.0, 2.0, 30.5, 40.0], "score": 0.97, "colour": "blue"}],
            "best_score_of_class": 0.21,
        },
        {
            "expected": {"class": "urn", "count": 1, "position": ["below", 0]},
            "is_met": True,
            "detections": [{"box": [5.0, 6.0, 7.0, 8.0], "score": 0.5}],
        },
    ],
}
DPG_EVIDENCE = {
    "item": "d1",
    "questions": 3,
    "zero_questions": [
        {"id": 1, "question": "Is there an owl?", "answer": "no"},
        {"id": 2, "question": "Is it red?", "answer": "yes", "zeroed_by": 1},
    ],
}


def test_csv_has_boxes_and_answers_as_flat_texts() -> None:
    rows = [
        evidence_row(**GENEVAL_EVIDENCE),
        evidence_row(**DPG_EVIDENCE),
        evidence_row(kind="x", parts={"a": {"score": 0.5}}, names=["b", "c"]),
    ]
    table = list(csv.DictReader(io.StringIO(rows_csv(rows))))
    assert table[0]["expected"] == "2 red owl; 1 urn, below object 1"
    assert table[0]["boxes"] == "blue owl 0.97 [1 2 30.5 40]; urn 0.50 [5 6 7 8]"
    assert table[0]["best_scores"] == "owl 0.21" and table[0]["evidence.threshold"] == "0.3"
    assert table[1]["answers"] == (
        "Is there an owl? no; Is it red? yes (its parent, question 1, scored 0)"
    )
    assert table[2]["evidence.parts.a.score"] == "0.5" and table[2]["evidence.names"] == "b; c"
    assert not [cell for row in table for cell in row.values() if cell.startswith(("{", "[{"))]


def test_evidence_of_another_form_loses_nothing_in_csv() -> None:
    """A plug-in may use a name of ours for something else."""
    row = evidence_row(clauses="two", zero_questions={"n": 3}, other=[{"x": 1}, [2]])
    (columns,) = csv.DictReader(io.StringIO(rows_csv([row])))
    assert columns["evidence.clauses"] == "two" and columns["evidence.zero_questions.n"] == "3"
    assert columns["evidence.other.0.x"] == "1" and columns["evidence.other.1"] == "2"
    broken_row = evidence_row(clauses=[{"detections": [{"box": [1, "a", 2, 3], "score": 1.0}]}])
    assert detected_boxes(broken_row) == []


def test_the_table_names_the_worst_images_first(runs: Path) -> None:
    text = failures_table(read_failures(runs, include_all=True), False, 80)
    lines = text.splitlines()
    assert lines[0] == "a/results/geneval: 4 of 7 images below the full score"
    assert lines[1] == "colors 1 of 2, no task 1 of 2, dpg 1 of 2, numeracy 1 of 1"
    assert lines[3].split() == ["image", "task", "score", "prompt", "reason"]
    assert [line.split()[0] for line in lines[4:]] == ["2", "5", "1", "4"]
    assert "failed" in lines[4] and "unread" in lines[5]
    shown_text = failures_table(read_failures(runs, include_all=True), True, 80)
    assert len(shown_text.splitlines()) == len(lines) + 3


def test_long_texts_are_wrapped_below_their_columns() -> None:
    row = {
        **evidence_row(**DPG_EVIDENCE),
        "prompt": "a very long prompt " * 9,
        "task": "dpg",
        "reason": "1 of 3",
    }
    lines = failures_table([row], False, 78).splitlines()
    assert max(map(len, lines)) <= 78 and len(lines) > 6
    assert "Is there an owl? no" in " ".join(" ".join(lines).split())
    start = lines[2].index("prompt")
    assert all(line[:start].isspace() for line in lines[4:])


def test_the_table_runs_no_control_character() -> None:
    row = {**evidence_row(), "prompt": "red \x1b[31m\u202e text", "reason": "a\nb"}
    assert "\x1b" not in failures_table([row], False, 100)
    assert "\u202e" not in failures_table([row], False, 100)


def test_the_page_shows_images_with_their_boxes(tmp_path: Path) -> None:
    fake.micro_run(tmp_path / "a", "harope")
    fake.write_samples(tmp_path / "a", 3, prompt=HOSTILE)
    rows = [{**evidence_row(**GENEVAL_EVIDENCE), "prompt": HOSTILE}]
    rows.append({**evidence_row(**DPG_EVIDENCE), "index": 1})
    rows.append({**evidence_row(), "index": 7, "reason": HOSTILE})
    write_rows(tmp_path, rows)
    text = call_failures(tmp_path, "html").output
    page = Document(text)
    assert page.tags["img"] == 2 and page.tags["rect"] == 4 and page.tags["script"] == 0
    assert all(link.startswith(("#", "data:image/webp;base64,")) for link in page.links)
    assert text.count('viewBox="0 0 28 28"') == 1
    assert "no image here" in page.text and "blue owl 0.97 [1 2 30.5 40]" in page.text
    assert "Is there an owl? no" in page.text and "default-src 'none'" in text
    assert call_failures(tmp_path, "html").output == text


def test_images_beyond_five_megabytes_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.micro_run(tmp_path / "a", "harope")
    fake.write_samples(tmp_path / "a", 3)
    write_rows(tmp_path, [{**evidence_row(), "index": i} for i in range(3)])
    monkeypatch.setattr(failures_page, "MAX_IMAGE_BYTES", 6_000)
    page = Document(failures_page.render_failures_page(tmp_path, read_failures(tmp_path), False))
    assert 0 < page.tags["img"] < 3
    assert f"{3 - page.tags['img']} images are listed without their picture" in page.text


def write_rows(runs: Path, rows: list[dict[str, object]]) -> None:
    """Write the sample scores of run a; a file does not name its result."""
    path = runs / "a/results/geneval.sample_scores.jsonl"
    lines = [{key: value for key, value in row.items() if key != "result"} for row in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def call_failures(runs: Path, format_name: str) -> Result:
    """Call the command with a format."""
    return CliRunner().invoke(main, ["failures", str(runs), "--format", format_name])


def test_the_verb_writes_json_lines(runs: Path) -> None:
    command_result = CliRunner().invoke(main, ["failures", str(runs)])
    assert command_result.exit_code == 0 and [
        json.loads(line)["index"] for line in command_result.output.splitlines()
    ] == [1, 2, 5, 4]


def test_a_terminal_gets_the_table(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures_command, "is_terminal", lambda: True)
    command_result = CliRunner().invoke(main, ["failures", str(runs)])
    assert command_result.output == call_failures(runs, "table").output
    assert "4 of 7 images" in command_result.output


def test_a_folder_without_verdicts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no scores of single images"):
        read_failures(tmp_path)
