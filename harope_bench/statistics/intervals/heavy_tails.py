"""Intervals of a mean whose rows are skewed and heavy-tailed, as FID's first-order contributions
can be. Plain numpy.
"""

from __future__ import annotations

import math

import numpy as np

from harope_bench.statistics.significance import (
    CONFIDENCE_LEVEL,
    Interval,
    quantile,
    standard_error,
)

# kurtosis; contributions of Gaussian features stay below 5, of a t with 5 degrees of freedom above
# 13
HEAVY_TAIL_KURTOSIS = 10.0


def kurtosis(rows: np.ndarray) -> float:
    """Return the fourth standardised moment of rows (N,): 3 for the normal, 1 for rows that are all
    alike.
    """
    deviations = rows - rows.mean()
    variance = float((deviations**2).mean())
    return float((deviations**4).mean()) / variance**2 if variance > 0 else 1.0


def skewness(rows: np.ndarray) -> float:
    """Return the third standardised moment of rows (N,): 0 for symmetric rows and for rows all
    alike.
    """
    deviations = rows - rows.mean()
    variance = float((deviations**2).mean())
    return float((deviations**3).mean()) / variance**1.5 if variance > 0 else 0.0


def skewed_interval(value: float, rows: np.ndarray) -> Interval:
    """Return the 95% interval of a statistic from its first-order contributions.

    An outlier raises the value and its standard error together, so where none was drawn both are
    too
    low and the normal interval ends below the truth. Hall's transformation of the studentised value
    takes the skewness out. Student's quantile, with the degrees of freedom that the kurtosis leaves
    the variance, 2 N / (kurtosis - 1), allows for the unsteady standard error.

    Args:
        value: the statistic, in the unit of the rows.
        rows: contributions (N,), N at least 2; of light-tailed rows the interval is the normal one.

    Returns:
        se is the plain first-order error, sd / sqrt(N).

    Source: Hall 1992, "On the removal of skewness by transformation"; Satterthwaite 1946.
    """
    se = standard_error(rows)
    excess = kurtosis(rows) - 1.0
    reach = quantile(CONFIDENCE_LEVEL, 2.0 * len(rows) / excess if excess > 0 else None)
    skew = skewness(rows) / math.sqrt(len(rows))
    return Interval(
        se,
        value - se * _invert_hall_transform(reach, skew),
        value - se * _invert_hall_transform(-reach, skew),
    )


def _invert_hall_transform(deviate: float, skew: float) -> float:
    """Return the studentised value t whose transform t + s t^2 / 3 + s^2 t^3 / 27 + s / 6 is the
    deviate.
    """
    if abs(skew) < 1e-6:
        return deviate
    return 3.0 / skew * (math.cbrt(1.0 + skew * (deviate - skew / 6.0)) - 1.0)
