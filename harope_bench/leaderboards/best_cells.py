"""The measured cells that are ranked together, and the best of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from harope_bench.leaderboards.comparisons import compare_cells
from harope_bench.leaderboards.match_runs import (
    MatchesByCell,
    first_key_difference,
    match_measurement_key,
)
from harope_bench.leaderboards.table_spec import Table
from harope_bench.statistics import significance


@dataclass
class RankedBlock:
    """The cells of one block with one measurement key, and the reason each other is excluded."""

    comparable_cells: list[tuple[str, str]] = field(default_factory=list)
    exclusion_reasons: dict[tuple[str, str], str] = field(default_factory=dict)


def ranked_blocks(table: Table, matches: MatchesByCell) -> dict[tuple[str, str], RankedBlock]:
    """Return the measured cells of each block (block, column key).

    Counts of the network are exact, so they are not ranked.
    """
    blocks: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for (row_id, column_key), match in matches.items():
        row = table.find_row(row_id)
        column = table.find_column(column_key)
        if match.measurement.value is not None and column.measured_on == "images":
            blocks.setdefault(table.block_key(row, column), []).append((row_id, column_key))
    return {block: _split_by_measurement_key(matches, keys) for block, keys in blocks.items()}


def _split_by_measurement_key(
    matches: MatchesByCell, cell_keys: list[tuple[str, str]]
) -> RankedBlock:
    """Return the cells with the most common measurement key; the others are excluded."""
    # most_common keeps the order of the table among equal counts
    common_key = Counter(
        match_measurement_key(matches[cell_key]) for cell_key in cell_keys
    ).most_common(1)[0][0]
    block = RankedBlock()
    for cell_key in cell_keys:
        if reason := first_key_difference(match_measurement_key(matches[cell_key]), common_key):
            block.exclusion_reasons[cell_key] = reason
        else:
            block.comparable_cells.append(cell_key)
    return block


def best_cells(table: Table, matches: MatchesByCell) -> set[tuple[str, str]]:
    """Return the best cell of each block and the cells that are not significantly worse.

    The significance level is 5%, Holm-adjusted within the block.
    """
    best_keys: set[tuple[str, str]] = set()
    for block in ranked_blocks(table, matches).values():
        if len(block.comparable_cells) > 1:
            best_keys |= _best_of_group(table, matches, block.comparable_cells)
    return best_keys


def _best_of_group(
    table: Table, matches: MatchesByCell, cell_keys: list[tuple[str, str]]
) -> set[tuple[str, str]]:
    """Return the best cell of a block and the cells that are not significantly worse."""
    column = table.find_column(cell_keys[0][1])
    sign = 1 if column.direction == "higher" else -1
    best_key = max(cell_keys, key=lambda key: sign * (matches[key].measurement.value or 0.0))
    other_keys = [key for key in cell_keys if key != best_key]
    differences = [compare_cells(column, matches[best_key], matches[key]) for key in other_keys]
    adjusted_p_values = significance.holm_adjust([1.0 if d.p is None else d.p for d in differences])
    equal_keys = {
        key
        for key, d, p in zip(other_keys, differences, adjusted_p_values, strict=True)
        if d.delta is None or significance.verdict(column.direction, d.delta, p) != "worse"
    }
    return {best_key} | equal_keys
