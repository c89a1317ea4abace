"""Every row of a table: draw, score, tabulate, report. Calls the other conductors; resumes by theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from harope_bench.core import registry
from harope_bench.core.errors import BenchError, OptionError, UnknownName
from harope_bench.core.index_ranges import MOST
from harope_bench.core.limits import check_most
from harope_bench.core.record_base import Option, shorten
from harope_bench.core.schema import Checkpoint, Plan
from harope_bench.core.storage import read_if_present, write_text
from harope_bench.data.result_store import Scored, read_results
from harope_bench.leaderboards import board
from harope_bench.leaderboards.entries import NO_ENTRIES, Entries, check_entries, runs_named, suites_of, unplaced_note
from harope_bench.leaderboards.match_runs import Scale, is_of_cell
from harope_bench.leaderboards.table_spec import Row, Table
from harope_bench.models.load_checkpoint import checkpoint
from harope_bench.pipeline.annotate import Terms
from harope_bench.pipeline.classify import Wanted, classify, reading_plan, reads
from harope_bench.pipeline.evaluate import Asked, evaluate
from harope_bench.pipeline.evaluate_prompts import Marking, mark, of_prompts, ready, shared
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
from harope_bench.reports import tables
from harope_bench.reports.html import write_report

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
    lacking = _check_work(chosen, works, scale, is_all)
    own_work = added_work(chosen, scale, entries)
    work = list(dict.fromkeys([*(item for each in works for item in each.runs), *own_work]))
    counts = scale == "paper"
    weighed = set(own_work) if any(map(of_network, chosen)) else set()
    weighed |= {item for table, each in zip(chosen, works, strict=True) if not counts and of_network(table) for item in each.runs}
    if scaling is not None and not any(map(_grows, work)):
        raise OptionError(f"no row of {', '.join(wanted)} is larger than its training, so --pos-scaling has nothing to do; leave it out")
    plans = _ready_plans(work, _Drawing(device, seed, scaling, judge, terms), lacking, _suites_lacking(works))
    markings = _markings(list(dict.fromkeys(plan.suite for plan in plans.values())), judge, terms)
    done = Done(rows=len(plans), lacking=[item.text for item in lacking])
    if counts:
        _count_rows([table for table in chosen if of_network(table)], out, done)
    several = Counter(item.checkpoint for item in work)
    for item, plan in plans.items():
        folder = item.folder(out, several[item.checkpoint] > 1 or item.resolution is not None)
        _make(plan, folder, count, done, markings.get(plan.suite))
        if item in weighed:
            done.scored += _weigh(plan, folder)
    done.written += _rendered(chosen, scale, out, entries, works)
    return done


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


def _suites_lacking(works: Sequence[TableWork]) -> list[str]:
    return list(dict.fromkeys(suite for work in works if work.lacking for suite in work.suites))


def _check_work(chosen: Sequence[Table], works: Sequence[TableWork], scale: Scale, is_all: bool) -> list[Requirement]:
    """Return the checkpoints that rows lack, a requirement for each table.

    Raises:
        BenchError: a table that is named has no runs at this scale (of all tables, those are passed over), or a row has several
            checkpoints and nobody decided.
    """
    for table, work in zip(chosen, works, strict=True):
        if work.has_no_runs and not is_all:
            raise BenchError(_without_runs(table, scale))
    if contested := [line for work in works for line in work.contested]:
        raise OptionError("; ".join(dict.fromkeys(contested)))
    return [requirement for table, work in zip(chosen, works, strict=True) if (requirement := work.requirement(table))]


def of_network(table: Table) -> bool:
    """Whether a table has columns that are of the network itself."""
    return any(column.of == "network" for column in table.columns)


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
    own = registry.load("suites", plan.suite).count
    indices = range(min(count or own, own) if of_prompts(plan.suite) else count or own)
    done.drawn += generate(plan, indices, folder).drawn
    done.scored += sum(s.fresh for s in _scored(plan, folder, len(indices), marking))


def _scored(plan: Plan, folder: Path, count: int, marking: Marking | None) -> list[Scored]:
    """Everything that the suite measures of a run; of prompts, those tasks that the count leaves out are None with a reason."""
    suite, device = registry.load("suites", plan.suite), plan.settings.device
    rules = [name for name in suite.evaluators if marking is not None and hasattr(registry.load("evaluators", name), "looks")]
    others = [name for name in suite.evaluators if name not in rules]
    found = mark(folder, folder, marking, rules, count) if marking is not None and rules else []
    return found + (evaluate(folder, folder, Asked(plan.suite, device=device), others, count) if others else [])


class Work(NamedTuple):
    """One run that a table needs. resolution: the table's own, where its rows have one."""

    checkpoint: str
    suite: str
    resolution: int | None = None

    def folder(self, out: Path, several: bool) -> Path:
        """Where the run goes: the checkpoint's folder, with suite and side below it where a checkpoint has several."""
        return out / self.checkpoint / f"{self.suite}-r{self.resolution}" if several else out / self.checkpoint


