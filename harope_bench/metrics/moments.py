"""Mean and covariance of rows in float64, streamed in blocks and mergeable across shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import InvalidMomentsError, ShapeError, TooFewImagesError
from harope_bench.metrics.moment_checks import moments_complaint

# Rows in memory as float64 at once, 64 MB at width 2048. A multiple of the rows of a feature shard,
# so that moments can be cached per four shards.
BLOCK_ROWS = 4000


class Gaussian(NamedTuple):
    """Mean (D,) and covariance (D, D), float64, unbiased (N - 1)."""

    mean: np.ndarray
    covariance: np.ndarray


def row_blocks(n_rows: int, block_size: int = BLOCK_ROWS) -> Iterator[slice]:
    """Return consecutive slices of `size` that cover `rows` rows; the last may be shorter."""
    return (slice(start, min(start + block_size, n_rows)) for start in range(0, n_rows, block_size))


@dataclass(frozen=True)
class Moments:
    """Count, mean (D,) and scatter (D, D) of rows, float64.

    The scatter is the sum of the outer products of the centred rows.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def from_rows(cls, rows: np.ndarray, block_size: int = BLOCK_ROWS) -> Moments:
        """Return the moments of rows (N, D) of any float type; N may be 0."""
        width = rows.shape[1]
        no_rows = cls(0, np.zeros(width), np.zeros((width, width)))
        blocks = (cls._from_block(rows[part]) for part in row_blocks(len(rows), block_size))
        return reduce(cls.merge, blocks, no_rows)

    @classmethod
    def _from_block(cls, rows: np.ndarray) -> Moments:
        """Return the moments of rows (n, D) that fit in memory."""
        values = rows.astype(np.float64)
        mean = values.mean(axis=0)
        values -= mean
        return cls(len(rows), mean, values.T @ values)

    def merge(self, shard: Moments) -> Moments:
        """Return the moments of the rows of both.

        No difference of large squares occurs, so a mean far from zero costs no digits.

        Raises:
            ShapeError: The widths differ.

        Source: Chan, Golub, LeVeque 1979.
        """
        if self.mean.shape != shard.mean.shape:
            raise ShapeError(
                f"moments of widths {len(self.mean)} and {len(shard.mean)} cannot be merged,"
                " wanted one width; extract the features with the same judge"
            )
        count = self.count + shard.count
        if count == 0:
            return self
        step = shard.mean - self.mean
        scatter_of_means = np.outer(step, step) * (self.count * shard.count / count)
        return Moments(
            count,
            self.mean + step * (shard.count / count),
            self.scatter + shard.scatter + scatter_of_means,
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return count (), mean (D,) and scatter (D, D) for a file, 32 MB at width 2048."""
        return {
            "count": np.array(self.count, dtype=np.int64),
            "mean": self.mean,
            "scatter": self.scatter,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Moments:
        """Return the moments that `to_arrays` wrote, bit for bit.

        Raises:
            ShapeError: The shapes do not fit together.
            InvalidMomentsError: The values are no count, mean and scatter.
        """
        count, mean, scatter = (np.asarray(arrays[name]) for name in ("count", "mean", "scatter"))
        if count.shape != () or mean.ndim != 1 or scatter.shape != (*mean.shape, *mean.shape):
            raise ShapeError(
                "moments need a count, a mean (D,) and a scatter (D, D), found"
                f" count {count.shape}, mean {mean.shape}, scatter {scatter.shape}; make the file"
                " again"
            )
        if count.dtype.kind not in "iu" or count < 0:
            raise InvalidMomentsError(
                f"moments need a count of images, found {count.dtype} {count}; make the file again"
            )
        if complaint := moments_complaint(mean, scatter):
            raise InvalidMomentsError(f"mean and scatter {complaint}; make the file again")
        return cls(
            int(count), mean.astype(np.float64, copy=False), scatter.astype(np.float64, copy=False)
        )

    def to_gaussian(self) -> Gaussian:
        """Return mean and unbiased covariance; raise TooFewImagesError for fewer than two rows."""
        if self.count < 2:
            raise TooFewImagesError(
                f"a covariance needs at least 2 images, found {self.count}; generate more images"
            )
        return Gaussian(self.mean, self.scatter / (self.count - 1))
