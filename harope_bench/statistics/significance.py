"""Intervals and differences: what a number can and cannot tell. Plain numpy, no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np

from harope_bench.core.errors import ShapeError
from harope_bench.core.schema import Measurement

CONFIDENCE_LEVEL = 0.95
ALPHA = 0.05
POWER = 0.8
ROUNDING = 1e-13  # relative; a spread below it is that of sums in another order
Z = NormalDist().inv_cdf(0.5 + CONFIDENCE_LEVEL / 2)
Verdict = Literal["better", "worse", "not resolved", "not comparable"]


class Interval(NamedTuple):
    """An estimate's standard error and its 95% interval."""

    se: float
    low: float
    high: float


class Difference(NamedTuple):
    """New minus baseline. p is two-sided and unadjusted; None where nothing can be said.

    test names where p comes from; df are Student's degrees of freedom (None: normal). again is the
    second interval of a prompt
    benchmark, same prompts and new seeds, where low and high are for new prompts. wins, losses,
    ties count samples (0/1 rows)
    or prompts, from the new one's side. hit is what a sample that is right counts, 1 or 100, None
    where wins are not of samples.
    prompts is the number of prompts that pair, None where prompts do not. se, low and high are None
    where no error is known: a spread
    of 0 is none.
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
    """Normal interval around a value."""
    return Interval(se, value - Z * se, value + Z * se)


def student_interval(value: float, se: float, df: float | None) -> Interval:
    """Student's t interval around a value; normal where df is None."""
    half = quantile(CONFIDENCE_LEVEL, df) * se
    return Interval(se, value - half, value + half)


def standard_error(rows: np.ndarray) -> float:
    """Standard error of the mean of rows (N,): sd / sqrt(N), sd with N - 1. ValueError below two
    rows.
    """
    if len(rows) < 2:
        raise ValueError(f"a standard error needs two rows, found {len(rows)}")
    return float(np.std(np.asarray(rows, dtype=np.float64), ddof=1) / math.sqrt(len(rows)))


def wilson_interval(hits: int, n: int) -> Interval:
    """Wilson score interval of a share hits / n; the error is the binomial one at the estimate,
    or the interval's half width in deviates where that one is 0.

    Source: Wilson 1927; stays inside [0, 1] where the normal interval does not.
    """
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"{hits} of {n} is not a share")
    p = hits / n
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    # at 0 and 1 the binomial error is 0, which no finite sample shows
    se = math.sqrt(p * (1 - p) / n) if 0 < hits < n else half / Z
    return Interval(
        se, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))
    )  # at 0 and 1 a bound is p, up to rounding


def two_sided_p(z: float) -> float:
    """Two-sided p of a standard normal deviate."""
    return math.erfc(abs(z) / math.sqrt(2))


def quantile(confidence: float, df: float | None = None) -> float:
    """How many standard errors a two-sided interval of that confidence (0 to 1) reaches: normal, or
    Student's t with df.
    """
    return inverse_cdf(0.5 + confidence / 2, df)


def inverse_cdf(share: float, df: float | None = None) -> float:
    """The quantile below which that share of the normal, or of Student's t with df, lies."""
    if df is None:
        return NormalDist().inv_cdf(share)
    from scipy.special import (
        stdtrit,
    )  # a second to import, and only training seeds and prompts ask for it

    return float(stdtrit(df, share))


def detectable_difference(se: float | None, df: float | None = None) -> float | None:
    """The smallest difference found with 80% power at the 5% level, (1.96 + 0.84) se; None without
    a positive error.

    An error of exactly 0 says that nothing was seen, not that all would be. df: Student's in place
    of the normal.
    """
    return (quantile(CONFIDENCE_LEVEL, df) + inverse_cdf(POWER, df)) * se if se else None


def holm_adjust(ps: Sequence[float]) -> list[float]:
    """Holm-adjusted p values, in the order given. Source: Holm 1979."""
    adjusted = [0.0] * len(ps)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


def difference(
    direction: Literal["higher", "lower"],
    baseline: Measurement,
    new: Measurement,
    baseline_rows: np.ndarray | None = None,
    new_rows: np.ndarray | None = None,
) -> Difference:
    """New minus baseline with its error and a verdict at the 5% level.

    Args:
        baseline_rows, new_rows: first-order contributions (N,) of the same samples in the same
            order
            (influence values, or 0/1 indicators); both given, the test is paired.

    Returns:
        "not comparable" where a value is missing or the numbers of images differ (finite-N bias).
    """
    if baseline.value is None or new.value is None:
        return not_comparable("a value is missing")
    if baseline.name != new.name or baseline.n_scored != new.n_scored:
        return not_comparable(
            f"{baseline.name} over {baseline.n_scored:,} against {new.name} over {new.n_scored:,}"
            " images"
        )
    delta = new.value - baseline.value
    paired = baseline_rows is not None and new_rows is not None
    if baseline_rows is not None and new_rows is not None:
        if baseline_rows.shape != new_rows.shape:
            raise ShapeError(f"paired rows of shapes {baseline_rows.shape} and {new_rows.shape}")
        se = standard_error(
            np.subtract(new_rows, baseline_rows, dtype=np.float64)
        )  # unsigned indicators would wrap
    elif baseline.se is not None and new.se is not None:
        se = math.hypot(baseline.se, new.se)
    else:
        return not_comparable("a standard error is missing")
    why = "paired by sample" if paired else "unpaired"
    if se <= ROUNDING * abs(
        new.value
    ):  # nothing moved, or everything alike: no spread was seen, which is no error of 0
        return Difference(
            delta, None, None, None, 1.0 if delta == 0 else None, paired, "not resolved", why
        )
    p = two_sided_p(delta / se)
    return Difference(
        delta, se, delta - Z * se, delta + Z * se, p, paired, verdict(direction, delta, p), why
    )


def verdict(direction: Literal["higher", "lower"], delta: float, p: float) -> Verdict:
    """Better or worse where p is below 5%, else not resolved."""
    if p >= ALPHA:
        return "not resolved"
    return "better" if (delta > 0) == (direction == "higher") else "worse"


def not_comparable(why: str) -> Difference:
    """The difference of which nothing can be said, and why."""
    return Difference(None, None, None, None, None, False, "not comparable", why)


def format_p_value(p: float | None, absent: str = "-") -> str:
    """Return a p value in words that never claim it to be zero, `absent` where there is none."""
    if p is None:
        return absent
    return "<0.001" if p < 0.001 else f"{p:.3f}"
