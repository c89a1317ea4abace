"""Intervals, tests and verdicts for one value and for the difference of two. Plain numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np

from harope_bench.core.errors import ShapeError
from harope_bench.core.schema import Measurement
from harope_bench.statistics.student_t import student_quantile

CONFIDENCE_LEVEL = 0.95
ALPHA = 0.05
POWER = 0.8
ROUNDING = 1e-13  # relative standard error below which it is rounding of sums
Z = NormalDist().inv_cdf(0.5 + CONFIDENCE_LEVEL / 2)  # 1.96
Verdict = Literal["better", "worse", "not resolved", "not comparable"]


class Interval(NamedTuple):
    """The standard error of an estimate and its 95% interval."""

    se: float
    low: float
    high: float


class Difference(NamedTuple):
    """The difference of two values of one metric, new minus baseline.

    Attributes:
        delta: the difference; None if the values are not comparable.
        se: its standard error; None if it is unknown. Equal contributions show no variance, so
            their error is unknown, not 0.
        low: lower end of the 95% interval. For prompts it is the interval for new prompts.
        high: upper end of that interval.
        p: two-sided p value without adjustment; None without a test.
        is_paired: whether samples or prompts were paired.
        verdict: better, worse, not resolved or not comparable.
        reason: how the values were compared, or why they are not comparable.
        test: the test that gave p.
        df: Student's degrees of freedom; None for the normal distribution.
        new_seeds_interval: for prompts, the interval for the same prompts and new seeds.
        wins: number of samples (0/1 contributions) or prompts in which the new value is better.
        losses: number of samples or prompts in which it is worse.
        ties: number of samples or prompts in which the values are equal.
        success_value: contribution of a correct sample, 1 or 100; None if wins count prompts.
        n_prompts: number of paired prompts; None if prompts are not paired.
    """

    delta: float | None
    se: float | None
    low: float | None
    high: float | None
    p: float | None
    is_paired: bool
    verdict: Verdict
    reason: str
    test: str = "normal"
    df: float | None = None
    new_seeds_interval: Interval | None = None
    wins: int | None = None
    losses: int | None = None
    ties: int | None = None
    success_value: float | None = None
    n_prompts: int | None = None


def normal_interval(value: float, se: float) -> Interval:
    """Return the normal 95% interval around a value."""
    return Interval(se, value - Z * se, value + Z * se)


def student_interval(value: float, se: float, df: float | None) -> Interval:
    """Return Student's 95% interval around a value; the normal one if df is None."""
    half_width = critical_value(CONFIDENCE_LEVEL, df) * se
    return Interval(se, value - half_width, value + half_width)


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean of values (N,), sd / sqrt(N) with N - 1 in sd.

    Raises:
        ValueError: There are fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"a standard error needs two values, found {len(values)}")
    return float(np.std(np.asarray(values, dtype=np.float64), ddof=1) / math.sqrt(len(values)))


def wilson_interval(hits: int, n: int) -> Interval:
    """Return Wilson's score interval of the fraction hits / n.

    The interval stays within [0, 1], where the normal interval does not. The standard error is the
    binomial one at the estimate. At 0 and 1, where that is 0, it is the half-width divided by Z.

    Raises:
        ValueError: hits is not within 0 to n, or n is 0.

    Source: Wilson 1927.
    """
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"{hits} of {n} is not a fraction")
    p = hits / n
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half_width = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))

    # At 0 and 1 the binomial error is 0, which no finite sample shows.
    se = math.sqrt(p * (1 - p) / n) if 0 < hits < n else half_width / Z

    # At 0 and 1 one end equals p up to rounding; min and max remove the rounding.
    low = min(p, max(0.0, centre - half_width))
    high = max(p, min(1.0, centre + half_width))
    return Interval(se, low, high)


def two_sided_p(z: float) -> float:
    """Return the two-sided p value of a standard normal deviate."""
    return math.erfc(abs(z) / math.sqrt(2))


def critical_value(confidence: float, df: float | None = None) -> float:
    """Return the half-width in standard errors of a two-sided interval of that confidence.

    Args:
        confidence: 0 to 1.
        df: Student's degrees of freedom; None for the normal distribution.
    """
    return inverse_cdf(0.5 + confidence / 2, df)


def inverse_cdf(probability: float, df: float | None = None) -> float:
    """Return the quantile of the normal distribution, or of Student's t with df."""
    if df is None:
        return NormalDist().inv_cdf(probability)
    return student_quantile(probability, df)


