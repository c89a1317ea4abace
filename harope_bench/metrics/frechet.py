"""Squared Frechet distance between Gaussians and its first-order error, in real arithmetic.

With F F^T = S1, the eigenvalues of S1 S2 are those of F^T S2 F, which is symmetric and positive
semi-definite, so tr sqrt(S1 S2) is the sum of their square roots. No matrix square root and no
complex number is needed.

F is the Cholesky factor where it exists. Where S1 is singular (constant columns, no more images
than dimensions), the columns of F are the scaled eigenvectors of the support of S1. Rounding turns
a zero eigenvalue into noise whose square root is not small (1e-16 becomes 1e-8). Where an
eigenvalue is at that level, F is computed from the covariance of lower rank, so that such
eigenvalues do not occur.
"""

from __future__ import annotations

import numpy as np

from harope_bench.core.errors import InvalidMomentsError, ShapeError
from harope_bench.metrics.moment_checks import ROUNDING_TOLERANCE, symmetry_complaint
from harope_bench.metrics.moments import Gaussian, row_blocks

EPS = float(np.finfo(np.float64).eps)
STRIP_COLUMNS = 256  # columns of a triangular product
# times D * eps: a direction with a smaller fraction of the variance is rounding noise
RANK_TOLERANCE = 10.0


def frechet_distance(generated: Gaussian, real: Gaussian, root: np.ndarray | None = None) -> float:
    """Return the squared Frechet distance between two Gaussians of the same width D.

    Args:
        generated, real: mean (D,) and covariance (D, D), float64, unbiased (N - 1).
        root: F (D, r) with F F^T = generated covariance (`covariance_root`), where the caller has
            it already.

    Returns:
        At least 0 up to rounding (not clamped); 0 for equal inputs; no unit.

    Raises:
        ShapeError: The widths differ.
        InvalidMomentsError: An input is no mean and covariance, or the distance is negative beyond
            rounding.

    Source: Heusel et al. 2017, equation 6. The trace is computed otherwise than in
    openai/guided-diffusion:evaluations/evaluator.py.
    """
    _check_gaussians(generated, real)
    if root is None:
        root = covariance_root(generated.covariance)

    # the eigenvalues of S S_r are those of F^T S_r F
    eigenvalues = _product_eigenvalues(root, real.covariance)
    norm_product = float(np.linalg.norm(generated.covariance)) * float(
        np.linalg.norm(real.covariance)
    )
    _check_signs(eigenvalues, norm_product)

    # an eigenvalue at rounding level: use the root of lower rank
    if eigenvalues[:1].sum() <= _rounding_floor(eigenvalues):
        real_root = covariance_root(real.covariance)
        if real_root.shape[1] < root.shape[1]:
            eigenvalues = _product_eigenvalues(real_root, generated.covariance)

    mean_difference = generated.mean - real.mean
    covariance_traces = np.trace(generated.covariance) + np.trace(real.covariance)
    root_trace = np.sqrt(np.clip(eigenvalues, 0.0, None)).sum()
    return _checked_distance(
        float(mean_difference @ mean_difference), float(covariance_traces), float(root_trace)
    )


def _check_gaussians(generated: Gaussian, real: Gaussian) -> None:
    """Raise ShapeError if the widths differ, InvalidMomentsError if one is no Gaussian."""
    if (
        generated.mean.shape != real.mean.shape
        or generated.covariance.shape != real.covariance.shape
    ):
        raise ShapeError(
            f"Gaussians of widths {len(generated.mean)} and {len(real.mean)} cannot be compared,"
            " wanted one width; extract the features of samples and reference with the same judge"
        )
    for owner, gaussian in (("samples", generated), ("reference", real)):
        if complaint := symmetry_complaint(*gaussian):
            raise InvalidMomentsError(
                f"mean and covariance of the {owner} {complaint}; build the statistics again"
            )


def _checked_distance(
    squared_mean_difference: float, covariance_traces: float, root_trace: float
) -> float:
    """Return |m - m_r|^2 + tr S + tr S_r - 2 tr sqrt(S S_r).

    Raises:
        InvalidMomentsError: The result is below 0 by more than rounding.
    """
    distance = squared_mean_difference + covariance_traces - 2.0 * root_trace
    if distance < -ROUNDING_TOLERANCE * (squared_mean_difference + covariance_traces):
        raise InvalidMomentsError(
            f"the Frechet distance is {distance:.4g}, wanted at least 0, so one of the covariances"
            " is not positive semi-definite; build the statistics again"
        )
    return distance


def _check_signs(eigenvalues: np.ndarray, scale: float) -> None:
    """Raise InvalidMomentsError if an ascending eigenvalue is below 0 by more than rounding.

    `scale` is the norm of the matrix that the eigenvalues belong to.
    """
    if eigenvalues[:1].sum() < -ROUNDING_TOLERANCE * scale:
        raise InvalidMomentsError(
            f"a covariance has an eigenvalue of {eigenvalues[0] / scale:.2g} of its norm, wanted"
            " none below 0; build the statistics again"
        )


def covariance_root(covariance: np.ndarray) -> np.ndarray:
    """Return F (D, r) with F F^T = covariance (D, D).

    F is the Cholesky factor, or the scaled eigenvectors of the support of a singular covariance.
    """
    lower = _cholesky(covariance)
    return _support_root(covariance) if lower is None else lower


