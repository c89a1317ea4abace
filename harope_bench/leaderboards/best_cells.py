"""Which measured cells of a block are ranked together, and which of these are the best."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from harope_bench.leaderboards.comparisons import compare_cells
from harope_bench.leaderboards.match_runs import (
    Matches,
    first_key_difference,
    match_measurement_key,
)
from harope_bench.leaderboards.table_spec import Table
from harope_bench.statistics import significance


@dataclass
class RankedBlock:
    """The cells of one block on one footing, and those set aside with the reason."""

    together: list[tuple[str, str]] = field(default_factory=list)
    aside: dict[tuple[str, str], str] = field(default_factory=dict)


def ranked_blocks(table: Table, picks: Matches) -> dict[tuple[str, str], RankedBlock]:
    """Return the measured cells of each block (block, column key); counts are not ranked."""
    blocks: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for key, picked in picks.items():
        if (
            picked.measurement.value is not None and table.find_column(key[1]).of == "images"
        ):  # counts are exact
            blocks.setdefault(
                table.block_key(table.find_row(key[0]), table.find_column(key[1])), []
            ).append(key)
    return {block: _split_by_measurement_key(picks, keys) for block, keys in blocks.items()}


def _split_by_measurement_key(picks: Matches, keys: list[tuple[str, str]]) -> RankedBlock:
    common = Counter(match_measurement_key(picks[key]) for key in keys).most_common(1)[0][0]
    ranked = RankedBlock()
    for key in keys:
        if differs := first_key_difference(match_measurement_key(picks[key]), common):
            ranked.aside[key] = differs
        else:
            ranked.together.append(key)
    return ranked


def best_cells(table: Table, picks: Matches) -> set[tuple[str, str]]:
    """Cells that are the best of their block or not shown to be worse than it (5%, Holm within the
    block).
    """
    best: set[tuple[str, str]] = set()
    for ranked in ranked_blocks(table, picks).values():
        if len(ranked.together) > 1:
            best |= _best_of_group(table, picks, ranked.together)
    return best


def _best_of_group(
    table: Table, picks: Matches, keys: list[tuple[str, str]]
) -> set[tuple[str, str]]:
    column = table.find_column(keys[0][1])
    sign = 1 if column.direction == "higher" else -1
    leader = max(keys, key=lambda key: sign * (picks[key].measurement.value or 0.0))
    rest = [key for key in keys if key != leader]
    against = [compare_cells(column, picks[leader], picks[key]) for key in rest]
    tested = significance.holm_adjust([1.0 if d.p is None else d.p for d in against])
    level = {
        key
        for key, d, p in zip(rest, against, tested, strict=True)
        if d.delta is None or significance.verdict(column.direction, d.delta, p) != "worse"
    }
    return {leader} | level
