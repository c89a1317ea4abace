"""Sample indices as ranges: `0-499`, `7` or `0-9,20-29`."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby
from typing import overload

from harope_bench.core.errors import OptionError

MAX_INDICES = 1_000_000  # samples of one request, because a record of each is in memory
INDEX_DIGITS = 12  # maximum digits of an index


class IndexRanges(Sequence[int]):
    """Ascending distinct indices, stored as ranges of consecutive ones.

    The memory grows with the number of ranges, not of indices.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()):
        """Merge ranges (start, end) in any order, both ends included."""
        merged_ranges: list[tuple[int, int]] = []
        for start, end in sorted(ranges):
            if merged_ranges and start <= merged_ranges[-1][1] + 1:
                previous_start, previous_end = merged_ranges[-1]
                merged_ranges[-1] = (previous_start, max(end, previous_end))
            else:
                merged_ranges.append((start, end))

        self.ranges = tuple(merged_ranges)
        self._starts = [start for start, _ in self.ranges]
        # Element k is the number of indices before range k; the final element is the total.
        self._counts = [0, *accumulate(end - start + 1 for start, end in self.ranges)]

    @classmethod
    def from_indices(cls, indices: Iterable[int]) -> IndexRanges:
        """Return the indices as ranges. An IndexRanges is returned unchanged."""
        return indices if isinstance(indices, IndexRanges) else cls(consecutive_ranges(indices))

    @classmethod
    def from_count(cls, count: int) -> IndexRanges:
        """Return the indices 0 to `count` - 1.

        Raises:
            OptionError: `count` is larger than the maximum length of a Python sequence.
        """
        if count > sys.maxsize:
            raise OptionError(
                f"--count is a number of {count.bit_length()} bits, more than {sys.maxsize:,}; give"
                " a smaller number"
            )
        return cls([(0, count - 1)] if count else [])

    def union(self, ranges: IndexRanges) -> IndexRanges:
        """Return the indices that are in this set or in `ranges`."""
        return IndexRanges((*self.ranges, *ranges.ranges))

    def difference(self, indices: Iterable[int]) -> IndexRanges:
        """Return the indices that are not among `indices`.

        The time is linear in the number of ranges of both.
        """
        holes = iter(IndexRanges.from_indices(indices).ranges)
        hole = next(holes, None)
        remaining_ranges: list[tuple[int, int]] = []
        for start, end in self.ranges:
            while hole is not None and hole[1] < start:
                hole = next(holes, None)

            # Each hole that overlaps the range splits off the indices in front of it.
            while hole is not None and hole[0] <= end:
                if start < hole[0]:
                    remaining_ranges.append((start, hole[0] - 1))
                start = hole[1] + 1
                if hole[1] > end:
                    break
                hole = next(holes, None)

            if start <= end:
                remaining_ranges.append((start, end))
        return IndexRanges(remaining_ranges)

    def __len__(self) -> int:
        """Return the number of indices."""
        return self._counts[-1]

    def __iter__(self) -> Iterator[int]:
        """Return an iterator over the indices in ascending order."""
        return (index for start, end in self.ranges for index in range(start, end + 1))

    def __contains__(self, index: object) -> bool:
        """Return whether an index is in one of the ranges."""
        if not isinstance(index, int):
            return False
        range_number = bisect_right(self._starts, index) - 1
        return range_number >= 0 and index <= self.ranges[range_number][1]

    @overload
    def __getitem__(self, position: int) -> int: ...

    @overload
    def __getitem__(self, position: slice) -> list[int]: ...

    def __getitem__(self, position: int | slice) -> int | list[int]:
        """Return the index at a position, or the indices of a slice."""
        if isinstance(position, slice):
            return [self[k] for k in range(*position.indices(len(self)))]
        offset = position + len(self) if position < 0 else position
        if not 0 <= offset < len(self):
            raise IndexError(f"position {position} of {len(self)} indices")
        range_number = bisect_right(self._counts, offset) - 1
        return self.ranges[range_number][0] + offset - self._counts[range_number]

    def __eq__(self, sequence: object) -> bool:
        """Return whether a sequence contains the same indices in the same order."""
        if isinstance(sequence, IndexRanges):
            return self.ranges == sequence.ranges
        if isinstance(sequence, Sequence):
            pairs = zip(self, sequence, strict=True)
            return len(self) == len(sequence) and all(a == b for a, b in pairs)
        return NotImplemented

    def __hash__(self) -> int:
        """Return a hash of the ranges."""
        return hash(self.ranges)

    def __str__(self) -> str:
        """Return the ranges as they are recorded in a file, such as `0-499,700-700`."""
        return ",".join(f"{start}-{end}" for start, end in self.ranges)

    def __repr__(self) -> str:
        """Return the ranges, cut to 60 characters."""
        text = str(self)
        return f"IndexRanges({text if len(text) <= 60 else text[:57] + '...'})"


def consecutive_ranges(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Return ascending ranges (start, end) of consecutive indices, both ends included."""
    if isinstance(indices, IndexRanges):
        return list(indices.ranges)
    ranges: list[tuple[int, int]] = []
    for index in sorted(set(indices)):
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1] = (ranges[-1][0], index)
        else:
            ranges.append((index, index))
    return ranges


def parse_whole_number(text: str) -> int | None:
    """Return a text of at most INDEX_DIGITS ASCII digits as a number; None for other texts.

    `str.isdecimal` alone also accepts digits of other scripts and more digits than `int` reads.
    """
    is_number = text.isascii() and text.isdecimal() and len(text) <= INDEX_DIGITS
    return int(text) if is_number else None


def parse_ranges(text: str) -> IndexRanges:
    """Return the indices of a text like `0-499`, `7` or `0-9,20-29`, both ends included.

    Raises:
        ValueError: The text is no list of ranges, an index has more than INDEX_DIGITS digits, or a
            range ends before it starts.
    """
    ranges: list[tuple[int, int]] = []
    for part in text.split(","):
        start_text, dash, end_text = part.strip().partition("-")
        start = parse_whole_number(start_text)
        end = parse_whole_number(end_text if dash else start_text)
        if start is None or end is None or end < start:
            short_part = part if len(part) <= 40 else f"{part[:37]}..."
            raise ValueError(f"{short_part!r} is no index range; write 0-499, 7 or 0-9,20-29")
        ranges.append((start, end))
    return IndexRanges(ranges)


def parse_indices(text: str) -> IndexRanges:
    """Return the indices of one request, parsed by `parse_ranges`.

    Raises:
        ValueError: The text is no list of ranges, or contains more than MAX_INDICES indices.
    """
    indices = parse_ranges(text)
    if len(indices) > MAX_INDICES:
        raise ValueError(
            f"{len(indices):,} samples are requested, at most {MAX_INDICES:,} in one request; ask"
            " for fewer at a time"
        )
    return indices


def group_by_padded_batch(indices: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield the ascending indices of each padded batch. Index i belongs to batch i // size.

    Args:
        indices: sample indices in any order.
        size: images in a padded batch.
    """
    for _, batch_indices in groupby(sorted(indices), key=lambda index: index // size):
        yield list(batch_indices)
