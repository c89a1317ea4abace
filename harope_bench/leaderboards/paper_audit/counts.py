"""Audit of shares and their means: which numbers of images a printed share allows, and what a mean of such shares can be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import ceil, floor
from typing import NamedTuple

from harope_bench.leaderboards.paper_audit.printed_values import Finding, Printed, printed_cells, shown
from harope_bench.leaderboards.table_spec import Column, Row, Table, decimals_of, half_unit, value_of


def counts(text: str, images: int) -> list[int]:
    """Every k for which k / images rounds to the printed text; a tie may have been rounded either way."""
    low, high = (Fraction(value_of(text)) + sign * Fraction(half_unit(text)) for sign in (-1, 1))
    return list(range(max(0, ceil(low * images)), min(images, floor(high * images)) + 1))


def _counted(table: Table) -> list[Printed]:
    return [cell for cell in printed_cells(table) if cell.column.n_images]


def impossible_counts(tables: Sequence[Table]) -> Iterator[Finding]:
    """Shares of n images that no whole number of images gives."""
    for table in tables:
        for cell in _counted(table):
            images = cell.column.n_images or 0
            if not counts(cell.text, images):
                yield Finding("count", "conflict", table.id, (cell.id,), cell.text, *_neighbours(cell, images))


def _neighbours(cell: Printed, images: int) -> tuple[str, str]:
    """The nearest shares that are possible, and the arithmetic."""
    digits, below = decimals_of(cell.text), floor(cell.value * images)
    near = [f"{k}/{images} = {float(Fraction(k, images)):g}" for k in (below, below + 1)]
    texts = [shown(Fraction(k, images), digits) for k in (below, below + 1)]
    return " or ".join(texts), f"{cell.text} x {images} = {float(cell.value * images):g} images; {near[0]}, {near[1]}"


def count_census(tables: Sequence[Table]) -> Iterator[Finding]:
    """How many shares are possible counts."""
    for table in tables:
        if cells := _counted(table):
            exact = sum(bool(counts(cell.text, cell.column.n_images or 0)) for cell in cells)
            sizes = ", ".join(dict.fromkeys(f"{c.printed} {c.n_images}" for c in table.columns if c.n_images))
            said = f"{exact} of {len(cells)} cells are exact counts"
            yield Finding("count census", "info", table.id, (), f"{len(cells)} shares", said, f"images per cell: {sizes}")


class Span(NamedTuple):
    """A cell's lowest and highest possible share, and how it is written."""

    low: Fraction
    high: Fraction
    text: str


def possible_share(cell: Printed) -> Span:
    """The shares that the printed digits allow: exact counts, or the rounding interval where no count fits."""
    images = cell.column.n_images or 0
    if fitting := counts(cell.text, images):
        texts = f"{fitting[0]}/{images}" if len(fitting) == 1 else f"({fitting[0]} to {fitting[-1]})/{images}"
        return Span(Fraction(fitting[0], images), Fraction(fitting[-1], images), texts)
    half = Fraction(half_unit(cell.text))
    return Span(cell.value - half, cell.value + half, f"({cell.text} +- {float(half):g})")


def parts_of(table: Table, column: Column) -> list[Column]:
    """The columns of which this one is said to be the unweighted mean: the counted ones of its group."""
    if not (column.derived or "").startswith("unweighted mean"):
        return []
    return [c for c in table.columns if c.group == column.group and c.n_images]


def mean_of_parts(table: Table, row: Row, column: Column) -> Span | None:
    """Lowest and highest mean that the printed parts allow, with its sum in words; None where a part is missing."""
    parts = parts_of(table, column)
    if not parts or any(part.key not in row.published for part in parts):
        return None
    spans = [possible_share(Printed(table, row, part, row.published[part.key])) for part in parts]
    low = sum((span.low for span in spans), Fraction(0)) / len(spans)
    high = sum((span.high for span in spans), Fraction(0)) / len(spans)
    return Span(low, high, f"({' + '.join(span.text for span in spans)}) / {len(spans)}")


def derived_means(tables: Sequence[Table]) -> Iterator[Finding]:
    """Overall columns that are not the mean of their row, whatever the rounding of the parts."""
    for table in tables:
        for cell in printed_cells(table):
            mean, half = mean_of_parts(table, cell.row, cell.column), Fraction(half_unit(cell.text))
            if mean is not None and not (mean.low <= cell.value + half and cell.value - half <= mean.high):
                yield Finding("mean", "conflict", table.id, (cell.id,), cell.text, *_mean_words(cell, mean, half))


def _mean_words(cell: Printed, mean: Span, half: Fraction) -> tuple[str, str]:
    digits = decimals_of(cell.text)
    ends = list(dict.fromkeys(shown(end, digits) for end in (mean.low, mean.high)))
    fine = " to ".join(dict.fromkeys(shown(end, digits + 2) for end in (mean.low, mean.high)))
    reach = f"{shown(cell.value - half, digits + 1)} to {shown(cell.value + half, digits + 1)}"
    return " to ".join(ends), f"{mean.text} = {fine}; {cell.text} stands for {reach}{_pooled(cell)}"


def _pooled(cell: Printed) -> str:
    """The mean over images, in words: the other reading of an overall score."""
    parts = parts_of(cell.table, cell.column)
    fitting = [(counts(cell.row.published[part.key], part.n_images or 0), part.n_images or 0) for part in parts]
    if any(len(found) != 1 for found, _ in fitting):
        return ""
    hits, images = sum(found[0] for found, _ in fitting), sum(n for _, n in fitting)
    return f"; over all images {hits}/{images} = {shown(Fraction(hits, images), decimals_of(cell.text))}"
