"""plan: where the noise is known from, and what a difference costs."""

from __future__ import annotations

import json
from pathlib import Path

import fake_runs
import pytest
import tiny
from click.testing import CliRunner

from harope_bench.cli import main
from harope_bench.core.errors import OptionError, UnknownNameError
from harope_bench.core.schema import Plan
from harope_bench.pipeline.plan_study import budget_lines, estimate_budget, plan_for


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_for(tiny.register_tiny(tmp_path / "weights"), None, None, "cpu")


def test_constants_are_named_and_the_example_comes_out(plan: Plan) -> None:
    estimate_budget_result = estimate_budget(
        plan, "fid", 0.3, 0.8, value=9.195, images=50_000, rate=100.0
    )
    assert [
        round(d.smallest_difference or 0, 2)
        for d in estimate_budget_result.designs
        if d.seeds in (1, 3, 5)
    ] == [0.51, 0.29, 0.23]
    assert (
        estimate_budget_result.seeds_per_method == 5
    )  # 3 would do if the spread over seeds were known beforehand
    message = "\n".join(budget_lines(estimate_budget_result))
    assert (
        "1.3% of FID, assumed" in message
        and "0.5% of FID at 50,000 images, assumed" in message
        and "100 images a second, given" in message
    )


def test_noise_is_measured_from_runs_where_there_are_some(plan: Plan, tmp_path: Path) -> None:
    fake_runs.micro_table(tmp_path / "runs")
    estimate_budget_result = estimate_budget(
        plan, "fid", 3.0, 0.8, runs=tmp_path / "runs", rate=10.0
    )
    noise = estimate_budget_result.metric_noise.noise
    assert (
        noise.paired_deviation is not None and noise.paired_deviation < noise.sampling_deviation
    )  # the runs share their noise
    assert (
        "pairs: measured" in "\n".join(budget_lines(estimate_budget_result))
        and estimate_budget_result.images_pair < 500
    )


def test_training_spread_is_measured_over_seeds(plan: Plan, tmp_path: Path) -> None:
    for k, name in enumerate(("harope", "ape", "string")):
        fake_runs.micro_run(tmp_path / f"runs/{name}", name, sha256=f"{k}" * 64)
        path = tmp_path / f"runs/{name}/results/fidelity.json"
        path.write_text(
            path.read_text().replace(f'"encoding": "{name}"', '"encoding": "rope-axial"')
        )
    estimate_budget_result = estimate_budget(
        plan, "is", 0.3, 0.8, runs=tmp_path / "runs", rate=10.0
    )
    assert (
        "measured over 3 training seeds" in estimate_budget_result.metric_noise.sources[0]
        and estimate_budget_result.seeds_per_method is not None
    )


def test_a_share_needs_its_value_alone_and_says_what_it_lacks(plan: Plan) -> None:
    estimate_budget_result = estimate_budget(plan, "precision", 0.05, 0.8, value=0.7, rate=10.0)
    assert (
        estimate_budget_result.images_pair == pytest.approx(2 * 0.21 * (2.8016 / 0.05) ** 2, abs=2)
        and estimate_budget_result.seeds_per_method is None
    )
    assert "the standard deviation between trainings is unknown" in "\n".join(
        budget_lines(estimate_budget_result)
    )


def test_a_tile_is_drawn_and_timed(plan: Plan) -> None:
    estimate_budget_result = estimate_budget(plan, "fid", 3.0, 0.9, value=20.0)
    assert (
        estimate_budget_result.cost.seconds is not None
        and estimate_budget_result.cost.seconds > 0
        and 50 < estimate_budget_result.cost.bytes < 5000
    )
    assert "generated now on cpu" in estimate_budget_result.cost.sources[0]


def test_what_nobody_knows_is_said(plan: Plan) -> None:
    with pytest.raises(OptionError, match="give --runs DIR, or --value"):
        estimate_budget(plan, "fid", 3.0, 0.8, rate=10.0)
    with pytest.raises(OptionError, match="or runs that measured it"):
        estimate_budget(plan, "is", 3.0, 0.8, value=3.0, rate=10.0)
    with pytest.raises(UnknownNameError, match="did you mean fid"):
        estimate_budget(plan, "fit", 3.0, 0.8, rate=10.0)


def test_plan_from_the_command_line(plan: Plan) -> None:
    words = [
        "plan",
        "tiny",
        "--difference",
        "0.3",
        "--value",
        "9",
        "--rate",
        "5",
        "--count",
        "50000",
        "--json",
    ]
    command_result = CliRunner().invoke(main, words)
    assert command_result.exit_code == 0 and json.loads(command_result.stdout)["seeds"] == 4
    assert CliRunner().invoke(main, ["plan", "tiny", "--difference", "0"]).exit_code == 2
