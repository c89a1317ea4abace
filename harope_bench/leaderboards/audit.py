"""Arithmetic audit of published tables: what the printed digits alone say of each other.

A finding states what is printed, what the arithmetic gives, and the arithmetic. The rules read the tables' cells and
never the recorded flags; flags are looked up at the end, to name the finding (`label`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from itertools import combinations
from math import ceil, floor
from typing import Literal, NamedTuple

from harope_bench.leaderboards.layout import PERCENT, Column, Flag, Row, Table, decimals_of, half_unit, published_flags, value_of
from harope_bench.metrics.attention_cost import LAYERS, TEXT_TOKENS, WITH_MATRIX, flux_tokens
from harope_bench.records import Option

Severity = Literal["conflict", "warn", "info"]
CHANCE = Fraction(1, 10)  # equal pairs expected by chance in a column, below which an equal pair is listed
SIGNIFICANT = 3  # digits that two tables must share before an unlinked equality is listed
ORDER: tuple[Severity, ...] = ("conflict", "warn", "info")


@dataclass(frozen=True)
class Finding:
    """One statement about printed cells (table/row/column). `flag` is the recorded flag on the same cells, if any."""

    rule: str
    severity: Severity
    table: str
    cells: tuple[str, ...]
    printed: str
    recomputed: str
    arithmetic: str
    flag: str | None = None


class Printed(NamedTuple):
    """One published cell in its place."""

    table: Table
    row: Row
    column: Column
    text: str

    @property
    def id(self) -> str:
        """table/row/column."""
        return f"{self.table.id}/{self.row.id}/{self.column.key}"

    @property
    def value(self) -> Fraction:
        """The leading number, exactly."""
        return Fraction(value_of(self.text))

    @property
    def encoding(self) -> str | None:
        """The encoding of the row, or of the column where columns are the variants."""
        return self.row.encoding or self.column.encoding

    @property
    def options(self) -> dict[str, Option]:
        """Options of that encoding that the row or the column asks for."""
        return {**self.column.options, **self.row.options}


def check(tables: Sequence[Table], flags: Iterable[Flag] | None = None) -> list[Finding]:
    """All findings, conflicts first, then by table.

    Args:
        flags: the recorded flags by which findings are named; the published ones if None.
    """
    known = published_flags() if flags is None else tuple(flags)
    found = [finding for rule in RULES for finding in rule(tables)]
    place = {table.id: i for i, table in enumerate(tables)}
    found.sort(key=lambda finding: (ORDER.index(finding.severity), place[finding.table]))
    return [replace(finding, flag=label(finding, known)) for finding in found]


def label(finding: Finding, flags: Iterable[Flag]) -> str | None:
    """The id of the flag of the same severity that names one of the cells, or the table where there are no cells."""
    for flag in flags:
        named = set(finding.cells) & set(flag.cells) or not (finding.cells or flag.cells)
        if named and flag.severity == finding.severity and finding.table in flag.tables:
            return flag.id
    return None


def printed_cells(table: Table) -> Iterator[Printed]:
    """Every cell that holds a number, row by row."""
    for row in table.rows:
        for column in table.columns:
            if column.key in row.published:
                yield Printed(table, row, column, row.published[column.key])


def shown(value: Fraction, decimals: int) -> str:
    """A fraction rounded half up to so many decimals."""
    exact = Decimal(value.numerator) / Decimal(value.denominator)
    return str(exact.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))


# ------------------------------------------------------------------------------------- counts and their means


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
    low, high = (sum((getattr(span, end) for span in spans), Fraction(0)) / len(spans) for end in ("low", "high"))
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


# ------------------------------------------------------------------------------------------------ cost columns


class Cost(NamedTuple):
    """What a cost cell should hold: the count in the column's unit, the count of its base row, and the arithmetic."""

    value: Fraction
    base: Fraction
    arithmetic: str


def expected_cost(cell: Printed) -> Cost | None:
    """The count that the shapes give; None for cells whose counting rule is not known (the DiT FLOPs)."""
    if cell.column.evaluator != "cost" or cell.row.backbone not in LAYERS:
        return None
    if cell.column.key == "params_m":
        return _parameters(cell)
    return _flops(cell) if cell.column.key == "flops_g" and cell.row.backbone == "flux" and cell.row.res else None


def _parameters(cell: Printed) -> Cost:
    layer = LAYERS[cell.row.backbone or ""]
    added = layer.added if cell.row.encoding in WITH_MATRIX else 0
    terms = f"{layer.projections} x ({layer.hidden}^2 + {layer.hidden})"
    if added:
        terms += f" + {layer.heads} x (2 x {layer.width}^2 + {layer.width})"
    total = layer.parameters + added
    return Cost(Fraction(total, 10**6), Fraction(layer.parameters, 10**6), f"{terms} = {total:,}")


def _flops(cell: Printed) -> Cost:
    layer, tokens = LAYERS["flux"], flux_tokens(cell.row.res or 0)
    added = layer.added if cell.row.encoding in WITH_MATRIX else 0
    total = tokens * (layer.weights + added)
    weights = f"({layer.projections} x {layer.hidden}^2{f' + {layer.added:,}' if added else ''})"
    by = "by added parameters x tokens: " if added else ""
    words = f"{by}{tokens:,} tokens ({tokens - TEXT_TOKENS:,} image + {TEXT_TOKENS} text) x {weights} = {total / 1e9:.4f} G"
    return Cost(Fraction(total, 10**9), Fraction(tokens * layer.weights, 10**9), words)


