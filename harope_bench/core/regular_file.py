"""Open files that come from outside: regular files only, opened once, read up to a stated bound.

A pipe would wait for ever and a device has no end. The kind of a file is asked of the open handle,
so that nobody can put another file
in its place between the question and the read.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedRandom, BufferedReader
from pathlib import Path

from harope_bench.core.errors import FileTooLargeError, IrregularFileError

MIB = 1 << 20
TOML_BYTES = MIB  # of a TOML file: recipes, checkpoints, assets
JSON_BYTES = 64 * MIB  # of one JSON document: plans, results, manifests
TEXT_BYTES = 256 * MIB  # of a text file: prompts, labels, logs
LINES_BYTES = 1024 * MIB  # of a file of JSON lines: records of a million samples
IMAGE_BYTES = 256 * MIB  # of an image file: a bitmap of the largest image that is read is smaller
# Flags that not every platform has.
NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # not on Windows
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)  # not on Windows
BINARY = getattr(os, "O_BINARY", 0)  # on Windows alone


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read its bytes.

    Raises:
        OSError: It cannot be opened, or is a folder.
        IrregularFileError: It is a pipe, a device or a socket, itself or at the end of a link.
    """
    return os.fdopen(_open_handle(path, os.O_RDONLY), "rb")


def _open_handle(path: Path, flags: int) -> int:
    """Return a handle of a regular file; errors as `open_regular`."""
    try:
        handle = os.open(path, flags | NONBLOCK | BINARY, 0o666)
    except ValueError as error:  # a NUL or half a character, in a name out of a file
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
        OSError: It cannot be read.
        IrregularFileError: It is no regular file.
        FileTooLargeError: It is larger.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(limit + 1) if size <= limit else b""
    if max(size, len(data)) > limit:
        raise FileTooLargeError(
            f"{path} has {max(size, len(data)):,} bytes, at most {limit:,} are read; check that it"
            " is the right file"
        )
    return data


def is_file(path: Path) -> bool:
    """Return whether a file is there, for a name out of a file: also False where no file can be
    called so (too long, NUL).
    """
    try:
        return path.is_file()
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
            return False
        raise


def check_regular(path: Path) -> None:
    """Refuse what is no regular file, before a library opens it by its path; errors as
    `open_regular`.
    """
    open_regular(path).close()


def open_regular_for_update(path: Path) -> BufferedRandom:
    """Open a regular file to change it in place; errors as `open_regular`."""
    return os.fdopen(_open_handle(path, os.O_RDWR), "r+b")


def open_for_append(path: Path) -> int:
    """Return a handle that adds to a regular file, which is made where there is none.

    Raises:
        OSError: It cannot be opened.
        IrregularFileError: A link, a device, a pipe or a socket is there.
    """
    check_replaceable(path)
    return _open_handle(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | NOFOLLOW)


def check_replaceable(path: Path) -> None:
    """Refuse to write over anything but a regular file: a link, a device or a pipe would be
    replaced.

    Raises:
        OSError: It cannot be looked at.
        IrregularFileError: Something else than a regular file is there.
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
    """Return in words what a file of this mode is."""
    kinds = {
        stat.S_IFIFO: "a pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
        stat.S_IFLNK: "a link",
        stat.S_IFDIR: "a folder",
    }
    return kinds.get(stat.S_IFMT(mode), "no regular file")
