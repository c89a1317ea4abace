"""Every row of a table: draw, score, tabulate, report. Calls the other conductors; resumes by
theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from harope_bench.core import registry
from harope_bench.core.errors import OptionError
from harope_bench.core.index_ranges import MAX_INDICES
from harope_bench.core.limits import check_maximum
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Plan
from harope_bench.core.storage import read_if_present, write_text
from harope_bench.data.result_store import EvaluatedResult, read_results
from harope_bench.leaderboards import board
from harope_bench.leaderboards.entries import (
    NO_ENTRIES,
    Entries,
    check_entries,
    unmatched_runs_note,
)
from harope_bench.leaderboards.match_runs import Scale
from harope_bench.leaderboards.table_spec import Table
from harope_bench.models.load_checkpoint import load_checkpoint_record
from harope_bench.pipeline.annotate import AnnotatorOptions
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
from harope_bench.pipeline.requirements import (
    RequiredScoring,
    Requirement,
    blocking_requirements,
    missing_requirements,
    plan_or_requirement,
    raise_missing,
    suite_requirements,
)
from harope_bench.pipeline.table_runs import (
    PlannedRun,
    TableRuns,
    added_runs,
    check_work,
    has_network_columns,
    plan_table_runs,
    suites_lacking,
)
from harope_bench.reports import tables
from harope_bench.reports.report_page import write_report
from harope_bench.suites.base import load_suite

ALL_TABLES = "all"  # in place of names: every registered table
FORMATS = ("md", "csv", "tex", "html", "json")


@dataclass
class ReproduceSummary:
    """What a call had to do. lacking: a line for each table some of whose rows no registered
    checkpoint fits.
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
    terms: AnnotatorOptions | None = None,
    scaling: str | None = None,
    entries: Entries = NO_ENTRIES,
) -> ReproduceSummary:
    """Makes every row of the tables, then the tables in all formats and one report, below `out`.

    Rows that tables share are drawn once. What stands already is kept. At paper scale the columns
    that are of the network itself are
    counted without weights; a table that has them needs no registered checkpoint, and its other
    cells then say that they were not run.
    Rows that no registered checkpoint fits are listed, the others run.

    Args:
        names: tables, or `all` alone. count: samples of each run, of prompts at most the suite's
            own number.
        judge: `role=NAME` in place of the suites' own judges of prompts. terms: how these are
            asked; on the device, here, if None.
        scaling: how rows that are larger than their training meet positions beyond its grid; the
            other rows stay as trained.
        entries: registered checkpoints that get rows of their own, or decide who stands in a row;
            or runs that are below `out`.

    Raises:
        BenchError: a table has no such scale, no row a registered checkpoint, a row several,
            something that a run needs is missing,
            or the scaling has nothing to act on; said before anything is drawn.
    """
    check_maximum("--count", count or 0, MAX_INDICES)
    is_all = list(names) == [ALL_TABLES]
    wanted = registry.list_names("tables") if is_all else names
    chosen = [board.load_table(name) for name in wanted]
    terms = terms or AnnotatorOptions(device)
    entries = replace(entries, runs_folder=out)
    works = [plan_table_runs(table, scale, entries) for table in chosen]
    lacking = check_work(chosen, works, scale, is_all)
    own_work = added_runs(chosen, scale, entries)
    work = list(dict.fromkeys([*(item for each in works for item in each.runs), *own_work]))
    _check_scaling(scaling, work, wanted)
    weighed = _weighed_runs(chosen, works, own_work, scale)
    plans = _make_plans(
        work, _RunOptions(device, seed, scaling, judge, terms), lacking, suites_lacking(works)
    )
    markings = _prompt_scorings(
        list(dict.fromkeys(plan.suite for plan in plans.values())), judge, terms
    )
    done = ReproduceSummary(n_rows=len(plans), missing_checkpoints=[item.text for item in lacking])
    if scale == "paper":
        _count_rows([table for table in chosen if has_network_columns(table)], out, done)
    several = Counter(item.checkpoint for item in work)
    for item, plan in plans.items():
        folder = item.folder(out, several[item.checkpoint] > 1 or item.resolution is not None)
        _generate_and_score(plan, folder, count, done, markings.get(plan.suite))
        if item in weighed:
            done.n_scored += _measure_cost(plan, folder)
    done.written_paths += _write_tables(chosen, scale, out, entries, works)
    return done


def _check_scaling(scaling: str | None, work: Sequence[PlannedRun], names: Sequence[str]) -> None:
    """Raise OptionError where no run of these tables is larger than its training."""
    if scaling is not None and not any(map(_exceeds_training_size, work)):
        raise OptionError(
            f"no row of {', '.join(names)} is larger than its training, so --pos-scaling has"
            " nothing to do; leave it out"
        )


def _weighed_runs(
    tables: Sequence[Table], works: Sequence[TableRuns], added: Sequence[PlannedRun], scale: Scale
) -> set[PlannedRun]:
    """Return the runs whose network is measured: at paper scale the added ones alone, the tables'
    rows are counted without weights.
    """
    runs = set(added) if any(map(has_network_columns, tables)) else set()
    if scale == "micro":
        runs |= {
            item
            for table, work in zip(tables, works, strict=True)
            if has_network_columns(table)
            for item in work.runs
        }
    return runs


