"""Nearest-neighbour balls for precision and recall: exact, at the speed of float32, in blocks of
bounded memory.

Blocks of float32 products find every distance that could decide something, with a proven bound on
their error; those few are then
computed again in float64, pair by pair. So every radius and every "inside" is that of float64
differences, whatever the block size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import ShapeError
from harope_bench.metrics.distances import (
    ScaledRows,
    error_bound,
    scale_rows,
    squared_pair_distances,
)
from harope_bench.metrics.moments import row_blocks

NEIGHBOURS = 3
BLOCK = 2048  # 16 MB a block of distances
SPARE_NEIGHBOURS = 3  # neighbours kept beyond the k-th, so that its bound is told from the rest
MAX_UNDECIDED_PAIRS = (
    16  # undecided pairs a row: beyond that a float64 product is cheaper than differences
)


class Balls(NamedTuple):
    """Samples inside a reference ball (N,) bool, reference images inside a sample's ball (M,) bool,
    squared radii of both.
    """

    generated_inside: np.ndarray
    real_inside: np.ndarray
    generated_radii: np.ndarray
    real_radii: np.ndarray


def neighbour_balls(
    drawn: np.ndarray, real: np.ndarray, k: int = NEIGHBOURS, block: int = BLOCK
) -> Balls:
    """What precision (mean of drawn_inside) and recall (mean of real_inside) are made of.

    Distances between the sets are computed once, and those between two rows that are both known to
    be inside not at all.

    Args:
        drawn, real: (N, D), (M, D) of any float type, memory-mapped or not; N, M > k.

    Returns:
        Exact: as if all distances were float64 sums of squared differences.

    Source: Kynkaanniemi et al. 2019; openai/guided-diffusion:evaluations/evaluator.py,
    `compute_prec_recall`, without its float16.
    """
    left, right = scale_rows(drawn, real)
    across = BallTest(left, right, squared_radii(drawn, k, block), squared_radii(real, k, block))
    drawn_inside = np.zeros(len(drawn), dtype=bool)
    real_inside = np.zeros(len(real), dtype=bool)
    for part in row_blocks(len(drawn), block):
        rows = np.arange(part.start, part.stop)
        held = across.left.read_block(part)
        for other in row_blocks(len(real), block):
            columns = np.arange(other.start, other.stop)
            theirs = across.right.read_block(other)
            waiting = ~drawn_inside[part]
            inside, reached = across.rows_and_columns_inside(
                rows[waiting], held[waiting], columns, theirs, ~real_inside[other]
            )
            drawn_inside[rows[waiting]] = inside
            real_inside[other] |= reached
            rest = ~real_inside[other]  # rows that are inside already matter to these columns alone
            real_inside[columns[rest]] = across.columns_inside(
                rows[~waiting], held[~waiting], columns[rest], theirs[rest]
            )
    return Balls(drawn_inside, real_inside, across.left_radii, across.right_radii)


class BallTest(NamedTuple):
    """Two sets of rows and their squared radii, (N,) and (M,)."""

    left: ScaledRows
    right: ScaledRows
    left_radii: np.ndarray
    right_radii: np.ndarray

    def block_distances(
        self, rows: np.ndarray, held: np.ndarray, columns: np.ndarray, theirs: np.ndarray
    ) -> DistanceBlock:
        """Distances between numbered rows and columns, read as `held` and `theirs`."""
        return DistanceBlock(
            self.left,
            rows,
            self.right,
            columns,
            self.left.distances(rows, self.right, columns, held, theirs),
        )

    def rows_and_columns_inside(
        self,
        rows: np.ndarray,
        held: np.ndarray,
        columns: np.ndarray,
        theirs: np.ndarray,
        waiting: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which rows lie in a ball around a column, and which of the columns that wait in one
        around a row.
        """
        if not len(rows):
            return np.zeros(0, dtype=bool), np.zeros(len(columns), dtype=bool)
        sight = self.block_distances(rows, held, columns, theirs)
        return sight.rows_inside(
            self.right_radii, np.ones(len(rows), dtype=bool)
        ), sight.transposed().rows_inside(self.left_radii, waiting)

    def columns_inside(
        self, rows: np.ndarray, held: np.ndarray, columns: np.ndarray, theirs: np.ndarray
    ) -> np.ndarray:
        """Which columns lie in a ball around a row."""
        if not len(rows) or not len(columns):
            return np.zeros(len(columns), dtype=bool)
        return (
            self.block_distances(rows, held, columns, theirs)
            .transposed()
            .rows_inside(self.left_radii, np.ones(len(columns), dtype=bool))
        )


