"""Differences between the measured rows of a table and its baseline row.

The p values are adjusted for the number of comparisons in the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harope_bench.data.result_store import StoredResult
from harope_bench.leaderboards.match_runs import (
    SCALES,
    MatchedMeasurement,
    MatchesByCell,
    Scale,
    match_measurements,
)
from harope_bench.leaderboards.table_spec import Column, Row, Table
from harope_bench.statistics import pairing, significance
from harope_bench.statistics.significance import Difference, Verdict

CHECKPOINT_EVIDENCE = pairing.EVIDENCE["L1"]


@dataclass(frozen=True)
class RowComparison:
    """One row against its baseline in one column. The verdict follows from the adjusted p.

    scale: micro scale or paper scale.
    detectable_difference: smallest difference that this design detects with 80% power,
        (1.96 + 0.84) standard errors.
    """

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
    """Return every measured row against its baseline in every column.

    Micro scale and paper scale are compared separately, and the p values are Holm-adjusted within
    each scale.
    """
    comparisons: list[RowComparison] = []
    for scale in SCALES:
        matches = match_measurements(table, results, scale)
        comparisons += _adjust_verdicts(table, _unadjusted_comparisons(table, matches, scale))
    return comparisons


def _unadjusted_comparisons(
    table: Table, matches: MatchesByCell, scale: Scale
) -> list[RowComparison]:
    """Return the comparisons in columns measured on images, with unadjusted verdicts.

    Args:
        matches: measurements by (row id, column key).
        scale: scale of these measurements, micro or paper.
    """
    row_pairs = [
        (row, baseline)
        for row in table.rows
        if (baseline := table.baseline_row(row, scale)) is not None
    ]
    return [
        _compare_row(
            scale,
            row,
            baseline,
            column,
            matches[baseline.id, column.key],
            matches[row.id, column.key],
        )
        for row, baseline in row_pairs
        for column in table.columns
        if column.measured_on == "images"
        and (row.id, column.key) in matches
        and (baseline.id, column.key) in matches
    ]


def _compare_row(
    scale: Scale,
    row: Row,
    baseline: Row,
    column: Column,
    baseline_match: MatchedMeasurement,
    match: MatchedMeasurement,
) -> RowComparison:
    """Return the comparison of a row with its baseline in one column.

    Args:
        baseline_match, match: measurements of the baseline and of the row in this column.
    """
    difference = compare_cells(column, baseline_match, match)
    detectable_difference = significance.detectable_difference(difference.se, difference.df)
    measurement = match.measurement
    return RowComparison(
        scale=scale,
        row=row.id,
        baseline=baseline.id,
        column=column.key,
        measurement_name=measurement.name,
        n_scored=measurement.n_scored,
        difference=difference,
        p_adjusted=None,
        detectable_difference=detectable_difference,
        verdict=difference.verdict,
    )


def _adjust_verdicts(table: Table, comparisons: list[RowComparison]) -> list[RowComparison]:
    """Return the comparisons with Holm-adjusted p values and the verdicts that follow."""
    adjusted_p_values = pairing.adjusted_p_values(
        [comparison.difference for comparison in comparisons]
    )
    return [
        comparison if p is None else _with_adjusted_verdict(table, comparison, p)
        for comparison, p in zip(comparisons, adjusted_p_values, strict=True)
    ]


def _with_adjusted_verdict(table: Table, comparison: RowComparison, p: float) -> RowComparison:
    """Return the comparison with this adjusted p and the verdict that follows."""
    direction = table.find_column(comparison.column).direction
    return replace(
        comparison,
        p_adjusted=p,
        verdict=significance.verdict(direction, comparison.difference.delta or 0.0, p),
    )


def compare_cells(
    column: Column, baseline_match: MatchedMeasurement, match: MatchedMeasurement
) -> Difference:
    """Return a measurement minus the baseline's in one column.

    The difference is paired where both have the same samples or prompts. It is not comparable
    where their measurement keys differ.
    """
    return pairing.compare_results(
        column.metric_name, column.direction, baseline_match.stored_result, match.stored_result
    )
