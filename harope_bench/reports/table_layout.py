"""The layout of a board: header rows, blocks of rows and cell texts, for every output format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from harope_bench.leaderboards.board import CHECKPOINT_EVIDENCE, Board, Cell, PaperWord
from harope_bench.leaderboards.comparability import TOP_MARK_NOTE
from harope_bench.leaderboards.table_spec import (
    DASH,
    Column,
    Row,
    RowHeader,
    count_decimals,
    leading_number,
)

ColumnKind = Literal["head", "published", "measured", "delta"]  # head: a row header
MarkRule = Literal["top", "best"]
BOLD_RULE = (
    "Bold among published numbers: the best printed value of a block. The bold type of the HARoPE"
    " paper itself is not recorded."
)
BEST_MARK_RULE = (
    "Among published numbers, the best printed value of a block is bold and the second is"
    " underlined."
)
BEST_MARK_NOTE = (
    "Among measured numbers, the best value of a block is bold and the second is underlined. The"
    " marks follow the printed values alone: a difference may be smaller than its uncertainty."
)
MINUS = "\N{MINUS SIGN}"
VERDICT_GLYPHS = {
    "better": "▲",
    "worse": "▼",
    "not resolved": "○",
    "not comparable": "\N{MULTIPLICATION SIGN}",
}
COST_GLYPHS = {"as printed": "=", "differs": "\N{NOT EQUAL TO}"}


@dataclass(frozen=True)
class TableStyle:
    """How a board is printed.

    has_standard_errors: print standard errors after measured numbers.
    mark_rule: which measured numbers are marked. "top": the best one and those that are not
        significantly worse are bold. "best": the best value is bold, the second is underlined.
    is_rows_only: print the rows without title, header, legend and notes (LaTeX).
    has_notes: print the notes below the table (Markdown).
    has_differences: print the columns of measured minus published numbers (LaTeX, Markdown).
    """

    has_standard_errors: bool = True
    mark_rule: MarkRule = "top"
    is_rows_only: bool = False
    has_notes: bool = True
    has_differences: bool = True


DEFAULT_STYLE = TableStyle()


@dataclass(frozen=True)
class LayoutColumn:
    """One column of the layout.

    titles: one text per header row, from the top; an empty one is covered by the cell above.
    """

    titles: tuple[str, ...]
    kind: ColumnKind
    column: Column | None = None

    @property
    def flat_title(self) -> str:
        """Return the titles in one line."""
        return " ".join(part for part in self.titles if part)


@dataclass(frozen=True)
class HeaderCell:
    """One header cell and the columns and rows that it spans."""

    text: str
    column_span: int
    row_span: int
    kind: ColumnKind


@dataclass(frozen=True)
class BodyCell:
    """One body cell as text.

    sort_value: the number in full. row_span: 0 where a cell above covers this one.
    """

    text: str
    sort_value: str
    kind: ColumnKind
    is_bold: bool = False
    is_underlined: bool = False
    is_absent: bool = False
    note_numbers: tuple[int, ...] = ()
    tooltip: str = ""
    row_span: int = 1


@dataclass(frozen=True)
class TableLayout:
    """The columns, header rows and blocks of body rows of a board."""

    columns: tuple[LayoutColumn, ...]
    header_rows: tuple[tuple[HeaderCell, ...], ...]
    blocks: tuple[tuple[tuple[BodyCell, ...], ...], ...]

    @property
    def rows(self) -> list[tuple[BodyCell, ...]]:
        """Return all body rows from top to bottom."""
        return [row for block in self.blocks for row in block]

    @property
    def has_row_spans(self) -> bool:
        """Return whether a row header spans several rows."""
        return any(view.row_span != 1 for row in self.rows for view in row)


def lay_out_board(board: Board, style: TableStyle = DEFAULT_STYLE) -> TableLayout:
    """Return the layout of a board, in the paper's order of rows and columns."""
    columns = tuple(_layout_columns(board, style.has_differences))
    marks = marked_cells(board, style.mark_rule)
    blocks = tuple(_layout_block(board, columns, rows, style, marks) for rows in row_blocks(board))
    return TableLayout(columns, tuple(_header_rows(columns)), blocks)


def column_kinds(board: Board) -> tuple[ColumnKind, ...]:
    """Return the kinds of columns that a board shows side by side."""
    return {
        "published": ("published",),
        "measured": ("measured",),
        "both": ("published", "measured", "delta"),
    }[board.show]  # type: ignore[return-value]


