"""Boards as Markdown, CSV, LaTeX, HTML and JSON."""

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
    DEFAULT_STYLE,
    BodyCell,
    ColumnKind,
    LayoutColumn,
    TableLayout,
    TableStyle,
    board_title,
    column_kind_title,
    lay_out_board,
    legend,
    with_notes_on_marks,
)

if TYPE_CHECKING:
    from jinja2 import Environment


def render_table(board: Board, format_name: str, style: TableStyle = DEFAULT_STYLE) -> str:
    """Return a board in one of TABLE_FORMATS, ending in a newline.

    Raises:
        UnknownNameError: there is no such format.
    """
    if format_name not in TABLE_FORMATS:
        raise UnknownNameError("format", format_name, TABLE_FORMATS)
    return TABLE_FORMATS[format_name](with_notes_on_marks(board, style), style)


def render_markdown(board: Board, style: TableStyle = DEFAULT_STYLE) -> str:
    """Return a GitHub table with aligned columns, a legend and numbered notes.

    Numbers are right-aligned. The titles of a column and of its group are joined.
    """
    layout = lay_out_board(board, style)
    titles = [_column_title(board, column) for column in layout.columns]
    rows = [[_markdown_cell(cell) for cell in row] for row in layout.rows]
    widths = [max(3, len(title), *(len(row[i]) for row in rows)) for i, title in enumerate(titles)]

    # row headers are aligned to the left, numbers to the right
    is_left = [column.kind == "head" for column in layout.columns]
    rule = [
        "-" * width if to_left else "-" * (width - 1) + ":"
        for width, to_left in zip(widths, is_left, strict=True)
    ]
    lines = [
        f"**{escape_markdown(board_title(board))}**{_note_reference(board.table_note_numbers)}",
        "",
        _markdown_row(titles, widths, is_left),
        _markdown_row(rule, widths, is_left),
    ]
    lines += [_markdown_row(row, widths, is_left) for row in rows]

    # the long titles of the kinds, the legend and the notes stand below the table
    kinds: tuple[ColumnKind, ...] = ("measured", "delta")
    kind_titles = [
        column_kind_title(board, kind)
        for kind in kinds
        if board.show in ("both", kind) and (kind != "delta" or style.has_differences)
    ]
    if kind_titles:
        lines += ["", escape_markdown("; ".join(kind_titles)) + "."]
    for text in legend(board, style):
        lines += ["", escape_markdown(text)]
    if board.notes and style.has_notes:
        lines += [
            "",
            *[f"{note.number}. {escape_markdown(note.full_text)}" for note in board.notes],
        ]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: list[str], widths: list[int], is_left: list[bool]) -> str:
    """Return one line of a Markdown table with the cells padded to their widths."""
    padded_cells = [
        cell.ljust(width) if to_left else cell.rjust(width)
        for cell, width, to_left in zip(cells, widths, is_left, strict=True)
    ]
    return f"| {' | '.join(padded_cells)} |"


def _column_title(board: Board, column: LayoutColumn) -> str:
    """Return a column's title with a short name of its kind.

    The full name of the measured kind is long, so it is printed below the table instead.
    """
    if column.kind == "head" or board.show == "published":
        return escape_markdown(column.flat_title)
    short_names = {
        "published": "published",
        "measured": f"measured ({board.scale})" if board.scale else "measured",
        "delta": "delta",
    }
    return escape_markdown(
        " ".join([short_names[column.kind], *[title for title in column.titles[1:] if title]])
    )


def _markdown_cell(cell: BodyCell) -> str:
    """Return a cell with its note numbers. <ins> is underlined on GitHub."""
    text = escape_markdown(cell.text)
    if cell.is_underlined:
        text = f"<ins>{text}</ins>"
    return (f"**{text}**" if cell.is_bold else text) + _note_reference(cell.note_numbers)


def escape_markdown(text: str) -> str:
    """Return the text on one line with Markdown, HTML and math characters escaped."""
    return re.sub(
        r"([\\`*_\[\]|$~]|<(?=[A-Za-z/!?])|&(?=[A-Za-z#])|^[>#])", r"\\\1", " ".join(text.split())
    )


def _note_reference(numbers: tuple[int, ...]) -> str:
    """Return note numbers in square brackets, empty without numbers."""
    return f" [{', '.join(map(str, numbers))}]" if numbers else ""


def render_csv(board: Board, style: TableStyle = DEFAULT_STYLE) -> str:
    """Return the board as CSV with one header row. It has no style.

    Published strings are as printed, measured numbers in full, missing ones empty.
    """
    table = board.table
    cell_texts = _csv_columns(board)
    header_titles = [header.title or "row" for header in table.row_headers]
    rows: list[list[str]] = [
        [
            "id",
            *header_titles,
            *[column.key + suffix for column in table.columns for suffix in cell_texts],
        ]
    ]
    for row in table.rows:
        cells = [
            cell_text(board.cells[row.id, column.key])
            for column in table.columns
            for cell_text in cell_texts.values()
        ]
        rows.append([row.id, *[row.header_text(header) for header in table.row_headers], *cells])
    return csv_text(rows)


