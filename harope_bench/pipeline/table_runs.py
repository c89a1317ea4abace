"""Runs that tables need at a scale.

They are runs of shipped checkpoints, of registered checkpoints that fit a row, and of checkpoints
that the user adds by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from harope_bench.core import registry
from harope_bench.core.errors import BenchError, OptionError, UnknownNameError
from harope_bench.core.record_base import shorten_text
from harope_bench.core.schema import Checkpoint
from harope_bench.data.result_store import read_results
from harope_bench.leaderboards.entries import NO_ENTRIES, Entries, find_runs, table_suites
from harope_bench.leaderboards.match_runs import Scale, is_checkpoint_of_cell
from harope_bench.leaderboards.table_spec import Column, Row, Table
from harope_bench.models.load_checkpoint import load_checkpoint_record
from harope_bench.pipeline.unmet_requirements import UnmetRequirement, raise_missing


class PlannedRun(NamedTuple):
    """One run that a table needs.

    resolution: the table's, where its rows have one; None for the suite's.
    """

    checkpoint: str
    suite: str
    resolution: int | None = None

    def folder(self, out: Path, needs_subfolder: bool) -> Path:
        """Return the run folder: the checkpoint's, or a subfolder for suite and resolution."""
        folder = out / self.checkpoint
        return folder / f"{self.suite}-r{self.resolution}" if needs_subfolder else folder


class TableRuns(NamedTuple):
    """Runs that the cells of a table need at a scale.

    runs: each once.
    missing_rows: rows that no registered checkpoint fits.
    suites: of all cells.
    ambiguous_rows: an error message for each row that several checkpoints fit.
    has_no_runs: the table does not define runs at this scale.
    """

    runs: tuple[PlannedRun, ...] = ()
    missing_rows: tuple[Row, ...] = ()
    suites: tuple[str, ...] = ()
    ambiguous_rows: tuple[str, ...] = ()
    has_no_runs: bool = False

    def requirement(self, table: Table) -> UnmetRequirement | None:
        """Return the missing checkpoints of the table; None where none is missing."""
        if not self.missing_rows:
            return None
        encodings = [name for row in self.missing_rows for name in encodings_of(table, row)]
        encodings = list(dict.fromkeys(encodings))
        rows_text = f" for {_rows_text(self.missing_rows)}" if self.runs else ""
        detail = (
            f"table {table.number or table.id} at paper scale needs checkpoints of"
            f" {', '.join(encodings)}, none is registered{rows_text}"
        )
        command = f"harope-bench register NAME --weights FILE --encoding {encodings[0]}"
        return UnmetRequirement("checkpoint", table.id, detail, command)

    def missing_rows_note(self, table: Table) -> str | None:
        """Return the note under the table about its rows without a checkpoint."""
        requirement = self.requirement(table)
        if requirement is None:
            return None
        return (
            f"Not run, no registered checkpoint fits: {_rows_text(self.missing_rows)};"
            f" {requirement.command}."
        )


def _rows_text(rows: Sequence[Row]) -> str:
    return ", ".join(f"{row.id} ({row.title})" for row in rows)


def encodings_of(table: Table, row: Row) -> list[str]:
    """Return the encodings of a row's cells at paper scale."""
    names = [
        row.encoding or column.encoding or table.paper_scale.encoding
        for column in table.columns
        if column.measured_on == "images"
    ]
    return [name for name in dict.fromkeys(names) if name]


def runs_of_table(table: Table, scale: Scale) -> list[PlannedRun]:
    """Return every run that a table's cells need at a scale, each once.

    Raises:
        BenchError: The table has no runs at this scale, or a row has no checkpoint.
    """
    table_work = plan_table_runs(table, scale)
    if table_work.has_no_runs:
        raise BenchError(_no_runs_message(table, scale))
    if requirement := table_work.requirement(table):
        raise_missing([requirement])
    return list(table_work.runs)


def _no_runs_message(table: Table, scale: Scale) -> str:
    return (
        f"table {table.number or table.id} has no {scale} runs in this version; `harope-bench table"
        f" {table.number}` prints it"
    )


