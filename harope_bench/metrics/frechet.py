"""Squared Frechet distance between Gaussians and its first-order error; no sqrtm, no complex
numbers.

With F F^T = S1, the eigenvalues of S1 S2 are those of F^T S2 F, which is symmetric and at least 0;
so
tr sqrt(S1 S2) is the sum of their roots. F is Cholesky's factor where it exists, else (dead
columns, no more images than
dimensions) the scaled eigenvectors of the support of S1. A zero eigenvalue comes out as rounding
noise whose root is not small
(1e-16 becomes 1e-8), so where one shows, F is made of the covariance of lower rank, which leaves
them out.
"""

from __future__ import annotations

import numpy as np

from harope_bench.core.errors import InvalidMomentsError, ShapeError
from harope_bench.metrics.moment_checks import ROUNDING_TOLERANCE, symmetry_complaint
from harope_bench.metrics.moments import Gaussian, row_blocks

EPS = float(np.finfo(np.float64).eps)
STRIP_COLUMNS = 256  # columns of a triangular product
RANK_TOLERANCE = (
    10.0  # times D * eps: below that share of its variance a direction is rounding, not signal
)


def frechet_distance(generated: Gaussian, real: Gaussian, root: np.ndarray | None = None) -> float:
    """Squared Frechet distance between two Gaussians of the same width D.

    Args:
        drawn, real: mean (D,) and covariance (D, D), float64, unbiased (N - 1).
        root: F (D, r) with F F^T = drawn covariance where it is known already (`matrix_root`).

    Returns:
        At least 0 up to rounding (not clamped); 0 for equal inputs; no unit.

    Raises:
        ShapeError: the widths differ.
        InvalidMomentsError: no mean and covariance, or a distance that is negative beyond rounding.

    Source: Heusel et al. 2017, equation 6; openai/guided-diffusion:evaluations/evaluator.py, with
    another trace.
    """
    if (
        generated.mean.shape != real.mean.shape
        or generated.covariance.shape != real.covariance.shape
    ):
        raise ShapeError(
            f"Gaussians of widths {len(generated.mean)} and {len(real.mean)} have no distance; the"
            " judge and the reference differ"
        )
    for owner, gaussian in (("samples", generated), ("reference", real)):
        if complaint := symmetry_complaint(*gaussian):
            raise InvalidMomentsError(
                f"mean and covariance of the {owner} {complaint}; build the statistics again"
            )
    root = covariance_root(generated.covariance) if root is None else root
    shift = generated.mean - real.mean
    spread = np.trace(generated.covariance) + np.trace(real.covariance)
    values = _product_eigenvalues(root, real.covariance)
    _check_signs(
        values, float(np.linalg.norm(generated.covariance)) * float(np.linalg.norm(real.covariance))
    )
    if values[:1].sum() <= _rounding_floor(values):
        other = covariance_root(real.covariance)
        values = (
            _product_eigenvalues(other, generated.covariance)
            if other.shape[1] < root.shape[1]
            else values
        )
    return _checked_distance(
        float(shift @ shift), float(spread), float(np.sqrt(np.clip(values, 0.0, None)).sum())
    )


def _checked_distance(shift: float, spread: float, trace: float) -> float:
    """Return |m - m_r|^2 + tr S + tr S_r - 2 tr sqrt(S S_r); raise InvalidMomentsError where that
    is below 0 by more than rounding.
    """
    distance = shift + spread - 2.0 * trace
    if distance < -ROUNDING_TOLERANCE * (shift + spread):
        raise InvalidMomentsError(
            f"the Frechet distance comes out as {distance:.4g}, wanted at least 0, so one of the"
            " covariances is none; build the statistics again"
        )
    return distance


def _check_signs(values: np.ndarray, scale: float) -> None:
    """Raise InvalidMomentsError unless ascending eigenvalues are at least 0, up to rounding of what
    has the norm `scale`.
    """
    if values[:1].sum() < -ROUNDING_TOLERANCE * scale:
        raise InvalidMomentsError(
            f"a covariance has an eigenvalue of {values[0] / scale:.2g} of its norm, wanted none"
            " below 0; build the statistics again"
        )


def covariance_root(covariance: np.ndarray) -> np.ndarray:
    """F (D, r) with F F^T = covariance: Cholesky's factor, or the support's scaled eigenvectors if
    it is singular.
    """
    lower = _cholesky(covariance)
    return _support_root(covariance) if lower is None else lower


