"""State dicts: read without running code, written as .safetensors, loaded into networks."""

from __future__ import annotations

import argparse
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harope_bench.core.errors import IrregularFileError, WeightsError
from harope_bench.core.extras import require_packages
from harope_bench.core.json_file import JsonObject, parse_json
from harope_bench.core.regular_file import (
    JSON_BYTES,
    check_regular,
    is_file,
    open_regular,
    read_regular,
)
from harope_bench.core.storage import (
    convert_os_errors,
    first_line,
    sha256_bytes,
    sha256_file_once,
)
from harope_bench.core.weight_wrappers import UnwrappedWeights, strip_prefixes, unwrap_state_dict

if TYPE_CHECKING:
    import torch

SHOWN_KEY_LENGTH = 200  # characters of an unknown key in a message
METADATA_KEY = "__metadata__"  # key of the metadata in a .safetensors header
INDEX_SUFFIX = ".safetensors.index.json"


def check_sha256(path: Path, expected_sha256: str) -> None:
    """Raise WeightsError unless the file exists and has the expected sha256."""
    if not path.is_file():
        raise WeightsError(f"{path} is missing", advice="register it again or bring the file back")
    actual_sha256 = weights_sha256(path)
    if actual_sha256 != expected_sha256:
        raise WeightsError(
            f"{path} has sha256 {actual_sha256[:12]}..., recorded {expected_sha256[:12]}...",
            advice="register it again if the change is yours",
        )


def load_weights(path: Path, expected_sha256: str | None = None) -> dict[str, torch.Tensor]:
    """Return the state dict of a weights file. Arguments and errors: `read_weights`."""
    return read_weights(path, expected_sha256).state


def read_weights(path: Path, expected_sha256: str | None = None) -> UnwrappedWeights:
    """Return the state dict of a weights file, without wrappers (weight_wrappers.py).

    If the file contains a network and its running average (EMA), the average is returned.

    Args:
        path: A .safetensors file, the .safetensors.index.json of shards beside it, or a torch file,
            which is read with weights_only=True.
        expected_sha256: Recorded sha256, checked before the file is opened.

    Raises:
        WeightsError: The file is missing, has another hash, is damaged, or is a pickle that
            contains more than tensors and plain training arguments.
    """
    if expected_sha256 is not None:
        check_sha256(path, expected_sha256)
    if not path.exists():
        raise WeightsError(f"weights file {path} does not exist; check the path")
    with convert_os_errors(path):
        check_regular(path)

    if is_shard_index(path):
        state: dict[str, torch.Tensor] = {}
        for shard_path in weight_shard_paths(path):
            state.update(_load_safetensors(shard_path))
        return strip_prefixes(state)
    if path.suffix == ".safetensors":
        return strip_prefixes(_load_safetensors(path))
    weights = unwrap_state_dict(_load_torch_file(path))
    if weights is None or not weights.state:
        raise WeightsError(
            f"{path} is not a bare state dict (names to tensors); save only the model's state dict"
        )
    return weights


def is_shard_index(path: Path) -> bool:
    """Return whether a path is the index of weights in several .safetensors files."""
    return path.name.endswith(INDEX_SUFFIX)


def weight_shard_paths(index: Path) -> list[Path]:
    """Return the paths of the .safetensors shards of an index, sorted by name.

    Raises:
        WeightsError: The index is damaged, a shard is missing or not in the folder of the index, or
            the keys of a shard differ from those that the index states.
    """
    with convert_os_errors(index):
        data = read_regular(index, JSON_BYTES)
    try:
        shard_by_key: dict[str, str] = dict(parse_json(data)["weight_map"])
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(
            f"{index} is not an index of weights ({first_line(error)}); copy it again"
        ) from error

    # A name must not lead out of the folder of the index.
    names = sorted(set(map(str, shard_by_key.values())))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise WeightsError(
                f"{index} names {name!r}, wanted .safetensors files beside it; copy it again"
            )
        if not is_file(index.parent / name):
            raise WeightsError(
                f"{index} names {name!r}, which is missing; copy all {len(names)} shards beside it"
            )

    for name in names:
        actual_keys = weights_header(index.parent / name).keys()
        index_keys = {key for key, shard in shard_by_key.items() if shard == name}
        if differing_keys := sorted(actual_keys ^ index_keys):
            raise WeightsError(
                f"{index} and {name} disagree about {differing_keys[0]!r}; copy both again"
            )
    return [index.parent / name for name in names]


def weights_sha256(path: Path) -> str:
    """Return the hex sha256 of a weights file.

    The hash of an index is the sha256 of the joined hex hashes of the index and of its shards.
    """
    if not is_shard_index(path):
        return sha256_file_once(path)
    hashes = [sha256_file_once(file) for file in (path, *weight_shard_paths(path))]
    return sha256_bytes("".join(hashes).encode())


def training_arguments(path: Path) -> dict[str, object]:
    """Return the command-line arguments in a training checkpoint (`args` of DiT's train.py).

    Any other file has none: the result is empty.

    Raises:
        WeightsError: The torch file cannot be read.
    """
    if path.suffix == ".safetensors" or is_shard_index(path):
        return {}
    contents = _load_torch_file(path)
    args = contents.get("args") if isinstance(contents, dict) else None
    if isinstance(args, argparse.Namespace):
        return dict(vars(args))
    return dict(args) if isinstance(args, dict) else {}


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    require_packages(f"reading {path.name}", "torch", "safetensors")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with convert_os_errors(path):
        check_regular(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is not a readable safetensors file ({error}); copy it again"
        ) from error


