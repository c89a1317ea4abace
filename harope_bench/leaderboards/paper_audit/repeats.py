"""Audit of repeated values: equal numbers of different models, and rows that stand in several
tables.
"""

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

MAX_EXPECTED_PAIRS = Fraction(
    1, 10
)  # equal pairs expected by chance in a column, below which an equal pair is listed
MIN_SIGNIFICANT_DIGITS = (
    3  # digits that two tables must share before an unlinked equality is listed
)


def find_duplicates(tables: Sequence[Table]) -> Iterator[AuditFinding]:
    """Equal values of different models in one table, where the column is fine enough for that to be
    rare by chance.
    """
    roots = _original_rows(tables)
    for table in tables:
        for column in table.columns:
            cells = [
                cell
                for cell in published_cells(table)
                if cell.column is column and column.evaluator != "cost"
            ]
            expected = expected_pairs(cells)
            for one, other in combinations(cells, 2):
                same_model = roots[table.id, one.row.id] == roots[table.id, other.row.id]
                if (
                    one.value == other.value
                    and not same_model
                    and expected is not None
                    and expected < MAX_EXPECTED_PAIRS
                ):
                    yield _duplicate_finding(one, other, cells, expected)


def expected_pairs(cells: Sequence[PublishedCell]) -> Fraction | None:
    """Equal pairs expected if the values were spread evenly over the column's range; None where the
    range is 0.
    """
    values = [cell.value for cell in cells]
    if len(values) < 2 or max(values) == min(values):
        return None
    unit = 2 * Fraction(half_unit(cells[0].text))
    return Fraction(len(values) * (len(values) - 1), 2) * unit / (max(values) - min(values))


def _duplicate_finding(
    one: PublishedCell, other: PublishedCell, cells: Sequence[PublishedCell], expected: Fraction
) -> AuditFinding:
    table = one.table
    digits = count_decimals(one.text)
    pairs = len(cells) * (len(cells) - 1) // 2
    differ = [
        f"{c.printed} {one.row.published[c.key]} and {other.row.published[c.key]}"
        for c in table.columns
        if c.key in one.row.published
        and one.row.published[c.key] != other.row.published.get(c.key, one.row.published[c.key])
    ]
    low, high = (format_fraction(f(cell.value for cell in cells), digits) for f in (min, max))
    words = (
        f"{pairs} pairs in {low} to {high}: {float(expected):.2f} equal pairs expected of evenly"
        " spread values"
    )
    said = f"{one.row.printed}; {other.row.printed}" + (
        f"; other columns: {', '.join(differ)}" if differ else ""
    )
    return AuditFinding(
        "duplicate", "warn", table.id, (one.id, other.id), f"{one.text} twice", said, words
    )


def _original_rows(tables: Sequence[Table]) -> dict[tuple[str, str], tuple[str, str]]:
    """For each (table, row) the row that it repeats in the end, itself where it repeats none."""
    linked = {
        (t.id, r.id): (r.same_as.split("/")[0], r.same_as.split("/")[1])
        for t in tables
        for r in t.rows
        if r.same_as
    }
    roots = {}
    for table in tables:
        for row in table.rows:
            place = (table.id, row.id)
            passed = set()
            while place in linked and place not in passed:
                passed.add(place)
                place = linked[place]
            roots[table.id, row.id] = place
    return roots


def check_repeated_rows(tables: Sequence[Table]) -> Iterator[AuditFinding]:
    """Rows that are said to repeat a row of another table: cells that agree, and cells that do
    not.
    """
    known = {(table.id, row.id): (table, row) for table in tables for row in table.rows}
    for table in tables:
        pairs = [
            pair for row in table.rows if row.same_as for pair in _shared_cells(table, row, known)
        ]
        for mine, theirs in (pair for pair in pairs if not _is_equal_rounded(*pair)):
            yield AuditFinding(
                "repeat",
                "conflict",
                table.id,
                (mine.id, theirs.id),
                mine.text,
                theirs.text,
                f"{mine.id} repeats {theirs.id}",
            )
        if agreeing := [mine.id for mine, theirs in pairs if _is_equal_rounded(mine, theirs)]:
            said = f"{len(agreeing)} of {len(pairs)} repeated cells agree"
            rows = ", ".join(f"{row.id} = {row.same_as}" for row in table.rows if row.same_as)
            yield AuditFinding(
                "repeat", "info", table.id, tuple(agreeing), f"{len(pairs)} cells", said, rows
            )


def _shared_cells(
    table: Table, row: Row, rows_by_id: dict[tuple[str, str], tuple[Table, Row]]
) -> Iterator[tuple[PublishedCell, PublishedCell]]:
    """Cells of the two rows that measure the same."""
    first, second = (row.same_as or "").split("/")
    if (first, second) not in rows_by_id:
        return
    other, source = rows_by_id[first, second]
    for mine in (cell for cell in published_cells(table) if cell.row is row):
        for theirs in (cell for cell in published_cells(other) if cell.row is source):
            if (mine.column.evaluator, mine.column.metric_name) == (
                theirs.column.evaluator,
                theirs.column.metric_name,
            ):
                yield mine, theirs


def _is_equal_rounded(one: PublishedCell, other: PublishedCell) -> bool:
    """Whether the finer of two printed numbers rounds to the coarser."""
    fine, coarse = sorted((one, other), key=lambda cell: -count_decimals(cell.text))
    return abs(fine.value - coarse.value) <= (
        0
        if count_decimals(fine.text) == count_decimals(coarse.text)
        else Fraction(half_unit(coarse.text))
    )


def find_equalities(tables: Sequence[Table]) -> Iterator[AuditFinding]:
    """Cells of one encoding and metric that agree across tables without being declared the same
    row.
    """
    roots = _original_rows(tables)
    cells = [
        cell
        for table in tables
        for cell in published_cells(table)
        if cell.encoding and cell.column.evaluator not in (None, "cost")
    ]
    said: set[tuple[frozenset[tuple[str, str]], str]] = set()
    for first, other in combinations(cells, 2):
        rows = frozenset(roots[cell.table.id, cell.row.id] for cell in (first, other))
        unlinked = first.table.id != other.table.id and len(rows) == 2
        key = (rows, first.column.metric_name)
        if (
            unlinked
            and key not in said
            and _is_same_metric(first, other)
            and _is_equal_rounded(first, other)
            and _has_enough_digits(first, other)
        ):
            said.add(key)
            words = (
                f"{other.id} and {first.id} measure {first.column.metric_name} of {first.encoding}"
            )
            yield AuditFinding(
                "equality",
                "info",
                other.table.id,
                (other.id, first.id),
                other.text,
                first.text,
                words,
            )


def _is_same_metric(one: PublishedCell, other: PublishedCell) -> bool:
    first, second = (
        (cell.encoding, cell.options, cell.column.evaluator, cell.column.metric_name)
        for cell in (one, other)
    )
    return first == second


def _has_enough_digits(*cells: PublishedCell) -> bool:
    return all(_count_significant_digits(cell.text) >= MIN_SIGNIFICANT_DIGITS for cell in cells)


def _count_significant_digits(text: str) -> int:
    return len(str(leading_number(text)).lstrip("-0.").replace(".", ""))
