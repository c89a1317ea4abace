"""The rule of the gate: non-inferiority with a margin.

The worsening w is the difference turned so that positive is worse; [low, high] is its two-sided interval of the rule's confidence;
m is the margin. Then, in this order:

- not comparable: the numbers were not measured alike, or one is missing;
- pass: high <= m. Even the worst that the data allow is less than we would mind. (A better run passes too.)
- regression: low > 0 and w > m. It is worse beyond doubt, and the best estimate is more than we would mind.
- cannot tell: anything else. `on_inconclusive` may turn it into a pass or a regression.

A worsening that is certain but whose estimate lies within the margin, with an interval that reaches beyond it, is "cannot tell":
more images decide it. The whole gate is a regression if any metric is; else cannot tell or not comparable if any metric is; else a pass.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from harope_bench.compare import Comparison, Line, Side, compare
from harope_bench.gate.policy import Policy, Rule
from harope_bench.intervals.shares import bonett_price
from harope_bench.pairing import spread
from harope_bench.statistics import Difference, Interval, quantile

Outcome = Literal["pass", "regression", "cannot tell", "not comparable"]
EXIT: dict[Outcome, int] = {"pass": 0, "regression": 3, "cannot tell": 4, "not comparable": 4}
GRAVITY: tuple[Outcome, ...] = ("pass", "cannot tell", "not comparable", "regression")


class Decision(NamedTuple):
    """One metric: the worsening with its interval, the margin in the metric's unit, what the data say and what counts."""

    line: Line
    rule: Rule
    margin: float | None
    worsening: float | None
    low: float | None
    high: float | None
    found: Outcome
    outcome: Outcome

    @property
    def why(self) -> str:
        """What the outcome rests on, in words."""
        if self.found == "not comparable":
            return self.line.difference.why
        if self.outcome != self.found:
            return f"{self.line.difference.why}; cannot tell, on_inconclusive = {self.rule.on_inconclusive}"
        return self.line.difference.why


class Verdict(NamedTuple):
    """The gate's answer."""

    comparison: Comparison
    decisions: tuple[Decision, ...]
    outcome: Outcome

    @property
    def exit_code(self) -> int:
        """0 pass, 3 regression, 4 cannot tell or not comparable."""
        return EXIT[self.outcome]


def gate(baseline: Side, new: Side, policy: Policy) -> Verdict:
    """Every metric that the policy names, or all of them if it names none.

    Raises:
        UnknownName: the policy names a metric that neither side has. OptionError: as `compare`.
    """
    found = compare(baseline, new, list(policy.metric))
    same = [[f.result.samples_sha256 for f in side.runs[0]] for side in (baseline, new)]
    alike = len(baseline.runs) == len(new.runs) == 1 and same[0] == same[1]
    decisions = tuple(decide(line, policy.rule(line.metric.name), alike) for line in found.lines)
    return Verdict(found, decisions, max((d.outcome for d in decisions), key=GRAVITY.index))


def decide(line: Line, rule: Rule, alike: bool = False) -> Decision:
    """One metric by the rule above; alike: both sides are the very same images, of which nothing has to be inferred."""
    difference, around = line.difference, interval(line.difference, rule.confidence, alike)
    if around is None or line.baseline is None or difference.delta is None:
        return Decision(line, rule, None, None, None, None, "not comparable", "not comparable")
    margin = rule.margin_of(line.baseline)
    ends = (around.low, around.high) if line.metric.direction == "lower" else (-around.high, -around.low)
    worsening = difference.delta if line.metric.direction == "lower" else -difference.delta
    found = outcome_of(worsening, *ends, margin)
    return Decision(line, rule, margin, worsening, *ends, found, _counted(found, rule))


def interval(found: Difference, confidence: float, alike: bool) -> Interval | None:
    """The two-sided interval that is held against the margin; for 0/1 rows one that few differing samples do not shrink to nothing."""
    if found.wins is None or found.losses is None or found.ties is None or alike:
        return spread(found, confidence)
    around = bonett_price(found.wins, found.losses, found.ties, quantile(confidence))
    if found.p is not None and found.p >= 1 - confidence:  # the exact test does not tell them apart: the interval holds 0
        return Interval(around.se, min(around.low, 0.0), max(around.high, 0.0))
    return around


def outcome_of(worsening: float, low: float, high: float, margin: float) -> Outcome:
    """The rule itself, on four numbers of one unit."""
    if high <= margin:
        return "pass"
    return "regression" if low > 0 and worsening > margin else "cannot tell"


def _counted(found: Outcome, rule: Rule) -> Outcome:
    if found != "cannot tell" or rule.on_inconclusive == "cannot-tell":
        return found
    return "pass" if rule.on_inconclusive == "pass" else "regression"
