"""ADM's precision and recall with its float16 distances, whose coarse steps make ties.

Ties raise both scores, so float64 distances give other numbers. TensorFlow computes a float16
operation in float32 and rounds the result. The blocks here do the same on float32 arrays that hold
float16 values. A block of 10,000 x 10,000 distances in which any overflows is computed in float32
instead. It is computed in smaller blocks, so memory stays bounded.

The order in which TensorFlow adds the squares of a row and the terms of a product is not known, so
the last bit may differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import ShapeError
from harope_bench.metrics.moments import row_blocks
from harope_bench.metrics.neighbours import NEIGHBOURS, Balls

ADM_BLOCK = 10_000  # rows and columns that fall back to float32 together
BLOCK_ROWS = 2000  # rows and columns in memory at once, 16 MB
FLOAT16_MAX = float(np.finfo(np.float16).max)
FLOAT16_MIN_NORMAL = 2.0**-14  # below it float16 has steps of 2^-24


class RowNorms(NamedTuple):
    """Rows (N, D) with their squared norms (N,) float32, computed in float32 and in float16."""

    rows: np.ndarray
    norms: np.ndarray
    float16_norms: np.ndarray

    @classmethod
    def from_rows(cls, rows: np.ndarray, block_size: int = BLOCK_ROWS) -> RowNorms:
        """Return rows of any float type with their norms; read them once, in blocks."""
        norms = np.empty(len(rows), dtype=np.float32)
        float16_norms = np.empty(len(rows), dtype=np.float32)
        for part in row_blocks(len(rows), block_size):
            values = rows[part].astype(np.float32)  # (block, D)
            norms[part] = np.square(values).sum(axis=1)
            squares = round_to_float16(np.square(round_to_float16(values)))
            float16_norms[part] = round_to_float16(squares.sum(axis=1))
        return cls(rows, norms, float16_norms)

    def read_block(self, part: slice, is_float16: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (n, D) and squared norms (n,) float32; float16 values if `is_float16`."""
        values = self.rows[part].astype(np.float32)
        if is_float16:
            return round_to_float16(values), self.float16_norms[part]
        return values, self.norms[part]


def float16_balls(
    generated: np.ndarray,
    real: np.ndarray,
    k: int = NEIGHBOURS,
    adm_block_size: int = ADM_BLOCK,
    block_size: int = BLOCK_ROWS,
) -> Balls:
    """Return which generated and real rows are in a ball of the other set, by float16 distances.

    Args:
        generated, real: (N, D), (M, D) of any float type, memory-mapped or not, not centred; N and
            M above k. All rows of both are used whatever N and M are, so recall depends on N.

    Returns:
        Balls whose radii are squared, float32.

    Raises:
        ShapeError: The widths differ, or a set has k rows or fewer.

    Source: openai/guided-diffusion:evaluations/evaluator.py, `ManifoldEstimator` and
    `DistanceBlock`.
    """
    if generated.shape[1] != real.shape[1]:
        raise ShapeError(
            f"features of widths {generated.shape[1]} and {real.shape[1]} cannot be compared,"
            " wanted one width; extract the features of samples and reference with the same judge"
        )
    generated_radii = float16_radii(generated, k, adm_block_size, block_size)
    real_radii = float16_radii(real, k, adm_block_size, block_size)

    # the reference is ADM's first set, and the order of rounding depends on it
    left = RowNorms.from_rows(real, block_size)
    right = RowNorms.from_rows(generated, block_size)
    generated_inside = np.zeros(len(generated), dtype=bool)
    real_inside = np.zeros(len(real), dtype=bool)
    for adm_rows, adm_columns in product(
        row_blocks(len(real), adm_block_size), list(row_blocks(len(generated), adm_block_size))
    ):
        is_float16 = fits_float16(left, adm_rows, right, adm_columns, block_size)
        for u, v in product(
            _split_slice(adm_rows, block_size), _split_slice(adm_columns, block_size)
        ):
            distances = block_distances(
                *block_products(left, u, right, v, is_float16), is_float16
            )  # (n, m)
            real_inside[u] |= (distances <= generated_radii[v]).any(axis=1)
            generated_inside[v] |= (distances <= real_radii[u, None]).any(axis=0)
    return Balls(generated_inside, real_inside, generated_radii, real_radii)


