"""What a training leaves behind: the weights with a note of how they were made, and the checkpoint's TOML."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from harope_bench.core.array_file import open_npz
from harope_bench.core.errors import SampleError, StorageError
from harope_bench.core.regular_file import FACTS_BYTES, open_regular
from harope_bench.core.schema import Checkpoint
from harope_bench.core.state_dicts import weights_bytes, weights_note
from harope_bench.core.storage import check_target, disk, sha256_bytes, write_bytes, write_text
from harope_bench.core.toml_file import facts_text
from harope_bench.data.adm_npz import DAMAGE, members
from harope_bench.models.checkpoint_fields import CheckpointFields

LOG, SNAPSHOT = "log.csv", "snapshot.pt"
COMMAND = "harope-bench train"  # with which the source of each TOML file begins
REFERENCE_ARRAYS = {"features", "mu", "sigma", "mu_s", "sigma_s"}


def write_checkpoint(folder: Path, name: str, average: Mapping[str, Tensor], facts: CheckpointFields, source: str) -> Checkpoint:
    """Leaves NAME.safetensors and NAME.toml in the folder; weights are stored as float16 to halve the file.

    The facts travel in the file too: equal keys do not tell qk_mode, heads or the sampler.
    """
    data = weights_bytes({k: v.half() for k, v in average.items()}, {"checkpoint": json.dumps(facts, sort_keys=True)})
    said = {"name": name, **facts, "weights": f"{name}.safetensors", "sha256": sha256_bytes(data), "source": source}
    checkpoint = Checkpoint.model_validate(said)
    write_bytes(folder / checkpoint.weights, data)
    write_text(folder / f"{name}.toml", facts_text("checkpoint", checkpoint.model_dump(mode="json", exclude_none=True)))
    return checkpoint


def check_outputs(folder: Path, names: Iterable[str]) -> None:
    """Raise StorageError where a training cannot write its files: over one that no training wrote, or below a file."""
    standing = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), folder)
    if os.path.lexists(standing) and not standing.is_dir():
        raise StorageError(f"{standing} is no folder; choose another --out")
    for path in map(folder.joinpath, names):
        check_target(path)
        if path.exists() and not _is_of_training(path):
            raise StorageError(f"{path} was not written by a training and would be lost; choose another --out, or remove it")


def _is_of_training(path: Path) -> bool:
    """Return whether a file bears what `train` puts into its kind."""
    if path.suffix == ".safetensors":
        return not {"checkpoint", "judge"}.isdisjoint(weights_note(path))
    if path.suffix == ".npz":
        return _is_reference(path)
    if path.name == SNAPSHOT:
        return _is_snapshot(path)
    with disk(path), open_regular(path) as file:
        text = file.read(FACTS_BYTES).decode(errors="replace")
    return text.startswith("step,loss") if path.name == LOG else f'source = "{COMMAND}' in text


def _is_reference(path: Path) -> bool:
    try:
        return members(path) == REFERENCE_ARRAYS
    except SampleError:
        return False


def _is_snapshot(path: Path) -> bool:
    """Return whether a file is a snapshot; a damaged one is known by the log beside it."""
    log = path.with_name(LOG)
    if log.is_file() and _is_of_training(log):
        return True
    try:
        with open_npz(path) as (archive, _):  # what torch saves is a zip archive too
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            return any(b"identity" in archive.open(name).read(FACTS_BYTES) for name in pickles)
    except DAMAGE:
        return False
