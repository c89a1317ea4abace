"""Registered checkpoints: one TOML each, shipped in the package or in the user's home; found and opened by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harope_bench import adapters, registry
from harope_bench.errors import BenchError, OptionError
from harope_bench.records import Checkpoint, fault, plain_name
from harope_bench.store import check_hash, load_weights


def checkpoint(name: str) -> Checkpoint:
    """A registered checkpoint, as its TOML says.

    Raises:
        UnknownName: offers the nearest. BenchError: the TOML is not a checkpoint's.
    """
    entry = registry.find("checkpoints", name)
    assert entry.path is not None
    try:
        found = Checkpoint.model_validate(registry.read_toml(entry.path))
    except ValidationError as error:
        raise BenchError(f"{entry.path}: {fault(error)}; register the checkpoint again") from error
    if found.name != entry.path.stem:
        raise BenchError(f"{entry.path} names itself {found.name}; file and name must agree")
    return found


def weights_path(found: Checkpoint) -> Path:
    """Where a registered checkpoint's weights lie: beside its TOML, unless that names another place.

    Records keep what the TOML says, so that equal runs have equal bytes wherever the package lies.
    """
    entry = registry.find("checkpoints", found.name)
    assert entry.path is not None
    return (entry.path.parent / found.weights).resolve()


def open_drawer(found: Checkpoint, settings: Any) -> Any:
    """The checkpoint's network, hash checked, strictly loaded, ready to draw with these settings."""
    backbone, path = registry.load("backbones", found.backbone), weights_path(found)
    if path.name == adapters.MANIFEST:
        check_hash(path, found.sha256)
        return backbone.open_folder(found, path, settings)
    return backbone.open(found, load_weights(path, found.sha256), settings)


def plain(name: str) -> str:
    """The name itself; OptionError unless it is one that can never choose a path."""
    try:
        return plain_name(name)
    except ValueError as error:
        raise OptionError(f"{error}; choose another name") from error
