"""Whether arrays from a file are a mean and a covariance.

The formula of the Frechet distance gives a number for any two arrays (a negative one where a
covariance is asymmetric), so
arrays are checked before they are used, wherever they come from. The check costs little beside a
distance.
"""

from __future__ import annotations

import math

import numpy as np

FLOAT32_MAX = float(
    np.finfo(np.float32).max
)  # of a feature, so of a mean; a variance is at most its square
# of the largest entry, or of the norm: covariances that were summed in float32 are off by less
ROUNDING_TOLERANCE = 1e-6
STRIP_ROWS = 64  # rows
MIN_ITEM_BYTES = 4  # bytes of a number in a mean or covariance; float16 keeps three digits


def moments_complaint(mean: np.ndarray, covariance: np.ndarray) -> str | None:
    """Return in words why the arrays are no mean and covariance, or None where they are.

    Args:
        mean, covariance: (D,) and (D, D), real float32 or float64, D at least 1; a scatter (D, D)
            passes, too.

    Returns:
        The predicate of a sentence, such as "are not finite". Zeros are the covariance of equal
        images.
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
    """Return what `moments_complaint` does but for negative eigenvalues, in a tenth of the time."""
    if mean.ndim != 1 or mean.size == 0 or covariance.shape != (len(mean), len(mean)):
        return f"have shapes {mean.shape} and {covariance.shape}, wanted (D,) and (D, D)"
    if any(
        array.dtype.kind != "f" or array.dtype.itemsize < MIN_ITEM_BYTES
        for array in (mean, covariance)
    ):
        return f"are of dtype {mean.dtype} and {covariance.dtype}, wanted real float32 or float64"

    sizes = [max(abs(float(array.min())), abs(float(array.max()))) for array in (mean, covariance)]
    if not all(map(math.isfinite, sizes)) or np.isnan([mean.max(), covariance.max()]).any():
        return "are not finite"
    if sizes[0] > FLOAT32_MAX or sizes[1] > FLOAT32_MAX**2:
        found = f"hold values up to {sizes[0]:.2g} and {sizes[1]:.2g}"
        return f"{found}, wanted at most {FLOAT32_MAX:.2g}, float32's largest, and its square"

    if is_symmetric(covariance):
        return None
    asymmetry = float(np.abs(covariance - covariance.T).max()) / sizes[1]
    if asymmetry > ROUNDING_TOLERANCE:
        return (
            f"are no mean and covariance: entries (i, j) and (j, i) differ by {asymmetry:.2g} of"
            " the largest entry"
        )
    return None


def is_symmetric(matrix: np.ndarray) -> bool:
    """Return whether a matrix (D, D) equals its transpose to the last bit, read in strips that fit
    in a cache.
    """
    starts = range(0, len(matrix), STRIP_ROWS)
    return all(
        np.array_equal(matrix[i : i + STRIP_ROWS, i:], matrix[i:, i : i + STRIP_ROWS].T)
        for i in starts
    )


def lowest_eigenvalue(symmetric: np.ndarray) -> float:
    """Return the lowest eigenvalue of a symmetric matrix (D, D) as a share of its Frobenius norm; 0
    unless that is below rounding.
    """
    largest = float(np.abs(symmetric).max())
    if largest == 0.0:
        return 0.0
    scaled = symmetric.astype(np.float64) / largest  # no square of an entry overflows or vanishes
    norm = float(np.linalg.norm(scaled))

    # Cholesky's factor exists where no eigenvalue is below the shift, and takes a tenth of the time
    # of eigenvalues.
    try:
        np.linalg.cholesky(scaled + 0.5 * ROUNDING_TOLERANCE * norm * np.eye(len(scaled)))
    except np.linalg.LinAlgError:
        return float(np.linalg.eigvalsh(scaled)[0]) / norm
    return 0.0
