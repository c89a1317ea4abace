"""Which numbers may share a column: one kind of judge, one set of rules, strict or lenient, and
what is said of those left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_runs as fake
import pytest

from harope_bench.core.schema import JudgeRecord
from harope_bench.data.result_store import StoredResult
from harope_bench.leaderboards.board import build_board, load_table
from harope_bench.leaderboards.match_runs import match_measurements

KIND = {"official": "mask2former-mmdet", "equivalent": "mask2former", "substitute": "detector"}


def judge_record(kind: str, **fields: Any) -> JudgeRecord:
    return JudgeRecord(
        name=KIND[kind],
        version=1,
        judge_class=kind,
        preprocessing="none",
        **{"weights_sha256": "1" * 64, **fields},
    )


def scored(
    encoding: str,
    side: int,
    kind: str,
    evaluator: str = "geneval",
    n: int = 16,
    lenient: bool = False,
    model: str = "",
    **values: float,
) -> StoredResult:
    """A result of FLUX with that encoding at that side, looked at by that kind of judge."""
    owner = fake.checkpoint(
        f"flux-{encoding}", encoding, backbone="flux", config={}, scale="paper", suite=evaluator
    )
    plan = fake.plan(owner, evaluator, resolution=side, sampler="flow", steps=28)
    judge = judge_record(kind, model=model or None, weights_sha256=(model[-1:] or "1") * 64)
    result = fake.result(
        plan,
        [fake.measurement(name, value, 0.01, n) for name, value in values.items()],
        evaluator=evaluator,
        profile=evaluator,
        judge=judge,
        judges={"detector": judge},
        scale="paper",
        is_lenient=lenient,
    )
    return StoredResult(
        result, Path(f"{encoding}-{side}-{kind}-{lenient}{model}/results/{evaluator}.json")
    )


def matched_classes(items: list[StoredResult], column: str) -> dict[str, str]:
    picks = match_measurements(load_table("4"), items, "paper")
    return {
        row: picked_pick.stored_result.result.judge.judge_class
        for (row, key), picked_pick in picks.items()
        if key == column
    }


def notes(items: list[StoredResult]) -> list[str]:
    return [note.text for note in build_board(load_table("4"), items).notes if note.id is None]


def test_a_column_has_the_judge_class_of_most_rows() -> None:
    stored_results = [
        scored("rope-axial", 512, "substitute", colors=0.5),
        scored("harope", 512, "substitute", colors=0.6),
    ]
    stored_results += [scored("rope-axial", 1024, "official", colors=0.8)]
    assert matched_classes(stored_results, "colors") == {
        "r512-rope": "substitute",
        "r512-harope": "substitute",
    }
    assert any(
        "Measured but not shown" in text
        and "r1024-rope Color (judge official against substitute)" in text
        for text in notes(stored_results)
    )
    assert "Judge detector replaces the official detector." in notes(stored_results)


def test_of_equally_many_rows_the_judge_nearest_to_the_papers_is_shown() -> None:
    stored_results = [
        scored("rope-axial", 512, kind, colors=0.5)
        for kind in ("substitute", "equivalent", "official")
    ]
    assert matched_classes(stored_results, "colors") == {"r512-rope": "official"}
    assert not any("Measured but not shown" in text for text in notes(stored_results)), (
        "the row has a number, no other row lost one"
    )


def test_two_substitutes_never_share_a_column_and_the_model_is_named() -> None:
    stored_results = [
        scored("rope-axial", 512, "substitute", model="/m/a", colors=0.5),
        scored("harope", 512, "substitute", model="/m/a", colors=0.6),
    ]
    stored_results += [scored("rope-axial", 1024, "substitute", model="/m/b", colors=0.9)]
    assert matched_classes(stored_results, "colors") == {
        "r512-rope": "substitute",
        "r512-harope": "substitute",
    }
    left = (
        "r1024-rope Color (substitute detector detector bbbbbbbbbbbb against detector detector"
        " aaaaaaaaaaaa)"
    )
    assert any("Measured but not shown" in text and left in text for text in notes(stored_results))
    assert (
        "Judge detector with /m/a (weights aaaaaaaaaaaa) replaces the official detector."
        in notes(stored_results)
    )
    moved_stored_results = [
        scored("rope-axial", 512, "substitute", model="/m/a", colors=0.5),
        scored("harope", 512, "substitute", model="/n/a", colors=0.6),
    ]
    assert len(matched_classes(moved_stored_results, "colors")) == 2, (
        "the same weights in another folder are the same judge"
    )


def test_columns_choose_for_themselves_and_each_says_whose_eyes_it_has() -> None:
    stored_results = [
        scored("rope-axial", 512, "official", colors=0.5),
        scored("rope-axial", 512, "substitute", "dpg-bench", dpg=80.0),
    ]
    picks = match_measurements(load_table("4"), stored_results, "paper")
    assert {key: p.stored_result.result.judge.judge_class for (_, key), p in picks.items()} == {
        "colors": "official",
        "dpg": "substitute",
    }
    board = build_board(load_table("4"), stored_results)
    cells = {key: board.cells["r512-rope", key] for key in ("colors", "dpg")}
    assert cells["dpg"].note is not None and "replaces the official" in cells["dpg"].note
    assert (
        str(cells["dpg"].verdict)
        == "not comparable (substitute judge)"
        != str(cells["colors"].verdict)
    )
    assert "stands in" not in (cells["colors"].note or "")


@pytest.mark.parametrize("strict_rows", [1, 2])
def test_lenient_and_strict_numbers_never_share_a_column(strict_rows: int) -> None:
    strict = [
        scored("rope-axial", side, "official", colors=0.5) for side in (512, 1024)[:strict_rows]
    ]
    stricts = [*strict, scored("harope", 512, "official", lenient=True, colors=0.9)]
    picks = match_measurements(load_table("4"), stricts, "paper")
    assert {
        p.stored_result.result.is_lenient for (_, key), p in picks.items() if key == "colors"
    } == {False}
    assert any("r512-harope Color (scored with --allow-missing)" in text for text in notes(stricts))


def test_a_lenient_number_says_so_where_it_stands_alone() -> None:
    board = build_board(
        load_table("4"), [scored("rope-axial", 512, "official", lenient=True, colors=0.5)]
    )
    assert "Scored with --allow-missing" in str(board.cells["r512-rope", "colors"].note)


def test_a_table_of_which_some_tasks_exist_shows_these() -> None:
    board = build_board(
        load_table("4"), [scored("rope-axial", 512, "official", colors=0.5, position=0.25)]
    )
    status = {
        key: board.cells["r512-rope", key].status
        for key in ("colors", "position", "overall", "dpg", "counting")
    }
    assert status == {
        "colors": "measured",
        "position": "measured",
        "overall": "not run",
        "dpg": "not run",
        "counting": "not run",
    }
