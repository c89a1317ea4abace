"""Nearest-neighbour balls for precision and recall: exact, fast and in blocks of bounded memory.

Blocks of float32 products find every distance that could decide a result, with a proven bound on
their error. The few undecided ones are computed again in float64, pair by pair. So every radius and
every "inside" is that of float64 sums of squared differences, for any block size.
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
BLOCK_ROWS = 2048  # rows and columns of a block of distances, 16 MB
SPARE_NEIGHBOURS = 3  # neighbours kept beyond the k-th, so that its error bound excludes the rest
# undecided pairs per row; beyond that a float64 product is cheaper than differences
MAX_UNDECIDED_PAIRS = 16


class Balls(NamedTuple):
    """Which rows of each set are inside a ball of the other set, and the radii.

    generated_inside: (N,) bool, inside the ball of a real row; its mean is precision.
    real_inside: (M,) bool, inside the ball of a generated row; its mean is recall.
    generated_radii, real_radii: squared radii (N,), (M,).
    """

    generated_inside: np.ndarray
    real_inside: np.ndarray
    generated_radii: np.ndarray
    real_radii: np.ndarray


def neighbour_balls(
    generated: np.ndarray, real: np.ndarray, k: int = NEIGHBOURS, block_size: int = BLOCK_ROWS
) -> Balls:
    """Return the balls that precision and recall are computed from.

    Distances between the sets are computed once. Those between two rows that are both known to be
    inside are not computed.

    Args:
        generated, real: (N, D), (M, D) of any float type, memory-mapped or not; N, M > k.

    Returns:
        Exact results: as if all distances were float64 sums of squared differences.

    Raises:
        ShapeError: The widths differ, or a set has k rows or fewer.

    Source: Kynkaanniemi et al. 2019; openai/guided-diffusion:evaluations/evaluator.py,
    `compute_prec_recall`, without its float16.
    """
    left, right = scale_rows(generated, real)
    ball_test = BallTest(
        left, right, squared_radii(generated, k, block_size), squared_radii(real, k, block_size)
    )
    generated_inside = np.zeros(len(generated), dtype=bool)
    real_inside = np.zeros(len(real), dtype=bool)
    for part in row_blocks(len(generated), block_size):
        _update_inside(ball_test, part, generated_inside, real_inside, block_size)
    return Balls(generated_inside, real_inside, ball_test.left_radii, ball_test.right_radii)


def _update_inside(
    ball_test: BallTest,
    part: slice,
    generated_inside: np.ndarray,
    real_inside: np.ndarray,
    block_size: int,
) -> None:
    """Mark which generated rows of `part` and which real rows are inside each other's balls."""
    rows = np.arange(part.start, part.stop)
    row_values = ball_test.left.read_block(part)
    for column_part in row_blocks(len(real_inside), block_size):
        columns = np.arange(column_part.start, column_part.stop)
        column_values = ball_test.right.read_block(column_part)

        # rows that are not known to be inside are compared with every column
        is_open = ~generated_inside[part]
        rows_inside, columns_inside = ball_test.rows_and_columns_inside(
            rows[is_open], row_values[is_open], columns, column_values, ~real_inside[column_part]
        )
        generated_inside[rows[is_open]] = rows_inside
        real_inside[column_part] |= columns_inside

        # the other rows are compared with the columns that are not known to be inside
        open_columns = ~real_inside[column_part]
        real_inside[columns[open_columns]] = ball_test.columns_inside(
            rows[~is_open], row_values[~is_open], columns[open_columns], column_values[open_columns]
        )


