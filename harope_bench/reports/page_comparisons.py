"""Differences between rows as texts, and the forest plots that show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from harope_bench.leaderboards.board import Board
from harope_bench.leaderboards.comparisons import RowComparison
from harope_bench.leaderboards.table_spec import DASH, Column, EntryRow, Row
from harope_bench.reports import page_figures
from harope_bench.reports.encoding_styles import EncodingStyle
from harope_bench.reports.table_layout import (
    VERDICT_GLYPHS,
    format_difference,
    format_standard_error,
)
from harope_bench.statistics.significance import format_p_value


@dataclass(frozen=True)
class ComparedColumn:
    """What a comparison needs to know of a column or metric: how it is called and printed.

    decimals: of a difference, one more than the value is printed with.
    evaluator: title of the evaluator of a metric outside tables.
    """

    title: str
    direction: Literal["higher", "lower"]
    unit: str
    decimals: int
    evaluator: str = ""


@dataclass(frozen=True)
class ComparisonTexts:
    """Comparisons with the labels of their rows and with their columns, in the order of display.

    added_rows: rows that the user added, which the verdict names first.
    styles: colour and mark by row id.
    """

    comparisons: tuple[RowComparison, ...]
    labels: Mapping[str, str]
    columns: Mapping[str, ComparedColumn]
    added_rows: frozenset[str] = frozenset()
    styles: Mapping[str, EncodingStyle] = field(default_factory=dict)

    @property
    def baseline_labels(self) -> tuple[str, ...]:
        """Return the labels of the rows that differences are taken from."""
        return tuple(
            dict.fromkeys(self.labels[comparison.baseline] for comparison in self.comparisons)
        )

    @property
    def n_paired(self) -> int:
        """Return how many differences are paired."""
        return sum(comparison.difference.is_paired for comparison in self.comparisons)

    @property
    def pairing_text(self) -> str:
        """Return how many differences are paired, as a text."""
        return f"{self.n_paired} of {len(self.comparisons)} differences are paired"


@dataclass(frozen=True)
class ForestPlot:
    """A forest plot of one column, or of several columns of one unit.

    has_new_seeds_intervals: it has intervals for the same prompts and new seeds, too.
    """

    heading: str
    svg: str
    has_new_seeds_intervals: bool


@dataclass(frozen=True)
class ComparisonRow:
    """One row of the comparison table as text. `sort_values` are the numbers in full.

    is_tested: it has an adjusted p value.
    """

    row: str
    baseline: str
    measurement_name: str
    verdict: str
    glyph: str
    delta: str
    interval: str
    se: str
    p: str
    p_adjusted: str
    detectable_difference: str
    explanation: str
    sort_values: tuple[str, ...]
    is_tested: bool


def board_comparison_texts(board: Board) -> ComparisonTexts:
    """Return the comparisons of a board with the labels of its rows and columns."""
    return ComparisonTexts(
        board.comparisons,
        {row.id: row_label(board, row.id) for row in board.table.rows},
        {
            column.key: ComparedColumn(
                board.measured_column_titles[column.key],
                column.direction,
                column.unit,
                _difference_decimals(column),
            )
            for column in board.table.columns
        },
        frozenset(row.id for row in board.table.rows if isinstance(row, EntryRow) and row.is_added),
    )


def row_label(board: Board, row_id: str) -> str:
    """Return a row's title, after model, resolution or both where several rows have this title."""
    row = board.table.find_row(row_id)
    namesakes = [r for r in board.table.rows if r.title == row.title]
    for fields in ((), ("model",), ("resolution",), ("model", "resolution")):
        is_unique = len({_row_fields(r, fields) for r in namesakes}) == len(namesakes)
        if is_unique:
            break
    return " ".join((*_row_fields(row, fields), row.title))


def _row_fields(row: Row, fields: tuple[str, ...]) -> tuple[str, ...]:
    """Return the values of these fields that are not None, as texts."""
    values = [row.header_fields[field] for field in fields]
    return tuple(str(value) for value in values if value is not None)


def _difference_decimals(column: Column) -> int:
    """Return one decimal more than the paper prints, since differences are small."""
    return (2 if column.decimals is None else column.decimals) + 1


def comparison_rows(texts: ComparisonTexts) -> tuple[ComparisonRow, ...]:
    """Return every comparison as the texts of one table row."""
    return tuple(_comparison_row(texts, comparison) for comparison in texts.comparisons)


