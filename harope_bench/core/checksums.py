"""SHA256SUMS: the hashes of a folder's files, in the format of `sha256sum`.

A writer of a file records its hash here (`record_file_hashes`). A reader checks it first
(`is_intact`, `check_recorded_hash`). A user can check a folder with
`cd FOLDER && sha256sum -c SHA256SUMS`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
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
    """Return the recorded hash of each file in a folder, by name; empty without a SHA256SUMS.

    Raises:
        StorageError: A line does not have the format of `sha256sum`, or a name occurs twice.
    """
    path = folder / CHECKSUMS_FILE
    data = read_if_present(path)
    if data is None:
        return {}
    hashes: dict[str, str] = {}
    lines = data.decode("utf-8", "replace").removesuffix("\n").split("\n") if data else []
    for number, line in enumerate(lines, 1):
        match = LINE_PATTERN.fullmatch(line)
        if match is None or match[2] in hashes:
            raise StorageError(
                f"{path} line {number} is no line of sha256sum; delete the file and run again"
            )
        hashes[match[2]] = match[1]
    return hashes


def record_hashes(folder: Path, new_hashes: Mapping[str, str]) -> None:
    """Record the hashes of files that are in the folder or will be written next."""
    _update_checksums(folder, lambda hashes: {**hashes, **new_hashes})


def record_file_hashes(folder: Path, names: Iterable[str]) -> None:
    """Record the current hashes of files; drop the line of a file that does not exist.

    The files are hashed under the lock. If two processes write one file, the recorded hash is
    therefore that of the last write.
    """
    names = list(names)

    def update_files(hashes: Mapping[str, str]) -> dict[str, str]:
        existing_names = [name for name in names if (folder / name).is_file()]
        new_hashes = {name: sha256_file(folder / name) for name in existing_names}
        return {**_without_names(hashes, names), **new_hashes}

    _update_checksums(folder, update_files)


def drop_hashes(folder: Path, names: Iterable[str]) -> None:
    """Drop the hashes of files that are about to change step by step.

    Args:
        names: Names of the files in the folder.
    """
    changing_names = set(names)
    if has_checksums(folder):
        _update_checksums(folder, lambda hashes: _without_names(hashes, changing_names))


def _without_names(hashes: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    return {name: sha256 for name, sha256 in hashes.items() if name not in names}


def has_checksums(folder: Path) -> bool:
    """Return whether the folder has a SHA256SUMS. Folders of early versions have none."""
    return os.path.lexists(folder / CHECKSUMS_FILE)


def file_state(folder: Path, name: str) -> FileState:
    """Return whether a file has its recorded hash.

    Raises:
        StorageError: SHA256SUMS or the file cannot be read.
    """
    hashes = read_checksums(folder)
    if not (folder / name).is_file():
        return "missing"
    if name not in hashes:
        return "unlisted"
    try:
        sha256 = sha256_file(folder / name, keeps_file_not_found=True)
    except FileNotFoundError:  # another process removed it meanwhile
        return "missing"
    return "same" if sha256 == hashes[name] else "altered"


def is_intact(folder: Path, name: str) -> bool:
    """Return whether a file has its recorded hash; always true in a folder without SHA256SUMS."""
    if not has_checksums(folder):
        return True
    try:
        return file_state(folder, name) == "same"
    except StorageError:
        return False


def check_recorded_hash(path: Path, advice: str, limit: int = LINES_BYTES) -> None:
    """Raise AlteredFileError if a file does not have its recorded hash.

    A file without a recorded hash passes, because files of other tools and of early versions have
    none. `verify` reports them.

    Args:
        advice: What to do about an altered file; the end of the message.
        limit: Maximum size in bytes, so that a huge file is not hashed for hours.

    Raises:
        AlteredFileError: The sha256 differs from the one in SHA256SUMS beside the file.
        FileTooLargeError: The file has more than `limit` bytes.
        StorageError: SHA256SUMS or the file cannot be read.
    """
    if not has_checksums(path.parent):
        return
    _check_size(path, limit)
    if file_state(path.parent, path.name) != "altered":
        return
    # Another process may have written the file and not yet its hash. It holds the lock meanwhile.
    with suppress(OSError), lock_folder(path.parent):
        if file_state(path.parent, path.name) != "altered":
            return
    raise AlteredFileError(
        f"{path} was altered: its sha256 is not the one in {CHECKSUMS_FILE} beside it; {advice}"
    )


def _check_size(path: Path, limit: int) -> None:
    stamp = file_stamp(path)  # (modification time, size)
    if stamp is not None and stamp[1] > limit:
        raise FileTooLargeError(
            f"{path} has {stamp[1]:,} bytes, at most {limit:,} are read; check that it is the right"
            " file"
        )


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the lock under which files of a folder and their hashes change. It is reentrant."""
    with FileLock(folder / f".{CHECKSUMS_FILE}.lock", is_singleton=True):
        yield


def _update_checksums(folder: Path, update: Callable[[Mapping[str, str]], dict[str, str]]) -> None:
    """Replace the recorded hashes by `update(hashes)` while no other process can change them."""
    make_folder(folder)
    with convert_os_errors(folder / CHECKSUMS_FILE), lock_folder(folder):
        try:
            old_hashes = read_checksums(folder)
        except StorageError:
            old_hashes = {}  # a damaged SHA256SUMS is rebuilt; files without a hash are made again
        new_hashes = update(old_hashes)
        if new_hashes == old_hashes and has_checksums(folder):
            return
        lines = (f"{new_hashes[name]}  {name}\n" for name in sorted(new_hashes))
        write_text(folder / CHECKSUMS_FILE, "".join(lines))
