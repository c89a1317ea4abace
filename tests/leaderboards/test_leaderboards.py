"""Published tables as data, which run belongs to which cell, and what may be said of it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import fake_runs as fake
import numpy as np
import pytest

from harope_bench.assets import local_files
from harope_bench.core import registry
from harope_bench.core.array_archive import load_arrays
from harope_bench.core.errors import BenchError, StorageError, UnknownNameError
from harope_bench.data.result_store import read_results
from harope_bench.leaderboards import match_runs
from harope_bench.leaderboards.board import build_board, compare_rows, load_table
from harope_bench.leaderboards.table_spec import (
    count_decimals,
    half_unit,
    leading_number,
    load_published_flags,
    parse_table,
)
from harope_bench.reports.tables import render_table

NUMBERS = [str(n) for n in range(1, 11)]
READ_AS: dict[
    str, tuple[str, dict[str, Any]]
] = {  # the transcription's names that are encodings with options here
    "rope": ("rope-axial", {}),
    "rope-svd-postproj": ("rope-svd-control", {}),
    **{
        f"rope-{short_text}{ending}": ("rope-matrix", {"matrix": matrix, "per_head": per_head})
        for short_text, matrix in (("normal", "normal"), ("orth", "orthogonal"), ("svd", "svd"))
        for ending, per_head in (("", False), ("-mh", True))
    },
}
DIT_B = {"backbone": "dit", "config": {"hidden": 768, "depth": 12, "patch": 2}, "scale": "paper"}


@pytest.fixture
def transcript(shared_path: Callable[[str], Path]) -> dict[str, Any]:
    """The hand transcription of the paper that the tables were made from."""
    return read_yaml(shared_path("paper/tables.yaml"))


@lru_cache(maxsize=1)
def read_yaml(path: Path) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def paper_result(
    encoding: str,
    value: float,
    n: int = 50_000,
    se: float = 0.05,
    suite: str = "imagenet-256",
    **fields: Any,
) -> Any:
    """A paper-scale FID of that encoding."""
    name = fake.checkpoint(f"b2-{encoding}", encoding, **{**DIT_B, **fields})
    plan = fake.plan(name, suite, resolution=256, sampler="ddpm", steps=250)
    asset = f"{suite}-reference"
    reference = (
        local_files.load_asset(asset).title if asset in registry.list_entries("assets") else suite
    )
    return fake.result(plan, [fake.measurement("fid", value, se, n)], reference=reference)


# ------------------------------------------------------------------------------------- the paper's
# tables


@pytest.mark.parametrize("number", NUMBERS)
def test_table_is_the_transcription_string_for_string(
    transcript: dict[str, Any], number: str
) -> None:
    expected = next(t for t in transcript["tables"] if str(t["number"]) == number)
    table = load_table(number)
    assert (table.id, table.title, table.block) == (
        expected["id"],
        expected["title"],
        expected["emphasis"]["best_by_value"]["block"].replace("res", "resolution"),
    )
    assert [row.id for row in table.rows] == [row["id"] for row in expected["rows"]]
    for row, second in zip(table.rows, expected["rows"], strict=True):
        assert row.published == {k: v for k, v in second["values"].items() if v is not None}
        titles = (row.title, row.model, row.resolution, row.training_steps, row.repeated_row)
        assert titles == tuple(
            second.get(k) for k in ("printed", "model", "res", "training_steps", "same_as")
        )
        encoding, options = READ_AS.get(second.get("pe"), (second.get("pe"), {}))
        assert (row.encoding, row.options.items() >= options.items()) == (encoding, True)
    for column, second in zip(table.columns, expected["columns"], strict=True):
        assert column.title.replace("×", "") == second["printed"]
        assert (column.key, column.direction, column.unit) == (
            second["key"],
            second["direction"],
            second.get("unit", "none"),
        )
        assert column.decimals == (None if second["decimals"] == "mixed" else second["decimals"])
        assert (column.n_prompts, column.n_images) == tuple(
            second.get(k) for k in ("n_prompts", "n_images")
        )
        encoding, options = READ_AS.get(second.get("pe"), (second.get("pe"), {}))
        assert (column.encoding, column.options.items() >= options.items()) == (encoding, True)
    in_words = (
        {"samples"} if number == "1" else set()
    )  # the transcription has Table 1's number of images in its dataset
    in_words |= (
        {"profile"} if number in ("2", "6", "8") else set()
    )  # our name of the evaluator that it states
    assert {k: str(v) for k, v in table.protocol.items() if k not in in_words} == {
        k: "not stated" if v is None else str(v) for k, v in expected["protocol"].items()
    }
    assert [(c.row, c.column, c.claim, c.compared_row) for c in table.claims] == [
        (e["row"], e["column"], e["as"], e.get("from")) for e in expected["emphasis"]["text"]
    ]


def test_flags_are_the_transcription(transcript: dict[str, Any]) -> None:
    expected = [
        {k: tuple(v) if isinstance(v, list) else v for k, v in flag.items()}
        for flag in transcript["flags"]
    ]
    assert [
        flag.model_dump(exclude={"recount_note"}) for flag in load_published_flags()
    ] == expected


def test_the_ten_tables_print_240_cells_of_which_12_are_dashes() -> None:
    tables = [load_table(number) for number in NUMBERS]
    assert sum(len(t.rows) * len(t.columns) for t in tables) == 240
    assert sum(len(row.published) for t in tables for row in t.rows) == 228


@pytest.mark.parametrize("number", NUMBERS)
def test_marked_cells_are_the_best_of_their_block_by_exact_value(number: str) -> None:
    table = load_table(number)
    blocks = defaultdict(list)
    for row in table.rows:
        for column in table.columns:
            if column.key in row.published and not column.key.endswith(
                ("_m", "_g")
            ):  # costs are not ranked
                blocks[table.block_key(row, column)].append(
                    (leading_number(row.published[column.key]), row, column)
                )
    for cells in blocks.values():
        expected = (max if cells[0][2].direction == "higher" else min)(
            value for value, _, _ in cells
        )
        assert [table.is_best(row, column) for _, row, column in cells] == [
            value == expected for value, _, _ in cells
        ]


@pytest.mark.parametrize("number", NUMBERS)
def test_printed_decimals_are_those_of_the_column(number: str) -> None:
    table = load_table(number)
    for row in table.rows:
        for column in table.columns:
            if column.decimals is not None and column.key in row.published:
                assert count_decimals(row.published[column.key]) == column.decimals


def test_rows_that_repeat_another_table_repeat_its_strings() -> None:
    result_count = 0
    for number in NUMBERS:
        for row in load_table(number).rows:
            if row.repeated_row:
                other_part, name = row.repeated_row.split("/")
                original = load_table(other_part[1:]).find_row(name).published
                renamed_texts = {
                    "overall" if key == "geneval" else key: text
                    for key, text in row.published.items()
                }
                shared_keys = renamed_texts.keys() & original.keys()
                assert {k: renamed_texts[k] for k in shared_keys} == {
                    k: original[k] for k in shared_keys
                }
                result_count += len(shared_keys)
    assert result_count == 32


def test_every_flag_names_tables_and_cells_that_are_there() -> None:
    tables = {table.id: table for table in map(load_table, NUMBERS)}
    flags = load_published_flags()
    assert [flag.id for flag in flags] == [f"F{n:02}" for n in range(1, 28)] + ["P01", "P02", "P03"]
    for flag in flags:
        assert set(flag.tables) <= tables.keys()
        for cell in flag.cells:
            table, row, column = cell.split("/")
            assert column in tables[table].find_row(row).published, cell


def test_a_table_has_a_number_and_a_name() -> None:
    assert load_table("2") == load_table("table2")
    with pytest.raises(UnknownNameError, match="table2"):
        load_table("table22")


def test_rounding_is_half_of_the_last_printed_digit() -> None:
    assert str(half_unit("8.90")) == "0.005"
    assert str(half_unit("0.7710")) == "0.00005"
    assert str(half_unit("2.46 (+4.1%)")) == "0.005"
    assert str(half_unit("130.5")) == "0.05"


SMALL_FIELDS: dict[str, Any] = {
    "id": "mine",
    "title": "My table",
    "columns": [{"key": "fid", "title": "FID-10K", "direction": "lower", "decimals": 1}],
    "rows": [{"id": "a", "title": "A", "published": {"fid": "3.1"}}],
}


def test_another_package_brings_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_tables.py").write_text(f"PLUGIN = {SMALL_FIELDS!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    point = importlib.metadata.EntryPoint("theirs", "their_tables", "harope_bench.tables")
    monkeypatch.setattr(
        registry.metadata, "entry_points", lambda group: [point] if group == point.group else []
    )
    assert load_table("theirs").find_row("a").published == {"fid": "3.1"}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"rows": [*SMALL_FIELDS["rows"], *SMALL_FIELDS["rows"]]}, "row id 'a' occurs twice"),
        (
            {"rows": [{"id": "a", "title": "A", "published": {"fdi": "3.1"}}]},
            "cell a/fdi is not in the table",
        ),
        (
            {"rows": [{"id": "a", "title": "A", "published": {"fid": "about 3"}}]},
            "'about 3' does not begin with a number",
        ),
        (
            {"rows": [{"id": "a", "title": "A", "published": {"fid": 3.1}}]},
            "rows.0.published.fid",
        ),
        ({"best_by_value": {"all": {"fid": ["b"]}}}, "cell b/fid is not in the table"),
        ({"micro_scale": {"suite": "digits", "baseline": "b"}}, "cell b/fid is not in the table"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_table_says_where(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BenchError, match="table of here") as error:
        parse_table({**SMALL_FIELDS, **change}, "here")
    assert complaint in str(error.value)


# ------------------------------------------------------------------------------------- results to
# cells


def test_results_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b", "a", "c/deep"):
        fake.write_result(tmp_path / name, fake.result(None, [fake.measurement("fid", 1.0)]))
    assert [item.path.relative_to(tmp_path).parts[0] for item in read_results(tmp_path)] == [
        "a",
        "b",
        "c",
    ]


def test_a_broken_result_is_named_not_skipped(tmp_path: Path) -> None:
    path = fake.write_result(tmp_path, fake.result(None, [fake.measurement("fid", 1.0)]))
    document = json.loads(path.read_text())
    document["measurements"][0]["n_scored"] = 499
    path.write_text(json.dumps(document))
    with pytest.raises(StorageError, match=r"fidelity\.json is not a result \(measurements\.0"):
        read_results(tmp_path)
    path.write_text("{")
    with pytest.raises(StorageError, match=r"fidelity\.json"):
        read_results(tmp_path)
    with pytest.raises(StorageError, match="nowhere does not exist; give a run folder"):
        read_results(tmp_path / "nowhere")


def test_a_micro_run_finds_its_row_by_checkpoint_name(tmp_path: Path) -> None:
    fake.micro_run(tmp_path / "x", "harope")
    board = build_board(load_table("2"), read_results(tmp_path))
    assert board.scale == "micro"
    assert board.cells["harope", "fid"].measured == pytest.approx(13.2)
    assert {key for key, cell in board.cells.items() if cell.status == "measured"} == {
        ("harope", c.key) for c in board.table.columns
    }
    assert board.cells["axial", "fid"].status == "not run"
    assert board.measured_column_titles["fid"] == "FID-500"
    assert board.measured_title == "measured (micro, digits, 500 images, profile adm)"


def test_another_suite_or_a_run_without_a_plan_finds_no_row(tmp_path: Path) -> None:
    name = fake.plan(fake.checkpoint("digits-harope", "harope"), suite="shapes")
    fake.write_result(tmp_path / "a", fake.result(name, [fake.measurement("fid", 1.0)]))
    fake.write_result(tmp_path / "b", fake.result(None, [fake.measurement("fid", 1.0)]))
    board = build_board(load_table("2"), read_results(tmp_path))
    assert board.n_measured == 0
    assert board.notes[-1].text == "No run belongs to this table."


@pytest.mark.parametrize(
    ("fields", "belongs"),
    [
        ({}, True),
        (
            {"config": {"hidden": 1152, "depth": 28, "patch": 2}},
            False,
        ),  # DiT-XL/2 is not a row of a DiT-B/2 table
        ({"backbone": "deit"}, False),
        ({"suite": "imagenet-512"}, False),
    ],
)
def test_a_paper_run_must_be_of_the_tables_model_and_suite(
    tmp_path: Path, fields: dict[str, Any], belongs: bool
) -> None:
    fake.write_result(tmp_path, paper_result("harope", 9.0, **fields))
    assert build_board(load_table("2"), read_results(tmp_path)).n_measured == (1 if belongs else 0)


def test_paper_runs_find_rows_by_resolution_steps_and_column_facts(tmp_path: Path) -> None:
    flux = {"backbone": "flux", "scale": "paper"}
    svd_qk = {"matrix": "svd", "per_head": False}
    runs: list[tuple[str, dict[str, Any], int, int]] = [
        ("harope", {}, 500, 1024), ("rope-matrix", svd_qk, 4000, 1024), ("harope", {}, 4000, 512),
        ("rope-matrix", {"matrix": "normal", "per_head": False}, 1000, 1024),
    ]  # fmt: skip
    for i, (encoding, options, steps, res) in enumerate(runs):
        name = fake.plan(
            fake.checkpoint("flux", encoding, options=options, training_steps=steps, **flux),
            "geneval",
            resolution=res,
        )
        result = fake.result(name, [fake.measurement("overall", 0.1 * i)], evaluator="geneval")
        fake.write_result(tmp_path / str(i), result)
    results = read_results(tmp_path)
    seven = build_board(load_table("7"), results)
    assert {k: c.measured for k, c in seven.cells.items() if c.measured is not None} == {
        ("s500", "harope"): 0.0,
        ("s4000", "rope_svd"): 0.1,
        ("s4000", "harope"): 0.2,
    }
    four = build_board(load_table("4"), results)
    assert four.cells["r512-harope", "overall"].measured == 0.2
    assert four.cells["r1024-harope", "overall"].measured == 0.0


def test_readings_of_the_papers_networks_are_no_notes_of_a_micro_board(tmp_path: Path) -> None:
    """A micro run has no LoRA, no SD3 table and no 2,048 pixels; at paper scale every reading of
    the table is said.
    """
    fake.micro_table(tmp_path / "micro")
    fake.write_result(tmp_path / "paper", paper_result("harope", 9.0))
    table = load_table("2")
    assert table.assumptions

    def reading_notes(scale: Any) -> set[str]:
        return {
            note.text
            for note in build_board(table, read_results(tmp_path), "both", scale).notes
            if "does not state this" in note.text
        }

    assert reading_notes("micro") == set()
    assert reading_notes("paper") == {
        f"The paper does not state this. In runs of harope-bench: {reading}"
        for reading in table.assumptions
    }


def test_the_result_over_most_images_is_shown_and_said(tmp_path: Path) -> None:
    fake.micro_run(tmp_path / "small", "harope", n=300)
    fake.micro_run(tmp_path / "large", "harope", n=500, seed=1)
    cell = build_board(load_table("2"), read_results(tmp_path)).cells["harope", "fid"]
    assert cell.n_scored == 500
    assert (
        cell.note
        == "2 results fit HARoPE; the cell shows the one with the most images (500), without"
        " position scaling if there is one"
    )


def test_a_missing_value_keeps_its_reason(tmp_path: Path) -> None:
    name = fake.plan(fake.checkpoint("digits-harope", "harope"))
    none_measurement = fake.measurement(
        "fid", None, reason="64 images, 65 needed", n_scored=490, n_failed=10
    )
    fake.write_result(tmp_path, fake.result(name, [none_measurement]))
    board = build_board(load_table("2"), read_results(tmp_path))
    cell = board.cells["harope", "fid"]
    assert (cell.status, cell.measured, cell.delta) == ("no value", None, None)
    assert "64 images, 65 needed" in (cell.note or "")
    assert "490 of 500 images scored, 10 failed" in (cell.note or "")
    assert any("64 images" in note.text for note in board.notes if note.number in cell.note_numbers)


# ------------------------------------------------------------------------------------- what may be
# said


def test_micro_is_never_compared_with_the_paper(tmp_path: Path) -> None:
    fake.micro_table(tmp_path)
    board = build_board(load_table("2"), read_results(tmp_path))
    cell = board.cells["harope", "fid"]
    assert cell.delta == pytest.approx(13.2 - 8.90)
    assert {str(c.verdict) for c in board.cells.values()} == {"not comparable (micro)"}


def test_paper_and_micro_never_share_a_board(tmp_path: Path) -> None:
    fake.micro_table(tmp_path)
    fake.write_result(tmp_path / "paper", paper_result("harope", 9.0))
    results = read_results(tmp_path)
    board = build_board(load_table("2"), results)
    assert (board.scale, board.n_measured) == ("paper", 1)
    assert any("There are results at micro scale too" in note.text for note in board.notes)
    assert build_board(load_table("2"), results, scale="micro").n_measured == 24


@pytest.mark.parametrize(
    ("value", "se", "n", "verdict"),
    [
        (8.904, 0.0001, 50_000, "not resolved"),  # inside what printing two decimals lost
        (8.92, 0.0001, 50_000, "worse"),
        (8.60, 0.05, 50_000, "better"),
        (9.00, 0.05, 50_000, "not resolved"),  # 1.3 standard errors of the difference
        (8.60, 0.05, 10_000, "not comparable (10,000 against 50,000 images)"),
    ],
)
def test_verdict_against_a_printed_number(
    tmp_path: Path, value: float, se: float, n: int, verdict: str
) -> None:
    fake.write_result(tmp_path, paper_result("harope", value, n, se))
    cell = build_board(load_table("2"), read_results(tmp_path)).cells["harope", "fid"]
    assert str(cell.verdict or "").startswith(verdict)
    assert cell.half_unit == "0.005"


def test_a_verdict_keeps_its_word_apart_from_its_reason(tmp_path: Path) -> None:
    """Reasons hold names from outside, brackets and all; the sign in a table is that of the
    word.
    """
    result = paper_result("harope", 8.60).model_copy(update={"reference": "better (mine)"})
    fake.write_result(tmp_path, result)
    shown_board = build_board(load_table("2"), read_results(tmp_path))
    verdict = shown_board.cells["harope", "fid"].verdict
    assert verdict is not None and verdict.word == "not comparable"
    assert verdict.reason == "reference better (mine), not the one that is published"
    assert str(verdict) == f"not comparable ({verdict.reason})"
    assert "\N{MULTIPLICATION SIGN} not comparable |" in render_table(shown_board, "md")


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({}, "better"),
        ({"profile": "clean"}, "not comparable (profile clean, the paper's is adm)"),
        (
            {"reference": "digits"},
            "not comparable (reference digits, not the one that is published)",
        ),
    ],
)
def test_other_formulas_or_another_reference_are_not_compared_with_the_paper(
    tmp_path: Path, fields: dict[str, str], verdict: str
) -> None:
    result = paper_result("harope", 8.60).model_copy(update=fields)
    fake.write_result(tmp_path, result)
    shown_board = build_board(load_table("2"), read_results(tmp_path))
    cell = shown_board.cells["harope", "fid"]
    assert str(cell.verdict or "").startswith(verdict)
    assert cell.source is not None and (cell.source.profile, cell.source.reference) == (
        result.profile,
        result.reference,
    )
    assert f"profile {result.profile}" in shown_board.measured_title
    assert any(result.reference in note.text for note in shown_board.notes)


def test_of_equals_a_column_takes_the_papers_profile(tmp_path: Path) -> None:
    for location, profile in (("a", "clean"), ("b", "adm")):  # the first path would win a tie
        fake.write_result(
            tmp_path / location, paper_result("harope", 9.0).model_copy(update={"profile": profile})
        )
    cell = build_board(load_table("2"), read_results(tmp_path)).cells["harope", "fid"]
    assert cell.source is not None and cell.source.profile == "adm"


def test_only_a_resolved_best_stands_alone(tmp_path: Path) -> None:
    fake.micro_table(tmp_path)
    board = build_board(load_table("2"), read_results(tmp_path))
    best = {
        c.key: [row.id for row in board.table.rows if board.cells[row.id, c.key].is_best_measured]
        for c in board.table.columns
    }
    assert best["fid"] == ["harope"]  # 2.3 better with a paired error of 0.3
    assert {"axial", "string", "harope"} <= set(
        best["precision"]
    )  # 0.01 apart with an error of 0.007
    assert "ape" not in best["precision"]
    (message,) = [
        note.text for note in board.notes if note.text.startswith("Bold among measured numbers")
    ]
    assert (
        "Holm-adjusted within the block" in message
        and "Differences from the baseline are Holm-adjusted within the whole table" in message
    )


def test_numbers_of_unequal_footing_are_not_ranked(tmp_path: Path) -> None:
    for encoding in ("ape", "rope-axial", "string"):
        fake.micro_run(tmp_path / encoding, encoding, n=500)
    fake.micro_run(tmp_path / "harope", "harope", n=300)
    board = build_board(load_table("2"), read_results(tmp_path))
    cell = board.cells["harope", "fid"]
    assert not cell.is_best_measured
    assert "not ranked with the others: measurement name fid-300 against fid-500" in (
        cell.note or ""
    )
    assert board.cells["string", "fid"].is_best_measured
    assert board.measured_column_titles["fid"] == "FID-N"
    assert {item.verdict for item in board.comparisons if item.row == "harope"} == {
        "not comparable"
    }


def test_pairing_by_sample_removes_the_noise_that_both_share(tmp_path: Path) -> None:
    fake.micro_table(tmp_path)
    item = next(
        i
        for i in compare_rows(load_table("2"), read_results(tmp_path))
        if (i.row, i.column) == ("harope", "fid")
    )
    rows = [
        load_arrays(tmp_path / f"digits-{e}/results/fidelity.npz")["fid"]
        for e in ("rope-axial", "harope")
    ]
    assert item.baseline == "axial"
    assert item.difference.is_paired
    assert item.difference.se == pytest.approx(np.std(rows[1] - rows[0], ddof=1) / np.sqrt(500))
    assert item.difference.se < 0.5 * np.hypot(*[np.std(r, ddof=1) / np.sqrt(500) for r in rows])
    assert item.detectable_difference == pytest.approx(
        (1.959964 + 0.841621) * item.difference.se, rel=1e-6
    )


def test_other_seeds_are_compared_unpaired_and_it_is_said(tmp_path: Path) -> None:
    fake.micro_run(tmp_path / "a", "rope-axial", seed=0)
    fake.micro_run(tmp_path / "b", "harope", seed=1)
    compared_rows = compare_rows(load_table("2"), read_results(tmp_path))
    assert {(item.difference.is_paired, item.difference.reason) for item in compared_rows} == {
        (False, "unpaired: other seed")
    }


def test_other_sample_indices_are_not_paired(tmp_path: Path) -> None:
    fake.micro_run(tmp_path / "a", "rope-axial")
    fake.micro_run(tmp_path / "b", "harope")
    path = tmp_path / "b/results/fidelity.npz"
    with np.load(path) as rows:
        np.savez(path, **{**rows, "indices": rows["indices"] + 1})
    whys = {
        item.difference.reason for item in compare_rows(load_table("2"), read_results(tmp_path))
    }
    assert whys == {"unpaired: other sample indices"}


def test_verdicts_are_made_from_adjusted_p(tmp_path: Path) -> None:
    fake.micro_table(tmp_path)
    compared_rows = compare_rows(load_table("2"), read_results(tmp_path))
    assert len(compared_rows) == 20
    for item in compared_rows:
        assert item.p_adjusted is not None
        assert item.difference.p is not None
        assert item.p_adjusted >= item.difference.p
    undone = [item for item in compared_rows if item.difference.verdict != item.verdict]
    assert undone, "the fixture has a difference that only its raw p resolves"
    assert {item.verdict for item in undone} == {"not resolved"}


def test_a_result_cannot_name_arrays_outside_its_folder(tmp_path: Path) -> None:
    fake.micro_run(tmp_path / "a", "rope-axial")
    path = fake.micro_run(tmp_path / "b", "harope") / "results/fidelity.json"
    path.write_text(path.read_text().replace('"fidelity.npz"', '"../../a/results/fidelity.npz"'))
    with pytest.raises(StorageError, match="outside its folder"):
        compare_rows(load_table("2"), read_results(tmp_path))


def test_tables_and_reports_start_without_torch_or_matplotlib() -> None:
    code = (
        "import sys, harope_bench.reports.report_page, harope_bench.reports.latex; print([m for m"
        " in ('torch', 'matplotlib') if m in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout.strip() == "[]"


@pytest.mark.parametrize("number", range(1, 11))
def test_published_cells_are_those_that_were_compared_with_the_paper(number: int) -> None:
    """The gold hashes were taken when every cell equalled the transcription; users do not have that
    file.
    """
    gold = json.loads((Path(__file__).parents[1] / "gold/published.json").read_text())[
        f"table{number}"
    ]
    cells = [
        [row.id, key, text]
        for row in load_table(str(number)).rows
        for key, text in sorted(row.published.items())
    ]
    assert (len(cells), hashlib.sha256(json.dumps(cells).encode()).hexdigest()) == (
        gold["cells"],
        gold["sha256"],
    )


def test_a_suite_of_whole_categories_fills_the_whole_suites_columns(tmp_path: Path) -> None:
    table = load_table("5")
    row, column = table.find_row("r1024-harope"), table.find_column("numeracy")
    name = fake.checkpoint("mine", "harope", backbone="flux", scale="paper", config={}, suite=None)
    for suite, fits in (
        ("t2i-compbench", True),
        ("t2i-compbench-table5", True),
        ("geneval", False),
    ):
        result = fake.result(
            fake.plan(name, suite, resolution=1024),
            [fake.measurement("numeracy", 0.6)],
            evaluator="t2i-compbench",
        )
        assert match_runs.is_result_of_cell(table, row, column, result) is fits
