"""Squared distances between rows: pair by pair without cancellation, and in blocks with a bound on
the error of a matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from harope_bench.core.errors import ShapeError
from harope_bench.metrics.moments import row_blocks

EPS = float(np.finfo(np.float64).eps)
FLOAT32_MIN_NORMAL = 2.0**-126  # below it float32 keeps no relative precision
PAIR_BLOCK = 512  # pairs of rows held at once: 8 MB at width 2048


def squared_pair_distances(
    left: np.ndarray, right: np.ndarray, i: np.ndarray, j: np.ndarray
) -> np.ndarray:
    """Squared distance of row left[i] to row right[j], (P,) float64, as the sum of squared
    differences.

    Equal rows are at exactly 0, and (i, j) and (j, i) have the same bits, so that ties on the edge
    of a ball stay ties.
    """
    found = np.empty(len(i))
    for part in row_blocks(len(i), PAIR_BLOCK):
        step = left[i[part]].astype(np.float64)
        step -= right[j[part]]
        found[part] = np.einsum("nd,nd->n", step, step)
    return found


def grid_centre(rows: np.ndarray) -> np.ndarray:
    """A point (D,) float64 near the mean, on a power-of-two grid no wider than the spread.

    Subtracting it keeps |a|^2 + |b|^2 - 2ab from cancelling when the mean is large; the grid keeps
    the differences of
    coarse values exact.
    """
    mean = np.mean(rows, axis=0, dtype=np.float64)
    spread = max(float(np.ptp(rows, axis=0).max()), float(np.finfo(np.float32).tiny))
    step = 2.0 ** np.floor(np.log2(spread))
    centre: np.ndarray = np.rint(mean / step) * step
    return centre


def squared_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
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


@dataclass(frozen=True)
class ScaledRows:
    """Rows (N, D), centred and scaled by a power of two to norms of at most 1 when read, for
    products whose error is bounded.

    norms: squared norms of the scaled rows (N,) float64. scale: a squared distance times scale^2 is
    the screen's. dtype: of the products.
    """

    rows: np.ndarray
    centre: np.ndarray
    scale: float
    norms: np.ndarray
    dtype: type[np.floating] = np.float32

    def in_float64(self) -> ScaledRows:
        """The same rows with products in float64: half the speed, 10^-9 of the error."""
        return replace(self, dtype=np.float64, centre=self.centre.astype(np.float64))

    def read_block(self, part: slice | np.ndarray) -> np.ndarray:
        """Rows of a block, (n, D)."""
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
        """(n, m) in `dtype`, off by at most `slack(self, right)`; may be below 0. `held` and
        `theirs` are the rows where they were read.
        """
        mine = self.read_block(part) if left_rows is None else left_rows
        if right_rows is None:  # of one array with itself numpy computes half
            right_rows = mine if right is self and columns is part else right.read_block(columns)
        found: np.ndarray = mine @ right_rows.T
        found *= -2.0  # exact
        found += self.norms[part, None].astype(self.dtype)
        found += right.norms[columns].astype(self.dtype)
        return found


def scale_rows(*sets: np.ndarray) -> tuple[ScaledRows, ...]:
    """Screens of several sets of rows of one width around the first one's mean, in one scale.

    Raises:
        ShapeError: the widths differ.
    """
    if len({rows.shape[1] for rows in sets}) > 1:
        widths = " and ".join(str(rows.shape[1]) for rows in sets)
        raise ShapeError(
            f"features of width {widths} have no distance; the judge and the reference differ"
        )
    small = all(rows.dtype in (np.float16, np.float32) for rows in sets)
    centre = np.asarray(
        np.mean(sets[0], axis=0, dtype=np.float64), dtype=np.float32 if small else np.float64
    )
    norms = [_squared_norms(rows, centre) for rows in sets]
    largest = max(float(found.max(initial=0.0)) for found in norms)
    scale = float(2.0 ** -np.ceil(np.log2(largest) / 2)) if largest > 0 else 1.0
    return tuple(
        ScaledRows(rows, centre, scale, found * scale * scale)
        for rows, found in zip(sets, norms, strict=True)
    )


def error_bound(left: ScaledRows, right: ScaledRows) -> float:
    """Largest error of a screened distance and of rounding what it is compared with, in the
    screen's units.

    A product of D terms errs by at most D u |a||b| in any order (Higham 2002, section 3.1) and
    |a||b| <= (|a|^2 + |b|^2) / 2;
    rounding the centred rows, the norms, the two sums and the radius adds less than 20 u (|a|^2 +
    |b|^2).
    """
    width = left.rows.shape[1]
    unit = float(np.finfo(left.dtype).eps) / 2
    largest = float(left.norms.max(initial=0.0)) + float(right.norms.max(initial=0.0))
    return (width + 20) * (unit * largest + FLOAT32_MIN_NORMAL)


def _squared_norms(rows: np.ndarray, centre: np.ndarray) -> np.ndarray:
    found = np.empty(len(rows))
    for part in row_blocks(len(rows), 1024):
        block = np.subtract(rows[part], centre, dtype=np.float64)
        found[part] = np.einsum("nd,nd->n", block, block)
    return found