def _comparison_row(texts: ComparisonTexts, comparison: RowComparison) -> ComparisonRow:
    """Return a comparison as the texts of one table row."""
    column = texts.columns[comparison.column]
    difference = comparison.difference
    interval = DASH
    if difference.low is not None and difference.high is not None:
        low_text = format_difference(difference.low, column.decimals)
        high_text = format_difference(difference.high, column.decimals)
        interval = f"{low_text} to {high_text}"
    numbers = (
        difference.delta,
        difference.se,
        difference.p,
        comparison.p_adjusted,
        comparison.detectable_difference,
    )
    return ComparisonRow(
        texts.labels[comparison.row],
        texts.labels[comparison.baseline],
        column.title,
        comparison.verdict,
        VERDICT_GLYPHS[comparison.verdict],
        DASH if difference.delta is None else format_difference(difference.delta, column.decimals),
        interval,
        _error_text(difference.se, column),
        format_p_value(difference.p, DASH),
        format_p_value(comparison.p_adjusted, DASH),
        _error_text(comparison.detectable_difference, column),
        difference.reason,
        tuple("" if value is None else repr(value) for value in numbers),
        comparison.p_adjusted is not None,
    )


def _error_text(value: float | None, column: ComparedColumn) -> str:
    """Return a standard error or detectable difference, a dash where it is unknown."""
    return DASH if value is None else format_standard_error(value, column.decimals)


def forest_plots(texts: ComparisonTexts, anchor: str) -> tuple[ForestPlot, ...]:
    """Return a forest plot for each column that has a difference."""
    plots = (column_forest(texts, key, f"{anchor}-{key}") for key in texts.columns)
    return tuple(plot for plot in plots if plot is not None)


def column_forest(texts: ComparisonTexts, key: str, svg_id: str) -> ForestPlot | None:
    """Return the forest plot of a column, one line per row; None without differences."""
    rows = [
        (texts.labels[comparison.row], comparison)
        for comparison in texts.comparisons
        if comparison.column == key and comparison.difference.delta is not None
    ]
    if not rows:
        return None
    column = texts.columns[key]
    svg = page_figures.forest_svg(svg_id, column.title, column.direction, rows, texts.styles)
    return ForestPlot(column.title, svg, _has_new_seeds_intervals(rows))


def row_forest(texts: ComparisonTexts, row_id: str, key: str, svg_id: str) -> ForestPlot | None:
    """Return the forest plot of one row, one line per metric of one evaluator.

    They are the metrics of the evaluator, unit and direction of column `key`.
    """
    headline = texts.columns[key]
    # the metric of the verdict comes first
    comparisons = sorted(texts.comparisons, key=lambda comparison: comparison.column != key)
    rows = [
        (
            texts.columns[comparison.column].title.removeprefix(f"{headline.evaluator}: "),
            comparison,
        )
        for comparison in comparisons
        if comparison.row == row_id
        and comparison.difference.delta is not None
        and _is_like(texts.columns[comparison.column], headline)
    ]
    if not rows:
        return None
    heading = headline.title if len(rows) == 1 else headline.evaluator
    svg = page_figures.forest_svg(svg_id, heading, headline.direction, rows, texts.styles)
    title = f"{texts.labels[row_id]}, {heading}"
    return ForestPlot(title, svg, _has_new_seeds_intervals(rows))


def _has_new_seeds_intervals(rows: Sequence[tuple[str, RowComparison]]) -> bool:
    """Return whether a row of a plot has an interval for the same prompts and new seeds."""
    return any(comparison.difference.new_seeds_interval is not None for _, comparison in rows)


def _is_like(column: ComparedColumn, headline: ComparedColumn) -> bool:
    """Return whether two metrics can share the axis of a plot."""
    return (column.evaluator, column.unit, column.direction) == (
        headline.evaluator,
        headline.unit,
        headline.direction,
    )


def headline_key(keys: Sequence[str]) -> str | None:
    """Return the column that a table's first plot shows: its overall score, its FID, or its first.

    Args:
        keys: of the columns that have a difference.
    """
    return next((key for key in ("overall", "fid") if key in keys), keys[0] if keys else None)


def compared_keys(texts: ComparisonTexts) -> list[str]:
    """Return the columns that have a difference, in the order of display."""
    keys = {
        comparison.column
        for comparison in texts.comparisons
        if comparison.difference.delta is not None
    }
    return [key for key in texts.columns if key in keys]
