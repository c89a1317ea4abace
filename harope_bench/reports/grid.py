"""A board laid out as printed: header levels, blocks of rows, texts. Every text format renders this."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from harope_bench.leaderboards.board import EVIDENCE, Board, Cell, PaperWord
from harope_bench.leaderboards.table_spec import DASH, Column, Row, decimals_of

Kind = Literal["head", "published", "measured", "delta"]
BOLD_RULE = "Bold: best of its block by printed value (ours; the paper's own type was not kept)."
MINUS = "\N{MINUS SIGN}"
GLYPHS = {"better": "▲", "worse": "▼", "not resolved": "○", "not comparable": "\N{MULTIPLICATION SIGN}"}
COUNT_GLYPHS = {"as printed": "=", "differs": "\N{NOT EQUAL TO}"}


@dataclass(frozen=True)
class Leaf:
    """One leaf column: its header texts from the top (empty means covered by the one above), and what it shows."""

    path: tuple[str, ...]
    kind: Kind
    column: Column | None = None

    @property
    def flat(self) -> str:
        """The header in one line."""
        return " ".join(part for part in self.path if part)


@dataclass(frozen=True)
class Span:
    """One header cell."""

    text: str
    columns: int
    rows: int
    kind: Kind


@dataclass(frozen=True)
class View:
    """One body cell as text, and the raw value for sorting. `rows` is 0 where a cell above covers it."""

    text: str
    raw: str
    kind: Kind
    bold: bool = False
    absent: bool = False
    marks: tuple[int, ...] = ()
    title: str = ""
    rows: int = 1


@dataclass(frozen=True)
class Grid:
    """Leaves, header levels and blocks of rows."""

    leaves: tuple[Leaf, ...]
    levels: tuple[tuple[Span, ...], ...]
    blocks: tuple[tuple[tuple[View, ...], ...], ...]

    @property
    def rows(self) -> list[tuple[View, ...]]:
        """All rows, top to bottom."""
        return [row for block in self.blocks for row in block]

    @property
    def spanned(self) -> bool:
        """Whether a row header stands for several rows."""
        return any(view.rows != 1 for row in self.rows for view in row)


def lay_out(board: Board) -> Grid:
    """The grid of a board, in the paper's order of rows and columns."""
    leaves = tuple(_leaves(board))
    blocks = tuple(_block(board, leaves, rows) for rows in _blocks(board))
    return Grid(leaves, tuple(_levels(leaves)), blocks)


def kinds(board: Board) -> tuple[Kind, ...]:
    """Which sources stand side by side."""
    return {"published": ("published",), "measured": ("measured",), "both": ("published", "measured", "delta")}[board.show]  # type: ignore[return-value]


def source_title(board: Board, kind: Kind) -> str:
    """The header over all columns of one source."""
    if kind == "delta":
        return f"measured {MINUS} published" + (" (not comparable: micro)" if board.scale == "micro" else "")
    return board.measured_title if kind == "measured" else "published"


def _leaves(board: Board) -> Iterator[Leaf]:
    table, shown = board.table, kinds(board)
    sourced, grouped = shown != ("published",), any(column.group for column in table.columns)
    depth = sourced + grouped + 1
    for head in table.heads:
        yield Leaf((head.printed, *[""] * (depth - 1)), "head")
    for kind in shown:
        for column in table.columns:
            text = column.printed if kind == "published" else board.measured_heads[column.key]
            names = ([source_title(board, kind)] if sourced else []) + ([column.group] if column.group else []) + [text]
            yield Leaf((*names, *[""] * (depth - len(names))), kind, column)


def _levels(leaves: tuple[Leaf, ...]) -> Iterator[tuple[Span, ...]]:
    depth = len(leaves[0].path)
    for level in range(depth):
        spans: list[Span] = []
        previous: Leaf | None = None
        for leaf in leaves:
            text, below = leaf.path[level], leaf.path[level + 1 :]
            ends = not any(below)
            if not text and (level or leaf.kind != "head"):
                previous = leaf
                continue
            joined = previous is not None and not ends and spans and previous.path[: level + 1] == leaf.path[: level + 1]
            if joined:
                spans[-1] = Span(text, spans[-1].columns + 1, 1, leaf.kind)
            else:
                spans.append(Span(text, 1, depth - level if ends else 1, leaf.kind))
            previous = leaf
        yield tuple(spans)


def _blocks(board: Board) -> list[list[Row]]:
    """Rows cut where the ranked block changes; one block where the table has none."""
    blocks: list[list[Row]] = []
    key = None
    for row in board.table.rows:
        now = board.table.block_fact(row)
        if not blocks or now != key:
            blocks.append([])
        key = now
        blocks[-1].append(row)
    return blocks


