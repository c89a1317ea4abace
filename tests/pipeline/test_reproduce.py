"""Reproducing tables of the text-to-image world: every row, resumed, with another position scaling,
and all ten tables at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_runs as fake
import pytest
from plugin_scans import cached_scans

from harope_bench.core import registry
from harope_bench.core.errors import OptionError, UnknownNameError
from harope_bench.core.toml_file import versioned_toml_text
from harope_bench.data.result_store import read_results
from harope_bench.data.run_folder import RunFolder
from harope_bench.data.shapes_scenes import grammar
from harope_bench.leaderboards import match_runs
from harope_bench.leaderboards.board import build_board, load_table
from harope_bench.leaderboards.entries import parse_entries
from harope_bench.models import load_checkpoint
from harope_bench.pipeline import reproduce, row_plans
from harope_bench.pipeline.evaluate_prompts import PromptScoring, evaluate_prompts
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.reports.tables import render_table
from harope_bench.suites import shapes

__all__ = ["cached_scans"]  # the fixture


def cells(out: Path, number: int) -> dict[str, dict[str, Any]]:
    return {
        row["id"]: row["cells"]
        for row in json.loads((out / f"table{number}.json").read_text())["rows"]
    }


FAST_FIELDS = {
    "steps": 2,
    "tile": 6,
}  # what the images show does not matter here, and a tile is computed whole for fewer images


@pytest.fixture
def fast_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans of two steps an image and of small tiles."""
    monkeypatch.setattr(
        row_plans,
        "make_plan",
        lambda name, suite, settings: make_plan(name, suite, {**settings, **FAST_FIELDS}),
    )


