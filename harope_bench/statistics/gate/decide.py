"""The rule of the gate: non-inferiority with a margin.

The worsening w is the difference turned so that positive is worse; [low, high] is its two-sided
interval of the rule's confidence;
m is the margin. Then, in this order:

- not comparable: the numbers were not measured alike, or one is missing;
- pass: high <= m. Even the worst that the data allow is less than we would mind. (A better run
  passes too.)
- regression: low > 0 and w > m. It is worse beyond doubt, and the best estimate is more than we
  would mind.
- cannot tell: anything else. `on_inconclusive` may turn it into a pass or a regression.

A worsening that is certain but whose estimate lies within the margin, with an interval that reaches
beyond it, is "cannot tell":
more images decide it. The whole gate is a regression if any metric is; else cannot tell or not
comparable if any metric is; else a pass.
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
from harope_bench.statistics.significance import Difference, Interval, quantile

SAME_VALUE = 1e-9  # relative: the same images, their features summed or decomposed in another order
Outcome = Literal["pass", "regression", "cannot tell", "not comparable"]
EXIT_CODES: dict[Outcome, int] = {"pass": 0, "regression": 3, "cannot tell": 4, "not comparable": 4}
OUTCOME_SEVERITY: tuple[Outcome, ...] = ("pass", "cannot tell", "not comparable", "regression")


class Decision(NamedTuple):
    """One metric: the worsening with its interval, the margin in the metric's unit, what the data
    say and what counts.
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
        """What the outcome rests on, in words."""
        why = self.metric_comparison.difference.reason
        if self.data_outcome == "not comparable":
            return why
        if _is_paired_by_prompt(self.metric_comparison.difference):
            why = f"{why}, the interval is for new prompts"
        return (
            why
            if self.outcome == self.data_outcome
            else f"{why}; cannot tell, on_inconclusive = {self.rule.on_inconclusive}"
        )


class GateResult(NamedTuple):
    """The gate's answer."""

    comparison: RunComparison
    decisions: tuple[Decision, ...]
    outcome: Outcome

    @property
    def exit_code(self) -> int:
        """0 pass, 3 regression, 4 cannot tell or not comparable."""
        return EXIT_CODES[self.outcome]


def run_gate(baseline: ComparedRuns, new: ComparedRuns, policy: Policy) -> GateResult:
    """Every metric that the policy names, or all of them if it names none.

    Raises:
        UnknownName: the policy names a metric that neither side has. OptionError: as `compare`.
    """
    found = compare_runs(baseline, new, list(policy.metric))
    same = [[f.result.samples_sha256 for f in side.runs[0]] for side in (baseline, new)]
    alike = len(baseline.runs) == len(new.runs) == 1 and same[0] == same[1]
    decisions = tuple(
        decide_metric(line, policy.rule(line.metric.name), alike) for line in found.metrics
    )
    return GateResult(
        found, decisions, max((d.outcome for d in decisions), key=OUTCOME_SEVERITY.index)
    )


def decide_metric(line: MetricComparison, rule: GateRule, alike: bool = False) -> Decision:
    """One metric by the rule above; alike: both sides are the very same images, of which nothing
    has to be inferred.
    """
    difference = line.difference
    around = gate_interval(line, rule.confidence, alike)
    if around is None or line.baseline is None or difference.delta is None:
        return Decision(line, rule, None, None, None, None, "not comparable", "not comparable")
    margin = rule.margin_of(line.baseline)
    ends = (
        (around.low, around.high)
        if line.metric.direction == "lower"
        else (-around.high, -around.low)
    )
    worsening = difference.delta if line.metric.direction == "lower" else -difference.delta
    found = decide_outcome(worsening, *ends, margin)
    return Decision(
        line, rule, margin, worsening, *ends, found, _apply_on_inconclusive(found, rule)
    )


def gate_interval(line: MetricComparison, confidence: float, alike: bool) -> Interval | None:
    """The two-sided interval of the difference, in the metric's unit, that is held against the
    margin; it holds the difference.

    Scores of prompts: the interval for new prompts. Shares of samples: Bonett and Price's, which
    few differing samples do not shrink to
    nothing; a score of prompts that did not move is granted a prompt each way. Neither holds where
    all images are the same.
    """
    found = line.difference
    around = difference_interval(found, confidence)
    if alike and found.delta is not None:
        return (
            Interval(0.0, min(found.delta, 0.0), max(found.delta, 0.0))
            if _is_rounding(found.delta, line)
            else around
        )
    if found.delta is None or found.p is None:
        return around
    reach = quantile(confidence)
    if _is_paired_by_prompt(found):
        around = _widen_for_unmoved_prompts(around, line, reach)
    elif found.wins is not None:
        around = _paired_fraction_interval(line, reach)
    if around is None or (found.wins is None and found.n_prompts is None):
        return around
    ends = [around.low, around.high, found.delta]
    if found.p >= 1 - confidence:  # the exact test does not tell them apart: the interval holds 0
        ends.append(0.0)
    return Interval(around.se, min(ends), max(ends))


def _is_rounding(delta: float, line: MetricComparison) -> bool:
    """Return whether a value moved by no more than sums in another order move it."""
    return abs(delta) <= SAME_VALUE * abs(line.baseline or 0.0)


def _is_paired_by_prompt(found: Difference) -> bool:
    """Whether prompts pair."""
    return found.n_prompts is not None


def _paired_fraction_interval(line: MetricComparison, reach: float) -> Interval:
    """Bonett and Price's interval in the unit of the rows, new minus baseline."""
    found = line.difference
    gained, lost = (
        (found.wins, found.losses)
        if line.metric.direction == "higher"
        else (found.losses, found.wins)
    )
    around = bonett_price_interval(gained or 0, lost or 0, found.ties or 0, reach)
    unit = max(
        found.success_value or 0.0, _value_range(line)
    )  # where nobody is right the rows do not show their unit
    return Interval(*(unit * number for number in around))


def _widen_for_unmoved_prompts(
    around: Interval | None, line: MetricComparison, reach: float
) -> Interval | None:
    """Not narrower than what prompts that did not move leave open.

    Those count as in Bonett and Price's interval, as if one prompt had gone the whole way up and
    one down, by the share of them. Where
    nobody knows which did not move, the spread alone counts; without a spread all of them do.
    """
    found = line.difference
    prompts = line.difference.n_prompts or 0
    if around is None and not _value_range(line):
        return None
    share = 1.0 if around is None else (found.ties or 0) / prompts
    none = bonett_price_interval(0, 0, prompts, reach)
    delta = found.delta or 0.0
    half = share * _value_range(line) * none.high
    if around is None:
        return Interval(_value_range(line) * none.se, delta - half, delta + half)
    return Interval(
        max(around.se, share * _value_range(line) * none.se),
        min(around.low, delta - half),
        max(around.high, delta + half),
    )


def _value_range(line: MetricComparison) -> float:
    low, high = line.metric.bounds or (0.0, 0.0)
    return high - low


def decide_outcome(worsening: float, low: float, high: float, margin: float) -> Outcome:
    """The rule itself, on four numbers of one unit."""
    if high <= margin:
        return "pass"
    return "regression" if low > 0 and worsening > margin else "cannot tell"


def _apply_on_inconclusive(found: Outcome, rule: GateRule) -> Outcome:
    if found != "cannot tell" or rule.on_inconclusive == "cannot-tell":
        return found
    return "pass" if rule.on_inconclusive == "pass" else "regression"
