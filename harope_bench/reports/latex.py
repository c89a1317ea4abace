"""Boards as LaTeX tables with booktabs."""

from __future__ import annotations

import re
import unicodedata

from harope_bench.leaderboards.board import Board
from harope_bench.leaderboards.table_spec import EntryRow
from harope_bench.reports.table_layout import (
    DEFAULT_STYLE,
    BodyCell,
    HeaderCell,
    TableLayout,
    TableStyle,
    lay_out_board,
    legend,
    place_header_cells,
    row_blocks,
)

# of LaTeX's 10 pt type: a digit, the space between two columns, and the widths of a line
POINTS_PER_CHARACTER = 5.0
POINTS_BETWEEN_COLUMNS = 12.0
COLUMN_WIDTH = 200.0  # of a page with two columns, less the error of an estimated width
TEXT_WIDTH = 345.0  # of a page with one column
TURNED_WIDTH = 760.0  # on an upright page its type would be smaller than 7 pt
MAX_FLOAT_NOTES = 3_000  # characters, about half a page
PACKAGE_COMMANDS = {
    "graphicx": r"\resizebox",
    "rotating": "sidewaystable",
    "amssymb": r"\blacktriangle",
}

ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    '"': "''",
    "[": "{[}",  # after a row's end a bare bracket or star would be read as its option
    "]": "{]}",
    "*": "{*}",
    "\N{EN DASH}": "--",
    "±": r"$\pm$",
    "\N{MINUS SIGN}": r"$-$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "▲": r"$\blacktriangle$",
    "▼": r"$\blacktriangledown$",
    "○": r"$\circ$",
    "\N{NOT EQUAL TO}": r"$\neq$",
    "\N{LESS-THAN OR EQUAL TO}": r"$\leq$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$",
    "\N{ALMOST EQUAL TO}": r"$\approx$",
    "\N{INFINITY}": r"$\infty$",
}
GREEK_NAME = re.compile(r"GREEK (SMALL|CAPITAL) LETTER ([A-Z]+)")
GREEK_SPELLINGS = {"LAMDA": "lambda"}  # Unicode's names that differ from LaTeX's
LATIN_LOOKALIKES = {"omicron": "o"}  # letters without a command
LATIN_CAPITALS = {
    "alpha": "A",
    "beta": "B",
    "epsilon": "E",
    "zeta": "Z",
    "eta": "H",
    "iota": "I",
    "kappa": "K",
    "mu": "M",
    "nu": "N",
    "rho": "P",
    "tau": "T",
    "chi": "X",
}


def escape_latex(text: str) -> str:
    """Return the text on one line with every LaTeX command character escaped."""
    # straight quotes become ``...''
    quoted_text = re.sub(r'"([^"]*)"', r"``\1''", " ".join(text.split()))
    return "".join(ESCAPES.get(character) or _greek_letter(character) for character in quoted_text)


def _greek_letter(character: str) -> str:
    """Return the command of a Greek letter, such as \\theta; another character as it is."""
    match = GREEK_NAME.fullmatch(unicodedata.name(character, ""))
    if match is None:
        return character
    size, name = match.groups()
    name = GREEK_SPELLINGS.get(name, name.lower())
    if name in LATIN_LOOKALIKES:
        letter = LATIN_LOOKALIKES[name]
        return letter.upper() if size == "CAPITAL" else letter
    is_capital = size == "CAPITAL"
    if is_capital and name in LATIN_CAPITALS:
        return LATIN_CAPITALS[name]
    return rf"$\{name.capitalize() if is_capital else name}$"


def render_latex(board: Board, style: TableStyle = DEFAULT_STYLE) -> str:
    """Return a table environment, or the rows alone, after a comment that names its packages.

    LaTeX numbers its tables itself, so the caption is the title without the paper's number. A wide
    table takes both columns of a page, a wider one is turned, and both shrink to the line.
    """
    layout = lay_out_board(board, style)
    body = _body_lines(board, layout, has_notes=not style.is_rows_only)
    if style.is_rows_only:
        return "\n".join([_rows_comment(board, layout), *body]) + "\n"

    width = estimated_width(layout)
    environment = _environment(width)
    tabular = _tabular_lines(layout, body, is_shrunk=width > COLUMN_WIDTH)
    notes = _footnote_lines(board, style)
    is_float = sum(map(len, notes)) <= MAX_FLOAT_NOTES
    text = "\n".join(
        [
            rf"\begin{{{environment}}}" + ("" if width > TURNED_WIDTH else "[t]"),
            r"\centering",
            rf"\caption{{{escape_latex(board.table.title)}{_superscript(board.table_note_numbers)}}}",
            rf"\label{{tab:{re.sub(r'[^A-Za-z0-9-]', '-', board.table.id)}}}",
            *tabular,
            *(_in_minipage(notes) if is_float else ()),
            rf"\end{{{environment}}}",
            *(() if is_float else _behind_float(notes)),
        ]
    )
    return f"{_packages_comment(board, text)}\n{text}\n"


def _environment(width: float) -> str:
    """Return the environment for a table of this width in points."""
    if width > TURNED_WIDTH:
        return "sidewaystable*"
    return "table*" if width > TEXT_WIDTH else "table"