def covariance_root_of_rows(rows: np.ndarray) -> np.ndarray:
    """F (D, N - 1) with F F^T the unbiased covariance of rows (N, D): for N <= D, where it spares
    `matrix_root` an eigenproblem of size D.

    A reflection turns the rows' mean into the first row, which is left out; so no direction of
    variance 0 is among the columns.
    """
    n = len(rows)
    found = rows - np.asarray(np.mean(rows, axis=0, dtype=np.float64))
    axis = np.full(n, n**-0.5)
    axis[0] -= 1.0
    axis /= np.linalg.norm(axis)
    found -= 2.0 * np.outer(axis, axis @ found)
    root: np.ndarray = found[1:].T / np.sqrt(n - 1)
    return root


def influence_values(
    rows: np.ndarray, drawn: Gaussian, real: Gaussian, root: np.ndarray | None = None
) -> np.ndarray:
    """First-order contribution of each row to the distance, centred; sd / sqrt(N) is the standard
    error.

    g_i = 2 (m - m_r).(x_i - m) + (x_i - m)^T (I - T) (x_i - m) - mean, where T maps the drawn
    Gaussian onto the real
    one (T S T = S_r). The reference is held fixed. With S = F F^T and whitened rows z = F^-1 (x -
    m), the
    T term is z^T (F^T S_r F)^(1/2) z, so T itself, which may be ill-conditioned, is never formed.

    Args:
        rows: (N, D), the rows that `drawn` is the Gaussian of, more than their live columns: with N
            <= D the
            distance has no derivative in the directions that the rows do not span.
        root: as in `frechet`.

    Returns:
        (N,) float64, mean 0.

    Source: Dowson and Landau 1982 (the distance); its derivative as in Bhatia, Jain, Lim 2019,
    theorem 7.
    """
    root = covariance_root(drawn.covariance) if root is None else root
    whiten = _inverse(root).T  # (D, r)
    values, vectors = np.linalg.eigh(root.T @ real.covariance @ root)
    pull = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T  # (r, r)
    slope = 2.0 * (drawn.mean - real.mean)
    found = np.empty(len(rows))
    for part in row_blocks(len(rows)):
        centred = rows[part] - drawn.mean
        white = centred @ whiten  # (block, r)
        found[part] = (
            centred @ slope
            + np.einsum("nd,nd->n", centred, centred)
            - np.einsum("nr,nr->n", white @ pull, white)
        )
    found -= found.mean()
    return found


def _product_eigenvalues(root: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Eigenvalues (r,) of F F^T S of root F (D, r) and covariance S (D, D), ascending, those beyond
    the rank left out.
    """
    lower = 2 * STRIP_COLUMNS < root.shape[0] == root.shape[1] and not np.triu(root, 1).any()
    return np.linalg.eigvalsh(
        _triangular_sandwich(root, covariance) if lower else root.T @ covariance @ root
    )


def _triangular_sandwich(lower: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """The lower triangle of L^T S L (D, D), all that eigvalsh reads, in blocks that skip L's zeros:
    0.4 of the full products.
    """
    half = np.empty_like(lower)
    found = np.zeros_like(lower)
    parts = list(row_blocks(len(lower), STRIP_COLUMNS))
    for part in parts:
        half[:, part] = covariance[:, part.start :] @ lower[part.start :, part]
    for part in parts:
        found[part, : part.stop] = lower[part.start :, part].T @ half[part.start :, : part.stop]
    return found


def _rounding_floor(values: np.ndarray) -> float:
    """The largest that rounding makes of a zero among ascending eigenvalues."""
    return RANK_TOLERANCE * EPS * len(values) * float(values[-1:].sum())


def _cholesky(covariance: np.ndarray) -> np.ndarray | None:
    try:
        lower = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return None
    # A squared pivot is the variance that the columns before leave unexplained; at rounding level
    # the factor's inverse is noise.
    floor = RANK_TOLERANCE * EPS * len(covariance) * np.diag(covariance)
    return lower if bool((np.diag(lower) ** 2 > floor).all()) else None


def _support_root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    _check_signs(values, float(np.abs(values).max()))
    kept = values > _rounding_floor(values)
    root: np.ndarray = vectors[:, kept] * np.sqrt(values[kept])  # (D, rank)
    return root


def _inverse(root: np.ndarray) -> np.ndarray:
    """(r, D): the inverse of a square root, the pseudo-inverse of one with orthogonal columns."""
    if root.shape[0] == root.shape[1]:
        return np.linalg.inv(root)
    inverse: np.ndarray = (root / (root**2).sum(axis=0)).T
    return inverse
