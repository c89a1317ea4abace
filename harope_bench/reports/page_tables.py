"""Which tables a report shows: those that were asked for, or the one that most runs fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harope_bench.core import registry
from harope_bench.data.result_paths import run_folder_of
from harope_bench.data.result_store import StoredResult
from harope_bench.leaderboards.entries import (
    NO_ENTRIES,
    Entries,
    add_entries,
    check_entries,
)
from harope_bench.leaderboards.match_runs import (
    SCALES,
    Scale,
    match_measurements,
    undecided_cells,
)
from harope_bench.leaderboards.table_spec import EntryRow, Table, load_table, load_tables

LEAST_FILLED_PART = 0.75  # of its rows, for a table that nobody asked for
TableAndScale = tuple[Table, Scale]


@dataclass(frozen=True)
class TableUse:
    """How far the results fill a table at one scale.

    run_folders: of the runs that fill a cell, or that could fill an undecided one.
    n_cells, n_rows: measured or undecided cells, and rows that have one.
    n_runnable_rows: rows that runs of this scale can fill.
    has_entry: whether the user added a row to the table or chose the runs of one.
    """

    table: Table
    scale: Scale
    run_folders: frozenset[Path]
    n_cells: int
    n_rows: int
    n_runnable_rows: int
    has_entry: bool
    is_undecided: bool

    @property
    def is_fitting(self) -> bool:
        """Return whether the runs are runs of this table: most of its rows, or one was entered."""
        is_mostly_filled = self.n_rows >= LEAST_FILLED_PART * self.n_runnable_rows
        return self.has_entry or self.is_undecided or is_mostly_filled


@dataclass(frozen=True)
class OtherTable:
    """A table that the runs fill in part and that was not asked for."""

    name: str
    title: str
    scale: Scale
    n_rows: int
    n_all_rows: int
    option: str


@dataclass(frozen=True)
class TableChoice:
    """The tables that a report shows, and the others that its runs fill.

    The scale of an asked table is None where no run belongs to it.
    """

    shown_tables: tuple[tuple[Table, Scale | None], ...]
    other_tables: tuple[OtherTable, ...]
    filled_tables: tuple[Table, ...]


def choose_tables(
    results: Sequence[StoredResult], entries: Entries = NO_ENTRIES, names: Sequence[str] = ()
) -> TableChoice:
    """Return which tables a report shows.

    Args:
        names: tables that were asked for. Without any, the table that most runs fill is shown if
            they fill most of its rows; no table is shown where none fits.

    Raises:
        UnknownNameError: there is no table of a name, or an entry fits no run.
        OptionError: an entry fits no table.
    """
    asked_tables = [load_table(name) for name in dict.fromkeys(names)]
    filled = tables_with_results(results, entries)
    uses = [_table_use(table, scale, results, entries) for table, scale in filled]
    shown: list[tuple[Table, Scale | None]] = []
    if asked_tables:
        for table in asked_tables:
            scales = [scale for filled_table, scale in filled if filled_table.id == table.id]
            shown += [(table, scale) for scale in scales] or [(table, None)]
        shown.sort(key=lambda item: item[1] is None)  # a table without runs comes last
    else:
        fitting_uses = [use for use in uses if use.is_fitting]
        if fitting_uses:
            best = max(fitting_uses, key=_use_order)
            shown = [(best.table, best.scale)]
    shown_ids = {(table.id, scale) for table, scale in shown}
    return TableChoice(
        tuple(shown),
        tuple(_other_table(use) for use in uses if (use.table.id, use.scale) not in shown_ids),
        tuple({table.id: table for table, _ in filled}.values()),
    )


def _use_order(use: TableUse) -> tuple[object, ...]:
    """Return the sort key of a table: most runs, most cells, then the greatest part of its rows.

    `max` returns the first of equal tables, which is the one with the lowest number.
    """
    return (len(use.run_folders), use.n_cells, use.n_rows / use.n_runnable_rows)


def _other_table(use: TableUse) -> OtherTable:
    """Return the line about a table that is not shown."""
    option = str(use.table.number) if use.table.number else _registered_name(use.table)
    n_all_rows = len(use.table.rows)
    return OtherTable(
        use.table.display_name, use.table.title, use.scale, use.n_rows, n_all_rows, option
    )


def _registered_name(table: Table) -> str:
    """Return the name by which a table without a number is registered."""
    names = registry.list_names("tables")
    return next((name for name in names if load_table(name).id == table.id), table.id)


def _table_use(
    table: Table, scale: Scale, results: Sequence[StoredResult], entries: Entries
) -> TableUse:
    """Return how far the results fill a table at a scale."""
    own_table = add_entries(table, results, scale, entries)
    matches = match_measurements(own_table, results, scale)
    undecided = undecided_cells(own_table, results, scale)
    rows = {row for row, _ in (*matches, *undecided)}
    run_folders = {run_folder_of(match.stored_result.path) for match in matches.values()}
    undecided_names = {name for names in undecided.values() for name in names}
    run_folders |= {
        run_folder_of(stored_result.path)
        for stored_result in results
        if stored_result.result.plan
        and stored_result.result.plan.checkpoint.name in undecided_names
    }
    return TableUse(
        table,
        scale,
        frozenset(run_folders),
        len({*matches, *undecided}),
        len(rows),
        max(1, _count_runnable_rows(own_table, scale)),
        any(isinstance(row, EntryRow) for row in own_table.rows),
        bool(undecided),
    )


def _count_runnable_rows(table: Table, scale: Scale) -> int:
    """Return how many rows runs of a scale can fill; few rows have a micro checkpoint."""
    if scale == "paper":
        return len(table.rows)
    return sum(
        isinstance(row, EntryRow)
        or any(table.micro_checkpoint_name(row, column) for column in table.columns)
        for row in table.rows
    )


def tables_with_results(
    results: Sequence[StoredResult], entries: Entries = NO_ENTRIES
) -> list[TableAndScale]:
    """Return every registered table and scale that shows a result.

    Those that an added run needs to be shown at all are included.

    Raises:
        UnknownNameError, OptionError: an entry fits no run or no table.
    """
    tables = sorted(load_tables(), key=lambda table: (table.number or 10_000, table.id))
    check_entries(tables, results, entries)
    candidates = [(table, scale) for table in tables for scale in SCALES]
    tables_with_runs = [
        (table, scale)
        for table, scale in candidates
        if match_measurements(table, results, scale) or undecided_cells(table, results, scale)
    ]

    # entries that no table with runs shows bring their own tables
    entries_by_table = {
        (table.id, scale): _entry_names(add_entries(table, results, scale, entries))
        for table, scale in candidates
    }
    shown_entries = {
        name for table, scale in tables_with_runs for name in entries_by_table[table.id, scale]
    }
    return [
        (table, scale)
        for table, scale in candidates
        if (table, scale) in tables_with_runs or entries_by_table[table.id, scale] - shown_entries
    ]


def _entry_names(table: Table) -> set[tuple[str, str]]:
    """Return (row id, run name) of the entered rows of a table; the id of an added row is empty."""
    return {
        ("" if row.is_added else row.id, row.run_name)
        for row in table.rows
        if isinstance(row, EntryRow)
    }
