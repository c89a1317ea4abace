"""The leaderboard of a folder of results: one section per protocol, with ranks within it.

Results whose difference is not significant share a rank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Literal, NamedTuple

from harope_bench.core.errors import UnknownNameError
from harope_bench.core.schema import JudgeRecord, Measurement, Metric
from harope_bench.data.result_store import StoredResult
from harope_bench.evaluators.base import load_evaluator
from harope_bench.statistics import pairing
from harope_bench.statistics.pairing import MEASUREMENT_FIELDS
from harope_bench.statistics.significance import ALPHA, Difference

NOT_RECORDED = "not recorded"
# what must agree within a section; sampler, steps and guidance may differ and are shown per row
PROTOCOL_FIELDS = (*MEASUREMENT_FIELDS, "resolution")


class LeaderboardProtocol(NamedTuple):
    """What all results of a section share. `image_counts` are the counts that were scored."""

    suite: str
    resolution: str
    image_counts: tuple[int, ...]
    evaluator: str
    profile: str
    rules: str
    judge: str
    judge_class: str
    reference: str
    scale: str


@dataclass(frozen=True)
class RankedPosition:
    """The rank of a result in one metric.

    is_tied: whether another result has the same rank.
    previous_result, difference: the result ranked before it, and the difference from it.
    p_adjusted: Holm-adjusted p of that difference.
    """

    rank: int
    is_tied: bool
    previous_result: StoredResult | None = None
    difference: Difference | None = None
    p_adjusted: float | None = None


@dataclass(frozen=True)
class RankedResult:
    """One result of a section with its rank by metric name."""

    stored_result: StoredResult
    ranks: dict[str, RankedPosition]

    def find_measurement(self, metric: str) -> Measurement | None:
        """Return the result's measurement of a metric, None where it has none."""
        return self.stored_result.result.find_measurement(metric)


@dataclass(frozen=True)
class ProtocolSection:
    """All results of one protocol, ordered by the first ranked metric.

    ranked_metrics: names of the metrics whose direction is known.
    """

    protocol: LeaderboardProtocol
    metrics: tuple[Metric, ...]
    ranked_metrics: tuple[str, ...]
    results: tuple[RankedResult, ...]


def build_sections(results: Sequence[StoredResult]) -> list[ProtocolSection]:
    """Return a section for each protocol, sorted by protocol."""
    groups: dict[LeaderboardProtocol, list[StoredResult]] = {}
    for stored_result in results:
        groups.setdefault(result_protocol(stored_result), []).append(stored_result)
    return [_build_section(key, groups[key]) for key in sorted(groups)]


def result_protocol(stored_result: StoredResult) -> LeaderboardProtocol:
    """Return the protocol of a result."""
    result = stored_result.result
    measurement_key = next((pairing.measurement_key(result, m) for m in result.measurements), None)
    return LeaderboardProtocol(
        _field_text(measurement_key.suite if measurement_key else None),
        _field_text(measurement_key.resolution if measurement_key else None),
        tuple(sorted({m.n_scored for m in result.measurements if m.value is not None})),
        f"{result.evaluator}@{result.version}",
        result.profile,
        result.rules,
        f"{result.judge.name}@{result.judge.version}, weights {_weights_text(result.judge)},"
        f" {result.judge.preprocessing}",
        result.judge.judge_class,
        f"{result.reference}, {result.reference_sha256[:12]}",
        result.scale,
    )


def _weights_text(judge: JudgeRecord) -> str:
    """Return the first twelve digits of the weights' hash, or "not recorded"."""
    return judge.weights_sha256[:12] if judge.has_known_weights else NOT_RECORDED


def unrecorded_protocol_fields(section: ProtocolSection) -> list[str]:
    """Return the protocol fields that some result of a section does not record."""
    measurement_keys = [
        pairing.measurement_key(entry.stored_result.result, m)
        for entry in section.results
        for m in entry.stored_result.result.measurements[:1]
    ]
    return pairing.unrecorded_fields(measurement_keys, PROTOCOL_FIELDS)


def _field_text(value: str | int | None) -> str:
    """Return a field as text, "not recorded" for None."""
    return NOT_RECORDED if value is None else str(value)