def column_kind_title(board: Board, kind: ColumnKind) -> str:
    """Return the header over all columns of one kind."""
    if kind == "delta":
        note = " (not comparable: micro)" if board.scale == "micro" else ""
        return f"measured {MINUS} published{note}"
    return board.measured_title if kind == "measured" else "published"


def _layout_columns(board: Board, has_differences: bool) -> Iterator[LayoutColumn]:
    """Yield the row headers, then the columns of each kind."""
    table = board.table
    kinds = column_kinds(board)
    if not has_differences:
        kinds = tuple(kind for kind in kinds if kind != "delta")
    has_kind_titles = kinds != ("published",)
    has_groups = any(column.group for column in table.columns)
    n_header_rows = 1 + has_kind_titles + has_groups

    for header in table.row_headers:
        yield LayoutColumn((header.title, *[""] * (n_header_rows - 1)), "head")
    for kind in kinds:
        for column in table.columns:
            titles = []
            if has_kind_titles:
                titles.append(column_kind_title(board, kind))
            if column.group:
                titles.append(column.group)
            if kind == "published":
                titles.append(column.title)
            else:
                titles.append(board.measured_column_titles[column.key])
            padding = [""] * (n_header_rows - len(titles))
            yield LayoutColumn((*titles, *padding), kind, column)


def _header_rows(columns: tuple[LayoutColumn, ...]) -> Iterator[tuple[HeaderCell, ...]]:
    """Yield the header rows.

    A title without titles below it spans the rows down to the body. Equal titles of neighbouring
    columns are joined where titles follow below.
    """
    n_header_rows = len(columns[0].titles)
    for level in range(n_header_rows):
        cells: list[HeaderCell] = []
        left_column: LayoutColumn | None = None
        for column in columns:
            text = column.titles[level]
            is_lowest = not any(column.titles[level + 1 :])
            is_covered = not text and (level > 0 or column.kind != "head")
            is_joined = (
                left_column is not None
                and not is_lowest
                and bool(cells)
                and left_column.titles[: level + 1] == column.titles[: level + 1]
            )
            left_column = column
            if is_covered:
                continue
            if is_joined:
                cells[-1] = HeaderCell(text, cells[-1].column_span + 1, 1, column.kind)
            else:
                row_span = n_header_rows - level if is_lowest else 1
                cells.append(HeaderCell(text, 1, row_span, column.kind))
        yield tuple(cells)


def place_header_cells(
    header_rows: Sequence[Sequence[HeaderCell]], n_columns: int
) -> Iterator[dict[int, HeaderCell]]:
    """Yield the cells of each header row by the index of their first column.

    Columns that a cell of a row above covers have none.
    """
    n_covered_rows = [0] * n_columns
    for header_row in header_rows:
        cells_by_column = {}
        cells = iter(header_row)
        column = 0
        while column < n_columns:
            if n_covered_rows[column]:
                n_covered_rows[column] -= 1
                column += 1
                continue
            cell = next(cells)
            cells_by_column[column] = cell
            end = column + cell.column_span
            n_covered_rows[column:end] = [cell.row_span - 1] * cell.column_span
            column = end
        yield cells_by_column


def row_blocks(board: Board) -> list[list[Row]]:
    """Return the rows in blocks that are ranked together, one block where the table has none."""
    blocks: list[list[Row]] = []
    previous_value = None
    for row in board.table.rows:
        value = board.table.block_value(row)
        if not blocks or value != previous_value:
            blocks.append([])
        previous_value = value
        blocks[-1].append(row)
    return blocks


def _layout_block(
    board: Board,
    columns: tuple[LayoutColumn, ...],
    rows: list[Row],
    style: TableStyle,
    marks: CellMarks,
) -> tuple[tuple[BodyCell, ...], ...]:
    """Return the body rows of a block."""
    return tuple(
        (
            *_row_header_cells(board, rows, i),
            *[_body_cell(board, column, row, style, marks) for column in columns if column.column],
        )
        for i, row in enumerate(rows)
    )


def _row_header_cells(board: Board, rows: list[Row], i: int) -> Iterator[BodyCell]:
    """Yield the row-header cells of row i of a block; merged headers span equal neighbours."""
    for header in board.table.row_headers:
        text = rows[i].header_text(header)
        row_span = 1
        if header.is_merged:
            is_covered = i > 0 and rows[i - 1].header_text(header) == text
            row_span = 0 if is_covered else _count_equal_texts(rows[i:], header)
        yield BodyCell(text, text, "head", row_span=row_span)