def _write_tables(
    chosen: Sequence[Table], scale: Scale, out: Path, entries: Entries, works: Sequence[TableRuns]
) -> list[Path]:
    """The tables in all formats and the report, of everything below `out`."""
    results = read_results(out)
    written = []
    check_entries(chosen, results, entries, (scale,))
    strangers = unmatched_runs_note(chosen, results, entries)
    for table, work in zip(chosen, works, strict=True):
        notes = [text for text in (work.missing_rows_note(table), strangers) if text]
        built = board.build_board(table, results, "both", scale, entries, notes)
        written += [
            _write(
                out / f"table{table.number or table.id}.{kind}", tables.render_table(built, kind)
            )
            for kind in FORMATS
        ]
    write_report(out, out / "report.html", entries)
    return [*written, out / "report.html"]


class _RunOptions(NamedTuple):
    """How the runs of a call are drawn and judged."""

    device: str
    seed: int
    scaling: str | None
    judge: str | None
    annotator_options: AnnotatorOptions


def _make_plans(
    work: Sequence[PlannedRun],
    drawing: _RunOptions,
    lacking: Sequence[Requirement],
    suites: Sequence[str],
) -> dict[PlannedRun, Plan]:
    """Return the plan of each run.

    Args:
        lacking: rows without a checkpoint; suites: of these rows, whose prompts and judges they
            will need.

    Raises:
        MissingRequirementsError: something that a run needs is missing, or no row has a checkpoint;
            everything is named at once.
    """
    plans: dict[PlannedRun, Plan] = {}
    missing: list[Requirement] = []
    for item in work:
        plan = plan_or_requirement(
            lambda item=item: _plan(item, drawing.device, drawing.seed, drawing.scaling)
        )  # type: ignore[misc]
        if isinstance(plan, Requirement):
            missing.append(plan)
        else:
            plans[item] = plan
    missing += missing_requirements(
        list(plans.values()),
        RequiredScoring(judge=drawing.judge, python=drawing.annotator_options.python),
    )
    is_empty = bool(lacking) and not work
    if is_empty:
        missing += suite_requirements(
            suites, RequiredScoring(judge=drawing.judge, python=drawing.annotator_options.python)
        )
    if is_empty or blocking_requirements(missing):
        raise_missing([*lacking, *missing])
    return plans


def _measure_cost(plan: Plan, out: Path) -> bool:
    from harope_bench.analysis.cost.measure_cost import measure_cost

    return measure_cost(plan, out).is_new


def _count_rows(tables: Sequence[Table], out: Path, done: ReproduceSummary) -> None:
    """Counts every row's network on the meta device."""
    from harope_bench.analysis.cost.measure_cost import count_cost, plan_without_weights

    for table in tables:
        for row in table.rows:
            if not (row.backbone and row.encoding and row.resolution):
                continue
            plan = plan_without_weights(
                row.backbone,
                row.encoding,
                row.options,
                {**table.paper_scale.config, **row.config},
                row.resolution,
                "none",
            )
            done.n_rows += 1
            done.n_scored += count_cost(plan, out / plan.checkpoint.name).is_new


def _plan(item: PlannedRun, device: str, seed: int, scaling: str | None) -> Plan:
    """A classifier's run has no seed: it draws nothing."""
    if is_classification_suite(item.suite):
        return make_classifier_plan(item.checkpoint, item.suite, {"device": device})
    said: dict[str, Option | None] = {"device": device, "seed": seed, "resolution": item.resolution}
    return make_plan(
        item.checkpoint,
        item.suite,
        {**said, "pos_scaling": scaling if _exceeds_training_size(item) else None},
    )


def _exceeds_training_size(item: PlannedRun) -> bool:
    """Whether a run is drawn at a larger side than its network was trained at, as far as the
    checkpoint tells.
    """
    return item.resolution is not None and item.resolution > int(
        load_checkpoint_record(item.checkpoint).config.get("size", 0)
    )


def _prompt_scorings(
    suites: Sequence[str], judge: str | None, terms: AnnotatorOptions
) -> dict[str, PromptScoring]:
    """How the images of each suite of prompts are marked, once its prompts and judges are known to
    be here.
    """
    asked = [suite for suite in suites if is_prompt_suite(suite)]
    judges = judges_by_suite(judge, asked) if judge else {}
    found = {
        suite: PromptScoring(suite, judge=judges.get(suite), annotator_options=terms)
        for suite in asked
    }
    for marking in found.values():
        check_prompt_scoring(marking, None)
    return found


def _generate_and_score(
    plan: Plan,
    folder: Path,
    count: int | None,
    done: ReproduceSummary,
    marking: PromptScoring | None,
) -> None:
    """One row drawn and scored, or its pictures named and scored."""
    if is_classification_suite(plan.suite):
        done.n_scored += sum(
            s.is_new for s in classify(plan, folder, RealImageSelection(count=count))
        )
        return
    own = load_suite(plan.suite).count
    indices = range(min(count or own, own) if is_prompt_suite(plan.suite) else count or own)
    done.n_generated += generate(plan, indices, folder).n_generated
    done.n_scored += sum(s.is_new for s in _score_run(plan, folder, len(indices), marking))


def _score_run(
    plan: Plan, folder: Path, count: int, marking: PromptScoring | None
) -> list[EvaluatedResult]:
    """Everything that the suite measures of a run; of prompts, those tasks that the count leaves
    out are None with a reason.
    """
    suite = load_suite(plan.suite)
    device = plan.settings.device
    rules = [name for name in suite.evaluators if marking is not None and scores_annotations(name)]
    others = [name for name in suite.evaluators if name not in rules]
    found = (
        evaluate_prompts(folder, folder, marking, rules, count)
        if marking is not None and rules
        else []
    )
    return found + (
        evaluate(folder, folder, FeatureScoring(plan.suite, device=device), others, count)
        if others
        else []
    )


def _write(path: Path, text: str) -> Path:
    """Writes only what changed, so that a second call leaves the files alone."""
    if read_if_present(path) != text.encode():
        write_text(path, text)
    return path
