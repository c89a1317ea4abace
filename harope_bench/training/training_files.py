"""The files of a training: weights with metadata, the checkpoint's TOML, snapshot and log."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from harope_bench.core.array_file import open_npz
from harope_bench.core.errors import SampleError, StorageError
from harope_bench.core.regular_file import TOML_BYTES, open_regular
from harope_bench.core.schema import Checkpoint
from harope_bench.core.state_dicts import weights_bytes, weights_metadata
from harope_bench.core.storage import (
    check_output_path,
    convert_os_errors,
    sha256_bytes,
    write_bytes,
    write_text,
)
from harope_bench.core.toml_file import versioned_toml_text
from harope_bench.data.adm_npz import ARCHIVE_ERRORS, array_names
from harope_bench.models.checkpoint_fields import CheckpointFields

LOG_FILE = "log.csv"
SNAPSHOT_FILE = "snapshot.pt"
SOURCE_PREFIX = "harope-bench train"  # start of the field `source` in each TOML file
REFERENCE_ARRAYS = {"features", "mu", "sigma", "mu_s", "sigma_s"}


def write_checkpoint(
    folder: Path, name: str, weights: Mapping[str, Tensor], fields: CheckpointFields, source: str
) -> Checkpoint:
    """Write NAME.safetensors and NAME.toml to the folder and return the checkpoint.

    Weights are stored as float16 to halve the file. The fields are stored in its metadata too,
    because equal state dicts can differ in qk_mode, heads or sampler.

    Args:
        source: the command that trains the checkpoint.
    """
    data = weights_bytes(
        {key: tensor.half() for key, tensor in weights.items()},
        {"checkpoint": json.dumps(fields, sort_keys=True)},
    )
    checkpoint_fields = {
        "name": name,
        **fields,
        "weights": f"{name}.safetensors",
        "sha256": sha256_bytes(data),
        "source": source,
    }
    checkpoint = Checkpoint.model_validate(checkpoint_fields)
    write_bytes(folder / checkpoint.weights, data)
    toml_fields = checkpoint.model_dump(mode="json", exclude_none=True)
    write_text(folder / f"{name}.toml", versioned_toml_text("checkpoint", toml_fields))
    return checkpoint


def check_training_outputs(folder: Path, names: Iterable[str]) -> None:
    """Raise StorageError where a training cannot write these files to the folder.

    The folder or a parent is a file, or one of the files exists and no training wrote it.
    """
    existing_parents = (path for path in (folder, *folder.parents) if os.path.lexists(path))
    nearest_parent = next(existing_parents, folder)
    if os.path.lexists(nearest_parent) and not nearest_parent.is_dir():
        raise StorageError(f"{nearest_parent} is no folder; choose another --out")
    for path in map(folder.joinpath, names):
        check_output_path(path)
        if path.exists() and not _is_training_file(path):
            raise StorageError(
                f"{path} was not written by a training and would be lost; choose another --out, or"
                " remove it"
            )


def _is_training_file(path: Path) -> bool:
    """Return whether a file has the marks of the files that `train` writes under such a name."""
    if path.suffix == ".safetensors":
        return not {"checkpoint", "judge"}.isdisjoint(weights_metadata(path))
    if path.suffix == ".npz":
        return _is_reference(path)
    if path.name == SNAPSHOT_FILE:
        return _is_snapshot(path)

    with convert_os_errors(path), open_regular(path) as file:
        text = file.read(TOML_BYTES).decode(errors="replace")
    if path.name == LOG_FILE:
        return text.startswith("step,loss")
    return f'source = "{SOURCE_PREFIX}' in text


def _is_reference(path: Path) -> bool:
    """Return whether an .npz file has exactly the arrays of a reference."""
    try:
        return array_names(path) == REFERENCE_ARRAYS
    except SampleError:
        return False


def _is_snapshot(path: Path) -> bool:
    """Return whether a file is a snapshot; a damaged one is recognised by the log beside it."""
    log_file = path.with_name(LOG_FILE)
    if log_file.is_file() and _is_training_file(log_file):
        return True
    try:
        with open_npz(path) as (archive, _):  # torch saves zip archives, as numpy does
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            return any(b"identity" in archive.open(name).read(TOML_BYTES) for name in pickles)
    except ARCHIVE_ERRORS:
        return False
