"""What `reproduce` would cost and what it lacks; nothing is loaded or written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from harope_bench.core import registry
from harope_bench.core.schema import Plan
from harope_bench.leaderboards import board
from harope_bench.leaderboards.entries import NO_ENTRIES, Entries
from harope_bench.leaderboards.match_runs import Scale
from harope_bench.models.load_checkpoint import SettingValue
from harope_bench.pipeline.annotator_choice import AnnotatorOptions
from harope_bench.pipeline.gpu_rates import load_rates
from harope_bench.pipeline.requirements import missing_requirements
from harope_bench.pipeline.row_plans import (
    NO_OVERRIDES,
    RunOptions,
    check_preset,
    plan_row,
    select_table_names,
)
from harope_bench.pipeline.run_costs import (
    CostEstimate,
    RunCost,
    estimate_plan,
    estimate_rows_without_checkpoint,
)
from harope_bench.pipeline.table_runs import plan_table_runs
from harope_bench.pipeline.unmet_requirements import UnmetRequirement, plan_or_requirement
from harope_bench.suites.base import load_suite


def estimate_costs(
    names: Sequence[str],
    scale: Scale,
    count: int | None,
    out: Path | None,
    device: str,
    overrides: Mapping[str, SettingValue] = NO_OVERRIDES,
    entries: Entries = NO_ENTRIES,
    n_gpus: int = 1,
    rates_path: Path | None = None,
) -> tuple[CostEstimate, list[str]]:
    """Return what `reproduce` would cost and what it lacks; nothing is loaded or written.

    Rows of the paper without a registered checkpoint are estimated too, as the paper's network.

    Args:
        out: the folder of the runs; None counts no image as generated.
        n_gpus: GPUs that share the work.
        rates_path: measured rates, see `load_rates`.
    """
    tables = [board.load_table(name) for name in select_table_names(names)]
    rates = load_rates(rates_path)
    runs_by_table = [plan_table_runs(table, scale, entries) for table in tables]
    runs = list(dict.fromkeys(run for table_work in runs_by_table for run in table_work.runs))
    run_counts = Counter(run.checkpoint for run in runs)
    options = RunOptions(device, 0, None, None, AnnotatorOptions(device), overrides)
    check_preset(overrides, runs)

    costs: list[RunCost] = []
    plans: list[Plan] = []
    missing: list[UnmetRequirement] = []
    for run in runs:
        plan = plan_or_requirement(partial(plan_row, run, options))
        if isinstance(plan, UnmetRequirement):
            missing.append(plan)
            continue
        plans.append(plan)
        needs_subfolder = run_counts[run.checkpoint] > 1 or run.resolution is not None
        folder = run.folder(out, needs_subfolder) if out else None
        suite_count = load_suite(run.suite).count
        n_images = suite_count if count is None else count
        costs.append(estimate_plan(run.checkpoint, plan, n_images, folder, rates))

    if scale == "paper":
        checkpoint_names = registry.list_names("checkpoints")
        costs += estimate_rows_without_checkpoint(tables, count, rates, overrides, checkpoint_names)
        missing += [
            requirement
            for table, table_work in zip(tables, runs_by_table, strict=True)
            if (requirement := table_work.requirement(table)) is not None
        ]
    missing += missing_requirements(plans) if plans else []
    rates_text = f"{rates.gpu} ({rates.source})"
    return CostEstimate(tuple(costs), n_gpus, rates_text), [item.text for item in missing]
