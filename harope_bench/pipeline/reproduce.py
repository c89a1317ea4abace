"""Reproduction of tables: generate and score every row, write the tables and a report.

The stages resume by themselves after an interruption.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from harope_bench.core import registry
from harope_bench.core.errors import OptionError
from harope_bench.core.index_ranges import MAX_INDICES
from harope_bench.core.limits import check_maximum
from harope_bench.core.schema import Plan
from harope_bench.core.storage import read_if_present, write_text
from harope_bench.data.result_store import EvaluatedResult, read_results
from harope_bench.data.run_claim import claim_run
from harope_bench.leaderboards import board
from harope_bench.leaderboards.entries import (
    NO_ENTRIES,
    Entries,
    check_entries,
    unmatched_runs_note,
)
from harope_bench.leaderboards.match_runs import Scale
from harope_bench.leaderboards.table_spec import Table
from harope_bench.models.load_checkpoint import (
    KeptGenerator,
    SettingValue,
    load_checkpoint_record,
)
from harope_bench.pipeline.annotator_choice import AnnotatorOptions
from harope_bench.pipeline.classify import (
    RealImageSelection,
    classify,
    is_classification_suite,
    make_classifier_plan,
)
from harope_bench.pipeline.evaluate import FeatureScoring, evaluate
from harope_bench.pipeline.evaluate_prompts import (
    PromptScoring,
    check_prompt_scoring,
    evaluate_prompts,
    is_prompt_suite,
    judges_by_suite,
    scores_annotations,
)
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.pipeline.gpu_rates import load_rates
from harope_bench.pipeline.requirements import (
    RequiredScoring,
    UnmetRequirement,
    blocking_requirements,
    missing_requirements,
    plan_or_requirement,
    raise_missing,
    suite_requirements,
)
from harope_bench.pipeline.run_costs import (
    CostEstimate,
    RunCost,
    estimate_plan,
    estimate_rows_without_checkpoint,
)
from harope_bench.pipeline.table_runs import (
    PlannedRun,
    TableRuns,
    added_runs,
    check_table_runs,
    has_network_columns,
    plan_table_runs,
    suites_without_checkpoint,
)
from harope_bench.reports.report_page import write_report
from harope_bench.reports.tables import render_table
from harope_bench.suites.base import load_suite

ALL_TABLES = "all"  # instead of names: every registered table
NO_OVERRIDES: Mapping[str, SettingValue] = {}
FORMATS = ("md", "csv", "tex", "html", "json")


@dataclass
class ReproduceSummary:
    """Counts of one call of `reproduce`.

    missing_checkpoints: a line for each table with rows that no registered checkpoint fits.
    """

    n_rows: int = 0
    n_generated: int = 0
    n_scored: int = 0
    written_paths: list[Path] = field(default_factory=list)
    missing_checkpoints: list[str] = field(default_factory=list)


def reproduce(
    names: Sequence[str],
    scale: Scale,
    count: int | None,
    out: Path,
    device: str,
    seed: int,
    judge: str | None = None,
    annotator_options: AnnotatorOptions | None = None,
    scaling: str | None = None,
    entries: Entries = NO_ENTRIES,
    overrides: Mapping[str, SettingValue] = NO_OVERRIDES,
) -> ReproduceSummary:
    """Generate and score every row of the tables, and write the tables and one report below `out`.

    Rows that tables share are generated once, and finished work is skipped. Rows that no registered
    checkpoint fits are listed, and the others run.

    At paper scale, columns of the network itself are counted without weights. A table with such
    columns needs no registered checkpoint; its other cells then say that they were not run.

    Args:
        names: tables, or `all` alone.
        count: samples of each run; for prompts at most the suite's count.
        judge: `role=NAME` instead of the suites' default annotators.
        annotator_options: how annotators run; by default on the device, in this process.
        scaling: position scaling of rows that are larger than the training resolution of their
            checkpoint.
        entries: checkpoints or runs below `out` with rows of their own, or that decide a row.
        overrides: further settings of every run that generates, by name: dtype, tf32, tile, and
            preset for the runs whose suite has it.

    Raises:
        RunBusyError: Another process writes the folder.
        BenchError: A table has no such scale, a row has several checkpoints or none has one,
            something that a run needs is missing, or the scaling applies to no row. It is raised
            before anything is generated.
    """
    check_maximum("--count", count or 0, MAX_INDICES)
    with claim_run(out):
        return _reproduce(
            names,
            scale,
            count,
            out,
            device,
            seed,
            judge,
            annotator_options,
            scaling,
            entries,
            overrides,
        )


def _reproduce(
    names: Sequence[str],
    scale: Scale,
    count: int | None,
    out: Path,
    device: str,
    seed: int,
    judge: str | None,
    annotator_options: AnnotatorOptions | None,
    scaling: str | None,
    entries: Entries,
    overrides: Mapping[str, SettingValue],
) -> ReproduceSummary:
    """Reproduce tables while no other process writes the folder. See `reproduce`."""
    is_all = list(names) == [ALL_TABLES]
    table_names = select_table_names(names)
    tables = [board.load_table(name) for name in table_names]
    annotator_options = annotator_options or AnnotatorOptions(device)
    entries = replace(entries, runs_folder=out)

    # Find every run, and what is missing, before anything is generated.
    runs_by_table = [plan_table_runs(table, scale, entries) for table in tables]
    missing_checkpoints = check_table_runs(tables, runs_by_table, scale, is_all)
    entry_runs = added_runs(tables, scale, entries)
    table_runs = [run for table_work in runs_by_table for run in table_work.runs]
    runs = _order_by_checkpoint([*table_runs, *entry_runs])
    _check_scaling(scaling, runs, table_names)
    measured_runs = _measured_runs(tables, runs_by_table, entry_runs, scale)
    options = _RunOptions(device, seed, scaling, judge, annotator_options, overrides)
    _check_preset(overrides, runs)
    plans = _make_plans(
        runs, options, missing_checkpoints, suites_without_checkpoint(runs_by_table)
    )
    suites = list(dict.fromkeys(plan.suite for plan in plans.values()))
    prompt_scorings = _prompt_scorings(suites, judge, annotator_options)

    # Run everything, then write the tables.
    summary = ReproduceSummary(
        n_rows=len(plans), missing_checkpoints=[item.text for item in missing_checkpoints]
    )
    if scale == "paper":
        _count_rows([table for table in tables if has_network_columns(table)], out, summary)
    run_counts = Counter(run.checkpoint for run in runs)
    kept_generator = KeptGenerator()
    pending_plans = list(plans.values())
    for run, plan in plans.items():
        pending_plans.remove(plan)
        needs_subfolder = run_counts[run.checkpoint] > 1 or run.resolution is not None
        folder = run.folder(out, needs_subfolder)
        with claim_run(folder):
            prompt_scoring = prompt_scorings.get(plan.suite)
            _generate_and_score(
                plan, folder, count, summary, prompt_scoring, kept_generator, pending_plans
            )
            if run in measured_runs:
                summary.n_scored += _measure_cost(plan, folder)
    summary.written_paths += _write_tables(table_names, tables, scale, out, entries, runs_by_table)
    return summary


def _order_by_checkpoint(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return each run once; those of one checkpoint follow each other, so it is loaded once."""
    first_positions: dict[str, int] = {}
    for position, run in enumerate(runs):
        first_positions.setdefault(run.checkpoint, position)
    return sorted(dict.fromkeys(runs), key=lambda run: first_positions[run.checkpoint])


