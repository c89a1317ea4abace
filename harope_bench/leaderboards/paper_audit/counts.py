"""Audit of shares and their means: which numbers of images a printed share allows, and what a mean
of such shares can be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import ceil, floor
from typing import NamedTuple

from harope_bench.leaderboards.paper_audit.printed_values import (
    AuditFinding,
    PublishedCell,
    format_fraction,
    published_cells,
)
from harope_bench.leaderboards.table_spec import (
    Column,
    Row,
    Table,
    count_decimals,
    half_unit,
    leading_number,
)


def possible_counts(text: str, images: int) -> list[int]:
    """Every k for which k / images rounds to the printed text; a tie may have been rounded either
    way.
    """
    low, high = (
        Fraction(leading_number(text)) + sign * Fraction(half_unit(text)) for sign in (-1, 1)
    )
    return list(range(max(0, ceil(low * images)), min(images, floor(high * images)) + 1))


def _fraction_cells(table: Table) -> list[PublishedCell]:
    return [cell for cell in published_cells(table) if cell.column.n_images]


def find_impossible_counts(tables: Sequence[Table]) -> Iterator[AuditFinding]:
    """Shares of n images that no whole number of images gives."""
    for table in tables:
        for cell in _fraction_cells(table):
            images = cell.column.n_images or 0
            if not possible_counts(cell.text, images):
                yield AuditFinding(
                    "count",
                    "conflict",
                    table.id,
                    (cell.id,),
                    cell.text,
                    *_nearest_fractions(cell, images),
                )


def _nearest_fractions(cell: PublishedCell, images: int) -> tuple[str, str]:
    """The nearest shares that are possible, and the arithmetic."""
    digits = count_decimals(cell.text)
    below = floor(cell.value * images)
    near = [f"{k}/{images} = {float(Fraction(k, images)):g}" for k in (below, below + 1)]
    texts = [format_fraction(Fraction(k, images), digits) for k in (below, below + 1)]
    return (
        " or ".join(texts),
        f"{cell.text} x {images} = {float(cell.value * images):g} images; {near[0]}, {near[1]}",
    )


def count_possible_fractions(tables: Sequence[Table]) -> Iterator[AuditFinding]:
    """How many shares are possible counts."""
    for table in tables:
        if cells := _fraction_cells(table):
            exact = sum(
                bool(possible_counts(cell.text, cell.column.n_images or 0)) for cell in cells
            )
            sizes = ", ".join(
                dict.fromkeys(f"{c.printed} {c.n_images}" for c in table.columns if c.n_images)
            )
            said = f"{exact} of {len(cells)} cells are exact counts"
            yield AuditFinding(
                "count census",
                "info",
                table.id,
                (),
                f"{len(cells)} shares",
                said,
                f"images per cell: {sizes}",
            )


class FractionRange(NamedTuple):
    """A cell's lowest and highest possible share, and how it is written."""

    low: Fraction
    high: Fraction
    text: str


def possible_fraction(cell: PublishedCell) -> FractionRange:
    """The shares that the printed digits allow: exact counts, or the rounding interval where no
    count fits.
    """
    images = cell.column.n_images or 0
    if fitting := possible_counts(cell.text, images):
        texts = (
            f"{fitting[0]}/{images}"
            if len(fitting) == 1
            else f"({fitting[0]} to {fitting[-1]})/{images}"
        )
        return FractionRange(Fraction(fitting[0], images), Fraction(fitting[-1], images), texts)
    half = Fraction(half_unit(cell.text))
    return FractionRange(cell.value - half, cell.value + half, f"({cell.text} +- {float(half):g})")


def averaged_columns(table: Table, column: Column) -> list[Column]:
    """The columns of which this one is said to be the unweighted mean: the counted ones of its
    group.
    """
    if not (column.derived or "").startswith("unweighted mean"):
        return []
    return [c for c in table.columns if c.group == column.group and c.n_images]


def possible_mean(table: Table, row: Row, column: Column) -> FractionRange | None:
    """Lowest and highest mean that the printed parts allow, with its sum in words; None where a
    part is missing.
    """
    parts = averaged_columns(table, column)
    if not parts or any(part.key not in row.published for part in parts):
        return None
    spans = [
        possible_fraction(PublishedCell(table, row, part, row.published[part.key]))
        for part in parts
    ]
    low = sum((span.low for span in spans), Fraction(0)) / len(spans)
    high = sum((span.high for span in spans), Fraction(0)) / len(spans)
    return FractionRange(low, high, f"({' + '.join(span.text for span in spans)}) / {len(spans)}")


def find_wrong_means(tables: Sequence[Table]) -> Iterator[AuditFinding]:
    """Overall columns that are not the mean of their row, whatever the rounding of the parts."""
    for table in tables:
        for cell in published_cells(table):
            mean = possible_mean(table, cell.row, cell.column)
            half = Fraction(half_unit(cell.text))
            if mean is not None and not (
                mean.low <= cell.value + half and cell.value - half <= mean.high
            ):
                yield AuditFinding(
                    "mean",
                    "conflict",
                    table.id,
                    (cell.id,),
                    cell.text,
                    *_mean_text(cell, mean, half),
                )


def _mean_text(cell: PublishedCell, mean: FractionRange, half: Fraction) -> tuple[str, str]:
    digits = count_decimals(cell.text)
    ends = list(dict.fromkeys(format_fraction(end, digits) for end in (mean.low, mean.high)))
    fine = " to ".join(
        dict.fromkeys(format_fraction(end, digits + 2) for end in (mean.low, mean.high))
    )
    reach = (
        f"{format_fraction(cell.value - half, digits + 1)} to"
        f" {format_fraction(cell.value + half, digits + 1)}"
    )
    return (
        " to ".join(ends),
        f"{mean.text} = {fine}; {cell.text} stands for {reach}{_pooled_mean_text(cell)}",
    )


def _pooled_mean_text(cell: PublishedCell) -> str:
    """The mean over images, in words: the other reading of an overall score."""
    parts = averaged_columns(cell.table, cell.column)
    fitting = [
        (possible_counts(cell.row.published[part.key], part.n_images or 0), part.n_images or 0)
        for part in parts
    ]
    if any(len(found) != 1 for found, _ in fitting):
        return ""
    hits = sum(found[0] for found, _ in fitting)
    images = sum(n for _, n in fitting)
    return (
        f"; over all images {hits}/{images} ="
        f" {format_fraction(Fraction(hits, images), count_decimals(cell.text))}"
    )
