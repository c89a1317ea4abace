"""Boards as text: Markdown, CSV, LaTeX, HTML, JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING

from harope_bench.core.errors import UnknownName
from harope_bench.core.escaping import csv_text, page_text
from harope_bench.leaderboards.board import EVIDENCE, Board, Cell, Comparison, PaperVerdict
from harope_bench.leaderboards.table_spec import EntryRow
from harope_bench.reports.grid import Grid, Leaf, View, lay_out, legend, source_title, title
from harope_bench.reports.latex import latex

if TYPE_CHECKING:
    from jinja2 import Environment


def render(board: Board, kind: str) -> str:
    """The board in one of the formats md, csv, tex, html, json, ending in a newline.

    Raises:
        UnknownName: no such format.
    """
    if kind not in FORMATS:
        raise UnknownName("format", kind, FORMATS)
    return FORMATS[kind](board)


def markdown(board: Board) -> str:
    """A GitHub table, aligned; numbers to the right. Group headers stand before the column's own."""
    grid = lay_out(board)
    shown = [_flat(board, leaf) for leaf in grid.leaves]
    rows = [[_markdown_cell(view) for view in row] for row in grid.rows]
    widths = [max(3, len(head), *(len(row[i]) for row in rows)) for i, head in enumerate(shown)]
    left = [leaf.kind == "head" for leaf in grid.leaves]
    rule = ["-" * width if to_left else "-" * (width - 1) + ":" for width, to_left in zip(widths, left, strict=True)]
    lines = [f"**{_markdown(title(board))}**{_bracketed(board.table_marks)}", "", _line(shown, widths, left), _line(rule, widths, left)]
    lines += [_line(row, widths, left) for row in rows]
    if wide := [source_title(board, kind) for kind in ("measured", "delta") if board.show in ("both", kind)]:
        lines += ["", _markdown("; ".join(wide)) + "."]
    lines += [line for text in legend(board) for line in ("", _markdown(text))]
    if board.notes:
        lines += ["", *[f"{note.number}. {_markdown(note.words)}" for note in board.notes]]
    return "\n".join(lines) + "\n"


def _line(cells: list[str], widths: list[int], left: list[bool]) -> str:
    padded = [cell.ljust(width) if to_left else cell.rjust(width) for cell, width, to_left in zip(cells, widths, left, strict=True)]
    return f"| {' | '.join(padded)} |"


def _flat(board: Board, leaf: Leaf) -> str:
    """The long source title would widen every column; the line under the table has it whole."""
    if leaf.kind == "head" or board.show == "published":
        return _markdown(leaf.flat)
    short = {"published": "published", "measured": f"measured ({board.scale})" if board.scale else "measured", "delta": "delta"}
    return _markdown(" ".join([short[leaf.kind], *[part for part in leaf.path[1:] if part]]))


def _markdown_cell(view: View) -> str:
    text = _markdown(view.text)
    return (f"**{text}**" if view.bold else text) + _bracketed(view.marks)


def _markdown(text: str) -> str:
    """One line in which nothing is read as markup: neither Markdown's, nor HTML's, nor a formula between dollars."""
    return re.sub(r"([\\`*_\[\]|$~]|<(?=[A-Za-z/!?])|&(?=[A-Za-z#])|^[>#])", r"\\\1", " ".join(text.split()))


def _bracketed(marks: tuple[int, ...]) -> str:
    return f" [{', '.join(map(str, marks))}]" if marks else ""


def comma_separated(board: Board) -> str:
    """One header row; published strings as printed, measured numbers in full, empty where there is none."""
    table, parts = board.table, _csv_parts(board)
    heads = [head.printed or "row" for head in table.heads]
    rows: list[list[str]] = [["id", *heads, *[column.key + end for column in table.columns for end in parts]]]
    for row in table.rows:
        cells = [part(board.cells[row.id, column.key]) for column in table.columns for part in parts.values()]
        rows.append([row.id, *[row.text(head) for head in table.heads], *cells])
    return csv_text(rows)


