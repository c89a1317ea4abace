"""Boards as LaTeX with booktabs."""

from __future__ import annotations

import re

from harope_bench.leaderboards.board import Board
from harope_bench.reports.grid import Grid, Span, View, lay_out, legend, title

SPECIAL = {
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


def escape(text: str) -> str:
    """Text in which LaTeX reads no command; one line."""
    straight = re.sub(r'"([^"]*)"', r"``\1''", " ".join(text.split()))
    return "".join(SPECIAL.get(character, character) for character in straight)


def latex(board: Board) -> str:
    """A table environment; needs booktabs, and amssymb where verdicts are shown."""
    grid = lay_out(board)
    left = sum(leaf.kind == "head" for leaf in grid.leaves)
    lines = [
        "% needs \\usepackage{booktabs}" + (" and \\usepackage{amssymb}" if board.show == "both" else ""),
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{escape(title(board))}{_marks(board.table_marks)}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9-]', '-', board.table.id)}}}",
        rf"\begin{{tabular}}{{{'l' * left}{'r' * (len(grid.leaves) - left)}}}",
        r"\toprule",
        *_header(grid),
        r"\midrule",
        *_body(grid),
        r"\bottomrule",
        r"\end{tabular}",
        *_under(board),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _header(grid: Grid) -> list[str]:
    lines = []
    covered = [0] * len(grid.leaves)
    for level in grid.levels:
        cells, rules, at = [], [], 0
        spans = list(level)
        while at < len(grid.leaves):
            if covered[at]:
                covered[at] -= 1
                cells.append("")
                at += 1
                continue
            span = spans.pop(0)
            cells.append(_head_cell(span))
            if span.columns > 1:
                rules.append(rf"\cmidrule(lr){{{at + 1}-{at + span.columns}}}")
            for i in range(at, at + span.columns):
                covered[i] = span.rows - 1
            at += span.columns
        lines.append(_row(cells))
        if rules:
            lines.append(" ".join(rules))
    return lines


def _head_cell(span: Span) -> str:
    text = escape(span.text)
    return rf"\multicolumn{{{span.columns}}}{{c}}{{{text}}}" if span.columns > 1 else text


def _body(grid: Grid) -> list[str]:
    lines: list[str] = []
    for block in grid.blocks:
        if lines:
            lines.append(r"\midrule")
        lines += [_row([_cell(view) for view in row]) for row in block]
    return lines


def _row(cells: list[str]) -> str:
    return re.sub(r" +", " ", " & ".join(cells)).strip() + r" \\"


def _cell(view: View) -> str:
    if view.rows == 0:
        return ""
    text = escape(view.text)
    return (rf"\textbf{{{text}}}" if view.bold else text) + _marks(view.marks)


def _marks(marks: tuple[int, ...]) -> str:
    return rf"\textsuperscript{{{','.join(map(str, marks))}}}" if marks else ""


def _under(board: Board) -> list[str]:
    texts = [escape(text) for text in legend(board)]
    texts += [rf"\textsuperscript{{{note.number}}}\,{escape(note.words)}" for note in board.notes]
    if not texts:
        return []
    return [r"\par\medskip", r"\begin{minipage}{\linewidth}\footnotesize", *[rf"{text}\par" for text in texts], r"\end{minipage}"]
