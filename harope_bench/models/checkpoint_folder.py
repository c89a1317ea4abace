"""Put a registered checkpoint into the user's home: one process a name at a time, never over another checkpoint unasked.

A checkpoint is a TOML and, where its manifest is written by `register`, a folder of its name. The folder is built beside its place
and renamed when it is whole, so a kill leaves nothing that a rerun would stumble over.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from pydantic import ValidationError

from harope_bench.core.errors import BenchError, FormatError, NameClash
from harope_bench.core.schema import Checkpoint
from harope_bench.core.storage import disk, home, make_folder, sha256_file, write_text
from harope_bench.core.toml_file import facts_text, read_facts
from harope_bench.models import lora_manifest

SHOWN = 3  # differing facts that an error names


class Registered(NamedTuple):
    """A checkpoint's TOML, and whether it is new or changed; not changed where the same weights and facts were registered before."""

    path: Path
    is_changed: bool


def toml_path(name: str) -> Path:
    """Return where the TOML of a user's checkpoint stands."""
    return home() / "checkpoints" / f"{name}.toml"


def folder_path(name: str) -> Path:
    """Return where the manifest that `register` writes for a checkpoint stands."""
    return home() / "checkpoints" / name


@contextmanager
def building(name: str) -> Iterator[Path]:
    """Give an empty folder to build a checkpoint's files in; it is gone afterwards unless `settle` moved it to its place.

    Raises:
        NameClash: The place holds files that are no checkpoint's.
    """
    target = folder_path(name)
    with _alone(name):
        if target.exists() and not (target / lora_manifest.MANIFEST).is_file() and any(target.iterdir()):
            raise _foreign_folder(target)
        scratch = target.with_name(f".{name}.registering")
        shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed: this one holds the lock
        try:
            yield make_folder(scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def settle(found: Checkpoint, replace: bool, scratch: Path | None = None) -> Registered:
    """Write a checkpoint's TOML, and move the folder that was built for it to its place.

    Args:
        replace: Take the name from another checkpoint of the user's. scratch: The folder of `building`, which must still be open.

    Raises:
        NameClash: The name has other weights or facts, and `replace` is not given.
    """
    path = toml_path(found.name)
    if scratch is not None:
        found = found.model_copy(update={"weights": str((folder_path(found.name) / lora_manifest.MANIFEST).resolve())})

    with nullcontext() if scratch is not None else _alone(found.name):
        former, differences = _former(path, found)
        if differences and not replace:
            raise NameClash(
                f"checkpoint {found.name!r} is registered already ({path}): {'; '.join(differences)}; "
                "give --replace, or choose another name"
            )
        if scratch is not None:
            _move(scratch, found, former)
        if former is None or former != found:
            write_text(path, facts_text("checkpoint", found.model_dump(mode="json", exclude_none=True)))
        if former is not None and _is_own(former) and not _is_own(found):
            shutil.rmtree(folder_path(found.name), ignore_errors=True)
    return Registered(path, bool(differences) or not former)


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Hold the lock of a name, so that of two processes the second sees what the first registered."""
    lock = FileLock(make_folder(home() / "checkpoints") / f".{name}.lock")
    with disk(Path(lock.lock_file)):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _former(path: Path, found: Checkpoint) -> tuple[Checkpoint | None, list[str]]:
    """Return the checkpoint that has the name, None where it cannot be read or there is none, and how the new one differs."""
    if not path.exists():
        return None, []
    try:
        former = Checkpoint.model_validate(read_facts("checkpoint", path))
    except FormatError as error:
        return None, [str(error)]
    except (ValidationError, BenchError):
        return None, ["it cannot be read"]
    old, new = (record.model_dump(mode="json", exclude={"weights", "source"}) for record in (former, found))
    fields = [field for field in old if old[field] != new[field]]
    differences = [f"{field} {old[field]!s:.40} there, {new[field]!s:.40} now" for field in fields]
    more = [f"{len(fields) - SHOWN} more facts"] if len(fields) > SHOWN else []
    return former, differences[:SHOWN] + more


def _move(scratch: Path, found: Checkpoint, former: Checkpoint | None) -> None:
    """Put the built folder in its place, unless the same files stand there whole."""
    target = folder_path(found.name)
    if target.exists() and any(target.iterdir()):
        manifest = target / lora_manifest.MANIFEST
        is_same = manifest.is_file() and sha256_file(manifest) == found.sha256
        if is_same and _is_whole(manifest):
            return
        if not is_same and (former is None or not _is_own(former)):
            raise _foreign_folder(target)
        with disk(target):
            shutil.rmtree(target)
    with disk(target):
        os.replace(scratch, target)


def _is_own(record: Checkpoint) -> bool:
    """Return whether a checkpoint's manifest is the one that `register` wrote into the folder of its name."""
    return Path(record.weights) == (folder_path(record.name) / lora_manifest.MANIFEST).resolve()


def _is_whole(manifest: Path) -> bool:
    try:
        files = lora_manifest.read(manifest)
        for name in files.files:
            lora_manifest.listed(manifest, files, name)
    except BenchError:
        return False
    return True


def _foreign_folder(target: Path) -> NameClash:
    return NameClash(f"{target} holds files of something else; remove it or choose another name")
