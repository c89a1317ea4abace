"""Claims: which process writes a run folder, so that no second one does the same work.

A process claims a whole folder, or one part of it. Parts have folders of their own below `parts`
and share no file, so parts of different samples may be written at the same time, on any machine.
Everything else excludes each other.

On one machine the claim is a lock that its process holds. Locks are not visible between machines
everywhere, so a claim also writes a small file with host, process and time, and touches it every
SECONDS_BETWEEN_SIGNS. A claim of another machine without a sign for SILENT_SECONDS has ended.
"""

from __future__ import annotations

import os
import platform
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import Field

from harope_bench.core.errors import RunBusyError, StorageError
from harope_bench.core.index_ranges import IndexRanges, parse_ranges
from harope_bench.core.json_file import parse_json
from harope_bench.core.part_files import boot_token, remove_stale_parts
from harope_bench.core.record_base import Record, shorten_text
from harope_bench.core.storage import read_if_present, write_text

LOCK_FILE = ".writer.lock"
CLAIMS_LOCK_FILE = ".claims.lock"  # held while claims are looked at, so that one process does so
WRITER_FILE = ".writer.json"
PARTS_FOLDER = "parts"
SECONDS_BETWEEN_SIGNS = 20.0
SILENT_SECONDS = 180.0
LOCK_SECONDS = 0.5  # until a lock that is held belongs to another claim
CLAIMS_SECONDS = 60.0  # that other processes may look at the claims before this one

# Claims of this process: the thread that holds each claimed folder, by its path without links.
_claim_threads: dict[str, int] = {}


@dataclass(frozen=True)
class RunPart:
    """A part of a run that one process writes into a folder of its own.

    Attributes:
        name: Name of the folder below `parts`.
        indices: Samples of the part.
        requested_indices: Samples that are requested of all parts together.
    """

    name: str
    indices: IndexRanges
    requested_indices: IndexRanges

    def folder(self, run_folder: Path) -> Path:
        """Return the folder of the part."""
        return run_folder / PARTS_FOLDER / self.name


class Writer(Record):
    """The process that holds a claim.

    Attributes:
        host: Name of its machine.
        process: Its number there.
        start_time: When the claim began, ISO 8601.
        boot: Identifies a boot of the machine; processes of one boot see each other's locks.
        indices: Samples of its part; None for a claim of the whole folder.
    """

    host: str = Field(max_length=255)
    process: int
    start_time: str = Field(max_length=40)
    boot: str = Field(max_length=100)
    indices: str | None = None

    def overlaps(self, part: RunPart | None) -> bool:
        """Return whether a claim of this part, or of the whole folder, concerns its samples."""
        if part is None or self.indices is None:
            return True
        if not self.indices:
            return False  # a part without samples
        try:
            own_indices = parse_ranges(self.indices)
        except ValueError:
            return True
        return len(own_indices.difference(part.indices)) < len(own_indices)


@contextmanager
def claim_run(folder: Path, part: RunPart | None = None) -> Iterator[None]:
    """Hold a claim of a run folder, or of a part of it, while the block runs.

    A claim within a claim of the same thread is free. A folder that the block leaves empty is
    removed again. A folder that cannot be written is not claimed; writing it raises its own error.

    Raises:
        RunBusyError: Another process, or another thread, writes the folder or these samples.
    """
    claim_folder = (folder if part is None else part.folder(folder)).absolute()
    if _claim_threads.get(_claim_key(claim_folder)) == threading.get_ident():
        yield
        return

    new_folders = _make_folders(claim_folder)
    if not os.access(claim_folder, os.W_OK):
        yield
        return
    with ExitStack() as claim:
        with _claims_lock(folder):
            lock = FileLock(claim_folder / LOCK_FILE)
            has_lock = _acquire(lock, claim_folder, folder)
            claim.callback(_release, lock, folder, claim_folder, new_folders)
            _check_other_claims(folder, claim_folder, part, has_lock)
            claim.enter_context(_signs_of_life(claim_folder, part))
        yield


@contextmanager
def _claims_lock(folder: Path, makes_folder: bool = True) -> Iterator[None]:
    """Let one process at a time look at the claims of a run, because it takes locks for that.

    Without locks of the file system there is nothing to look at.

    Args:
        makes_folder: Whether a folder that another process removed is made again.

    Raises:
        RunBusyError: Other processes took CLAIMS_SECONDS.
    """
    path = folder.absolute() / CLAIMS_LOCK_FILE
    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=CLAIMS_SECONDS, poll_interval=0.01)
        except Timeout:
            raise _busy_error(folder, folder, None) from None
        except FileNotFoundError:
            if not makes_folder:
                break
            _make_folders(folder.absolute())
        except (OSError, NotImplementedError):
            break
        if path.exists():
            break
        lock.release()  # another process removed the empty folder before it was locked
    try:
        yield
    finally:
        lock.release()