def select_table_names(names: Sequence[str]) -> Sequence[str]:
    """Return the names of the tables; those of all registered tables for `all` alone."""
    return registry.list_names("tables") if list(names) == [ALL_TABLES] else names


def _check_preset(overrides: Mapping[str, SettingValue], runs: Sequence[PlannedRun]) -> None:
    """Raise OptionError if no run has a suite with the preset that the user chose."""
    preset = overrides.get("preset")
    suites = list(dict.fromkeys(run.suite for run in runs))
    presets = list(dict.fromkeys(name for suite in suites for name in load_suite(suite).presets))
    if preset is not None and runs and preset not in presets:
        advice = f"choose one of {', '.join(presets)}" if presets else "leave --preset out"
        raise OptionError(f"no suite of {', '.join(suites)} has a preset {preset!r}; {advice}")


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
    options = _RunOptions(device, 0, None, None, AnnotatorOptions(device), overrides)
    _check_preset(overrides, runs)

    costs: list[RunCost] = []
    plans: list[Plan] = []
    missing: list[UnmetRequirement] = []
    for run in runs:
        plan = plan_or_requirement(partial(_plan, run, options))
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


def _check_scaling(scaling: str | None, runs: Sequence[PlannedRun], names: Sequence[str]) -> None:
    """Raise OptionError where no run of these tables is larger than its training resolution."""
    if scaling is not None and not any(map(_exceeds_training_size, runs)):
        raise OptionError(
            f"no row of {', '.join(names)} is larger than its training resolution, so --pos-scaling"
            " has no effect; leave it out"
        )


