"""Audit of fractions of images: whether they are possible, and the means of several of them."""

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


def possible_counts(text: str, n_images: int) -> list[int]:
    """Return every k for which k / n_images rounds to the printed text.

    A tie may be rounded either way.
    """
    low = Fraction(leading_number(text)) - Fraction(half_unit(text))
    high = Fraction(leading_number(text)) + Fraction(half_unit(text))
    lowest_count = max(0, ceil(low * n_images))
    highest_count = min(n_images, floor(high * n_images))
    return list(range(lowest_count, highest_count + 1))


def _fraction_cells(table: Table) -> list[PublishedCell]:
    """Return the cells whose column states its number of images."""
    return [cell for cell in published_cells(table) if cell.column.n_images]


def find_impossible_counts(tables: Sequence[Table]) -> Iterator[AuditFinding]:
    """Yield a finding for each fraction of n images that no whole number of images gives."""
    for table in tables:
        for cell in _fraction_cells(table):
            n_images = cell.column.n_images or 0
            if not possible_counts(cell.text, n_images):
                yield AuditFinding(
                    "count",
                    "conflict",
                    table.id,
                    (cell.id,),
                    cell.text,
                    *_nearest_fractions(cell, n_images),
                )


def _nearest_fractions(cell: PublishedCell, n_images: int) -> tuple[str, str]:
    """Return the two nearest possible fractions and the arithmetic, as texts."""
    decimals = count_decimals(cell.text)
    lower_count = floor(cell.value * n_images)
    nearest_counts = (lower_count, lower_count + 1)
    fractions = [f"{k}/{n_images} = {float(Fraction(k, n_images)):g}" for k in nearest_counts]
    rounded_fractions = [format_fraction(Fraction(k, n_images), decimals) for k in nearest_counts]
    return (
        " or ".join(rounded_fractions),
        f"{cell.text} x {n_images} = {float(cell.value * n_images):g} images; {fractions[0]},"
        f" {fractions[1]}",
    )


def count_possible_fractions(tables: Sequence[Table]) -> Iterator[AuditFinding]:
    """Yield a finding with the number of fractions that are possible counts."""
    for table in tables:
        cells = _fraction_cells(table)
        if not cells:
            continue
        n_possible = sum(
            bool(possible_counts(cell.text, cell.column.n_images or 0)) for cell in cells
        )
        sizes = dict.fromkeys(f"{c.title} {c.n_images}" for c in table.columns if c.n_images)
        yield AuditFinding(
            rule="count census",
            severity="info",
            table=table.id,
            cells=(),
            printed_value=f"{len(cells)} fractions",
            recomputed_value=f"{n_possible} of {len(cells)} cells are exact counts",
            arithmetic=f"images per cell: {', '.join(sizes)}",
        )


class FractionRange(NamedTuple):
    """The lowest and highest fraction that a cell may stand for, and a text of it."""

    low: Fraction
    high: Fraction
    text: str


def possible_fraction(cell: PublishedCell) -> FractionRange:
    """Return the fractions that the printed digits allow.

    They are exact counts, or the rounding interval where no count fits.
    """
    n_images = cell.column.n_images or 0
    if counts := possible_counts(cell.text, n_images):
        text = f"{counts[0]}/{n_images}"
        if len(counts) > 1:
            text = f"({counts[0]} to {counts[-1]})/{n_images}"
        return FractionRange(Fraction(counts[0], n_images), Fraction(counts[-1], n_images), text)

    rounding_error = Fraction(half_unit(cell.text))
    text = f"({cell.text} +- {float(rounding_error):g})"
    return FractionRange(cell.value - rounding_error, cell.value + rounding_error, text)


def averaged_columns(table: Table, column: Column) -> list[Column]:
    """Return the columns whose unweighted mean a column is; empty for any other column.

    They are the columns of its group that state their number of images.
    """
    if not (column.derivation or "").startswith("unweighted mean"):
        return []
    return [c for c in table.columns if c.group == column.group and c.n_images]


def possible_mean(table: Table, row: Row, column: Column) -> FractionRange | None:
    """Return the range of means that the printed parts allow, None where a part is missing."""
    part_columns = averaged_columns(table, column)
    if not part_columns or any(
        part_column.key not in row.published for part_column in part_columns
    ):
        return None
    ranges = [
        possible_fraction(PublishedCell(table, row, part_column, row.published[part_column.key]))
        for part_column in part_columns
    ]
    low = sum((part_range.low for part_range in ranges), Fraction(0)) / len(ranges)
    high = sum((part_range.high for part_range in ranges), Fraction(0)) / len(ranges)
    return FractionRange(
        low, high, f"({' + '.join(part_range.text for part_range in ranges)}) / {len(ranges)}"
    )


def find_wrong_means(tables: Sequence[Table]) -> Iterator[AuditFinding]:
    """Yield a finding for means that the printed parts cannot give, however they were rounded."""
    for table in tables:
        for cell in published_cells(table):
            mean = possible_mean(table, cell.row, cell.column)
            rounding_error = Fraction(half_unit(cell.text))
            if mean is not None and not (
                mean.low <= cell.value + rounding_error and cell.value - rounding_error <= mean.high
            ):
                yield AuditFinding(
                    "mean",
                    "conflict",
                    table.id,
                    (cell.id,),
                    cell.text,
                    *_mean_text(cell, mean, rounding_error),
                )


def _mean_text(
    cell: PublishedCell, mean: FractionRange, rounding_error: Fraction
) -> tuple[str, str]:
    """Return the recomputed mean and the arithmetic, as texts."""
    decimals = count_decimals(cell.text)
    rounded_ends = list(
        dict.fromkeys(format_fraction(end, decimals) for end in (mean.low, mean.high))
    )
    finer_ends = " to ".join(
        dict.fromkeys(format_fraction(end, decimals + 2) for end in (mean.low, mean.high))
    )
    printed_range = (
        f"{format_fraction(cell.value - rounding_error, decimals + 1)} to"
        f" {format_fraction(cell.value + rounding_error, decimals + 1)}"
    )
    return (
        " to ".join(rounded_ends),
        f"{mean.text} = {finer_ends}; {cell.text} means {printed_range}{_pooled_mean_text(cell)}",
    )


def _pooled_mean_text(cell: PublishedCell) -> str:
    """Return the mean over all images as a text: the other possible meaning of an overall score.

    Empty where the count of a part is not unique.
    """
    part_columns = averaged_columns(cell.table, cell.column)
    counts_and_sizes = [
        (
            possible_counts(cell.row.published[part_column.key], part_column.n_images or 0),
            part_column.n_images or 0,
        )
        for part_column in part_columns
    ]
    if any(len(counts) != 1 for counts, _ in counts_and_sizes):
        return ""
    total_count = sum(counts[0] for counts, _ in counts_and_sizes)
    total_images = sum(n_images for _, n_images in counts_and_sizes)
    return (
        f"; over all images {total_count}/{total_images} ="
        f" {format_fraction(Fraction(total_count, total_images), count_decimals(cell.text))}"
    )