def _claim_key(claim_folder: Path) -> str:
    """Return the path of a folder without links, also of one that cannot be followed."""
    return os.path.realpath(claim_folder)


def _make_folders(claim_folder: Path) -> list[Path]:
    """Make a folder and its parents; return those that did not exist, the innermost first."""
    new_folders = [path for path in (claim_folder, *claim_folder.parents) if not path.exists()]
    with suppress(OSError):
        claim_folder.mkdir(parents=True, exist_ok=True)
    return new_folders


def _acquire(lock: FileLock, claim_folder: Path, folder: Path) -> bool:
    """Acquire the lock of a claimed folder; return whether the file system has locks.

    Raises:
        RunBusyError: Another process or thread holds it.
    """
    while True:
        try:
            lock.acquire(timeout=LOCK_SECONDS, poll_interval=0.05)
        except Timeout:
            raise _busy_error(folder, claim_folder, _read_writer(claim_folder)) from None
        except FileNotFoundError:  # another process removed the empty folder
            _make_folders(claim_folder)
            continue
        except (OSError, NotImplementedError):
            has_lock = False
            break
        if (claim_folder / LOCK_FILE).exists():
            has_lock = True
            break
        lock.release()  # another process removed the empty folder before it was locked
        _make_folders(claim_folder)
    _claim_threads[_claim_key(claim_folder)] = threading.get_ident()
    return has_lock


def _check_other_claims(
    folder: Path, claim_folder: Path, part: RunPart | None, has_lock: bool
) -> None:
    """Raise RunBusyError if another claim of the folder concerns the same samples.

    Args:
        has_lock: Whether this claim holds the lock of its folder.
    """
    writer = _remote_writer(claim_folder) if has_lock else _writer_without_lock(claim_folder)
    if writer is not None:
        raise _busy_error(folder, claim_folder, writer)
    if part is not None:
        with suppress(OSError):
            (folder / LOCK_FILE).touch()  # runs with and without parts end with equal files
    other_folders = [*part_folders(folder), *([] if part is None else [folder])]
    for other_folder in other_folders:
        if other_folder.absolute() == claim_folder:
            continue
        writer = _live_writer(other_folder)
        if writer is not None and writer.overlaps(part):
            raise _busy_error(folder, other_folder, writer)


def part_folders(folder: Path) -> list[Path]:
    """Return the folders of the parts of a run, in order of their names.

    A link is no part: its files belong to another folder, and parts are removed when their work is
    in the run.
    """
    parts_folder = folder / PARTS_FOLDER
    if parts_folder.is_symlink():
        return []
    paths = sorted(parts_folder.glob("*"))
    return [path for path in paths if path.is_dir() and not path.is_symlink()]


def folders_in_parts(folder: Path, *names: str) -> list[Path]:
    """Return the existing folders below the parts of a run with these names, without links."""
    folders = []
    for path in part_folders(folder):
        for name in names:
            path /= name
            if path.is_symlink() or not path.is_dir():
                break
        else:
            folders.append(path)
    return folders


def remove_empty_parts(folder: Path) -> None:
    """Remove the folders of parts of a run that hold no work and that no process writes."""
    if not (folder / PARTS_FOLDER).is_dir():
        return
    with _claims_lock(folder):
        for claim_folder in part_folders(folder):
            lock = FileLock(claim_folder / LOCK_FILE)
            with suppress(OSError, Timeout, NotImplementedError), lock.acquire(timeout=0):
                if _remote_writer(claim_folder) is None:
                    _remove_if_empty(claim_folder)
        with suppress(OSError):
            (folder / PARTS_FOLDER).rmdir()


def has_live_part(folder: Path) -> bool:
    """Return whether a process writes a part of a run."""
    with _claims_lock(folder):
        return any(_live_writer(path) for path in part_folders(folder))


def _remove_if_empty(claim_folder: Path) -> None:
    """Remove a part's folder that holds no file but those of the claim."""
    for path in (claim_folder, *claim_folder.rglob("*/")):
        remove_stale_parts(path)  # of writes that were killed
    for path in sorted(claim_folder.rglob("*"), reverse=True):
        with suppress(OSError):  # a file, or a folder that holds one, stays
            path.rmdir()
    if {path.name for path in claim_folder.iterdir()} <= {LOCK_FILE, WRITER_FILE}:
        shutil.rmtree(claim_folder, ignore_errors=True)


