"""Boards as text: Markdown, CSV, LaTeX, HTML, JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING

from harope_bench.core.errors import UnknownNameError
from harope_bench.core.escaping import csv_text, page_text
from harope_bench.leaderboards.board import (
    CHECKPOINT_EVIDENCE,
    Board,
    Cell,
    PaperVerdict,
    RowComparison,
)
from harope_bench.leaderboards.table_spec import EntryRow
from harope_bench.reports.latex import render_latex
from harope_bench.reports.table_layout import (
    BodyCell,
    LayoutColumn,
    TableLayout,
    board_title,
    column_kind_title,
    lay_out_board,
    legend,
)

if TYPE_CHECKING:
    from jinja2 import Environment


def render_table(board: Board, format: str) -> str:
    """The board in one of the formats md, csv, tex, html, json, ending in a newline.

    Raises:
        UnknownName: no such format.
    """
    if format not in TABLE_FORMATS:
        raise UnknownNameError("format", format, TABLE_FORMATS)
    return TABLE_FORMATS[format](board)


def render_markdown(board: Board) -> str:
    """A GitHub table, aligned; numbers to the right. Group headers stand before the column's
    own.
    """
    grid = lay_out_board(board)
    shown = [_column_title(board, leaf) for leaf in grid.columns]
    rows = [[_markdown_cell(view) for view in row] for row in grid.rows]
    widths = [max(3, len(head), *(len(row[i]) for row in rows)) for i, head in enumerate(shown)]
    left = [leaf.kind == "head" for leaf in grid.columns]
    rule = [
        "-" * width if to_left else "-" * (width - 1) + ":"
        for width, to_left in zip(widths, left, strict=True)
    ]
    lines = [
        f"**{_markdown(board_title(board))}**{_note_reference(board.table_note_numbers)}",
        "",
        _markdown_row(shown, widths, left),
        _markdown_row(rule, widths, left),
    ]
    lines += [_markdown_row(row, widths, left) for row in rows]
    if wide := [
        column_kind_title(board, kind)
        for kind in ("measured", "delta")
        if board.show in ("both", kind)
    ]:
        lines += ["", _markdown("; ".join(wide)) + "."]
    lines += [line for text in legend(board) for line in ("", _markdown(text))]
    if board.notes:
        lines += ["", *[f"{note.number}. {_markdown(note.full_text)}" for note in board.notes]]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: list[str], widths: list[int], left: list[bool]) -> str:
    padded = [
        cell.ljust(width) if to_left else cell.rjust(width)
        for cell, width, to_left in zip(cells, widths, left, strict=True)
    ]
    return f"| {' | '.join(padded)} |"


def _column_title(board: Board, leaf: LayoutColumn) -> str:
    """The long source title would widen every column; the line under the table has it whole."""
    if leaf.kind == "head" or board.show == "published":
        return _markdown(leaf.flat_title)
    short = {
        "published": "published",
        "measured": f"measured ({board.scale})" if board.scale else "measured",
        "delta": "delta",
    }
    return _markdown(" ".join([short[leaf.kind], *[part for part in leaf.titles[1:] if part]]))


def _markdown_cell(view: BodyCell) -> str:
    text = _markdown(view.text)
    return (f"**{text}**" if view.is_bold else text) + _note_reference(view.note_numbers)


def _markdown(text: str) -> str:
    """One line in which nothing is read as markup: neither Markdown's, nor HTML's, nor a formula
    between dollars.
    """
    return re.sub(
        r"([\\`*_\[\]|$~]|<(?=[A-Za-z/!?])|&(?=[A-Za-z#])|^[>#])", r"\\\1", " ".join(text.split())
    )


def _note_reference(marks: tuple[int, ...]) -> str:
    return f" [{', '.join(map(str, marks))}]" if marks else ""


def render_csv(board: Board) -> str:
    """One header row; published strings as printed, measured numbers in full, empty where there is
    none.
    """
    table = board.table
    parts = _csv_columns(board)
    heads = [head.printed or "row" for head in table.row_headers]
    rows: list[list[str]] = [
        ["id", *heads, *[column.key + end for column in table.columns for end in parts]]
    ]
    for row in table.rows:
        cells = [
            part(board.cells[row.id, column.key])
            for column in table.columns
            for part in parts.values()
        ]
        rows.append([row.id, *[row.header_text(head) for head in table.row_headers], *cells])
    return csv_text(rows)


def _csv_columns(board: Board) -> dict[str, Callable[[Cell], str]]:
    published: dict[str, Callable[[Cell], str]] = {".published": lambda cell: cell.published or ""}
    if board.show == "published":
        return {"": published[".published"]}
    measured: dict[str, Callable[[Cell], str]] = {
        ".measured": lambda cell: _number_text(cell.measured),
        ".se": lambda cell: _number_text(cell.se),
        ".low": lambda cell: _number_text(cell.low),
        ".high": lambda cell: _number_text(cell.high),
        ".n": lambda cell: "" if cell.n_scored is None else str(cell.n_scored),
        ".name": lambda cell: cell.measurement_name or "",
        ".scale": lambda cell: cell.scale or "",
        ".note": lambda cell: cell.note or ("" if cell.status == "measured" else cell.status),
    }
    if board.show == "measured":
        return measured
    delta: dict[str, Callable[[Cell], str]] = {
        ".delta": lambda cell: _number_text(cell.delta),
        ".half_unit": lambda cell: cell.half_unit or "",
        ".verdict": lambda cell: _shown(cell.verdict),
    }
    return published | measured | delta


def _shown(verdict: PaperVerdict | None) -> str:
    return "" if verdict is None else str(verdict)


def _number_text(value: float | None) -> str:
    return "" if value is None else repr(value)


def render_json(board: Board) -> str:
    """Everything the board knows: sorted keys, no NaN, published numbers as printed strings."""
    return (
        json.dumps(board_json(board), sort_keys=True, allow_nan=False, indent=2, ensure_ascii=False)
        + "\n"
    )


def board_json(board: Board) -> dict[str, object]:
    """The board as plain values."""
    table = board.table
    return {
        "table": table.id,
        "title": table.title,
        "show": board.show,
        "scale": board.scale,
        "evidence": CHECKPOINT_EVIDENCE if board.comparisons else None,
        "protocol": table.protocol,
        "columns": [column.model_dump(mode="json", exclude_none=True) for column in table.columns],
        "rows": [
            {
                "id": row.id,
                "printed": row.title,
                "heads": [row.header_text(head) for head in table.row_headers],
                "encoding": row.encoding,
                "same_as": row.repeated_row,
                "is_added": isinstance(row, EntryRow) and row.is_added,
                "cells": {
                    column.key: _cell_json(board, board.cells[row.id, column.key])
                    for column in table.columns
                },
            }
            for row in table.rows
        ],
        "comparisons": [row_comparison_json(item) for item in board.comparisons],
        "notes": [asdict(note) for note in board.notes],
    }


def _cell_json(board: Board, cell: Cell) -> dict[str, object]:
    facts = {**asdict(cell), "verdict": None if cell.verdict is None else str(cell.verdict)}
    if board.show == "published":
        return {
            key: facts[key]
            for key in ("published", "half_unit", "flags", "best_published", "marks")
        }
    if board.show == "measured":
        return {
            key: value
            for key, value in facts.items()
            if key not in ("published", "half_unit", "best_published", "flags", "delta", "verdict")
        }
    return facts


def row_comparison_json(item: RowComparison) -> dict[str, object]:
    """A comparison as plain values."""
    facts = asdict(item)
    return {**facts, "difference": item.difference._asdict()}


def render_html(board: Board) -> str:
    """A <table> fragment with caption, scopes, column groups, raw values in data-v, and its
    notes.
    """
    return template_environment().get_template("board.html").render(**table_context(board)) + "\n"


def table_context(board: Board) -> dict[str, object]:
    """What the table template asks for."""
    grid = lay_out_board(board)
    return {
        "board": board,
        "anchor": board_anchor(board),
        "grid": grid,
        "title": board_title(board),
        "legend": legend(board),
        "groups": _column_groups(grid),
        "sortable": not grid.has_row_spans and len(grid.blocks) == 1,
    }


def board_anchor(board: Board) -> str:
    """The id by which a page links to this board."""
    return f"{board.table.id}-{board.scale}" if board.scale else board.table.id


def _column_groups(grid: TableLayout) -> list[tuple[str, int]]:
    groups: list[tuple[str, int]] = []
    for leaf in grid.columns:
        if groups and groups[-1][0] == leaf.kind:
            groups[-1] = (leaf.kind, groups[-1][1] + 1)
        else:
            groups.append((leaf.kind, 1))
    return groups


@lru_cache(maxsize=1)
def template_environment() -> Environment:
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
    """Return a value as a page shows it, markup or not: text without control characters, which is
    escaped after.
    """
    return (
        type(value)(page_text(value))
        if isinstance(value, str) and not value.isprintable()
        else value
    )


TABLE_FORMATS: dict[str, Callable[[Board], str]] = {
    "md": render_markdown,
    "csv": render_csv,
    "tex": render_latex,
    "html": render_html,
    "json": render_json,
}
