"""Own runs, imported results and scored folders as rows of a table: named, labelled, compared,
escaped, refused.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import fake_runs as fake
import numpy as np
import pytest
import tiny_prompts
from click.testing import CliRunner
from document import HOSTILE, Document
from fake_runs import HASH
from PIL import Image

from harope_bench.cli import main
from harope_bench.core.errors import OptionError, StorageError, UnknownNameError
from harope_bench.core.record_base import LABEL_LENGTH
from harope_bench.core.schema import JudgeRecord, Measurement, Result
from harope_bench.data.result_store import read_result, read_results
from harope_bench.leaderboards.board import Board, build_board, build_boards, load_table
from harope_bench.leaderboards.entries import Entries, parse_entries
from harope_bench.pipeline.evaluate import FeatureScoring, evaluate
from harope_bench.reports.report_page import build_report_page
from harope_bench.reports.tables import TABLE_FORMATS, render_table


def run(*words: object, exit_code: int = 0) -> str:
    command_result = CliRunner().invoke(main, [str(word) for word in words])
    assert command_result.exit_code == exit_code, (command_result.output, command_result.exception)
    return command_result.output


def error_line(*words: object) -> str:
    (line,) = run(*words, exit_code=1).strip().splitlines()
    return line


def own_run(
    folder: Path, name: str = "my-pe", n: int = 500, seed: int = 0, **settings: Any
) -> Path:
    """A micro run of an encoding that no table knows, its noise shared with the table's rows of
    that seed.
    """
    fake.micro_run(folder, "harope", n, seed)
    path = folder / "results/fidelity.json"
    result = read_result(path)
    owner = fake.plan(fake.checkpoint(name, "my-encoding", sha256="cd" * 32), seed=seed, **settings)
    made_result = result.model_copy(
        update={"plan": owner, "plan_digest": owner.digest, "target": folder.name}
    )
    path.write_text(made_result.to_json(indent=1) + "\n")
    (folder / "plan.json").write_text(owner.to_json(indent=1) + "\n")
    return folder


def write_foreign_result(
    folder: Path, overall: float, suite: str | None = "geneval", **fields: Any
) -> Path:
    """A result without a plan, as `eval results.jsonl` leaves it."""
    names = ("overall", "two_object", "position")
    official = JudgeRecord(
        name="official-run",
        version=1,
        judge_class="official",
        weights_sha256="0" * 64,
        preprocessing="elsewhere",
    )
    inputs = {
        "evaluator": "geneval",
        "profile": "geneval",
        "scale": "paper",
        "target": "results.jsonl",
        "suite": suite,
        "judge": official,
        "samples_sha256": f"{int(overall * 1000):064d}",
    }
    result = fake.result(
        None, [fake.measurement(m, overall, 0.01, 553) for m in names], **{**inputs, **fields}
    )
    return fake.write_result(folder, result, name="geneval")


def flux(
    folder: Path, encoding: str, side: int, overall: float, name: str | None = None, **fields: Any
) -> Path:
    """A paper-scale GenEval result of a FLUX with that encoding at that side, judged as an official
    run.
    """
    name = name or f"flux-{encoding}"
    owner = fake.checkpoint(
        name, encoding, backbone="flux", config={}, scale="paper", suite="geneval", **fields
    )
    official = JudgeRecord(
        name="official-run",
        version=1,
        judge_class="official",
        weights_sha256="0" * 64,
        preprocessing="elsewhere",
    )
    result = fake.result(
        fake.plan(owner, "geneval", resolution=side, steps=28),
        [fake.measurement("overall", overall, 0.01, 553)],
        evaluator="geneval",
        profile="geneval",
        judge=official,
        suite="geneval",
    )
    return fake.write_result(folder, result, name="geneval")


def board(
    runs: Path, number: str, *add: str, row: tuple[str, ...] = (), show: Any = "both"
) -> Board:
    return build_boards(
        [load_table(number)], read_results(runs), show, None, parse_entries(add, row, runs)
    )[0]


def heads(shown_board: Board) -> list[str]:
    return [row.header_text(shown_board.table.row_headers[-1]) for row in shown_board.table.rows]


# --------------------------------------------------------------------------------------------- rows
# of their own


@pytest.fixture
def micro(tmp_path: Path) -> Path:
    """The six rows of the micro Table 2 and a run of an own encoding."""
    runs = fake.micro_table(tmp_path / "runs")
    own_run(runs / "ours")
    return runs


def test_an_own_checkpoint_is_the_last_row_in_every_format_and_compared_with_the_baseline(
    micro: Path,
) -> None:
    shown_board = board(micro, "2", "my-pe=MyPE (ours)")
    assert heads(shown_board)[-1] == "MyPE (ours)" and len(shown_board.table.rows) == 7
    cell = shown_board.cells["my-pe", "fid"]
    assert (cell.status, cell.published, cell.delta) == ("measured", None, None)
    differences = {
        item.column: item.difference for item in shown_board.comparisons if item.row == "my-pe"
    }
    assert set(differences) == {"fid", "is", "precision", "recall"} and differences["fid"].is_paired
    assert [item.baseline for item in shown_board.comparisons if item.row == "my-pe"] == [
        "axial"
    ] * 4
    for kind in TABLE_FORMATS:
        assert "MyPE (ours)" in run(
            "table", 2, "--runs", micro, "--add", "my-pe=MyPE (ours)", "--format", kind
        )
    rows = list(csv.DictReader(io.StringIO(render_table(shown_board, "csv"))))
    assert (
        rows[-1]["Position Embedding"] == "MyPE (ours)"
        and rows[-1]["fid.published"] == ""
        and float(rows[-1]["fid.measured"])
    )
    document = json.loads(render_table(shown_board, "json"))["rows"]
    assert [row["is_added"] for row in document] == [False] * 6 + [True]


def test_rows_of_the_table_are_the_same_with_an_added_one_but_for_what_is_adjusted_over_the_table(
    micro: Path,
) -> None:
    plain_board, added_board = board(micro, "2"), board(micro, "2", "my-pe")
    assert {key: cell.measured for key, cell in added_board.cells.items() if key[0] != "my-pe"} == {
        key: cell.measured for key, cell in plain_board.cells.items()
    }
    assert len(added_board.comparisons) == len(plain_board.comparisons) + 4, (
        "Holm's family has the added row's differences too"
    )


@pytest.mark.parametrize("name", ["my-pe", "ours", "./ours", "./ours/"])
def test_a_run_is_named_by_checkpoint_or_folder(micro: Path, name: str) -> None:
    assert board(micro, "2", f"{name}=Mine").n_measured == 28


def test_a_run_that_fits_no_row_is_named_until_it_is_added(micro: Path) -> None:
    own_run(micro / "x/y", "her-pe")
    text = render_table(board(micro, "2"), "md")
    assert (
        "2 runs fit no row of Table 2: my-pe (suite digits), her-pe (suite digits); --add NAME"
        " adds one." in text
    )
    assert (
        "1 run fits no row of Table 2: her-pe (suite digits); --add NAME adds it."
        in render_table(board(micro, "2", "my-pe"), "md")
    )
    assert "fit no row" not in render_table(board(micro, "2", "my-pe", "x/y"), "md")
    assert "fit" not in render_table(board(micro, "2", show="published"), "md")
    boards = build_boards([load_table("2"), load_table("1")], read_results(micro), "both")
    assert all(
        any("no row of Table 2 and Table 1: my-pe" in note.text for note in item.notes)
        for item in boards
    )


def test_an_own_classifier_is_a_row_of_table_1_in_its_block(tmp_path: Path) -> None:
    for name, encoding, value in (
        ("digits-deit-rope-axial", "rope-axial", 95.0),
        ("my-deit", "my-encoding", 96.0),
    ):
        owner = fake.checkpoint(
            name,
            encoding,
            backbone="deit",
            suite="digits-held-out",
            sampler=None,
            steps=None,
            guidance=None,
        )
        plan = fake.plan(owner, "digits-held-out", sampler=None, steps=None, guidance=None)
        result = fake.result(
            plan, [fake.measurement("top1", value, 0.5, 1000)], evaluator="top1", profile="top1"
        )
        fake.write_result(tmp_path / name, result, name="top1")
    shown_board = board(tmp_path, "1", "my-deit=Ours")
    ids = [row.id for row in shown_board.table.rows]
    assert ids.index("my-deit") == ids.index("b-harope") + 1, "the last of DeiT-Base's block"
    assert shown_board.cells["my-deit", "top1"].measured == 96.0
    assert {(item.row, item.baseline) for item in shown_board.comparisons} == {
        ("my-deit", "b-axial")
    }
    assert "Ours" in render_table(shown_board, "tex")


def test_an_own_text_to_image_checkpoint_has_a_row_in_each_block_of_table_4(tmp_path: Path) -> None:
    for side in (512, 1024):
        flux(tmp_path / f"rope-{side}", "rope-axial", side, 0.70)
        flux(
            tmp_path / f"mine-{side}",
            "my-encoding",
            side,
            0.75 + side / 1e5,
            "my-flux",
            sha256="cd" * 32,
        )
    flux(tmp_path / "mine-768", "my-encoding", 768, 0.5, "my-flux", sha256="cd" * 32)
    shown_board = board(tmp_path, "4", "my-flux=FLUX + mine")
    assert [row.id for row in shown_board.table.rows] == [
        "r512-rope",
        "r512-harope",
        "r512-my-flux",
        "r1024-rope",
        "r1024-harope",
        "r1024-my-flux",
        "r2048-rope",
        "r2048-harope",
    ]
    assert shown_board.cells["r512-my-flux", "overall"].measured == pytest.approx(0.75512)
    assert shown_board.cells["r1024-my-flux", "overall"].measured == pytest.approx(0.76024)
    assert {(item.row, item.baseline) for item in shown_board.comparisons} == {
        ("r512-my-flux", "r512-rope"),
        ("r1024-my-flux", "r1024-rope"),
    }
    lines = [line for line in render_table(shown_board, "md").splitlines() if "FLUX + mine" in line]
    assert len(lines) == 2
    assert "1 run fits no row of Table 4: my-flux (suite geneval)" in render_table(
        shown_board, "md"
    ), "the side 768 is of no row"
    apart_row = board(tmp_path, "4", "./mine-768=At 768").table.rows[-1]
    assert (apart_row.title, apart_row.resolution) == ("At 768", None)


def test_an_imported_result_is_a_row_by_its_label_and_stands_in_a_row_that_is_named(
    tmp_path: Path, bench_home: Path
) -> None:
    tiny_prompts.prompts(bench_home)
    rows = []
    for i, line in enumerate(
        (bench_home / "assets/geneval/evaluation_metadata.jsonl").read_text().splitlines()
    ):
        document = json.loads(line)
        rows += [
            {
                "filename": f"out/{i:05d}/samples/{copy:05d}.png",
                "tag": document["tag"],
                "prompt": document["prompt"],
                "correct": copy < 3,
                "reason": "" if copy < 3 else "no",
                "metadata": json.dumps(document),
                "details": "{}",
            }
            for copy in range(4)
        ]
    finished_path = tmp_path / "results.jsonl"
    finished_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs = tmp_path / "runs"
    run(
        "eval",
        finished_path,
        "--suite",
        "geneval",
        "--label",
        "FLUX + ours",
        "--resolution",
        1024,
        "--out",
        runs / "import",
    )
    for name in ("FLUX + ours", "results.jsonl", "import"):
        shown_board = board(runs, "4", name)
        added_first_item = next(row for row in shown_board.table.rows if row.title == "FLUX + ours")
        assert (
            added_first_item.resolution,
            shown_board.cells[added_first_item.id, "overall"].measured,
        ) == (1024, 0.75)
        assert shown_board.cells[added_first_item.id, "dpg"].status == "not run"
    shown_board = board(runs, "4", row=("r1024-harope=import",))
    assert shown_board.cells["r1024-harope", "overall"].measured == 0.75
    assert shown_board.cells["r1024-harope", "overall"].published == "0.771", (
        "a row of the table keeps its published numbers"
    )
    assert heads(shown_board)[3] == "HARoPE" and any(
        "Row r1024-harope shows the runs of import" in note.text for note in shown_board.notes
    )
    assert "has no result that fits row r512-rope of Table 4" in error_line(
        "table", 4, "--runs", runs, "--row", "r512-rope=import"
    )


@pytest.mark.parametrize("name", ["FLUX w/ ours", "./FLUX w/ ours", "out/results.jsonl"])
def test_a_label_or_target_with_a_slash_is_a_name_too_and_a_folder_goes_before_it(
    tmp_path: Path, name: str
) -> None:
    write_foreign_result(tmp_path / "import", 0.6, label=name, target="out/results.jsonl")
    assert board(tmp_path, "4", name).table.rows[-1].title == name
    write_foreign_result(tmp_path / "out" / "results.jsonl", 0.7, label="a folder of that name")
    printed_title = board(tmp_path, "4", name).table.rows[-1].title
    assert printed_title == ("a folder of that name" if name == "out/results.jsonl" else name)


def test_an_import_of_unknown_side_stands_apart_and_fits_any_row_that_is_named(
    tmp_path: Path,
) -> None:
    write_foreign_result(tmp_path / "a", 0.6)
    flux(tmp_path / "rope", "rope-axial", 512, 0.5)
    shown_board = board(tmp_path, "4", "a=Ours")
    added_row = shown_board.table.rows[-1]
    assert (
        added_row.title,
        added_row.resolution,
        shown_board.cells[added_row.id, "overall"].measured,
    ) == (
        "Ours",
        None,
        0.6,
    )
    assert shown_board.comparisons == () and any(
        "were not recorded" in note.text for note in shown_board.notes
    )
    shown_board = board(tmp_path, "4", row=("r512-harope=a",))
    assert shown_board.cells["r512-harope", "overall"].measured == 0.6
    assert {(item.row, item.baseline) for item in shown_board.comparisons} == {
        ("r512-harope", "r512-rope")
    }


def test_a_result_fits_columns_of_its_suite_alone(tmp_path: Path) -> None:
    write_foreign_result(tmp_path / "a", 0.6, suite="dpg-bench")
    write_foreign_result(tmp_path / "b", 0.6, suite=None, target="old")
    for name, suite in (("a", "geneval on suite dpg-bench"), ("old", "suite not recorded")):
        error_line_result = error_line("table", 4, "--runs", tmp_path, "--add", name)
        assert (
            "has no result that fits a column of Table 4" in error_line_result
            and suite in error_line_result
        )


def test_a_scored_folder_is_a_row_of_table_2_and_is_labelled_without_scoring_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, runs = tmp_path / "pictures", fake.micro_table(tmp_path / "runs")
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (28, 28, 3), dtype=np.uint8)).save(
            folder / f"{i:03d}.png"
        )
    words = ("eval", folder, "--suite", "digits", "--profile", "adm", "--out", runs / "scored")
    run(*words)
    path = runs / "scored/results/fidelity_adm.json"
    first_result = read_result(path)
    assert (first_result.plan, first_result.suite, first_result.resolution, first_result.label) == (
        None,
        "digits",
        28,
        None,
    )
    assert board(runs, "2", "pictures").table.rows[-1].title == "pictures"
    monkeypatch.setattr(
        "harope_bench.data.result_store.write_arrays", lambda *_: pytest.fail("scored again")
    )
    assert "up to date" in run(*words, "--label", "Collected")
    second = read_result(path)
    assert second == first_result.model_copy(update={"label": "Collected"})
    run(*words)
    assert read_result(path) == second, "a label stays until another is given"
    shown_board = board(runs, "2", "Collected")
    assert heads(shown_board)[-1] == "Collected"
    assert {item.verdict for item in shown_board.comparisons if item.row == "Collected"} == {
        "not comparable"
    }, "12 images against 500"
    assert "not ranked with the others" in str(shown_board.cells["Collected", "is"].note)


def test_a_result_of_an_older_version_without_its_suite_is_scored_again_once(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.full((28, 28, 3), 80 * i, dtype=np.uint8)).save(folder / f"{i}.png")
    (scored,) = evaluate(folder, tmp_path / "out", FeatureScoring("digits"))
    scored.path.write_text(
        scored.result.model_copy(update={"suite": None, "resolution": None}).to_json()
    )
    (again,) = evaluate(folder, tmp_path / "out", FeatureScoring("digits"))
    assert again.is_new and again.result.suite == "digits"
    assert not evaluate(folder, tmp_path / "out", FeatureScoring("digits"))[0].is_new


def test_a_column_of_one_encoding_takes_an_own_checkpoint_of_that_encoding_alone(
    tmp_path: Path,
) -> None:
    for name, encoding in (("own-harope", "harope"), ("own-other", "my-encoding")):
        owner = fake.checkpoint(
            name,
            encoding,
            backbone="mmdit-micro",
            suite="shapes",
            sha256=HASH if name == "own-other" else "cd" * 32,
        )
        result = fake.result(
            fake.plan(owner, "shapes", resolution=32),
            [fake.measurement("overall", 0.5, 0.01, 402)],
            evaluator="geneval",
            profile="geneval",
        )
        fake.write_result(tmp_path / name, result, name="geneval")
    shown_board = board(tmp_path, "7", "own-harope=Early HARoPE")
    assert shown_board.table.rows[-1].title == "Early HARoPE"
    assert {
        key: cell.status for key, cell in shown_board.cells.items() if key[0] == "own-harope"
    } == {
        ("own-harope", "rope_svd"): "not run",
        ("own-harope", "harope"): "measured",
    }
    assert "fits a column of Table 7" in error_line(
        "table", 7, "--runs", tmp_path, "--add", "own-other"
    )


# ------------------------------------------------------------------------------------------- what
# is not guessed


def test_an_ambiguous_name_lists_the_runs_and_a_folder_decides(micro: Path) -> None:
    own_run(micro / "strong", guidance=4.0)
    error_line_result = error_line("table", 2, "--runs", micro, "--add", "my-pe")
    assert "names 2 runs" in error_line_result and "./ours, ./strong" in error_line_result
    assert board(micro, "2", "./strong").n_measured == 28
    assert "names 2 runs" in error_line(
        "report", "--runs", micro, "--out", micro.parent / "r.html", "--add", "my-pe"
    )
    assert not (micro.parent / "r.html").exists()


def test_runs_that_differ_in_count_and_seed_are_one_row(micro: Path) -> None:
    own_run(micro / "more", n=300, seed=1)
    cell = board(micro, "2", "my-pe").cells["my-pe", "fid"]
    assert cell.n_scored == 500 and "2 results fit" in str(cell.note)


def test_two_imports_of_one_name_are_ambiguous(tmp_path: Path) -> None:
    write_foreign_result(tmp_path / "a", 0.6)
    write_foreign_result(tmp_path / "b", 0.7)
    assert "names 2 runs that fit" in error_line(
        "table", 4, "--runs", tmp_path, "--add", "results.jsonl"
    )
    assert board(tmp_path, "4", "b").cells["b", "overall"].measured == 0.7


def test_runs_of_two_checkpoints_leave_a_row_undecided_until_somebody_decides(
    tmp_path: Path,
) -> None:
    flux(tmp_path / "1", "harope", 512, 0.7, "flux-a", sha256="aa" * 32)
    flux(tmp_path / "2", "harope", 512, 0.8, "flux-b", sha256="bb" * 32)
    shown_board = build_board(load_table("4"), read_results(tmp_path))
    cell = shown_board.cells["r512-harope", "overall"]
    assert (cell.status, cell.measured) == ("undecided", None)
    assert "2 checkpoints fit HARoPE (flux-a, flux-b)" in str(
        cell.note
    ) and "--row r512-harope=NAME" in str(cell.note)
    assert "undecided" in render_table(shown_board, "md") and "undecided" in render_table(
        shown_board, "csv"
    )
    assert build_report_page(tmp_path).sections[0].board.table.id == "T4"
    assert (
        board(tmp_path, "4", row=("r512-harope=flux-b",)).cells["r512-harope", "overall"].measured
        == 0.8
    )
    shown_board = board(tmp_path, "4", "flux-b=B")
    assert shown_board.cells["r512-harope", "overall"].measured == 0.7
    assert shown_board.cells["r512-flux-b", "overall"].measured == 0.8


def test_one_name_with_other_weights_is_two_checkpoints(tmp_path: Path) -> None:
    fake.micro_run(tmp_path / "a", "harope")
    fake.micro_run(tmp_path / "b", "harope", sha256="cd" * 32)
    cell = build_board(load_table("2"), read_results(tmp_path)).cells["harope", "fid"]
    assert (
        cell.status == "undecided"
        and "digits-harope (abababababab), digits-harope (cdcdcdcdcdcd)" in str(cell.note)
    )


def test_an_other_ruler_keeps_an_own_row_out_and_says_so(micro: Path) -> None:
    path = micro / "ours/results/fidelity.json"
    path.write_text(path.read_text().replace('"profile": "adm"', '"profile": "clean"'))
    shown_board = board(micro, "2", "my-pe")
    assert shown_board.cells["my-pe", "fid"].status == "not run"
    assert any(
        "Measured but not shown" in note.text and "my-pe FID" in note.text and "clean" in note.text
        for note in shown_board.notes
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--add", "my-pee"), "no run named 'my-pee'; did you mean my-pe"),
        (("--add", "my-pe", "--add", "my-pe=Other"), "--add 'my-pe' is given twice"),
        (("--add", "=Label"), "names no run"),
        (("--add", "my-pe="), "a label is one printable line"),
        (("--row", "harope"), "is not ROW_ID=NAME"),
        (("--row", "harpe=my-pe"), "no row of Table 2 named 'harpe'; did you mean harope"),
        (("--row", "harope=my-pee"), "no run named 'my-pee'"),
        (("--row", "harope=my-pe", "--row", "harope=ours"), "--row 'harope' is given twice"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(micro: Path, words: tuple[str, ...], message: str) -> None:
    assert message in error_line("table", 2, "--runs", micro, *words)


def test_an_entry_without_runs_is_a_usage_error() -> None:
    assert "--add and --row show measured runs" in run("table", 2, "--add", "x", exit_code=2)


# ---------------------------------------------------------------------------
# hostile texts


def test_a_hostile_label_is_text_in_every_format(micro: Path) -> None:
    plain_board, attacked_board = (
        board(micro, "2", "my-pe=X"),
        board(micro, "2", f"my-pe={HOSTILE}"),
    )
    page = Document(render_table(attacked_board, "html"))
    assert page.tags == Document(render_table(plain_board, "html")).tags and HOSTILE in page.text
    rows = list(csv.reader(io.StringIO(render_table(attacked_board, "csv"))))
    assert rows[-1][1] == HOSTILE and len({len(row) for row in rows}) == 1
    lines = render_table(attacked_board, "md").splitlines()
    (line,) = [line for line in lines if "alert" in line]
    assert line.replace(r"\|", "").count("|") == lines[2].replace(r"\|", "").count("|")
    assert r"\<script" in line and r"\$y\$" in line
    assert r"\$y\$" in render_table(attacked_board, "tex") and "<script" not in render_table(
        attacked_board, "tex"
    )
    assert json.loads(render_table(attacked_board, "json"))["rows"][-1]["title"] == HOSTILE
    assert heads(board(micro, "2", "my-pe={resolution}"))[-1] == "{resolution}"


def test_a_label_like_a_formula_is_text_for_a_spreadsheet(micro: Path) -> None:
    (row,) = [
        row
        for row in csv.reader(io.StringIO(render_table(board(micro, "2", "my-pe==1+2"), "csv")))
        if row[0] == "my-pe"
    ]
    assert row[1] == "'=1+2"


@pytest.mark.parametrize(
    ("text", "name", "label"),
    [
        ("cfg=1.5", "cfg=1.5", None),
        ("cfg=1.5=Guided", "cfg=1.5", "Guided"),
        ("cfg=1.5=x = y", "cfg=1.5", "x = y"),
        ("./deep/cfg=2=Two", "./deep/cfg=2", "Two"),
        ("a=b", "a=b", None),  # a label that `eval --label` wrote
        ("a=b=c=d", "a=b", "c=d"),
        ("my-pe=x=y", "my-pe", "x=y"),
        ("unknown=x=y", "unknown", "x=y"),
        ("=x", "=x", None),
    ],
)
def test_a_name_that_holds_an_equals_sign_is_found(
    micro: Path, text: str, name: str, label: str | None
) -> None:
    """Folders are called so, and labels may be."""
    for folder, message in (("cfg=1.5", None), ("deep/cfg=2", None), ("c", "a=b"), ("e", "=x")):
        path = own_run(micro / folder, name=f"own-{folder[0]}") / "results/fidelity.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "label": message}))
    assert parse_entries([text], [], micro).additions == ((name, label),)


def test_two_names_with_equals_signs_are_not_one_given_twice(micro: Path) -> None:
    for folder in ("cfg=1.5", "cfg=2"):
        own_run(micro / folder, name=f"own-{folder[-1]}")
    assert [row.title for row in board(micro, "2", "cfg=1.5", "cfg=2").table.rows[-2:]] == [
        "cfg=1.5",
        "cfg=2",
    ]


def test_a_text_that_names_two_runs_is_an_error_and_one_run_by_two_names_is_none(
    micro: Path,
) -> None:
    own_run(micro / "a", name="own-a")
    path = own_run(micro / "c", name="own-c") / "results/fidelity.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "label": "a=b"}))
    with pytest.raises(
        OptionError, match=r"'a=b' may mean run 'a' or 'a=b'; name the run by its folder"
    ):
        parse_entries(["a=b"], [], micro)
    path.write_text(json.dumps({**json.loads(path.read_text()), "label": "c=b"}))
    assert parse_entries(["c=b"], [], micro).additions == (("c", "b"),)


@pytest.mark.parametrize(
    "label", ["a\nb", "a\x1b[31m", "\u202eevil", "x" * (LABEL_LENGTH + 1), "x" * 10_000, " ", ""]
)
def test_a_label_of_several_lines_or_without_bound_is_refused(micro: Path, label: str) -> None:
    with pytest.raises(OptionError, match="a label is one printable line") as error:
        parse_entries([f"my-pe={label}"], [])
    assert str(error.value).isprintable() and len(str(error.value)) < 200
    error_line_result = error_line("eval", micro / "ours", "--label", label)
    assert "a label is one printable line" in error_line_result
    path = micro / "ours/results/fidelity.json"
    fields = {**json.loads(path.read_text()), "label": label}
    path.write_text(json.dumps(fields))
    with pytest.raises(StorageError, match="is not a result") as broken_excinfo:
        read_results(micro)
    assert str(broken_excinfo.value).isprintable()


@pytest.mark.parametrize("target", ["a\nb\x1b[31m<b>|$x$", "y" * 10_000])
def test_a_hostile_target_is_a_short_printable_row_and_note(micro: Path, target: str) -> None:
    result = fake.result(
        None,
        [fake.measurement("fid", 20.0)],
        target=target,
        suite="digits",
        samples_sha256="12" * 32,
    )
    fake.write_result(micro / "z", result)
    note = next(note.text for note in board(micro, "2", "my-pe").notes if "no row of" in note.text)
    assert note.isprintable() and len(note) < 200
    label = board(micro, "2", target).table.rows[-1].title
    assert label.isprintable() and 0 < len(label) <= LABEL_LENGTH
    results, entries = (
        read_results(micro),
        Entries(parse_entries([target + "!"], []).additions, (), micro),
    )
    with pytest.raises(UnknownNameError) as error:
        build_board(load_table("2"), results, entries=entries)
    assert str(error.value).isprintable() and len(str(error.value)) < 1000


# ---------------------------------------------------------------------------
# report and pages


def test_a_report_has_the_added_row_and_names_the_others(micro: Path, tmp_path: Path) -> None:
    own_run(micro / "hers", "her-pe")
    unplaced_text = str(build_report_page(micro).unmatched_runs_note)
    assert (
        unplaced_text.startswith("2 runs fit no row of")
        and "her-pe (suite digits)" in unplaced_text
    )
    run("report", "--runs", micro, "--out", tmp_path / "b.html", "--add", "my-pe=MyPE (ours)")
    text = (tmp_path / "b.html").read_text()
    assert "MyPE (ours)" in text and "1 run fits no row of" in text


def test_a_report_of_an_own_run_alone_shows_a_table_for_it(tmp_path: Path) -> None:
    own_run(tmp_path / "ours")
    assert build_report_page(tmp_path).sections == ()
    page = build_report_page(tmp_path, parse_entries(["my-pe=Mine"], [], tmp_path))
    assert "T2" in {section.board.table.id for section in page.sections}


def test_leaderboard_pages_do_not_depend_on_labels(micro: Path, tmp_path: Path) -> None:
    run("leaderboard", "build", micro, "--out", tmp_path / "a")
    path = micro / "ours/results/fidelity.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "label": "<b>Mine"}))
    run("leaderboard", "build", micro, "--out", tmp_path / "b")
    pages = {
        file.relative_to(tmp_path / "a"): file.read_bytes()
        for file in (tmp_path / "a").rglob("*.html")
    }
    assert pages and pages == {
        file.relative_to(tmp_path / "b"): file.read_bytes()
        for file in (tmp_path / "b").rglob("*.html")
    }


def test_old_results_without_the_new_fields_are_read(micro: Path) -> None:
    document = json.loads((micro / "ours/results/fidelity.json").read_text())
    for key in ("format", "label", "suite", "resolution"):
        document.pop(key)
    result = Result.model_validate(document)
    assert (result.suite_name, result.side) == ("digits", 28)
    assert isinstance(result.measurements[0], Measurement)
