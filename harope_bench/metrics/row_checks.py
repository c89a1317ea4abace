"""Whether an array from a file is rows of features."""

from __future__ import annotations

from collections import Counter

import numpy as np

from harope_bench.metrics.moments import row_blocks

FLOAT32_MAX = float(np.finfo(np.float32).max)  # features are float32 or less


def rows_complaint(rows: np.ndarray) -> str | None:
    """Return in words why an array is no rows of features (N, D), or None; N may be 0, and values
    are not looked at.

    Returns:
        The predicate of a sentence, such as "are of dtype int64, wanted real floating-point
        numbers".
    """
    if rows.ndim != 2 or rows.shape[1] == 0:
        return f"have shape {rows.shape}, wanted rows (N, D)"
    return (
        None
        if rows.dtype.kind == "f"
        else f"are of dtype {rows.dtype}, wanted real floating-point numbers"
    )


def first_bad_row(rows: np.ndarray) -> int | None:
    """Return the place of the first of the rows (N, D) with a value that is not finite or beyond
    float32, or None.
    """
    largest = rows.dtype.type(min(FLOAT32_MAX, float(np.finfo(rows.dtype).max)))
    for part in row_blocks(len(rows)):
        bad = ~(np.abs(rows[part]) <= largest).all(axis=1)  # false for NaN too
        if bad.any():
            return part.start + int(bad.argmax())
    return None


def repeat_counts(rows: np.ndarray) -> np.ndarray:
    """Return for each of the rows (N, D) how many rows have its very values, itself included, (N,)
    int64.
    """
    # Adding 0 makes -0 of the same bytes as 0, which it is equal to.
    keys = [hash((row + 0).tobytes()) for row in rows]
    counts = Counter(keys)
    return np.array([counts[key] for key in keys], dtype=np.int64)
