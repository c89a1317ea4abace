"""What an .npz claims to hold, looked at before any of it is unpacked."""

from __future__ import annotations

import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from harope_bench.core.formats import FORMAT_KEY, FileKind, add_format_version, check_format
from harope_bench.core.regular_file import open_regular

ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what numpy writes
MAX_DEFLATE_RATIO = 1100  # deflate packs at most 1,032 bytes into one
SMALL_ARCHIVE_BYTES = 256 << 20  # bytes that any file may unpack to
MAX_UNPACK_RATIO = (
    32  # and a larger one so many times its own size: features are hardly packed at all
)
ARRAYS_BYTES = 16 << 30  # of the arrays that are held in memory at once


# Zip, zlib and the header parser (Python, then Python 2) fail in all these ways on bytes from
# outside.
# RuntimeError is also an encrypted member.
ARCHIVE_ERRORS = (
    ValueError, TypeError, LookupError, EOFError, OSError, RuntimeError, MemoryError, SyntaxError, ArithmeticError,
    struct.error, tokenize.TokenError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


class ArrayHeader(NamedTuple):
    """Shape and dtype that a member claims, and whether its first axis runs fastest (Fortran
    order).
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # whatever the header says
    is_fortran: bool


@contextmanager
def open_npz(path: Path) -> Iterator[tuple[zipfile.ZipFile, int]]:
    """Open a regular file as a zip archive, with its size; errors are those of `zipfile` and of
    `open_regular`.
    """
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        yield archive, os.fstat(file.fileno()).st_size


def read_header(member: IO[bytes]) -> ArrayHeader:
    """Return the header of an array; ValueError where it is damaged, or one of objects."""
    try:
        version = np.lib.format.read_magic(member)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(member)
    except ARCHIVE_ERRORS as error:
        raise ValueError(
            "its header is damaged"
            f" ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from error
    if dtype.hasobject:
        raise ValueError("it is an array of Python objects")
    return ArrayHeader(shape, dtype, bool(fortran))


def read_member_header(archive: zipfile.ZipFile, name: str, size: int) -> ArrayHeader:
    """Return the header of a member of a file of `size` bytes; ValueError where the bytes cannot be
    there that it claims.
    """
    info = archive.getinfo(name)
    if info.compress_type not in ZIP_METHODS:
        raise ValueError(f"{name} has compression {info.compress_type}, wanted stored or deflated")
    with archive.open(info) as member:
        header = read_header(member)
        start = member.tell()
    claimed = math.prod(header.shape) * header.dtype.itemsize
    present = info.file_size - start
    if claimed != present or info.file_size > MAX_DEFLATE_RATIO * size:
        raise ValueError(
            f"{name} claims {header.shape}, {claimed:,} bytes, and holds"
            f" {min(present, MAX_DEFLATE_RATIO * size):,} at most"
        )
    return header


def array_bytes(archive: zipfile.ZipFile, name: str, size: int) -> int:
    """Return how many bytes the array of a member takes, in any order of its axes; errors as
    `claim`.
    """
    header = read_member_header(archive, name, size)
    return math.prod(header.shape) * header.dtype.itemsize


def arrays_with_format(kind: FileKind, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz with the format version of its kind beside them, () int64."""
    return {name: np.asarray(array) for name, array in add_format_version(kind, arrays).items()}


def check_arrays_format(kind: FileKind, arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Raise FormatError unless the arrays of an .npz hold the format version of this package."""
    version = arrays.get(FORMAT_KEY)
    check_format(kind, None if version is None else version.tolist(), path)


def check_unpacked_size(total: int, size: int) -> None:
    """Refuse arrays of `total` bytes out of a file of `size` bytes where that fills the memory;
    raise ValueError.
    """
    if total > (most := min(max(SMALL_ARCHIVE_BYTES, MAX_UNPACK_RATIO * size), ARRAYS_BYTES)):
        raise ValueError(f"its {size:,} bytes unpack to {total:,}, at most {most:,} are read")
