"""Sample indices in short: `0-499`, `7` or `0-9,20-29`, written and read."""

from __future__ import annotations

from collections.abc import Iterable

MOST = 100_000_000  # indices one request may name


def spans(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of consecutive indices as (first, last), ascending."""
    found: list[tuple[int, int]] = []
    for i in sorted(set(indices)):
        if found and found[-1][1] == i - 1:
            found[-1] = (found[-1][0], i)
        else:
            found.append((i, i))
    return found


def parse_indices(text: str) -> list[int]:
    """Indices of `0-499`, `7` or `0-9,20-29`, both ends included.

    Raises:
        ValueError: anything else, or a range that runs backwards.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise ValueError(f"{part!r} is no index range; write 0-499, 7 or 0-9,20-29")
        if int(last or first) - int(first) >= MOST:
            raise ValueError(f"{part!r} names more than {MOST:,} samples; ask for fewer at a time")
        found.update(range(int(first), int(last or first) + 1))
    return sorted(found)
