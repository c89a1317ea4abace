"""How many reference points lose or gain cover when one drawn point is taken away: recall's leave-one-out, exact."""

from __future__ import annotations

import numpy as np

from harope_bench.errors import ShapeError
from harope_bench.metrics.distances import centre_of, squared_distances
from harope_bench.metrics.moments import row_blocks
from harope_bench.metrics.neighbours import NEIGHBOURS

LARGEST = 4096  # drawn points; their distances to each other are held at once, 128 MB
BLOCK = 1024


def removal(points: np.ndarray, drawn: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """Change in the number of `points` covered by the balls of `drawn` when each drawn point is taken away.

    A removed point takes its own ball along, and where it was among the k nearest of another, that one's ball grows to its next
    neighbour. So a point that only the removed one covered is lost, unless a grown ball takes it; an uncovered point inside a
    grown ball is won.

    Args:
        points: (M, D); drawn: (N, D), k + 1 < N <= LARGEST. Any float type.

    Returns:
        (N,) int64.
    """
    if not k + 1 < len(drawn) <= LARGEST:
        raise ShapeError(f"leaving one of {len(drawn):,} points out needs more than {k + 1} and at most {LARGEST:,}")
    centre = centre_of(drawn)
    near, now, grown = _balls(drawn - centre, k)
    change = np.zeros(len(drawn), dtype=np.int64)
    for part in row_blocks(len(points), BLOCK):
        found = squared_distances(points[part] - centre, drawn - centre)  # (B, N)
        inside = found <= now
        change += _change(inside, (found <= grown) & ~inside, near)
    return change


def _balls(rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k nearest of each row (N, k), its squared radius (N,), and the radius without one of them (N,)."""
    found = squared_distances(rows, rows)
    np.fill_diagonal(found, np.inf)
    order = np.argpartition(found, (k - 1, k), axis=1)[:, : k + 1]
    radii = np.take_along_axis(found, order, axis=1)
    return order[:, :k], radii[:, k - 1], radii[:, k]


def _change(inside: np.ndarray, shell: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Gains minus losses of each drawn point over a block: inside, shell (B, N) bool; near (N, k)."""
    n, covers = len(near), inside.sum(axis=1)
    rows, balls = np.nonzero(shell & (covers <= 1)[:, None])
    # every (point, removed) in which a ball that grows without `removed` reaches the point
    reached = np.unique((rows[:, None] * n + near[balls]).ravel())
    at, removed = reached // n, reached % n
    gains = np.bincount(removed[covers[at] == 0], minlength=n)
    lonely = np.flatnonzero(covers == 1)
    alone = inside[lonely].argmax(axis=1)
    lost = ~np.isin(lonely * n + alone, reached)
    return np.asarray(gains - np.bincount(alone[lost], minlength=n))
