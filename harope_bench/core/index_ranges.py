"""Sample indices in short: `0-499`, `7` or `0-9,20-29`, written and read."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby
from typing import overload

from harope_bench.core.errors import OptionError

MAX_INDICES = 1_000_000  # samples that one request may name; a request of each is held in memory
INDEX_DIGITS = 12  # of an index


class IndexRanges(Sequence[int]):
    """Ascending indices, each once, as runs of consecutive ones: memory goes with the number of
    runs, not of indices.
    """

    def __init__(self, runs: Iterable[tuple[int, int]] = ()):
        """Join runs (first, last) in any order, both ends included."""
        joined: list[tuple[int, int]] = []
        for first, last in sorted(runs):
            if joined and first <= joined[-1][1] + 1:
                joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
            else:
                joined.append((first, last))
        self.ranges = tuple(joined)
        self._starts = [first for first, _ in joined]
        self._counts = [0, *accumulate(last - first + 1 for first, last in joined)]

    @classmethod
    def from_indices(cls, indices: Iterable[int]) -> IndexRanges:
        """Return these indices as ranges; what are ranges already is returned as it is."""
        return indices if isinstance(indices, IndexRanges) else cls(consecutive_ranges(indices))

    @classmethod
    def from_count(cls, count: int) -> IndexRanges:
        """Return the indices 0 to `count` - 1; OptionError for more than a sequence of Python can
        have.
        """
        if count > sys.maxsize:
            raise OptionError(
                f"--count is a number of {count.bit_length()} bits, more than {sys.maxsize:,}; give"
                " a smaller number"
            )
        return cls([(0, count - 1)] if count else [])

    def union(self, other: IndexRanges) -> IndexRanges:
        """Return the indices of either."""
        return IndexRanges((*self.ranges, *other.ranges))

    def difference(self, indices: Iterable[int]) -> IndexRanges:
        """Return the indices that are not among these; time goes with the number of runs and of
        `indices`.
        """
        holes = iter(IndexRanges.from_indices(indices).ranges)
        hole = next(holes, None)
        rest: list[tuple[int, int]] = []
        for first, last in self.ranges:
            while hole is not None and hole[1] < first:
                hole = next(holes, None)
            while hole is not None and hole[0] <= last:
                if first < hole[0]:
                    rest.append((first, hole[0] - 1))
                first = hole[1] + 1
                if hole[1] > last:
                    break
                hole = next(holes, None)
            if first <= last:
                rest.append((first, last))
        return IndexRanges(rest)

    def __len__(self) -> int:
        """Return how many indices there are."""
        return self._counts[-1]

    def __iter__(self) -> Iterator[int]:
        """Return the indices in order."""
        return (index for first, last in self.ranges for index in range(first, last + 1))

    def __contains__(self, index: object) -> bool:
        """Return whether an index is among them."""
        if not isinstance(index, int):
            return False
        run = bisect_right(self._starts, index) - 1
        return run >= 0 and index <= self.ranges[run][1]

    @overload
    def __getitem__(self, place: int) -> int: ...

    @overload
    def __getitem__(self, place: slice) -> list[int]: ...

    def __getitem__(self, place: int | slice) -> int | list[int]:
        """Return the index at a place, or those of a slice."""
        if isinstance(place, slice):
            return [self[k] for k in range(*place.indices(len(self)))]
        at = place + len(self) * (place < 0)
        if not 0 <= at < len(self):
            raise IndexError(f"place {place} of {len(self)} indices")
        run = bisect_right(self._counts, at) - 1
        return self.ranges[run][0] + at - self._counts[run]

    def __eq__(self, other: object) -> bool:
        """Return whether another sequence holds the same indices in the same order."""
        if isinstance(other, IndexRanges):
            return self.ranges == other.ranges
        if isinstance(other, Sequence):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    def __hash__(self) -> int:
        """Return a hash of the runs."""
        return hash(self.ranges)

    def __str__(self) -> str:
        """Return `0-499,700-700`, as requests are written down."""
        return ",".join(f"{first}-{last}" for first, last in self.ranges)

    def __repr__(self) -> str:
        """Return the runs, a few of them."""
        text = str(self)
        return f"IndexRanges({text if len(text) <= 60 else text[:57] + '...'})"


def consecutive_ranges(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Return runs of consecutive indices as (first, last), ascending."""
    if isinstance(indices, IndexRanges):
        return list(indices.ranges)
    runs: list[tuple[int, int]] = []
    for i in sorted(set(indices)):
        if runs and runs[-1][1] == i - 1:
            runs[-1] = (runs[-1][0], i)
        else:
            runs.append((i, i))
    return runs


def whole_number(text: str) -> int | None:
    """Return the number that a text of at most DIGITS ASCII digits is; None for any other text.

    `str.isdecimal` also holds for other scripts' digits and for more digits than `int` reads.
    """
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= INDEX_DIGITS else None


def parse_ranges(text: str) -> IndexRanges:
    """Return the indices of `0-499`, `7` or `0-9,20-29`, both ends included, however many.

    Raises:
        ValueError: Anything else, an index of more than 12 digits, or a range that runs backwards.
    """
    runs: list[tuple[int, int]] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        start = whole_number(first)
        stop = whole_number(last if dash else first)
        if start is None or stop is None or stop < start:
            shown = part if len(part) <= 40 else f"{part[:37]}..."
            raise ValueError(f"{shown!r} is no index range; write 0-499, 7 or 0-9,20-29")
        runs.append((start, stop))
    return IndexRanges(runs)


def parse_indices(text: str) -> IndexRanges:
    """Return the indices that one request names, as `parse_ranges`; ValueError also where they are
    more than MOST.
    """
    indices = parse_ranges(text)
    if len(indices) > MAX_INDICES:
        raise ValueError(
            f"{len(indices):,} samples are named, at most {MAX_INDICES:,} in one request; ask for"
            " fewer at a time"
        )
    return indices


def group_by_padded_batch(indices: Sequence[int], size: int) -> Iterator[list[int]]:
    """Ascending indices grouped by the tile they belong to, i // size."""
    for _, group in groupby(sorted(indices), key=lambda i: i // size):
        yield list(group)
