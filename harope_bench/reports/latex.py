"""Boards as LaTeX with booktabs."""

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
    """Text in which LaTeX reads no command; one line."""
    straight = re.sub(r'"([^"]*)"', r"``\1''", " ".join(text.split()))
    return "".join(ESCAPES.get(character, character) for character in straight)


def render_latex(board: Board) -> str:
    """A table environment; needs booktabs, and amssymb where verdicts are shown."""
    grid = lay_out_board(board)
    left = sum(leaf.kind == "head" for leaf in grid.columns)
    lines = [
        "% needs \\usepackage{booktabs}"
        + (" and \\usepackage{amssymb}" if board.show == "both" else ""),
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{escape_latex(board_title(board))}{_superscript(board.table_note_numbers)}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9-]', '-', board.table.id)}}}",
        rf"\begin{{tabular}}{{{'l' * left}{'r' * (len(grid.columns) - left)}}}",
        r"\toprule",
        *_header_lines(grid),
        r"\midrule",
        *_body_lines(grid),
        r"\bottomrule",
        r"\end{tabular}",
        *_footnote_lines(board),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _header_lines(grid: TableLayout) -> list[str]:
    lines = []
    covered = [0] * len(grid.columns)
    for level in grid.header_rows:
        cells = []
        rules = []
        at = 0
        spans = list(level)
        while at < len(grid.columns):
            if covered[at]:
                covered[at] -= 1
                cells.append("")
                at += 1
                continue
            span = spans.pop(0)
            cells.append(_head_cell(span))
            if span.column_span > 1:
                rules.append(rf"\cmidrule(lr){{{at + 1}-{at + span.column_span}}}")
            for i in range(at, at + span.column_span):
                covered[i] = span.row_span - 1
            at += span.column_span
        lines.append(_table_row(cells))
        if rules:
            lines.append(" ".join(rules))
    return lines


def _head_cell(span: HeaderCell) -> str:
    text = escape_latex(span.text)
    return rf"\multicolumn{{{span.column_span}}}{{c}}{{{text}}}" if span.column_span > 1 else text


def _body_lines(grid: TableLayout) -> list[str]:
    lines: list[str] = []
    for block in grid.blocks:
        if lines:
            lines.append(r"\midrule")
        lines += [_table_row([_cell_text(view) for view in row]) for row in block]
    return lines


def _table_row(cells: list[str]) -> str:
    return re.sub(r" +", " ", " & ".join(cells)).strip() + r" \\"


def _cell_text(view: BodyCell) -> str:
    if view.row_span == 0:
        return ""
    text = escape_latex(view.text)
    return (rf"\textbf{{{text}}}" if view.is_bold else text) + _superscript(view.note_numbers)


def _superscript(marks: tuple[int, ...]) -> str:
    return rf"\textsuperscript{{{','.join(map(str, marks))}}}" if marks else ""


def _footnote_lines(board: Board) -> list[str]:
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