def float16_radii(
    rows: np.ndarray,
    k: int = NEIGHBOURS,
    adm_block_size: int = ADM_BLOCK,
    block_size: int = BLOCK_ROWS,
) -> np.ndarray:
    """Return the squared radius (N,) float32 of each row: its (k + 1)-th smallest distance.

    The distances are those to all rows, including the row itself, by ADM's float16 arithmetic. A
    row's distance to itself need not round to 0. The product of two blocks is computed once.
    Rounding |u|^2 - 2uv before |v|^2 is added is not symmetric, so both sides get sums of their
    own.

    Raises:
        ShapeError: There are k rows or fewer.
    """
    if len(rows) <= k:
        raise ShapeError(f"the {k}-th neighbour needs more than {k} rows, found {len(rows)}")
    row_norms = RowNorms.from_rows(rows, block_size)
    nearest = np.full((len(rows), k + 1), np.inf, dtype=np.float32)
    for adm_rows, adm_columns in _upper_triangle(list(row_blocks(len(rows), adm_block_size))):
        _update_nearest(nearest, row_norms, adm_rows, adm_columns, block_size)
    return nearest[:, k].copy()


def _update_nearest(
    nearest: np.ndarray, row_norms: RowNorms, adm_rows: slice, adm_columns: slice, block_size: int
) -> None:
    """Merge the distances between two of ADM's blocks into `nearest` (N, k + 1), on both sides."""
    is_float16 = fits_float16(row_norms, adm_rows, row_norms, adm_columns, block_size)
    is_float16_transposed = fits_float16(row_norms, adm_columns, row_norms, adm_rows, block_size)

    block_pairs: Iterable[tuple[slice, slice]]
    if adm_rows == adm_columns:
        block_pairs = _upper_triangle(_split_slice(adm_rows, block_size))
    else:
        block_pairs = product(
            _split_slice(adm_rows, block_size), _split_slice(adm_columns, block_size)
        )

    for u, v in block_pairs:
        products, u_norms, v_norms = block_products(row_norms, u, row_norms, v, is_float16)
        _keep_smallest(nearest[u], block_distances(products, u_norms, v_norms, is_float16))
        if u == v:
            continue
        if is_float16_transposed != is_float16:
            products, u_norms, v_norms = block_products(
                row_norms, u, row_norms, v, is_float16_transposed
            )
        distances = block_distances(products, v_norms, u_norms, is_float16_transposed)
        _keep_smallest(nearest[v], distances.T)


