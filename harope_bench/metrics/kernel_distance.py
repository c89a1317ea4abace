"""Squared maximum mean discrepancies, KID and CMMD: float64 sums over blocks, no kernel matrix, and
a jackknife error in closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import ShapeError, TooFewImagesError
from harope_bench.metrics.moments import row_blocks

BLOCK = 1024  # rows held in float64 at once, 16 MB at width 2048
# torch-fidelity's
SUBSETS = 100
SUBSET_SIZE = 1000
SUBSET_SEED = 2020
CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


class KernelSums(NamedTuple):
    """Kernel sums of each row of one set: over the others of its set, with itself, and over the
    other set; (N,) float64 each.
    """

    within: np.ndarray
    diagonal: np.ndarray
    between: np.ndarray


class Discrepancy(NamedTuple):
    """Value, its standard errors, and centred jackknife contributions of both sets (N,), (M,).

    se: both sets drawn anew. se_drawn: the reference held fixed, sd / sqrt(N) of `drawn`.
    """

    value: float
    se: float
    standard_error_fixed_reference: float
    generated_contributions: np.ndarray
    real_contributions: np.ndarray


class SubsetValues(NamedTuple):
    """Mean and population standard deviation over random subsets; the second is no standard error
    of the first.
    """

    mean: float
    std: float


def kid(drawn: np.ndarray, real: np.ndarray, block: int = BLOCK) -> Discrepancy:
    """Kernel Inception Distance as the full U-statistic over all pairs: kernel (x.y / D + 1)^3,
    unbiased.

    U = sum_{i != j} k(x_i, x_j) / (N (N - 1)) + sum_{i != j} k(y_i, y_j) / (M (M - 1)) - 2 sum_{i,
    j} k(x_i, y_j) / (N M).
    The error is the two-sample jackknife: se^2 = (N - 1) / N sum_i (U_-i - mean U_-)^2 + the same
    over the reference, where U_-i
    leaves row i out, exactly. It errs on the wide side where the sets agree, since then the second
    order of U rules.

    Args:
        drawn, real: (N, D), (M, D) of any float type, memory-mapped or not; N, M > 2.

    Returns:
        May be below 0; no unit.

    Source: Binkowski et al. 2018 (the kernel and the estimator); Arvesen 1969 (jackknife of
    two-sample U-statistics), Efron and Stein 1981.
    """
    return _discrepancy(*kernel_sums(drawn, real, cubic_kernel, block), biased=False)


def cmmd(drawn: np.ndarray, real: np.ndarray, block: int = BLOCK) -> Discrepancy:
    """CLIP maximum mean discrepancy: kernel exp(-|x - y|^2 / 200), V-statistic with the diagonal,
    times 1,000.

    Biased upwards by about 1000 (1 - mean kernel) (1/N + 1/M). Error as in `kid`.

    Args:
        drawn, real: (N, D), (M, D) image embeddings of length 1, any float type; N, M > 2.

    Source: Jayasumana et al. 2024; google-research/google-research:cmmd/distance.py, whose float32
    resolves about 6e-5.
    """
    found = _discrepancy(
        *kernel_sums(drawn, real, partial(gaussian_kernel, sigma=CMMD_SIGMA), block), biased=True
    )
    value, se, se_drawn = (
        CMMD_SCALE * number
        for number in (found.value, found.se, found.standard_error_fixed_reference)
    )
    return Discrepancy(
        value,
        se,
        se_drawn,
        CMMD_SCALE * found.generated_contributions,
        CMMD_SCALE * found.real_contributions,
    )


def kid_subsets(
    drawn: np.ndarray,
    real: np.ndarray,
    subsets: int = SUBSETS,
    size: int = SUBSET_SIZE,
    seed: int = SUBSET_SEED,
) -> SubsetValues:
    """KID as torch-fidelity reports it: unbiased values of random subsets, drawn without
    replacement by a seeded RandomState.

    Kernels are float64 here and float32 there.

    Raises:
        TooFewImages: a set is smaller than a subset.

    Source: toshas/torch-fidelity:torch_fidelity/metric_kid.py.
    """
    fewest = min(len(drawn), len(real))
    if fewest < size:
        raise TooFewImagesError(
            f"KID over subsets of {size:,} needs as many images in both sets, found {fewest:,}; use"
            " the full statistic"
        )
    rng = np.random.RandomState(seed)
    values = np.empty(subsets)
    for i in range(subsets):
        x, y = (rows[rng.choice(len(rows), size, replace=False)] for rows in (drawn, real))
        values[i] = _discrepancy_value(*kernel_sums(x, y, cubic_kernel), biased=False)
    return SubsetValues(float(values.mean()), float(values.std()))


def cubic_kernel(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(x.y / D + 1)^3 of float64 rows, (n, m)."""
    found: np.ndarray = left @ right.T
    found /= left.shape[1]
    found += 1.0
    found *= found * found
    return found


