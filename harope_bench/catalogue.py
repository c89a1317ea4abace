"""Registered checkpoints: one TOML each, shipped in the package or in the user's home."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harope_bench import registry
from harope_bench.errors import BenchError, NameClash, OptionError, WeightsError
from harope_bench.records import Checkpoint, Option, fault, plain_name
from harope_bench.store import fit, home, load_weights, sha256_file, weights_note, write_text
from harope_bench.tomlfile import toml_text


def checkpoint(name: str) -> Checkpoint:
    """A registered checkpoint; its weights path is made absolute, next to its TOML.

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
    return found.model_copy(update={"weights": str((entry.path.parent / found.weights).resolve())})


def open_drawer(found: Checkpoint, settings: Any) -> Any:
    """The checkpoint's network, hash checked, strictly loaded, ready to draw with these settings."""
    backbone = registry.load("backbones", found.backbone)
    return backbone.open(found, load_weights(Path(found.weights), found.sha256), settings)


def register(
    name: str,
    weights: Path,
    backbone: str | None = None,
    encoding: str | None = None,
    options: Mapping[str, Option] | None = None,
    config: Mapping[str, Option] | None = None,
    drawing: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Path:
    """Writes the checkpoint's TOML into the user's home and returns its path.

    Backbone, encoding and sizes are taken from what is said, then from the file's note, then from the
    keys; the network is built and strictly loaded once, so that what is registered runs.

    Raises:
        NameClash: the name is taken. WeightsError: keys do not fit. OptionError: something the keys do not tell.
    """
    plain(name)
    target = home() / "checkpoints" / f"{name}.toml"
    if name in registry.entries("checkpoints") and not (force and target.exists()):
        raise NameClash(f"checkpoint {name!r} is registered already ({registry.find('checkpoints', name).origin}); choose another name")
    state = load_weights(weights)
    note = weights_note(weights)
    backbone, clue = recognised(state, backbone or note.get("backbone"))
    encoding = encoding or note.get("encoding") or clue.encoding
    if encoding is None:
        known = ", ".join(registry.names("encodings"))
        raise OptionError(f"the keys of {weights} do not tell the encoding; add --encoding, one of: {known}")
    if clue.encoding not in (None, encoding):
        raise OptionError(f"{weights} holds {clue.encoding} parameters, not {encoding}; leave --encoding out or correct it")
    found = Checkpoint(
        name=name,
        backbone=backbone,
        encoding=encoding,
        options=dict(options or {}),
        config={**clue.config, **(config or {})},
        weights=os.path.relpath(weights.resolve(), target.parent.resolve())
        if weights.resolve().is_relative_to(home())
        else str(weights.resolve()),
        sha256=sha256_file(weights),
        source=f"harope-bench register {name} --weights {weights.name}",
        **{"sampler": "flow", "steps": 50, "guidance": 1.0, **(drawing or {})},
    )
    network = registry.load("backbones", backbone).build(encoding, found.options, found.config)
    fit(network, state, f"checkpoint {name}")
    write_text(target, toml_text(found.model_dump(mode="json", exclude_none=True)))
    return target


def plain(name: str) -> None:
    """OptionError unless the name is one that can never choose a path."""
    try:
        plain_name(name)
    except ValueError as error:
        raise OptionError(f"{error}; choose another name") from error


def recognised(state: Mapping[str, Any], backbone: str | None) -> tuple[str, Any]:
    """The backbone whose keys these are, with what else they tell."""
    for name in [backbone] if backbone else registry.names("backbones"):
        if clue := registry.load("backbones", name).recognise(state):
            return name, clue
    sample = ", ".join(sorted(state)[:3])
    known = ", ".join(registry.names("backbones"))
    raise WeightsError(f"the keys ({sample}, ...) are those of no backbone asked for ({backbone or known}); check the file")
