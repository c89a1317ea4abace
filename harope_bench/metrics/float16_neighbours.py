"""ADM's precision and recall to the letter: squared distances in float16, whose coarse grid makes
ties that raise both scores.

TensorFlow computes a float16 operation in float32 and rounds; so do these blocks, on float32 arrays
that hold float16 values. A block of
10,000 x 10,000 in which any distance overflows is computed in float32 instead; it is swept in
smaller blocks, so memory stays bounded.
Not known to the last bit: the order in which TensorFlow adds the squares of a row and the terms of
a product.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import ShapeError
from harope_bench.metrics.moments import row_blocks
from harope_bench.metrics.neighbours import NEIGHBOURS, Balls

ADM_BLOCK = 10_000  # rows and columns that fall back to float32 together
BLOCK = 2000  # rows and columns held at once, 16 MB
FLOAT16_MAX = float(np.finfo(np.float16).max)
FLOAT16_MIN_NORMAL = 2.0**-14  # below it float16 has steps of 2^-24


class RowNorms(NamedTuple):
    """Rows (N, D) and their squared norms (N,) float32: in float32, and in float16 steps."""

    rows: np.ndarray
    norms: np.ndarray
    float16_norms: np.ndarray

    @classmethod
    def from_rows(cls, rows: np.ndarray, block: int = BLOCK) -> RowNorms:
        """Norms of rows of any float type, read once in blocks."""
        norms, half_norms = np.empty((2, len(rows)), dtype=np.float32)
        for part in row_blocks(len(rows), block):
            values = rows[part].astype(np.float32)
            norms[part] = np.square(values).sum(axis=1)
            half_norms[part] = round_to_float16(
                round_to_float16(np.square(round_to_float16(values))).sum(axis=1)
            )
        return cls(rows, norms, half_norms)

    def read_block(self, part: slice, is_float16: bool) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a block and their squared norms, float32; float16 values if `half`."""
        values = self.rows[part].astype(np.float32)
        return (
            (round_to_float16(values), self.float16_norms[part])
            if is_float16
            else (values, self.norms[part])
        )


def float16_balls(
    drawn: np.ndarray,
    real: np.ndarray,
    k: int = NEIGHBOURS,
    adm_block: int = ADM_BLOCK,
    block: int = BLOCK,
) -> Balls:
    """Which samples and reference images lie in each other's balls, by ADM's float16 distances.

    Args:
        drawn, real: (N, D), (M, D) of any float type, memory-mapped or not, not centred; N, M > k.
            All rows of both count, whatever
            their numbers, so recall leans on N.

    Returns:
        Radii are squared, float32.

    Source: openai/guided-diffusion:evaluations/evaluator.py, `ManifoldEstimator` and
    `DistanceBlock`.
    """
    if drawn.shape[1] != real.shape[1]:
        raise ShapeError(
            f"features of width {drawn.shape[1]} and {real.shape[1]} have no distance; the judge"
            " and the reference differ"
        )
    drawn_radii = float16_radii(drawn, k, adm_block, block)
    real_radii = float16_radii(real, k, adm_block, block)
    # the reference is ADM's first set; the order of rounding depends on it
    left = RowNorms.from_rows(real, block)
    right = RowNorms.from_rows(drawn, block)
    drawn_inside = np.zeros(len(drawn), dtype=bool)
    real_inside = np.zeros(len(real), dtype=bool)
    for wide in row_blocks(len(real), adm_block):
        for other in row_blocks(len(drawn), adm_block):
            half = fits_float16(left, wide, right, other, block)
            for u, v in product(_split_slice(wide, block), _split_slice(other, block)):
                found = block_distances(*block_products(left, u, right, v, half), half)
                real_inside[u] |= (found <= drawn_radii[v]).any(axis=1)
                drawn_inside[v] |= (found <= real_radii[u, None]).any(axis=0)
    return Balls(drawn_inside, real_inside, drawn_radii, real_radii)


def float16_radii(
    rows: np.ndarray, k: int = NEIGHBOURS, adm_block: int = ADM_BLOCK, block: int = BLOCK
) -> np.ndarray:
    """(k + 1)-th smallest of the distances of each row to all rows, its own included, by ADM's
    float16; squared, (N,) float32.

    A row's distance to itself need not round to 0. Products of two blocks are computed once;
    rounding |u|^2 - 2uv before |v|^2 is
    added is not symmetric, so the sums are made for each side.
    """
    if len(rows) <= k:
        raise ShapeError(f"the {k}-th neighbour needs more than {k} rows, found {len(rows)}")
    table = RowNorms.from_rows(rows, block)
    nearest = np.full((len(rows), k + 1), np.inf, dtype=np.float32)
    for wide, other in _upper_triangle(list(row_blocks(len(rows), adm_block))):
        half = fits_float16(table, wide, table, other, block)
        turned = fits_float16(table, other, table, wide, block)
        small = (
            _upper_triangle(_split_slice(wide, block))
            if wide == other
            else product(_split_slice(wide, block), _split_slice(other, block))
        )
        for u, v in small:
            products, norms, others = block_products(table, u, table, v, half)
            _keep_smallest(nearest[u], block_distances(products, norms, others, half))
            if u != v:
                products, norms, others = (
                    (products, norms, others)
                    if half == turned
                    else block_products(table, u, table, v, turned)
                )
                _keep_smallest(nearest[v], block_distances(products, others, norms, turned).T)
    return nearest[:, k].copy()