class BallTest(NamedTuple):
    """Two sets of rows with their squared radii (N,) and (M,)."""

    left: ScaledRows
    right: ScaledRows
    left_radii: np.ndarray
    right_radii: np.ndarray

    def block_distances(
        self,
        rows: np.ndarray,
        row_values: np.ndarray,
        columns: np.ndarray,
        column_values: np.ndarray,
    ) -> DistanceBlock:
        """Return the distances between rows `rows` of the left and `columns` of the right set.

        Args:
            rows, columns: indices (n,), (m,).
            row_values, column_values: `read_block` of these indices, (n, D), (m, D).
        """
        distances = self.left.distances(rows, self.right, columns, row_values, column_values)
        return DistanceBlock(self.left, rows, self.right, columns, distances)

    def rows_and_columns_inside(
        self,
        rows: np.ndarray,
        row_values: np.ndarray,
        columns: np.ndarray,
        column_values: np.ndarray,
        is_open: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return which rows (n,) are in a column's ball and which columns (m,) in a row's ball.

        Columns that are not `is_open` (m,) may be False. The other arguments are those of
        `block_distances`.
        """
        if not len(rows):
            return np.zeros(0, dtype=bool), np.zeros(len(columns), dtype=bool)
        distance_block = self.block_distances(rows, row_values, columns, column_values)
        rows_inside = distance_block.rows_inside(self.right_radii, np.ones(len(rows), dtype=bool))
        columns_inside = distance_block.transpose().rows_inside(self.left_radii, is_open)
        return rows_inside, columns_inside

    def columns_inside(
        self,
        rows: np.ndarray,
        row_values: np.ndarray,
        columns: np.ndarray,
        column_values: np.ndarray,
    ) -> np.ndarray:
        """Return which columns (m,) bool are in a row's ball; arguments as in `block_distances`."""
        if not len(rows) or not len(columns):
            return np.zeros(len(columns), dtype=bool)
        distance_block = self.block_distances(rows, row_values, columns, column_values)
        all_columns = np.ones(len(columns), dtype=bool)
        return distance_block.transpose().rows_inside(self.left_radii, all_columns)


def squared_radii(
    rows: np.ndarray, k: int = NEIGHBOURS, block_size: int = BLOCK_ROWS
) -> np.ndarray:
    """Return the squared distance of each row to its k-th nearest other row.

    A row is excluded from its own neighbours by index, so a copy at another index is a neighbour at
    distance 0. Only the upper triangle of blocks is computed. Each block updates the nearest
    neighbours of its rows and of its columns.

    Args:
        rows: (N, D) of any float type, N > k.

    Returns:
        (N,) float64, squared Euclidean, as the sum of squared differences.

    Raises:
        ShapeError: There are k rows or fewer.

    Source: Kynkaanniemi et al. 2019; openai/guided-diffusion:evaluations/evaluator.py,
    `manifold_radii`, without its float16.
    """
    if len(rows) <= k:
        raise ShapeError(
            f"the {k}-th neighbour needs more than {k} rows, found {len(rows)}; give more images"
        )
    (scaled_rows,) = scale_rows(rows)
    m = min(k + SPARE_NEIGHBOURS, len(rows) - 1)
    neighbours = nearest_rows(scaled_rows, m, block_size)
    radii, is_certain = _exact_radii(scaled_rows, np.arange(len(rows)), neighbours, k)

    # Rows that float32 cannot decide are computed in float64. What float64 products cannot decide
    # either is equal to within 1e-12 of the squared norms.
    precise_rows = scaled_rows.in_float64()
    for part in row_blocks(int((~is_certain).sum()), block_size):
        uncertain_rows = np.flatnonzero(~is_certain)[part]
        neighbours = nearest_rows_of(precise_rows, uncertain_rows, m, block_size // 2)
        radii[uncertain_rows], _ = _exact_radii(precise_rows, uncertain_rows, neighbours, k)
    return radii


class DistanceBlock(NamedTuple):
    """Distances (n, m) between rows (n,) of one set and columns (m,), rows of another set.

    rows, columns: indices into the sets. distances: scaled and inexact, see `ScaledRows`.
    """

    left: ScaledRows
    rows: np.ndarray
    right: ScaledRows
    columns: np.ndarray
    distances: np.ndarray

    def transpose(self) -> DistanceBlock:
        """Return this block with rows and columns exchanged."""
        return DistanceBlock(self.right, self.columns, self.left, self.rows, self.distances.T)

    def rows_inside(self, radii: np.ndarray, is_open: np.ndarray) -> np.ndarray:
        """Return which rows (n,) bool are in the ball of a column, exactly.

        Args:
            radii: squared radii (M,) of the whole right set.
            is_open: (n,) bool, rows whose result the caller needs. Other rows may be False even if
                they are in a ball.
        """
        # decided by the float32 distances and their error bound
        scaled_radii = radii[self.columns] * self.left.scale**2  # (m,)
        margin = error_bound(self.left, self.right)
        dtype = self.distances.dtype
        inside = (self.distances <= (scaled_radii - margin).astype(dtype)).any(axis=1)
        may_be_inside = self.distances <= (scaled_radii + margin).astype(dtype)  # (n, m)
        may_be_inside &= (is_open & ~inside)[:, None]

        # undecided pairs: by float64 products where they are many, else pair by pair
        row, column = _nonzero(may_be_inside)
        if len(row) > MAX_UNDECIDED_PAIRS * len(inside) and dtype != np.float64:
            return inside | self._rows_inside_float64(row, column, radii, is_open)
        distances = squared_pair_distances(
            self.left.rows, self.right.rows, self.rows[row], self.columns[column]
        )
        inside[row[distances <= radii[self.columns[column]]]] = True
        return inside

    def _rows_inside_float64(
        self, row: np.ndarray, column: np.ndarray, radii: np.ndarray, is_open: np.ndarray
    ) -> np.ndarray:
        """Return `rows_inside` for the undecided pairs (row, column), by float64 products."""
        left = self.left.in_float64()
        right = self.right.in_float64()
        inside = np.zeros(len(self.rows), dtype=bool)
        columns = self.columns[np.unique(column)]
        undecided_rows = np.unique(row)
        for part in row_blocks(len(undecided_rows), len(self.rows) // 2 + 1):
            indices = undecided_rows[part]
            distances = left.distances(self.rows[indices], right, columns)
            precise_block = DistanceBlock(left, self.rows[indices], right, columns, distances)
            inside[indices] = precise_block.rows_inside(radii, is_open[indices])
        return inside


class NearestRows(NamedTuple):
    """The m nearest other rows of each row.

    distances: scaled and inexact (N, m), ascending. indices: of the nearest rows (N, m) int64.
    """

    distances: np.ndarray
    indices: np.ndarray

    def set_block(self, part: slice, block_distances: np.ndarray) -> None:
        """Set the nearest rows of `part` from their distances (n, n) to each other.

        These are the first distances of these rows, so there is nothing to merge with.
        """
        m = min(self.distances.shape[1], block_distances.shape[1])
        nearest = np.argpartition(block_distances, m - 1, axis=1)[:, :m]
        self.distances[part, :m] = np.take_along_axis(block_distances, nearest, axis=1)
        self.indices[part, :m] = nearest + part.start

        order = np.argsort(self.distances[part], axis=1)
        for array in self:
            array[part] = np.take_along_axis(array[part], order, axis=1)

    def merge_candidates(
        self, part: slice, row: np.ndarray, candidates: np.ndarray, distances: np.ndarray
    ) -> None:
        """Merge candidates into the nearest rows of `part`.

        Args:
            row: (h,) rows, counted from part.start. candidates: (h,) indices of rows that may be
                among their nearest. distances: (h,) between the two.
        """
        n, m = self.distances[part].shape
        # the m nearest so far and the candidates, sorted by row and then by distance
        row_numbers = np.concatenate([np.repeat(np.arange(n), m), row])
        values = np.concatenate([self.distances[part].ravel(), distances])
        indices = np.concatenate([self.indices[part].ravel(), candidates])
        order = np.lexsort((values, row_numbers))

        # the first m of each row
        starts = np.searchsorted(row_numbers[order], np.arange(n))
        nearest = order[starts[:, None] + np.arange(m)]  # (n, m)
        self.distances[part] = values[nearest]
        self.indices[part] = indices[nearest]


def nearest_rows(scaled_rows: ScaledRows, m: int, block_size: int = BLOCK_ROWS) -> NearestRows:
    """Return the m nearest other rows of each row, by inexact distances.

    The upper triangle of blocks is computed once.
    """
    n = len(scaled_rows.rows)
    nearest = NearestRows(
        np.full((n, m), np.inf, dtype=np.float32), np.zeros((n, m), dtype=np.int64)
    )
    parts = list(row_blocks(n, block_size))

    # the diagonal first: after it few other distances are small enough to be merged
    for part in parts:
        distances = scaled_rows.distances(part, scaled_rows, part)  # (n, n)
        np.fill_diagonal(distances, np.inf)
        nearest.set_block(part, distances)

    for i, part in enumerate(parts):
        row_values = scaled_rows.read_block(part)
        for column_part in parts[i + 1 :]:
            distances = scaled_rows.distances(part, scaled_rows, column_part, row_values)
            row, column = _nonzero(distances < nearest.distances[part, -1][:, None])
            nearest.merge_candidates(part, row, column + column_part.start, distances[row, column])
            row, column = _nonzero(distances < nearest.distances[column_part, -1])
            nearest.merge_candidates(column_part, column, row + part.start, distances[row, column])
    return nearest


def nearest_rows_of(
    scaled_rows: ScaledRows, rows: np.ndarray, m: int, block_size: int = BLOCK_ROWS
) -> NearestRows:
    """Return the m nearest other rows of the rows with indices `rows` (n,), by inexact distances.

    Row i of the result belongs to rows[i].
    """
    nearest = NearestRows(
        np.full((len(rows), m), np.inf, dtype=scaled_rows.dtype),
        np.zeros((len(rows), m), dtype=np.int64),
    )
    for part in row_blocks(len(scaled_rows.rows), max(block_size, m)):
        distances = scaled_rows.distances(rows, scaled_rows, part)  # (n, block)
        # no row is its own neighbour
        in_part = np.flatnonzero((rows >= part.start) & (rows < part.stop))
        distances[in_part, rows[in_part] - part.start] = np.inf

        size = min(m, distances.shape[1])
        column = np.argpartition(distances, size - 1, axis=1)[:, :size]  # (n, size)
        column = column.ravel()
        row = np.repeat(np.arange(len(rows)), size)
        nearest.merge_candidates(
            slice(0, len(rows)), row, column + part.start, distances[row, column]
        )
    return nearest


def _exact_radii(
    scaled_rows: ScaledRows, rows: np.ndarray, nearest: NearestRows, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return squared radii (n,) float64 of `rows` (n,), and which of them are certain (n,) bool.

    No inexact distance is off by more than `error_bound`, so neither is the k-th smallest. A
    distance that is two bounds below it is within the radius. A distance that is two bounds above
    it is beyond the radius. Those between are computed exactly.
    """
    distances = nearest.distances.astype(np.float64)  # (n, m)
    margin = 2 * error_bound(scaled_rows, scaled_rows)
    kth_distances = distances[:, k - 1 : k]
    is_below = distances < kth_distances - margin
    is_near_edge = ~is_below & (distances <= kth_distances + margin)

    # those below and beyond only need to sort before and after
    exact_distances = np.where(is_below, -np.inf, np.inf)
    row, column = np.nonzero(is_near_edge)
    exact_distances[is_near_edge] = squared_pair_distances(
        scaled_rows.rows, scaled_rows.rows, rows[row], nearest.indices[row, column]
    )
    radii = np.sort(exact_distances, axis=1)[:, k - 1]

    # A row beyond the m nearest may be nearer only where the m-th is near the edge. No row is
    # nearer than 0.
    has_all_rows = nearest.distances.shape[1] == len(scaled_rows.rows) - 1
    return radii, has_all_rows | ~is_near_edge[:, -1] | (radii == 0)


def _nonzero(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the true entries.

    np.nonzero is many times slower where they are few.
    """
    if not mask.flags.c_contiguous:
        column, row = np.divmod(np.flatnonzero(mask.T), mask.shape[0])
        return row, column
    row, column = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return row, column