def _load_torch_file(path: Path) -> object:
    """Return the contents of a torch file, unpickled with weights_only=True.

    Beside tensors and plain values only argparse.Namespace is allowed, because DiT's train.py
    stores one. A file with any further class is rejected.
    """
    require_packages(f"reading {path.name}", "torch")
    import torch
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

    try:
        # Before version 1.6 torch wrote no zip archives. Those files can be neither memory-mapped
        # nor searched for classes.
        is_archive = zipfile.is_zipfile(path)
        class_names = get_unsafe_globals_in_checkpoint(str(path)) if is_archive else []
        has_only_namespace = class_names == ["argparse.Namespace"]
        with safe_globals([argparse.Namespace] if has_only_namespace else []):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds Python objects beside tensors, or no tensors at all, and was not opened;"
            " save its state dict as .safetensors"
        ) from error
    except Exception as error:  # the unpickler raises many types on damaged bytes
        raise WeightsError(
            f"{path} is not a readable torch file ({first_line(error)}); copy it again"
        ) from error


def weights_bytes(state: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a .safetensors file. Equal weights and metadata give equal bytes."""
    from safetensors.torch import save

    data = save({name: tensor.contiguous() for name, tensor in state.items()})
    (header_length,) = struct.unpack("<Q", data[:8])
    header_end = 8 + header_length

    # safetensors writes the metadata in random order. Insert it here in sorted order instead.
    entries = json.loads(data[8:header_end])
    header_fields = {METADATA_KEY: dict(sorted(metadata.items())), **entries}
    header = json.dumps(header_fields, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors start at a multiple of 8 bytes
    return struct.pack("<Q", len(header)) + header + data[header_end:]


def weights_header(path: Path) -> JsonObject:
    """Return the header entry (dtype, shape, offsets) of each tensor of a .safetensors file.

    The result is empty for another or a damaged file.
    """
    header = _read_safetensors_header(path)
    return {key: entry for key, entry in header.items() if key != METADATA_KEY}


def weights_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a .safetensors file; empty for another or a damaged file."""
    metadata = _read_safetensors_header(path).get(METADATA_KEY)
    return dict(metadata) if isinstance(metadata, dict) else {}


def _read_safetensors_header(path: Path) -> JsonObject:
    if path.suffix != ".safetensors":
        return {}
    try:
        with open_regular(path) as file:
            (header_length,) = struct.unpack("<Q", file.read(8))
            header = parse_json(file.read(min(header_length, 100_000_000)))
    except (OSError, ValueError, struct.error, IrregularFileError):
        return {}
    return header if isinstance(header, dict) else {}


def check_state_dict(
    expected_state: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], title: str
) -> None:
    """Raise WeightsError unless a state dict has the expected keys, shapes and kinds of number.

    A tensor of integers is rejected if the network has floats: quantised weights would lose
    their scales.

    Args:
        expected_state: State dict of the network.
        state: State dict of the weights.
        title: Name of the weights for the message, which lists every key that differs.
    """
    problems = []
    if missing_keys := sorted(expected_state.keys() - state.keys()):
        problems.append(f"missing {', '.join(missing_keys)}")
    unexpected_keys = sorted(key[:SHOWN_KEY_LENGTH] for key in state.keys() - expected_state.keys())
    if unexpected_keys:
        problems.append(f"unexpected {', '.join(unexpected_keys)}")

    dtype_texts = [
        f"{key} {_dtype_name(state[key])} for {_dtype_name(expected)}"
        for key, expected in sorted(expected_state.items())
        if key in state and _number_kind(state[key]) != _number_kind(expected)
    ]
    if shape_texts := shape_differences(expected_state, state):
        problems.append(f"mis-shaped {', '.join(shape_texts)}")
    if dtype_texts:
        problems.append(f"of another kind {', '.join(dtype_texts)}")

    if problems:
        raise WeightsError(
            f"{title} does not fit: {'; '.join(problems)}; check --backbone, --encoding and"
            " --option"
        )


def _number_kind(tensor: torch.Tensor) -> tuple[bool, bool]:
    """Return whether the dtype is floating point, and whether it is complex."""
    return tensor.is_floating_point(), tensor.is_complex()


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def shape_differences(
    expected_state: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]
) -> list[str]:
    """Return the keys with both shapes where a tensor has another shape than expected."""
    return [
        f"{key} {tuple(state[key].shape)} for {tuple(expected.shape)}"
        for key, expected in sorted(expected_state.items())
        if key in state and state[key].shape != expected.shape
    ]


def load_state_strictly(
    module: torch.nn.Module, state: Mapping[str, torch.Tensor], title: str
) -> None:
    """Load a state dict into a module, converted to the module's dtypes.

    Args:
        title: Name of the weights for the message.

    Raises:
        WeightsError: Keys are missing, unexpected or of another shape. The message lists them all.
    """
    check_state_dict(module.state_dict(), state, title)
    module.load_state_dict(dict(state), strict=True)
