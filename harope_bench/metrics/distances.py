"""Squared distances between rows.

`squared_pair_distances` computes single pairs without cancellation. `ScaledRows` computes blocks as
matrix products, and `error_bound` bounds the error of such a block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from harope_bench.core.errors import ShapeError
from harope_bench.metrics.moments import row_blocks

FLOAT32_MIN_NORMAL = 2.0**-126  # below it float32 keeps no relative precision
PAIR_BLOCK = 512  # pairs of rows in memory at once: 8 MB at width 2048
NORM_BLOCK = 1024  # rows whose norms are computed at once


def squared_pair_distances(
    left: np.ndarray, right: np.ndarray, i: np.ndarray, j: np.ndarray
) -> np.ndarray:
    """Return the squared distances (P,) float64 of rows left[i] and right[j].

    Each is the sum of squared differences. Equal rows have a distance of exactly 0, and the pairs
    (i, j) and (j, i) have the same bits, so ties on the edge of a ball stay ties.
    """
    distances = np.empty(len(i))
    for part in row_blocks(len(i), PAIR_BLOCK):
        difference = left[i[part]].astype(np.float64)  # (block, D)
        difference -= right[j[part]]
        distances[part] = np.einsum("nd,nd->n", difference, difference)
    return distances


@dataclass(frozen=True)
class ScaledRows:
    """Rows (N, D) that are centred and scaled when read, for products with a bounded error.

    centre: point (D,) that is subtracted. scale: power of two that brings every norm to at most 1;
    a distance of scaled rows is scale^2 times the squared distance. norms: squared norms (N,)
    float64 of the scaled rows. dtype: of the products.
    """

    rows: np.ndarray
    centre: np.ndarray
    scale: float
    norms: np.ndarray
    dtype: type[np.floating] = np.float32

    def in_float64(self) -> ScaledRows:
        """Return these rows with float64 products: half the speed and 10^-9 of the error."""
        return replace(self, dtype=np.float64, centre=self.centre.astype(np.float64))

    def read_block(self, part: slice | np.ndarray) -> np.ndarray:
        """Return the scaled rows (n, D) of a block."""
        block: np.ndarray = self.rows[part] - self.centre
        block *= block.dtype.type(self.scale)
        return block.astype(self.dtype, copy=False)

    def distances(
        self,
        part: slice | np.ndarray,
        right: ScaledRows,
        columns: slice | np.ndarray,
        left_rows: np.ndarray | None = None,
        right_rows: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the squared distances (n, m) of a block of these rows and a block of `right`.

        Args:
            part, columns: indices of the rows here and in `right`.
            left_rows, right_rows: `read_block` of these indices, where the caller has it already.

        Returns:
            Of `dtype`, in units of scale^2, off by at most `error_bound(self, right)`; may be
            below 0.
        """
        if left_rows is None:
            left_rows = self.read_block(part)
        if right_rows is None:
            # numpy computes half of a product of one array with itself
            is_same_block = right is self and columns is part
            right_rows = left_rows if is_same_block else right.read_block(columns)

        # |a|^2 + |b|^2 - 2ab
        distances: np.ndarray = left_rows @ right_rows.T  # (n, m)
        distances *= -2.0  # exact
        distances += self.norms[part, None].astype(self.dtype)
        distances += right.norms[columns].astype(self.dtype)
        return distances


def scale_rows(*row_sets: np.ndarray) -> tuple[ScaledRows, ...]:
    """Return several sets of rows, centred on the mean of the first set and scaled by one factor.

    Raises:
        ShapeError: The widths differ.
    """
    if len({rows.shape[1] for rows in row_sets}) > 1:
        widths = " and ".join(str(rows.shape[1]) for rows in row_sets)
        raise ShapeError(
            f"features of widths {widths} cannot be compared, wanted one width; extract the"
            " features of samples and reference with the same judge"
        )
    is_at_most_float32 = all(rows.dtype in (np.float16, np.float32) for rows in row_sets)
    centre = np.asarray(
        np.mean(row_sets[0], axis=0, dtype=np.float64),
        dtype=np.float32 if is_at_most_float32 else np.float64,
    )

    norms = [_squared_norms(rows, centre) for rows in row_sets]
    largest = max(float(norms_of_set.max(initial=0.0)) for norms_of_set in norms)
    scale = float(2.0 ** -np.ceil(np.log2(largest) / 2)) if largest > 0 else 1.0
    return tuple(
        ScaledRows(rows, centre, scale, norms_of_set * scale * scale)
        for rows, norms_of_set in zip(row_sets, norms, strict=True)
    )


def error_bound(left: ScaledRows, right: ScaledRows) -> float:
    """Return the largest error of `ScaledRows.distances` and of rounding a radius, times scale^2.

    A product of D terms errs by at most D u |a||b| in any order (Higham 2002, section 3.1), and
    |a||b| <= (|a|^2 + |b|^2) / 2. Rounding the centred rows, the norms, the two sums and the radius
    adds less than 20 u (|a|^2 + |b|^2).
    """
    width = left.rows.shape[1]
    unit_roundoff = float(np.finfo(left.dtype).eps) / 2
    largest = float(left.norms.max(initial=0.0)) + float(right.norms.max(initial=0.0))
    return (width + 20) * (unit_roundoff * largest + FLOAT32_MIN_NORMAL)


def _squared_norms(rows: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return |row - centre|^2 (N,) float64."""
    norms = np.empty(len(rows))
    for part in row_blocks(len(rows), NORM_BLOCK):
        block = np.subtract(rows[part], centre, dtype=np.float64)  # (block, D)
        norms[part] = np.einsum("nd,nd->n", block, block)
    return norms
