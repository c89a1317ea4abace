"""The runs that tables need at a scale: of shipped checkpoints, of registered ones that fit, and of
those added by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from harope_bench.core import registry
from harope_bench.core.errors import BenchError, OptionError, UnknownNameError
from harope_bench.core.record_base import shorten
from harope_bench.core.schema import Checkpoint
from harope_bench.data.result_store import read_results
from harope_bench.leaderboards.entries import NO_ENTRIES, Entries, find_runs, table_suites
from harope_bench.leaderboards.match_runs import Scale, is_checkpoint_of_cell
from harope_bench.leaderboards.table_spec import Row, Table
from harope_bench.models.load_checkpoint import load_checkpoint_record
from harope_bench.pipeline.requirements import Requirement, raise_missing


class PlannedRun(NamedTuple):
    """One run that a table needs. resolution: the table's own, where its rows have one."""

    checkpoint: str
    suite: str
    resolution: int | None = None

    def folder(self, out: Path, several: bool) -> Path:
        """Where the run goes: the checkpoint's folder, with suite and side below it where a
        checkpoint has several.
        """
        return (
            out / self.checkpoint / f"{self.suite}-r{self.resolution}"
            if several
            else out / self.checkpoint
        )


class TableRuns(NamedTuple):
    """What a table's cells need at a scale.

    runs: each once. lacking: rows that no registered checkpoint fits. suites: of all its cells.
    contested: an error for each row that
    several fit. has_no_runs: the table says of no cell how it is run at this scale.
    """

    runs: tuple[PlannedRun, ...] = ()
    missing_rows: tuple[Row, ...] = ()
    suites: tuple[str, ...] = ()
    ambiguous_rows: tuple[str, ...] = ()
    has_no_runs: bool = False

    def requirement(self, table: Table) -> Requirement | None:
        """Return the checkpoints that the table lacks; None where it lacks none."""
        if not self.missing_rows:
            return None
        kinds = list(
            dict.fromkeys(name for row in self.missing_rows for name in encodings_of(table, row))
        )
        what = (
            "none is registered"
            if not self.runs
            else f"none is registered for {_rows_text(self.missing_rows)}"
        )
        detail = (
            f"table {table.number or table.id} at paper scale needs checkpoints of"
            f" {', '.join(kinds)}, {what}"
        )
        return Requirement(
            "checkpoint",
            table.id,
            detail,
            f"harope-bench register NAME --weights FILE --encoding {kinds[0]}",
        )

    def missing_rows_note(self, table: Table) -> str | None:
        """Return the note under the table on its rows without a checkpoint."""
        requirement = self.requirement(table)
        return (
            f"Not run, no registered checkpoint fits: {_rows_text(self.missing_rows)};"
            f" {requirement.command}."
            if requirement
            else None
        )


def _rows_text(rows: Sequence[Row]) -> str:
    return ", ".join(f"{row.id} ({row.title})" for row in rows)


def encodings_of(table: Table, row: Row) -> list[str]:
    """Return the encodings that a row's cells are of at paper scale."""
    names = [
        row.encoding or column.encoding or table.paper_scale.encoding
        for column in table.columns
        if column.measured_on == "images"
    ]
    return [name for name in dict.fromkeys(names) if name]


def runs_of_table(table: Table, scale: Scale) -> list[PlannedRun]:
    """Every run that a table's cells need at a scale, each once; BenchError where it has none."""
    work = plan_table_runs(table, scale)
    if work.has_no_runs:
        raise BenchError(_no_runs_message(table, scale))
    if requirement := work.requirement(table):
        raise_missing([requirement])
    return list(work.runs)


def _no_runs_message(table: Table, scale: Scale) -> str:
    return (
        f"table {table.number or table.id} has no {scale} runs in this version; `harope-bench table"
        f" {table.number}` prints it"
    )


def plan_table_runs(table: Table, scale: Scale, entries: Entries = NO_ENTRIES) -> TableRuns:
    """Return what a table's own rows need at a scale; of a table with columns of the network itself
    nothing at paper scale.
    """
    if scale == "micro":
        runs = _micro_runs(table, entries)
        return TableRuns(tuple(runs), has_no_runs=not runs)
    if has_network_columns(table):
        return TableRuns()
    return _paper_runs(table, entries)


def _paper_runs(table: Table, entries: Entries) -> TableRuns:
    """Return the runs of the registered checkpoints that fit the cells of a table, and what is
    open.
    """
    cells = [
        (row, column, table.suite_name(row, column))
        for row in table.rows
        for column in table.columns
    ]
    if any(suite is None for _, _, suite in cells):
        return TableRuns(has_no_runs=True)
    suites = tuple(sorted({str(suite) for *_, suite in cells}))
    for name in suites:
        registry.find_entry("suites", name)
    known = [load_checkpoint_record(name) for name in registry.list_names("checkpoints")]
    added = {addition.name for addition in entries.additions}
    decided = {entry.row: entry.name for entry in entries.substitutions}
    runs = []
    served = set()
    contested = []
    for row, column, suite in cells:
        if row.id in decided:
            served.add(row.id)
            runs += (
                [PlannedRun(decided[row.id], str(suite), row.resolution)]
                if decided[row.id] in registry.list_entries("checkpoints")
                else []
            )
            continue
        fitting = [
            c.name
            for c in known
            if c.scale == "paper" and is_checkpoint_of_cell(table, row, column, c)
        ]
        open_names = (
            [name for name in fitting if name not in added] if len(fitting) > 1 else fitting
        )
        if fitting:
            served.add(row.id)
        if len(open_names) > 1:
            contested.append(
                f"{len(open_names)} registered checkpoints fit {row.title} of"
                f" {table.display_name}: {', '.join(open_names)}; --row {row.id}=NAME decides,"
                " --add NAME gives one a row of its own"
            )
        runs += [PlannedRun(name, str(suite), row.resolution) for name in open_names[:1]]
    lacking = tuple(row for row in table.rows if row.id not in served)
    return TableRuns(tuple(dict.fromkeys(runs)), lacking, suites, tuple(dict.fromkeys(contested)))