class TableWork(NamedTuple):
    """What a table's cells need at a scale.

    runs: each once. lacking: rows that no registered checkpoint fits. suites: of all its cells. contested: an error for each row that
    several fit. has_no_runs: the table says of no cell how it is run at this scale.
    """

    runs: tuple[Work, ...] = ()
    lacking: tuple[Row, ...] = ()
    suites: tuple[str, ...] = ()
    contested: tuple[str, ...] = ()
    has_no_runs: bool = False

    def requirement(self, table: Table) -> Requirement | None:
        """Return the checkpoints that the table lacks; None where it lacks none."""
        if not self.lacking:
            return None
        kinds = list(dict.fromkeys(name for row in self.lacking for name in encodings_of(table, row)))
        what = "none is registered" if not self.runs else f"none is registered for {_rows_text(self.lacking)}"
        detail = f"table {table.number or table.id} at paper scale needs checkpoints of {', '.join(kinds)}, {what}"
        return Requirement("checkpoint", table.id, detail, f"harope-bench register NAME --weights FILE --encoding {kinds[0]}")

    def lacking_note(self, table: Table) -> str | None:
        """Return the note under the table on its rows without a checkpoint."""
        requirement = self.requirement(table)
        return f"Not run, no registered checkpoint fits: {_rows_text(self.lacking)}; {requirement.command}." if requirement else None


def _rows_text(rows: Sequence[Row]) -> str:
    return ", ".join(f"{row.id} ({row.printed})" for row in rows)


def encodings_of(table: Table, row: Row) -> list[str]:
    """Return the encodings that a row's cells are of at paper scale."""
    names = [row.encoding or column.encoding or table.paper.encoding for column in table.columns if column.of == "images"]
    return [name for name in dict.fromkeys(names) if name]


def work_of(table: Table, scale: Scale) -> list[Work]:
    """Every run that a table's cells need at a scale, each once; BenchError where it has none."""
    work = table_work(table, scale)
    if work.has_no_runs:
        raise BenchError(_without_runs(table, scale))
    if requirement := work.requirement(table):
        raise_missing([requirement])
    return list(work.runs)


def _without_runs(table: Table, scale: Scale) -> str:
    return f"table {table.number or table.id} has no {scale} runs in this version; `harope-bench table {table.number}` prints it"


def table_work(table: Table, scale: Scale, entries: Entries = NO_ENTRIES) -> TableWork:
    """Return what a table's own rows need at a scale; of a table with columns of the network itself nothing at paper scale."""
    if scale == "micro":
        runs = _micro_work(table, entries)
        return TableWork(tuple(runs), has_no_runs=not runs)
    if of_network(table):
        return TableWork()
    return _paper_work(table, entries)


def _paper_work(table: Table, entries: Entries) -> TableWork:
    """Return the runs of the registered checkpoints that fit the cells of a table, and what is open."""
    cells = [(row, column, table.suite_of(row, column)) for row in table.rows for column in table.columns]
    if any(suite is None for _, _, suite in cells):
        return TableWork(has_no_runs=True)
    suites = tuple(sorted({str(suite) for *_, suite in cells}))
    for name in suites:
        registry.find("suites", name)
    known = [checkpoint(name) for name in registry.names("checkpoints")]
    added = {addition.name for addition in entries.additions}
    decided = {entry.row: entry.name for entry in entries.substitutions}
    runs, served, contested = [], set(), []
    for row, column, suite in cells:
        if row.id in decided:
            served.add(row.id)
            runs += [Work(decided[row.id], str(suite), row.res)] if decided[row.id] in registry.entries("checkpoints") else []
            continue
        fitting = [c.name for c in known if c.scale == "paper" and is_of_cell(table, row, column, c)]
        open_names = [name for name in fitting if name not in added] if len(fitting) > 1 else fitting
        if fitting:
            served.add(row.id)
        if len(open_names) > 1:
            contested.append(
                f"{len(open_names)} registered checkpoints fit {row.printed} of {table.name}: {', '.join(open_names)}; "
                f"--row {row.id}=NAME decides, --add NAME gives one a row of its own"
            )
        runs += [Work(name, str(suite), row.res) for name in open_names[:1]]
    lacking = tuple(row for row in table.rows if row.id not in served)
    return TableWork(tuple(dict.fromkeys(runs)), lacking, suites, tuple(dict.fromkeys(contested)))


