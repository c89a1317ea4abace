"""Estimates before a run: what is missing, GPU hours, wall time and disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner, Result

from harope_bench.cli import main
from harope_bench.core.errors import OptionError
from harope_bench.data.run_folder import RunFolder
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.pipeline.gpu_rates import load_rates
from harope_bench.pipeline.run_costs import cost_fields, cost_lines
from harope_bench.pipeline.table_costs import estimate_costs


def run_command(arguments: list[str]) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="harope-bench")


def test_the_papers_protocol_costs_what_its_parts_cost() -> None:
    """FLUX at three sizes: 6 runs of 24,000 images; seconds of the shipped rates."""
    estimate, missing = estimate_costs(["5"], "paper", None, None, "cpu", n_gpus=8)
    assert [run.n_missing for run in estimate.runs] == [24_000] * 6
    assert {run.precision for run in estimate.runs} == {"bfloat16"}
    generation_hours = sum(run.generation_seconds or 0 for run in estimate.runs) / 3600
    assert generation_hours == pytest.approx(2 * 24_000 * (2.05 + 7.1 + 40) / 3600)
    assert estimate.wall_hours == pytest.approx(estimate.gpu_hours / 8)
    image_bytes = 2 * 24_000 * 3 * (512**2 + 1024**2 + 2048**2)
    assert estimate.disk_bytes == pytest.approx(image_bytes, rel=0.01)
    assert len(missing) == 1
    assert "table 5 at paper scale needs checkpoints" in missing[0]


def test_rows_that_several_tables_repeat_are_counted_once() -> None:
    estimate, _ = estimate_costs(["all"], "paper", None, None, "cpu")
    dit_runs = [run for run in estimate.runs if run.suite.startswith("imagenet-")]
    assert sum(run.suite != "imagenet-val" for run in dit_runs) == 17
    by_table, _ = estimate_costs(["2"], "paper", None, None, "cpu")
    assert len(by_table.runs) == 6


@pytest.mark.parametrize(
    ("overrides", "precision", "hours"),
    [
        ({}, "float32", 7.08),
        ({"tf32": True}, "tf32", 1.60),
        ({"preset": "harope-release"}, "tf32", 1.60),
        ({"preset": "harope-release", "tf32": False}, "float32", 7.08),
        ({"dtype": "bfloat16"}, "bfloat16", 0.92),
    ],
)
def test_precision_decides_the_hours(
    overrides: dict[str, str | bool | int | float | None], precision: str, hours: float
) -> None:
    estimate, _ = estimate_costs(["2"], "paper", None, None, "cpu", overrides)
    assert {run.precision for run in estimate.runs} == {precision}
    seconds = estimate.runs[0].generation_seconds
    assert seconds is not None
    assert seconds / 3600 == pytest.approx(hours, abs=0.01)


def test_generated_images_are_not_missing_and_micro_runs_have_no_gpu_rate(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    generate(make_plan("digits-ape", "digits", {}), range(3), out / "digits-ape")
    estimate, _ = estimate_costs(["2"], "micro", 10, out, "cpu")
    missing = {run.checkpoint: run.n_missing for run in estimate.runs}
    assert missing["digits-ape"] == 7
    assert missing["digits-harope"] == 10
    assert {run.generation_seconds for run in estimate.runs} == {None}
    assert sorted(RunFolder(out / "digits-ape").read_records()) == [0, 1, 2]


def test_measured_rates_replace_inferred_ones(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    rate = {"backbone": "dit", "resolution": 256, "steps": 250, "float32": 0.1}
    rates = {"gpu": "H200", "source": "measured", "generation": [rate]}
    path.write_text(json.dumps({"rates": rates, "rows": []}))
    measured = load_rates(path)
    assert measured.generation_seconds("dit", 256, 250, "float32") == 0.1
    assert measured.generation_seconds("dit", 256, 125, "float32") == 0.05
    assert measured.generation_seconds("dit", 128, 250, "float32") == 0.025
    assert measured.generation_seconds("flux", 1024, 28, "bfloat16") == 7.1
    assert measured.generation_seconds("mine", 256, 250, "float32") is None
    assert measured.gpu == "H200"
    assert load_rates().generation_seconds("dit", 256, 250, "float32") == 0.51


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"rates": {"gpu": "x"}}', '{"rows": []}'])
def test_a_file_without_rates_is_a_named_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gpu.json"
    path.write_text(text)
    with pytest.raises(OptionError, match="--rates .*; give the file that benchmarks/gpu_check.py"):
        load_rates(path)


def test_the_page_names_gpus_hours_disk_and_where_rates_come_from() -> None:
    estimate, missing = estimate_costs(["3"], "paper", 1000, None, "cpu", n_gpus=2)
    text = "\n".join(cost_lines(estimate, missing))
    assert "3 runs, 3,000 images to generate" in text
    assert "H100 (inferred, not measured)" in text
    assert "on 2 GPUs" in text
    assert "missing: table 3 at paper scale needs checkpoints" in text
    assert cost_fields(estimate, missing)["images"] == 3000


def test_dry_run_and_plan_print_one_estimate_and_write_nothing(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    options = ["--gpus", "8", "--json"]
    dry_run = run_command(
        ["reproduce", "5", "--scale", "paper", "--out", str(out), "--dry-run", *options]
    )
    plan = run_command(["plan", "--table", "5", *options])
    assert (dry_run.exit_code, plan.exit_code) == (0, 0)
    assert json.loads(dry_run.stdout) == json.loads(plan.stdout)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan"], "give a CHECKPOINT with --difference, or --gpus N"),
        (["plan", "digits-harope"], "Missing option '--difference'"),
        (["plan", "digits-harope", "--difference", "1", "--gpus", "2"], "leave CHECKPOINT out"),
        (["reproduce", "2", "--scale", "paper", "--out", "x", "--gpus", "2"], "--dry-run; add it"),
    ],
)
def test_options_that_do_not_belong_together_are_usage_errors(
    arguments: list[str], message: str
) -> None:
    result = run_command(arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_reproduce_passes_precision_and_tile_to_its_plans(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    arguments = ["reproduce", "2", "--scale", "micro", "--count", "2", "--out", str(out)]
    result = run_command([*arguments, "--preset", "mine"])
    assert result.exit_code == 1
    assert "no suite of digits has a preset 'mine'; leave --preset out" in result.output
    result = run_command([*arguments, "--tf32"])
    assert result.exit_code == 1
    assert "--tf32 rounds products on CUDA devices" in result.output
    assert not out.exists()


def test_tf32_is_recorded_only_where_it_is_set(tmp_path: Path) -> None:
    plan = make_plan(tiny.register_tiny(tmp_path), None, {"tf32": False, "tile": 3})
    assert plan.settings.tf32 is None
    assert plan.settings.tile == 3
    assert '"tf32"' not in plan.to_json()
    settings = plan.settings.model_copy(update={"tf32": True})
    with_tf32 = plan.model_copy(update={"settings": settings})
    assert '"tf32": true' in with_tf32.to_json()
    assert with_tf32.digest != plan.digest
