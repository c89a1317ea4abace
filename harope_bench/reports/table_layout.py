"""A board laid out as printed: header levels, blocks of rows, texts. Every text format renders
this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from harope_bench.leaderboards.board import CHECKPOINT_EVIDENCE, Board, Cell, PaperWord
from harope_bench.leaderboards.table_spec import DASH, Column, Row, count_decimals

ColumnKind = Literal["head", "published", "measured", "delta"]
BOLD_RULE = "Bold: best of its block by printed value (ours; the paper's own type was not kept)."
MINUS = "\N{MINUS SIGN}"
VERDICT_GLYPHS = {
    "better": "▲",
    "worse": "▼",
    "not resolved": "○",
    "not comparable": "\N{MULTIPLICATION SIGN}",
}
COST_GLYPHS = {"as printed": "=", "differs": "\N{NOT EQUAL TO}"}


@dataclass(frozen=True)
class LayoutColumn:
    """One leaf column: its header texts from the top (empty means covered by the one above), and
    what it shows.
    """

    titles: tuple[str, ...]
    kind: ColumnKind
    column: Column | None = None

    @property
    def flat_title(self) -> str:
        """The header in one line."""
        return " ".join(part for part in self.titles if part)


@dataclass(frozen=True)
class HeaderCell:
    """One header cell."""

    text: str
    column_span: int
    row_span: int
    kind: ColumnKind


@dataclass(frozen=True)
class BodyCell:
    """One body cell as text, and the raw value for sorting. `rows` is 0 where a cell above covers
    it.
    """

    text: str
    sort_value: str
    kind: ColumnKind
    is_bold: bool = False
    is_absent: bool = False
    note_numbers: tuple[int, ...] = ()
    tooltip: str = ""
    row_span: int = 1


@dataclass(frozen=True)
class TableLayout:
    """Leaves, header levels and blocks of rows."""

    columns: tuple[LayoutColumn, ...]
    header_rows: tuple[tuple[HeaderCell, ...], ...]
    blocks: tuple[tuple[tuple[BodyCell, ...], ...], ...]

    @property
    def rows(self) -> list[tuple[BodyCell, ...]]:
        """All rows, top to bottom."""
        return [row for block in self.blocks for row in block]

    @property
    def has_row_spans(self) -> bool:
        """Whether a row header stands for several rows."""
        return any(view.row_span != 1 for row in self.rows for view in row)


def lay_out_board(board: Board) -> TableLayout:
    """The grid of a board, in the paper's order of rows and columns."""
    leaves = tuple(_layout_columns(board))
    blocks = tuple(_layout_block(board, leaves, rows) for rows in _row_blocks(board))
    return TableLayout(leaves, tuple(_header_rows(leaves)), blocks)


def column_kinds(board: Board) -> tuple[ColumnKind, ...]:
    """Which sources stand side by side."""
    return {
        "published": ("published",),
        "measured": ("measured",),
        "both": ("published", "measured", "delta"),
    }[board.show]  # type: ignore[return-value]


def column_kind_title(board: Board, kind: ColumnKind) -> str:
    """The header over all columns of one source."""
    if kind == "delta":
        return f"measured {MINUS} published" + (
            " (not comparable: micro)" if board.scale == "micro" else ""
        )
    return board.measured_title if kind == "measured" else "published"


def _layout_columns(board: Board) -> Iterator[LayoutColumn]:
    table = board.table
    shown = column_kinds(board)
    sourced = shown != ("published",)
    grouped = any(column.group for column in table.columns)
    depth = sourced + grouped + 1
    for head in table.row_headers:
        yield LayoutColumn((head.printed, *[""] * (depth - 1)), "head")
    for kind in shown:
        for column in table.columns:
            text = column.title if kind == "published" else board.measured_column_titles[column.key]
            names = (
                ([column_kind_title(board, kind)] if sourced else [])
                + ([column.group] if column.group else [])
                + [text]
            )
            yield LayoutColumn((*names, *[""] * (depth - len(names))), kind, column)


def _header_rows(leaves: tuple[LayoutColumn, ...]) -> Iterator[tuple[HeaderCell, ...]]:
    depth = len(leaves[0].titles)
    for level in range(depth):
        spans: list[HeaderCell] = []
        previous: LayoutColumn | None = None
        for leaf in leaves:
            text = leaf.titles[level]
            below = leaf.titles[level + 1 :]
            ends = not any(below)
            if not text and (level or leaf.kind != "head"):
                previous = leaf
                continue
            joined = (
                previous is not None
                and not ends
                and spans
                and previous.titles[: level + 1] == leaf.titles[: level + 1]
            )
            if joined:
                spans[-1] = HeaderCell(text, spans[-1].column_span + 1, 1, leaf.kind)
            else:
                spans.append(HeaderCell(text, 1, depth - level if ends else 1, leaf.kind))
            previous = leaf
        yield tuple(spans)


def _row_blocks(board: Board) -> list[list[Row]]:
    """Rows cut where the ranked block changes; one block where the table has none."""
    blocks: list[list[Row]] = []
    key = None
    for row in board.table.rows:
        now = board.table.block_value(row)
        if not blocks or now != key:
            blocks.append([])
        key = now
        blocks[-1].append(row)
    return blocks


