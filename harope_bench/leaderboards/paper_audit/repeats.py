"""Audit of repeated values: equal numbers of different models, and rows of several tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations

from harope_bench.leaderboards.paper_audit.printed_values import (
    AuditFinding,
    PublishedCell,
    format_fraction,
    published_cells,
)
from harope_bench.leaderboards.table_spec import (
    Row,
    Table,
    count_decimals,
    half_unit,
    leading_number,
)

# an equal pair is reported where fewer equal pairs than this are expected by chance
MAX_EXPECTED_PAIRS = Fraction(1, 10)
# an equality between tables is reported where both numbers have this many digits
MIN_SIGNIFICANT_DIGITS = 3


def find_duplicates(tables: Sequence[Table]) -> Iterator[AuditFinding]:
    """Yield a finding for equal values of different models where that is rare by chance."""
    originals = _original_rows(tables)
    for table in tables:
        for column in table.columns:
            if column.evaluator == "cost":
                continue
            cells = [cell for cell in published_cells(table) if cell.column is column]
            n_expected = expected_pairs(cells)
            if n_expected is None or n_expected >= MAX_EXPECTED_PAIRS:
                continue
            for a, b in combinations(cells, 2):
                is_same_model = originals[table.id, a.row.id] == originals[table.id, b.row.id]
                if a.value == b.value and not is_same_model:
                    yield _duplicate_finding(a, b, cells, n_expected)


def expected_pairs(cells: Sequence[PublishedCell]) -> Fraction | None:
    """Return how many equal pairs are expected if the values were uniform over their range.

    With n values, n (n - 1) / 2 * (unit of the last digit) / (max - min). None for a range of 0.
    """
    values = [cell.value for cell in cells]
    if len(values) < 2 or max(values) == min(values):
        return None
    unit = 2 * Fraction(half_unit(cells[0].text))
    return Fraction(len(values) * (len(values) - 1), 2) * unit / (max(values) - min(values))


def _duplicate_finding(
    a: PublishedCell, b: PublishedCell, cells: Sequence[PublishedCell], n_expected: Fraction
) -> AuditFinding:
    """Return the finding on two equal cells, with the columns in which the rows differ."""
    table = a.table
    decimals = count_decimals(a.text)
    n_pairs = len(cells) * (len(cells) - 1) // 2
    differing_columns = [
        f"{c.title} {a.row.published[c.key]} and {b.row.published[c.key]}"
        for c in table.columns
        if c.key in a.row.published
        and c.key in b.row.published
        and a.row.published[c.key] != b.row.published[c.key]
    ]
    low = format_fraction(min(cell.value for cell in cells), decimals)
    high = format_fraction(max(cell.value for cell in cells), decimals)
    arithmetic = (
        f"{n_pairs} pairs in {low} to {high}: {float(n_expected):.2f} equal pairs expected of"
        " uniform values"
    )
    recomputed_value = f"{a.row.title}; {b.row.title}" + (
        f"; other columns: {', '.join(differing_columns)}" if differing_columns else ""
    )
    return AuditFinding(
        "duplicate", "warn", table.id, (a.id, b.id), f"{a.text} twice", recomputed_value, arithmetic
    )


def _original_rows(tables: Sequence[Table]) -> dict[tuple[str, str], tuple[str, str]]:
    """Return for each (table id, row id) the row that it repeats in the end, itself if none."""
    repeated_rows = {
        (table.id, row.id): (row.repeated_row.split("/")[0], row.repeated_row.split("/")[1])
        for table in tables
        for row in table.rows
        if row.repeated_row
    }
    originals = {}
    for table in tables:
        for row in table.rows:
            original = (table.id, row.id)
            visited_rows = set()
            # visited guards against rows that repeat each other
            while original in repeated_rows and original not in visited_rows:
                visited_rows.add(original)
                original = repeated_rows[original]
            originals[table.id, row.id] = original
    return originals


def check_repeated_rows(tables: Sequence[Table]) -> Iterator[AuditFinding]:
    """Yield findings on rows that repeat a row of another table: cells that agree or differ."""
    rows_by_id = {(table.id, row.id): (table, row) for table in tables for row in table.rows}
    for table in tables:
        pairs = [
            pair
            for row in table.rows
            if row.repeated_row
            for pair in _shared_cells(table, row, rows_by_id)
        ]
        for copied_cell, original_cell in pairs:
            if not _is_equal_rounded(copied_cell, original_cell):
                yield AuditFinding(
                    "repeat",
                    "conflict",
                    table.id,
                    (copied_cell.id, original_cell.id),
                    copied_cell.text,
                    original_cell.text,
                    f"{copied_cell.id} repeats {original_cell.id}",
                )

        agreeing_ids = [
            copied_cell.id
            for copied_cell, original_cell in pairs
            if _is_equal_rounded(copied_cell, original_cell)
        ]
        if agreeing_ids:
            recomputed_value = f"{len(agreeing_ids)} of {len(pairs)} repeated cells agree"
            row_texts = ", ".join(
                f"{row.id} = {row.repeated_row}" for row in table.rows if row.repeated_row
            )
            yield AuditFinding(
                "repeat",
                "info",
                table.id,
                tuple(agreeing_ids),
                f"{len(pairs)} cells",
                recomputed_value,
                row_texts,
            )


def _shared_cells(
    table: Table, row: Row, rows_by_id: dict[tuple[str, str], tuple[Table, Row]]
) -> Iterator[tuple[PublishedCell, PublishedCell]]:
    """Yield the cells of a row beside the cells of the row that it repeats.

    Both cells of a pair have the same evaluator and metric.

    Args:
        row: a row of `table` with a `repeated_row`.
    """
    assert row.repeated_row is not None
    table_id, row_id = row.repeated_row.split("/")
    if (table_id, row_id) not in rows_by_id:
        return
    original_table, original_row = rows_by_id[table_id, row_id]
    copied_cells = [cell for cell in published_cells(table) if cell.row is row]
    original_cells = [cell for cell in published_cells(original_table) if cell.row is original_row]
    for copied_cell in copied_cells:
        for original_cell in original_cells:
            column = copied_cell.column
            original_column = original_cell.column
            if (column.evaluator, column.metric_name) == (
                original_column.evaluator,
                original_column.metric_name,
            ):
                yield copied_cell, original_cell


def _is_equal_rounded(a: PublishedCell, b: PublishedCell) -> bool:
    """Return whether the more precise of two printed numbers rounds to the other."""
    more_precise, less_precise = sorted((a, b), key=lambda cell: -count_decimals(cell.text))
    if count_decimals(more_precise.text) == count_decimals(less_precise.text):
        return more_precise.value == less_precise.value
    return abs(more_precise.value - less_precise.value) <= Fraction(half_unit(less_precise.text))


def find_equalities(tables: Sequence[Table]) -> Iterator[AuditFinding]:
    """Yield a finding for equal cells of one encoding and metric in rows that are not linked."""
    originals = _original_rows(tables)
    cells = [
        cell
        for table in tables
        for cell in published_cells(table)
        if cell.encoding and cell.column.evaluator not in (None, "cost")
    ]
    reported_keys: set[tuple[frozenset[tuple[str, str]], str]] = set()
    for a, b in combinations(cells, 2):
        rows = frozenset(originals[cell.table.id, cell.row.id] for cell in (a, b))
        is_unlinked = a.table.id != b.table.id and len(rows) == 2
        key = (rows, a.column.metric_name)
        if not is_unlinked or key in reported_keys:
            continue
        if _is_same_metric(a, b) and _is_equal_rounded(a, b) and _has_enough_digits(a, b):
            reported_keys.add(key)
            arithmetic = f"{b.id} and {a.id} measure {a.column.metric_name} of {a.encoding}"
            yield AuditFinding(
                "equality", "info", b.table.id, (b.id, a.id), b.text, a.text, arithmetic
            )


def _is_same_metric(a: PublishedCell, b: PublishedCell) -> bool:
    """Return whether two cells measure one metric of one encoding with equal options."""
    a_key = (a.encoding, a.options, a.column.evaluator, a.column.metric_name)
    b_key = (b.encoding, b.options, b.column.evaluator, b.column.metric_name)
    return a_key == b_key


def _has_enough_digits(*cells: PublishedCell) -> bool:
    """Return whether every cell has MIN_SIGNIFICANT_DIGITS digits or more."""
    return all(_count_significant_digits(cell.text) >= MIN_SIGNIFICANT_DIGITS for cell in cells)


def _count_significant_digits(text: str) -> int:
    """Return how many digits a number has without leading zeros and decimal point."""
    return len(str(leading_number(text)).lstrip("-0.").replace(".", ""))