def _csv_columns(board: Board) -> dict[str, Callable[[Cell], str]]:
    """Return the CSV columns of one table column: suffix of the title, and the cell's text."""
    published_texts: dict[str, Callable[[Cell], str]] = {
        ".published": lambda cell: cell.published or ""
    }
    if board.show == "published":
        return {"": published_texts[".published"]}
    measured_texts: dict[str, Callable[[Cell], str]] = {
        ".measured": lambda cell: _number_text(cell.measured),
        ".standard_error": lambda cell: _number_text(cell.se),
        ".low": lambda cell: _number_text(cell.low),
        ".high": lambda cell: _number_text(cell.high),
        ".n_scored": lambda cell: "" if cell.n_scored is None else str(cell.n_scored),
        ".measurement_name": lambda cell: cell.measurement_name or "",
        ".scale": lambda cell: cell.scale or "",
        ".note": lambda cell: cell.note or ("" if cell.status == "measured" else cell.status),
    }
    if board.show == "measured":
        return measured_texts
    delta_texts: dict[str, Callable[[Cell], str]] = {
        ".delta": lambda cell: _number_text(cell.delta),
        ".half_unit": lambda cell: cell.half_unit or "",
        ".verdict": lambda cell: _verdict_text(cell.verdict),
    }
    return published_texts | measured_texts | delta_texts


def _verdict_text(verdict: PaperVerdict | None) -> str:
    """Return a verdict with its reason, empty for None."""
    return "" if verdict is None else str(verdict)


def _number_text(value: float | None) -> str:
    """Return a number in full, empty for None."""
    return "" if value is None else repr(value)


def render_json(board: Board, style: TableStyle = DEFAULT_STYLE) -> str:
    """Return the board as JSON with sorted keys; published numbers are the printed strings.

    It has no style.
    """
    values = board_json(board)
    text = json.dumps(values, sort_keys=True, allow_nan=False, indent=2, ensure_ascii=False)
    return text + "\n"


def board_json(board: Board) -> dict[str, object]:
    """Return the board as plain values."""
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
                "title": row.title,
                "row_headers": [row.header_text(header) for header in table.row_headers],
                "encoding": row.encoding,
                "repeated_row": row.repeated_row,
                "is_added": isinstance(row, EntryRow) and row.is_added,
                "cells": {
                    column.key: _cell_json(board, board.cells[row.id, column.key])
                    for column in table.columns
                },
            }
            for row in table.rows
        ],
        "comparisons": [row_comparison_json(comparison) for comparison in board.comparisons],
        "notes": [asdict(note) for note in board.notes],
    }


def _cell_json(board: Board, cell: Cell) -> dict[str, object]:
    """Return the fields of a cell that the board shows."""
    fields = {**asdict(cell), "verdict": None if cell.verdict is None else str(cell.verdict)}
    published_fields = {"published", "half_unit", "flags", "is_best_published"}
    if board.show == "published":
        return {key: fields[key] for key in (*published_fields, "note_numbers")}
    if board.show == "measured":
        excluded_fields = published_fields | {"delta", "verdict"}
        return {key: value for key, value in fields.items() if key not in excluded_fields}
    return fields


def row_comparison_json(comparison: RowComparison) -> dict[str, object]:
    """Return a comparison as plain values."""
    return {**asdict(comparison), "difference": comparison.difference._asdict()}


def render_html(board: Board, style: TableStyle = DEFAULT_STYLE) -> str:
    """Return the board as an HTML <table> with caption and notes; data-v holds the full numbers."""
    template = template_environment().get_template("board.html")
    return template.render(**table_context(board, style)) + "\n"


def table_context(board: Board, style: TableStyle = DEFAULT_STYLE) -> dict[str, object]:
    """Return the variables of the table template."""
    layout = lay_out_board(board, style)
    return {
        "board": board,
        "anchor": board_anchor(board),
        "layout": layout,
        "title": board_title(board),
        "legend": legend(board, style),
        "column_groups": _column_groups(layout),
        "is_sortable": not layout.has_row_spans and len(layout.blocks) == 1,
    }


def board_anchor(board: Board) -> str:
    """Return the id by which a page links to this board."""
    return f"{board.table.id}-{board.scale}" if board.scale else board.table.id


def _column_groups(layout: TableLayout) -> list[tuple[str, int]]:
    """Return (kind, number of columns) for neighbouring columns of one kind."""
    groups: list[tuple[str, int]] = []
    for column in layout.columns:
        if groups and groups[-1][0] == column.kind:
            groups[-1] = (column.kind, groups[-1][1] + 1)
        else:
            groups.append((column.kind, 1))
    return groups


@lru_cache(maxsize=1)
def template_environment() -> Environment:
    """Return the Jinja environment of the pages. Text is escaped; unknown names are errors."""
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
    """Return a value without control characters; Jinja escapes it afterwards."""
    if isinstance(value, str) and not value.isprintable():
        # the type is kept: markup that is already escaped must not be escaped twice
        return type(value)(page_text(value))
    return value


TABLE_FORMATS: dict[str, Callable[[Board, TableStyle], str]] = {
    "md": render_markdown,
    "csv": render_csv,
    "tex": render_latex,
    "html": render_html,
    "json": render_json,
}