def _live_writer(claim_folder: Path) -> Writer | None:
    """Return the process that claims a folder or a part's folder; None if there is none.

    The caller holds the lock of the claims, so a lock that is held belongs to a claim.
    """
    lock_path = claim_folder / LOCK_FILE
    if lock_path.exists():
        lock = FileLock(lock_path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            unknown_writer = Writer(
                host="this machine", process=0, start_time="", boot=boot_token()
            )
            return _read_writer(claim_folder) or unknown_writer
        except (OSError, NotImplementedError):
            return _writer_without_lock(claim_folder)
        lock.release()
    return _remote_writer(claim_folder)


def _writer_without_lock(claim_folder: Path) -> Writer | None:
    """Return the process that claims a folder, where the file system has no locks."""
    writer = _read_writer(claim_folder)
    if writer is None or writer.boot != boot_token():
        return _remote_writer(claim_folder)
    try:
        os.kill(writer.process, 0)
    except PermissionError:
        return writer  # of another user
    except (OSError, OverflowError):
        return None
    return writer


def _remote_writer(claim_folder: Path) -> Writer | None:
    """Return the process of another machine that claims a folder and gave a sign lately."""
    writer = _read_writer(claim_folder)
    if writer is None or writer.boot == boot_token():
        return None
    try:
        # Both times come from the file system, because the clocks of machines differ.
        (claim_folder / LOCK_FILE).touch()
        current_time = (claim_folder / LOCK_FILE).stat().st_mtime
        seconds = current_time - (claim_folder / WRITER_FILE).stat().st_mtime
    except OSError:
        return None
    # A time in the future comes from a copy, or from a clock that was set back.
    return writer if abs(seconds) < SILENT_SECONDS else None


def _read_writer(claim_folder: Path) -> Writer | None:
    """Return the process in the writer file of a claimed folder; None without a readable one."""
    try:
        return Writer.model_validate(parse_json(read_if_present(claim_folder / WRITER_FILE) or b""))
    except (StorageError, ValueError):
        return None


def _busy_error(folder: Path, claim_folder: Path, writer: Writer | None) -> RunBusyError:
    writer_text = "another process"
    advice = "wait until it ends; processes that share a run need --shard 1/N, 2/N and so on"
    if writer is not None:
        host = shorten_text(writer.host, 60)
        start_time = shorten_text(writer.start_time, 40)
        writer_text = f"process {writer.process} on {host} since {start_time}"
        if writer.indices is not None:
            writer_text += f" (samples {shorten_text(writer.indices, 60)})"
        if writer.boot != boot_token():
            advice += f"; if it was killed, delete {claim_folder / WRITER_FILE}"
    return RunBusyError(f"{folder} is being written by {writer_text}; {advice}")


def _this_process(part: RunPart | None) -> Writer:
    """Return what this process writes about its claim."""
    return Writer(
        host=platform.node(),
        process=os.getpid(),
        start_time=datetime.now(UTC).isoformat(timespec="seconds"),
        boot=boot_token(),
        indices=None if part is None else str(part.indices),
    )


@contextmanager
def _signs_of_life(claim_folder: Path, part: RunPart | None) -> Iterator[None]:
    """Keep the writer file of a claimed folder, touched now and then, while the block runs."""
    writer = _this_process(part)
    path = claim_folder / WRITER_FILE
    has_ended = threading.Event()

    def touch_often() -> None:
        while not has_ended.wait(SECONDS_BETWEEN_SIGNS):
            with suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=touch_often, name="harope-bench-claim", daemon=True)
    with suppress(StorageError):
        write_text(path, writer.to_json())
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()


def _release(lock: FileLock, folder: Path, claim_folder: Path, new_folders: list[Path]) -> None:
    """Release a claim, and remove the folders that it made if they hold nothing else.

    File and lock go at one moment for others: a lock without the file belongs to no claim.
    """
    _claim_threads.pop(_claim_key(claim_folder), None)
    with ExitStack() as stack:
        stack.callback(lock.release)
        stack.enter_context(_claims_lock(folder, makes_folder=False))
        # A claim that was rejected leaves the file of the process that holds the folder.
        writer = _read_writer(claim_folder)
        if writer is not None and (writer.process, writer.boot) == (os.getpid(), boot_token()):
            with suppress(OSError):
                (claim_folder / WRITER_FILE).unlink(missing_ok=True)
        lock.release()
        _remove_lock_files(claim_folder)
        if claim_folder != folder.absolute():  # a part
            _remove_folders([claim_folder, claim_folder.parent])
            _remove_lock_files(folder)
        _remove_folders(new_folders)


def _remove_folders(folders: list[Path]) -> None:
    """Remove empty folders, the innermost first, up to one that holds something."""
    for path in folders:
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return


def _remove_lock_files(folder: Path) -> None:
    """Remove the locks of a folder that holds nothing else, so that it is as it was."""
    lock_names = {LOCK_FILE, CLAIMS_LOCK_FILE}
    with suppress(OSError):
        if {path.name for path in folder.iterdir()} <= lock_names:
            for name in lock_names:
                (folder / name).unlink(missing_ok=True)
