"""Reproducing tables of the text-to-image world: every row, resumed, with another position scaling, and all ten tables at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harope_bench import registry, reproduce
from harope_bench.errors import OptionError
from harope_bench.generate import generate, make_plan
from harope_bench.leaderboards.board import build, collect, load_table
from harope_bench.marking import Marking, mark
from harope_bench.reports.tables import render
from harope_bench.samples import Run
from harope_bench.scenes.grammar import cases as captions


def cells(out: Path, number: int) -> dict[str, dict[str, Any]]:
    return {row["id"]: row["cells"] for row in json.loads((out / f"table{number}.json").read_text())["rows"]}


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps a picture: what is drawn does not matter here."""
    monkeypatch.setattr(reproduce, "make_plan", lambda name, suite, said: make_plan(name, suite, {**said, "steps": 2}))


@pytest.mark.usefixtures("hasty")
def test_table_7_is_reproduced_and_then_stands(tmp_path: Path) -> None:
    each = len(captions("test"))
    done = reproduce.reproduce(["7"], "micro", each, tmp_path, "cpu", 0)
    assert (done.rows, done.drawn) == (8, 8 * each)
    for row in cells(tmp_path, 7).values():
        for cell in row.values():
            assert cell["n"] == each and 0 <= cell["low"] <= cell["measured"] <= cell["high"] <= 1
            assert cell["published"] is not None
    assert "500, 1,000, 2,000, 4,000 training steps stand for 300, 600, 1,200, 2,400 here." in (tmp_path / "table7.md").read_text()
    again = reproduce.reproduce(["7"], "micro", each, tmp_path, "cpu", 0)
    assert (again.drawn, again.scored) == (0, 0)


@pytest.mark.usefixtures("hasty")
def test_scaling_reaches_the_rows_of_table_4_and_their_notes(tmp_path: Path) -> None:
    """Five images hold single things alone: what asks for more of them is left out, or says what is missing."""
    reproduce.reproduce(["4"], "micro", 5, tmp_path, "cpu", 0, scaling="ntk")
    assert {cell["status"] for row in cells(tmp_path, 4).values() for cell in row.values()} == {"measured", "no value"}
    plans = [plan for folder in tmp_path.glob("shapes-*/shapes-r*") if (plan := Run(folder).plan) is not None]
    assert {(plan.settings.resolution, plan.settings.pos_scaling) for plan in plans} == {(32, None), (48, "ntk"), (64, "ntk")}
    text = (tmp_path / "table4.md").read_text()
    assert "position scaling ntk" in text
    assert "Sides of 512, 1,024, 2,048 stand for 32, 48, 64 pixels here." in text


@pytest.mark.usefixtures("hasty")
def test_a_run_as_trained_stands_before_one_with_scaling(tmp_path: Path) -> None:
    for name, scaling in (("a", "ntk"), ("b", None)):
        plan = make_plan("shapes-harope", "shapes", {"resolution": 48, "pos_scaling": scaling, "steps": 2})
        mark(generate(plan, range(8), tmp_path / name).folder, tmp_path / name, Marking("shapes"))
    text = render(build(load_table("4"), collect(tmp_path), "measured"), "md")
    assert "2 results fit" in text and "position scaling" not in text


@pytest.mark.parametrize("table", ["2", "3", "7"])
def test_scaling_without_a_row_to_act_on_is_refused(tmp_path: Path, table: str) -> None:
    with pytest.raises(OptionError, match=f"no row of {table} is larger than its training"):
        reproduce.reproduce([table], "micro", 2, tmp_path, "cpu", 0, scaling="ntk")
    assert not list(tmp_path.iterdir())


def test_all_is_every_table_with_each_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, str, int | None]] = []

    def make(plan: Any, folder: Path, *_: Any) -> None:
        made.append((plan.checkpoint.name, plan.suite, plan.settings.resolution))
        Run(folder).claim(plan)

    monkeypatch.setattr(reproduce, "_make", make)
    monkeypatch.setattr(reproduce, "_weigh", lambda plan, folder: False)
    done = reproduce.reproduce([reproduce.ALL], "micro", 2, tmp_path, "cpu", 0)
    assert len(made) == len(set(made)) == done.rows
    assert {suite for _, suite, _ in made} >= {"digits", "digits-held-out", "shapes"}
    assert len(registry.names("tables")) == 10
    assert {path.name for path in done.written} == {
        "report.html",
        *(f"table{n}.{kind}" for n in range(1, 11) for kind in reproduce.FORMATS),
    }
