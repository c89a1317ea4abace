"""Kernel distances (KID, CMMD): the unbiased U-statistic over blocks, and the error that the
blocks' spread gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import ShapeError, TooFewImagesError
from harope_bench.statistics.significance import standard_error

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]  # rows (A, D) and (B, D) to values (A, B)


class BlockDistance(NamedTuple):
    """Mean over the blocks' estimates (B,), each unbiased; se is their spread over sqrt(B). Two
    runs' blocks are pairs.
    """

    value: float
    se: float
    blocks: np.ndarray


def squared_mmd(drawn: np.ndarray, real: np.ndarray, kernel: Kernel) -> float:
    """Unbiased squared maximum mean discrepancy of rows (A, D) and (B, D), float64; may be below 0.

    Source: Gretton et al. 2012, equation 3.
    """
    a = len(drawn)
    b = len(real)
    if min(a, b) < 2:
        raise TooFewImagesError(
            f"an unbiased kernel distance needs two rows on each side, found {a} and {b}"
        )
    within = (
        _off_diagonal(kernel(drawn, drawn)) / (a * (a - 1)),
        _off_diagonal(kernel(real, real)) / (b * (b - 1)),
    )
    return float(sum(within) - 2.0 * kernel(drawn, real).mean())


def _off_diagonal(values: np.ndarray) -> float:
    return float(values.sum() - np.trace(values))


def block_distance(
    drawn: np.ndarray, real: np.ndarray, kernel: Kernel, blocks: int
) -> BlockDistance:
    """Squared MMD over consecutive disjoint blocks of both sides: independent estimates, so their
    spread is an honest error.

    Rows beyond a whole number of blocks are left out. Two runs that drew the same requests have the
    same blocks, so
    `mean_error(new.blocks - baseline.blocks)` is the paired error.

    Raises:
        TooFewImages: fewer than two blocks, or blocks of a single row. ShapeError: other widths.
    """
    if drawn.shape[1] != real.shape[1]:
        raise ShapeError(
            f"features of width {drawn.shape[1]} and {real.shape[1]} have no distance; the judge"
            " and the reference differ"
        )
    sizes = (len(drawn) // max(blocks, 1), len(real) // max(blocks, 1))
    if blocks < 2 or min(sizes) < 2:
        raise TooFewImagesError(
            f"{blocks} blocks of {len(drawn):,} and {len(real):,} rows; wanted two blocks or more,"
            " of two rows or more"
        )
    wide = [np.asarray(rows, dtype=np.float64) for rows in (drawn, real)]
    parts = [
        [rows[b * size : (b + 1) * size] for b in range(blocks)]
        for rows, size in zip(wide, sizes, strict=True)
    ]
    found = np.array([squared_mmd(d, r, kernel) for d, r in zip(*parts, strict=True)])
    return BlockDistance(float(found.mean()), standard_error(found), found)


def cubic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """KID's kernel (x.y / D + 1)^3. Source: Binkowski et al. 2018, section 4."""
    return np.asarray((a @ b.T / a.shape[1] + 1.0) ** 3)


def gaussian(sigma: float) -> Kernel:
    """CMMD's kernel exp(-|x - y|^2 / (2 sigma^2)). Source: Jayasumana et al. 2024, section 4 (sigma
    10 on unit CLIP features).
    """

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2.0 * a @ b.T
        return np.asarray(np.exp(-np.maximum(squared, 0.0) / (2.0 * math.pow(sigma, 2))))

    return kernel
