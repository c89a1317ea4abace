"""A folder of results as a leaderboard: one section a protocol, rows ranked within it alone, what is not resolved tied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Literal, NamedTuple

from harope_bench.core.errors import UnknownName
from harope_bench.core.schema import JudgeRecord, Measurement, Metric
from harope_bench.data.result_store import StoredResult
from harope_bench.evaluators.base import load_evaluator
from harope_bench.statistics import pairing
from harope_bench.statistics.pairing import RULER
from harope_bench.statistics.significance import ALPHA, Difference

UNKNOWN = "not recorded"
GROUND = (*RULER, "resolution")  # what must agree; sampler, steps and guidance are the entrant's choice and stand in the row


class Protocol(NamedTuple):
    """What two results must share to stand in one section. `images` are the counts that the numbers were taken over."""

    suite: str
    resolution: str
    images: tuple[int, ...]
    evaluator: str
    profile: str
    rules: str
    judge: str
    judge_class: str
    reference: str
    scale: str


@dataclass(frozen=True)
class Rank:
    """A place. `shared` says that another row has it too; `step` is the difference from the result ranked before, p Holm-adjusted."""

    place: int
    shared: bool
    before: StoredResult | None = None
    step: Difference | None = None
    p_adjusted: float | None = None


@dataclass(frozen=True)
class Entry:
    """One result in its section: its measurements and its place by metric."""

    found: StoredResult
    ranks: dict[str, Rank]

    def measured(self, metric: str) -> Measurement | None:
        """The measurement of that metric."""
        return self.found.result.measured(metric)


@dataclass(frozen=True)
class Section:
    """All results of one protocol, ordered by the first metric that has a direction."""

    protocol: Protocol
    metrics: tuple[Metric, ...]
    ranked: tuple[str, ...]
    entries: tuple[Entry, ...]


def sections(found: Sequence[StoredResult]) -> list[Section]:
    """A section for each protocol, in the order of the protocols' text."""
    groups: dict[Protocol, list[StoredResult]] = {}
    for item in found:
        groups.setdefault(protocol(item), []).append(item)
    return [_section(key, groups[key]) for key in sorted(groups)]


def protocol(item: StoredResult) -> Protocol:
    """The protocol of a result: evaluator, profile, rules, judge, reference, number of images, suite, resolution, scale."""
    result = item.result
    first = next((pairing.footing(result, m) for m in result.measurements), None)
    return Protocol(
        _known(first.suite if first else None),
        _known(first.resolution if first else None),
        tuple(sorted({m.n_scored for m in result.measurements if m.value is not None})),
        f"{result.evaluator}@{result.version}",
        result.profile,
        result.rules,
        f"{result.judge.name}@{result.judge.version}, weights {_weights(result.judge)}, {result.judge.preprocessing}",
        result.judge.judge_class,
        f"{result.reference}, {result.reference_sha256[:12]}",
        result.scale,
    )


def _weights(judge: JudgeRecord) -> str:
    return judge.weights_sha256[:12] if judge.is_recorded else UNKNOWN


def unrecorded(section: Section) -> list[str]:
    """Return what a section's results should share and do not record: that they agree in it is not known."""
    feet = [pairing.footing(entry.found.result, m) for entry in section.entries for m in entry.found.result.measurements[:1]]
    return pairing.unrecorded(feet, GROUND)


def _known(value: str | int | None) -> str:
    return UNKNOWN if value is None else str(value)


def _section(key: Protocol, found: Sequence[StoredResult]) -> Section:
    metrics, ranked = _metrics(found)
    ranks = {metric.name: rank(metric.name, metric.direction, found) for metric in metrics if metric.name in ranked}
    entries = [Entry(item, {name: places[i] for name, places in ranks.items() if i in places}) for i, item in enumerate(found)]
    if ranked:
        entries.sort(key=lambda entry: _order(entry, ranked[0], metrics))
    return Section(key, metrics, ranked, tuple(entries))


def _metrics(found: Sequence[StoredResult]) -> tuple[tuple[Metric, ...], tuple[str, ...]]:
    """What the numbers mean, by the evaluator's own word; numbers of an evaluator that is not here have no direction and no rank."""
    measured = list(dict.fromkeys(m.metric for item in found for m in item.result.measurements))
    try:
        known = {metric.name: metric for metric in load_evaluator(found[0].result.evaluator).metrics}
    except UnknownName:
        known = {}
    metrics = [known.get(name) or Metric(name=name, title=name, direction="higher", unit="not known", decimals=3) for name in measured]
    return tuple(metrics), tuple(name for name in measured if name in known)


def _order(entry: Entry, metric: str, metrics: Sequence[Metric]) -> tuple[bool, float, str]:
    """By value, best first, then by path: within a shared place the order says nothing."""
    value = _value(entry.found, metric)
    sign = _sign(next(m.direction for m in metrics if m.name == metric))
    return (value is None, sign * (value or 0.0), str(entry.found.path))


def rank(metric: str, direction: Literal["higher", "lower"], found: Sequence[StoredResult]) -> dict[int, Rank]:
    """The places by index into `found`: 1 + the number of rows resolved to be better (5%, Holm over all pairs of the column).

    Rows that nothing separates so share a place, and a chain of near neighbours does not tie its ends. Differences are paired
    by sample where both drew the same samples, by prompt where both score the same prompts. A result without a value has no place.
    """
    having = [i for i, item in enumerate(found) if _value(item, metric) is not None]
    having.sort(key=lambda i: (_sign(direction) * (_value(found[i], metric) or 0.0), str(found[i].path)))
    pairs = list(combinations(having, 2))  # the better value first
    steps = {(a, b): pairing.contrast(metric, direction, found[a], found[b], GROUND) for a, b in pairs}
    adjusted = dict(zip(pairs, pairing.holm_adjusted(list(steps.values())), strict=True))
    beaten = Counter(b for (_, b), p in adjusted.items() if p is not None and p < ALPHA)
    places = Counter(1 + beaten[i] for i in having)
    ranks = {i: Rank(1 + beaten[i], places[1 + beaten[i]] > 1) for i in having}
    for above, i in pairwise(having):
        ranks[i] = replace(ranks[i], before=found[above], step=steps[above, i], p_adjusted=adjusted[above, i])
    return ranks


def _value(item: StoredResult, metric: str) -> float | None:
    measurement = item.result.measured(metric)
    return measurement.value if measurement else None


def _sign(direction: str) -> int:
    return -1 if direction == "higher" else 1
