"""Mean and covariance of rows in float64, streamed in blocks and mergeable across shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import InvalidMomentsError, ShapeError, TooFewImagesError
from harope_bench.metrics.moment_checks import moments_complaint

# rows held in float64 at once, 64 MB at width 2048; four of a judge's shards, so that moments can
# be kept with those
BLOCK = 4000


class Gaussian(NamedTuple):
    """Mean (D,) and covariance (D, D), float64, unbiased (N - 1)."""

    mean: np.ndarray
    covariance: np.ndarray


def row_blocks(rows: int, size: int = BLOCK) -> Iterator[slice]:
    """Consecutive slices that cover `rows` rows; the last may be short."""
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


@dataclass(frozen=True)
class Moments:
    """Count, mean (D,) and scatter (D, D) = sum of outer products of centred rows; float64."""

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def from_rows(cls, rows: np.ndarray, block: int = BLOCK) -> Moments:
        """Moments of rows (N, D) of any float type; N may be 0."""
        nothing = cls(0, np.zeros(rows.shape[1]), np.zeros((rows.shape[1], rows.shape[1])))
        return reduce(
            cls.merge,
            (cls._from_block(rows[part]) for part in row_blocks(len(rows), block)),
            nothing,
        )

    @classmethod
    def _from_block(cls, rows: np.ndarray) -> Moments:
        centred = rows.astype(np.float64)
        mean = centred.mean(axis=0)
        centred -= mean
        return cls(len(rows), mean, centred.T @ centred)

    def merge(self, other: Moments) -> Moments:
        """Moments of both shards' rows together; ShapeError if the widths differ.

        Source: Chan, Golub, LeVeque 1979: no difference of large squares, so a mean far from zero
        costs no digits.
        """
        if self.mean.shape != other.mean.shape:
            raise ShapeError(
                f"moments of widths {len(self.mean)} and {len(other.mean)} cannot be merged"
            )
        count = self.count + other.count
        if count == 0:
            return self
        step = other.mean - self.mean
        spread = np.outer(step, step) * (self.count * other.count / count)
        return Moments(
            count, self.mean + step * (other.count / count), self.scatter + other.scatter + spread
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """What a file must hold: count (), mean (D,), scatter (D, D); 32 MB at width 2048."""
        return {
            "count": np.array(self.count, dtype=np.int64),
            "mean": self.mean,
            "scatter": self.scatter,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Moments:
        """Return the moments that `arrays` gave, bit by bit.

        Raises:
            ShapeError: the arrays do not fit together. InvalidMomentsError: they are no count, mean
                and scatter.
        """
        count, mean, scatter = (np.asarray(arrays[name]) for name in ("count", "mean", "scatter"))
        if count.shape != () or mean.ndim != 1 or scatter.shape != (*mean.shape, *mean.shape):
            found = f"count {count.shape}, mean {mean.shape}, scatter {scatter.shape}"
            raise ShapeError(
                f"moments need a count, a mean (D,) and a scatter (D, D), found {found}; make the"
                " file again"
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
        """Mean and unbiased covariance; TooFewImages below two rows."""
        if self.count < 2:
            raise TooFewImagesError(f"a covariance needs at least 2 images, found {self.count}")
        return Gaussian(self.mean, self.scatter / (self.count - 1))
