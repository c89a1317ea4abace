"""Measured rows against the baseline row: differences, adjusted for how many were looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harope_bench.data.result_store import StoredResult
from harope_bench.leaderboards.match_runs import SCALES, Picked, Picks, Scale, pick
from harope_bench.leaderboards.table_spec import Column, Row, Table
from harope_bench.statistics import pairing, significance
from harope_bench.statistics.significance import Difference, Verdict

EVIDENCE = pairing.EVIDENCE["L1"]


@dataclass(frozen=True)
class Comparison:
    """One row against its baseline in one column. `verdict` is made from the adjusted p."""

    scale: Scale
    row: str
    baseline: str
    column: str
    number: str
    n: int
    difference: Difference
    p_adjusted: float | None
    detectable: float | None
    verdict: Verdict


def comparisons(table: Table, found: Sequence[StoredResult]) -> list[Comparison]:
    """Every measured row against its baseline in every column, Holm-adjusted within the table and scale.

    `detectable` is the smallest difference that this design finds with 80% power, (1.96 + 0.84) SE.
    """
    done: list[Comparison] = []
    for scale in SCALES:
        done += _adjusted(table, list(_raw(table, pick(table, found, scale), scale)))
    return done


def _raw(table: Table, picks: Picks, scale: Scale) -> list[Comparison]:
    rows = [(row, base) for row in table.rows if (base := table.baseline_of(row, scale)) is not None]
    return [
        _compare(scale, row, base, column, picks[base.id, column.key], picks[row.id, column.key])
        for row, base in rows
        for column in table.columns
        if column.of == "images" and (row.id, column.key) in picks and (base.id, column.key) in picks
    ]


def _compare(scale: Scale, row: Row, base: Row, column: Column, old: Picked, new: Picked) -> Comparison:
    found = contrast(column, old, new)
    detectable = significance.detectable(found.se, found.df)
    measured = new.measurement
    return Comparison(scale, row.id, base.id, column.key, measured.name, measured.n_scored, found, None, detectable, found.verdict)


def _adjusted(table: Table, raw: list[Comparison]) -> list[Comparison]:
    adjusted = pairing.holm_adjusted([item.difference for item in raw])
    return [item if p is None else _decided(table, item, p) for item, p in zip(raw, adjusted, strict=True)]


def _decided(table: Table, item: Comparison, p: float) -> Comparison:
    direction = table.column(item.column).direction
    return replace(item, p_adjusted=p, verdict=significance.verdict(direction, item.difference.delta or 0.0, p))


def contrast(column: Column, old: Picked, new: Picked) -> Difference:
    """New minus old, paired where both have the same samples, prompts or pictures; not comparable on unequal footing."""
    return pairing.contrast(column.measures, column.direction, old.found, new.found)