def _block(board: Board, leaves: tuple[Leaf, ...], rows: list[Row]) -> tuple[tuple[View, ...], ...]:
    return tuple((*_heads(board, rows, i), *[_view(board, leaf, row) for leaf in leaves if leaf.column]) for i, row in enumerate(rows))


def _heads(board: Board, rows: list[Row], i: int) -> Iterator[View]:
    for head in board.table.heads:
        text = rows[i].text(head)
        run = next((k for k, row in enumerate(rows[i:]) if row.text(head) != text), len(rows) - i)
        covered = head.span and i > 0 and rows[i - 1].text(head) == text
        yield View(text, text, "head", rows=0 if covered else run if head.span else 1)


def _view(board: Board, leaf: Leaf, row: Row) -> View:
    assert leaf.column is not None
    cell = board.cells[row.id, leaf.column.key]
    flagged = tuple(n for n in cell.marks if board.notes[n - 1].id is not None)
    if leaf.kind == "published":
        text = DASH if cell.published is None else cell.published
        return View(text, cell.published or "", "published", cell.best_published, cell.published is None, flagged)
    if leaf.kind == "measured":
        own = tuple(n for n in cell.marks if n not in flagged)
        raw = "" if cell.measured is None else repr(cell.measured)
        return View(
            _measured(cell, leaf.column), raw, "measured", cell.best_measured, cell.measured is None, own, _interval(cell, leaf.column)
        )
    raw = "" if cell.delta is None else repr(cell.delta)
    words = "" if cell.verdict is None else str(cell.verdict)
    text = _delta(cell, leaf.column, board.scale == "micro")
    return View(text, raw, "delta", absent=cell.delta is None, title=words)


def _decimals(cell: Cell, column: Column) -> int:
    if column.decimals is not None:
        return column.decimals
    return decimals_of(cell.published) if cell.published else 2


def _measured(cell: Cell, column: Column) -> str:
    if cell.measured is None:
        return cell.status
    digits = _decimals(cell, column)
    small = column.of == "network" and cell.scale == "micro"  # the paper's decimals would round a micro network to nothing
    value = (f"{cell.measured:.4g}" if small else f"{cell.measured:.{digits}f}").replace("-", MINUS)
    if cell.above is not None:
        value += f" (+{cell.above:.1f}%)"
    if cell.se is None:
        return value
    return f"{value} ± {shown_error(cell.se, digits)}"


def shown_error(se: float, digits: int) -> str:
    """A standard error at the column's decimals; one that would print as zero says that it is smaller."""
    text = f"{se:.{digits}f}"
    return f"<{10.0**-digits:.{digits}f}" if se > 0 and float(text) == 0 else text


def _interval(cell: Cell, column: Column) -> str:
    if cell.low is None or cell.high is None:
        return ""
    digits = _decimals(cell, column)
    return f"95% interval {cell.low:.{digits}f} to {cell.high:.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int) -> str:
    """A difference with its sign; one that rounds to nothing has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def _delta(cell: Cell, column: Column, micro: bool) -> str:
    if cell.delta is None:
        return DASH
    text = signed(cell.delta, _decimals(cell, column))
    return text if micro or not cell.verdict else f"{text} {glyph(cell.verdict.word)}"


def glyph(word: PaperWord) -> str:
    """Return the sign of a verdict and its word."""
    return f"{(GLYPHS | COUNT_GLYPHS)[word]} {word}"


def legend(board: Board) -> list[str]:
    """Sentences under the table that belong to no cell."""
    lines = [board.table.note] if board.table.note else []
    if board.show != "measured" and board.table.best_by_value:
        lines.append(BOLD_RULE)
    if board.compared:
        lines.append(f"Evidence {EVIDENCE}")
    return lines


def title(board: Board) -> str:
    """Number and title of the table."""
    return f"{board.table.name}. {board.table.title}" if board.table.number else board.table.title


def counted(board: Board) -> str | None:
    """How many cells that are of the network itself come out as printed, and which do not; None without such cells at paper scale."""
    if board.scale != "paper":
        return None
    places = [(row, column) for row in board.table.rows for column in board.table.columns if column.of == "network"]
    said = [
        (" ".join(filter(None, (row.model, row.printed, column.printed))), verdict)
        for row, column in places
        if (verdict := board.cells[row.id, column.key].verdict)
    ]
    if not said:
        return None
    differing = [place for place, verdict in said if verdict.word != "as printed"]
    rest = f"; differing: {', '.join(differing)}" if differing else ""
    return f"{len(said) - len(differing)} of {len(said)} cost cells come out as printed{rest}."
