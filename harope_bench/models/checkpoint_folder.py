"""Writes registered checkpoints into the user's home.

A checkpoint is a TOML and, if `register` writes its manifest, a folder of the same name. A folder
is built under a temporary name and then renamed, so an interrupted run leaves nothing that
disturbs the next one. A lock per name admits one process at a time. Another checkpoint is
replaced only if the user asks for it.
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

MAX_DIFFERENCES = 3  # Largest number of differing fields that an error message lists.


class Registration(NamedTuple):
    """The result of a registration.

    Attributes:
        path: The checkpoint's TOML.
        is_changed: Whether the checkpoint is new or differs from the one registered before.
    """

    path: Path
    is_changed: bool


def toml_path(name: str) -> Path:
    """Return the path of a user checkpoint's TOML."""
    return home() / "checkpoints" / f"{name}.toml"


def folder_path(name: str) -> Path:
    """Return the folder of the manifest that `register` writes for a checkpoint."""
    return home() / "checkpoints" / name


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """Yield an empty folder in which the files of a checkpoint are built.

    The folder is removed afterwards, unless `write_registration` renamed it.

    Raises:
        NameClashError: The checkpoint's folder contains files of something else.
    """
    target = folder_path(name)
    with _name_lock(name):
        has_manifest = (target / lora_manifest.MANIFEST).is_file()
        if target.exists() and not has_manifest and any(target.iterdir()):
            raise _name_clash(target)

        # A killed process may have left one. This process has the lock, so it can be removed.
        scratch = target.with_name(f".{name}.registering")
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            yield make_folder(scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def write_registration(
    checkpoint: Checkpoint, replace: bool, scratch: Path | None = None
) -> Registration:
    """Write a checkpoint's TOML, and move the folder that was built for it to its place.

    Args:
        replace: Replace another checkpoint of the user with this name.
        scratch: The folder of `scratch_folder`, whose context must still be active.

    Raises:
        NameClashError: The name belongs to another checkpoint, and `replace` is not given.
    """
    path = toml_path(checkpoint.name)
    if scratch is not None:
        manifest = (folder_path(checkpoint.name) / lora_manifest.MANIFEST).resolve()
        checkpoint = checkpoint.model_copy(update={"weights": str(manifest)})

    # `scratch_folder` has the lock already.
    with nullcontext() if scratch is not None else _name_lock(checkpoint.name):
        previous_checkpoint, differences = _read_previous(path, checkpoint)
        if differences and not replace:
            raise NameClashError(
                f"checkpoint {checkpoint.name!r} is registered already ({path}):"
                f" {'; '.join(differences)}; give --replace, or choose another name"
            )
        if scratch is not None:
            _move_into_place(scratch, checkpoint, previous_checkpoint)
        if previous_checkpoint is None or previous_checkpoint != checkpoint:
            fields = checkpoint.model_dump(mode="json", exclude_none=True)
            write_text(path, versioned_toml_text("checkpoint", fields))

        # The previous checkpoint's folder is no longer used.
        had_folder = previous_checkpoint is not None and _is_registered_manifest(
            previous_checkpoint
        )
        if had_folder and not _is_registered_manifest(checkpoint):
            shutil.rmtree(folder_path(checkpoint.name), ignore_errors=True)
    return Registration(path, bool(differences) or not previous_checkpoint)


@contextmanager
def _name_lock(name: str) -> Iterator[None]:
    """Hold the lock of a name, so that a second process sees what the first one registered."""
    lock = FileLock(make_folder(home() / "checkpoints") / f".{name}.lock")
    with convert_os_errors(Path(lock.lock_file)):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _read_previous(path: Path, checkpoint: Checkpoint) -> tuple[Checkpoint | None, list[str]]:
    """Return the checkpoint that a TOML contains, and how the new one differs from it.

    Returns:
        The checkpoint, None if there is no TOML or it cannot be read; and one text for each
        differing field, at most MAX_DIFFERENCES and a text that there are more.
    """
    if not path.exists():
        return None, []
    try:
        previous_checkpoint = Checkpoint.model_validate(read_versioned_toml("checkpoint", path))
    except FormatError as error:
        return None, [str(error)]
    except (ValidationError, BenchError):
        return None, ["it cannot be read"]

    # Path and source of the weights may differ, their hash may not.
    previous_values, values = (
        record.model_dump(mode="json", exclude={"weights", "source"})
        for record in (previous_checkpoint, checkpoint)
    )
    fields = [field for field in values if previous_values[field] != values[field]]
    differences = [
        f"{field} is {previous_values[field]!s:.40} there and {values[field]!s:.40} now"
        for field in fields[:MAX_DIFFERENCES]
    ]
    if len(fields) > MAX_DIFFERENCES:
        differences.append(f"{len(fields) - MAX_DIFFERENCES} more fields")
    return previous_checkpoint, differences


def _move_into_place(
    scratch: Path, checkpoint: Checkpoint, previous_checkpoint: Checkpoint | None
) -> None:
    """Rename the scratch folder to the checkpoint's folder, unless it has the same files already.

    Raises:
        NameClashError: The folder contains files of something else.
    """
    target = folder_path(checkpoint.name)
    if target.exists() and any(target.iterdir()):
        manifest = target / lora_manifest.MANIFEST
        is_same = manifest.is_file() and sha256_file(manifest) == checkpoint.sha256
        if is_same and _has_all_files(manifest):
            return
        is_previous = previous_checkpoint is not None and _is_registered_manifest(
            previous_checkpoint
        )
        if not is_same and not is_previous:
            raise _name_clash(target)
        with convert_os_errors(target):
            shutil.rmtree(target)
    with convert_os_errors(target):
        os.replace(scratch, target)


def _is_registered_manifest(record: Checkpoint) -> bool:
    """Return whether a checkpoint's manifest is the one that `register` wrote into its folder."""
    return Path(record.weights) == (folder_path(record.name) / lora_manifest.MANIFEST).resolve()


def _has_all_files(manifest: Path) -> bool:
    """Return whether every file that a manifest lists is there and unaltered."""
    try:
        files = lora_manifest.read_manifest(manifest)
        for name in files.files:
            lora_manifest.verify_adapter_file(manifest, files, name)
    except BenchError:
        return False
    return True


def _name_clash(target: Path) -> NameClashError:
    """Return the error for a folder with files of something else.

    Args:
        target: The folder.
    """
    return NameClashError(
        f"{target} contains files of something else; remove it or choose another name"
    )
