"""Every row of a table: draw, score, tabulate, report. Calls the other conductors; resumes by theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from harope_bench import registry
from harope_bench.catalogue import checkpoint
from harope_bench.classify import Wanted, classify, reading_plan, reads
from harope_bench.errors import BenchError, OptionError
from harope_bench.evaluate import Asked, Scored, evaluate
from harope_bench.generate import generate, make_plan
from harope_bench.leaderboards import board
from harope_bench.leaderboards.layout import Row, Table
from harope_bench.marking import Marking, mark, of_prompts, ready, shared
from harope_bench.perceive import Terms
from harope_bench.records import Checkpoint, Plan
from harope_bench.reports import tables
from harope_bench.reports.html import write_report
from harope_bench.store import write_text

ALL = "all"  # in place of names: every registered table
FORMATS = ("md", "csv", "tex", "html", "json")


@dataclass
class Done:
    """What a call had to do."""

    rows: int = 0
    drawn: int = 0
    scored: int = 0
    written: list[Path] = field(default_factory=list)


def reproduce(
    names: Sequence[str],
    scale: Literal["micro", "paper"],
    count: int | None,
    out: Path,
    device: str,
    seed: int,
    judge: str | None = None,
    terms: Terms | None = None,
    scaling: str | None = None,
) -> Done:
    """Makes every row of the tables, then the tables in all formats and one report, below `out`.

    Rows that tables share are drawn once. What stands already is kept. At paper scale the columns that are of the network itself are
    counted without weights; a table that has them needs no registered checkpoint, and its other cells then say that they were not run.

    Args:
        names: tables, or `all` alone. count: samples of each run, of prompts at most the suite's own number.
        judge: `role=NAME` in place of the suites' own judges of prompts. terms: how these are asked; on the device, here, if None.
        scaling: how rows that are larger than their training meet positions beyond its grid; the other rows stay as trained.

    Raises:
        BenchError: a table has no such scale, a row no registered checkpoint, a suite of prompts no prompts or judges, or the scaling
            nothing to act on; said before anything is drawn.
    """
    wanted = registry.names("tables") if list(names) == [ALL] else names
    chosen = [board.load_table(name) for name in wanted]
    counts = scale == "paper"
    work = dict.fromkeys(item for table in chosen if not (counts and of_network(table)) for item in work_of(table, scale))
    weighed = {item for table in chosen if not counts and of_network(table) for item in work_of(table, scale)}
    if scaling is not None and not any(map(_grows, work)):
        raise OptionError(f"no row of {', '.join(wanted)} is larger than its training, so --pos-scaling has nothing to do; leave it out")
    plans = {item: _plan(item, device, seed, scaling) for item in work}
    markings = _markings(list(dict.fromkeys(plan.suite for plan in plans.values())), judge, terms or Terms(device))
    done = Done(rows=len(plans))
    if counts:
        _count_rows([table for table in chosen if of_network(table)], out, done)
    several = Counter(item.checkpoint for item in work)
    for item, plan in plans.items():
        folder = item.folder(out, several[item.checkpoint] > 1 or item.resolution is not None)
        _make(plan, folder, count, done, markings.get(plan.suite))
        if item in weighed:
            done.scored += _weigh(plan, folder)
    done.written += _rendered(chosen, scale, out)
    return done


def _rendered(chosen: Sequence[Table], scale: Literal["micro", "paper"], out: Path) -> list[Path]:
    """The tables in all formats and the report, of everything below `out`."""
    results, written = board.collect(out), []
    for table in chosen:
        built = board.build(table, results, "both", scale)
        written += [_write(out / f"table{table.number or table.id}.{kind}", tables.render(built, kind)) for kind in FORMATS]
    write_report(out, out / "report.html")
    return [*written, out / "report.html"]


def of_network(table: Table) -> bool:
    """Whether a table has columns that are of the network itself."""
    return any(column.of == "network" for column in table.columns)


def _weigh(plan: Plan, out: Path) -> bool:
    from harope_bench.costing.weigh import weigh

    return weigh(plan, out).fresh


def _count_rows(tables: Sequence[Table], out: Path, done: Done) -> None:
    """Counts every row's network on the meta device."""
    from harope_bench.costing.weigh import count, weightless

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
    said = {"device": device, "seed": seed, "resolution": item.resolution}
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


def work_of(table: Table, scale: Literal["micro", "paper"]) -> list[Work]:
    """Every run that a table's cells need at a scale, each once."""
    if scale == "micro" and (found := _micro_work(table)):
        return found
    if scale == "micro" or None in {table.suite_of(row, column) for row in table.rows for column in table.columns}:
        raise BenchError(
            f"table {table.number or table.id} has no {scale} runs in this version; `harope-bench table {table.number}` prints it"
        )
    suites = sorted({str(table.suite_of(row, column)) for row in table.rows for column in table.columns})
    for suite in suites:
        registry.find("suites", suite)
    known = [checkpoint(name) for name in registry.names("checkpoints")]
    serving = {row.id: [c.name for c in known if _serves(c, table, row)] for row in table.rows}
    if lacking := [row for row in table.rows if not serving[row.id]]:
        raise BenchError(_lacking(table, lacking))
    cells = [(row, str(table.suite_of(row, column))) for row in table.rows for column in table.columns]
    return list(dict.fromkeys(Work(serving[row.id][0], suite, row.res) for row, suite in cells))


def _micro_work(table: Table) -> list[Work]:
    """The runs of the small world; empty where there are none."""
    if table.micro is None:
        return []
    named = [(table.micro_of(row, column), row.micro_res) for row in table.rows for column in table.columns]
    return [Work(name, str(table.micro.suite or checkpoint(name).suite), side) for name, side in dict.fromkeys(named) if name is not None]


def _serves(found: Checkpoint, table: Table, row: Row) -> bool:
    """Whether a checkpoint is of the size and encoding that a row prints, as the board asks of its runs."""
    scope = table.paper
    sizes = {**scope.config, **row.config}
    return (
        (found.scale, found.encoding) == ("paper", row.encoding)
        and scope.backbone in (None, found.backbone)
        and all(found.config.get(key) == value for key, value in sizes.items())
    )


def _lacking(table: Table, rows: Sequence[Row]) -> str:
    encodings = ", ".join(dict.fromkeys(str(row.encoding) for row in rows))
    return (
        f"table {table.number} at paper scale needs checkpoints of {encodings}, none is registered; "
        f"harope-bench register NAME --weights FILE --encoding {rows[0].encoding}"
    )


def _write(path: Path, text: str) -> Path:
    """Writes only what changed, so that a second call leaves the files alone."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    return path
