"""Open files from outside: only regular files, read up to a maximum size.

Reading a pipe can wait forever, and a device has no end. The type of a file is read from the open
handle, so that the file cannot be replaced between the check and the read.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedRandom, BufferedReader
from pathlib import Path

from harope_bench.core.errors import FileTooLargeError, IrregularFileError

MIB = 1 << 20
# Maximum sizes in bytes.
TOML_BYTES = MIB  # a TOML file: recipes, checkpoints, assets
JSON_BYTES = 64 * MIB  # a JSON document: plans, results, manifests
TEXT_BYTES = 256 * MIB  # a text file: prompts, labels, logs
LINES_BYTES = 1024 * MIB  # a file of JSON lines: records of a million samples
MAX_IMAGE_BYTES = 256 * MIB  # an image file: larger than any uncompressed image that is read
# Flags of os.open that some platforms do not have.
NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # not on Windows
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)  # not on Windows
BINARY = getattr(os, "O_BINARY", 0)  # on Windows alone


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read its bytes.

    Raises:
        OSError: The file cannot be opened, or is a folder.
        IrregularFileError: The file is a pipe, a device or a socket, or a link to one.
    """
    return os.fdopen(_open_handle(path, os.O_RDONLY), "rb")


def _open_handle(path: Path, flags: int) -> int:
    """Return the descriptor of a regular file. Errors: `open_regular`."""
    try:
        handle = os.open(path, flags | NONBLOCK | BINARY, 0o666)
    except ValueError as error:  # the name contains a NUL or a lone surrogate
        raise OSError(errno.EINVAL, "no file can have this name", str(path)) from error
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise IrregularFileError(
                f"{path} is {file_type_text(mode)}, wanted a regular file; copy its bytes into one"
            )
        return handle
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path, limit: int) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes.

    Raises:
        OSError: The file cannot be read.
        IrregularFileError: The file is not a regular file.
        FileTooLargeError: The file is larger than `limit`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(limit + 1) if size <= limit else b""
    actual_size = max(size, len(data))  # the file may have grown since its size was read
    if actual_size > limit:
        raise FileTooLargeError(
            f"{path} has {actual_size:,} bytes, at most {limit:,} are read; check that it"
            " is the right file"
        )
    return data


def is_file(path: Path) -> bool:
    """Return whether there is a file; False also for a path that no file can have.

    A name that is read from a file may be too long or contain a NUL.
    """
    try:
        return path.is_file()
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
            return False
        raise


def check_regular(path: Path) -> None:
    """Raise the errors of `open_regular`, before a library opens the file by its path."""
    open_regular(path).close()


def open_regular_for_update(path: Path) -> BufferedRandom:
    """Open a regular file to change it in place. Errors: `open_regular`."""
    return os.fdopen(_open_handle(path, os.O_RDWR), "r+b")


def open_for_append(path: Path) -> int:
    """Return a descriptor that appends to a regular file, which is created if it is missing.

    Raises:
        OSError: The file cannot be opened.
        IrregularFileError: A link, a device, a pipe or a socket has this path.
    """
    check_regular_or_missing(path)
    return _open_handle(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | NOFOLLOW)


def check_regular_or_missing(path: Path) -> None:
    """Raise an error unless the path is free or a regular file, which may be overwritten.

    Raises:
        OSError: The path is a folder, or its type cannot be read.
        IrregularFileError: The path is a link, a device, a pipe or a socket.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise IrregularFileError(
            f"{path} is {file_type_text(mode)} and is not written over; choose another place or"
            " remove it"
        )


def file_type_text(mode: int) -> str:
    """Return the type of a file in words, from its mode (st_mode)."""
    type_texts = {
        stat.S_IFIFO: "a pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
        stat.S_IFLNK: "a link",
        stat.S_IFDIR: "a folder",
    }
    return type_texts.get(stat.S_IFMT(mode), "no regular file")
