"""State dicts: read from files that cannot run code, written as .safetensors, loaded into
networks.
"""

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
from harope_bench.core.json_file import JsonObject, parse_json
from harope_bench.core.regular_file import (
    JSON_BYTES,
    check_regular,
    is_file,
    open_regular,
    read_regular,
)
from harope_bench.core.storage import convert_os_errors, first_line, sha256_bytes, sha256_file
from harope_bench.core.weight_wrappers import UnwrappedWeights, strip_prefixes, unwrap_state_dict

if TYPE_CHECKING:
    import torch

SHOWN_KEY_LENGTH = 200  # characters of an unknown key in a message


METADATA_KEY = "__metadata__"  # of a .safetensors header


INDEX_SUFFIX = ".safetensors.index.json"


def check_sha256(path: Path, wanted: str) -> None:
    """Raises WeightsError unless the file is there and has this sha256."""
    if not path.is_file():
        raise WeightsError(
            f"{path} is not there", advice="register it again or bring the file back"
        )
    found = weights_sha256(path)
    if found != wanted:
        raise WeightsError(
            f"{path} has sha256 {found[:12]}..., recorded {wanted[:12]}...",
            advice="register it again if the change is yours",
        )


def load_weights(path: Path, wanted: str | None = None) -> dict[str, torch.Tensor]:
    """Return the state dict of `read_weights`."""
    return read_weights(path, wanted).state


def read_weights(path: Path, wanted: str | None = None) -> UnwrappedWeights:
    """Read a state dict from .safetensors, from shards by their index, or from a torch file with
    weights_only=True.

    Args:
        path: The file, or the .safetensors.index.json of shards beside it. Wrappers of training
            tools are stripped
            (weight_wrappers.py); of a running average and a plain network the average is taken.
        wanted: The recorded sha256 of the file, checked before it is opened.

    Raises:
        WeightsError: not there, another hash, damaged, or a pickle that holds more than tensors and
            plain training arguments.
    """
    if wanted is not None:
        check_sha256(path, wanted)
    if not path.exists():
        raise WeightsError(f"{path} is not there; give the weights file's path")
    with convert_os_errors(path):
        check_regular(path)
    if is_shard_index(path):
        return strip_prefixes(
            {
                key: tensor
                for shard in weight_shard_paths(path)
                for key, tensor in _load_safetensors(shard).items()
            }
        )
    if path.suffix == ".safetensors":
        return strip_prefixes(_load_safetensors(path))
    unwrapped = unwrap_state_dict(_load_torch_file(path))
    if unwrapped is None or not unwrapped.state:
        raise WeightsError(
            f"{path} is not a bare state dict (names to tensors); save only the model's state dict"
        )
    return unwrapped


def is_shard_index(path: Path) -> bool:
    """Return whether this is the index of weights in several .safetensors files."""
    return path.name.endswith(INDEX_SUFFIX)


def weight_shard_paths(index: Path) -> list[Path]:
    """Return the files that an index of .safetensors shards names, in order.

    Raises:
        WeightsError: The index is damaged, a name is not that of a file beside it, a shard is
            missing, or a key is in
            another shard than the index says.
    """
    with convert_os_errors(index):
        data = read_regular(index, JSON_BYTES)
    try:
        places: dict[str, str] = dict(parse_json(data)["weight_map"])
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(
            f"{index} is not an index of weights ({first_line(error)}); copy it again"
        ) from error
    names = sorted(set(map(str, places.values())))
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
        keys = weights_header(index.parent / name).keys()
        if odd := sorted(keys ^ {key for key, place in places.items() if place == name}):
            raise WeightsError(f"{index} and {name} disagree about {odd[0]!r}; copy both again")
    return [index.parent / name for name in names]


def weights_sha256(path: Path) -> str:
    """Return the hex sha256 of a file of weights; of an index that of itself and of every shard."""
    if not is_shard_index(path):
        return sha256_file(path)
    return sha256_bytes("".join(map(sha256_file, (path, *weight_shard_paths(path)))).encode())