def gaussian_kernel(left: np.ndarray, right: np.ndarray, sigma: float) -> np.ndarray:
    """exp(-|x - y|^2 / (2 sigma^2)) of float64 rows, (n, m)."""
    found: np.ndarray = left @ right.T
    found *= -2.0
    found += np.einsum("nd,nd->n", left, left)[:, None]
    found += np.einsum("nd,nd->n", right, right)
    found *= -1.0 / (2.0 * sigma * sigma)
    return np.exp(found, out=found)


def kernel_sums(
    drawn: np.ndarray, real: np.ndarray, kernel: Kernel, block: int = BLOCK
) -> tuple[KernelSums, KernelSums]:
    """Kernel sums of every row of both sets; each pair of rows is met once."""
    if drawn.shape[1] != real.shape[1]:
        raise ShapeError(
            f"features of width {drawn.shape[1]} and {real.shape[1]} have no distance; the judge"
            " and the reference differ"
        )
    if min(len(drawn), len(real)) < 3:
        raise TooFewImagesError(
            "a kernel distance with an error needs at least 3 images in both sets, found"
            f" {min(len(drawn), len(real))}"
        )
    across_drawn = np.zeros(len(drawn))
    across_real = np.zeros(len(real))
    for part in row_blocks(len(drawn), block):
        left = drawn[part].astype(np.float64)
        for other in row_blocks(len(real), block):
            found = kernel(left, real[other].astype(np.float64))
            across_drawn[part] += found.sum(axis=1)
            across_real[other] += found.sum(axis=0)
    return KernelSums(*_sums_within(drawn, kernel, block), across_drawn), KernelSums(
        *_sums_within(real, kernel, block), across_real
    )


def _sums_within(rows: np.ndarray, kernel: Kernel, block: int) -> tuple[np.ndarray, np.ndarray]:
    others = np.zeros(len(rows))
    own = np.empty(len(rows))
    parts = list(row_blocks(len(rows), block))
    for i, part in enumerate(parts):
        left = rows[part].astype(np.float64)
        found = kernel(left, left)
        own[part] = np.diag(found)
        np.fill_diagonal(found, 0.0)
        others[part] += found.sum(axis=1)
        for other in parts[i + 1 :]:
            found = kernel(left, rows[other].astype(np.float64))
            others[part] += found.sum(axis=1)
            others[other] += found.sum(axis=0)
    return others, own


def _discrepancy(drawn: KernelSums, real: KernelSums, biased: bool) -> Discrepancy:
    contributions = [
        _contributions(side, other, biased) for side, other in ((drawn, real), (real, drawn))
    ]
    errors = [float(rows.std(ddof=1) / np.sqrt(len(rows))) for rows in contributions]
    se = float(np.hypot(errors[0], errors[1]))
    return Discrepancy(
        _discrepancy_value(drawn, real, biased), se, errors[0], contributions[0], contributions[1]
    )


def _discrepancy_value(drawn: KernelSums, real: KernelSums, biased: bool) -> float:
    n = len(drawn.diagonal)
    m = len(real.diagonal)
    within = [
        _mean_kernel(side.within.sum(), side.diagonal.sum(), len(side.diagonal), biased)
        for side in (drawn, real)
    ]
    return float(within[0] + within[1] - 2.0 * drawn.between.sum() / (n * m))


def _contributions(side: KernelSums, other: KernelSums, biased: bool) -> np.ndarray:
    """(N - 1) (mean of the values without one row - the value without row i), centred; sd / sqrt(N)
    is the jackknife error.
    """
    n = len(side.diagonal)
    m = len(other.diagonal)
    without = _mean_kernel(
        side.within.sum() - 2.0 * side.within, side.diagonal.sum() - side.diagonal, n - 1, biased
    )
    without = without - 2.0 * (side.between.sum() - side.between) / ((n - 1) * m)
    return np.asarray((n - 1) * (without.mean() - without))


def _mean_kernel(others: np.ndarray, own: np.ndarray, n: int, biased: bool) -> np.ndarray:
    """Mean kernel over all pairs with the diagonal, or over those of different rows."""
    return (others + own) / n**2 if biased else others / (n * (n - 1))
