"""Comparison of two methods: Student's interval over training seeds.

It includes the sampling error that the runs of a method share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import TooFewImagesError
from harope_bench.statistics.significance import critical_value, standard_error
from harope_bench.statistics.student_t import two_sided_tail


class MethodDifference(NamedTuple):
    """The difference of two methods, new minus baseline.

    Attributes:
        delta: difference of the means over training seeds.
        se: standard error.
        df: Student's degrees of freedom; None for the normal distribution.
        low: lower end of the 95% interval.
        high: upper end of the 95% interval.
        p: two-sided p value.
    """

    delta: float
    se: float
    df: float | None
    low: float
    high: float
    p: float


def method_difference(
    baseline_values: Sequence[float], new_values: Sequence[float], shared_variance: float = 0.0
) -> MethodDifference:
    """Return the difference of two methods' means over training seeds.

    A value is the method's mean, plus the effect of its training, plus the effect of its sampling.
    The variance of a method's values includes the first effect and the part of the second that
    differs between runs. `shared_variance` is the part that all runs of a method share (see the
    function `shared_variance`). It is treated as known without error.

    Args:
        baseline_values: one value per training seed, two or more.
        new_values: one value per training seed, two or more.
        shared_variance: variance of the difference that the values do not show.

    Raises:
        TooFewImagesError: A method has a single training seed.

    Source: Welch 1947 and Satterthwaite 1946 for the degrees of freedom.
    """
    values_by_method = [
        np.asarray(method_values, dtype=np.float64)
        for method_values in (baseline_values, new_values)
    ]
    if min(map(len, values_by_method)) < 2:
        raise TooFewImagesError(
            "a standard error over training seeds needs two on each side, found"
            f" {len(values_by_method[0])} and {len(values_by_method[1])}"
        )
    delta = float(values_by_method[1].mean() - values_by_method[0].mean())

    # Variances of the two means, and their sum with the shared part
    variances = [
        float(method_values.var(ddof=1)) / len(method_values) for method_values in values_by_method
    ]
    variance = sum(variances) + shared_variance
    if variance == 0:
        return MethodDifference(
            delta=delta, se=0.0, df=None, low=delta, high=delta, p=float(delta == 0)
        )

    # df = variance^2 / sum of (variance of a mean)^2 / (n - 1)
    denominator = sum(
        method_variance**2 / (len(method_values) - 1)
        for method_variance, method_values in zip(variances, values_by_method, strict=True)
    )
    df = variance**2 / denominator if denominator else None
    se = math.sqrt(variance)
    half_width = critical_value(0.95, df) * se
    return MethodDifference(
        delta, se, df, delta - half_width, delta + half_width, student_p(delta / se, df)
    )


def student_p(t: float, df: float | None) -> float:
    """Return the two-sided p value of Student's t with df; of the normal if df is None."""
    if df is None:
        return math.erfc(abs(t) / math.sqrt(2))
    return two_sided_tail(t, df)


def shared_variance(
    baseline_contributions: Sequence[np.ndarray], new_contributions: Sequence[np.ndarray]
) -> float:
    """Return the sampling variance of the difference of means that all runs of a method share.

    All runs answered the same requests with the same noise, so their sampling errors are
    correlated. The error of the difference, from the mean contributions of each method, includes
    the shared part and the part of each run. The latter is half the squared error between two runs
    of a method. It is already in the variance over runs, so it is subtracted.

    Args:
        baseline_contributions: first-order contributions (N,) of each run of the baseline.
        new_contributions: first-order contributions (N,) of each run of the new method, of the
            same samples in the same order.
    """
    total_variance = (
        standard_error(np.mean(new_contributions, axis=0) - np.mean(baseline_contributions, axis=0))
        ** 2
    )
    run_variance = sum(
        np.mean([standard_error(a - b) ** 2 / 2 for a, b in combinations(runs, 2)]) / len(runs)
        for runs in (baseline_contributions, new_contributions)
    )
    return max(0.0, total_variance - float(run_variance))
