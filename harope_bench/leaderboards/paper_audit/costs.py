"""Audit of the cost columns: the counts that the shapes of the networks give, and the percentages
printed beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from math import floor
from typing import NamedTuple

from harope_bench.leaderboards.paper_audit.printed_values import (
    AuditFinding,
    PublishedCell,
    format_fraction,
    published_cells,
)
from harope_bench.leaderboards.table_spec import (
    PERCENT_PATTERN,
    Table,
    count_decimals,
    half_unit,
    leading_number,
)
from harope_bench.metrics.attention_cost import (
    MATRIX_ENCODINGS,
    PAPER_LAYERS,
    TEXT_TOKENS,
    flux_tokens,
)


class ExpectedCost(NamedTuple):
    """What a cost cell should hold: the count in the column's unit, the count of its base row, and
    the arithmetic.
    """

    value: Fraction
    baseline: Fraction
    arithmetic: str


def expected_cost(cell: PublishedCell) -> ExpectedCost | None:
    """The count that the shapes give; None for cells whose counting rule is not known (the DiT
    FLOPs).
    """
    if cell.column.evaluator != "cost" or cell.row.backbone not in PAPER_LAYERS:
        return None
    if cell.column.key == "params_m":
        return _expected_parameters(cell)
    return (
        _expected_flops(cell)
        if cell.column.key == "flops_g" and cell.row.backbone == "flux" and cell.row.res
        else None
    )


def _expected_parameters(cell: PublishedCell) -> ExpectedCost:
    layer = PAPER_LAYERS[cell.row.backbone or ""]
    added = layer.harope_parameters if cell.row.encoding in MATRIX_ENCODINGS else 0
    terms = f"{layer.projections} x ({layer.hidden}^2 + {layer.hidden})"
    if added:
        terms += f" + {layer.heads} x (2 x {layer.width}^2 + {layer.width})"
    total = layer.parameters + added
    return ExpectedCost(
        Fraction(total, 10**6), Fraction(layer.parameters, 10**6), f"{terms} = {total:,}"
    )


def _expected_flops(cell: PublishedCell) -> ExpectedCost:
    layer = PAPER_LAYERS["flux"]
    tokens = flux_tokens(cell.row.res or 0)
    added = layer.harope_parameters if cell.row.encoding in MATRIX_ENCODINGS else 0
    total = tokens * (layer.weights + added)
    weights = (
        f"({layer.projections} x"
        f" {layer.hidden}^2{f' + {layer.harope_parameters:,}' if added else ''})"
    )
    by = "by added parameters x tokens: " if added else ""
    words = (
        f"{by}{tokens:,} tokens ({tokens - TEXT_TOKENS:,} image + {TEXT_TOKENS} text) x {weights} ="
        f" {total / 1e9:.4f} G"
    )
    return ExpectedCost(Fraction(total, 10**9), Fraction(tokens * layer.weights, 10**9), words)


def find_cost_conflicts(tables: Sequence[Table]) -> Iterator[AuditFinding]:
    """Cost cells that do not follow the rule of their own column; equal cells of a column make one
    finding.
    """
    for table in tables:
        for cells in _group_by_text(
            cell
            for cell in published_cells(table)
            if (cost := expected_cost(cell)) and not _is_equal_rounded(cell, cost.value)
        ):
            cost = expected_cost(cells[0])
            assert cost is not None
            ratio = _added_percent(cells[0])
            recomputed = format_fraction(cost.value, count_decimals(cells[0].text)) + (
                f" (+{format_fraction(ratio, 1)}%)" if ratio else ""
            )
            ids = tuple(cell.id for cell in cells)
            yield AuditFinding(
                "cost",
                "conflict",
                table.id,
                ids,
                cells[0].text,
                recomputed,
                cost.arithmetic + _operator_count_text(cells[0]),
            )


def _operator_count_text(cell: PublishedCell) -> str:
    """The count by operators, which is the cost columns' own, for a FLOPs cell of a row with the
    matrix.
    """
    if cell.column.key != "flops_g" or cell.row.encoding not in MATRIX_ENCODINGS:
        return ""
    layer = PAPER_LAYERS["flux"]
    sides = sorted({row.res for row in cell.table.rows if row.backbone == "flux" and row.res})
    totals = ", ".join(
        f"{format_fraction(Fraction(_count_with_construction(side), 10**9), 2)} at {side}"
        for side in sides
    )
    per_token = (
        f"2 x {layer.heads} x {layer.width}^2 a token (q and k) and 2 x {layer.heads} x"
        f" {layer.width}^3 for building the matrices"
    )
    return f"; by operators, as the cost columns are computed here, {per_token}: {totals}"


def _count_with_construction(side: int) -> int:
    layer = PAPER_LAYERS["flux"]
    applied = 2 * layer.heads * layer.width**2
    return flux_tokens(side) * (layer.weights + applied) + layer.construction_flops


def count_cost_agreements(tables: Sequence[Table]) -> Iterator[AuditFinding]:
    """How many cost cells follow from the shapes."""
    for table in tables:
        known = [(cell, cost) for cell in published_cells(table) if (cost := expected_cost(cell))]
        if known:
            agreeing = sum(_is_equal_rounded(cell, cost.value) for cell, cost in known)
            other = sum(cell.column.evaluator == "cost" for cell in published_cells(table)) - len(
                known
            )
            said = f"{agreeing} of {len(known)} cost cells follow from the shapes"
            shapes = "; ".join(
                f"{name}: hidden {layer.hidden}, {layer.heads} heads"
                for name, layer in PAPER_LAYERS.items()
            )
            more = (
                f"; {other} cells have no stated counting rule and were not checked"
                if other
                else ""
            )
            yield AuditFinding(
                "cost census", "info", table.id, (), f"{len(known)} cells", said, shapes + more
            )


def _is_equal_rounded(cell: PublishedCell, value: Fraction) -> bool:
    return abs(value - cell.value) <= Fraction(half_unit(cell.text))


def find_truncated_percentages(tables: Sequence[Table]) -> Iterator[AuditFinding]:
    """Bracketed percentages that are the exact ratio cut, where rounding gives another digit."""
    for table in tables:
        for cells in _group_by_text(cell for cell in published_cells(table) if _is_truncated(cell)):
            ids = tuple(cell.id for cell in cells)
            ratio = _added_percent(cells[0])
            printed = f"+{_percent(cells[0].text)}%"
            recomputed = f"+{format_fraction(ratio, 1)}%"
            yield AuditFinding(
                "percentage",
                "warn",
                table.id,
                ids,
                printed,
                recomputed,
                _ratio_text(cells[0]) + _printed_ratio_text(cells[0]),
            )


def _added_percent(cell: PublishedCell) -> Fraction:
    cost = expected_cost(cell)
    assert cost is not None
    return (cost.value / cost.baseline - 1) * 100


def _ratio_text(cell: PublishedCell) -> str:
    cost = expected_cost(cell)
    unit = 10**6 if cell.column.unit == "million" else 10**9
    assert cost is not None
    return (
        f"{int((cost.value - cost.baseline) * unit):,} / {int(cost.baseline * unit):,} ="
        f" {format_fraction(_added_percent(cell), 3)}%"
    )


def _is_truncated(cell: PublishedCell) -> bool:
    """Whether the count agrees, and its percentage is the exact one cut and not the exact one
    rounded.
    """
    percent = _percent(cell.text)
    cost = expected_cost(cell)
    if percent is None or cost is None or not _is_equal_rounded(cell, cost.value):
        return False
    ratio = _added_percent(cell)
    cut = Fraction(floor(ratio * 10), 10)
    return Fraction(percent) == cut and percent != format_fraction(ratio, 1)


def _percent(text: str) -> str | None:
    match = PERCENT_PATTERN.search(text)
    return match[1] if match else None


def _printed_ratio_text(cell: PublishedCell) -> str:
    """The ratio of the two printed numbers, in words."""
    block = cell.table.block_key(cell.row, cell.column)
    base = next(
        (
            c
            for c in published_cells(cell.table)
            if c.table.block_key(c.row, c.column) == block and not _percent(c.text)
        ),
        None,
    )
    if base is None:
        return ""
    ratio = (cell.value / base.value - 1) * 100
    return (
        f"; from the printed numbers {leading_number(cell.text)} / {leading_number(base.text)} ="
        f" +{format_fraction(ratio, 2)}%"
    )


def _group_by_text(cells: Iterable[PublishedCell]) -> list[list[PublishedCell]]:
    """Cells of a column that print the same text, together."""
    groups: dict[tuple[str, str], list[PublishedCell]] = {}
    for cell in cells:
        groups.setdefault((cell.column.key, cell.text), []).append(cell)
    return list(groups.values())