def training_arguments(path: Path) -> dict[str, object]:
    """The arguments that a training file keeps beside its weights (`args` of DiT's train.py); empty
    for any other file.

    Raises:
        WeightsError: as `load_weights`.
    """
    if path.suffix == ".safetensors" or is_shard_index(path):
        return {}
    found = _load_torch_file(path)
    args = found.get("args") if isinstance(found, dict) else None
    if isinstance(args, argparse.Namespace):
        return dict(vars(args))
    return dict(args) if isinstance(args, dict) else {}


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
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
    """What a torch file holds. Beside tensors only an argparse.Namespace is let in, and only if
    nothing else asks to be.
    """
    import torch
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

    try:
        archive = zipfile.is_zipfile(
            path
        )  # torch's older format can neither be mapped nor looked into
        foreign = get_unsafe_globals_in_checkpoint(str(path)) if archive else []
        with safe_globals([argparse.Namespace] if foreign == ["argparse.Namespace"] else []):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds Python objects beside tensors, or no tensors at all, and was not opened;"
            " save its state dict as .safetensors"
        ) from error
    except Exception as error:  # the unpickler fails in a dozen ways on damaged bytes
        raise WeightsError(
            f"{path} is not a readable torch file ({first_line(error)}); copy it again"
        ) from error


def weights_bytes(state: Mapping[str, torch.Tensor], note: Mapping[str, str]) -> bytes:
    """A .safetensors file with a note in its header; equal weights and notes give equal bytes."""
    from safetensors.torch import save

    data = save({name: tensor.contiguous() for name, tensor in state.items()})
    (size,) = struct.unpack("<Q", data[:8])
    # safetensors writes a note in the order of a hash table, another one every time; so the note is
    # put in here, sorted
    header = json.dumps(
        {METADATA_KEY: dict(sorted(note.items())), **json.loads(data[8 : 8 + size])},
        separators=(",", ":"),
    ).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def weights_header(path: Path) -> JsonObject:
    """What a .safetensors header says, by key and without its note; empty for any other file or a
    damaged one.
    """
    return {
        key: facts for key, facts in _read_safetensors_header(path).items() if key != METADATA_KEY
    }


def weights_metadata(path: Path) -> dict[str, str]:
    """The metadata of a .safetensors header; empty for any other file or a damaged one."""
    note = _read_safetensors_header(path).get(METADATA_KEY)
    return dict(note) if isinstance(note, dict) else {}


def _read_safetensors_header(path: Path) -> JsonObject:
    if path.suffix != ".safetensors":
        return {}
    try:
        with open_regular(path) as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = parse_json(file.read(min(size, 100_000_000)))
    except (OSError, ValueError, struct.error, IrregularFileError):
        return {}
    return header if isinstance(header, dict) else {}


def check_state_dict(
    wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], what: str
) -> None:
    """Raise WeightsError unless both have the same keys, shapes and kinds of number.

    It lists every key that is missing, unexpected, mis-shaped, or holds integers where the network
    has floats (quantised weights,
    whose scales would be lost).
    """
    complaints = []
    if missing := sorted(wanted.keys() - state.keys()):
        complaints.append(f"missing {', '.join(missing)}")
    if unexpected := sorted(key[:SHOWN_KEY_LENGTH] for key in state.keys() - wanted.keys()):
        complaints.append(f"unexpected {', '.join(unexpected)}")
    shapes = [
        f"{k} {tuple(state[k].shape)} for {tuple(v.shape)}"
        for k, v in sorted(wanted.items())
        if k in state and state[k].shape != v.shape
    ]
    if shapes:
        complaints.append(f"mis-shaped {', '.join(shapes)}")
    kinds = [
        f"{k} {_dtype_name(state[k])} for {_dtype_name(v)}"
        for k, v in sorted(wanted.items())
        if k in state
        and (state[k].is_floating_point(), state[k].is_complex())
        != (v.is_floating_point(), v.is_complex())
    ]
    if kinds:
        complaints.append(f"of another kind {', '.join(kinds)}")
    if complaints:
        raise WeightsError(
            f"{what} does not fit: {'; '.join(complaints)}; check --backbone, --encoding and"
            " --option"
        )


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def load_state_strictly(
    module: torch.nn.Module, state: Mapping[str, torch.Tensor], what: str
) -> None:
    """Loads a state dict strictly, casting to the module's dtypes.

    Raises:
        WeightsError: lists every missing, unexpected and mis-shaped key.
    """
    check_state_dict(module.state_dict(), state, what)
    module.load_state_dict(dict(state), strict=True)