def cost_rule(tables: Sequence[Table]) -> Iterator[Finding]:
    """Cost cells that do not follow the rule of their own column; equal cells of a column make one finding."""
    for table in tables:
        for cells in _same_print(cell for cell in printed_cells(table) if (cost := expected_cost(cell)) and not _agrees(cell, cost.value)):
            cost = expected_cost(cells[0])
            assert cost is not None
            ratio = _added_percent(cells[0])
            recomputed = shown(cost.value, decimals_of(cells[0].text)) + (f" (+{shown(ratio, 1)}%)" if ratio else "")
            ids = tuple(cell.id for cell in cells)
            yield Finding("cost", "conflict", table.id, ids, cells[0].text, recomputed, cost.arithmetic + _other_count(cells[0]))


def _other_count(cell: Printed) -> str:
    """The count by operators, which is the cost columns' own, for a FLOPs cell of a row with the matrix."""
    if cell.column.key != "flops_g" or cell.row.encoding not in WITH_MATRIX:
        return ""
    layer, sides = LAYERS["flux"], sorted({row.res for row in cell.table.rows if row.backbone == "flux" and row.res})
    totals = ", ".join(f"{shown(Fraction(_with_construction(side), 10**9), 2)} at {side}" for side in sides)
    per_token = f"2 x {layer.heads} x {layer.width}^2 a token (q and k) and 2 x {layer.heads} x {layer.width}^3 for building the matrices"
    return f"; by operators, as the cost columns are computed here, {per_token}: {totals}"


def _with_construction(side: int) -> int:
    layer = LAYERS["flux"]
    applied = 2 * layer.heads * layer.width**2
    return flux_tokens(side) * (layer.weights + applied) + layer.construction


def cost_census(tables: Sequence[Table]) -> Iterator[Finding]:
    """How many cost cells follow from the shapes."""
    for table in tables:
        known = [(cell, cost) for cell in printed_cells(table) if (cost := expected_cost(cell))]
        if known:
            agreeing = sum(_agrees(cell, cost.value) for cell, cost in known)
            other = sum(cell.column.evaluator == "cost" for cell in printed_cells(table)) - len(known)
            said = f"{agreeing} of {len(known)} cost cells follow from the shapes"
            shapes = "; ".join(f"{name}: hidden {layer.hidden}, {layer.heads} heads" for name, layer in LAYERS.items())
            more = f"; {other} cells have no stated counting rule and were not checked" if other else ""
            yield Finding("cost census", "info", table.id, (), f"{len(known)} cells", said, shapes + more)


def _agrees(cell: Printed, value: Fraction) -> bool:
    return abs(value - cell.value) <= Fraction(half_unit(cell.text))


def cut_percentages(tables: Sequence[Table]) -> Iterator[Finding]:
    """Bracketed percentages that are the exact ratio cut, where rounding gives another digit."""
    for table in tables:
        for cells in _same_print(cell for cell in printed_cells(table) if _is_cut(cell)):
            ids, ratio = tuple(cell.id for cell in cells), _added_percent(cells[0])
            printed, recomputed = f"+{_percent(cells[0].text)}%", f"+{shown(ratio, 1)}%"
            yield Finding("percentage", "warn", table.id, ids, printed, recomputed, _ratio_words(cells[0]) + _printed_ratio(cells[0]))


def _added_percent(cell: Printed) -> Fraction:
    cost = expected_cost(cell)
    assert cost is not None
    return (cost.value / cost.base - 1) * 100


def _ratio_words(cell: Printed) -> str:
    cost, unit = expected_cost(cell), 10**6 if cell.column.unit == "million" else 10**9
    assert cost is not None
    return f"{int((cost.value - cost.base) * unit):,} / {int(cost.base * unit):,} = {shown(_added_percent(cell), 3)}%"


def _is_cut(cell: Printed) -> bool:
    """Whether the count agrees, and its percentage is the exact one cut and not the exact one rounded."""
    percent, cost = _percent(cell.text), expected_cost(cell)
    if percent is None or cost is None or not _agrees(cell, cost.value):
        return False
    ratio = _added_percent(cell)
    cut = Fraction(floor(ratio * 10), 10)
    return Fraction(percent) == cut and percent != shown(ratio, 1)


def _percent(text: str) -> str | None:
    match = PERCENT.search(text)
    return match[1] if match else None


def _printed_ratio(cell: Printed) -> str:
    """The ratio of the two printed numbers, in words."""
    block = cell.table.block_of(cell.row, cell.column)
    base = next((c for c in printed_cells(cell.table) if c.table.block_of(c.row, c.column) == block and not _percent(c.text)), None)
    if base is None:
        return ""
    ratio = (cell.value / base.value - 1) * 100
    return f"; from the printed numbers {value_of(cell.text)} / {value_of(base.text)} = +{shown(ratio, 2)}%"


def _same_print(cells: Iterable[Printed]) -> list[list[Printed]]:
    """Cells of a column that print the same text, together."""
    groups: dict[tuple[str, str], list[Printed]] = {}
    for cell in cells:
        groups.setdefault((cell.column.key, cell.text), []).append(cell)
    return list(groups.values())


# ---------------------------------------------------------------------------------------------- repeated values


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


RULES: tuple[Callable[[Sequence[Table]], Iterable[Finding]], ...] = (
    derived_means, impossible_counts, cost_rule, cut_percentages, duplicates, count_census, cost_census, repeated_rows, equalities,
)  # fmt: skip
