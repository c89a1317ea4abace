"""What a training leaves behind: the weights with a note of how they were made, and the
checkpoint's TOML.
"""

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
SOURCE_PREFIX = "harope-bench train"  # with which the source of each TOML file begins
REFERENCE_ARRAYS = {"features", "mu", "sigma", "mu_s", "sigma_s"}


def write_checkpoint(
    folder: Path, name: str, weights: Mapping[str, Tensor], fields: CheckpointFields, source: str
) -> Checkpoint:
    """Leaves NAME.safetensors and NAME.toml in the folder; weights are stored as float16 to halve
    the file.

    The facts travel in the file too: equal keys do not tell qk_mode, heads or the sampler.
    """
    data = weights_bytes(
        {k: v.half() for k, v in weights.items()},
        {"checkpoint": json.dumps(fields, sort_keys=True)},
    )
    said = {
        "name": name,
        **fields,
        "weights": f"{name}.safetensors",
        "sha256": sha256_bytes(data),
        "source": source,
    }
    checkpoint = Checkpoint.model_validate(said)
    write_bytes(folder / checkpoint.weights, data)
    write_text(
        folder / f"{name}.toml",
        versioned_toml_text("checkpoint", checkpoint.model_dump(mode="json", exclude_none=True)),
    )
    return checkpoint


def check_training_outputs(folder: Path, names: Iterable[str]) -> None:
    """Raise StorageError where a training cannot write its files: over one that no training wrote,
    or below a file.
    """
    standing = next(
        (place for place in (folder, *folder.parents) if os.path.lexists(place)), folder
    )
    if os.path.lexists(standing) and not standing.is_dir():
        raise StorageError(f"{standing} is no folder; choose another --out")
    for path in map(folder.joinpath, names):
        check_output_path(path)
        if path.exists() and not _is_training_file(path):
            raise StorageError(
                f"{path} was not written by a training and would be lost; choose another --out, or"
                " remove it"
            )


def _is_training_file(path: Path) -> bool:
    """Return whether a file bears what `train` puts into its kind."""
    if path.suffix == ".safetensors":
        return not {"checkpoint", "judge"}.isdisjoint(weights_metadata(path))
    if path.suffix == ".npz":
        return _is_reference(path)
    if path.name == SNAPSHOT_FILE:
        return _is_snapshot(path)
    with convert_os_errors(path), open_regular(path) as file:
        text = file.read(TOML_BYTES).decode(errors="replace")
    return (
        text.startswith("step,loss")
        if path.name == LOG_FILE
        else f'source = "{SOURCE_PREFIX}' in text
    )


def _is_reference(path: Path) -> bool:
    try:
        return array_names(path) == REFERENCE_ARRAYS
    except SampleError:
        return False


def _is_snapshot(path: Path) -> bool:
    """Return whether a file is a snapshot; a damaged one is known by the log beside it."""
    log = path.with_name(LOG_FILE)
    if log.is_file() and _is_training_file(log):
        return True
    try:
        with open_npz(path) as (archive, _):  # what torch saves is a zip archive too
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            return any(b"identity" in archive.open(name).read(TOML_BYTES) for name in pickles)
    except ARCHIVE_ERRORS:
        return False
