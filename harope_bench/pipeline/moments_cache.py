"""Cache of the moments of feature rows, extended block by block.

One file holds the sums of the leading whole blocks and the hashes of their rows. A run that was
interrupted, or that has more images now, adds only the missing blocks. The hash of the file is
recorded in the folder's SHA256SUMS before the file is written, and a file without a matching hash
is computed again.

There is one file for all shards because sums of each shard would take four times the space of its
rows: 32 MB for 1,000 rows of width 2048. Blocks are merged in order, so an interruption changes no
bit of the sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harope_bench.core import checksums
from harope_bench.core.array_archive import encode_npz, load_arrays
from harope_bench.core.errors import InvalidMomentsError, ShapeError, StorageError
from harope_bench.core.storage import sha256_bytes, write_bytes
from harope_bench.metrics.moments import BLOCK_ROWS, Moments

ROWS_KEY = "rows_sha256"
BLOCKS_PER_WRITE = 3  # blocks between two writes: 32 MB and about a second at width 2048


class ShardHashes(NamedTuple):
    """Row hashes of consecutive shards.

    size: rows of each shard, a divisor of BLOCK_ROWS; the last shard may have fewer.
    """

    digests: Sequence[str]
    size: int

    def hashes_before(self, block: int) -> list[str]:
        """Return the hashes of the shards in the first `block` blocks."""
        return list(self.digests[: block * (BLOCK_ROWS // self.size)])


def sum_cached_moments(path: Path, rows: np.ndarray, shards: ShardHashes) -> Moments:
    """Return the moments of rows (N, D), bit for bit those of `Moments.from_rows`.

    Blocks that the file at `path` holds are not summed again. All whole blocks are in it
    afterwards. A file that is damaged, altered or of other rows is computed again.
    """
    block_count = len(rows) // BLOCK_ROWS
    cached = _load_moments(path, rows.shape[1], shards, block_count)
    moments = cached or Moments.from_rows(np.zeros((0, rows.shape[1])))

    for number in range(moments.count // BLOCK_ROWS, block_count):
        block = rows[number * BLOCK_ROWS : (number + 1) * BLOCK_ROWS]  # (BLOCK_ROWS, D)
        moments = moments.merge(Moments.from_rows(block))
        if (number + 1) % BLOCKS_PER_WRITE == 0 or number + 1 == block_count:
            _write_moments(path, moments, shards.hashes_before(number + 1))

    if len(rows) % BLOCK_ROWS:
        moments = moments.merge(Moments.from_rows(rows[block_count * BLOCK_ROWS :]))
    return moments


def _write_moments(path: Path, moments: Moments, hashes: list[str]) -> None:
    """Record the hash of the cache file, then write the file."""
    data = encode_npz({**moments.to_arrays(), ROWS_KEY: np.array(hashes)})
    checksums.record_hashes(path.parent, {path.name: sha256_bytes(data)})
    write_bytes(path, data)


def _load_moments(path: Path, width: int, shards: ShardHashes, block_count: int) -> Moments | None:
    """Return the cached moments of leading blocks; None where the file is not of these rows."""
    folder = path.parent
    if not path.is_file() or not checksums.has_checksums(folder):
        return None
    if not checksums.is_intact(folder, path.name):
        return None
    try:
        arrays = load_arrays(path)
        moments = Moments.from_arrays(arrays)
        row_hashes = arrays[ROWS_KEY].tolist()
    except (StorageError, ShapeError, InvalidMomentsError, KeyError):
        return None
    cached_blocks = moments.count // BLOCK_ROWS
    if moments.mean.shape != (width,) or not 0 < cached_blocks <= block_count:
        return None
    return moments if row_hashes == shards.hashes_before(cached_blocks) else None


def are_sums_of(path: Path, rows: np.ndarray) -> bool:
    """Return whether a cache file holds the exact sums of the leading blocks of rows (N, D)."""
    try:
        cached = Moments.from_arrays(load_arrays(path))
    except (StorageError, ShapeError, InvalidMomentsError, KeyError):
        return False
    if cached.count > len(rows) or cached.count % BLOCK_ROWS or cached.mean.shape != rows.shape[1:]:
        return False
    moments = Moments.from_rows(rows[: cached.count])
    return (
        moments.mean.tobytes() == cached.mean.tobytes()
        and moments.scatter.tobytes() == cached.scatter.tobytes()
    )
