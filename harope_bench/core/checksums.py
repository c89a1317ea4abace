"""SHA256SUMS: the hashes of a folder's files in the form of `sha256sum`, so that a file and what
vouches for it are two files.

Whoever writes a file that is read back later records it here; whoever reads it back asks `intact`.
Anybody can check a folder:
`cd FOLDER && sha256sum -c SHA256SUMS`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from filelock import FileLock

from harope_bench.core.errors import AlteredFileError, FileTooLargeError, StorageError
from harope_bench.core.regular_file import LINES_BYTES
from harope_bench.core.storage import (
    convert_os_errors,
    file_stamp,
    make_folder,
    read_if_present,
    sha256_file,
    write_text,
)

CHECKSUMS_FILE = "SHA256SUMS"
LINE_PATTERN = re.compile(r"([0-9a-f]{64})  ([^/\\\x00-\x1f\x7f]+)")
FileState = Literal["same", "altered", "missing", "unlisted"]


def read_checksums(folder: Path) -> dict[str, str]:
    """Return the recorded hash of each file of a folder, by name; empty where the folder has no
    SHA256SUMS.

    Raises:
        StorageError: A line is not `sha256sum`'s, or a name stands twice.
    """
    path = folder / CHECKSUMS_FILE
    data = read_if_present(path)
    if data is None:
        return {}
    sums: dict[str, str] = {}
    lines = data.decode("utf-8", "replace").removesuffix("\n").split("\n") if data else []
    for number, line in enumerate(lines, 1):
        match = LINE_PATTERN.fullmatch(line)
        if match is None or match[2] in sums:
            raise StorageError(
                f"{path} line {number} is no line of sha256sum; delete the file and run again"
            )
        sums[match[2]] = match[1]
    return sums


def record_hashes(folder: Path, hashes: Mapping[str, str]) -> None:
    """Record the hash of files that stand in the folder or will be written next; other lines
    stay.
    """
    _update_checksums(folder, lambda sums: {**sums, **hashes})


def record_file_hashes(folder: Path, names: Iterable[str]) -> None:
    """Record files as they are now; the line of a file that is gone is dropped.

    They are hashed under the lock: of two processes that write one file, the last to write it is
    the last to record it.
    """
    names = list(names)

    def changed(sums: Mapping[str, str]) -> dict[str, str]:
        present = {name: sha256_file(folder / name) for name in names if (folder / name).is_file()}
        return {**{name: sha256 for name, sha256 in sums.items() if name not in names}, **present}

    _update_checksums(folder, changed)


def drop_hashes(folder: Path, names: Iterable[str]) -> None:
    """Drop the lines of files that are about to change piece by piece."""
    gone = set(names)
    if has_checksums(folder):
        _update_checksums(
            folder, lambda sums: {name: sha256 for name, sha256 in sums.items() if name not in gone}
        )


def has_checksums(folder: Path) -> bool:
    """Return whether something is called SHA256SUMS in the folder; folders of versions before it
    have none.
    """
    return os.path.lexists(folder / CHECKSUMS_FILE)


def file_state(folder: Path, name: str) -> FileState:
    """Return whether a file is the recorded one; StorageError where the records cannot be read."""
    sums = read_checksums(folder)
    if not (folder / name).is_file():
        return "missing"
    if name not in sums:
        return "unlisted"
    try:
        sha256 = sha256_file(folder / name, missing_ok=True)
    except FileNotFoundError:  # another process has removed it since
        return "missing"
    return "same" if sha256 == sums[name] else "altered"


def is_intact(folder: Path, name: str) -> bool:
    """Return whether a file may be read back: it is the recorded one, or the folder is of a version
    before records.
    """
    if not has_checksums(folder):
        return True
    try:
        return file_state(folder, name) == "same"
    except StorageError:
        return False


def check_recorded_hash(path: Path, advice: str, limit: int = LINES_BYTES) -> None:
    """Refuse a file that is not the recorded one, before its content is believed.

    A file that no SHA256SUMS names passes: results of other tools and of versions before have none,
    and `verify` tells of them.

    Args:
        advice: What to do about it, the end of the error's sentence.
        limit: The most bytes that any reader of such a file takes.

    Raises:
        AlteredFileError: Its sha256 is not the one in SHA256SUMS beside it.
        FileTooLargeError: It has more than `limit` bytes, and hashing them might take hours.
        StorageError: The records cannot be read.
    """
    if not has_checksums(path.parent):
        return
    _check_size(path, limit)
    if file_state(path.parent, path.name) != "altered":
        return
    # Whoever writes it may be between the file and its hash, and has the lock for so long.
    with suppress(OSError), lock_folder(path.parent):
        if file_state(path.parent, path.name) != "altered":
            return
    raise AlteredFileError(
        f"{path} was altered: its sha256 is not the one in {CHECKSUMS_FILE} beside it; {advice}"
    )


def _check_size(path: Path, limit: int) -> None:
    stamp = file_stamp(path)
    if stamp is not None and stamp[1] > limit:
        raise FileTooLargeError(
            f"{path} has {stamp[1]:,} bytes, at most {limit:,} are read; check that it is the right"
            " file"
        )


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the lock under which a folder's files and their hashes change; the same thread may take
    it again.
    """
    with FileLock(folder / f".{CHECKSUMS_FILE}.lock", is_singleton=True):
        yield


def _update_checksums(folder: Path, changed: Callable[[Mapping[str, str]], dict[str, str]]) -> None:
    """Write what a function makes of the recorded hashes, while no other process changes them."""
    make_folder(folder)
    with convert_os_errors(folder / CHECKSUMS_FILE), lock_folder(folder):
        try:
            before = read_checksums(folder)
        except StorageError:
            before = {}  # damaged records vouch for nothing; what they lack is made again
        sums = changed(before)
        if sums == before and has_checksums(folder):
            return
        write_text(
            folder / CHECKSUMS_FILE, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
        )
