"""Reproduction of tables: generate and score every row, write the tables and a report.

The stages resume by themselves after an interruption.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from harope_bench.core.errors import OptionError
from harope_bench.core.index_ranges import MAX_INDICES
from harope_bench.core.limits import check_maximum
from harope_bench.core.schema import Plan
from harope_bench.core.storage import read_if_present, write_text
from harope_bench.data.result_store import read_results
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
)
from harope_bench.pipeline.annotator_choice import AnnotatorOptions
from harope_bench.pipeline.evaluate_prompts import (
    PromptScoring,
    check_prompt_scoring,
    is_prompt_suite,
    judges_by_suite,
)
from harope_bench.pipeline.kept_extractor import keep_extractor
from harope_bench.pipeline.requirements import (
    RequiredScoring,
    missing_requirements,
    suite_requirements,
)
from harope_bench.pipeline.row_plans import (
    ALL_TABLES,
    NO_OVERRIDES,
    RunOptions,
    check_preset,
    exceeds_training_size,
    plan_row,
    select_table_names,
)
from harope_bench.pipeline.score_rows import (
    RowCounts,
    RuleThread,
    generate_and_score,
    overlaps_rules,
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
from harope_bench.pipeline.unmet_requirements import (
    UnmetRequirement,
    blocking_requirements,
    plan_or_requirement,
    raise_missing,
)
from harope_bench.reports.report_page import write_report
from harope_bench.reports.tables import render_table

FORMATS = ("md", "csv", "tex", "html", "json")


@dataclass
class ReproduceSummary(RowCounts):
    """Counts of one call of `reproduce`.

    missing_checkpoints: a line for each table with rows that no registered checkpoint fits.
    """

    n_rows: int = 0
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
    options = RunOptions(device, seed, scaling, judge, annotator_options, overrides)
    check_preset(overrides, runs)
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
    with RuleThread(overlaps_rules(device)) as rule_thread, keep_extractor() as kept_extractor:
        for run, plan in plans.items():
            pending_plans.remove(plan)
            needs_subfolder = run_counts[run.checkpoint] > 1 or run.resolution is not None
            folder = run.folder(out, needs_subfolder)
            with ExitStack() as claim:
                claim.enter_context(claim_run(folder))
                prompt_scoring = prompt_scorings.get(plan.suite)
                generate_and_score(
                    plan,
                    folder,
                    count,
                    summary,
                    prompt_scoring,
                    rule_thread,
                    kept_generator,
                    pending_plans,
                )
                if run in measured_runs:
                    rule_thread.finish()  # rules beside the network would slow it down
                    summary.n_scored += _measure_cost(plan, folder)
                rule_thread.close_when_finished(claim.pop_all())
            if plan.suite not in {pending_plan.suite for pending_plan in pending_plans}:
                kept_extractor.release()
    summary.n_scored += rule_thread.n_new
    summary.written_paths += _write_tables(table_names, tables, scale, out, entries, runs_by_table)
    return summary


def _order_by_checkpoint(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return each run once; those of one checkpoint follow each other, so it is loaded once."""
    first_positions: dict[str, int] = {}
    for position, run in enumerate(runs):
        first_positions.setdefault(run.checkpoint, position)
    return sorted(dict.fromkeys(runs), key=lambda run: first_positions[run.checkpoint])


def _check_scaling(scaling: str | None, runs: Sequence[PlannedRun], names: Sequence[str]) -> None:
    """Raise OptionError where no run of these tables is larger than its training resolution."""
    if scaling is not None and not any(map(exceeds_training_size, runs)):
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


def _make_plans(
    runs: Sequence[PlannedRun],
    options: RunOptions,
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
        plan = plan_or_requirement(partial(plan_row, run, options))
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


def _write(path: Path, text: str) -> Path:
    """Write a file if its content changes, so that a second call leaves it untouched."""
    if read_if_present(path) != text.encode():
        write_text(path, text)
    return path
