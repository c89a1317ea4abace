"""Recall of random halves of the samples, for the standard error of recall.

A nearest-neighbour cover is not smooth, so a jackknife that leaves one sample out gives an error
that is 50% too large. Random halves vary as sets of other samples do. The standard deviation
of their recall is the standard error of the recall of all samples (delete-d jackknife, d = N / 2).
No distance is computed twice: each half selects its own among the nearest neighbours.
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

HALF_SPLITS = 64  # splits into two halves; their noise adds 6% to the error's own scatter of 10%
HALVES_SEED = 0  # fixed, so that two runs of equally many samples have the same halves
CANDIDATES = 32  # nearest rows per sample; 3 of them are in a half in all but 1 of 10^7 cases
BLOCK_ROWS = 2048  # rows and columns of distances in memory at once, 16 MB
COVERED_PAIR_BLOCK = 1 << 14  # pairs compared with all radii at once, at most 17 MB


def half_recalls(
    generated: np.ndarray, real: np.ndarray, k: int = NEIGHBOURS, splits: int = HALF_SPLITS
) -> np.ndarray:
    """Return the recall of both halves of random splits of the samples.

    Args:
        generated, real: (N, D), (M, D) of any float type, memory-mapped or not; N at least 2 k + 2.

    Returns:
        (2 splits,) float64, the halves of split s at s and at splits + s. Their standard deviation
        is the standard error of recall for a fixed reference. For two runs over the same requests,
        the standard deviation of the differences is the error of the difference. Memory is N times
        64 radii, 26 MB at 50,000, and a few blocks.

    Raises:
        TooFewImagesError: A half has no k-th neighbour.
        ShapeError: The widths differ.

    Source: Shao and Wu 1989 (delete-d jackknife); tests/statistics/test_simulation.py measures it
    for recall.
    """
    if len(generated) < fewest_samples(k):
        raise TooFewImagesError(
            f"half of {len(generated)} samples has no {k}-th neighbour, wanted at least"
            f" {fewest_samples(k)} samples; generate more images"
        )
    half_indices = random_half_indices(len(generated), splits)
    samples, references = scale_rows(generated, real)
    radii = half_radii(samples, half_indices, k)
    largest_radii = radii.max(axis=1)  # (N,)

    covered_counts = np.zeros((2, splits), dtype=np.int64)
    for part in row_blocks(len(real), BLOCK_ROWS):
        is_covered = np.zeros((2, splits, part.stop - part.start), dtype=bool)
        for pairs in _near_pairs(samples, references, part, largest_radii):
            _mark_covered(is_covered, pairs, radii, half_indices)
        covered_counts += is_covered.sum(axis=2)
    return np.asarray(covered_counts.ravel() / len(real))


def fewest_samples(k: int = NEIGHBOURS) -> int:
    """Return the least number of samples whose halves have a k-th neighbour."""
    return 2 * k + 2


def random_half_indices(n_samples: int, splits: int = HALF_SPLITS) -> np.ndarray:
    """Return the half of each sample in each split, (count, splits) int8.

    0 and 1 are the halves; -1 is the sample that an odd count leaves out. The splits depend on the
    number of samples alone.
    """
    rng = np.random.default_rng(HALVES_SEED)
    size = n_samples // 2
    half_indices = np.full((n_samples, splits), -1, dtype=np.int8)
    for split in range(splits):
        order = rng.permutation(n_samples)
        half_indices[order[:size], split] = 0
        half_indices[order[size : 2 * size], split] = 1
    return half_indices


def half_radii(samples: ScaledRows, half_indices: np.ndarray, k: int) -> np.ndarray:
    """Return the squared radius of each sample's ball within its half, (N, splits) float64.

    A sample that is left out of a split has the radius -1, which covers nothing.
    """
    count = len(samples.rows)
    neighbours = nearest_rows(samples, min(CANDIDATES, count - 1)).indices  # (N, C)
    radii = np.empty(half_indices.shape)
    for part in row_blocks(count, BLOCK_ROWS):
        distances, candidates = _sorted_candidates(samples, part, neighbours[part])
        rows = np.arange(len(candidates))
        for split in range(half_indices.shape[1]):
            halves = half_indices[part, split][:, None]
            is_in_same_half = half_indices[candidates, split] == halves  # (n, C)
            # Where fewer than k candidates are in the half, the distance of the last candidate is
            # the nearest value that is known.
            kth_column = np.where(
                is_in_same_half.sum(axis=1) >= k,
                (np.cumsum(is_in_same_half, axis=1) >= k).argmax(axis=1),
                -1,
            )
            radii[part, split] = distances[rows, kth_column]
    radii[half_indices < 0] = -1.0
    return radii


def _sorted_candidates(
    samples: ScaledRows, part: slice, candidates: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return exact distances (n, C) and indices (n, C) of the candidates of a block, ascending."""
    rows = np.repeat(np.arange(part.start, part.stop), candidates.shape[1])
    distances = squared_pair_distances(samples.rows, samples.rows, rows, candidates.ravel())
    distances = distances.reshape(candidates.shape)  # (n, C)
    order = np.argsort(distances, axis=1, kind="stable")
    return (
        np.take_along_axis(distances, order, axis=1),
        np.take_along_axis(candidates, order, axis=1),
    )


class NearPairs(NamedTuple):
    """Pairs of a sample and a reference row that may be in its ball.

    samples: indices of samples (n,). rows: indices of reference rows within their block (n,).
    distances: squared (n,).
    """

    samples: np.ndarray
    rows: np.ndarray
    distances: np.ndarray


def _mark_covered(
    is_covered: np.ndarray, near_pairs: NearPairs, radii: np.ndarray, half_indices: np.ndarray
) -> None:
    """Set in `is_covered` (2, splits, rows) bool which halves have a ball around each row."""
    # a row that every half covers needs no more pairs
    is_settled = np.asarray(is_covered.all(axis=(0, 1)))
    is_open = ~is_settled[near_pairs.rows]
    pairs = NearPairs(*(array[is_open] for array in near_pairs))

    for part in row_blocks(len(pairs.samples), COVERED_PAIR_BLOCK):
        sample = pairs.samples[part]
        row = pairs.rows[part]
        pair, split = np.nonzero(pairs.distances[part, None] <= radii[sample])
        is_covered[half_indices[sample[pair], split], split, row[pair]] = True


def _near_pairs(
    samples: ScaledRows, references: ScaledRows, part: slice, largest_radii: np.ndarray
) -> Iterator[NearPairs]:
    """Yield the pairs of a block of references that are within the largest radius (N,) of a sample.

    Yield one NearPairs for each block of samples.
    """
    reference_values = references.read_block(part)
    for sample_part in row_blocks(len(samples.rows), BLOCK_ROWS):
        # inexact distances select the pairs
        limits = largest_radii[sample_part] * samples.scale**2 + error_bound(references, samples)
        inexact_distances = references.distances(
            part, samples, sample_part, reference_values
        )  # (n, m)
        row, column = np.nonzero(
            inexact_distances <= limits.astype(inexact_distances.dtype) * (1 + 2.0**-20)
        )
        row = row + part.start
        column = column + sample_part.start

        # many pairs: a product in float64 is cheaper than differences
        if len(row) > MAX_UNDECIDED_PAIRS * (part.stop - part.start):
            precise_distances = references.in_float64().distances(
                part, samples.in_float64(), sample_part
            )
            distances = (
                precise_distances[row - part.start, column - sample_part.start] / samples.scale**2
            )
        else:
            distances = squared_pair_distances(references.rows, samples.rows, row, column)
        yield NearPairs(column, row - part.start, distances)