def block_products(
    left: RowNorms, u: slice, right: RowNorms, v: slice, is_float16: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return products (n, m) and squared norms (n, 1), (1, m) of two blocks, float32.

    Each is a float16 value if `is_float16`.
    """
    left_rows, left_norms = left.read_block(u, is_float16)
    right_rows, right_norms = right.read_block(v, is_float16)
    products = left_rows @ right_rows.T  # (n, m)
    if is_float16:
        round_to_float16(products)
    return products, left_norms[:, None], right_norms[None]


def block_distances(
    products: np.ndarray, left_norms: np.ndarray, right_norms: np.ndarray, is_float16: bool
) -> np.ndarray:
    """Return max((left_norms - 2 products) + right_norms, 0), (n, m) float32.

    If `is_float16`, every step is rounded, and a distance that overflows is not finite.
    """
    with np.errstate(invalid="ignore"):
        distances = np.multiply(products, np.float32(-2.0))
        if is_float16:
            _overflow_to_infinity(distances)  # doubling is exact otherwise
        for norms in (left_norms, right_norms):
            distances += norms
            if is_float16:
                round_to_float16(distances)
        return np.maximum(distances, np.float32(0.0), out=distances)


def round_to_float16(values: np.ndarray) -> np.ndarray:
    """Round float32 values to those of float16 in place and return them.

    Round to nearest, ties to even; a value beyond float16's largest becomes infinite. The bits are
    changed directly, because numpy's conversion to float16 and back takes four times as long.
    """
    # subnormal float16 values are multiples of 2^-24
    is_subnormal = None
    if values.size and values.min() < FLOAT16_MIN_NORMAL and values.max() > -FLOAT16_MIN_NORMAL:
        is_subnormal = np.abs(values) < FLOAT16_MIN_NORMAL
        subnormal_values = np.rint(values[is_subnormal] * 2.0**24) * 2.0**-24

    # add just under half of the 13 bits to drop, and the lowest bit that stays: ties go to even
    bits = values.view(np.uint32)
    lowest_kept_bit = bits >> np.uint32(13)
    lowest_kept_bit &= np.uint32(1)
    bits += lowest_kept_bit
    bits += np.uint32(0xFFF)
    bits &= np.uint32(0xFFFFE000)  # sign, exponent and 10 bits of the mantissa

    if is_subnormal is not None:
        values[is_subnormal] = subnormal_values
    return _overflow_to_infinity(values)


def fits_float16(
    left: RowNorms,
    adm_rows: slice,
    right: RowNorms,
    adm_columns: slice,
    block_size: int = BLOCK_ROWS,
) -> bool:
    """Return whether all of ADM's float16 distances between two of its blocks are finite."""
    left_largest = float(left.float16_norms[adm_rows].max())
    right_largest = float(right.float16_norms[adm_columns].max())

    # No step is larger than (|u| + |v|)^2. Each of three roundings adds at most 2^-11, the norms'
    # own rounding less than 2^-9.
    largest_sum = (np.sqrt(left_largest) + np.sqrt(right_largest)) ** 2
    if largest_sum * (1 + 2.0**-8) < FLOAT16_MAX:
        return True
    if not np.isfinite([left_largest, right_largest]).all():
        return False
    pairs = product(_split_slice(adm_rows, block_size), _split_slice(adm_columns, block_size))
    return all(
        np.isfinite(
            block_distances(*block_products(left, u, right, v, is_float16=True), is_float16=True)
        ).all()
        for u, v in pairs
    )


def _overflow_to_infinity(values: np.ndarray) -> np.ndarray:
    """Replace values beyond float16's largest by infinity in place and return them."""
    if values.size and (values.max() > FLOAT16_MAX or values.min() < -FLOAT16_MAX):
        values[values > FLOAT16_MAX] = np.inf
        values[values < -FLOAT16_MAX] = -np.inf
    return values


def _keep_smallest(nearest: np.ndarray, distances: np.ndarray) -> None:
    """Put the smallest of nearest (n, k + 1) and distances (n, m) into `nearest`, sorted."""
    size = nearest.shape[1]
    limit = nearest[:, -1]
    if np.isinf(limit).any():
        candidates = distances
        if distances.shape[1] > size:
            candidates = np.partition(distances, size - 1, axis=1)[:, :size]
        nearest[:] = np.sort(np.concatenate([nearest, candidates], axis=1), axis=1)[:, :size]
        return

    # after the first blocks few distances are below the limit of their row
    is_below = distances < limit[:, None]
    for row in np.flatnonzero(is_below.any(axis=1)):
        candidates = np.concatenate([nearest[row], distances[row, is_below[row]]])
        nearest[row] = np.sort(candidates)[:size]


def _split_slice(rows: slice, size: int) -> list[slice]:
    """Return consecutive slices of at most `size` rows that cover a slice."""
    return [
        slice(rows.start + part.start, rows.start + part.stop)
        for part in row_blocks(rows.stop - rows.start, size)
    ]


def _upper_triangle(blocks: list[slice]) -> Iterator[tuple[slice, slice]]:
    """Yield each pair of blocks once, the diagonal first.

    After the diagonal every row has near neighbours, so few later distances need to be merged.
    """
    yield from ((u, u) for u in blocks)
    yield from ((u, v) for i, u in enumerate(blocks) for v in blocks[i + 1 :])