def _measured_runs(
    tables: Sequence[Table],
    runs_by_table: Sequence[TableRuns],
    entry_runs: Sequence[PlannedRun],
    scale: Scale,
) -> set[PlannedRun]:
    """Return the runs whose network's cost is measured.

    At paper scale these are the runs of entries only, because the tables' rows are counted without
    weights.
    """
    runs = set(entry_runs) if any(map(has_network_columns, tables)) else set()
    if scale == "micro":
        for table, table_work in zip(tables, runs_by_table, strict=True):
            if has_network_columns(table):
                runs.update(table_work.runs)
    return runs


def _write_tables(
    names: Sequence[str],
    tables: Sequence[Table],
    scale: Scale,
    out: Path,
    entries: Entries,
    runs_by_table: Sequence[TableRuns],
) -> list[Path]:
    """Write the tables in all formats and the report, from every result below `out`.

    Args:
        names: of the tables, which the report shows in this order.
    """
    results = read_results(out)
    paths = []
    check_entries(tables, results, entries, (scale,))
    unmatched_note = unmatched_runs_note(tables, results, entries)
    for table, table_work in zip(tables, runs_by_table, strict=True):
        notes = [text for text in (table_work.missing_rows_note(table), unmatched_note) if text]
        measured_table = board.build_board(table, results, "both", scale, entries, notes)
        stem = f"table{table.number}" if table.number else table.id
        for file_format in FORMATS:
            path = out / f"{stem}.{file_format}"
            paths.append(_write(path, render_table(measured_table, file_format)))
    write_report(out, out / "report.html", entries, tables=names)
    return [*paths, out / "report.html"]


class _RunOptions(NamedTuple):
    """Options of all runs of a call: how images are generated and annotated."""

    device: str
    seed: int
    scaling: str | None
    judge: str | None
    annotator_options: AnnotatorOptions
    overrides: Mapping[str, SettingValue] = NO_OVERRIDES


def _make_plans(
    runs: Sequence[PlannedRun],
    options: _RunOptions,
    missing_checkpoints: Sequence[UnmetRequirement],
    suites: Sequence[str],
) -> dict[PlannedRun, Plan]:
    """Return the plan of each run.

    Args:
        missing_checkpoints: requirements of rows without a checkpoint.
        suites: of these rows; their prompts and judges will be needed.

    Raises:
        MissingRequirementsError: Something that a run needs is missing, or no row has a checkpoint.
            The message lists everything at once.
    """
    plans: dict[PlannedRun, Plan] = {}
    missing: list[UnmetRequirement] = []
    for run in runs:
        plan = plan_or_requirement(partial(_plan, run, options))
        if isinstance(plan, UnmetRequirement):
            missing.append(plan)
        else:
            plans[run] = plan

    scoring = RequiredScoring(judge=options.judge, python=options.annotator_options.python)
    missing += missing_requirements(list(plans.values()), scoring)
    has_no_run = bool(missing_checkpoints) and not runs
    if has_no_run:
        missing += suite_requirements(suites, scoring)
    if has_no_run or blocking_requirements(missing):
        raise_missing([*missing_checkpoints, *missing])
    return plans


def _measure_cost(plan: Plan, out: Path) -> bool:
    """Measure the cost of a plan's network; return whether it was not measured before."""
    from harope_bench.analysis.cost.measure_cost import measure_cost

    return measure_cost(plan, out).is_new


def _count_rows(tables: Sequence[Table], out: Path, summary: ReproduceSummary) -> None:
    """Count the operations of every row's network on the meta device."""
    from harope_bench.analysis.cost.measure_cost import count_cost, plan_without_weights

    for table in tables:
        for row in table.rows:
            if not (row.backbone and row.encoding and row.resolution):
                continue
            config = {**table.paper_scale.config, **row.config}
            plan = plan_without_weights(
                row.backbone, row.encoding, row.options, config, row.resolution, "none"
            )
            summary.n_rows += 1
            summary.n_scored += count_cost(plan, out / plan.checkpoint.name).is_new


