"""Shards: the parts `i/n` of one piece of work that independent processes do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from harope_bench.core.index_ranges import IndexRanges, group_by_padded_batch, parse_whole_number

MAX_SHARDS = 100_000

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count` parts; the first is number 1."""

    number: int
    count: int

    def __str__(self) -> str:
        """Return the shard as on the command line, such as 2/16."""
        return f"{self.number}/{self.count}"

    @property
    def name(self) -> str:
        """Return the name of the shard's folder."""
        return f"shard-{self.number}-of-{self.count}"

    def take(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this shard's items. Shards are consecutive and differ by one item at most."""
        start = len(items) * (self.number - 1) // self.count
        stop = len(items) * self.number // self.count
        return items[start:stop]

    def take_batches(self, indices: Sequence[int], size: int) -> IndexRanges:
        """Return the sample indices of this shard, whole padded batches of `size` rows each."""
        batches = self.take(list(group_by_padded_batch(indices, size)))
        return IndexRanges.from_indices(index for batch in batches for index in batch)


def parse_shard(text: str) -> Shard:
    """Return the shard of a text like 2/16.

    Raises:
        ValueError: The text is no shard, or the number is not within 1 and the count.
    """
    number_text, _, count_text = text.partition("/")
    number = parse_whole_number(number_text.strip())
    count = parse_whole_number(count_text.strip())
    if number is None or count is None:
        raise ValueError(f"{text[:40]!r} is no shard; write 1/4 for the first of four")
    if not 1 <= count <= MAX_SHARDS:
        raise ValueError(f"{text[:40]!r} has {count:,} shards; give 1 to {MAX_SHARDS:,}")
    if not 1 <= number <= count:
        raise ValueError(f"shard {number:,} of {count:,} does not exist; give 1 to {count:,}")
    return Shard(number, count)
