"""Boards as LaTeX tables with booktabs."""

from __future__ import annotations

import re

from harope_bench.leaderboards.board import Board
from harope_bench.reports.table_layout import (
    BodyCell,
    HeaderCell,
    TableLayout,
    board_title,
    lay_out_board,
    legend,
)

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
}


def escape_latex(text: str) -> str:
    """Return the text on one line with every LaTeX command character escaped."""
    # straight quotes become ``...''
    quoted_text = re.sub(r'"([^"]*)"', r"``\1''", " ".join(text.split()))
    return "".join(ESCAPES.get(character, character) for character in quoted_text)


def render_latex(board: Board) -> str:
    """Return a table environment. It needs booktabs, and amssymb where verdicts are shown."""
    layout = lay_out_board(board)
    n_header_columns = sum(column.kind == "head" for column in layout.columns)
    alignment = "l" * n_header_columns + "r" * (len(layout.columns) - n_header_columns)
    caption = escape_latex(board_title(board)) + _superscript(board.table_note_numbers)
    lines = [
        "% needs \\usepackage{booktabs}"
        + (" and \\usepackage{amssymb}" if board.show == "both" else ""),
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9-]', '-', board.table.id)}}}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        *_header_lines(layout),
        r"\midrule",
        *_body_lines(layout),
        r"\bottomrule",
        r"\end{tabular}",
        *_footnote_lines(board),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _header_lines(layout: TableLayout) -> list[str]:
    """Return the header rows, with a rule under each cell that spans several columns."""
    lines = []
    # rows of each column that a header cell above still covers
    n_covered_rows = [0] * len(layout.columns)
    for header_row in layout.header_rows:
        texts = []
        rules = []
        column = 0
        cells = list(header_row)
        while column < len(layout.columns):
            if n_covered_rows[column]:
                n_covered_rows[column] -= 1
                texts.append("")
                column += 1
                continue

            cell = cells.pop(0)
            texts.append(_header_text(cell))
            end = column + cell.column_span
            if cell.column_span > 1:
                rules.append(rf"\cmidrule(lr){{{column + 1}-{end}}}")
            n_covered_rows[column:end] = [cell.row_span - 1] * cell.column_span
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


def _body_lines(layout: TableLayout) -> list[str]:
    """Return the body rows, with a rule between blocks."""
    lines: list[str] = []
    for block in layout.blocks:
        if lines:
            lines.append(r"\midrule")
        lines += [_table_row([_cell_text(cell) for cell in row]) for row in block]
    return lines


def _table_row(texts: list[str]) -> str:
    """Return one table row with its line end."""
    return re.sub(r" +", " ", " & ".join(texts)).strip() + r" \\"


def _cell_text(cell: BodyCell) -> str:
    """Return a body cell with its note numbers, empty where a cell above covers it."""
    if cell.row_span == 0:
        return ""
    text = escape_latex(cell.text)
    return (rf"\textbf{{{text}}}" if cell.is_bold else text) + _superscript(cell.note_numbers)


def _superscript(numbers: tuple[int, ...]) -> str:
    """Return note numbers as a superscript, empty without numbers."""
    return rf"\textsuperscript{{{','.join(map(str, numbers))}}}" if numbers else ""


def _footnote_lines(board: Board) -> list[str]:
    """Return the legend and the notes as a minipage below the table, empty without any."""
    texts = [escape_latex(text) for text in legend(board)]
    texts += [
        rf"\textsuperscript{{{note.number}}}\,{escape_latex(note.full_text)}"
        for note in board.notes
    ]
    if not texts:
        return []
    return [
        r"\par\medskip",
        r"\begin{minipage}{\linewidth}\footnotesize",
        *[rf"{text}\par" for text in texts],
        r"\end{minipage}",
    ]