def covariance_root_of_rows(rows: np.ndarray) -> np.ndarray:
    """Return F (D, N - 1), where F F^T is the unbiased covariance of rows (N, D).

    For N <= D it is faster than `covariance_root`, which solves an eigenproblem of size D. A
    Householder reflection turns the rows' mean into the first row, which is then dropped.
    """
    n = len(rows)
    reflected_rows = rows - np.asarray(np.mean(rows, axis=0, dtype=np.float64))  # (N, D)

    # the reflection that maps (1, ..., 1) / sqrt(N) to the first axis
    axis = np.full(n, n**-0.5)
    axis[0] -= 1.0
    axis /= np.linalg.norm(axis)
    reflected_rows -= 2.0 * np.outer(axis, axis @ reflected_rows)

    root: np.ndarray = reflected_rows[1:].T / np.sqrt(n - 1)  # (D, N - 1)
    return root


def influence_values(
    rows: np.ndarray, generated: Gaussian, real: Gaussian, root: np.ndarray | None = None
) -> np.ndarray:
    """Return the first-order contribution of each row to the distance, centred.

    g_i = 2 (m - m_r).(x_i - m) + (x_i - m)^T (I - T) (x_i - m) - mean, where T maps the generated
    Gaussian onto the real one (T S T = S_r) and the reference is fixed. With S = F F^T and whitened
    rows z = F^-1 (x - m), the T term is z^T (F^T S_r F)^(1/2) z. So T, which may be
    ill-conditioned, is never computed.

    Args:
        rows: (N, D), the rows that `generated` was computed from. N must exceed the number of
            columns with variance: otherwise the distance has no derivative in the directions that
            the rows do not span.
        root: F as in `frechet_distance`.

    Returns:
        (N,) float64, mean 0. Their standard deviation over sqrt(N) is the standard error.

    Source: Dowson and Landau 1982 (the distance); Bhatia, Jain, Lim 2019, theorem 7 (the
    derivative).
    """
    if root is None:
        root = covariance_root(generated.covariance)
    whitening = _inverse(root).T  # (D, r)

    # (F^T S_r F)^(1/2)
    eigenvalues, eigenvectors = np.linalg.eigh(root.T @ real.covariance @ root)
    root_eigenvalues = np.sqrt(np.clip(eigenvalues, 0.0, None))
    square_root = (eigenvectors * root_eigenvalues) @ eigenvectors.T  # (r, r)

    slope = 2.0 * (generated.mean - real.mean)
    values = np.empty(len(rows))
    for part in row_blocks(len(rows)):
        centred_rows = rows[part] - generated.mean
        whitened_rows = centred_rows @ whitening  # (block, r)
        values[part] = (
            centred_rows @ slope
            + np.einsum("nd,nd->n", centred_rows, centred_rows)
            - np.einsum("nr,nr->n", whitened_rows @ square_root, whitened_rows)
        )
    values -= values.mean()
    return values


def _product_eigenvalues(root: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return the eigenvalues (r,) of F F^T S that are not 0 by rank, ascending.

    F is `root` (D, r) and S is `covariance` (D, D).
    """
    is_square = root.shape[0] == root.shape[1]
    if is_square and root.shape[0] > 2 * STRIP_COLUMNS and not np.triu(root, 1).any():
        return np.linalg.eigvalsh(_triangular_sandwich(root, covariance))
    return np.linalg.eigvalsh(root.T @ covariance @ root)


def _triangular_sandwich(lower: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return the lower triangle of L^T S L (D, D), which is all that eigvalsh reads.

    Blocks skip the zeros of L, which takes 0.4 of the operations of the full products.
    """
    half_product = np.empty_like(lower)  # S L
    sandwich = np.zeros_like(lower)
    parts = list(row_blocks(len(lower), STRIP_COLUMNS))
    for part in parts:
        half_product[:, part] = covariance[:, part.start :] @ lower[part.start :, part]
    for part in parts:
        sandwich[part, : part.stop] = (
            lower[part.start :, part].T @ half_product[part.start :, : part.stop]
        )
    return sandwich


def _rounding_floor(eigenvalues: np.ndarray) -> float:
    """Return the largest value that rounding makes of a zero among ascending eigenvalues."""
    return RANK_TOLERANCE * EPS * len(eigenvalues) * float(eigenvalues[-1:].sum())


def _cholesky(covariance: np.ndarray) -> np.ndarray | None:
    """Return the Cholesky factor (D, D), or None if the covariance is singular to rounding."""
    try:
        lower = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return None
    # A squared pivot is the variance that earlier columns leave unexplained. At rounding level the
    # factor's inverse is noise.
    floor = RANK_TOLERANCE * EPS * len(covariance) * np.diag(covariance)
    return lower if bool((np.diag(lower) ** 2 > floor).all()) else None


def _support_root(covariance: np.ndarray) -> np.ndarray:
    """Return the scaled eigenvectors (D, rank) whose eigenvalues exceed rounding."""
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    _check_signs(eigenvalues, float(np.abs(eigenvalues).max()))
    in_support = eigenvalues > _rounding_floor(eigenvalues)
    root: np.ndarray = eigenvectors[:, in_support] * np.sqrt(eigenvalues[in_support])  # (D, rank)
    return root


def _inverse(root: np.ndarray) -> np.ndarray:
    """Return the inverse (r, D) of a square root, or the pseudo-inverse of orthogonal columns."""
    if root.shape[0] == root.shape[1]:
        return np.linalg.inv(root)
    inverse: np.ndarray = (root / (root**2).sum(axis=0)).T
    return inverse
