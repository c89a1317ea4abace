"""Half-written files: how they are named and locked, and the removal of those that a killed process
left.

A part is called `.NAME.KERNEL-TOKEN.part`. Its writer holds a lock on it until it is renamed, and
the system lets go of the lock
when the writer dies. So a process of the same kernel can tell at once whether a part is abandoned;
of other machines' parts on a
shared disk, whose locks may not be seen, the age decides.
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
except ImportError:  # pragma: no cover - no such locks on Windows: the age decides there
    fcntl = None  # type: ignore[assignment]

PART_PATTERN = re.compile(r"\..*\.([0-9a-f]{8})-[0-9a-f]{8}\.part", re.DOTALL)
LEGACY_PART_PATTERN = re.compile(
    r"\.(.*)\.[a-z0-9_]{8}\.part", re.DOTALL
)  # as earlier versions called theirs
STALE_SECONDS = 3600  # seconds after which a part is abandoned where no lock can tell
# bytes of a name; with its marks the part's name stays below the 255 of common file systems
NAME_BYTES = 220
BOOT_ID_PATH = Path("/proc/sys/kernel/random/boot_id")
_writes_until_removal: dict[Path, int] = {}  # writes into a folder until it is looked through again


class PartFile(NamedTuple):
    """A new part that is locked: its place, the handle to write to, and a second handle that holds
    the lock until it is closed.
    """

    path: Path
    handle: int
    lock_handle: int


@lru_cache(maxsize=1)
def boot_token() -> str:
    """Return 8 hex digits of this boot of this machine; processes with the same digits see each
    other's locks.
    """
    try:
        text = BOOT_ID_PATH.read_text()
    except OSError:
        text = platform.node()
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def create_part(path: Path) -> PartFile:
    """Return a new part beside `path`, with the permissions that the user's umask leaves; OSError
    where the disk refuses.
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
        os.close(handle)  # another process took it for abandoned between the two calls


def remove_stale_parts(folder: Path, name: str | None = None) -> int:
    """Remove the abandoned parts of a folder; what another process removes or renames meanwhile is
    no error.

    Args:
        name: Of parts that earlier versions left, those of this target alone; None for all that end
            in .part.

    Returns:
        How many entries the folder has.
    """
    count = 0
    with suppress(OSError), os.scandir(folder) as entries:  # a folder that is gone has no parts
        for entry in entries:
            count += 1
            if entry.name.startswith(".") and entry.name.endswith(".part"):
                _remove_if_stale(Path(entry.path), name)
    return count


def remove_stale_parts_beside(path: Path) -> None:
    """Sweep the folder of a file that will be written, seldom enough that many files in one folder
    cost no more than few.
    """
    due = _writes_until_removal.get(path.parent, 0)
    _writes_until_removal[path.parent] = (
        due - 1 if due > 0 else remove_stale_parts(path.parent, path.name) // 100
    )


def _remove_if_stale(part: Path, name: str | None) -> None:
    tagged = PART_PATTERN.fullmatch(part.name)
    plain = LEGACY_PART_PATTERN.fullmatch(part.name)
    with suppress(OSError):  # gone meanwhile, or not ours to remove
        if tagged is not None and tagged[1] == boot_token() and fcntl is not None:
            _remove_unlocked(part)
        elif (
            tagged is not None or name is None or (plain is not None and plain[1] == name)
        ) and _age(part) > STALE_SECONDS:
            part.unlink()


def _remove_unlocked(part: Path) -> None:
    handle = os.open(part, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        locked = _try_lock(handle)
        if locked or (locked is None and _age(part) > STALE_SECONDS):
            # before the lock is let go, so that its writer, if it was about to take it, notices
            part.unlink()
    finally:
        os.close(handle)


def lock_handle_exclusively(handle: int) -> None:
    """Wait for the lock of an open file, which goes with the handle; no lock where the file system
    has none.
    """
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)


def _age(part: Path) -> float:
    """Return the seconds since something was last written to a part."""
    return time.time() - part.lstat().st_mtime


def _try_lock(handle: int) -> bool | None:
    """Take the lock of an open file; False where another process holds it, None where this file
    system has none.
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
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False
