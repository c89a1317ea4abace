"""Headers of the arrays in an .npz, checked before any array is unpacked."""

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
MAX_DEFLATE_RATIO = 1100  # deflate compresses at most 1,032 bytes into one
# The unpacked size may be SMALL_ARCHIVE_BYTES for any file, and MAX_UNPACK_RATIO times the file's
# size for a large one. Features hardly compress at all.
SMALL_ARCHIVE_BYTES = 256 << 20
MAX_UNPACK_RATIO = 32
ARRAYS_BYTES = 16 << 30  # maximum unpacked size, because the arrays are in memory at once

# What zipfile, zlib and numpy's header parsers raise on damaged bytes. RuntimeError is
# also raised for an encrypted member.
ARCHIVE_ERRORS = (
    *(ValueError, TypeError, LookupError, EOFError, OSError, RuntimeError, MemoryError),
    *(SyntaxError, ArithmeticError),
    *(struct.error, tokenize.TokenError, zlib.error, zipfile.BadZipFile),
)


class ArrayHeader(NamedTuple):
    """Shape, dtype and memory order (Fortran order: the first axis varies fastest) of an array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # a header can state any dtype
    is_fortran: bool


@contextmanager
def open_npz(path: Path) -> Iterator[tuple[zipfile.ZipFile, int]]:
    """Yield a regular file as a zip archive, and the size of the file in bytes.

    Raises:
        OSError, IrregularFileError: As `open_regular`.
        zipfile.BadZipFile: The file is not a zip archive.
    """
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        yield archive, os.fstat(file.fileno()).st_size


def read_header(member: IO[bytes]) -> ArrayHeader:
    """Return the header of an array.

    Raises:
        ValueError: The header is damaged, or the array contains Python objects.
    """
    try:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            header_fields = np.lib.format.read_array_header_1_0(member)
        else:
            header_fields = np.lib.format.read_array_header_2_0(member)
        shape, is_fortran, dtype = header_fields
    except ARCHIVE_ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"its header is damaged ({reason})") from error
    if dtype.hasobject:
        raise ValueError("it is an array of Python objects")
    return ArrayHeader(shape, dtype, bool(is_fortran))


def read_member_header(archive: zipfile.ZipFile, name: str, file_bytes: int) -> ArrayHeader:
    """Return the header of one array of an .npz.

    Args:
        name: Name of the member in the zip archive.
        file_bytes: Size of the archive file.

    Raises:
        ValueError: The header is damaged, or the file cannot contain an array of this shape.
    """
    info = archive.getinfo(name)
    if info.compress_type not in ZIP_METHODS:
        raise ValueError(f"{name} has compression {info.compress_type}, wanted stored or deflated")
    with archive.open(info) as member:
        header = read_header(member)
        start = member.tell()

    header_bytes = math.prod(header.shape) * header.dtype.itemsize
    member_bytes = info.file_size - start
    max_member_bytes = MAX_DEFLATE_RATIO * file_bytes
    if header_bytes != member_bytes or info.file_size > max_member_bytes:
        raise ValueError(
            f"{name} claims {header.shape}, {header_bytes:,} bytes, and holds"
            f" {min(member_bytes, max_member_bytes):,} at most"
        )
    return header


def array_bytes(archive: zipfile.ZipFile, name: str, file_bytes: int) -> int:
    """Return the unpacked size of an array in bytes. Arguments and errors: `read_member_header`."""
    header = read_member_header(archive, name, file_bytes)
    return math.prod(header.shape) * header.dtype.itemsize


def arrays_with_format(kind: FileKind, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays and one more array () int64 with the format version of the file's kind."""
    return {name: np.asarray(array) for name, array in add_format_version(kind, arrays).items()}


def check_arrays_format(kind: FileKind, arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Raise FormatError unless the arrays of an .npz contain the current format version.

    Args:
        kind: Kind of the file, a key of FILE_FORMATS.
        arrays: Arrays of the .npz by name.
        path: The file, for the message.
    """
    version = arrays.get(FORMAT_KEY)
    check_format(kind, None if version is None else version.tolist(), path)


def check_unpacked_size(unpacked_bytes: int, file_bytes: int) -> None:
    """Raise ValueError if the arrays of a file would fill the memory once they are unpacked."""
    max_bytes = min(max(SMALL_ARCHIVE_BYTES, MAX_UNPACK_RATIO * file_bytes), ARRAYS_BYTES)
    if unpacked_bytes > max_bytes:
        raise ValueError(
            f"its {file_bytes:,} bytes unpack to {unpacked_bytes:,}, at most {max_bytes:,} are read"
        )
