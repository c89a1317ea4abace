"""Checks that an array from a file holds rows of features."""

from __future__ import annotations

from collections import Counter

import numpy as np

from harope_bench.metrics.moments import row_blocks

FLOAT32_MAX = float(np.finfo(np.float32).max)  # features are float32 or narrower


def rows_complaint(rows: np.ndarray) -> str | None:
    """Return why an array is not rows of features (N, D), or None if it is.

    N may be 0, and values are not checked.

    Returns:
        The predicate of a sentence about the rows, such as "are of dtype int64, wanted real
        floating-point numbers".
    """
    if rows.ndim != 2 or rows.shape[1] == 0:
        return f"have shape {rows.shape}, wanted rows (N, D)"
    if rows.dtype.kind != "f":
        return f"are of dtype {rows.dtype}, wanted real floating-point numbers"
    return None


def first_bad_row(rows: np.ndarray) -> int | None:
    """Return the index of the first row of (N, D) with a value that is not a finite float32.

    Return None if there is no such row.
    """
    largest = rows.dtype.type(min(FLOAT32_MAX, float(np.finfo(rows.dtype).max)))
    for part in row_blocks(len(rows)):
        is_bad = ~(np.abs(rows[part]) <= largest).all(axis=1)  # the comparison is false for NaN
        if is_bad.any():
            return part.start + int(is_bad.argmax())
    return None


def repeat_counts(rows: np.ndarray) -> np.ndarray:
    """Return how many of the rows (N, D) equal each row, itself included, (N,) int64."""
    # -0 + 0 is 0, so that -0 and 0, which are equal, have equal bytes.
    hashes = [hash((row + 0).tobytes()) for row in rows]
    counts = Counter(hashes)
    return np.array([counts[row_hash] for row_hash in hashes], dtype=np.int64)