def _plan(run: PlannedRun, options: _RunOptions) -> Plan:
    """Return the plan of a run; a classifier's has no seed, because it generates nothing."""
    if is_classification_suite(run.suite):
        return make_classifier_plan(run.checkpoint, run.suite, {"device": options.device})
    overrides: dict[str, SettingValue] = {
        **options.overrides,
        "device": options.device,
        "seed": options.seed,
        "resolution": run.resolution,
        "pos_scaling": options.scaling if _exceeds_training_size(run) else None,
    }
    if overrides.get("preset") not in load_suite(run.suite).presets:
        overrides["preset"] = None  # another row's suite has it
    return make_plan(run.checkpoint, run.suite, overrides)


def _exceeds_training_size(run: PlannedRun) -> bool:
    """Return whether a run is larger than the recorded training size of its checkpoint."""
    if run.resolution is None:
        return False
    return run.resolution > int(load_checkpoint_record(run.checkpoint).config.get("size", 0))


def _prompt_scorings(
    suites: Sequence[str], judge: str | None, annotator_options: AnnotatorOptions
) -> dict[str, PromptScoring]:
    """Return how each suite of prompts is scored, after checking that prompts and judges exist."""
    prompt_suites = [suite for suite in suites if is_prompt_suite(suite)]
    judges = judges_by_suite(judge, prompt_suites) if judge else {}
    scorings = {
        suite: PromptScoring(suite, judge=judges.get(suite), annotator_options=annotator_options)
        for suite in prompt_suites
    }
    for scoring in scorings.values():
        check_prompt_scoring(scoring, evaluators=None)
    return scorings


def _sample_count(plan: Plan, count: int | None) -> int:
    """Return how many samples of a run are generated and scored."""
    suite_count = load_suite(plan.suite).count
    sample_count = count or suite_count
    return min(sample_count, suite_count) if is_prompt_suite(plan.suite) else sample_count


def _generate_and_score(
    plan: Plan,
    folder: Path,
    count: int | None,
    summary: ReproduceSummary,
    prompt_scoring: PromptScoring | None,
    kept_generator: KeptGenerator,
    pending_plans: Sequence[Plan],
) -> None:
    """Generate and score `count` samples of a run, or classify as many real images; None: all.

    Args:
        pending_plans: plans of later runs, which decide whether the network is kept.
    """
    _generate_run(plan, folder, count, summary, kept_generator)
    if not any(kept_generator.serves(p.checkpoint, p.settings) for p in pending_plans):
        kept_generator.release()  # judges then have the device for themselves
    _score_or_classify(plan, folder, count, summary, prompt_scoring)


def _generate_run(
    plan: Plan,
    folder: Path,
    count: int | None,
    summary: ReproduceSummary,
    kept_generator: KeptGenerator,
) -> None:
    """Generate `count` samples of a run; None: all. A classifier generates nothing."""
    if is_classification_suite(plan.suite):
        return
    indices = range(_sample_count(plan, count))
    generation = generate(plan, indices, folder, open_network=kept_generator.open)
    summary.n_generated += generation.n_generated


def _score_or_classify(
    plan: Plan,
    folder: Path,
    count: int | None,
    summary: ReproduceSummary,
    prompt_scoring: PromptScoring | None,
) -> None:
    """Score `count` samples of a run, or classify as many real images; None: all."""
    if is_classification_suite(plan.suite):
        results = classify(plan, folder, RealImageSelection(count=count))
    else:
        results = _score_run(plan, folder, _sample_count(plan, count), prompt_scoring)
    summary.n_scored += sum(result.is_new for result in results)


def _score_run(
    plan: Plan, folder: Path, count: int, prompt_scoring: PromptScoring | None
) -> list[EvaluatedResult]:
    """Return the results of all evaluators of the suite for a run.

    Tasks of a prompt suite beyond `count` have the value None with a reason.
    """
    suite = load_suite(plan.suite)
    prompt_evaluators: list[str] = []
    if prompt_scoring is not None:
        prompt_evaluators = [name for name in suite.evaluators if scores_annotations(name)]
    feature_evaluators = [name for name in suite.evaluators if name not in prompt_evaluators]

    results: list[EvaluatedResult] = []
    if prompt_scoring is not None and prompt_evaluators:
        results += evaluate_prompts(folder, folder, prompt_scoring, prompt_evaluators, count)
    if feature_evaluators:
        scoring = FeatureScoring(plan.suite, device=plan.settings.device)
        results += evaluate(folder, folder, scoring, feature_evaluators, count)
    return results


def _write(path: Path, text: str) -> Path:
    """Write a file if its content changes, so that a second call leaves it untouched."""
    if read_if_present(path) != text.encode():
        write_text(path, text)
    return path