def detectable_difference(se: float | None, df: float | None = None) -> float | None:
    """Return the smallest difference that is detected with 80% power at the 5% level.

    It is (1.96 + 0.84) se, or Student's quantiles with df. None without a positive standard error:
    an error of exactly 0 shows that nothing varied, not that every difference is detectable.
    """
    if not se:
        return None
    return (critical_value(CONFIDENCE_LEVEL, df) + inverse_cdf(POWER, df)) * se


def holm_adjust(p_values: Sequence[float]) -> list[float]:
    """Return the Holm-adjusted p values, in the same order. Source: Holm 1979."""
    p_adjusted = [0.0] * len(p_values)
    running_max = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running_max = max(running_max, min(1.0, (len(p_values) - rank) * p_values[i]))
        p_adjusted[i] = running_max
    return p_adjusted


def difference(
    direction: Literal["higher", "lower"],
    baseline_measurement: Measurement,
    new_measurement: Measurement,
    baseline_contributions: np.ndarray | None = None,
    new_contributions: np.ndarray | None = None,
) -> Difference:
    """Return new minus baseline with its standard error and a verdict at the 5% level.

    Args:
        direction: whether higher or lower values are better.
        baseline_measurement: the measurement to compare with.
        new_measurement: the measurement of interest.
        baseline_contributions: first-order contributions (N,) to the baseline's value.
        new_contributions: first-order contributions (N,) of the same samples in the same order to
            the new value. With both, the test is paired.

    Returns:
        "not comparable" if a value or standard error is missing, or the numbers of images differ,
        because metrics have a finite-N bias.

    Raises:
        ShapeError: The contributions have different shapes.
    """
    if baseline_measurement.value is None or new_measurement.value is None:
        return not_comparable("a value is missing")
    if (
        baseline_measurement.name != new_measurement.name
        or baseline_measurement.n_scored != new_measurement.n_scored
    ):
        return not_comparable(
            f"{baseline_measurement.name} over {baseline_measurement.n_scored:,} against"
            f" {new_measurement.name} over {new_measurement.n_scored:,} images"
        )

    # Standard error: of the mean difference if paired, else of independent values
    delta = new_measurement.value - baseline_measurement.value
    is_paired = baseline_contributions is not None and new_contributions is not None
    if baseline_contributions is not None and new_contributions is not None:
        if baseline_contributions.shape != new_contributions.shape:
            raise ShapeError(
                f"paired contributions have shapes {baseline_contributions.shape} and"
                f" {new_contributions.shape}; they need one shape"
            )
        # float64, because unsigned indicators would wrap
        changes = np.subtract(new_contributions, baseline_contributions, dtype=np.float64)
        se = standard_error(changes)
    elif baseline_measurement.se is not None and new_measurement.se is not None:
        se = math.hypot(baseline_measurement.se, new_measurement.se)
    else:
        return not_comparable("a standard error is missing")
    reason = "paired by sample" if is_paired else "unpaired"

    # All contributions changed equally or not at all: the error is unknown, not 0.
    if se <= ROUNDING * abs(new_measurement.value):
        p_without_error = 1.0 if delta == 0 else None
        return Difference(
            delta=delta,
            se=None,
            low=None,
            high=None,
            p=p_without_error,
            is_paired=is_paired,
            verdict="not resolved",
            reason=reason,
        )
    p = two_sided_p(delta / se)
    low = delta - Z * se
    high = delta + Z * se
    return Difference(delta, se, low, high, p, is_paired, verdict(direction, delta, p), reason)


def verdict(direction: Literal["higher", "lower"], delta: float, p: float) -> Verdict:
    """Return better or worse if p is below 5%, else not resolved."""
    if p >= ALPHA:
        return "not resolved"
    return "better" if (delta > 0) == (direction == "higher") else "worse"


def not_comparable(reason: str) -> Difference:
    """Return the difference of two values that are not comparable, with the reason."""
    return Difference(
        delta=None,
        se=None,
        low=None,
        high=None,
        p=None,
        is_paired=False,
        verdict="not comparable",
        reason=reason,
    )


def format_p_value(p: float | None, missing_text: str = "-") -> str:
    """Return a p value as text, never as zero; `missing_text` if there is none."""
    if p is None:
        return missing_text
    return "<0.001" if p < 0.001 else f"{p:.3f}"
