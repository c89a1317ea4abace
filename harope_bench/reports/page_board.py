"""The tables of a page: what was run in each row, and links from measured cells to their runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from harope_bench.leaderboards.board import Board
from harope_bench.leaderboards.match_runs import MatchesByCell
from harope_bench.leaderboards.table_spec import DASH, EntryRow, Row
from harope_bench.reports.page_comparisons import row_label
from harope_bench.reports.run_names import describe_plan
from harope_bench.reports.table_layout import (
    BodyCell,
    ColumnKind,
    HeaderCell,
    TableLayout,
    column_kinds,
    lay_out_board,
)

MAX_NUMBERS_IN_LARGE_TYPE = 6  # measured columns
MAX_VISIBLE_NUMBERS = 12  # columns of numbers that are shown unless the reader asks for more


@dataclass(frozen=True)
class PageCell(BodyCell):
    """A body cell of a page. `link` is the id of the measurement that the cell leads to."""

    link: str = ""


@dataclass(frozen=True)
class PageTable:
    """A table of the page: header rows, blocks of body rows, and the kinds of its columns.

    column_groups: kind and number of neighbouring columns.
    hidden_kinds: kinds of columns that are shown only where the reader asks for them.
    """

    header_rows: tuple[tuple[HeaderCell, ...], ...]
    blocks: tuple[tuple[tuple[PageCell, ...], ...], ...]
    column_groups: tuple[tuple[ColumnKind, int], ...]
    kinds: tuple[ColumnKind, ...]
    hidden_kinds: tuple[ColumnKind, ...]
    is_sortable: bool

    @property
    def is_dense(self) -> bool:
        """Return whether so many numbers are shown that the type has to be small."""
        n_measured = sum(n for kind, n in self.column_groups if kind == "measured")
        return n_measured > MAX_NUMBERS_IN_LARGE_TYPE


def lay_out_page_table(
    board: Board, matches: MatchesByCell, link_of: Callable[[str, str], str]
) -> PageTable:
    """Return the table of a board as the page shows it.

    Args:
        matches: the measurements of the board's cells.
        link_of: returns the id of the measurement in a cell, given row id and column key; empty
            where the cell has none.
    """
    layout = lay_out_board(board)
    keys = [column.column.key for column in layout.columns if column.column is not None]
    rows_by_id = dict(zip([row.id for row in board.table.rows], layout.rows, strict=True))
    blocks = []
    row_ids = iter(rows_by_id)
    for block in layout.blocks:
        block_ids = [next(row_ids) for _ in block]
        blocks.append(
            tuple(
                (
                    *_head_cells(board, matches, row_id, rows_by_id[row_id]),
                    *_number_cells(rows_by_id[row_id], row_id, keys, link_of),
                )
                for row_id in block_ids
            )
        )
    return PageTable(
        tuple(_header_rows(board, layout)),
        tuple(blocks),
        tuple(_column_groups(board, layout)),
        column_kinds(board),
        _hidden_kinds(board),
        len(blocks) == 1 and (_names_runs(board) or not layout.has_row_spans),
    )


def _names_runs(board: Board) -> bool:
    """Return whether the rows are named by what was run, because it is not what the paper ran."""
    return board.scale == "micro"


def _hidden_kinds(board: Board) -> tuple[ColumnKind, ...]:
    """Return the kinds of columns that are hidden at first.

    Differences of unlike scales say nothing. Printed numbers are hidden where the table would be
    too wide with them.
    """
    n_columns = len(board.table.columns)
    hidden_kinds: list[ColumnKind] = []
    if board.scale == "micro":
        hidden_kinds.append("delta")
    n_visible = n_columns * (len(column_kinds(board)) - len(hidden_kinds))
    if board.n_measured and n_visible > MAX_VISIBLE_NUMBERS:
        hidden_kinds.append("published")
        n_visible -= n_columns
    if board.n_measured and "delta" not in hidden_kinds and n_visible > MAX_VISIBLE_NUMBERS:
        hidden_kinds.append("delta")
    return tuple(hidden_kinds)


def _header_rows(board: Board, layout: TableLayout) -> Iterator[tuple[HeaderCell, ...]]:
    """Yield the header rows. Rows that are named by what was run have two headers of their own."""
    n_rows = len(layout.header_rows)
    for level, header_row in enumerate(layout.header_rows):
        if not _names_runs(board):
            yield header_row
            continue
        own_headers = [HeaderCell(text, 1, n_rows, "head") for text in ("Run", "Paper's row")]
        numbers = [cell for cell in header_row if cell.kind != "head"]
        yield (*(own_headers if level == 0 else []), *numbers)


def _column_groups(board: Board, layout: TableLayout) -> Iterator[tuple[ColumnKind, int]]:
    """Yield kind and number of neighbouring columns of one kind."""
    n_heads = sum(column.kind == "head" for column in layout.columns)
    yield "head", 2 if _names_runs(board) else n_heads
    for kind in column_kinds(board):
        yield kind, len(board.table.columns)


def _head_cells(
    board: Board, matches: MatchesByCell, row_id: str, cells: Sequence[BodyCell]
) -> Iterator[PageCell]:
    """Yield the row headers: those of the paper, or what was run and the paper's row."""
    if not _names_runs(board):
        for cell in cells:
            if cell.kind == "head":
                yield _page_cell(cell)
        return
    run_name = row_run_name(board, matches, row_id)
    row = board.table.find_row(row_id)
    paper_row = DASH if _is_added(row) else row_label(board, row_id)
    yield PageCell(run_name, run_name, "head", is_absent=run_name == "not run")
    yield PageCell(paper_row, paper_row, "head", is_absent=True)


