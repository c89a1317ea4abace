"""Every row of a table: draw, score, tabulate, report. Calls the other conductors; resumes by theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from harope_bench.core import registry
from harope_bench.core.errors import OptionError
from harope_bench.core.index_ranges import MOST
from harope_bench.core.limits import check_most
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Plan
from harope_bench.core.storage import read_if_present, write_text
from harope_bench.data.result_store import Scored, read_results
from harope_bench.leaderboards import board
from harope_bench.leaderboards.entries import NO_ENTRIES, Entries, check_entries, unplaced_note
from harope_bench.leaderboards.match_runs import Scale
from harope_bench.leaderboards.table_spec import Table
from harope_bench.models.load_checkpoint import checkpoint
from harope_bench.pipeline.annotate import Terms
from harope_bench.pipeline.classify import Wanted, classify, reading_plan, reads
from harope_bench.pipeline.evaluate import Asked, evaluate
from harope_bench.pipeline.evaluate_prompts import Marking, mark, of_prompts, ready, scores_annotations, shared
from harope_bench.pipeline.generate import generate, make_plan
from harope_bench.pipeline.requirements import (
    Requirement,
    Scoring,
    blocking,
    missing_of_suites,
    missing_requirements,
    plan_or_requirement,
    raise_missing,
)
from harope_bench.pipeline.table_runs import TableWork, Work, added_work, check_work, of_network, suites_lacking, table_work
from harope_bench.reports import tables
from harope_bench.reports.html import write_report
from harope_bench.suites.base import load_suite

ALL = "all"  # in place of names: every registered table
FORMATS = ("md", "csv", "tex", "html", "json")


@dataclass
class Done:
    """What a call had to do. lacking: a line for each table some of whose rows no registered checkpoint fits."""

    rows: int = 0
    drawn: int = 0
    scored: int = 0
    written: list[Path] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)


def reproduce(
    names: Sequence[str],
    scale: Scale,
    count: int | None,
    out: Path,
    device: str,
    seed: int,
    judge: str | None = None,
    terms: Terms | None = None,
    scaling: str | None = None,
    entries: Entries = NO_ENTRIES,
) -> Done:
    """Makes every row of the tables, then the tables in all formats and one report, below `out`.

    Rows that tables share are drawn once. What stands already is kept. At paper scale the columns that are of the network itself are
    counted without weights; a table that has them needs no registered checkpoint, and its other cells then say that they were not run.
    Rows that no registered checkpoint fits are listed, the others run.

    Args:
        names: tables, or `all` alone. count: samples of each run, of prompts at most the suite's own number.
        judge: `role=NAME` in place of the suites' own judges of prompts. terms: how these are asked; on the device, here, if None.
        scaling: how rows that are larger than their training meet positions beyond its grid; the other rows stay as trained.
        entries: registered checkpoints that get rows of their own, or decide who stands in a row; or runs that are below `out`.

    Raises:
        BenchError: a table has no such scale, no row a registered checkpoint, a row several, something that a run needs is missing,
            or the scaling has nothing to act on; said before anything is drawn.
    """
    check_most("--count", count or 0, MOST)
    is_all = list(names) == [ALL]
    wanted = registry.names("tables") if is_all else names
    chosen = [board.load_table(name) for name in wanted]
    terms, entries = terms or Terms(device), replace(entries, root=out)
    works = [table_work(table, scale, entries) for table in chosen]
    lacking = check_work(chosen, works, scale, is_all)
    own_work = added_work(chosen, scale, entries)
    work = list(dict.fromkeys([*(item for each in works for item in each.runs), *own_work]))
    _check_scaling(scaling, work, wanted)
    weighed = _weighed_runs(chosen, works, own_work, scale)
    plans = _ready_plans(work, _Drawing(device, seed, scaling, judge, terms), lacking, suites_lacking(works))
    markings = _markings(list(dict.fromkeys(plan.suite for plan in plans.values())), judge, terms)
    done = Done(rows=len(plans), lacking=[item.text for item in lacking])
    if scale == "paper":
        _count_rows([table for table in chosen if of_network(table)], out, done)
    several = Counter(item.checkpoint for item in work)
    for item, plan in plans.items():
        folder = item.folder(out, several[item.checkpoint] > 1 or item.resolution is not None)
        _make(plan, folder, count, done, markings.get(plan.suite))
        if item in weighed:
            done.scored += _weigh(plan, folder)
    done.written += _rendered(chosen, scale, out, entries, works)
    return done


def _check_scaling(scaling: str | None, work: Sequence[Work], names: Sequence[str]) -> None:
    """Raise OptionError where no run of these tables is larger than its training."""
    if scaling is not None and not any(map(_grows, work)):
        raise OptionError(f"no row of {', '.join(names)} is larger than its training, so --pos-scaling has nothing to do; leave it out")


def _weighed_runs(tables: Sequence[Table], works: Sequence[TableWork], added: Sequence[Work], scale: Scale) -> set[Work]:
    """Return the runs whose network is measured: at paper scale the added ones alone, the tables' rows are counted without weights."""
    runs = set(added) if any(map(of_network, tables)) else set()
    if scale == "micro":
        runs |= {item for table, work in zip(tables, works, strict=True) if of_network(table) for item in work.runs}
    return runs