def _micro_runs(table: Table, entries: Entries = NO_ENTRIES) -> list[PlannedRun]:
    """The runs of the small world; empty where there are none."""
    if table.micro_scale is None:
        return []
    decided = {entry.row: entry.name for entry in entries.substitutions}
    known = registry.list_entries("checkpoints")
    cells = dict.fromkeys(
        (table.micro_checkpoint_name(row, column), row.micro_resolution, row.id)
        for row in table.rows
        for column in table.columns
    )
    runs = []
    for name, side, row_id in cells:
        if name is None or (row_id in decided and decided[row_id] not in known):
            continue
        suite = str(table.micro_scale.suite or load_checkpoint_record(name).suite)
        runs.append(PlannedRun(decided.get(row_id, name), suite, side))
    return list(dict.fromkeys(runs))


def added_runs(tables: Sequence[Table], scale: Scale, entries: Entries) -> list[PlannedRun]:
    """Return the runs of the registered checkpoints that get rows of their own: the suites and
    sides of the tables' rows.

    Raises:
        UnknownName: a name of no checkpoint and of no run. OptionError: a checkpoint that no table
            takes.
    """
    runs: list[PlannedRun] = []
    for name in dict.fromkeys(entries.run_names):
        if name not in registry.list_entries("checkpoints"):
            _check_run_there(name, entries)
    for name in dict.fromkeys(addition.name for addition in entries.additions):
        if name not in registry.list_entries("checkpoints"):
            continue
        found = load_checkpoint_record(name)
        own_runs = [work for table in tables for work in _runs_beside(table, scale, found)]
        if not own_runs:
            raise OptionError(_no_table_message(found, tables, scale))
        runs += own_runs
    return list(dict.fromkeys(runs))


def _check_run_there(name: str, entries: Entries) -> None:
    """UnknownName unless runs of that name are below the output folder already."""
    out = entries.runs_folder
    results = read_results(out) if out is not None and out.is_dir() else []
    if results:
        find_runs(name, results, out)
    else:
        raise UnknownNameError(
            "checkpoint or run", shorten(name, 60), registry.list_names("checkpoints")
        )


def _runs_beside(table: Table, scale: Scale, found: Checkpoint) -> list[PlannedRun]:
    """Return the runs by which a checkpoint gets a row beside a table's own; empty where the table
    is of another task or network.
    """
    if found.scale != scale:
        return []
    if scale == "micro":
        peers = [(str(work.suite), work.resolution) for work in _micro_runs(table)]
        return [
            PlannedRun(found.name, suite, side)
            for suite, side in dict.fromkeys(peers)
            if found.suite in (None, suite)
        ]
    facts = [
        (str(suite), row.resolution)
        for row in table.rows
        for column in table.columns
        if column.measured_on == "images"
        and (suite := table.suite_name(row, column))
        and _is_backbone(table, row, found)
    ]
    return [PlannedRun(found.name, suite, side) for suite, side in dict.fromkeys(facts)]


def _is_backbone(table: Table, row: Row, found: Checkpoint) -> bool:
    return (row.backbone or table.paper_scale.backbone) in (None, found.backbone)


def _no_table_message(found: Checkpoint, tables: Sequence[Table], scale: Scale) -> str:
    suites = sorted({suite for table in tables for suite in table_suites(table)})
    return (
        f"checkpoint {found.name} ({found.scale}, {found.backbone}, suite {found.suite or 'none'})"
        f" has no row beside those of {', '.join(table.display_name for table in tables)} at"
        f" {scale} scale (suites {', '.join(suites)}); name another table"
    )


def has_network_columns(table: Table) -> bool:
    """Return whether a table has columns that are of the network itself."""
    return any(column.measured_on == "network" for column in table.columns)


def check_work(
    chosen: Sequence[Table], works: Sequence[TableRuns], scale: Scale, is_all: bool
) -> list[Requirement]:
    """Return the checkpoints that rows lack, a requirement for each table.

    Raises:
        BenchError: a table that is named has no runs at this scale (of all tables, those are passed
            over), or a row has several
            checkpoints and nobody decided.
    """
    for table, work in zip(chosen, works, strict=True):
        if work.has_no_runs and not is_all:
            raise BenchError(_no_runs_message(table, scale))
    if contested := [line for work in works for line in work.ambiguous_rows]:
        raise OptionError("; ".join(dict.fromkeys(contested)))
    return [
        requirement
        for table, work in zip(chosen, works, strict=True)
        if (requirement := work.requirement(table))
    ]


def suites_lacking(works: Sequence[TableRuns]) -> list[str]:
    """Return the suites of the tables that lack a checkpoint."""
    return list(
        dict.fromkeys(suite for work in works if work.missing_rows for suite in work.suites)
    )
