"""Interval of a mean of skewed, heavy-tailed values, such as FID's contributions. Plain numpy."""

from __future__ import annotations

import math

import numpy as np

from harope_bench.statistics.significance import (
    CONFIDENCE_LEVEL,
    Interval,
    critical_value,
    standard_error,
)

# Kurtosis above which values are heavy-tailed. Contributions of Gaussian features stay below 5,
# those of Student's t with 5 degrees of freedom exceed 13.
HEAVY_TAIL_KURTOSIS = 10.0


def kurtosis(values: np.ndarray) -> float:
    """Return the fourth standardised moment of values (N,).

    It is 3 for the normal distribution, and 1 if all values are equal.
    """
    deviations = values - values.mean()
    variance = float((deviations**2).mean())
    return float((deviations**4).mean()) / variance**2 if variance > 0 else 1.0


def skewness(values: np.ndarray) -> float:
    """Return the third standardised moment of values (N,).

    It is 0 for a symmetric distribution, and 0 if all values are equal.
    """
    deviations = values - values.mean()
    variance = float((deviations**2).mean())
    return float((deviations**3).mean()) / variance**1.5 if variance > 0 else 0.0


def skewed_interval(value: float, contributions: np.ndarray) -> Interval:
    """Return the 95% interval of a statistic from its first-order contributions.

    An outlier raises the value and its standard error together. Without an outlier in the sample
    both are too low, and the normal interval ends below the true value. Hall's transformation of
    the studentised value removes the skewness. Student's quantile has the degrees of freedom that
    the kurtosis leaves to the variance, 2 N / (kurtosis - 1). It allows for the uncertainty of the
    standard error.

    Args:
        value: the statistic, in the unit of the contributions.
        contributions: (N,), N at least 2. For light-tailed ones the interval is the normal one.

    Returns:
        se is the plain first-order error, sd / sqrt(N).

    Source: Hall 1992, "On the removal of skewness by transformation"; Satterthwaite 1946.
    """
    se = standard_error(contributions)
    excess = kurtosis(contributions) - 1.0
    df = 2.0 * len(contributions) / excess if excess > 0 else None
    reach = critical_value(CONFIDENCE_LEVEL, df)
    scaled_skewness = skewness(contributions) / math.sqrt(len(contributions))
    return Interval(
        se,
        value - se * _invert_hall_transform(reach, scaled_skewness),
        value - se * _invert_hall_transform(-reach, scaled_skewness),
    )


def _invert_hall_transform(deviate: float, s: float) -> float:
    """Return the studentised value t with t + s t^2 / 3 + s^2 t^3 / 27 + s / 6 = deviate.

    s is the skewness divided by sqrt(N).

    Source: Hall 1992.
    """
    if abs(s) < 1e-6:
        return deviate
    return 3.0 / s * (math.cbrt(1.0 + s * (deviate - s / 6.0)) - 1.0)