def _rendered(chosen: Sequence[Table], scale: Scale, out: Path, entries: Entries, works: Sequence[TableWork]) -> list[Path]:
    """The tables in all formats and the report, of everything below `out`."""
    results, written = read_results(out), []
    check_entries(chosen, results, entries, (scale,))
    strangers = unplaced_note(chosen, results, entries)
    for table, work in zip(chosen, works, strict=True):
        notes = [text for text in (work.lacking_note(table), strangers) if text]
        built = board.build(table, results, "both", scale, entries, notes)
        written += [_write(out / f"table{table.number or table.id}.{kind}", tables.render(built, kind)) for kind in FORMATS]
    write_report(out, out / "report.html", entries)
    return [*written, out / "report.html"]


class _Drawing(NamedTuple):
    """How the runs of a call are drawn and judged."""

    device: str
    seed: int
    scaling: str | None
    judge: str | None
    terms: Terms


def _ready_plans(work: Sequence[Work], drawing: _Drawing, lacking: Sequence[Requirement], suites: Sequence[str]) -> dict[Work, Plan]:
    """Return the plan of each run.

    Args:
        lacking: rows without a checkpoint; suites: of these rows, whose prompts and judges they will need.

    Raises:
        MissingRequirementsError: something that a run needs is missing, or no row has a checkpoint; everything is named at once.
    """
    plans: dict[Work, Plan] = {}
    missing: list[Requirement] = []
    for item in work:
        plan = plan_or_requirement(lambda item=item: _plan(item, drawing.device, drawing.seed, drawing.scaling))  # type: ignore[misc]
        if isinstance(plan, Requirement):
            missing.append(plan)
        else:
            plans[item] = plan
    missing += missing_requirements(list(plans.values()), Scoring(judge=drawing.judge, python=drawing.terms.python))
    is_empty = bool(lacking) and not work
    if is_empty:
        missing += missing_of_suites(suites, Scoring(judge=drawing.judge, python=drawing.terms.python))
    if is_empty or blocking(missing):
        raise_missing([*lacking, *missing])
    return plans


def _weigh(plan: Plan, out: Path) -> bool:
    from harope_bench.analysis.cost.profile import weigh

    return weigh(plan, out).fresh


def _count_rows(tables: Sequence[Table], out: Path, done: Done) -> None:
    """Counts every row's network on the meta device."""
    from harope_bench.analysis.cost.profile import count, weightless

    for table in tables:
        for row in table.rows:
            if not (row.backbone and row.encoding and row.res):
                continue
            plan = weightless(row.backbone, row.encoding, row.options, {**table.paper.config, **row.config}, row.res, "none")
            done.rows += 1
            done.scored += count(plan, out / plan.checkpoint.name).fresh


def _plan(item: Work, device: str, seed: int, scaling: str | None) -> Plan:
    """A classifier's run has no seed: it draws nothing."""
    if reads(item.suite):
        return reading_plan(item.checkpoint, item.suite, {"device": device})
    said: dict[str, Option | None] = {"device": device, "seed": seed, "resolution": item.resolution}
    return make_plan(item.checkpoint, item.suite, {**said, "pos_scaling": scaling if _grows(item) else None})


def _grows(item: Work) -> bool:
    """Whether a run is drawn at a larger side than its network was trained at, as far as the checkpoint tells."""
    return item.resolution is not None and item.resolution > int(checkpoint(item.checkpoint).config.get("size", 0))


def _markings(suites: Sequence[str], judge: str | None, terms: Terms) -> dict[str, Marking]:
    """How the images of each suite of prompts are marked, once its prompts and judges are known to be here."""
    asked = [suite for suite in suites if of_prompts(suite)]
    judges = shared(judge, asked) if judge else {}
    found = {suite: Marking(suite, judge=judges.get(suite), terms=terms) for suite in asked}
    for marking in found.values():
        ready(marking, None)
    return found


def _make(plan: Plan, folder: Path, count: int | None, done: Done, marking: Marking | None) -> None:
    """One row drawn and scored, or its pictures named and scored."""
    if reads(plan.suite):
        done.scored += sum(s.fresh for s in classify(plan, folder, Wanted(count=count)))
        return
    own = load_suite(plan.suite).count
    indices = range(min(count or own, own) if of_prompts(plan.suite) else count or own)
    done.drawn += generate(plan, indices, folder).drawn
    done.scored += sum(s.fresh for s in _scored(plan, folder, len(indices), marking))


def _scored(plan: Plan, folder: Path, count: int, marking: Marking | None) -> list[Scored]:
    """Everything that the suite measures of a run; of prompts, those tasks that the count leaves out are None with a reason."""
    suite, device = load_suite(plan.suite), plan.settings.device
    rules = [name for name in suite.evaluators if marking is not None and scores_annotations(name)]
    others = [name for name in suite.evaluators if name not in rules]
    found = mark(folder, folder, marking, rules, count) if marking is not None and rules else []
    return found + (evaluate(folder, folder, Asked(plan.suite, device=device), others, count) if others else [])


def _write(path: Path, text: str) -> Path:
    """Writes only what changed, so that a second call leaves the files alone."""
    if read_if_present(path) != text.encode():
        write_text(path, text)
    return path