def _csv_parts(board: Board) -> dict[str, Callable[[Cell], str]]:
    published: dict[str, Callable[[Cell], str]] = {".published": lambda cell: cell.published or ""}
    if board.show == "published":
        return {"": published[".published"]}
    measured: dict[str, Callable[[Cell], str]] = {
        ".measured": lambda cell: _number(cell.measured),
        ".se": lambda cell: _number(cell.se),
        ".low": lambda cell: _number(cell.low),
        ".high": lambda cell: _number(cell.high),
        ".n": lambda cell: "" if cell.n is None else str(cell.n),
        ".name": lambda cell: cell.number or "",
        ".scale": lambda cell: cell.scale or "",
        ".note": lambda cell: cell.note or ("" if cell.status == "measured" else cell.status),
    }
    if board.show == "measured":
        return measured
    delta: dict[str, Callable[[Cell], str]] = {
        ".delta": lambda cell: _number(cell.delta),
        ".half_unit": lambda cell: cell.half_unit or "",
        ".verdict": lambda cell: _shown(cell.verdict),
    }
    return published | measured | delta


def _shown(verdict: PaperVerdict | None) -> str:
    return "" if verdict is None else str(verdict)


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)


def as_json(board: Board) -> str:
    """Everything the board knows: sorted keys, no NaN, published numbers as printed strings."""
    return json.dumps(board_facts(board), sort_keys=True, allow_nan=False, indent=2, ensure_ascii=False) + "\n"


def board_facts(board: Board) -> dict[str, object]:
    """The board as plain values."""
    table = board.table
    return {
        "table": table.id,
        "title": table.title,
        "show": board.show,
        "scale": board.scale,
        "evidence": EVIDENCE if board.compared else None,
        "protocol": table.protocol,
        "columns": [column.model_dump(mode="json", exclude_none=True) for column in table.columns],
        "rows": [
            {
                "id": row.id,
                "printed": row.printed,
                "heads": [row.text(head) for head in table.heads],
                "encoding": row.encoding,
                "same_as": row.same_as,
                "is_added": isinstance(row, EntryRow) and row.is_added,
                "cells": {column.key: _cell_facts(board, board.cells[row.id, column.key]) for column in table.columns},
            }
            for row in table.rows
        ],
        "comparisons": [comparison_facts(item) for item in board.compared],
        "notes": [asdict(note) for note in board.notes],
    }


def _cell_facts(board: Board, cell: Cell) -> dict[str, object]:
    facts = {**asdict(cell), "verdict": None if cell.verdict is None else str(cell.verdict)}
    if board.show == "published":
        return {key: facts[key] for key in ("published", "half_unit", "flags", "best_published", "marks")}
    if board.show == "measured":
        return {
            key: value
            for key, value in facts.items()
            if key not in ("published", "half_unit", "best_published", "flags", "delta", "verdict")
        }
    return facts


def comparison_facts(item: Comparison) -> dict[str, object]:
    """A comparison as plain values."""
    facts = asdict(item)
    return {**facts, "difference": item.difference._asdict()}


def html(board: Board) -> str:
    """A <table> fragment with caption, scopes, column groups, raw values in data-v, and its notes."""
    return environment().get_template("board.html").render(**table_page(board)) + "\n"


def table_page(board: Board) -> dict[str, object]:
    """What the table template asks for."""
    grid = lay_out(board)
    return {
        "board": board,
        "anchor": anchor(board),
        "grid": grid,
        "title": title(board),
        "legend": legend(board),
        "groups": _groups(grid),
        "sortable": not grid.spanned and len(grid.blocks) == 1,
    }


def anchor(board: Board) -> str:
    """The id by which a page links to this board."""
    return f"{board.table.id}-{board.scale}" if board.scale else board.table.id


def _groups(grid: Grid) -> list[tuple[str, int]]:
    groups: list[tuple[str, int]] = []
    for leaf in grid.leaves:
        if groups and groups[-1][0] == leaf.kind:
            groups[-1] = (leaf.kind, groups[-1][1] + 1)
        else:
            groups.append((leaf.kind, 1))
    return groups


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Templates with escaping on; all of their files end in .html, by which jinja2 knows."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    return Environment(
        loader=PackageLoader("harope_bench.reports", "templates"),
        autoescape=select_autoescape(["html"], default=True, default_for_string=True),
        undefined=StrictUndefined,
        finalize=_page_value,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _page_value(value: object) -> object:
    """Return a value as a page shows it, markup or not: text without control characters, which is escaped after."""
    return type(value)(page_text(value)) if isinstance(value, str) and not value.isprintable() else value


FORMATS: dict[str, Callable[[Board], str]] = {"md": markdown, "csv": comma_separated, "tex": latex, "html": html, "json": as_json}
