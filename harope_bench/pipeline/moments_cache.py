"""Moments of rows on disk, kept beside them and added to block by block, so that a scoring that was
killed or has more images adds
only what is missing.

One file holds the sums of the leading whole blocks, and the hashes of the rows they are of. Its own
hash stands in the folder's
SHA256SUMS, recorded before the file is written: sums that nothing vouches for are made again. Sums
of each shard for itself would take
four times the room of the rows: 32 MB for 1,000 rows of width 2048. Blocks are merged in their
order alone, so no kill moves a bit.
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
from harope_bench.metrics.moments import BLOCK, Moments

ROWS_KEY = "rows_sha256"
BLOCKS_PER_WRITE = 3  # blocks between two writes: 32 MB and a second of work at width 2048


class ShardHashes(NamedTuple):
    """Hashes of the rows of consecutive shards, and the rows of each (the last may have fewer), a
    divisor of BLOCK.
    """

    digests: Sequence[str]
    size: int

    def hashes_before(self, block: int) -> list[str]:
        """Hashes of the shards that the first so many blocks are made of."""
        return list(self.digests[: block * (BLOCK // self.size)])


def sum_cached_moments(path: Path, rows: np.ndarray, shards: ShardHashes) -> Moments:
    """Moments of rows (N, D), bit for bit `Moments.of(rows)`, from `path` as far as that is of the
    same rows; `path` then holds all.

    A file that is damaged, altered or of other rows is made again.
    """
    whole = len(rows) // BLOCK
    done, found = _load_moments(path, rows.shape[1], shards, whole)
    for number in range(done, whole):
        found = found.merge(Moments.from_rows(rows[number * BLOCK : (number + 1) * BLOCK]))
        if (number + 1) % BLOCKS_PER_WRITE == 0 or number + 1 == whole:
            data = encode_npz(
                {**found.to_arrays(), ROWS_KEY: np.array(shards.hashes_before(number + 1))}
            )
            checksums.record_hashes(path.parent, {path.name: sha256_bytes(data)})
            write_bytes(path, data)
    return found.merge(Moments.from_rows(rows[whole * BLOCK :])) if len(rows) % BLOCK else found


def _load_moments(path: Path, width: int, shards: ShardHashes, whole: int) -> tuple[int, Moments]:
    """How many leading blocks the file is of, and their moments; none where it is not of these
    rows.
    """
    nothing = 0, Moments.from_rows(np.zeros((0, width)))
    if (
        not path.is_file()
        or not checksums.has_checksums(path.parent)
        or not checksums.is_intact(path.parent, path.name)
    ):
        return nothing
    try:
        arrays = load_arrays(path)
        found = Moments.from_arrays(arrays)
        of = arrays[ROWS_KEY].tolist()
    except (StorageError, ShapeError, InvalidMomentsError, KeyError):
        return nothing
    done = found.count // BLOCK
    return (
        (done, found)
        if found.mean.shape == (width,) and 0 < done <= whole and of == shards.hashes_before(done)
        else nothing
    )


def are_sums_of(path: Path, rows: np.ndarray) -> bool:
    """Return whether a moments file holds the sums of the leading blocks of rows (N, D), to the
    last bit.
    """
    try:
        stored = Moments.from_arrays(load_arrays(path))
    except (StorageError, ShapeError, InvalidMomentsError, KeyError):
        return False
    if stored.count > len(rows) or stored.count % BLOCK or stored.mean.shape != rows.shape[1:]:
        return False
    summed = Moments.from_rows(rows[: stored.count])
    return (
        summed.mean.tobytes() == stored.mean.tobytes()
        and summed.scatter.tobytes() == stored.scatter.tobytes()
    )