def _is_added(row: Row) -> bool:
    """Return whether the user added a row, so that the paper has none."""
    return isinstance(row, EntryRow) and row.is_added


def row_run_name(board: Board, matches: MatchesByCell, row_id: str) -> str:
    """Return what was run in a row, after the user's label of an added row."""
    plans = [match.plan for (row, _), match in matches.items() if row == row_id]
    names = dict.fromkeys(describe_plan(plan) for plan in plans if plan)
    row = board.table.find_row(row_id)
    label = f"{row.title}: " if _is_added(row) else ""
    if len(names) > 1:
        # each column is another checkpoint; what they share names the row
        parts = [name.split(", ") for name in names]
        common_parts = [part for part in parts[0] if all(part in texts for texts in parts)]
        encodings = {plan.checkpoint.encoding for plan in plans if plan}
        if len(encodings) > 1:
            common_parts.append(f"{len(encodings)} encodings")
        return label + ", ".join(common_parts)
    if names:
        return _with_checkpoint(board, matches, row_id, label + next(iter(names)))
    is_measured = any(row == row_id for row, _ in matches)
    return row.title if is_measured else "not run"


def _with_checkpoint(board: Board, matches: MatchesByCell, row_id: str, name: str) -> str:
    """Return a row's name, with its checkpoint where another checkpoint is described alike."""
    checkpoints_by_name: dict[str, set[str]] = {}
    checkpoints_by_row: dict[str, set[str]] = {}
    for (row, _), match in matches.items():
        if match.plan is not None:
            checkpoint = match.plan.checkpoint.name
            checkpoints_by_name.setdefault(describe_plan(match.plan), set()).add(checkpoint)
            checkpoints_by_row.setdefault(row, set()).add(checkpoint)
    if _is_added(board.table.find_row(row_id)) or len(checkpoints_by_name[name]) == 1:
        return name
    return f"{name}, {', '.join(sorted(checkpoints_by_row[row_id]))}"


def _number_cells(
    cells: Sequence[BodyCell],
    row_id: str,
    keys: Sequence[str],
    link_of: Callable[[str, str], str],
) -> Iterator[PageCell]:
    """Yield the cells with numbers; measured ones lead to their run."""
    numbers = [cell for cell in cells if cell.kind != "head"]
    for key, cell in zip(keys, numbers, strict=True):
        yield _page_cell(cell, link_of(row_id, key) if cell.kind == "measured" else "")


def _page_cell(cell: BodyCell, link: str = "") -> PageCell:
    """Return a cell with a link."""
    values: Mapping[str, object] = {
        field.name: getattr(cell, field.name) for field in fields(BodyCell)
    }
    return PageCell(**values, link=link)  # type: ignore[arg-type]
