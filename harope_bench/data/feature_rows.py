"""Rows of one shape in a .npy file that is filled in pieces and read as a memory map, so that no
array need fit in memory.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from filelock import FileLock

from harope_bench.core.array_file import read_header
from harope_bench.core.errors import ShapeError, StorageError
from harope_bench.core.regular_file import check_regular, open_regular, open_regular_for_update
from harope_bench.core.storage import convert_os_errors, make_folder

HASH_CHUNK_BYTES = 1 << 24  # bytes hashed at once


class RowsHeader(NamedTuple):
    """What a file says of its rows, the byte where they begin, and how many bytes the file has."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    start: int
    size: int

    def has_rows(self, count: int) -> bool:
        """Return whether the file claims and holds that many rows whole."""
        return count <= self.shape[0] and self.size >= self.start + count * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


def read_rows_header(path: Path) -> RowsHeader | None:
    """The header of the file, or None where there is no such file or it is not one of plain
    rows.
    """
    try:
        with convert_os_errors(path, missing_ok=True), open_regular(path) as file:
            return _parse_header(file)
    except FileNotFoundError:
        return None


def _parse_header(file: IO[bytes]) -> RowsHeader | None:
    try:
        found = read_header(file)
    except ValueError:
        return None
    if found.is_fortran or not found.shape or min(found.shape) < 0:
        return None
    return RowsHeader(found.shape, found.dtype, file.tell(), os.fstat(file.fileno()).st_size)


def reserve_rows(path: Path, count: int, row: np.ndarray) -> None:
    """Makes the file long enough for `count` rows of `row`'s shape and dtype.

    Rows that stand there are kept and the file never gets shorter: another process may have it
    mapped. A file of rows of another
    shape or dtype begins anew.
    """
    make_folder(path.parent)
    with convert_os_errors(path), FileLock(path.with_name(f".{path.name}.lock")):
        found = read_rows_header(path)
        fits = found is not None and (found.shape[1:], found.dtype) == (row.shape, row.dtype)
        held = found.shape[0] if found is not None and fits else 0
        if fits and held >= count and found is not None and found.has_rows(held):
            return
        if not fits:
            path.unlink(missing_ok=True)
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            # numpy pads the header so that a larger count fits in the same place
            facts = {
                "descr": np.lib.format.dtype_to_descr(row.dtype),
                "fortran_order": False,
                "shape": (max(count, held), *row.shape),
            }
            np.lib.format.write_array_header_1_0(file, facts)
            file.truncate(file.tell() + max(count, held) * row.nbytes)


def write_rows(path: Path, first: int, rows: np.ndarray) -> None:
    """Writes rows from place `first` on and waits for the disk, so that a record written afterwards
    tells the truth.

    Raises:
        ShapeError: the file has no such rows; `reserve` first.
    """
    found = read_rows_header(path)
    if (
        found is None
        or (found.shape[1:], found.dtype) != (rows.shape[1:], rows.dtype)
        or first + len(rows) > found.shape[0]
    ):
        raise ShapeError(
            f"{path} has no place for rows {first} to {first + len(rows)} of {rows.dtype}"
            f" {rows.shape[1:]}; reserve them first"
        )
    with convert_os_errors(path), open_regular_for_update(path) as file:
        file.seek(found.start + first * found.row_bytes)
        file.write(np.ascontiguousarray(rows).tobytes())
        file.flush()
        os.fsync(file.fileno())


def rows_sha256(path: Path, first: int, stop: int) -> str | None:
    """Hex sha256 of rows `first` to `stop`, with their shape and dtype; None if the file does not
    hold them whole.
    """
    try:
        with (
            convert_os_errors(path, missing_ok=True),
            open_regular(path) as file,
        ):  # opened once: another process may begin the file anew meanwhile
            found = _parse_header(file)
            return (
                None
                if found is None or not found.has_rows(stop)
                else _sha256_of_rows(file, found, first, stop)
            )
    except FileNotFoundError:
        return None


def _sha256_of_rows(file: IO[bytes], found: RowsHeader, first: int, stop: int) -> str:
    told = hashlib.sha256(f"{found.dtype.str} {found.shape[1:]}".encode())
    file.seek(found.start + first * found.row_bytes)
    for piece in _read_chunks(file, (stop - first) * found.row_bytes):
        told.update(piece)
    return told.hexdigest()


def is_complete(path: Path) -> bool:
    """Return whether the file has a header and is exactly as long as that says."""
    found = read_rows_header(path)
    return (
        found is not None and path.stat().st_size == found.start + found.shape[0] * found.row_bytes
    )


def _read_chunks(file: IO[bytes], size: int) -> Iterator[bytes]:
    while size > 0 and (piece := file.read(min(HASH_CHUNK_BYTES, size))):
        size -= len(piece)
        yield piece


def map_rows(path: Path, count: int) -> np.ndarray:
    """The first `count` rows as a read-only memory map; StorageError if the file does not hold
    them.
    """
    found = read_rows_header(path)
    if found is None or found.shape[0] < count or not found.has_rows(found.shape[0]):
        raise StorageError(f"{path} does not hold {count:,} rows; delete it and run eval again")
    with convert_os_errors(path):
        check_regular(path)
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.asarray(mapped[:count])  # still the map, without the subclass
