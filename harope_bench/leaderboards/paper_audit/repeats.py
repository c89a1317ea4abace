"""Audit of repeated values: equal numbers of different models, and rows that stand in several tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations

from harope_bench.leaderboards.paper_audit.printed_values import Finding, Printed, printed_cells, shown
from harope_bench.leaderboards.table_spec import Row, Table, decimals_of, half_unit, value_of

CHANCE = Fraction(1, 10)  # equal pairs expected by chance in a column, below which an equal pair is listed
SIGNIFICANT = 3  # digits that two tables must share before an unlinked equality is listed


def duplicates(tables: Sequence[Table]) -> Iterator[Finding]:
    """Equal values of different models in one table, where the column is fine enough for that to be rare by chance."""
    roots = _roots(tables)
    for table in tables:
        for column in table.columns:
            cells = [cell for cell in printed_cells(table) if cell.column is column and column.evaluator != "cost"]
            expected = expected_pairs(cells)
            for one, other in combinations(cells, 2):
                same_model = roots[table.id, one.row.id] == roots[table.id, other.row.id]
                if one.value == other.value and not same_model and expected is not None and expected < CHANCE:
                    yield _duplicate(one, other, cells, expected)


def expected_pairs(cells: Sequence[Printed]) -> Fraction | None:
    """Equal pairs expected if the values were spread evenly over the column's range; None where the range is 0."""
    values = [cell.value for cell in cells]
    if len(values) < 2 or max(values) == min(values):
        return None
    unit = 2 * Fraction(half_unit(cells[0].text))
    return Fraction(len(values) * (len(values) - 1), 2) * unit / (max(values) - min(values))


def _duplicate(one: Printed, other: Printed, cells: Sequence[Printed], expected: Fraction) -> Finding:
    table, digits = one.table, decimals_of(one.text)
    pairs = len(cells) * (len(cells) - 1) // 2
    differ = [
        f"{c.printed} {one.row.published[c.key]} and {other.row.published[c.key]}"
        for c in table.columns
        if c.key in one.row.published and one.row.published[c.key] != other.row.published.get(c.key, one.row.published[c.key])
    ]
    low, high = (shown(f(cell.value for cell in cells), digits) for f in (min, max))
    words = f"{pairs} pairs in {low} to {high}: {float(expected):.2f} equal pairs expected of evenly spread values"
    said = f"{one.row.printed}; {other.row.printed}" + (f"; other columns: {', '.join(differ)}" if differ else "")
    return Finding("duplicate", "warn", table.id, (one.id, other.id), f"{one.text} twice", said, words)


def _roots(tables: Sequence[Table]) -> dict[tuple[str, str], tuple[str, str]]:
    """For each (table, row) the row that it repeats in the end, itself where it repeats none."""
    linked = {(t.id, r.id): (r.same_as.split("/")[0], r.same_as.split("/")[1]) for t in tables for r in t.rows if r.same_as}
    roots = {}
    for table in tables:
        for row in table.rows:
            place, passed = (table.id, row.id), set()
            while place in linked and place not in passed:
                passed.add(place)
                place = linked[place]
            roots[table.id, row.id] = place
    return roots


def repeated_rows(tables: Sequence[Table]) -> Iterator[Finding]:
    """Rows that are said to repeat a row of another table: cells that agree, and cells that do not."""
    known = {(table.id, row.id): (table, row) for table in tables for row in table.rows}
    for table in tables:
        pairs = [pair for row in table.rows if row.same_as for pair in _shared(table, row, known)]
        for mine, theirs in (pair for pair in pairs if not _equal(*pair)):
            yield Finding("repeat", "conflict", table.id, (mine.id, theirs.id), mine.text, theirs.text, f"{mine.id} repeats {theirs.id}")
        if agreeing := [mine.id for mine, theirs in pairs if _equal(mine, theirs)]:
            said = f"{len(agreeing)} of {len(pairs)} repeated cells agree"
            rows = ", ".join(f"{row.id} = {row.same_as}" for row in table.rows if row.same_as)
            yield Finding("repeat", "info", table.id, tuple(agreeing), f"{len(pairs)} cells", said, rows)


def _shared(table: Table, row: Row, known: dict[tuple[str, str], tuple[Table, Row]]) -> Iterator[tuple[Printed, Printed]]:
    """Cells of the two rows that measure the same."""
    first, second = (row.same_as or "").split("/")
    if (first, second) not in known:
        return
    other, source = known[first, second]
    for mine in (cell for cell in printed_cells(table) if cell.row is row):
        for theirs in (cell for cell in printed_cells(other) if cell.row is source):
            if (mine.column.evaluator, mine.column.measures) == (theirs.column.evaluator, theirs.column.measures):
                yield mine, theirs


def _equal(one: Printed, other: Printed) -> bool:
    """Whether the finer of two printed numbers rounds to the coarser."""
    fine, coarse = sorted((one, other), key=lambda cell: -decimals_of(cell.text))
    return abs(fine.value - coarse.value) <= (0 if decimals_of(fine.text) == decimals_of(coarse.text) else Fraction(half_unit(coarse.text)))


def equalities(tables: Sequence[Table]) -> Iterator[Finding]:
    """Cells of one encoding and metric that agree across tables without being declared the same row."""
    roots = _roots(tables)
    cells = [cell for table in tables for cell in printed_cells(table) if cell.encoding and cell.column.evaluator not in (None, "cost")]
    said: set[tuple[frozenset[tuple[str, str]], str]] = set()
    for first, other in combinations(cells, 2):
        rows = frozenset(roots[cell.table.id, cell.row.id] for cell in (first, other))
        unlinked = first.table.id != other.table.id and len(rows) == 2
        key = (rows, first.column.measures)
        if unlinked and key not in said and _same_measure(first, other) and _equal(first, other) and _fine_enough(first, other):
            said.add(key)
            words = f"{other.id} and {first.id} measure {first.column.measures} of {first.encoding}"
            yield Finding("equality", "info", other.table.id, (other.id, first.id), other.text, first.text, words)


def _same_measure(one: Printed, other: Printed) -> bool:
    first, second = ((cell.encoding, cell.options, cell.column.evaluator, cell.column.measures) for cell in (one, other))
    return first == second


def _fine_enough(*cells: Printed) -> bool:
    return all(_significant(cell.text) >= SIGNIFICANT for cell in cells)


def _significant(text: str) -> int:
    return len(str(value_of(text)).lstrip("-0.").replace(".", ""))
