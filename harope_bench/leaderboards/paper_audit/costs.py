"""Audit of the cost columns: parameters, FLOPs, and the percentages printed beside them.

The expected counts follow from the shapes of the networks.
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
    """The expected value of a cost cell and of its baseline, in the column's unit.

    arithmetic: how the value was computed, as a text.
    """

    value: Fraction
    baseline: Fraction
    arithmetic: str


def expected_cost(cell: PublishedCell) -> ExpectedCost | None:
    """Return the expected cost of a cell, None where the counting rule is unknown (DiT FLOPs)."""
    if cell.column.evaluator != "cost" or cell.row.backbone not in PAPER_LAYERS:
        return None
    if cell.column.key == "params_m":
        return _expected_parameters(cell)
    if cell.column.key == "flops_g" and cell.row.backbone == "flux" and cell.row.resolution:
        return _expected_multiply_adds(cell)
    return None


def _expected_parameters(cell: PublishedCell) -> ExpectedCost:
    """Return the parameters of the attention projections of one layer, in millions.

    projections (hidden^2 + hidden), plus heads (2 width^2 + width) for the matrices of an encoding.
    """
    layer = PAPER_LAYERS[cell.row.backbone or ""]
    added_parameters = layer.harope_parameters if cell.row.encoding in MATRIX_ENCODINGS else 0
    terms = f"{layer.projections} x ({layer.hidden}^2 + {layer.hidden})"
    if added_parameters:
        terms += f" + {layer.heads} x (2 x {layer.width}^2 + {layer.width})"
    total = layer.parameters + added_parameters
    return ExpectedCost(
        Fraction(total, 10**6), Fraction(layer.parameters, 10**6), f"{terms} = {total:,}"
    )


def _expected_multiply_adds(cell: PublishedCell) -> ExpectedCost:
    """Return the multiply-adds of one layer by parameters x tokens, in billions."""
    layer = PAPER_LAYERS["flux"]
    tokens = flux_tokens(cell.row.resolution or 0)
    added_parameters = layer.harope_parameters if cell.row.encoding in MATRIX_ENCODINGS else 0
    total = tokens * (layer.weights + added_parameters)
    matrix_term = f" + {layer.harope_parameters:,}" if added_parameters else ""
    weights = f"({layer.projections} x {layer.hidden}^2{matrix_term})"
    prefix = "by added parameters x tokens: " if added_parameters else ""
    arithmetic = (
        f"{prefix}{tokens:,} tokens ({tokens - TEXT_TOKENS:,} image + {TEXT_TOKENS} text) x"
        f" {weights} = {total / 1e9:.4f} G"
    )
    return ExpectedCost(Fraction(total, 10**9), Fraction(tokens * layer.weights, 10**9), arithmetic)


def find_cost_conflicts(tables: Sequence[Table]) -> Iterator[AuditFinding]:
    """Yield a finding for cost cells that differ from their expected value.

    Cells of a column with equal text are one finding.
    """
    for table in tables:
        wrong_cells = [
            cell
            for cell in published_cells(table)
            if (cost := expected_cost(cell)) and not _is_equal_rounded(cell, cost.value)
        ]
        for cells in _group_by_text(wrong_cells):
            cost = expected_cost(cells[0])
            assert cost is not None
            recomputed_value = format_fraction(cost.value, count_decimals(cells[0].text))
            if percent := _added_percent(cells[0]):
                recomputed_value += f" (+{format_fraction(percent, 1)}%)"
            yield AuditFinding(
                "cost",
                "conflict",
                table.id,
                tuple(cell.id for cell in cells),
                cells[0].text,
                recomputed_value,
                cost.arithmetic + _operator_count_text(cells[0]),
            )


def _operator_count_text(cell: PublishedCell) -> str:
    """Return the FLOPs counted by operators, as a text; empty for cells without the matrix.

    `harope-bench` fills its own cost columns by this rule.
    """
    if cell.column.key != "flops_g" or cell.row.encoding not in MATRIX_ENCODINGS:
        return ""
    layer = PAPER_LAYERS["flux"]
    resolutions = sorted(
        {row.resolution for row in cell.table.rows if row.backbone == "flux" and row.resolution}
    )
    totals = ", ".join(
        f"{format_fraction(Fraction(_count_with_construction(side), 10**9), 2)} at {side}"
        for side in resolutions
    )
    per_token = (
        f"2 x {layer.heads} x {layer.width}^2 a token (q and k) and 2 x {layer.heads} x"
        f" {layer.width}^3 for building the matrices"
    )
    return f"; by operators, as the cost columns are computed here, {per_token}: {totals}"


def _count_with_construction(resolution: int) -> int:
    """Return the multiply-adds of one layer, with application and construction of the matrices."""
    layer = PAPER_LAYERS["flux"]
    application_flops = 2 * layer.heads * layer.width**2
    return (
        flux_tokens(resolution) * (layer.weights + application_flops)
        + layer.construction_multiply_adds
    )


def count_cost_agreements(tables: Sequence[Table]) -> Iterator[AuditFinding]:
    """Yield a finding with the number of cost cells that have their expected value."""
    for table in tables:
        cost_cells = [cell for cell in published_cells(table) if cell.column.evaluator == "cost"]
        expected_costs = [(cell, cost) for cell in cost_cells if (cost := expected_cost(cell))]
        if not expected_costs:
            continue
        n_expected = len(expected_costs)
        n_agreeing = sum(_is_equal_rounded(cell, cost.value) for cell, cost in expected_costs)
        n_unchecked = len(cost_cells) - n_expected

        arithmetic = "; ".join(
            f"{name}: hidden {layer.hidden}, {layer.heads} heads"
            for name, layer in PAPER_LAYERS.items()
        )
        if n_unchecked:
            arithmetic += f"; {n_unchecked} cells have no stated counting rule and were not checked"
        recomputed_value = f"{n_agreeing} of {n_expected} cost cells follow from the shapes"
        yield AuditFinding(
            rule="cost census",
            severity="info",
            table=table.id,
            cells=(),
            printed_value=f"{n_expected} cells",
            recomputed_value=recomputed_value,
            arithmetic=arithmetic,
        )


def _is_equal_rounded(cell: PublishedCell, value: Fraction) -> bool:
    """Return whether a value rounds to the printed number; a tie may be rounded either way."""
    return abs(value - cell.value) <= Fraction(half_unit(cell.text))


def find_truncated_percentages(tables: Sequence[Table]) -> Iterator[AuditFinding]:
    """Yield a finding for printed percentages that were truncated although rounding differs."""
    for table in tables:
        for cells in _group_by_text(cell for cell in published_cells(table) if _is_truncated(cell)):
            yield AuditFinding(
                "percentage",
                "warn",
                table.id,
                tuple(cell.id for cell in cells),
                f"+{_percent(cells[0].text)}%",
                f"+{format_fraction(_added_percent(cells[0]), 1)}%",
                _ratio_text(cells[0]) + _printed_ratio_text(cells[0]),
            )


def _added_percent(cell: PublishedCell) -> Fraction:
    """Return by how many percent the expected cost exceeds its baseline, exactly."""
    cost = expected_cost(cell)
    assert cost is not None
    return (cost.value / cost.baseline - 1) * 100


def _ratio_text(cell: PublishedCell) -> str:
    """Return the arithmetic of the expected percentage, in whole parameters or FLOPs."""
    cost = expected_cost(cell)
    unit = 10**6 if cell.column.unit == "million" else 10**9
    assert cost is not None
    return (
        f"{int((cost.value - cost.baseline) * unit):,} / {int(cost.baseline * unit):,} ="
        f" {format_fraction(_added_percent(cell), 3)}%"
    )


def _is_truncated(cell: PublishedCell) -> bool:
    """Return whether a cell's count agrees, but its percentage was truncated, not rounded."""
    printed_percent = _percent(cell.text)
    cost = expected_cost(cell)
    if printed_percent is None or cost is None or not _is_equal_rounded(cell, cost.value):
        return False
    expected_percent = _added_percent(cell)
    truncated_percent = Fraction(floor(expected_percent * 10), 10)
    return Fraction(printed_percent) == truncated_percent and printed_percent != format_fraction(
        expected_percent, 1
    )


def _percent(text: str) -> str | None:
    """Return the percentage in the brackets of a cell, None where there is none."""
    match = PERCENT_PATTERN.search(text)
    return match[1] if match else None


def _printed_ratio_text(cell: PublishedCell) -> str:
    """Return the percentage that the two printed numbers give, as a text."""
    block = cell.table.block_key(cell.row, cell.column)
    baseline_cell = next(
        (
            c
            for c in published_cells(cell.table)
            if c.table.block_key(c.row, c.column) == block and not _percent(c.text)
        ),
        None,
    )
    if baseline_cell is None:
        return ""
    percent = (cell.value / baseline_cell.value - 1) * 100
    return (
        f"; from the printed numbers {leading_number(cell.text)} /"
        f" {leading_number(baseline_cell.text)} = +{format_fraction(percent, 2)}%"
    )


def _group_by_text(cells: Iterable[PublishedCell]) -> list[list[PublishedCell]]:
    """Return the cells in groups of one column and text."""
    groups: dict[tuple[str, str], list[PublishedCell]] = {}
    for cell in cells:
        groups.setdefault((cell.column.key, cell.text), []).append(cell)
    return list(groups.values())