def _count_equal_texts(rows: list[Row], header: RowHeader) -> int:
    """Return how many rows from the first on have its header text."""
    text = rows[0].header_text(header)
    for i, row in enumerate(rows):
        if row.header_text(header) != text:
            return i
    return len(rows)


def _body_cell(
    board: Board, layout_column: LayoutColumn, row: Row, style: TableStyle, marks: CellMarks
) -> BodyCell:
    """Return one published, measured or delta cell of a row."""
    assert layout_column.column is not None
    cell = board.cells[row.id, layout_column.column.key]
    mark_key = (layout_column.kind, row.id, layout_column.column.key)
    is_bold = mark_key in marks.bold
    is_underlined = mark_key in marks.underlined

    # flags of the paper belong to the published cell, notes on runs to the measured one
    note_ids = {note.number: note.id for note in board.notes}
    flag_numbers = tuple(n for n in cell.note_numbers if note_ids.get(n) is not None)
    if layout_column.kind == "published":
        text = DASH if cell.published is None else cell.published
        return BodyCell(
            text,
            cell.published or "",
            "published",
            is_bold,
            is_underlined,
            cell.published is None,
            flag_numbers,
        )

    if layout_column.kind == "measured":
        note_numbers = tuple(n for n in cell.note_numbers if note_ids.get(n, "") is None)
        sort_value = "" if cell.measured is None else repr(cell.measured)
        return BodyCell(
            _measured_text(cell, layout_column.column, style.has_standard_errors),
            sort_value,
            "measured",
            is_bold,
            is_underlined,
            cell.measured is None,
            note_numbers,
            _interval_text(cell, layout_column.column),
        )

    sort_value = "" if cell.delta is None else repr(cell.delta)
    verdict = "" if cell.verdict is None else str(cell.verdict)
    text = _delta_text(cell, layout_column.column, board.scale == "micro")
    return BodyCell(text, sort_value, "delta", is_absent=cell.delta is None, tooltip=verdict)


def with_notes_on_marks(board: Board, style: TableStyle) -> Board:
    """Return the board with the note that explains the marks of this style."""
    if style.mark_rule == "top":
        return board
    notes = tuple(
        replace(note, text=BEST_MARK_NOTE) if note.text == TOP_MARK_NOTE else note
        for note in board.notes
    )
    return replace(board, notes=notes)


class CellMarks(NamedTuple):
    """The cells in bold and those underlined, as (kind of column, row id, column key)."""

    bold: frozenset[tuple[str, str, str]]
    underlined: frozenset[tuple[str, str, str]]


def marked_cells(board: Board, mark_rule: MarkRule) -> CellMarks:
    """Return the cells that are marked under a rule.

    Under "best", the published and the measured cells of a block are marked by their values, as
    they are printed: equal texts have equal marks. Only cells that may be ranked together count.
    """
    bold = {("published", *key) for key, cell in board.cells.items() if cell.is_best_published}
    if mark_rule == "top":
        bold |= {("measured", *key) for key, cell in board.cells.items() if cell.is_best_measured}
        return CellMarks(frozenset(bold), frozenset())

    underlined = set()
    for keys in _published_blocks(board):
        values = {key: float(leading_number(board.cells[key].published or "")) for key in keys}
        underlined |= {("published", *key) for key in _cells_of_place(board, values, 1)}
    for ranked_keys in board.ranked_blocks:
        values = {key: _printed_value(board, key) for key in ranked_keys}
        bold |= {("measured", *key) for key in _cells_of_place(board, values, 0)}
        underlined |= {("measured", *key) for key in _cells_of_place(board, values, 1)}
    return CellMarks(frozenset(bold), frozenset(underlined))


def _published_blocks(board: Board) -> list[list[tuple[str, str]]]:
    """Return the published cells of each block in which the best printed value is known."""
    blocks: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for (row_id, column_key), cell in board.cells.items():
        if cell.published is not None:
            row = board.table.find_row(row_id)
            block = board.table.block_key(row, board.table.find_column(column_key))
            blocks.setdefault(block, []).append((row_id, column_key))
    return [
        keys for keys in blocks.values() if any(board.cells[key].is_best_published for key in keys)
    ]


def _printed_value(board: Board, key: tuple[str, str]) -> float:
    """Return the measured value of a cell as it is rounded for print."""
    cell = board.cells[key]
    assert cell.measured is not None
    return round(cell.measured, _decimals(cell, board.table.find_column(key[1])))


