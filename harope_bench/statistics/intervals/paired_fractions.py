"""Paired fractions: McNemar's exact test and the interval of Bonett and Price.

Contributions are 0 or 1, or 0 or 100 (percent), of the same samples in both runs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import ShapeError
from harope_bench.statistics.significance import Interval


class McNemarTest(NamedTuple):
    """McNemar's test of paired samples.

    Attributes:
        wins: number of samples that are correct in the new run alone.
        losses: number of samples that are correct in the baseline alone.
        ties: number of samples that are correct in both or in neither.
        p: exact two-sided p value.
    """

    wins: int
    losses: int
    ties: int
    p: float


def is_binary(contributions: np.ndarray) -> bool:
    """Return whether all contributions are 0 or 1, or all are 0 or 100."""
    return any(bool(np.isin(contributions, (0, success_value)).all()) for success_value in (1, 100))


def mcnemar_test(baseline_contributions: np.ndarray, new_contributions: np.ndarray) -> McNemarTest:
    """Return McNemar's exact test of two arrays (N,) of 0 and a positive value.

    Without an effect, half of the samples that differ are wins. p is twice the smaller tail of the
    binomial distribution, at most 1, and 1 if no sample differs.

    Raises:
        ShapeError: The arrays have different shapes.

    Source: McNemar 1947; the exact form as in Fagerland, Lydersen, Laake 2013, section 2.
    """
    if baseline_contributions.shape != new_contributions.shape:
        raise ShapeError(
            f"paired contributions have shapes {baseline_contributions.shape} and"
            f" {new_contributions.shape}; they need one shape"
        )
    wins = int(((new_contributions > 0) & (baseline_contributions == 0)).sum())
    losses = int(((new_contributions == 0) & (baseline_contributions > 0)).sum())
    p = min(1.0, 2.0 * _binomial_tail(min(wins, losses), wins + losses))
    return McNemarTest(wins, losses, len(new_contributions) - wins - losses, p)


def bonett_price_interval(wins: int, losses: int, ties: int, critical_value: float) -> Interval:
    """Return the interval of a paired difference of fractions, (wins - losses) / N.

    One sample is added to the wins and one to the losses, so the interval has a width even if no
    sample differs.

    Args:
        wins: number of samples that are correct in the new run alone.
        losses: number of samples that are correct in the baseline alone.
        ties: number of the other samples.
        critical_value: half-width in standard errors.

    Source: Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data".
    """
    n = wins + losses + ties + 2
    win_rate = (wins + 1) / n
    loss_rate = (losses + 1) / n
    delta = win_rate - loss_rate
    se = math.sqrt((win_rate + loss_rate - (win_rate - loss_rate) ** 2) / n)
    return Interval(se, delta - critical_value * se, delta + critical_value * se)


def _binomial_tail(k: int, n: int) -> float:
    """Return P(X <= k) of Binomial(n, 1/2).

    The terms are computed from logarithms, because 2^-n underflows for n above a thousand.
    """
    log_scale = math.lgamma(n + 1) - n * math.log(2)
    return math.fsum(
        math.exp(log_scale - math.lgamma(j + 1) - math.lgamma(n - j + 1)) for j in range(k + 1)
    )
