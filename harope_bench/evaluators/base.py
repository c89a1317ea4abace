"""The contract of an evaluator: a rule on what a judge saw, plain numpy, no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from harope_bench.core.annotations import Answer, Ask
from harope_bench.core.schema import Measurement, Metric, RuleDifference
from harope_bench.metrics.moments import Moments


class Observations(NamedTuple):
    """What one judge saw of one sample set, in index order.

    indices (N,) int64; labels (N,) int64 or None; arrays of N rows each by name; failed counts asked
    images that could not be judged, so that asked = N + failed. kept_moments gives `moments` of an array by name where they are kept
    beside it; a copy with other arrays must leave it out.
    """

    indices: np.ndarray
    labels: np.ndarray | None
    arrays: Mapping[str, np.ndarray]
    failed: int = 0
    kept_moments: Callable[[str], Moments] | None = None

    def moments(self, name: str) -> Moments:
        """Count, mean and scatter of an array's rows, float64; the same bits whether they are kept somewhere or not."""
        return Moments.of(self.arrays[name]) if self.kept_moments is None else self.kept_moments(name)


class Score(NamedTuple):
    """Measurements, first-order contributions by metric (for paired tests), and named warnings.

    per_sample may also hold `METRIC_halves` (H,), the metric on random halves of the samples, whose standard deviation is its error
    (the same halves in every run of as many samples), where a metric's own rows are not the samples'; and, for scores of prompts,
    `prompts` (N,) integers: prompts are then clusters, and a row of NaN is a sample that does not count for that metric. `METRIC_tasks`
    (N,) integers stand with a metric that is the mean of its tasks' means, METRIC_total and METRIC_weight (N,) with one that is a ratio of
    sums whose weights differ.
    rows: of each image, as JSON values, the verdict and the reason in words. rule_differences: metrics to which the other set of rules
    gives another value; `warnings` do not repeat them.
    """

    measurements: tuple[Measurement, ...]
    per_sample: Mapping[str, np.ndarray]
    warnings: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...] = ()
    rule_differences: tuple[RuleDifference, ...] = ()


class Evaluator(Protocol):
    """What an evaluator module's PLUGIN offers.

    One that knows several published programs' formulas also has `profiles`, their names (its own among them), `under(profile)`, the
    evaluator in another one, and `apart`, the profiles that need a judge of their own.
    """

    version: int
    profile: str
    parity: str
    rules: tuple[str, ...]
    metrics: tuple[Metric, ...]

    def score(self, seen: Observations, reference: Mapping[str, np.ndarray]) -> Score:
        """The measurements; a metric that cannot be had is None with a reason."""


Facts = Mapping[str, Any]  # what a suite says of a prompt to an evaluator: JSON values
Seen = Mapping[str, Answer]  # answers so far, by role


class Look(NamedTuple):
    """What an evaluator has a judge look for. ask(facts, answers so far) is None where there is nothing to ask of that image.

    needs: Whether the judge may be asked about an image of these facts at all, before anything is answered.
    """

    role: str
    ask: Callable[[Facts, Seen], Ask | None]
    needs: Callable[[Facts], bool] = lambda facts: True


class Part(NamedTuple):
    """What an image adds to a metric: the value is the sum of all `total` over the sum of all `weight`."""

    total: float
    weight: float = 1.0


@dataclass(frozen=True)
class Mark:
    """What a rule says of one image.

    task: the stratum it belongs to. parts: by metric, for those metrics that it counts for. reason: in words, for a reader.
    unknown: answers that no rule can read, which are counted and never guessed. evidence: JSON values that show why.
    """

    task: str
    parts: Mapping[str, Part]
    reason: str
    unknown: int = 0
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sight:
    """One image of a run: its prompt's number and facts, which copy, and what the judges answered, or why there is no answer."""

    index: int
    prompt: int
    copy: int
    text: str
    facts: Facts
    seen: Seen
    fault: str | None = None


class PromptEvaluator(Protocol):
    """What an evaluator offers that scores prompts (evaluators/prompt_scores.py has what they share).

    form: the key of a case's facts that it reads; a case without it is not its own. looks: in the order in which judges are asked.
    """

    version: int
    profile: str
    parity: str
    rules: tuple[str, ...]
    metrics: tuple[Metric, ...]
    form: str
    looks: tuple[Look, ...]

    def assess(self, sights: Sequence[Sight], rules: str, lenient: bool) -> Score:
        """The measurements under these rules; a metric with a failed or unread image is None unless `lenient`."""