def _micro_work(table: Table, entries: Entries = NO_ENTRIES) -> list[Work]:
    """The runs of the small world; empty where there are none."""
    if table.micro is None:
        return []
    decided = {entry.row: entry.name for entry in entries.substitutions}
    known = registry.entries("checkpoints")
    cells = dict.fromkeys((table.micro_of(row, column), row.micro_res, row.id) for row in table.rows for column in table.columns)
    runs = []
    for name, side, row_id in cells:
        if name is None or (row_id in decided and decided[row_id] not in known):
            continue
        suite = str(table.micro.suite or checkpoint(name).suite)
        runs.append(Work(decided.get(row_id, name), suite, side))
    return list(dict.fromkeys(runs))


def added_work(tables: Sequence[Table], scale: Scale, entries: Entries) -> list[Work]:
    """Return the runs of the registered checkpoints that get rows of their own: the suites and sides of the tables' rows.

    Raises:
        UnknownName: a name of no checkpoint and of no run. OptionError: a checkpoint that no table takes.
    """
    runs: list[Work] = []
    for name in dict.fromkeys(entries.names):
        if name not in registry.entries("checkpoints"):
            _check_run_there(name, entries)
    for name in dict.fromkeys(addition.name for addition in entries.additions):
        if name not in registry.entries("checkpoints"):
            continue
        found = checkpoint(name)
        own_runs = [work for table in tables for work in _work_beside(table, scale, found)]
        if not own_runs:
            raise OptionError(_no_table_takes(found, tables, scale))
        runs += own_runs
    return list(dict.fromkeys(runs))


def _check_run_there(name: str, entries: Entries) -> None:
    """UnknownName unless runs of that name are below the output folder already."""
    out = entries.root
    results = read_results(out) if out is not None and out.is_dir() else []
    if results:
        runs_named(name, results, out)
    else:
        raise UnknownName("checkpoint or run", shorten(name, 60), registry.names("checkpoints"))


def _work_beside(table: Table, scale: Scale, found: Checkpoint) -> list[Work]:
    """Return the runs by which a checkpoint gets a row beside a table's own; empty where the table is of another task or network."""
    if found.scale != scale:
        return []
    if scale == "micro":
        peers = [(str(work.suite), work.resolution) for work in _micro_work(table)]
        return [Work(found.name, suite, side) for suite, side in dict.fromkeys(peers) if found.suite in (None, suite)]
    facts = [
        (str(suite), row.res)
        for row in table.rows
        for column in table.columns
        if column.of == "images" and (suite := table.suite_of(row, column)) and _is_backbone(table, row, found)
    ]
    return [Work(found.name, suite, side) for suite, side in dict.fromkeys(facts)]


def _is_backbone(table: Table, row: Row, found: Checkpoint) -> bool:
    return (row.backbone or table.paper.backbone) in (None, found.backbone)


def _no_table_takes(found: Checkpoint, tables: Sequence[Table], scale: Scale) -> str:
    suites = sorted({suite for table in tables for suite in suites_of(table)})
    return (
        f"checkpoint {found.name} ({found.scale}, {found.backbone}, suite {found.suite or 'none'}) has no row beside those of "
        f"{', '.join(table.name for table in tables)} at {scale} scale (suites {', '.join(suites)}); name another table"
    )


def _write(path: Path, text: str) -> Path:
    """Writes only what changed, so that a second call leaves the files alone."""
    if read_if_present(path) != text.encode():
        write_text(path, text)
    return path