def plan_table_runs(table: Table, scale: Scale, entries: Entries = NO_ENTRIES) -> TableRuns:
    """Return the runs of a table's rows at a scale.

    A table with columns of the network itself needs no run at paper scale.
    """
    if scale == "micro":
        runs = _micro_runs(table, entries)
        return TableRuns(tuple(runs), has_no_runs=not runs)
    if has_network_columns(table):
        return TableRuns()
    return _paper_runs(table, entries)


def _paper_runs(table: Table, entries: Entries) -> TableRuns:
    """Return the runs of registered checkpoints that fit the cells of a table.

    Rows without a checkpoint, and rows with several, are listed.
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

    checkpoint_names = registry.list_names("checkpoints")
    checkpoints = [load_checkpoint_record(name) for name in checkpoint_names]
    added_names = {addition.name for addition in entries.additions}
    substitutes = {entry.row: entry.name for entry in entries.substitutions}
    runs = []
    served_rows = set()
    ambiguous_rows = []
    for row, column, suite in cells:
        # A substitution of the user decides the row; it may be a run instead of a checkpoint.
        if row.id in substitutes:
            served_rows.add(row.id)
            if substitutes[row.id] in checkpoint_names:
                runs.append(PlannedRun(substitutes[row.id], str(suite), row.resolution))
            continue

        fitting_names = _fitting_checkpoints(table, row, column, checkpoints)
        if fitting_names:
            served_rows.add(row.id)
        if len(fitting_names) > 1:  # those with added rows of their own do not compete
            fitting_names = [name for name in fitting_names if name not in added_names]
        if len(fitting_names) > 1:
            ambiguous_rows.append(_ambiguous_row_message(table, row, fitting_names))
        runs += [PlannedRun(name, str(suite), row.resolution) for name in fitting_names[:1]]

    missing_rows = tuple(row for row in table.rows if row.id not in served_rows)
    return TableRuns(
        tuple(dict.fromkeys(runs)), missing_rows, suites, tuple(dict.fromkeys(ambiguous_rows))
    )


def _fitting_checkpoints(
    table: Table, row: Row, column: Column, checkpoints: Sequence[Checkpoint]
) -> list[str]:
    """Return the names of the paper-scale checkpoints that fit a cell of a table."""
    return [
        checkpoint.name
        for checkpoint in checkpoints
        if checkpoint.scale == "paper" and is_checkpoint_of_cell(table, row, column, checkpoint)
    ]


def _ambiguous_row_message(table: Table, row: Row, names: Sequence[str]) -> str:
    return (
        f"{len(names)} registered checkpoints fit {row.title} of {table.display_name}:"
        f" {', '.join(names)}; --row {row.id}=NAME decides, --add NAME adds a row for one"
    )


def _micro_runs(table: Table, entries: Entries = NO_ENTRIES) -> list[PlannedRun]:
    """Return the runs of a table at micro scale; empty where it has none."""
    if table.micro_scale is None:
        return []
    substitutes = {entry.row: entry.name for entry in entries.substitutions}
    checkpoint_names = registry.list_entries("checkpoints")
    cells = dict.fromkeys(
        (table.micro_checkpoint_name(row, column), row.micro_resolution, row.id)
        for row in table.rows
        for column in table.columns
    )
    runs = []
    for name, resolution, row_id in cells:
        # A substitute that is no checkpoint is a run, which exists already.
        substitute = substitutes.get(row_id)
        is_run = substitute is not None and substitute not in checkpoint_names
        if name is None or is_run:
            continue
        suite = str(table.micro_scale.suite or load_checkpoint_record(name).suite)
        runs.append(PlannedRun(substitute or name, suite, resolution))
    return list(dict.fromkeys(runs))


def added_runs(tables: Sequence[Table], scale: Scale, entries: Entries) -> list[PlannedRun]:
    """Return the runs of checkpoints that get rows of their own.

    Each runs on the suites and at the resolutions of the tables' rows.

    Raises:
        UnknownNameError: A name is of no checkpoint and of no run.
        OptionError: No table has a row that a checkpoint can be compared with.
    """
    checkpoint_names = registry.list_entries("checkpoints")
    for name in dict.fromkeys(entries.run_names):
        if name not in checkpoint_names:
            _check_run_exists(name, entries)

    runs: list[PlannedRun] = []
    for name in dict.fromkeys(addition.name for addition in entries.additions):
        if name not in checkpoint_names:
            continue
        checkpoint = load_checkpoint_record(name)
        checkpoint_runs = [
            run for table in tables for run in _runs_beside(table, scale, checkpoint)
        ]
        if not checkpoint_runs:
            raise OptionError(_no_table_message(checkpoint, tables, scale))
        runs += checkpoint_runs
    return list(dict.fromkeys(runs))


def _check_run_exists(name: str, entries: Entries) -> None:
    """Raise UnknownNameError unless runs of that name exist below the output folder."""
    out = entries.runs_folder
    results = read_results(out) if out is not None and out.is_dir() else []
    if results:
        find_runs(name, results, out)
    else:
        raise UnknownNameError(
            "checkpoint or run", shorten_text(name, 60), registry.list_names("checkpoints")
        )


def _runs_beside(table: Table, scale: Scale, checkpoint: Checkpoint) -> list[PlannedRun]:
    """Return the runs that give a checkpoint a row beside a table's rows.

    It is empty where the table is of another scale, suite or backbone.
    """
    if checkpoint.scale != scale:
        return []
    if scale == "micro":
        suites = [(str(run.suite), run.resolution) for run in _micro_runs(table)]
        suites = [item for item in suites if checkpoint.suite in (None, item[0])]
    else:
        suites = [
            (str(suite), row.resolution)
            for row in table.rows
            for column in table.columns
            if column.measured_on == "images"
            and (suite := table.suite_name(row, column))
            and _is_backbone(table, row, checkpoint)
        ]
    return [
        PlannedRun(checkpoint.name, suite, resolution)
        for suite, resolution in dict.fromkeys(suites)
    ]


def _is_backbone(table: Table, row: Row, checkpoint: Checkpoint) -> bool:
    return (row.backbone or table.paper_scale.backbone) in (None, checkpoint.backbone)


def _no_table_message(checkpoint: Checkpoint, tables: Sequence[Table], scale: Scale) -> str:
    suites = sorted({suite for table in tables for suite in table_suites(table)})
    return (
        f"checkpoint {checkpoint.name} ({checkpoint.scale} scale, backbone {checkpoint.backbone},"
        f" suite {checkpoint.suite or 'none'}) fits no table of"
        f" {', '.join(table.display_name for table in tables)} at {scale} scale (suites"
        f" {', '.join(suites)}); choose another table"
    )


def has_network_columns(table: Table) -> bool:
    """Return whether a table has columns of the network itself, such as its operation count."""
    return any(column.measured_on == "network" for column in table.columns)


def check_table_runs(
    tables: Sequence[Table], runs_by_table: Sequence[TableRuns], scale: Scale, is_all: bool
) -> list[UnmetRequirement]:
    """Return the missing checkpoints, one requirement for each table that lacks some.

    Args:
        is_all: The user asked for all tables, so a table without runs at this scale is no error.

    Raises:
        BenchError: A requested table has no runs at this scale, or several checkpoints fit a row.
    """
    for table, table_work in zip(tables, runs_by_table, strict=True):
        if table_work.has_no_runs and not is_all:
            raise BenchError(_no_runs_message(table, scale))
    ambiguous_rows = [line for table_work in runs_by_table for line in table_work.ambiguous_rows]
    if ambiguous_rows:
        raise OptionError("; ".join(dict.fromkeys(ambiguous_rows)))
    requirements = [
        table_work.requirement(table)
        for table, table_work in zip(tables, runs_by_table, strict=True)
    ]
    return [requirement for requirement in requirements if requirement is not None]


def suites_without_checkpoint(runs_by_table: Sequence[TableRuns]) -> list[str]:
    """Return the suites of the tables that lack a checkpoint."""
    suites = [suite for runs in runs_by_table if runs.missing_rows for suite in runs.suites]
    return list(dict.fromkeys(suites))
