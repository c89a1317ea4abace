"""Checks that arrays from a file are a mean and a covariance.

The formula of the Frechet distance gives a number for any two arrays (a negative one where a
covariance is asymmetric), so arrays of any origin are checked before they are used. The check costs
little beside a distance.
"""

from __future__ import annotations

import math

import numpy as np

FLOAT32_MAX = float(np.finfo(np.float32).max)  # largest feature, so also largest mean
# Fraction of the largest entry or of the norm. Covariances summed in float32 are off by less.
ROUNDING_TOLERANCE = 1e-6
STRIP_ROWS = 64  # rows of a strip that fits in a cache
MIN_ITEM_BYTES = 4  # bytes of a number in a mean or covariance; float16 keeps only three digits


def moments_complaint(mean: np.ndarray, covariance: np.ndarray) -> str | None:
    """Return why the arrays are no mean and covariance, or None if they are.

    Args:
        mean, covariance: (D,) and (D, D), real float32 or float64, D at least 1. A scatter matrix
            (D, D) passes, too, and so does a matrix of zeros, the covariance of equal images.

    Returns:
        The predicate of a sentence about the arrays, such as "are not finite".
    """
    if complaint := symmetry_complaint(mean, covariance):
        return complaint
    lowest = lowest_eigenvalue(covariance)
    if lowest < -ROUNDING_TOLERANCE:
        return (
            f"are no mean and covariance: an eigenvalue is {lowest:.2g} of the matrix's norm,"
            " wanted none below 0"
        )
    return None


def symmetry_complaint(mean: np.ndarray, covariance: np.ndarray) -> str | None:
    """Return what `moments_complaint` does but ignore negative eigenvalues, in a tenth of the time.

    Check shapes, dtypes, finite values, range and symmetry.
    """
    if mean.ndim != 1 or mean.size == 0 or covariance.shape != (len(mean), len(mean)):
        return f"have shapes {mean.shape} and {covariance.shape}, wanted (D,) and (D, D)"
    if any(
        array.dtype.kind != "f" or array.dtype.itemsize < MIN_ITEM_BYTES
        for array in (mean, covariance)
    ):
        return f"are of dtype {mean.dtype} and {covariance.dtype}, wanted real float32 or float64"

    # a variance is at most the square of the largest feature
    mean_size, covariance_size = (
        max(abs(float(array.min())), abs(float(array.max()))) for array in (mean, covariance)
    )
    if not (math.isfinite(mean_size) and math.isfinite(covariance_size)):
        return "are not finite"
    if np.isnan([mean.max(), covariance.max()]).any():
        return "are not finite"
    if mean_size > FLOAT32_MAX or covariance_size > FLOAT32_MAX**2:
        return (
            f"hold values up to {mean_size:.2g} and {covariance_size:.2g}, wanted at most"
            f" {FLOAT32_MAX:.2g}, float32's largest, and its square"
        )

    if is_symmetric(covariance):
        return None
    asymmetry = float(np.abs(covariance - covariance.T).max()) / covariance_size
    if asymmetry > ROUNDING_TOLERANCE:
        return (
            f"are no mean and covariance: entries (i, j) and (j, i) differ by {asymmetry:.2g} of"
            " the largest entry"
        )
    return None


def is_symmetric(matrix: np.ndarray) -> bool:
    """Return whether a matrix (D, D) equals its transpose to the last bit.

    The matrix is read in strips that fit in a cache.
    """
    starts = range(0, len(matrix), STRIP_ROWS)
    return all(
        np.array_equal(matrix[i : i + STRIP_ROWS, i:], matrix[i:, i : i + STRIP_ROWS].T)
        for i in starts
    )


def lowest_eigenvalue(matrix: np.ndarray) -> float:
    """Return the lowest eigenvalue of a symmetric matrix (D, D) as a fraction of its norm.

    The norm is Frobenius's. Return 0 unless the eigenvalue is below 0 by more than rounding.
    """
    largest = float(np.abs(matrix).max())
    if largest == 0.0:
        return 0.0
    scaled_matrix = matrix.astype(np.float64) / largest  # squares neither overflow nor vanish
    norm = float(np.linalg.norm(scaled_matrix))

    # The Cholesky factor exists where no eigenvalue is below the shift. It takes a tenth of the
    # time of the eigenvalues.
    shift = 0.5 * ROUNDING_TOLERANCE * norm
    try:
        np.linalg.cholesky(scaled_matrix + shift * np.eye(len(scaled_matrix)))
    except np.linalg.LinAlgError:
        return float(np.linalg.eigvalsh(scaled_matrix)[0]) / norm
    return 0.0
