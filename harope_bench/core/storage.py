"""Files as bytes: atomic writes, reads, hashes, and errors of the system as one line."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from harope_bench.core import part_files
from harope_bench.core.errors import DiskError, StorageError
from harope_bench.core.regular_file import (
    JSON_BYTES,
    MIB,
    check_regular_or_missing,
    open_regular,
    read_regular,
)

# Error numbers that say nothing about the content of a file.
DISK_ERRNOS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EMFILE, errno.ENFILE, errno.ESTALE),
)
# What to do about an error number, in the message.
ERRNO_ADVICE = {
    errno.ENOSPC: "free some space or choose another --out; the finished work is kept",
    errno.EDQUOT: "free some space or choose another --out; the finished work is kept",
    errno.EACCES: "choose a folder you may write",
    errno.EPERM: "choose a folder you may write",
    errno.EROFS: "choose a folder you may write",
}


def home() -> Path:
    """Return the folder of the user's own files: HAROPE_BENCH_HOME, or ~/.harope-bench.

    Raises:
        StorageError: The variable is not set and the user has no home folder.
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
def convert_os_errors(path: Path, keeps_file_not_found: bool = False) -> Iterator[None]:
    """Convert an OSError in the block into a StorageError that names the path.

    Args:
        keeps_file_not_found: Raise FileNotFoundError unchanged, for callers that handle it.

    Raises:
        DiskError: The error is one of DISK_ERRNOS: no space, no permission, a read-only disk, or a
            file where a folder is needed.
        StorageError: Any other OSError.
    """
    try:
        yield
    except OSError as error:
        if keeps_file_not_found and isinstance(error, FileNotFoundError):
            raise
        is_missing = isinstance(error, FileNotFoundError)
        default_advice = "check the path" if is_missing else "choose another place"
        advice = ERRNO_ADVICE.get(error.errno or 0, default_advice)
        error_type = DiskError if error.errno in DISK_ERRNOS else StorageError
        raise error_type(f"cannot use {path}: {error.strerror or error}; {advice}") from error


def make_folder(path: Path) -> Path:
    """Create a folder and its parents unless they exist; return its path."""
    with convert_os_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def write_atomically(path: Path, sync: bool = True, replace: bool = True) -> Iterator[BinaryIO]:
    """Yield a binary file that appears at `path` complete or not at all.

    The bytes go to a temporary file ("part") beside `path`, which is renamed at the end. Parts that
    a killed process left in the folder are removed.

    Args:
        sync: Wait until the bytes are on the disk, so that they survive a power failure.
        replace: Replace an existing file.

    Raises:
        StorageError: The file cannot be written. Without `replace` also: a file with other bytes
            exists.
    """
    make_folder(path.parent)
    part_files.remove_stale_parts_beside(path)
    with convert_os_errors(path):
        check_regular_or_missing(path)
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
    """Move a part to `path` unless a file exists there; return whether that is done.

    A file with equal bytes counts as done. A file system without hard links returns False.

    Raises:
        StorageError: A file with other bytes exists.
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
    """Raise StorageError if `path` exists and is not a file, or if it is one of the input files."""
    with convert_os_errors(path):
        if path.exists() and not path.is_file():
            raise StorageError(f"{path} is not a file; choose another place")
        if any(path.exists() and source.exists() and path.samefile(source) for source in inputs):
            raise StorageError(f"{path} is also an input file; choose another place")


def check_overwrite(path: Path, signature: str, title: str) -> None:
    """Raise StorageError if the file at `path` was not written by this program.

    Args:
        signature: Text that every such file contains within its first MiB.
        title: What such a file is called in the message.
    """
    check_output_path(path)
    with (
        suppress(FileNotFoundError),
        convert_os_errors(path, keeps_file_not_found=True),
        open_regular(path) as file,
    ):
        if signature.encode() not in file.read(MIB):
            raise StorageError(
                f"{path} is no {title} and would be lost; choose another place, or remove it"
            )


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes to a file atomically."""
    with write_atomically(path) as file:
        file.write(data)


def copy_file(source: Path, target: Path) -> None:
    """Copy the bytes of a regular file to `target` atomically.

    Args:
        source: The file to copy.
        target: The new file, which may replace an existing one.
    """
    with (
        convert_os_errors(source),
        open_regular(source) as source_file,
        write_atomically(target) as target_file,
    ):
        shutil.copyfileobj(source_file, target_file)


def write_text(path: Path, text: str) -> None:
    """Write text to a file atomically, as UTF-8.

    Raises:
        StorageError: The file cannot be written, or the text contains a lone surrogate, as the name
            of a file does that is not UTF-8.
    """
    write_bytes(path, encode_utf8(path, text))


def encode_utf8(path: Path, text: str) -> bytes:
    """Return the UTF-8 bytes of a text that will be written to `path`.

    Raises:
        StorageError: The text contains a lone surrogate. The message names the path.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        excerpt = ascii(text[max(0, error.start - 20) : error.end])
        raise StorageError(
            f"{ascii(str(path))[1:-1]} would contain {excerpt}, which is not Unicode text; rename"
            " the file or label with that name"
        ) from error


def read_if_present(path: Path, limit: int = JSON_BYTES) -> bytes | None:
    """Return the bytes of a file; None if there is no file.

    Raises:
        StorageError: The file cannot be read, is not a regular file or has more than `limit` bytes.
    """
    with convert_os_errors(path):
        try:
            return read_regular(path, limit)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None


def file_stamp(path: Path) -> tuple[int, int] | None:
    """Return the modification time (ns) and the size (bytes) of a file; None if there is none."""
    with convert_os_errors(path):
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the name
            return None
    return (status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None


def sha256_bytes(data: bytes) -> str:
    """Return the hex sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path, keeps_file_not_found: bool = False) -> str:
    """Return the hex sha256 of a file, read in blocks.

    Raises:
        FileNotFoundError: With `keeps_file_not_found`, the file does not exist.
        StorageError: The file cannot be read or is not a regular file.
    """
    with convert_os_errors(path, keeps_file_not_found), open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


SETTLED_SECONDS = 2.0  # age of a file's last change from which its hash is kept
# Hash of each file that `sha256_file_once` read, with the state of the file at that time.
_hashes: dict[Path, tuple[tuple[int, ...], str]] = {}


def sha256_file_once(path: Path) -> str:
    """Return `sha256_file`, computed once in this process unless the file changes.

    It is for weights of many gigabytes, which are checked before work begins and when they are
    loaded. A file counts as changed if its inode, size, or time of modification or of status
    change differs.
    """
    with convert_os_errors(path):
        status = path.stat()
    state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    cached_state, cached_sha256 = _hashes.get(path, ((), ""))
    if cached_state == state:
        return cached_sha256
    sha256 = sha256_file(path)
    # The clock of a file system is coarse: a file that just changed could change unseen.
    if time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_SECONDS:
        _hashes[path] = (state, sha256)
    return sha256


def git_blob_id(path: Path) -> str:
    """Return git's id of a file: the hex sha1 of "blob ", the size, a NUL byte and the content."""
    with convert_os_errors(path), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def first_line(error: Exception) -> str:
    """Return the first line of an error's message; its class name if the message is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]