@pytest.fixture
def caption_count(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The number of captions of the suite shapes, of which only two of each of its six tasks are
    left.
    """
    captions = [
        [case for case in grammar.list_captions("test") if case.task == task][:2]
        for task in grammar.TASKS
    ]
    chosen_tuple = tuple(case for of_task in captions for case in of_task)
    monkeypatch.setattr(shapes, "caption_cases", lambda: chosen_tuple)
    shapes.prompt_metadata.cache_clear()
    yield len(chosen_tuple)
    shapes.prompt_metadata.cache_clear()


@pytest.mark.usefixtures("fast_plans")
def test_table_7_is_reproduced_and_then_stands(tmp_path: Path, caption_count: int) -> None:
    caption_count_result = caption_count
    process = reproduce.reproduce(["7"], "micro", caption_count_result, tmp_path, "cpu", 0)
    assert (process.n_rows, process.n_generated) == (8, 8 * caption_count_result)
    for row in cells(tmp_path, 7).values():
        for cell in row.values():
            assert (
                cell["n_scored"] == caption_count_result
                and 0 <= cell["low"] <= cell["measured"] <= cell["high"] <= 1
            )
            assert cell["published"] is not None
    assert (
        "500, 1,000, 2,000, 4,000 training steps are replaced by 300, 600, 1,200, 2,400 here."
        in (tmp_path / "table7.md").read_text()
    )
    again = reproduce.reproduce(["7"], "micro", caption_count_result, tmp_path, "cpu", 0)
    assert (again.n_generated, again.n_scored) == (0, 0)


@pytest.mark.usefixtures("fast_plans")
def test_scaling_reaches_the_rows_of_table_4_and_their_notes(tmp_path: Path) -> None:
    """Five images hold single things alone: what asks for more of them is left out, or says what is
    missing.
    """
    reproduce.reproduce(["4"], "micro", 5, tmp_path, "cpu", 0, scaling="ntk")
    assert {cell["status"] for row in cells(tmp_path, 4).values() for cell in row.values()} == {
        "measured",
        "no value",
    }
    plans = [
        plan
        for folder in tmp_path.glob("shapes-*/shapes-r*")
        if (plan := RunFolder(folder).plan) is not None
    ]
    assert {(plan.settings.resolution, plan.settings.pos_scaling) for plan in plans} == {
        (32, None),
        (48, "ntk"),
        (64, "ntk"),
    }
    text = (tmp_path / "table4.md").read_text()
    assert "position scaling ntk" in text
    assert "Resolutions 512, 1,024, 2,048 are replaced by 32, 48, 64 pixels here." in text


@pytest.mark.usefixtures("fast_plans")
def test_a_run_as_trained_stands_before_one_with_scaling(tmp_path: Path) -> None:
    for name, scaling in (("a", "ntk"), ("b", None)):
        plan = make_plan(
            "shapes-harope", "shapes", {"resolution": 48, "pos_scaling": scaling, **FAST_FIELDS}
        )
        evaluate_prompts(
            generate(plan, range(8), tmp_path / name).folder,
            tmp_path / name,
            PromptScoring("shapes"),
        )
    text = render_table(build_board(load_table("4"), read_results(tmp_path), "measured"), "md")
    assert "2 results fit" in text and "generated with position scaling" not in text


@pytest.mark.parametrize("table", ["2", "3", "7"])
def test_scaling_without_a_row_to_act_on_is_refused(tmp_path: Path, table: str) -> None:
    with pytest.raises(OptionError, match=f"no row of {table} is larger than its training"):
        reproduce.reproduce([table], "micro", 2, tmp_path, "cpu", 0, scaling="ntk")
    assert not list(tmp_path.iterdir())


def test_all_is_every_table_with_each_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items: list[tuple[str, str, int | None]] = []

    def make(plan: Any, folder: Path, *_: Any) -> None:
        items.append((plan.checkpoint.name, plan.suite, plan.settings.resolution))
        RunFolder(folder).tie_to_plan(plan)

    monkeypatch.setattr(reproduce, "generate_and_score", make)
    monkeypatch.setattr(reproduce, "_measure_cost", lambda plan, folder: False)
    process = reproduce.reproduce([row_plans.ALL_TABLES], "micro", 2, tmp_path, "cpu", 0)
    assert len(items) == len(set(items)) == process.n_rows
    assert {suite for _, suite, _ in items} >= {"digits", "digits-held-out", "shapes"}
    assert {path.name for path in process.written_paths} == {
        "report.html",
        *(f"{name}.{kind}" for name in registry.list_names("tables") for kind in reproduce.FORMATS),
    }


# ------------------------------------------------------------------------------- rows without and
# of several checkpoints


@pytest.fixture
def paper_runs(
    bench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[tuple[str, str, int | None]]]:
    """Registers FLUX checkpoints by record, makes every run instant with a plausible score, and
    lists the runs.
    """
    items: list[tuple[str, str, int | None]] = []
    path = bench_home / "checkpoints"
    path.mkdir(parents=True)

    def register(name: str, encoding: str, sha256: str, **fields: Any) -> None:
        checkpoint = fake.checkpoint(
            name,
            encoding,
            backbone="flux",
            scale="paper",
            suite="geneval",
            sha256=sha256 * 32,
            **fields,
        )
        (path / f"{name}.toml").write_text(
            versioned_toml_text("checkpoint", checkpoint.model_dump(mode="json", exclude_none=True))
        )

    def make(plan: Any, folder: Path, count: Any, process: Any, marking: Any, *_: Any) -> None:
        items.append((plan.checkpoint.name, plan.suite, plan.settings.resolution))
        metric = {"geneval": "overall", "dpg-bench": "dpg"}[plan.suite]
        result = fake.result(
            plan,
            [fake.measurement(metric, 0.5, 0.01, 553)],
            evaluator=plan.suite,
            profile=plan.suite,
        )
        fake.write_result(folder, result, name=plan.suite)

    def plan_of(item: Any, options: Any) -> Any:
        return fake.plan(
            load_checkpoint.load_checkpoint_record(item.checkpoint),
            item.suite,
            resolution=item.resolution,
            seed=options.seed,
        )

    monkeypatch.setattr(reproduce, "generate_and_score", make)
    monkeypatch.setattr(reproduce, "plan_row", plan_of)
    monkeypatch.setattr(reproduce, "_prompt_scorings", lambda *_: {})
    monkeypatch.setattr(reproduce, "missing_requirements", lambda *_: [])

    def prepare(*checkpoints: tuple[str, str, str]) -> list[tuple[str, str, int | None]]:
        for checkpoint_result in checkpoints:
            register(*checkpoint_result)
        return items

    return prepare


def again(
    out: Path, *add: str, row: tuple[str, ...] = (), tables: tuple[str, ...] = ("4",)
) -> reproduce.ReproduceSummary:
    return reproduce.reproduce(
        list(tables), "paper", 5, out, "cpu", 0, entries=parse_entries(add, row)
    )


def test_rows_without_a_checkpoint_are_listed_and_the_others_run(
    tmp_path: Path, paper_runs: Any
) -> None:
    paper_runs_result = paper_runs(("flux-rope", "rope-axial", "aa"))
    reproduce_summary = again(tmp_path)
    assert set(paper_runs_result) == {
        ("flux-rope", suite, side)
        for suite in ("geneval", "dpg-bench")
        for side in (512, 1024, 2048)
    }
    (line,) = reproduce_summary.missing_checkpoints
    assert (
        "r512-harope (HARoPE), r1024-harope (HARoPE), r2048-harope (HARoPE)" in line
        and "--encoding harope" in line
    )
    text = (tmp_path / "table4.md").read_text()
    assert (
        "Not run, no registered checkpoint fits: r512-harope (HARoPE)" in text
        and "harope-bench register NAME" in text
    )
    statuses = {row: cell["overall"]["status"] for row, cell in cells(tmp_path, 4).items()}
    assert {row: status for row, status in statuses.items() if row.startswith("r512")} == {
        "r512-rope": "measured", "r512-harope": "not run",
    }  # fmt: skip


def test_several_checkpoints_of_a_row_are_an_error_until_somebody_decides(
    tmp_path: Path, paper_runs: Any
) -> None:
    paper_runs_result = paper_runs(
        ("flux-rope", "rope-axial", "aa"), ("flux-a", "harope", "bb"), ("flux-b", "harope", "cc")
    )
    with pytest.raises(
        OptionError,
        match=(
            "2 registered checkpoints fit HARoPE of Table 4: flux-a, flux-b; --row r512-harope=NAME"
        ),
    ) as error:
        again(tmp_path / "out")
    assert (
        all(f"--row r{side}-harope=NAME" in str(error.value) for side in (512, 1024, 2048))
        and not paper_runs_result
        and not (tmp_path / "out").exists()
    )
    again(tmp_path / "rows", row=tuple(f"r{side}-harope=flux-b" for side in (512, 1024, 2048)))
    assert {name for name, *_ in paper_runs_result} == {"flux-rope", "flux-b"}
    paper_runs_result.clear()
    again(tmp_path / "added", "flux-b=B")
    assert {name for name, *_ in paper_runs_result} == {"flux-rope", "flux-a", "flux-b"}
    shown_cells = cells(tmp_path / "added", 4)
    assert (
        shown_cells["r512-harope"]["overall"]["status"]
        == shown_cells["r1024-flux-b"]["dpg"]["status"]
        == "measured"
    )
    assert "flux-b" in (tmp_path / "added/report.html").read_text()


def test_an_own_checkpoint_is_generated_for_the_suites_and_sides_of_the_table(
    tmp_path: Path, paper_runs: Any
) -> None:
    paper_runs_result = paper_runs(("mine", "string", "dd"))
    reproduce_summary = again(tmp_path, "mine=Mine")
    assert set(paper_runs_result) == {
        ("mine", suite, side) for suite in ("geneval", "dpg-bench") for side in (512, 1024, 2048)
    }
    assert len(reproduce_summary.missing_checkpoints) == 1, (
        "an own row runs, though no row of the table has a checkpoint"
    )
    assert [row for row in cells(tmp_path, 4) if "mine" in row] == [
        "r512-mine",
        "r1024-mine",
        "r2048-mine",
    ]
    with pytest.raises(OptionError, match="checkpoint mine .* fits no table of Table 2"):
        again(tmp_path, "mine", tables=("2",))
    with pytest.raises(UnknownNameError, match="did you mean mine"):
        again(tmp_path / "new", "minee")


@pytest.mark.usefixtures("fast_plans")
def test_an_own_micro_checkpoint_gets_its_run_and_its_row(tmp_path: Path) -> None:
    """Table 3's rows are drawn at one side; the own checkpoint too, and its row stands last in the
    table and the report.
    """
    own_entries = parse_entries(["shapes-base-rope-axial=Mine | <b>"], [])
    process = reproduce.reproduce(["3"], "micro", 3, tmp_path, "cpu", 0, entries=own_entries)
    assert (process.n_rows, process.n_generated) == (4, 12)
    assert [*cells(tmp_path, 3)][-1] == "shapes-base-rope-axial"
    assert r"Mine \| \<b>" in (tmp_path / "table3.md").read_text()
    assert "Mine | &lt;b&gt;" in (tmp_path / "report.html").read_text()
    (plan,) = [
        plan
        for folder in tmp_path.glob("shapes-base-*/*")
        if (plan := RunFolder(folder).plan) is not None
    ]
    assert (plan.suite, plan.settings.resolution) == ("shapes", 32)
    repeated_value = reproduce.reproduce(["3"], "micro", 3, tmp_path, "cpu", 0, entries=own_entries)
    assert (repeated_value.n_generated, repeated_value.n_scored) == (0, 0)


def test_a_checkpoint_of_another_world_is_refused_before_work(tmp_path: Path) -> None:
    for name, table in (("digits-ape", "4"), ("shapes-ape", "2"), ("digits-ape", "1")):
        with pytest.raises(
            OptionError,
            match=f"checkpoint {name} .* fits no table of Table {table} at micro scale",
        ):
            reproduce.reproduce(
                [table], "micro", 3, tmp_path / "out", "cpu", 0, entries=parse_entries([name], [])
            )
    assert not (tmp_path / "out").exists()


def test_a_row_is_served_by_options_too() -> None:
    """Table 6 has six matrices of one encoding; a checkpoint of one of them serves its row
    alone.
    """
    table = load_table("6")
    name = fake.checkpoint(
        "m",
        "rope-matrix",
        scale="paper",
        options={"matrix": "svd", "per_head": False},
        config={"hidden": 768, "depth": 12, "patch": 2},
    )
    assert [
        row.id
        for row in table.rows
        if match_runs.is_checkpoint_of_cell(table, row, table.columns[0], name)
    ] == ["svd"]
