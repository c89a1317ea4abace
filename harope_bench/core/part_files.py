"""Parts: temporary files that are renamed once they are complete, and the removal of stale parts.

A part is called `.NAME.BOOT-RANDOM.part`, where BOOT identifies one boot of one machine. The writer
holds a lock on the part until it is renamed. The system releases the lock when the writer dies, so
a process of the same boot can see that a part is stale. Locks of other machines on a shared disk
may be invisible, so a part of another machine is stale after STALE_SECONDS.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no such locks; the age of a part decides
    fcntl = None  # type: ignore[assignment]

PART_PATTERN = re.compile(r"\..*\.([0-9a-f]{8})-[0-9a-f]{8}\.part", re.DOTALL)
LEGACY_PART_PATTERN = re.compile(r"\.(.*)\.[a-z0-9_]{8}\.part", re.DOTALL)  # of early versions
STALE_SECONDS = 3600  # age of a stale part if no lock can tell
# Bytes of NAME that a part's name contains. The complete name has less than 255 bytes, which is the
# maximum of common file systems.
NAME_BYTES = 220
BOOT_ID_PATH = Path("/proc/sys/kernel/random/boot_id")
# By folder: the number of writes until the folder is searched for stale parts again.
_writes_until_removal: dict[Path, int] = {}


class PartFile(NamedTuple):
    """A new locked part.

    Attributes:
        handle: Descriptor to write to.
        lock_handle: Second descriptor, which holds the lock until it is closed.
    """

    path: Path
    handle: int
    lock_handle: int


@lru_cache(maxsize=1)
def boot_token() -> str:
    """Return 8 hex digits that identify the current boot of this machine.

    Processes with the same digits see each other's locks.
    """
    try:
        boot_id = BOOT_ID_PATH.read_text()
    except OSError:
        boot_id = platform.node()
    return hashlib.sha256(boot_id.encode()).hexdigest()[:8]


def create_part(path: Path) -> PartFile:
    """Create a locked part beside `path`, with the permissions of the user's umask.

    Raises:
        OSError: The file cannot be created.
    """
    name = path.name.encode()[:NAME_BYTES].decode(errors="ignore")
    while True:
        part = path.with_name(f".{name}.{boot_token()}-{secrets.token_hex(4)}.part")
        try:
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
        if _try_lock(handle) is not False and _is_same_file(handle, part):
            return PartFile(part, handle, os.dup(handle))
        os.close(handle)  # another process removed the part before it was locked


def remove_stale_parts(folder: Path, name: str | None = None) -> int:
    """Remove the stale parts of a folder.

    Parts that another process removes or renames meanwhile, and a missing folder, are no error.

    Args:
        name: Name of the final file. Parts of early versions are removed only if they are of this
            file. None removes all that end in .part.

    Returns:
        The number of entries in the folder.
    """
    n_entries = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            n_entries += 1
            if entry.name.startswith(".") and entry.name.endswith(".part"):
                _remove_if_stale(Path(entry.path), name)
    return n_entries


def remove_stale_parts_beside(path: Path) -> None:
    """Remove the stale parts in the folder of a file that will be written.

    After a search of n entries the next n / 100 writes into the folder skip it, so that writing
    many files into one folder does not become slow.
    """
    n_skipped_writes = _writes_until_removal.get(path.parent, 0)
    if n_skipped_writes > 0:
        _writes_until_removal[path.parent] = n_skipped_writes - 1
    else:
        n_entries = remove_stale_parts(path.parent, path.name)
        _writes_until_removal[path.parent] = n_entries // 100


def _remove_if_stale(part: Path, name: str | None) -> None:
    """Remove a part if no process writes to it. `name`: see `remove_stale_parts`."""
    match = PART_PATTERN.fullmatch(part.name)
    legacy_match = LEGACY_PART_PATTERN.fullmatch(part.name)
    with suppress(OSError):  # it was removed meanwhile, or the user may not remove it
        if match is not None and match[1] == boot_token() and fcntl is not None:
            _remove_unlocked(part)
            return
        is_legacy_part = legacy_match is not None and legacy_match[1] == name
        is_candidate = match is not None or name is None or is_legacy_part
        if is_candidate and _age(part) > STALE_SECONDS:
            part.unlink()


def _remove_unlocked(part: Path) -> None:
    """Remove a part of this boot if its writer holds no lock any more."""
    handle = os.open(part, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        is_unlocked = _try_lock(handle)
        if is_unlocked or (is_unlocked is None and _age(part) > STALE_SECONDS):
            # Remove it while the lock is held: a writer that is about to lock it then notices.
            part.unlink()
    finally:
        os.close(handle)


def lock_handle_exclusively(handle: int) -> None:
    """Wait for the lock of an open file and hold it until the handle is closed.

    A file system without locks is ignored.
    """
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)


def _age(part: Path) -> float:
    """Return the seconds since something was last written to a part."""
    return time.time() - part.lstat().st_mtime


def _try_lock(handle: int) -> bool | None:
    """Lock an open file without waiting; return whether it is locked now.

    False means that another process holds the lock, None that the file system has no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_same_file(handle: int, path: Path) -> bool:
    """Return whether the open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False
