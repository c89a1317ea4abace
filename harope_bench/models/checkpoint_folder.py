"""Put a registered checkpoint into the user's home: one process a name at a time, never over
another checkpoint unasked.

A checkpoint is a TOML and, where its manifest is written by `register`, a folder of its name. The
folder is built beside its place
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

from harope_bench.core.errors import BenchError, FormatError, NameClashError
from harope_bench.core.schema import Checkpoint
from harope_bench.core.storage import convert_os_errors, home, make_folder, sha256_file, write_text
from harope_bench.core.toml_file import read_versioned_toml, versioned_toml_text
from harope_bench.models import lora_manifest

MAX_DIFFERENCES = 3  # differing facts that an error names


class Registration(NamedTuple):
    """A checkpoint's TOML, and whether it is new or changed; not changed where the same weights and
    facts were registered before.
    """

    path: Path
    is_changed: bool


def toml_path(name: str) -> Path:
    """Return where the TOML of a user's checkpoint stands."""
    return home() / "checkpoints" / f"{name}.toml"


def folder_path(name: str) -> Path:
    """Return where the manifest that `register` writes for a checkpoint stands."""
    return home() / "checkpoints" / name


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """Give an empty folder to build a checkpoint's files in; it is gone afterwards unless `settle`
    moved it to its place.

    Raises:
        NameClash: The place holds files that are no checkpoint's.
    """
    target = folder_path(name)
    with _name_lock(name):
        if (
            target.exists()
            and not (target / lora_manifest.MANIFEST).is_file()
            and any(target.iterdir())
        ):
            raise _name_clash(target)
        scratch = target.with_name(f".{name}.registering")
        shutil.rmtree(
            scratch, ignore_errors=True
        )  # of a process that was killed: this one holds the lock
        try:
            yield make_folder(scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def write_registration(
    found: Checkpoint, replace: bool, scratch: Path | None = None
) -> Registration:
    """Write a checkpoint's TOML, and move the folder that was built for it to its place.

    Args:
        replace: Take the name from another checkpoint of the user's. scratch: The folder of
            `building`, which must still be open.

    Raises:
        NameClash: The name has other weights or facts, and `replace` is not given.
    """
    path = toml_path(found.name)
    if scratch is not None:
        found = found.model_copy(
            update={"weights": str((folder_path(found.name) / lora_manifest.MANIFEST).resolve())}
        )

    with nullcontext() if scratch is not None else _name_lock(found.name):
        former, differences = _read_previous(path, found)
        if differences and not replace:
            raise NameClashError(
                f"checkpoint {found.name!r} is registered already ({path}):"
                f" {'; '.join(differences)}; give --replace, or choose another name"
            )
        if scratch is not None:
            _move_into_place(scratch, found, former)
        if former is None or former != found:
            write_text(
                path,
                versioned_toml_text("checkpoint", found.model_dump(mode="json", exclude_none=True)),
            )
        if (
            former is not None
            and _is_registered_manifest(former)
            and not _is_registered_manifest(found)
        ):
            shutil.rmtree(folder_path(found.name), ignore_errors=True)
    return Registration(path, bool(differences) or not former)


@contextmanager
def _name_lock(name: str) -> Iterator[None]:
    """Hold the lock of a name, so that of two processes the second sees what the first
    registered.
    """
    lock = FileLock(make_folder(home() / "checkpoints") / f".{name}.lock")
    with convert_os_errors(Path(lock.lock_file)):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _read_previous(path: Path, found: Checkpoint) -> tuple[Checkpoint | None, list[str]]:
    """Return the checkpoint that has the name, None where it cannot be read or there is none, and
    how the new one differs.
    """
    if not path.exists():
        return None, []
    try:
        former = Checkpoint.model_validate(read_versioned_toml("checkpoint", path))
    except FormatError as error:
        return None, [str(error)]
    except (ValidationError, BenchError):
        return None, ["it cannot be read"]
    old, new = (
        record.model_dump(mode="json", exclude={"weights", "source"}) for record in (former, found)
    )
    fields = [field for field in old if old[field] != new[field]]
    differences = [f"{field} {old[field]!s:.40} there, {new[field]!s:.40} now" for field in fields]
    more = [f"{len(fields) - MAX_DIFFERENCES} more facts"] if len(fields) > MAX_DIFFERENCES else []
    return former, differences[:MAX_DIFFERENCES] + more


def _move_into_place(scratch: Path, found: Checkpoint, former: Checkpoint | None) -> None:
    """Put the built folder in its place, unless the same files stand there whole."""
    target = folder_path(found.name)
    if target.exists() and any(target.iterdir()):
        manifest = target / lora_manifest.MANIFEST
        is_same = manifest.is_file() and sha256_file(manifest) == found.sha256
        if is_same and _has_all_files(manifest):
            return
        if not is_same and (former is None or not _is_registered_manifest(former)):
            raise _name_clash(target)
        with convert_os_errors(target):
            shutil.rmtree(target)
    with convert_os_errors(target):
        os.replace(scratch, target)


def _is_registered_manifest(record: Checkpoint) -> bool:
    """Return whether a checkpoint's manifest is the one that `register` wrote into the folder of
    its name.
    """
    return Path(record.weights) == (folder_path(record.name) / lora_manifest.MANIFEST).resolve()


def _has_all_files(manifest: Path) -> bool:
    try:
        files = lora_manifest.read_manifest(manifest)
        for name in files.files:
            lora_manifest.checked_file(manifest, files, name)
    except BenchError:
        return False
    return True


def _name_clash(target: Path) -> NameClashError:
    return NameClashError(
        f"{target} holds files of something else; remove it or choose another name"
    )
