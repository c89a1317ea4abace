"""The rule of the gate: non-inferiority with a margin.

The worsening w is the difference with the sign that makes worse positive. [low, high] is its
two-sided interval with the rule's confidence. m is the margin. The outcomes, in this order:

- not comparable: The numbers were measured differently, or one is missing.
- pass: high <= m. Even the worst value in the interval is acceptable. (An improvement passes too.)
- regression: low > 0 and w > m. The run is significantly worse, and by more than is acceptable.
- cannot tell: Everything else. `on_inconclusive` may turn it into a pass or a regression.

A significant worsening within the margin, with an interval that exceeds the margin, is "cannot
tell": more images decide it. The gate as a whole is a regression if any metric is. Else it is
"cannot tell" or "not comparable" if any metric is, else a pass.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from harope_bench.statistics.compare import (
    ComparedRuns,
    MetricComparison,
    RunComparison,
    compare_runs,
)
from harope_bench.statistics.gate.policy import GateRule, Policy
from harope_bench.statistics.intervals.paired_fractions import bonett_price_interval
from harope_bench.statistics.pairing import difference_interval
from harope_bench.statistics.significance import Difference, Interval, critical_value

# Relative change below which it is rounding: equal images, features summed in another order.
SAME_VALUE = 1e-9
Outcome = Literal["pass", "regression", "cannot tell", "not comparable"]
EXIT_CODES: dict[Outcome, int] = {"pass": 0, "regression": 3, "cannot tell": 4, "not comparable": 4}
OUTCOME_SEVERITY: tuple[Outcome, ...] = ("pass", "cannot tell", "not comparable", "regression")


class Decision(NamedTuple):
    """The gate's decision on one metric.

    Attributes:
        metric_comparison: the comparison of the metric.
        rule: the policy's rule for the metric.
        margin: acceptable worsening in the metric's unit.
        worsening: the worsening; None if the numbers are not comparable.
        low: lower end of its interval.
        high: upper end of its interval.
        data_outcome: the outcome by the data alone.
        outcome: the outcome after `on_inconclusive`.
    """

    metric_comparison: MetricComparison
    rule: GateRule
    margin: float | None
    worsening: float | None
    low: float | None
    high: float | None
    data_outcome: Outcome
    outcome: Outcome

    @property
    def reason(self) -> str:
        """Return how the metric was compared and what changed the outcome, as text."""
        reason = self.metric_comparison.difference.reason
        if self.data_outcome == "not comparable":
            return reason
        if _is_paired_by_prompt(self.metric_comparison.difference):
            reason = f"{reason}, the interval is for new prompts"
        if self.outcome != self.data_outcome:
            reason = f"{reason}; cannot tell, on_inconclusive = {self.rule.on_inconclusive}"
        return reason


class GateResult(NamedTuple):
    """The gate's comparison, its decision on each metric, and its overall outcome."""

    comparison: RunComparison
    decisions: tuple[Decision, ...]
    outcome: Outcome

    @property
    def exit_code(self) -> int:
        """Return 0 for pass, 3 for regression, 4 for cannot tell and not comparable."""
        return EXIT_CODES[self.outcome]


def run_gate(baseline_runs: ComparedRuns, new_runs: ComparedRuns, policy: Policy) -> GateResult:
    """Return the gate's decisions on the metrics of the policy; without any, on all metrics.

    Raises:
        UnknownNameError: The policy names a metric that neither side has.
        OptionError: One side is a single run, the other has several training seeds.
    """
    comparison = compare_runs(baseline_runs, new_runs, list(policy.metric))
    image_hashes = [
        [stored_result.result.samples_sha256 for stored_result in side.runs[0]]
        for side in (baseline_runs, new_runs)
    ]
    is_single_pair = len(baseline_runs.runs) == len(new_runs.runs) == 1
    has_same_images = is_single_pair and image_hashes[0] == image_hashes[1]
    decisions = tuple(
        decide_metric(
            metric_comparison, policy.rule(metric_comparison.metric.name), has_same_images
        )
        for metric_comparison in comparison.metrics
    )
    outcome = max((decision.outcome for decision in decisions), key=OUTCOME_SEVERITY.index)
    return GateResult(comparison, decisions, outcome)


def decide_metric(
    comparison: MetricComparison, rule: GateRule, has_same_images: bool = False
) -> Decision:
    """Return the decision on one metric.

    Args:
        comparison: the comparison of the metric.
        rule: the policy's rule for it.
        has_same_images: whether both sides are the same images, so that there is no sampling error.
    """
    delta = comparison.difference.delta
    interval = gate_interval(comparison, rule.confidence, has_same_images)
    if interval is None or comparison.baseline_value is None or delta is None:
        return Decision(
            metric_comparison=comparison,
            rule=rule,
            margin=None,
            worsening=None,
            low=None,
            high=None,
            data_outcome="not comparable",
            outcome="not comparable",
        )
    margin = rule.margin_of(comparison.baseline_value)
    worsening = delta
    low = interval.low
    high = interval.high
    if comparison.metric.direction == "higher":
        worsening = -delta
        low = -interval.high
        high = -interval.low
    data_outcome = decide_outcome(worsening, low, high, margin)
    outcome = _apply_on_inconclusive(data_outcome, rule)
    return Decision(comparison, rule, margin, worsening, low, high, data_outcome, outcome)