def _build_section(key: LeaderboardProtocol, results: Sequence[StoredResult]) -> ProtocolSection:
    """Return the section of a protocol, `key`, with its results ranked."""
    metrics, ranked_metrics = _declared_metrics(results)
    ranks = {
        metric.name: rank_results(metric.name, metric.direction, results)
        for metric in metrics
        if metric.name in ranked_metrics
    }
    entries = [
        RankedResult(
            stored_result,
            {name: positions[i] for name, positions in ranks.items() if i in positions},
        )
        for i, stored_result in enumerate(results)
    ]
    if ranked_metrics:
        entries.sort(key=lambda entry: _sort_key(entry, ranked_metrics[0], metrics))
    return ProtocolSection(key, metrics, ranked_metrics, tuple(entries))


def _declared_metrics(
    results: Sequence[StoredResult],
) -> tuple[tuple[Metric, ...], tuple[str, ...]]:
    """Return the metrics of the results, and the names of those with a known direction.

    Metrics of an evaluator that is not installed here have no known direction.
    """
    metric_names = list(
        dict.fromkeys(
            m.metric for stored_result in results for m in stored_result.result.measurements
        )
    )
    try:
        declared_metrics = {
            metric.name: metric for metric in load_evaluator(results[0].result.evaluator).metrics
        }
    except UnknownNameError:
        declared_metrics = {}
    metrics = [
        declared_metrics.get(name)
        or Metric(name=name, title=name, direction="higher", unit="not known", decimals=3)
        for name in metric_names
    ]
    return tuple(metrics), tuple(name for name in metric_names if name in declared_metrics)


def _sort_key(
    entry: RankedResult, metric: str, metrics: Sequence[Metric]
) -> tuple[bool, float, str]:
    """Return the key that sorts by value, best first, then by path."""
    value = _metric_value(entry.stored_result, metric)
    sign = _sort_sign(next(m.direction for m in metrics if m.name == metric))
    return (value is None, sign * (value or 0.0), str(entry.stored_result.path))


def rank_results(
    metric: str, direction: Literal["higher", "lower"], results: Sequence[StoredResult]
) -> dict[int, RankedPosition]:
    """Return the position of each result by its index; results without a value have none.

    The rank is 1 + the number of results that are significantly better (5%, Holm over all pairs).
    Results of equal rank are tied. Differences are paired where both have the same samples or the
    same prompts.
    """
    ranked_indices = [
        i
        for i, stored_result in enumerate(results)
        if _metric_value(stored_result, metric) is not None
    ]
    ranked_indices.sort(
        key=lambda i: (
            _sort_sign(direction) * (_metric_value(results[i], metric) or 0.0),
            str(results[i].path),
        )
    )

    # every pair is compared; the better value is the first of its pair
    pairs = list(combinations(ranked_indices, 2))
    differences = {
        (better_index, worse_index): pairing.compare_results(
            metric, direction, results[better_index], results[worse_index], PROTOCOL_FIELDS
        )
        for better_index, worse_index in pairs
    }
    adjusted_p_values = dict(
        zip(pairs, pairing.adjusted_p_values(list(differences.values())), strict=True)
    )

    # rank = 1 + number of significantly better results
    n_better = Counter(
        worse_index
        for (_, worse_index), p in adjusted_p_values.items()
        if p is not None and p < ALPHA
    )
    n_by_rank = Counter(1 + n_better[i] for i in ranked_indices)
    ranks = {
        i: RankedPosition(1 + n_better[i], n_by_rank[1 + n_better[i]] > 1) for i in ranked_indices
    }

    # the difference from the neighbour above is shown beside the rank
    for previous_index, i in pairwise(ranked_indices):
        ranks[i] = replace(
            ranks[i],
            previous_result=results[previous_index],
            difference=differences[previous_index, i],
            p_adjusted=adjusted_p_values[previous_index, i],
        )
    return ranks


def _metric_value(stored_result: StoredResult, metric: str) -> float | None:
    """Return a result's value of a metric, None where it has none."""
    measurement = stored_result.result.find_measurement(metric)
    return measurement.value if measurement else None


def _sort_sign(direction: str) -> int:
    """Return the factor that sorts the best value first."""
    return -1 if direction == "higher" else 1
