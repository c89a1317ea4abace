"""Measured rows against the baseline row: differences, adjusted for how many were looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harope_bench.data.result_store import StoredResult
from harope_bench.leaderboards.match_runs import (
    SCALES,
    MatchedMeasurement,
    Matches,
    Scale,
    match_measurements,
)
from harope_bench.leaderboards.table_spec import Column, Row, Table
from harope_bench.statistics import pairing, significance
from harope_bench.statistics.significance import Difference, Verdict

CHECKPOINT_EVIDENCE = pairing.EVIDENCE["L1"]


@dataclass(frozen=True)
class RowComparison:
    """One row against its baseline in one column. `verdict` is made from the adjusted p."""

    scale: Scale
    row: str
    baseline: str
    column: str
    measurement_name: str
    n_scored: int
    difference: Difference
    p_adjusted: float | None
    detectable_difference: float | None
    verdict: Verdict


def compare_rows(table: Table, results: Sequence[StoredResult]) -> list[RowComparison]:
    """Every measured row against its baseline in every column, Holm-adjusted within the table and
    scale.

    `detectable` is the smallest difference that this design finds with 80% power, (1.96 + 0.84) SE.
    """
    done: list[RowComparison] = []
    for scale in SCALES:
        done += _adjust_verdicts(
            table,
            list(_unadjusted_comparisons(table, match_measurements(table, results, scale), scale)),
        )
    return done


def _unadjusted_comparisons(table: Table, matches: Matches, scale: Scale) -> list[RowComparison]:
    rows = [
        (row, base) for row in table.rows if (base := table.baseline_row(row, scale)) is not None
    ]
    return [
        _compare_row(
            scale, row, base, column, matches[base.id, column.key], matches[row.id, column.key]
        )
        for row, base in rows
        for column in table.columns
        if column.of == "images"
        and (row.id, column.key) in matches
        and (base.id, column.key) in matches
    ]


def _compare_row(
    scale: Scale,
    row: Row,
    base: Row,
    column: Column,
    old: MatchedMeasurement,
    new: MatchedMeasurement,
) -> RowComparison:
    found = compare_cells(column, old, new)
    detectable = significance.detectable_difference(found.se, found.df)
    measured = new.measurement
    return RowComparison(
        scale,
        row.id,
        base.id,
        column.key,
        measured.name,
        measured.n_scored,
        found,
        None,
        detectable,
        found.verdict,
    )


def _adjust_verdicts(table: Table, raw: list[RowComparison]) -> list[RowComparison]:
    adjusted = pairing.adjusted_p_values([item.difference for item in raw])
    return [
        item if p is None else _with_adjusted_verdict(table, item, p)
        for item, p in zip(raw, adjusted, strict=True)
    ]


def _with_adjusted_verdict(table: Table, item: RowComparison, p: float) -> RowComparison:
    direction = table.find_column(item.column).direction
    return replace(
        item, p_adjusted=p, verdict=significance.verdict(direction, item.difference.delta or 0.0, p)
    )


def compare_cells(column: Column, old: MatchedMeasurement, new: MatchedMeasurement) -> Difference:
    """New minus old, paired where both have the same samples, prompts or pictures; not comparable
    on unequal footing.
    """
    return pairing.compare_results(
        column.metric_name, column.direction, old.stored_result, new.stored_result
    )
