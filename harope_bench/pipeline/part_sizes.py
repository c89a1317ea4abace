"""How many units of work a part has; it changes no result, only who waits for whom."""

from __future__ import annotations

from collections.abc import Iterator

Part = tuple[int, ...]  # positions of the units that a worker does in one go

# No part is larger than this fraction of a worker's share of what is left, so that all workers end
# at about the same time.
PARTS_LEFT_PER_WORKER = 2


class PartSizes:
    """Cuts units into parts of a fixed size, or of about so many seconds of work.

    If parts have a duration, the first ones are single units. Later ones have the size that fits
    the time of finished parts.
    """

    def __init__(self, n_workers: int, max_units: int, seconds: float | None = None) -> None:
        """Cut into parts of at most `max_units`; None for `seconds` makes all parts so large."""
        self._n_workers = n_workers
        self._max_units = max(1, max_units)
        self._seconds = seconds
        self._measured_units = 0
        self._measured_seconds = 0.0

    def measure(self, n_units: int, seconds: float) -> None:
        """Take the time of a finished part into account for those that are cut after it."""
        self._measured_units += n_units
        self._measured_seconds += seconds

    def cut(self, n_units: int) -> Iterator[Part]:
        """Yield consecutive parts of `n_units` units. Their sizes are decided one by one."""
        start = 0
        while start < n_units:
            stop = min(n_units, start + self._next_size(n_units - start))
            yield tuple(range(start, stop))
            start = stop

    def _next_size(self, n_left: int) -> int:
        if self._seconds is None:
            return self._max_units
        if self._measured_units == 0:
            return 1
        share = n_left // (PARTS_LEFT_PER_WORKER * self._n_workers)
        seconds_per_unit = self._measured_seconds / self._measured_units
        size_limit = min(self._max_units, share)
        if seconds_per_unit * size_limit > self._seconds:
            size_limit = int(self._seconds / seconds_per_unit)
        return max(1, size_limit)
