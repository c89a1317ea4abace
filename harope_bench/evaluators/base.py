"""The contract of an evaluator: a rule on what a judge saw, plain numpy, no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from harope_bench.metrics.moments import Moments
from harope_bench.records import Measurement, Metric


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

    per_sample may also hold `METRIC_drawn` (N,) where a metric's own rows are not the samples', and, for scores of prompts,
    `prompts` and `tasks` (N,) integers: prompts are then clusters, and a row of NaN is a sample that does not count for that metric.
    """

    measurements: tuple[Measurement, ...]
    per_sample: Mapping[str, np.ndarray]
    warnings: tuple[str, ...]


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