def block_products(
    left: RowNorms, u: slice, right: RowNorms, v: slice, half: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Products (n, m) and squared norms (n, 1), (1, m) of two blocks, float32; each a float16 value
    if `half`.
    """
    (a, norms), (b, others) = left.read_block(u, half), right.read_block(v, half)
    products = a @ b.T
    return round_to_float16(products) if half else products, norms[:, None], others[None]


def block_distances(
    products: np.ndarray, first: np.ndarray, second: np.ndarray, half: bool
) -> np.ndarray:
    """max((first - 2 products) + second, 0), every step rounded if `half`; not finite where float16
    overflows.
    """
    with np.errstate(invalid="ignore"):
        found = np.multiply(products, np.float32(-2.0))
        if half:
            _overflow_to_infinity(found)  # doubling is exact otherwise
        for norms in (first, second):
            found += norms
            if half:
                round_to_float16(found)
        return np.maximum(found, np.float32(0.0), out=found)


def round_to_float16(values: np.ndarray) -> np.ndarray:
    """Round float32 values (n, m) to those of float16 in place, to nearest and ties to even,
    infinite beyond its largest.

    On the bits, because numpy's conversion there and back takes four times as long.
    """
    bits = values.view(np.uint32)
    odd = bits >> np.uint32(13)
    odd &= np.uint32(1)
    small = (
        (np.abs(values) < FLOAT16_MIN_NORMAL)
        if values.size and values.min() < FLOAT16_MIN_NORMAL and values.max() > -FLOAT16_MIN_NORMAL
        else None
    )
    steps = None if small is None else np.rint(values[small] * 2.0**24) * 2.0**-24
    bits += odd
    bits += np.uint32(0xFFF)
    bits &= np.uint32(0xFFFFE000)  # sign, exponent and 10 bits of the mantissa
    if small is not None:
        values[small] = steps
    return _overflow_to_infinity(values)


def fits_float16(
    left: RowNorms, wide: slice, right: RowNorms, other: slice, block: int = BLOCK
) -> bool:
    """Whether all of ADM's float16 distances between two blocks are finite, so that none is
    computed in float32.
    """
    largest = [
        float(norms.max()) for norms in (left.float16_norms[wide], right.float16_norms[other])
    ]
    # No step is larger than (|u| + |v|)^2; each of three roundings adds at most 2^-11, the norms'
    # own less than 2^-9.
    if (np.sqrt(largest[0]) + np.sqrt(largest[1])) ** 2 * (1 + 2.0**-8) < FLOAT16_MAX:
        return True
    if not np.isfinite(largest).all():
        return False
    pairs = product(_split_slice(wide, block), _split_slice(other, block))
    return all(
        np.isfinite(block_distances(*block_products(left, u, right, v, True), True)).all()
        for u, v in pairs
    )


def _overflow_to_infinity(values: np.ndarray) -> np.ndarray:
    if values.size and (values.max() > FLOAT16_MAX or values.min() < -FLOAT16_MAX):
        values[values > FLOAT16_MAX] = np.inf
        values[values < -FLOAT16_MAX] = -np.inf
    return values


def _keep_smallest(nearest: np.ndarray, found: np.ndarray) -> None:
    """Put the smallest of nearest (n, k + 1) and found (n, m) into `nearest`, sorted."""
    kept = nearest.shape[1]
    limit = nearest[:, -1]
    if np.isinf(limit).any():
        few = np.partition(found, kept - 1, axis=1)[:, :kept] if found.shape[1] > kept else found
        nearest[:] = np.sort(np.concatenate([nearest, few], axis=1), axis=1)[:, :kept]
        return
    mask = found < limit[:, None]
    for row in np.flatnonzero(mask.any(axis=1)):
        nearest[row] = np.sort(np.concatenate([nearest[row], found[row, mask[row]]]))[:kept]


def _split_slice(wide: slice, size: int) -> list[slice]:
    """Consecutive slices that cover a slice."""
    return [
        slice(wide.start + part.start, wide.start + part.stop)
        for part in row_blocks(wide.stop - wide.start, size)
    ]


def _upper_triangle(blocks: list[slice]) -> Iterator[tuple[slice, slice]]:
    """Each pair once, the diagonal first: after it few distances elsewhere are near."""
    yield from ((u, u) for u in blocks)
    yield from ((u, v) for i, u in enumerate(blocks) for v in blocks[i + 1 :])
