"""Recall of random halves of the samples: how recall would move if other samples were drawn.

A nearest-neighbour cover is not smooth: a jackknife that leaves one sample out is half again too
wide.
Halves move as whole draws do, and the standard deviation of their recall is the error of the whole
(delete-d jackknife, d = N / 2). No distance is computed twice: each half only re-reads which of the
nearest neighbours are its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import TooFewImagesError
from harope_bench.metrics.distances import (
    ScaledRows,
    error_bound,
    scale_rows,
    squared_pair_distances,
)
from harope_bench.metrics.moments import row_blocks
from harope_bench.metrics.neighbours import MAX_UNDECIDED_PAIRS, NEIGHBOURS, nearest_rows

HALF_SPLITS = 64  # into two halves each; their own noise adds 6% to the error's spread of 10%
HALVES_SEED = 0  # of the splits: two runs of as many samples have the same halves and are pairs
CANDIDATES = (
    32  # nearest others that are looked through: 3 of them are in a half in all but 1 of 10^7
)
BLOCK = 2048  # rows and columns of distances that are held at once, 16 MB
COVERED_PAIR_BLOCK = 1 << 14  # pairs compared with all radii at once, at most 17 MB


def half_recalls(
    drawn: np.ndarray, real: np.ndarray, k: int = NEIGHBOURS, splits: int = HALF_SPLITS
) -> np.ndarray:
    """Return the recall of both halves of random splits of the samples.

    Args:
        drawn, real: (N, D), (M, D) of any float type, memory-mapped or not; N at least 2 k + 2.

    Returns:
        (2 splits,) float64, the halves of split s at s and at splits + s. The standard deviation is
        the standard error of recall with the reference fixed; that of the differences of two runs
        over the same requests is the error of their difference. Memory is N times 64 radii,
        26 MB at 50,000, and a few blocks.

    Raises:
        TooFewImages: A half would have no k-th neighbour.

    Source: Shao and Wu 1989 (delete-d jackknife); tests/statistics/test_simulation.py measures it
    for recall.
    """
    if len(drawn) < fewest_samples(k):
        raise TooFewImagesError(
            f"halves of {len(drawn)} samples have no {k}-th neighbour; wanted {fewest_samples(k)}"
            " or more"
        )
    sides = random_half_indices(len(drawn), splits)
    samples, references = scale_rows(drawn, real)
    radii = half_radii(samples, sides, k)
    reach = radii.max(axis=1)  # (N,)
    hits = np.zeros((2, splits), dtype=np.int64)
    for part in row_blocks(len(real), BLOCK):
        is_covered = np.zeros((2, splits, part.stop - part.start), dtype=bool)
        for near in _near_pairs(samples, references, part, reach):
            _mark_covered(is_covered, near, radii, sides)
        hits += is_covered.sum(axis=2)
    return np.asarray(hits.ravel() / len(real))


def fewest_samples(k: int = NEIGHBOURS) -> int:
    """Return the least number of samples whose halves have a k-th neighbour."""
    return 2 * k + 2


def random_half_indices(count: int, splits: int = HALF_SPLITS) -> np.ndarray:
    """Return which half each sample is in, (count, splits) int8: 0, 1, or -1 for the odd one left
    out.

    The split depends on the number of samples alone.
    """
    rng = np.random.default_rng(HALVES_SEED)
    half = count // 2
    sides = np.full((count, splits), -1, dtype=np.int8)
    for split in range(splits):
        order = rng.permutation(count)
        sides[order[:half], split] = 0
        sides[order[half : 2 * half], split] = 1
    return sides


def half_radii(samples: ScaledRows, sides: np.ndarray, k: int) -> np.ndarray:
    """Return the squared radius of each sample's ball within its half of each split, (N, splits)
    float64.

    A sample that is left out has the radius -1, which reaches nothing.
    """
    count = len(samples.rows)
    near = nearest_rows(samples, min(CANDIDATES, count - 1)).indices  # (N, C)
    radii = np.empty(sides.shape)
    for part in row_blocks(count, BLOCK):
        others = near[part]
        rows = np.repeat(np.arange(part.start, part.stop), others.shape[1])
        distances = squared_pair_distances(
            samples.rows, samples.rows, rows, others.ravel()
        ).reshape(others.shape)
        order = np.argsort(distances, axis=1, kind="stable")
        distances = np.take_along_axis(distances, order, axis=1)
        others = np.take_along_axis(others, order, axis=1)
        for split in range(sides.shape[1]):
            mates = sides[others, split] == sides[part, split][:, None]  # (n, C)
            # where fewer than k candidates are mates, the last one's distance is the nearest thing
            # known
            place = np.where(
                mates.sum(axis=1) >= k, (np.cumsum(mates, axis=1) >= k).argmax(axis=1), -1
            )
            radii[part, split] = distances[np.arange(len(others)), place]
    radii[sides < 0] = -1.0
    return radii


class NearPairs(NamedTuple):
    """Pairs of a sample and a row of a block of references that may lie in its ball: numbers and
    squared distances (n,).
    """

    samples: np.ndarray
    rows: np.ndarray
    distances: np.ndarray


def _mark_covered(
    is_covered: np.ndarray, near: NearPairs, radii: np.ndarray, sides: np.ndarray
) -> None:
    """Mark in (2, splits, rows) bool which halves have a ball around each reference row."""
    is_settled = np.asarray(
        is_covered.all(axis=(0, 1))
    )  # a row that every half covers has nothing to learn
    is_open = ~is_settled[near.rows]
    pairs = NearPairs(*(array[is_open] for array in near))
    for part in row_blocks(len(pairs.samples), COVERED_PAIR_BLOCK):
        sample = pairs.samples[part]
        row = pairs.rows[part]
        pair, split = np.nonzero(pairs.distances[part, None] <= radii[sample])
        is_covered[sides[sample[pair], split], split, row[pair]] = True


def _near_pairs(
    samples: ScaledRows, references: ScaledRows, part: slice, reach: np.ndarray
) -> Iterator[NearPairs]:
    """Yield the pairs of a block of references that lie within the largest radius (N,) of a
    sample.
    """
    held = references.read_block(part)
    for other in row_blocks(len(samples.rows), BLOCK):
        edges = reach[other] * samples.scale**2 + error_bound(references, samples)
        screened = references.distances(part, samples, other, held)  # (n, m) float32
        row, column = np.nonzero(screened <= edges.astype(screened.dtype) * (1 + 2.0**-20))
        row = row + part.start
        column = column + other.start
        if len(row) <= MAX_UNDECIDED_PAIRS * (part.stop - part.start):
            found = squared_pair_distances(references.rows, samples.rows, row, column)
        else:  # many pairs: a product in float64 is cheaper than differences
            sharp = references.in_float64().distances(part, samples.in_float64(), other)
            found = sharp[row - part.start, column - other.start] / samples.scale**2
        yield NearPairs(column, row - part.start, found)
