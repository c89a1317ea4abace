"""Safe bytes: atomic writes, reads of regular files, and hashes."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from harope_bench.core import part_files
from harope_bench.core.errors import DiskError, StorageError
from harope_bench.core.regular_file import (
    JSON_BYTES,
    MIB,
    check_replaceable,
    open_regular,
    read_regular,
)

# Errors of the disk or of the process, whatever the bytes of a file are.
DISK_ERRNOS = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOENT, errno.ENOTDIR, errno.EISDIR,
    errno.EMFILE, errno.ENFILE, errno.ESTALE,
)  # fmt: skip


def home() -> Path:
    """Return where a user's own checkpoints live: HAROPE_BENCH_HOME, or ~/.harope-bench.

    Raises:
        StorageError: Neither names a folder: there is no such user, or the system knows no home of
            this one.
    """
    try:
        return Path(
            os.environ.get("HAROPE_BENCH_HOME") or Path.home() / ".harope-bench"
        ).expanduser()
    except RuntimeError as error:
        raise StorageError(
            "no home folder of the user is known; set HAROPE_BENCH_HOME to a folder that you may"
            " write"
        ) from error


@contextmanager
def convert_os_errors(path: Path, missing_ok: bool = False) -> Iterator[None]:
    """Turns a refusal of the disk into one line that names the place; with `missing_ok` a file that
    is not there stays FileNotFoundError.

    Raises:
        DiskError: no space, no permission, read-only, or a file where a folder should be.
    """
    try:
        yield
    except OSError as error:
        if missing_ok and isinstance(error, FileNotFoundError):
            raise
        advice = {
            errno.ENOSPC: "free some space or choose another --out; the finished work is kept",
            errno.EDQUOT: "free some space or choose another --out; the finished work is kept",
            errno.EACCES: "choose a folder you may write",
            errno.EPERM: "choose a folder you may write",
            errno.EROFS: "choose a folder you may write",
        }.get(error.errno or 0, "choose another place")
        kind = DiskError if error.errno in DISK_ERRNOS else StorageError
        raise kind(f"cannot use {path}: {error.strerror or error}; {advice}") from error


def make_folder(path: Path) -> Path:
    """The folder, made with its parents if it was not there."""
    with convert_os_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def write_atomically(path: Path, sync: bool = True, replace: bool = True) -> Iterator[BinaryIO]:
    """A binary file that appears at `path` whole or not at all, even when the process is killed;
    parts that a kill left are removed.

    `sync` waits for the disk itself, which only a power cut asks for. Without `replace` a file that
    stands there stays.

    Raises:
        StorageError: the disk refuses; without `replace` also: a file with other bytes stands
            there.
    """
    make_folder(path.parent)
    part_files.remove_stale_parts_beside(path)
    with convert_os_errors(path):
        check_replaceable(path)
        part = part_files.create_part(path)
        try:
            with os.fdopen(part.handle, "wb") as file:
                yield file
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            if replace or not _link_new_file(part.path, path):
                os.replace(part.path, path)
        except BaseException:
            part.path.unlink(missing_ok=True)
            raise
        finally:
            os.close(part.lock_handle)


def _link_new_file(part: Path, path: Path) -> bool:
    """Give a part its name unless a file has it; False where neither is so and this file system has
    no second names.

    Raises:
        StorageError: A file with other bytes has the name.
    """
    try:
        os.link(part, path)
    except FileExistsError:
        if not filecmp.cmp(part, path, shallow=False):
            raise StorageError(
                f"{path} exists and holds something else; give --replace, or choose another place"
            ) from None
    except OSError:
        if path.exists():
            raise StorageError(f"{path} exists; give --replace, or choose another place") from None
        return False
    part.unlink()
    return True


def check_output_path(path: Path, *inputs: Path) -> None:
    """Raise StorageError where something other than a file stands at `path`, or where it is one of
    the inputs.
    """
    with convert_os_errors(path):
        if path.exists() and not path.is_file():
            raise StorageError(f"{path} is not a file; choose another place")
        if any(path.exists() and source.exists() and path.samefile(source) for source in inputs):
            raise StorageError(f"{path} is what is read; choose another place")


def check_overwrite(path: Path, signature: str, title: str) -> None:
    """Raise StorageError where a file stands at `path` that does not hold `mark`, text of every
    `what` that this program writes.
    """
    check_output_path(path)
    with (
        suppress(FileNotFoundError),
        convert_os_errors(path, missing_ok=True),
        open_regular(path) as file,
    ):
        if signature.encode() not in file.read(MIB):
            raise StorageError(
                f"{path} is no {title} and would be lost; choose another place, or remove it"
            )


def write_bytes(path: Path, data: bytes) -> None:
    """Atomic write of bytes."""
    with write_atomically(path) as file:
        file.write(data)


def copy_file(source: Path, target: Path) -> None:
    """Writes the bytes of a file at another place, whole or not at all."""
    with convert_os_errors(source), open_regular(source) as found, write_atomically(target) as file:
        shutil.copyfileobj(found, file)


def write_text(path: Path, text: str) -> None:
    """Atomic write of UTF-8 text; StorageError where it holds half a character, as the name of a
    file that is not UTF-8 does.
    """
    write_bytes(path, encode_utf8(path, text))


def encode_utf8(path: Path, text: str) -> bytes:
    """Return text as bytes for the file at `path`; StorageError where it holds half a character (a
    lone surrogate).
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        shown = ascii(text[max(0, error.start - 20) : error.end])
        raise StorageError(
            f"{ascii(str(path))[1:-1]} would hold {shown}, which is no Unicode text; rename what is"
            " called so"
        ) from error


def read_if_present(path: Path, limit: int = JSON_BYTES) -> bytes | None:
    """Return a file's bytes, None where there is no file; one that another process removes
    meanwhile is no error.

    Raises:
        StorageError: The disk refuses, or it is no regular file or has more than `limit` bytes.
    """
    with convert_os_errors(path):
        try:
            return read_regular(path, limit)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None


def file_stamp(path: Path) -> tuple[int, int] | None:
    """Return when a file was last written (ns) and its size (bytes), None where there is no
    file.
    """
    with convert_os_errors(path):
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
    return (status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None


def sha256_bytes(data: bytes) -> str:
    """Hex sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path, missing_ok: bool = False) -> str:
    """Return the hex sha256 of a file, read in pieces; errors as `disk`."""
    with convert_os_errors(path, missing_ok), open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob_id(path: Path) -> str:
    """Hex sha1 under which git keeps a file's bytes: of `blob`, the length and the bytes; read in
    pieces.
    """
    with convert_os_errors(path), open_regular(path) as file:
        found = hashlib.sha1(
            f"blob {os.fstat(file.fileno()).st_size}\0".encode(), usedforsecurity=False
        )
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind where the message is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]