def estimated_width(layout: TableLayout) -> float:
    """Return the width of a table in points, from the lengths of its texts at 10 pt."""
    n_characters = [
        max(len(row[i].text) for row in layout.rows) for i in range(len(layout.columns))
    ]
    for cells_by_column in place_header_cells(layout.header_rows, len(layout.columns)):
        for start, cell in cells_by_column.items():
            for i in range(start, start + cell.column_span):
                n_characters[i] = max(n_characters[i], len(cell.text) // cell.column_span)
    return sum(POINTS_PER_CHARACTER * n + POINTS_BETWEEN_COLUMNS for n in n_characters)


def _packages_comment(board: Board, text: str) -> str:
    """Return a comment that names the table and the packages that the text needs."""
    packages = ["booktabs"]
    packages += [name for name, command in PACKAGE_COMMANDS.items() if command in text]
    uses = ", ".join(rf"\usepackage{{{name}}}" for name in packages)
    origin = " of the HARoPE paper" if board.table.number else ""
    return f"% {escape_latex(board.table.display_name)}{origin}; needs {uses}"


def _rows_comment(board: Board, layout: TableLayout) -> str:
    """Return a comment that names the columns of the rows."""
    titles = " & ".join(escape_latex(column.flat_title) for column in layout.columns)
    return f"% rows of {escape_latex(board.table.display_name)}: {titles}"


def _tabular_lines(layout: TableLayout, body: list[str], is_shrunk: bool) -> list[str]:
    """Return the tabular, in a box that shrinks to the line where it is wider."""
    n_header_columns = sum(column.kind == "head" for column in layout.columns)
    alignment = "l" * n_header_columns + "r" * (len(layout.columns) - n_header_columns)
    lines = [
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        *_header_lines(layout),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if not is_shrunk:
        return lines
    return [
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        *lines[:-1],
        lines[-1] + "}",
    ]


def _header_lines(layout: TableLayout) -> list[str]:
    """Return the header rows, with a rule under each cell that spans several columns."""
    lines = []
    for cells_by_column in place_header_cells(layout.header_rows, len(layout.columns)):
        texts = []
        rules = []
        column = 0
        while column < len(layout.columns):
            cell = cells_by_column.get(column)
            end = column + (cell.column_span if cell else 1)
            texts.append(_header_text(cell) if cell else "")
            if end > column + 1:
                rules.append(rf"\cmidrule(lr){{{column + 1}-{end}}}")
            column = end
        lines.append(_table_row(texts))
        if rules:
            lines.append(" ".join(rules))
    return lines


def _header_text(cell: HeaderCell) -> str:
    r"""Return a header cell, as \multicolumn where it spans several columns."""
    text = escape_latex(cell.text)
    if cell.column_span > 1:
        return rf"\multicolumn{{{cell.column_span}}}{{c}}{{{text}}}"
    return text


def _body_lines(board: Board, layout: TableLayout, has_notes: bool) -> list[str]:
    """Return the body rows: a rule between blocks, space before the rows that the user adds.

    Added rows are the last ones of their block.
    """
    lines: list[str] = []
    for rows, block in zip(row_blocks(board), layout.blocks, strict=True):
        if lines:
            lines.append(r"\midrule")
        is_previous_added = True  # no space before the first row
        for row, cells in zip(rows, block, strict=True):
            is_added = isinstance(row, EntryRow) and row.is_added
            if is_added and not is_previous_added:
                lines.append(r"\addlinespace")
            is_previous_added = is_added
            lines.append(_table_row([_cell_text(cell, has_notes) for cell in cells]))
    return lines


def _table_row(texts: list[str]) -> str:
    """Return one table row with its line end."""
    return re.sub(r" +", " ", " & ".join(texts)).strip() + r" \\"


def _cell_text(cell: BodyCell, has_notes: bool) -> str:
    """Return a body cell with its note numbers, empty where a cell above covers it."""
    if cell.row_span == 0:
        return ""
    text = escape_latex(cell.text)
    if cell.is_underlined:
        text = rf"\underline{{{text}}}"
    if cell.is_bold:
        text = rf"\textbf{{{text}}}"
    return text + _superscript(cell.note_numbers if has_notes else ())


def _superscript(numbers: tuple[int, ...]) -> str:
    """Return note numbers as a superscript, empty without numbers."""
    return rf"\textsuperscript{{{','.join(map(str, numbers))}}}" if numbers else ""


def _footnote_lines(board: Board, style: TableStyle) -> list[str]:
    """Return the legend and the notes as paragraphs."""
    texts = [escape_latex(text) for text in legend(board, style)]
    texts += [
        rf"\textsuperscript{{{note.number}}}\,{escape_latex(note.full_text)}"
        for note in board.notes
    ]
    return [rf"{text}\par" for text in texts]


def _in_minipage(lines: list[str]) -> list[str]:
    """Return paragraphs as a minipage below the table, empty without any."""
    if not lines:
        return []
    return [
        r"\par\medskip",
        r"\begin{minipage}{\linewidth}\footnotesize",
        *lines,
        r"\end{minipage}",
    ]


def _behind_float(lines: list[str]) -> list[str]:
    """Return paragraphs as text behind the float, which may be broken between pages."""
    return [
        "% These notes are too long for a float, which cannot be broken between pages.",
        r"{\footnotesize\setlength{\parindent}{0pt}\sloppy",
        *lines,
        "}",
    ]
