"""Tables as text: Markdown, CSV, LaTeX, HTML, JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import fake_runs as fake
import pytest
from document import HOSTILE, Document

from harope_bench.core.errors import UnknownNameError
from harope_bench.data.result_store import read_results
from harope_bench.leaderboards.board import Board, build_board, load_table
from harope_bench.leaderboards.table_spec import Table, parse_table
from harope_bench.reports.latex import escape_latex
from harope_bench.reports.table_layout import format_difference, format_standard_error
from harope_bench.reports.tables import TABLE_FORMATS, render_table
from harope_bench.statistics.significance import format_p_value

GOLD = Path(__file__).parents[1] / "gold"
NUMBERS = [str(n) for n in range(1, 11)]


@lru_cache(maxsize=16)
def published_board(number: str) -> Board:
    """The published view of a table."""
    return build_board(load_table(number), [], "published")


@pytest.mark.parametrize("number", ["2", "4"])
@pytest.mark.parametrize("kind", ["md", "tex"])
def test_published_table_is_its_gold_file(number: str, kind: str) -> None:
    assert (
        render_table(published_board(number), kind) == (GOLD / f"table{number}.{kind}").read_text()
    )


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", TABLE_FORMATS)
def test_every_published_string_stands_in_every_format(number: str, kind: str) -> None:
    text = render_table(published_board(number), kind)
    assert text.endswith("\n")
    escaped_fields = {"tex": lambda s: s.replace("%", r"\%")}.get(kind, lambda s: s)
    for row in published_board(number).table.rows:
        for printed_published in row.published.values():
            assert escaped_fields(printed_published) in text


def test_unknown_format_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="json"):
        render_table(published_board("2"), "jsn")


@pytest.mark.parametrize("number", NUMBERS)
def test_markdown_is_aligned(number: str) -> None:
    lines = [
        line
        for line in render_table(published_board(number), "md").splitlines()
        if line.startswith("|")
    ]
    assert len(lines) == len(published_board(number).table.rows) + 2
    assert len({len(line) for line in lines}) == 1


def test_a_dash_is_printed_where_the_paper_prints_one() -> None:
    row = next(
        line
        for line in render_table(published_board("9"), "md").splitlines()
        if line.startswith("| DiT-B/2 (256) | RoPE ")
    )
    assert [cell.strip() for cell in row.strip("| ").split("|")][2:] == [
        "2.36",
        "0.71 [6]",
        "9.49",
        "–",
    ]
    rows = list(csv.DictReader(io.StringIO(render_table(published_board("9"), "csv"))))
    assert rows[0]["geneval"] == ""


def test_csv_has_one_header_row_and_full_numbers(tmp_path: Path) -> None:
    fake.micro_table(tmp_path)
    board = build_board(load_table("2"), read_results(tmp_path))
    rows = list(csv.DictReader(io.StringIO(render_table(board, "csv"))))
    assert [row["id"] for row in rows] == [row.id for row in board.table.rows]
    assert rows[5]["fid.published"] == "8.90"
    assert float(rows[5]["precision.measured"]) == board.cells["harope", "precision"].measured
    assert rows[5]["fid.verdict"] == "not comparable (micro)"
    assert rows[5]["fid.scale"] == "micro"


def test_json_keeps_strings_floats_and_sources_apart(tmp_path: Path) -> None:
    fake.micro_table(tmp_path)
    text = render_table(build_board(load_table("2"), read_results(tmp_path)), "json")
    document = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    cell = next(row for row in document["rows"] if row["id"] == "harope")["cells"]["fid"]
    assert (cell["published"], cell["half_unit"], cell["measured"], cell["measurement_name"]) == (
        "8.90",
        "0.005",
        13.2,
        "fid-500",
    )
    assert cell["low"] < 13.2 < cell["high"]
    assert re.fullmatch(r"[0-9a-f]{64}", cell["source"]["result_sha256"])
    assert len(document["comparisons"]) == 20
    assert list(document) == sorted(document)


def test_measured_numbers_use_the_columns_decimals_and_never_claim_no_error() -> None:
    assert format_standard_error(0.0512, 2) == "0.05"
    assert format_standard_error(0.002, 2) == "<0.01"
    assert format_standard_error(0.0, 2) == "0.00"
    assert format_difference(-0.004, 2) == "0.00"
    assert format_difference(-0.25, 2) == "−0.25"
    assert format_difference(0.25, 2) == "+0.25"
    assert format_p_value(0.0) == "<0.001"


def test_side_by_side_says_what_is_what(tmp_path: Path) -> None:
    fake.micro_run(tmp_path / "a", "harope")
    board = build_board(load_table("2"), read_results(tmp_path))
    text = render_table(board, "md")
    assert "measured (micro) FID-500" in text
    assert "13.20 ± 0.95" in text
    assert "not run" in text
    assert (
        "measured (micro, digits, 500 images, profile adm); measured − published (not comparable:"
        " micro)" in text
    )
    assert r"\multicolumn{4}{c}{measured (micro, digits, 500 images, profile adm)}" in render_table(
        board, "tex"
    )


@pytest.mark.parametrize("number", NUMBERS)
def test_html_table_is_well_formed_and_labelled(number: str) -> None:
    document = Document(render_table(published_board(number), "html"))
    table = published_board(number).table
    assert document.tags["caption"] == document.tags["table"] == 1
    assert document.tags["td"] == len(table.rows) * len(table.columns)
    assert sum(name == "scope" for _, name, _ in document.attributes) == document.tags["th"]
    spans = sum(
        int(v) for tag, name, v in document.attributes if (tag, name) == ("colgroup", "span")
    )
    assert spans == len(table.row_headers) + len(table.columns)
    assert {link for link in document.links if link[0] == "#"} <= {
        f"#{name}" for name in document.ids
    }


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("show", ["published", "both"])
def test_latex_rows_have_as_many_cells_as_columns(number: str, show: Any) -> None:
    text = render_table(build_board(load_table(number), [], show), "tex")
    columns = len(re.search(r"\\begin{tabular}{([lr]+)}", text)[1])  # type: ignore[index]
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    for line in body.splitlines():
        if line.endswith(r"\\"):
            spans = [int(n) for n in re.findall(r"\\multicolumn{(\d+)}", line)]
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + sum(spans) - len(spans) == columns, line


def hostile_table() -> Table:
    """A table whose every free text is an attack."""
    return parse_table(
        {
            "id": "bad",
            "title": HOSTILE,
            "note": HOSTILE,
            "question": HOSTILE,
            "micro_scale": {"suite": "digits", "baseline": "b"},
            "columns": [
                {
                    "key": "fid",
                    "title": HOSTILE,
                    "group": HOSTILE,
                    "direction": "lower",
                    "decimals": 2,
                }
            ],
            "rows": [
                {
                    "id": "a",
                    "title": HOSTILE,
                    "micro_checkpoint": "digits-harope",
                    "published": {"fid": "1.0 " + HOSTILE},
                },
                {"id": "b", "title": "b", "micro_checkpoint": "digits-ape"},
            ],
            "flags": [{"id": "X1", "severity": "warn", "cells": ["bad/a/fid"], "text": HOSTILE}],
        },
        "a test",
    )


def test_hostile_table_comes_out_as_text(tmp_path: Path) -> None:
    fake.micro_run(tmp_path / "a", "harope")
    board = build_board(hostile_table(), read_results(tmp_path))
    text = render_table(board, "html")
    document = Document(text)
    assert document.tags.keys() <= {
        "table",
        "caption",
        "colgroup",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "sup",
        "a",
        "p",
        "ol",
        "li",
    }
    assert "{{ 7*7 }}" in text  # as written, never computed
    assert "<script" not in render_table(board, "md").replace(r"\<script", "")
    assert (
        len(
            {
                line.replace(r"\|", "").count("|")
                for line in render_table(board, "md").splitlines()
                if line.startswith("|")
            }
        )
        == 1
    )
    assert r"\_x\_ \$y\$ \textbackslash{}z" in render_table(board, "tex")


def test_latex_reads_no_command_in_a_text() -> None:
    assert (
        escape_latex(r"\input{x} 50% & #1 ~^ [a]*")
        == r"\textbackslash{}input\{x\} 50\% \& \#1 \textasciitilde{}\textasciicircum{} {[}a{]}{*}"
    )
