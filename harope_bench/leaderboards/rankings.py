"""A folder of results as a leaderboard: one section a protocol, rows ranked within it alone, what
is not resolved tied.
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
PROTOCOL_FIELDS = (
    *MEASUREMENT_FIELDS,
    "resolution",
)  # what must agree; sampler, steps and guidance are the entrant's choice and stand in the row


class LeaderboardProtocol(NamedTuple):
    """What two results must share to stand in one section. `images` are the counts that the numbers
    were taken over.
    """

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
    """A place. `shared` says that another row has it too; `step` is the difference from the result
    ranked before, p Holm-adjusted.
    """

    rank: int
    is_tied: bool
    previous_result: StoredResult | None = None
    difference: Difference | None = None
    p_adjusted: float | None = None


@dataclass(frozen=True)
class RankedResult:
    """One result in its section: its measurements and its place by metric."""

    stored_result: StoredResult
    ranks: dict[str, RankedPosition]

    def find_measurement(self, metric: str) -> Measurement | None:
        """The measurement of that metric."""
        return self.stored_result.result.find_measurement(metric)


@dataclass(frozen=True)
class ProtocolSection:
    """All results of one protocol, ordered by the first metric that has a direction."""

    protocol: LeaderboardProtocol
    metrics: tuple[Metric, ...]
    ranked_metrics: tuple[str, ...]
    results: tuple[RankedResult, ...]


def build_sections(found: Sequence[StoredResult]) -> list[ProtocolSection]:
    """A section for each protocol, in the order of the protocols' text."""
    groups: dict[LeaderboardProtocol, list[StoredResult]] = {}
    for item in found:
        groups.setdefault(result_protocol(item), []).append(item)
    return [_build_section(key, groups[key]) for key in sorted(groups)]


def result_protocol(item: StoredResult) -> LeaderboardProtocol:
    """The protocol of a result: evaluator, profile, rules, judge, reference, number of images,
    suite, resolution, scale.
    """
    result = item.result
    first = next((pairing.measurement_key(result, m) for m in result.measurements), None)
    return LeaderboardProtocol(
        _field_text(first.suite if first else None),
        _field_text(first.resolution if first else None),
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
    return judge.weights_sha256[:12] if judge.has_known_weights else NOT_RECORDED


def unrecorded_protocol_fields(section: ProtocolSection) -> list[str]:
    """Return what a section's results should share and do not record: that they agree in it is not
    known.
    """
    feet = [
        pairing.measurement_key(entry.stored_result.result, m)
        for entry in section.results
        for m in entry.stored_result.result.measurements[:1]
    ]
    return pairing.unrecorded_fields(feet, PROTOCOL_FIELDS)


def _field_text(value: str | int | None) -> str:
    return NOT_RECORDED if value is None else str(value)


def _build_section(key: LeaderboardProtocol, found: Sequence[StoredResult]) -> ProtocolSection:
    metrics, ranked = _declared_metrics(found)
    ranks = {
        metric.name: rank_results(metric.name, metric.direction, found)
        for metric in metrics
        if metric.name in ranked
    }
    entries = [
        RankedResult(item, {name: places[i] for name, places in ranks.items() if i in places})
        for i, item in enumerate(found)
    ]
    if ranked:
        entries.sort(key=lambda entry: _sort_key(entry, ranked[0], metrics))
    return ProtocolSection(key, metrics, ranked, tuple(entries))


def _declared_metrics(found: Sequence[StoredResult]) -> tuple[tuple[Metric, ...], tuple[str, ...]]:
    """What the numbers mean, by the evaluator's own word; numbers of an evaluator that is not here
    have no direction and no rank.
    """
    measured = list(dict.fromkeys(m.metric for item in found for m in item.result.measurements))
    try:
        known = {
            metric.name: metric for metric in load_evaluator(found[0].result.evaluator).metrics
        }
    except UnknownNameError:
        known = {}
    metrics = [
        known.get(name)
        or Metric(name=name, title=name, direction="higher", unit="not known", decimals=3)
        for name in measured
    ]
    return tuple(metrics), tuple(name for name in measured if name in known)


def _sort_key(
    entry: RankedResult, metric: str, metrics: Sequence[Metric]
) -> tuple[bool, float, str]:
    """By value, best first, then by path: within a shared place the order says nothing."""
    value = _metric_value(entry.stored_result, metric)
    sign = _sort_sign(next(m.direction for m in metrics if m.name == metric))
    return (value is None, sign * (value or 0.0), str(entry.stored_result.path))


def rank_results(
    metric: str, direction: Literal["higher", "lower"], found: Sequence[StoredResult]
) -> dict[int, RankedPosition]:
    """The places by index into `found`: 1 + the number of rows resolved to be better (5%, Holm over
    all pairs of the column).

    Rows that nothing separates so share a place, and a chain of near neighbours does not tie its
    ends. Differences are paired
    by sample where both drew the same samples, by prompt where both score the same prompts. A
    result without a value has no place.
    """
    having = [i for i, item in enumerate(found) if _metric_value(item, metric) is not None]
    having.sort(
        key=lambda i: (
            _sort_sign(direction) * (_metric_value(found[i], metric) or 0.0),
            str(found[i].path),
        )
    )
    pairs = list(combinations(having, 2))  # the better value first
    steps = {
        (a, b): pairing.compare_results(metric, direction, found[a], found[b], PROTOCOL_FIELDS)
        for a, b in pairs
    }
    adjusted = dict(zip(pairs, pairing.adjusted_p_values(list(steps.values())), strict=True))
    beaten = Counter(b for (_, b), p in adjusted.items() if p is not None and p < ALPHA)
    places = Counter(1 + beaten[i] for i in having)
    ranks = {i: RankedPosition(1 + beaten[i], places[1 + beaten[i]] > 1) for i in having}
    for above, i in pairwise(having):
        ranks[i] = replace(
            ranks[i],
            previous_result=found[above],
            difference=steps[above, i],
            p_adjusted=adjusted[above, i],
        )
    return ranks


def _metric_value(item: StoredResult, metric: str) -> float | None:
    measurement = item.result.find_measurement(metric)
    return measurement.value if measurement else None


def _sort_sign(direction: str) -> int:
    return -1 if direction == "higher" else 1
