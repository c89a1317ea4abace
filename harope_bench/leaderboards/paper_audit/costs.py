"""Audit of the cost columns: the counts that the shapes of the networks give, and the percentages printed beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from math import floor
from typing import NamedTuple

from harope_bench.leaderboards.paper_audit.printed_values import Finding, Printed, printed_cells, shown
from harope_bench.leaderboards.table_spec import PERCENT, Table, decimals_of, half_unit, value_of
from harope_bench.metrics.attention_cost import LAYERS, TEXT_TOKENS, WITH_MATRIX, flux_tokens


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