def squared_radii(rows: np.ndarray, k: int = NEIGHBOURS, block: int = BLOCK) -> np.ndarray:
    """Squared distance of each row to its k-th nearest other row.

    A row is left out of its own neighbours by position, so an exact copy elsewhere is a neighbour
    at distance 0. Only the upper
    triangle of blocks is computed; each feeds the nearest of its rows and of its columns.

    Args:
        rows: (N, D) of any float type, N > k.

    Returns:
        (N,) float64, squared Euclidean, as the sum of squared differences.

    Source: Kynkaanniemi et al. 2019; openai/guided-diffusion:evaluations/evaluator.py,
    `manifold_radii`, without its float16.
    """
    if len(rows) <= k:
        raise ShapeError(f"the {k}-th neighbour needs more than {k} rows, found {len(rows)}")
    (screen,) = scale_rows(rows)
    m = min(k + SPARE_NEIGHBOURS, len(rows) - 1)
    radii, sure = _exact_radii(screen, np.arange(len(rows)), nearest_rows(screen, m, block), k)
    for part in row_blocks(int((~sure).sum()), block):
        doubtful = np.flatnonzero(~sure)[part]
        # What float64 products cannot tell apart either is equal to within 1e-12 of the squared
        # norms, and stands.
        radii[doubtful], _ = _exact_radii(
            screen.in_float64(),
            doubtful,
            nearest_rows_of(screen.in_float64(), doubtful, m, block // 2),
            k,
        )
    return radii


class DistanceBlock(NamedTuple):
    """Screened distances (n, m) between numbered rows (n,) of one screen and columns (m,), rows of
    another.
    """

    left: ScaledRows
    rows: np.ndarray
    right: ScaledRows
    columns: np.ndarray
    distances: np.ndarray

    def transposed(self) -> DistanceBlock:
        """The same seen from the columns."""
        return DistanceBlock(self.right, self.columns, self.left, self.rows, self.distances.T)

    def rows_inside(self, radii: np.ndarray, undecided: np.ndarray) -> np.ndarray:
        """Which rows (n,) bool lie in a ball around a column; radii (Q,) of the whole right set.
        Rows not `waiting` may be left False.
        """
        edges = radii[self.columns] * self.left.scale**2
        margin = error_bound(self.left, self.right)
        inside = (self.distances <= (edges - margin).astype(self.distances.dtype)).any(axis=1)
        maybe = self.distances <= (edges + margin).astype(self.distances.dtype)
        maybe &= (undecided & ~inside)[:, None]
        row, column = _nonzero(maybe)
        if len(row) > MAX_UNDECIDED_PAIRS * len(inside) and self.distances.dtype != np.float64:
            return inside | self._rows_inside_float64(row, column, radii, undecided)
        distance = squared_pair_distances(
            self.left.rows, self.right.rows, self.rows[row], self.columns[column]
        )
        inside[row[distance <= radii[self.columns[column]]]] = True
        return inside

    def _rows_inside_float64(
        self, row: np.ndarray, column: np.ndarray, radii: np.ndarray, waiting: np.ndarray
    ) -> np.ndarray:
        """The same for the undecided rows, by products in float64."""
        left = self.left.in_float64()
        right = self.right.in_float64()
        inside = np.zeros(len(self.rows), dtype=bool)
        columns = self.columns[np.unique(column)]
        for part in row_blocks(len(np.unique(row)), len(self.rows) // 2 + 1):
            some = np.unique(row)[part]
            found = left.distances(self.rows[some], right, columns)
            inside[some] = DistanceBlock(left, self.rows[some], right, columns, found).rows_inside(
                radii, waiting[some]
            )
        return inside


class NearestRows(NamedTuple):
    """Screened distances of each row's nearest others, ascending (N, m) float32, and which rows
    they are (N, m) int64.
    """

    distances: np.ndarray
    indices: np.ndarray

    def set_block(self, part: slice, found: np.ndarray) -> None:
        """Let the rows of `part` see distances (n, n) to each other, their first sight of any."""
        m = min(self.distances.shape[1], found.shape[1])
        best = np.argpartition(found, m - 1, axis=1)[:, :m]
        self.distances[part, :m] = np.take_along_axis(found, best, axis=1)
        self.indices[part, :m] = best + part.start
        order = np.argsort(self.distances[part], axis=1)
        for kept in self:
            kept[part] = np.take_along_axis(kept[part], order, axis=1)

    def merge_candidates(
        self, part: slice, row: np.ndarray, other: np.ndarray, distances: np.ndarray
    ) -> None:
        """Let rows part.start + row (h,) see distances (h,) to rows `other` (h,)."""
        n, m = self.distances[part].shape
        # The m so far of every row and the few that beat its last, sorted by row and then by
        # distance.
        at = np.concatenate([np.repeat(np.arange(n), m), row])
        values = np.concatenate([self.distances[part].ravel(), distances])
        names = np.concatenate([self.indices[part].ravel(), other])
        order = np.lexsort((values, at))
        best = order[np.searchsorted(at[order], np.arange(n))[:, None] + np.arange(m)]
        self.distances[part] = values[best]
        self.indices[part] = names[best]


def nearest_rows(screen: ScaledRows, m: int, block: int = BLOCK) -> NearestRows:
    """The m nearest others of each row by screened distance, in one sweep of the upper triangle of
    blocks.
    """
    n = len(screen.rows)
    near = NearestRows(np.full((n, m), np.inf, dtype=np.float32), np.zeros((n, m), dtype=np.int64))
    parts = list(row_blocks(n, block))
    for part in parts:  # the diagonal first: after it few distances elsewhere are near
        own = screen.distances(part, screen, part)
        np.fill_diagonal(own, np.inf)
        near.set_block(part, own)
    for i, part in enumerate(parts):
        held = screen.read_block(part)
        for other in parts[i + 1 :]:
            found = screen.distances(part, screen, other, held)
            row, column = _nonzero(found < near.distances[part, -1][:, None])
            near.merge_candidates(part, row, column + other.start, found[row, column])
            row, column = _nonzero(found < near.distances[other, -1])
            near.merge_candidates(other, column, row + part.start, found[row, column])
    return near


def nearest_rows_of(
    screen: ScaledRows, rows: np.ndarray, m: int, block: int = BLOCK
) -> NearestRows:
    """The m nearest others of the chosen rows (n,) by screened distance; the result's rows are
    theirs.
    """
    near = NearestRows(
        np.full((len(rows), m), np.inf, dtype=screen.dtype),
        np.zeros((len(rows), m), dtype=np.int64),
    )
    for part in row_blocks(len(screen.rows), max(block, m)):
        found = screen.distances(rows, screen, part)
        own = np.flatnonzero((rows >= part.start) & (rows < part.stop))
        found[own, rows[own] - part.start] = np.inf
        column = np.argpartition(found, min(m, found.shape[1]) - 1, axis=1)[:, :m].ravel()
        row = np.repeat(np.arange(len(rows)), min(m, found.shape[1]))
        near.merge_candidates(slice(0, len(rows)), row, column + part.start, found[row, column])
    return near


def _exact_radii(
    screen: ScaledRows, chosen: np.ndarray, near: NearestRows, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Squared radii (n,) float64 of the chosen rows and which of them are certain (n,) bool.

    No screened distance is off by more than `slack`, so neither is the k-th smallest: what is 2
    slacks below it lies within the
    radius, what is 2 slacks above does not reach it, and what lies between is computed.
    """
    screened = near.distances.astype(np.float64)
    margin = 2 * error_bound(screen, screen)
    edge = screened[:, k - 1 : k]
    below = screened < edge - margin
    between = ~below & (screened <= edge + margin)
    exact = np.where(below, -np.inf, np.inf)
    row, place = np.nonzero(between)
    exact[between] = squared_pair_distances(
        screen.rows, screen.rows, chosen[row], near.indices[row, place]
    )
    radii = np.sort(exact, axis=1)[:, k - 1]
    everyone = near.distances.shape[1] == len(screen.rows) - 1
    return radii, everyone | ~between[:, -1] | (radii == 0)  # nothing is nearer than 0


def _nonzero(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the true entries; np.nonzero is many times slower where they are few."""
    if not mask.flags.c_contiguous:
        column, row = np.divmod(np.flatnonzero(mask.T), mask.shape[0])
        return row, column
    row, column = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return row, column
