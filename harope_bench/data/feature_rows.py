"""Arrays of rows in a .npy file that is written in blocks and read as a memory map.

No array has to fit in memory. A row is the value of one sample, an array of any shape.
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

HASH_CHUNK_BYTES = 1 << 24  # bytes that are hashed at once


class RowsHeader(NamedTuple):
    """The header of a file of rows.

    Attributes:
        shape: Shape of the array; the first number is that of the rows.
        dtype: Type of its elements.
        start: Offset of the first row in bytes.
        size: Size of the file in bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    start: int
    size: int

    def has_rows(self, n_rows: int) -> bool:
        """Return whether header and size of the file cover that many complete rows."""
        return n_rows <= self.shape[0] and self.size >= self.start + n_rows * self.row_bytes

    def has_rows_like(self, row_shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> bool:
        """Return whether the rows of the file have this shape and dtype."""
        return (self.shape[1:], self.dtype) == (row_shape, dtype)

    @property
    def row_bytes(self) -> int:
        """Return the size of one row in bytes."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


def read_rows_header(path: Path) -> RowsHeader | None:
    """Return the header of a file of feature rows; None if it is missing or no such file."""
    try:
        with convert_os_errors(path, keeps_file_not_found=True), open_regular(path) as file:
            return _parse_header(file)
    except FileNotFoundError:
        return None


def _parse_header(file: IO[bytes]) -> RowsHeader | None:
    try:
        header = read_header(file)
    except ValueError:
        return None
    if header.is_fortran or not header.shape or min(header.shape) < 0:
        return None
    file_bytes = os.fstat(file.fileno()).st_size
    return RowsHeader(header.shape, header.dtype, file.tell(), file_bytes)


def reserve_rows(path: Path, n_rows: int, template_row: np.ndarray) -> None:
    """Make a file long enough for `count` rows with the shape and dtype of `row`.

    Existing rows stay, and the file never becomes shorter, because another process may have mapped
    it. A file whose rows have another shape or dtype is replaced.
    """
    make_folder(path.parent)
    with convert_os_errors(path), FileLock(path.with_name(f".{path.name}.lock")):
        header = read_rows_header(path)
        if header is not None and not header.has_rows_like(template_row.shape, template_row.dtype):
            header = None
        n_existing = header.shape[0] if header is not None else 0
        if header is not None and n_existing >= n_rows and header.has_rows(n_existing):
            return

        if header is None:
            path.unlink(missing_ok=True)
        n_rows = max(n_rows, n_existing)
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            # numpy pads the header, so that one with a larger count has the same length.
            header_fields = {
                "descr": np.lib.format.dtype_to_descr(template_row.dtype),
                "fortran_order": False,
                "shape": (n_rows, *template_row.shape),
            }
            np.lib.format.write_array_header_1_0(file, header_fields)
            file.truncate(file.tell() + n_rows * template_row.nbytes)


def write_rows(path: Path, start_row: int, rows: np.ndarray) -> None:
    """Write rows (N, ...) from row `start_row` on, and wait until they are on the disk.

    A record that is written afterwards is then true even after a power failure.

    Raises:
        ShapeError: The file has no such rows. Call `reserve_rows` first.
    """
    header = read_rows_header(path)
    stop_row = start_row + len(rows)
    if (
        header is None
        or not header.has_rows_like(rows.shape[1:], rows.dtype)
        or stop_row > header.shape[0]
    ):
        raise ShapeError(
            f"{path} has no place for rows {start_row} to {stop_row} of {rows.dtype}"
            f" {rows.shape[1:]}; reserve them first"
        )
    with convert_os_errors(path), open_regular_for_update(path) as file:
        file.seek(header.start + start_row * header.row_bytes)
        file.write(np.ascontiguousarray(rows).tobytes())
        file.flush()
        os.fsync(file.fileno())


def rows_sha256(path: Path, start_row: int, stop_row: int) -> str | None:
    """Return the hex sha256 of rows `start_row` to `stop_row` - 1, their shape and dtype.

    The result is None if the file does not contain all of them.
    """
    try:
        # The file is opened only once, because another process may replace it.
        with convert_os_errors(path, keeps_file_not_found=True), open_regular(path) as file:
            header = _parse_header(file)
            if header is None or not header.has_rows(stop_row):
                return None
            return _hash_rows(file, header, start_row, stop_row)
    except FileNotFoundError:
        return None


def _hash_rows(file: IO[bytes], header: RowsHeader, start_row: int, stop_row: int) -> str:
    digest = hashlib.sha256(f"{header.dtype.str} {header.shape[1:]}".encode())
    file.seek(header.start + start_row * header.row_bytes)
    for chunk in _read_chunks(file, (stop_row - start_row) * header.row_bytes):
        digest.update(chunk)
    return digest.hexdigest()


def is_complete(path: Path) -> bool:
    """Return whether a file has a header and exactly the size that the header states."""
    header = read_rows_header(path)
    if header is None:
        return False
    return path.stat().st_size == header.start + header.shape[0] * header.row_bytes


def _read_chunks(file: IO[bytes], n_bytes: int) -> Iterator[bytes]:
    """Yield the next `n_bytes` of a file, or fewer at its end, in chunks."""
    while n_bytes > 0 and (chunk := file.read(min(HASH_CHUNK_BYTES, n_bytes))):
        n_bytes -= len(chunk)
        yield chunk


def map_rows(path: Path, n_rows: int) -> np.ndarray:
    """Return the first `count` rows as a read-only memory map (count, ...).

    Raises:
        StorageError: The file does not contain them, or is cut short.
    """
    header = read_rows_header(path)
    if header is None or header.shape[0] < n_rows or not header.has_rows(header.shape[0]):
        raise StorageError(f"{path} does not hold {n_rows:,} rows; delete it and run eval again")
    with convert_os_errors(path):
        check_regular(path)
        memory_map = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.asarray(memory_map[:n_rows])  # it shares the mapped memory, without the memmap class