def gate_interval(
    comparison: MetricComparison, confidence: float, has_same_images: bool
) -> Interval | None:
    """Return the two-sided interval of the difference that is compared with the margin.

    It is in the metric's unit and contains the difference. Scores of prompts have the interval for
    new prompts; a score that did not move counts as if one prompt had moved each way. Fractions of
    samples have the interval of Bonett and Price, which has a width even if few samples differ.
    None of this applies if all images are the same.
    """
    difference = comparison.difference
    interval = difference_interval(difference, confidence)
    if has_same_images and difference.delta is not None:
        if _is_rounding(difference.delta, comparison):
            return Interval(0.0, min(difference.delta, 0.0), max(difference.delta, 0.0))
        return interval
    if difference.delta is None or difference.p is None:
        return interval

    z = critical_value(confidence)
    is_paired_by_prompt = _is_paired_by_prompt(difference)
    if is_paired_by_prompt:
        interval = _widen_for_unmoved_prompts(interval, comparison, z)
    elif difference.wins is not None:
        interval = _paired_fraction_interval(comparison, z)
    if interval is None or (difference.wins is None and not is_paired_by_prompt):
        return interval

    # The interval contains the difference, and 0 if the exact test is not significant.
    ends = [interval.low, interval.high, difference.delta]
    if difference.p >= 1 - confidence:
        ends.append(0.0)
    return Interval(interval.se, min(ends), max(ends))


def _is_rounding(delta: float, comparison: MetricComparison) -> bool:
    """Return whether a difference is no more than rounding of sums."""
    return abs(delta) <= SAME_VALUE * abs(comparison.baseline_value or 0.0)


def _is_paired_by_prompt(difference: Difference) -> bool:
    return difference.n_prompts is not None


def _paired_fraction_interval(comparison: MetricComparison, z: float) -> Interval:
    """Return the interval of Bonett and Price, new minus baseline, in the unit of the metric.

    Args:
        comparison: the comparison of a fraction over paired samples.
        z: critical value.
    """
    difference = comparison.difference
    is_higher_better = comparison.metric.direction == "higher"
    gains = difference.wins if is_higher_better else difference.losses
    losses = difference.losses if is_higher_better else difference.wins
    interval = bonett_price_interval(gains or 0, losses or 0, difference.ties or 0, z)
    # Without any correct sample the contributions do not show their unit.
    unit = max(difference.success_value or 0.0, _value_range(comparison))
    return Interval(*(unit * end for end in interval))


def _widen_for_unmoved_prompts(
    interval: Interval | None, comparison: MetricComparison, z: float
) -> Interval | None:
    """Return the interval, widened by what prompts with unchanged scores leave uncertain.

    As in the interval of Bonett and Price, one prompt counts as moved up over the full range and
    one as moved down, times the fraction of prompts that did not move. If the number of such
    prompts is unknown, the interval stays. If the error is unknown, all prompts count as unmoved.

    Args:
        interval: the interval for new prompts; None if its error is unknown.
        comparison: the comparison of a score over paired prompts.
        z: critical value.
    """
    difference = comparison.difference
    n_prompts = difference.n_prompts or 0
    value_range = _value_range(comparison)
    if interval is None and not value_range:
        return None
    unit = bonett_price_interval(0, 0, n_prompts, z)
    delta = difference.delta or 0.0
    unmoved_fraction = 1.0 if interval is None else (difference.ties or 0) / n_prompts
    half_width = unmoved_fraction * value_range * unit.high
    if interval is None:
        return Interval(value_range * unit.se, delta - half_width, delta + half_width)
    return Interval(
        max(interval.se, unmoved_fraction * value_range * unit.se),
        min(interval.low, delta - half_width),
        max(interval.high, delta + half_width),
    )


def _value_range(comparison: MetricComparison) -> float:
    """Return the metric's upper bound minus its lower one; 0 without bounds."""
    low, high = comparison.metric.bounds or (0.0, 0.0)
    return high - low


def decide_outcome(worsening: float, low: float, high: float, margin: float) -> Outcome:
    """Return the outcome by the rule of this module, for four numbers of one unit."""
    if high <= margin:
        return "pass"
    return "regression" if low > 0 and worsening > margin else "cannot tell"


def _apply_on_inconclusive(data_outcome: Outcome, rule: GateRule) -> Outcome:
    """Return the outcome that the rule gives to an inconclusive one; others stay."""
    if data_outcome != "cannot tell" or rule.on_inconclusive == "cannot-tell":
        return data_outcome
    return "pass" if rule.on_inconclusive == "pass" else "regression"