def _cells_of_place(
    board: Board, values: dict[tuple[str, str], float], place: int
) -> list[tuple[str, str]]:
    """Return the cells with the best value of a block (place 0) or the second one (place 1).

    Nothing is best where all values are equal or there is one cell alone.
    """
    is_higher_better = board.table.find_column(next(iter(values))[1]).direction == "higher"
    places = sorted(set(values.values()), reverse=is_higher_better)
    if len(places) < 2:
        return []
    return [key for key, value in values.items() if value == places[place]]


def _decimals(cell: Cell, column: Column) -> int:
    """Return the column's decimals; where the paper mixes them, those of the printed cell."""
    if column.decimals is not None:
        return column.decimals
    return count_decimals(cell.published) if cell.published else 2


def _measured_text(cell: Cell, column: Column, has_standard_error: bool) -> str:
    """Return the measured number with percentage and standard error, or the cell's status."""
    if cell.measured is None:
        return cell.status
    decimals = _decimals(cell, column)
    text = f"{cell.measured:.{decimals}f}"
    if column.measured_on == "network" and cell.scale == "micro":
        # the paper's decimals would round the count of a micro network to zero
        text = f"{cell.measured:.4g}"
    text = text.replace("-", MINUS)
    if cell.percent_above_baseline is not None:
        text += f" (+{cell.percent_above_baseline:.1f}%)"
    if cell.se is None or not has_standard_error:
        return text
    return f"{text} ± {format_standard_error(cell.se, decimals)}"


def format_standard_error(standard_error: float, decimals: int) -> str:
    """Return a standard error with this many decimals, "<0.01" where it would round to zero."""
    text = f"{standard_error:.{decimals}f}"
    if standard_error > 0 and float(text) == 0:
        return f"<{10.0**-decimals:.{decimals}f}"
    return text


def _interval_text(cell: Cell, column: Column) -> str:
    """Return the 95% interval as a text, empty where there is none."""
    if cell.low is None or cell.high is None:
        return ""
    decimals = _decimals(cell, column)
    return f"95% interval {cell.low:.{decimals}f} to {cell.high:.{decimals}f}".replace("-", MINUS)


def format_difference(difference: float, decimals: int) -> str:
    """Return a difference with its sign, without a sign where it rounds to zero."""
    text = f"{difference:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def _delta_text(cell: Cell, column: Column, is_micro: bool) -> str:
    """Return measured minus published with its verdict, a dash where a number is missing."""
    if cell.delta is None:
        return DASH
    text = format_difference(cell.delta, _decimals(cell, column))
    return text if is_micro or not cell.verdict else f"{text} {verdict_text(cell.verdict.word)}"


def verdict_text(verdict: PaperWord) -> str:
    """Return the sign of a verdict and its word."""
    return f"{(VERDICT_GLYPHS | COST_GLYPHS)[verdict]} {verdict}"


def legend(board: Board, style: TableStyle = DEFAULT_STYLE) -> list[str]:
    """Return the sentences under the table that belong to no cell."""
    lines = [board.table.note] if board.table.note else []
    if board.show != "measured" and board.table.best_by_value:
        lines.append(BEST_MARK_RULE if style.mark_rule == "best" else BOLD_RULE)
    if board.comparisons:
        lines.append(f"Evidence {CHECKPOINT_EVIDENCE}")
    return lines


def board_title(board: Board) -> str:
    """Return the number and the title of the table."""
    return (
        f"{board.table.display_name}. {board.table.title}"
        if board.table.number
        else board.table.title
    )


def cost_agreement(board: Board) -> str | None:
    """Return how many computed cost cells equal the printed ones, and which differ, as a sentence.

    None without cost cells at paper scale.
    """
    if board.scale != "paper":
        return None
    verdicts_by_cell = {}
    for row in board.table.rows:
        for column in board.table.columns:
            verdict = board.cells[row.id, column.key].verdict
            if column.measured_on == "network" and verdict is not None:
                label = " ".join(filter(None, (row.model, row.title, column.title)))
                verdicts_by_cell[row.id, column.key] = (label, verdict.word)
    if not verdicts_by_cell:
        return None

    differing = [label for label, word in verdicts_by_cell.values() if word != "as printed"]
    n_agreeing = len(verdicts_by_cell) - len(differing)
    differing_text = f"; differing: {', '.join(differing)}" if differing else ""
    return (
        f"{n_agreeing} of {len(verdicts_by_cell)} cost cells are equal to the printed ones"
        f"{differing_text}."
    )