def _layout_block(
    board: Board, leaves: tuple[LayoutColumn, ...], rows: list[Row]
) -> tuple[tuple[BodyCell, ...], ...]:
    return tuple(
        (
            *_row_header_cells(board, rows, i),
            *[_body_cell(board, leaf, row) for leaf in leaves if leaf.column],
        )
        for i, row in enumerate(rows)
    )


def _row_header_cells(board: Board, rows: list[Row], i: int) -> Iterator[BodyCell]:
    for head in board.table.row_headers:
        text = rows[i].header_text(head)
        run = next(
            (k for k, row in enumerate(rows[i:]) if row.header_text(head) != text), len(rows) - i
        )
        covered = head.is_merged and i > 0 and rows[i - 1].header_text(head) == text
        yield BodyCell(text, text, "head", row_span=0 if covered else run if head.is_merged else 1)


def _body_cell(board: Board, leaf: LayoutColumn, row: Row) -> BodyCell:
    assert leaf.column is not None
    cell = board.cells[row.id, leaf.column.key]
    flagged = tuple(n for n in cell.note_numbers if board.notes[n - 1].id is not None)
    if leaf.kind == "published":
        text = DASH if cell.published is None else cell.published
        return BodyCell(
            text,
            cell.published or "",
            "published",
            cell.is_best_published,
            cell.published is None,
            flagged,
        )
    if leaf.kind == "measured":
        own = tuple(n for n in cell.note_numbers if n not in flagged)
        raw = "" if cell.measured is None else repr(cell.measured)
        return BodyCell(
            _measured_text(cell, leaf.column),
            raw,
            "measured",
            cell.is_best_measured,
            cell.measured is None,
            own,
            _interval_text(cell, leaf.column),
        )
    raw = "" if cell.delta is None else repr(cell.delta)
    words = "" if cell.verdict is None else str(cell.verdict)
    text = _delta_text(cell, leaf.column, board.scale == "micro")
    return BodyCell(text, raw, "delta", is_absent=cell.delta is None, tooltip=words)


def _decimals(cell: Cell, column: Column) -> int:
    if column.decimals is not None:
        return column.decimals
    return count_decimals(cell.published) if cell.published else 2


def _measured_text(cell: Cell, column: Column) -> str:
    if cell.measured is None:
        return cell.status
    digits = _decimals(cell, column)
    small = (
        column.measured_on == "network" and cell.scale == "micro"
    )  # the paper's decimals would round a micro network to nothing
    value = (f"{cell.measured:.4g}" if small else f"{cell.measured:.{digits}f}").replace("-", MINUS)
    if cell.percent_above_baseline is not None:
        value += f" (+{cell.percent_above_baseline:.1f}%)"
    if cell.se is None:
        return value
    return f"{value} ± {format_standard_error(cell.se, digits)}"


def format_standard_error(se: float, digits: int) -> str:
    """A standard error at the column's decimals; one that would print as zero says that it is
    smaller.
    """
    text = f"{se:.{digits}f}"
    return f"<{10.0**-digits:.{digits}f}" if se > 0 and float(text) == 0 else text


def _interval_text(cell: Cell, column: Column) -> str:
    if cell.low is None or cell.high is None:
        return ""
    digits = _decimals(cell, column)
    return f"95% interval {cell.low:.{digits}f} to {cell.high:.{digits}f}".replace("-", MINUS)


def format_difference(value: float, digits: int) -> str:
    """A difference with its sign; one that rounds to nothing has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def _delta_text(cell: Cell, column: Column, micro: bool) -> str:
    if cell.delta is None:
        return DASH
    text = format_difference(cell.delta, _decimals(cell, column))
    return text if micro or not cell.verdict else f"{text} {verdict_text(cell.verdict.word)}"


def verdict_text(word: PaperWord) -> str:
    """Return the sign of a verdict and its word."""
    return f"{(VERDICT_GLYPHS | COST_GLYPHS)[word]} {word}"


def legend(board: Board) -> list[str]:
    """Sentences under the table that belong to no cell."""
    lines = [board.table.note] if board.table.note else []
    if board.show != "measured" and board.table.best_by_value:
        lines.append(BOLD_RULE)
    if board.comparisons:
        lines.append(f"Evidence {CHECKPOINT_EVIDENCE}")
    return lines


def board_title(board: Board) -> str:
    """Number and title of the table."""
    return (
        f"{board.table.display_name}. {board.table.title}"
        if board.table.number
        else board.table.title
    )


def cost_agreement(board: Board) -> str | None:
    """How many cells that are of the network itself come out as printed, and which do not; None
    without such cells at paper scale.
    """
    if board.scale != "paper":
        return None
    places = [
        (row, column)
        for row in board.table.rows
        for column in board.table.columns
        if column.measured_on == "network"
    ]
    said = [
        (" ".join(filter(None, (row.model, row.title, column.title))), verdict)
        for row, column in places
        if (verdict := board.cells[row.id, column.key].verdict)
    ]
    if not said:
        return None
    differing = [place for place, verdict in said if verdict.word != "as printed"]
    rest = f"; differing: {', '.join(differing)}" if differing else ""
    return f"{len(said) - len(differing)} of {len(said)} cost cells come out as printed{rest}."
