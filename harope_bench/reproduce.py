"""Every row of a table: draw, score, tabulate, report. Calls the other conductors; resumes by theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harope_bench import registry
from harope_bench.catalogue import checkpoint
from harope_bench.classify import Wanted, classify, reading_plan, reads
from harope_bench.errors import BenchError
from harope_bench.evaluate import Asked, evaluate
from harope_bench.generate import generate, make_plan
from harope_bench.leaderboards import board
from harope_bench.leaderboards.layout import Row, Table
from harope_bench.records import Checkpoint, Plan
from harope_bench.reports import tables
from harope_bench.reports.html import write_report
from harope_bench.store import write_text

FORMATS = ("md", "csv", "tex", "html", "json")


@dataclass
class Done:
    """What a call had to do."""

    rows: int = 0
    drawn: int = 0
    scored: int = 0
    written: list[Path] = field(default_factory=list)


def reproduce(names: Sequence[str], scale: Literal["micro", "paper"], count: int | None, out: Path, device: str, seed: int) -> Done:
    """Makes every row of the tables, then the tables in all formats and one report, below `out`.

    Rows that tables share are drawn once. What stands already is kept. At paper scale the columns that are of the network itself are
    counted without weights; a table that has them needs no registered checkpoint, and its other cells then say that they were not run.

    Raises:
        BenchError: a table has no such scale, or a row no registered checkpoint; said before anything is drawn.
    """
    chosen = [board.load_table(name) for name in names]
    counts = scale == "paper"
    work = {name: suite for table in chosen if not (counts and of_network(table)) for name, suite in rows_of(table, scale)}
    weighed = {name for table in chosen if not counts and of_network(table) for name, _ in rows_of(table, scale)}
    plans = {name: _plan(name, suite, device, seed) for name, suite in work.items()}
    done = Done(rows=len(plans))
    if counts:
        _count_rows([table for table in chosen if of_network(table)], out, done)
    for name, plan in plans.items():
        _make(plan, out / name, count, done)
        if name in weighed:
            done.scored += _weigh(plan, out / name)
    results = board.collect(out)
    for table in chosen:
        built = board.build(table, results, "both", scale)
        for kind in FORMATS:
            done.written.append(_write(out / f"table{table.number or table.id}.{kind}", tables.render(built, kind)))
    write_report(out, out / "report.html")
    done.written.append(out / "report.html")
    return done


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


def _plan(name: str, suite: str, device: str, seed: int) -> Plan:
    """A classifier's run has no seed: it draws nothing."""
    if reads(suite):
        return reading_plan(name, suite, {"device": device})
    return make_plan(name, suite, {"device": device, "seed": seed})


def _make(plan: Plan, folder: Path, count: int | None, done: Done) -> None:
    """One row drawn and scored, or its pictures named and scored."""
    if reads(plan.suite):
        done.scored += sum(s.fresh for s in classify(plan, folder, Wanted(count=count)))
        return
    indices = range(count or registry.load("suites", plan.suite).count)
    done.drawn += generate(plan, indices, folder).drawn
    asked = Asked(plan.suite, device=plan.settings.device)
    done.scored += sum(s.fresh for s in evaluate(folder, folder, asked, count=len(indices)))


def rows_of(table: Table, scale: Literal["micro", "paper"]) -> list[tuple[str, str]]:
    """(checkpoint, suite) of every row of a table at a scale."""
    if scale == "micro" and (found := _micro_of(table)):
        return found
    scope = table.paper
    suites = {row.suite or scope.suite for row in table.rows}
    if scale == "micro" or None in suites:
        raise BenchError(
            f"table {table.number or table.id} has no {scale} runs in this version; `harope-bench table {table.number}` prints it"
        )
    for suite in suites:
        registry.find("suites", str(suite))
    known = [checkpoint(name) for name in registry.names("checkpoints")]
    serving = {row.id: [c.name for c in known if _serves(c, table, row)] for row in table.rows}
    if lacking := [row for row in table.rows if not serving[row.id]]:
        raise BenchError(_lacking(table, lacking))
    return [(serving[row.id][0], str(row.suite or scope.suite)) for row in table.rows]


def _micro_of(table: Table) -> list[tuple[str, str]]:
    """(checkpoint, suite) of each row, or of each column where the columns are the variants; empty where there are none."""
    named = [facts.micro for facts in (*table.rows, *table.columns) if facts.micro]
    if table.micro is None:
        return []
    return [(name, str(table.micro.suite or checkpoint(name).suite)) for name in dict.fromkeys(named)]


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
    encodings = ", ".join(str(row.encoding) for row in rows)
    return (
        f"table {table.number} at paper scale needs checkpoints of {encodings}, none is registered; "
        f"harope-bench register NAME --weights FILE --encoding {rows[0].encoding}"
    )


def _write(path: Path, text: str) -> Path:
    """Writes only what changed, so that a second call leaves the files alone."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    return path
