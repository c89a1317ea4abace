"""Method against method: a t interval over training seeds that also counts the drawing noise the
runs share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import TooFewImagesError
from harope_bench.statistics.significance import quantile, standard_error


class MethodDifference(NamedTuple):
    """New minus baseline with its error, Student's degrees of freedom, 95% interval and two-sided
    p.
    """

    delta: float
    se: float
    df: float | None
    low: float
    high: float
    p: float


def method_difference(
    baseline: Sequence[float], new: Sequence[float], shared: float = 0.0
) -> MethodDifference:
    """Difference of the means over training seeds.

    Each value is the method's mean, plus what its training did, plus what its drawing did. The
    spread over a side's values holds
    the first noise and each run's own part of the second; `shared` is the variance that it cannot
    hold (see `shared_variance`).
    Degrees of freedom by Welch and Satterthwaite, `shared` counted as known.

    Args:
        baseline, new: one value a training seed, two or more on each side.

    Raises:
        TooFewImages: a side has a single training seed.
    """
    sides = [np.asarray(side, dtype=np.float64) for side in (baseline, new)]
    if min(map(len, sides)) < 2:
        raise TooFewImagesError(
            f"a spread over training seeds needs two on each side, found {len(sides[0])} and"
            f" {len(sides[1])}"
        )
    delta = float(sides[1].mean() - sides[0].mean())
    parts = [float(side.var(ddof=1)) / len(side) for side in sides]
    total = sum(parts) + shared
    if total == 0:
        return MethodDifference(delta, 0.0, None, delta, delta, float(delta == 0))
    loose = sum(part**2 / (len(side) - 1) for part, side in zip(parts, sides, strict=True))
    df = total**2 / loose if loose else None
    se = math.sqrt(total)
    half = quantile(0.95, df) * se
    return MethodDifference(delta, se, df, delta - half, delta + half, student_p(delta / se, df))


def student_p(t: float, df: float | None) -> float:
    """Two-sided p of Student's t with df degrees of freedom; of the normal where df is None."""
    if df is None:
        return math.erfc(abs(t) / math.sqrt(2))
    from scipy.special import stdtr  # a second to import, and only a few training seeds ask for it

    return float(2 * stdtr(df, -abs(t)))


def shared_variance(baseline: Sequence[np.ndarray], new: Sequence[np.ndarray]) -> float:
    """Drawing noise of the difference of means that is common to a side's runs, which their spread
    cannot show.

    All runs drew the same requests with the same noise, so their drawing errors move together. The
    error of the difference of the
    side means, from the mean rows, holds the common part and each run's own part; the own part is
    half the squared error between
    two runs of a side, and already stands in the spread over runs.

    Args:
        baseline, new: first-order contributions (N,) of each run, the same samples in the same
            order everywhere.
    """
    whole = standard_error(np.mean(new, axis=0) - np.mean(baseline, axis=0)) ** 2
    own = sum(
        np.mean([standard_error(a - b) ** 2 / 2 for a, b in combinations(side, 2)]) / len(side)
        for side in (baseline, new)
    )
    return max(0.0, whole - float(own))
