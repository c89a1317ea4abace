"""Paired shares: McNemar's exact test on rows of the same samples that are 0 or 1, or 0 or 100
(percent).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import ShapeError
from harope_bench.statistics.significance import Interval


class McNemarTest(NamedTuple):
    """Samples that only the new one has (wins), only the baseline (losses), both or neither (ties),
    and the two-sided exact p.
    """

    wins: int
    losses: int
    ties: int
    p: float


def is_binary(rows: np.ndarray) -> bool:
    """Whether all rows are 0 or 1, or all are 0 or 100."""
    return any(bool(np.isin(rows, (0, hit)).all()) for hit in (1, 100))


def mcnemar_test(baseline: np.ndarray, new: np.ndarray) -> McNemarTest:
    """Exact McNemar test of rows (N,), 0 or positive: of the samples that differ, half would be
    wins without an effect.

    p is twice the smaller binomial tail, at most 1; 1 where no sample differs.

    Source: McNemar 1947; the exact form as in Fagerland, Lydersen, Laake 2013, section 2.
    """
    if baseline.shape != new.shape:
        raise ShapeError(f"paired rows of shapes {baseline.shape} and {new.shape}")
    wins = int(((new > 0) & (baseline == 0)).sum())
    losses = int(((new == 0) & (baseline > 0)).sum())
    return McNemarTest(
        wins,
        losses,
        len(new) - wins - losses,
        min(1.0, 2.0 * _binomial_tail(min(wins, losses), wins + losses)),
    )


def bonett_price_interval(wins: int, losses: int, ties: int, reach: float) -> Interval:
    """Interval of a paired difference of shares, wins minus losses, that keeps a width where no
    sample differs.

    One sample is added to each kind of pair that differs. reach: standard errors to each side.

    Source: Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data".
    """
    n = wins + losses + ties + 2
    more = (wins + 1) / n
    fewer = (losses + 1) / n
    delta = more - fewer
    se = math.sqrt((more + fewer - (more - fewer) ** 2) / n)
    return Interval(se, delta - reach * se, delta + reach * se)


def _binomial_tail(k: int, n: int) -> float:
    """P(X <= k) of Binomial(n, 1/2), summed from logarithms: 2^-n underflows beyond a thousand."""
    whole = math.lgamma(n + 1) - n * math.log(2)
    return math.fsum(
        math.exp(whole - math.lgamma(j + 1) - math.lgamma(n - j + 1)) for j in range(k + 1)
    )
