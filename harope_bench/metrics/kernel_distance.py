"""Squared maximum mean discrepancies KID and CMMD, with a jackknife error in closed form.

Kernel values are summed in float64 over blocks, so no whole kernel matrix is in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import ShapeError, TooFewImagesError
from harope_bench.metrics.moments import row_blocks

BLOCK_ROWS = 1024  # rows in memory as float64 at once, 16 MB at width 2048
# torch-fidelity's defaults
SUBSETS = 100
SUBSET_SIZE = 1000
SUBSET_SEED = 2020
CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


class KernelSums(NamedTuple):
    """Kernel sums of each row x of one set (N,), float64.

    within_set: sum of k(x, x') over the other rows of its set. diagonal: k(x, x). between_sets: sum
    of k(x, y) over the rows of the other set.
    """

    within_set: np.ndarray
    diagonal: np.ndarray
    between_sets: np.ndarray


class Discrepancy(NamedTuple):
    """A squared discrepancy with its standard errors and jackknife contributions.

    se: standard error if both sets were sampled again. standard_error_fixed_reference: standard
    error if only the samples were, the standard deviation of `generated_contributions` over
    sqrt(N). generated_contributions, real_contributions: centred jackknife contributions (N,),
    (M,).
    """

    value: float
    se: float
    standard_error_fixed_reference: float
    generated_contributions: np.ndarray
    real_contributions: np.ndarray


class SubsetValues(NamedTuple):
    """Mean and population standard deviation over random subsets.

    The standard deviation is not the standard error of the mean.
    """

    mean: float
    std: float


def kid(generated: np.ndarray, real: np.ndarray, block_size: int = BLOCK_ROWS) -> Discrepancy:
    """Return the Kernel Inception Distance as the unbiased U-statistic over all pairs.

    The kernel is k(x, y) = (x.y / D + 1)^3 and
    U = sum_{i != j} k(x_i, x_j) / (N (N - 1)) + sum_{i != j} k(y_i, y_j) / (M (M - 1))
    - 2 sum_{i, j} k(x_i, y_j) / (N M).

    The standard error is the two-sample jackknife, a sum of one term for each set:
    se^2 = (N - 1) / N sum_i (U_-i - mean U_-)^2 + (M - 1) / M sum_j (U_-j - mean U_-)^2,
    where U_-i is U without row i, computed exactly. It is too large where the two sets agree, since
    the second-order term of U dominates there.

    Args:
        generated, real: (N, D), (M, D) of any float type, memory-mapped or not; N, M > 2.
        block_size: rows of each set that are converted to float64 at once.

    Returns:
        A value that may be below 0; no unit.

    Raises:
        ShapeError: The widths differ.
        TooFewImagesError: A set has fewer than 3 rows.

    Source: Binkowski et al. 2018 (kernel and estimator); Arvesen 1969 (jackknife of two-sample
    U-statistics); Efron and Stein 1981.
    """
    return _discrepancy(*kernel_sums(generated, real, cubic_kernel, block_size), is_biased=False)


def cmmd(generated: np.ndarray, real: np.ndarray, block_size: int = BLOCK_ROWS) -> Discrepancy:
    """Return the CLIP maximum mean discrepancy times 1,000.

    The kernel is exp(-|x - y|^2 / 200) and the estimator is the V-statistic, which includes the
    diagonal. It is biased upwards by about 1000 (1 - mean kernel) (1/N + 1/M). The error is that of
    `kid`.

    Args:
        generated, real: (N, D), (M, D) image embeddings of length 1, any float type; N, M > 2.
        block_size: rows of each set that are converted to float64 at once.

    Raises:
        ShapeError: The widths differ.
        TooFewImagesError: A set has fewer than 3 rows.

    Source: Jayasumana et al. 2024; google-research/google-research:cmmd/distance.py, whose float32
    resolves about 6e-5.
    """
    kernel = partial(gaussian_kernel, sigma=CMMD_SIGMA)
    discrepancy = _discrepancy(*kernel_sums(generated, real, kernel, block_size), is_biased=True)
    return Discrepancy(
        CMMD_SCALE * discrepancy.value,
        CMMD_SCALE * discrepancy.se,
        CMMD_SCALE * discrepancy.standard_error_fixed_reference,
        CMMD_SCALE * discrepancy.generated_contributions,
        CMMD_SCALE * discrepancy.real_contributions,
    )


def kid_subsets(
    generated: np.ndarray,
    real: np.ndarray,
    subsets: int = SUBSETS,
    size: int = SUBSET_SIZE,
    seed: int = SUBSET_SEED,
) -> SubsetValues:
    """Return KID as torch-fidelity computes it, over random subsets without replacement.

    Each subset gives an unbiased value. A seeded RandomState selects the subsets. Kernels are
    float64 here and float32 there.

    Args:
        generated, real: features (N, D) and (M, D).
        subsets: number of subsets.
        size: rows of each set in a subset.
        seed: seed of the RandomState.

    Raises:
        TooFewImagesError: A set is smaller than a subset.

    Source: toshas/torch-fidelity:torch_fidelity/metric_kid.py.
    """
    fewest = min(len(generated), len(real))
    if fewest < size:
        raise TooFewImagesError(
            f"KID over subsets of {size:,} needs at least {size:,} images in both sets, found"
            f" {fewest:,}; use the full statistic"
        )
    rng = np.random.RandomState(seed)
    values = np.empty(subsets)
    for i in range(subsets):
        x = generated[rng.choice(len(generated), size, replace=False)]
        y = real[rng.choice(len(real), size, replace=False)]
        values[i] = _discrepancy_value(*kernel_sums(x, y, cubic_kernel), is_biased=False)
    return SubsetValues(float(values.mean()), float(values.std()))


def cubic_kernel(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return (x.y / D + 1)^3 (n, m) for float64 rows x of `left` and y of `right`."""
    kernel: np.ndarray = left @ right.T  # (n, m)
    kernel /= left.shape[1]
    kernel += 1.0
    kernel *= kernel * kernel
    return kernel


def gaussian_kernel(left: np.ndarray, right: np.ndarray, sigma: float) -> np.ndarray:
    """Return exp(-|x - y|^2 / (2 sigma^2)) (n, m) for float64 rows x of `left` and y of `right`."""
    # |x|^2 + |y|^2 - 2 x.y
    kernel: np.ndarray = left @ right.T  # (n, m)
    kernel *= -2.0
    kernel += np.einsum("nd,nd->n", left, left)[:, None]
    kernel += np.einsum("nd,nd->n", right, right)

    kernel *= -1.0 / (2.0 * sigma * sigma)
    return np.exp(kernel, out=kernel)


def kernel_sums(
    generated: np.ndarray, real: np.ndarray, kernel: Kernel, block_size: int = BLOCK_ROWS
) -> tuple[KernelSums, KernelSums]:
    """Return the kernel sums of every row of both sets; compute each pair of rows once.

    Raises:
        ShapeError: The widths differ.
        TooFewImagesError: A set has fewer than 3 rows.
    """
    if generated.shape[1] != real.shape[1]:
        raise ShapeError(
            f"features of widths {generated.shape[1]} and {real.shape[1]} cannot be compared,"
            " wanted one width; extract the features of samples and reference with the same judge"
        )
    if min(len(generated), len(real)) < 3:
        raise TooFewImagesError(
            "a kernel distance with an error needs at least 3 images in both sets, found"
            f" {min(len(generated), len(real))}; generate more images"
        )
    generated_sums = np.zeros(len(generated))
    real_sums = np.zeros(len(real))
    for generated_part in row_blocks(len(generated), block_size):
        left = generated[generated_part].astype(np.float64)
        for real_part in row_blocks(len(real), block_size):
            values = kernel(left, real[real_part].astype(np.float64))  # (n, m)
            generated_sums[generated_part] += values.sum(axis=1)
            real_sums[real_part] += values.sum(axis=0)
    return (
        KernelSums(*_sums_within(generated, kernel, block_size), generated_sums),
        KernelSums(*_sums_within(real, kernel, block_size), real_sums),
    )


def _sums_within(
    rows: np.ndarray, kernel: Kernel, block_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each row its kernel sum over the other rows, and its kernel with itself."""
    within = np.zeros(len(rows))
    diagonal = np.empty(len(rows))
    parts = list(row_blocks(len(rows), block_size))
    for i, part in enumerate(parts):
        left = rows[part].astype(np.float64)
        values = kernel(left, left)  # (n, n)
        diagonal[part] = np.diag(values)
        np.fill_diagonal(values, 0.0)
        within[part] += values.sum(axis=1)

        # each pair of blocks once, for the rows of both
        for later_part in parts[i + 1 :]:
            values = kernel(left, rows[later_part].astype(np.float64))  # (n, m)
            within[part] += values.sum(axis=1)
            within[later_part] += values.sum(axis=0)
    return within, diagonal


def _discrepancy(generated: KernelSums, real: KernelSums, is_biased: bool) -> Discrepancy:
    """Return the discrepancy, with standard errors from the jackknife contributions."""
    generated_contributions = _contributions(generated, real, is_biased)
    real_contributions = _contributions(real, generated, is_biased)
    generated_error, real_error = (
        float(contributions.std(ddof=1) / np.sqrt(len(contributions)))
        for contributions in (generated_contributions, real_contributions)
    )
    return Discrepancy(
        value=_discrepancy_value(generated, real, is_biased),
        se=float(np.hypot(generated_error, real_error)),
        standard_error_fixed_reference=generated_error,
        generated_contributions=generated_contributions,
        real_contributions=real_contributions,
    )


def _discrepancy_value(generated: KernelSums, real: KernelSums, is_biased: bool) -> float:
    """Return mean k(x, x') + mean k(y, y') - 2 mean k(x, y)."""
    n = len(generated.diagonal)
    m = len(real.diagonal)
    generated_mean, real_mean = (
        _mean_kernel(sums.within_set.sum(), sums.diagonal.sum(), len(sums.diagonal), is_biased)
        for sums in (generated, real)
    )
    return float(generated_mean + real_mean - 2.0 * generated.between_sets.sum() / (n * m))


def _contributions(sums: KernelSums, other_sums: KernelSums, is_biased: bool) -> np.ndarray:
    """Return the centred jackknife contributions (N,) of one set's rows to the discrepancy.

    The i-th is (N - 1) (mean over j of U_-j - U_-i), where U_-i is the value without row i. Their
    standard deviation over sqrt(N) is the jackknife standard error.
    """
    n = len(sums.diagonal)
    m = len(other_sums.diagonal)
    # terms of U_-i that depend on i
    values_without_row = _mean_kernel(
        sums.within_set.sum() - 2.0 * sums.within_set,
        sums.diagonal.sum() - sums.diagonal,
        n - 1,
        is_biased,
    )
    between_without_row = sums.between_sets.sum() - sums.between_sets
    values_without_row = values_without_row - 2.0 * between_without_row / ((n - 1) * m)
    return np.asarray((n - 1) * (values_without_row.mean() - values_without_row))


def _mean_kernel(
    within_sum: np.ndarray, diagonal_sum: np.ndarray, n: int, is_biased: bool
) -> np.ndarray:
    """Return the mean kernel over all pairs of n rows (biased), or over pairs of distinct rows."""
    return (within_sum + diagonal_sum) / n**2 if is_biased else within_sum / (n * (n - 1))
