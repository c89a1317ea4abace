"""Nearest-neighbour balls for precision and recall: exact, float64, in blocks of bounded memory."""

from __future__ import annotations

import numpy as np

from harope_bench.errors import ShapeError
from harope_bench.metrics.moments import row_blocks

NEIGHBOURS = 3
BLOCK = 1024  # 8 MB a block of distances
EPS = float(np.finfo(np.float64).eps)


def squared_radii(rows: np.ndarray, k: int = NEIGHBOURS, block: int = BLOCK) -> np.ndarray:
    """Squared distance of each row to its k-th nearest other row.

    A row is left out of its own neighbours by position, so an exact copy elsewhere is a neighbour at distance 0. Only the upper
    triangle of blocks is computed; each feeds the nearest k of its rows and of its columns.

    Args:
        rows: (N, D) of any float type, N > k.

    Returns:
        (N,) float64, squared Euclidean.

    Source: Kynkaanniemi et al. 2019; openai/guided-diffusion:evaluations/evaluator.py, `manifold_radii`, without its float16.
    """
    if len(rows) <= k:
        raise ShapeError(f"the {k}-th neighbour needs more than {k} rows, found {len(rows)}")
    centre, parts = _centre(rows), list(row_blocks(len(rows), block))
    nearest = np.full((len(rows), k), np.inf)
    for i, part in enumerate(parts):
        left = rows[part] - centre
        for j in range(i, len(parts)):
            found = _squared_distances(left, rows[parts[j]] - centre)
            if i == j:
                np.fill_diagonal(found, np.inf)
            else:
                nearest[parts[j]] = _smallest(nearest[parts[j]], found.T, k)
            nearest[part] = _smallest(nearest[part], found, k)
    return nearest[:, -1].copy()


def covered(points: np.ndarray, centres: np.ndarray, radii: np.ndarray, block: int = BLOCK) -> np.ndarray:
    """Whether each point (P, D) lies in, or on the edge of, the ball of any centre (Q, D) with squared radius (Q,).

    Returns:
        (P,) bool. Points that are found inside are not compared again.
    """
    if points.shape[1] != centres.shape[1]:
        raise ShapeError(f"features of width {points.shape[1]} and {centres.shape[1]} have no distance; the judge and the reference differ")
    centre, inside = _centre(centres), np.zeros(len(points), dtype=bool)
    for part in row_blocks(len(points), block):
        waiting = np.arange(part.start, part.stop)
        for balls in row_blocks(len(centres), block):
            if len(waiting) == 0:
                break
            found = _squared_distances(points[waiting] - centre, centres[balls] - centre)
            hit = (found <= radii[balls]).any(axis=1)
            inside[waiting[hit]] = True
            waiting = waiting[~hit]
    return inside


def _centre(rows: np.ndarray) -> np.ndarray:
    """A point (D,) near the mean, on a power-of-two grid no wider than the spread.

    Subtracting it keeps |a|^2 + |b|^2 - 2ab from cancelling when the mean is large; the grid keeps the differences of
    coarse values exact, so that ties on the edge of a ball stay ties.
    """
    mean = np.mean(rows, axis=0, dtype=np.float64)
    spread = max(float(np.ptp(rows, axis=0).max()), float(np.finfo(np.float32).tiny))
    step = 2.0 ** np.floor(np.log2(spread))
    centre: np.ndarray = np.rint(mean / step) * step
    return centre


def _squared_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(A, B) from float64 rows (A, D) and (B, D); what rounding cannot tell from 0 is exactly 0.

    |a|^2 + |b|^2 - 2ab is off by at most (D + 2) eps (|a|^2 + |b|^2) whatever the order of summation (Higham 2002, section
    3.1), so below that a distance may be a copy's, and a copy's always is below.
    """
    norms = np.einsum("nd,nd->n", left, left)[:, None] + np.einsum("nd,nd->n", right, right)
    found: np.ndarray = left @ right.T
    found *= -2.0
    found += norms
    norms *= (left.shape[1] + 2) * EPS
    found[found <= norms] = 0.0
    return found


def _smallest(nearest: np.ndarray, found: np.ndarray, k: int) -> np.ndarray:
    """The k smallest of both, sorted, row by row."""
    if found.shape[1] > k:
        found = np.partition(found, k - 1, axis=1)[:, :k]
    return np.sort(np.concatenate([nearest, found], axis=1), axis=1)[:, :k]
