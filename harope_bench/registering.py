"""Making checkpoints known: whatever weights a user has, their facts found or said, tried once, and written as a TOML at home."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harope_bench import adapters, registry
from harope_bench.catalogue import checkpoint, plain, weights_path
from harope_bench.checkpoint_files import Registered, building, settle, toml_path
from harope_bench.errors import NameClash, OptionError, WeightsError
from harope_bench.records import Checkpoint, Settings, fault
from harope_bench.store import (
    check_target,
    fit,
    load_weights,
    sha256_file,
    training_arguments,
    weights_bytes,
    weights_note,
    write_text,
    writing,
)


def register(name: str, weights: Path, said: Mapping[str, Any], encoding_weights: Path | None = None, replace: bool = False) -> Path:
    """Return the path of the TOML that `register_once` writes."""
    return register_once(name, weights, said, encoding_weights, replace).path


def register_once(
    name: str, weights: Path, said: Mapping[str, Any], encoding_weights: Path | None = None, replace: bool = False
) -> Registered:
    """Write the checkpoint's TOML into the user's home; the same weights and facts again change nothing.

    Facts are taken from the note that `train` and `export` leave in the file, from the keys, from the arguments that a training
    file keeps, and from what is said (fields of Checkpoint; None is not said). The network is built and strictly loaded once, so that
    what is registered runs.

    Args:
        weights: a file of weights, an adapter folder, a pipeline's folder, or a LoRA without manifest (a file, or a folder that holds
            one), whose manifest is then written beside a copy at home. encoding_weights: for such a LoRA alone.
        replace: take the name from another checkpoint of the user's.

    Raises:
        NameClash: the name has other weights or facts.
        WeightsError: keys do not fit, or contradict the training file's arguments. OptionError:
            something that nothing tells, or that is said in contradiction to the file.
    """
    plain(name)
    entry = registry.entries("checkpoints").get(name)
    if entry is not None and entry.path != toml_path(name):
        raise NameClash(f"checkpoint {name!r} is registered already ({entry.origin}); choose another name")
    try:
        return _registered(name, weights, said, encoding_weights, replace)
    except (OptionError, WeightsError) as error:
        if entry is None or replace:
            raise
        raise NameClash(f"checkpoint {name!r} is registered already ({entry.origin}), and this is not the same: {error}") from error


def _registered(name: str, weights: Path, said: Mapping[str, Any], encoding_weights: Path | None, replace: bool) -> Registered:
    said, bundle = _meant(said), adapters.bundle(weights)
    bare = adapters.bare(weights, encoding_weights) if bundle is None else None
    if encoding_weights is not None and bare is None:
        raise OptionError(f"{weights} is no LoRA without manifest, and only such a one takes --encoding-weights; leave it out")
    if bare is not None:
        with building(name) as folder:
            return settle(_register_folder(name, _manifest_of_lora(folder, bare, said), said), replace, folder)
    if bundle is not None and bundle.is_dir():
        said["config"] = {"base": str(bundle.resolve()), **said.get("config", {})}
        with building(name) as folder:
            return settle(_register_folder(name, _manifest_of_base(folder, bundle, said), said), replace, folder)
    found = _register_folder(name, bundle, said) if bundle is not None else _register_file(name, weights, said)
    return settle(found, replace)


def _meant(said: Mapping[str, Any]) -> dict[str, Any]:
    """What is said without what is not; the folder of a base in full."""
    found = {key: value for key, value in said.items() if value not in (None, {})}
    base = found.get("config", {}).get("base")
    if isinstance(base, str) and Path(base).is_dir():
        found["config"] = {**found["config"], "base": str(Path(base).absolute())}
    return found


def _register_file(name: str, weights: Path, said: Mapping[str, Any]) -> Checkpoint:
    """One file with the whole network."""
    state, note = load_weights(weights), noted(weights)
    facts = agreed(note, said, weights)
    facts["backbone"], clue = recognised(state, facts.get("backbone"))
    config = completed(clue.config, facts["backbone"], weights)
    told = {"config": config, "options": clue.options, **({"encoding": clue.encoding} if clue.encoding else {})}
    facts = agreed(told, facts, weights)
    if "encoding" not in facts:
        known = ", ".join(registry.names("encodings"))
        raise OptionError(f"the keys of {weights} do not tell the encoding; add --encoding, one of: {known}")
    backbone = registry.load("backbones", facts["backbone"])
    if not note:
        _unnoted(backbone, state, facts)
    usual = getattr(backbone, "defaults", {})
    drawing = note.get("drawing", {}) if note else clue.defaults.get("drawing", {})
    facts["drawing"] = drawable({**usual.get("drawing", {}), **drawing, **said.get("drawing", {})})
    own = {"sampler": "flow", "steps": 50, "guidance": 1.0} if getattr(backbone, "task", "draw") == "draw" else {}
    found = _record(name, weights, {**own, **usual, **clue.defaults, **facts})
    load_once(found, state)
    return found


def _unnoted(backbone: Any, state: Mapping[str, Any], facts: dict[str, Any]) -> None:
    """What only the network's publishers can tell of foreign weights: doubts about what is said, and options nobody said."""
    if hasattr(backbone, "doubts"):
        backbone.doubts(state, facts["encoding"], facts["config"])
    if hasattr(backbone, "usual"):
        facts["options"] = {**backbone.usual(facts["encoding"]), **facts.get("options", {})}


def _register_folder(name: str, bundle: Path, said: Mapping[str, Any]) -> Checkpoint:
    """An adapter folder, by its manifest."""
    manifest = adapters.read(bundle)
    backbone = registry.load("backbones", manifest.backbone)
    known = {
        "backbone": manifest.backbone,
        "encoding": manifest.encoding,
        "options": manifest.options,
        "config": {"tokens": manifest.tokens},
    }
    facts = agreed(known, said, bundle)
    facts["config"] = {"base": manifest.base.id, **facts["config"]}
    facts["drawing"] = drawable({**backbone.defaults["drawing"], **said.get("drawing", {})})
    found = _record(name, bundle, {"sampler": "flow", **backbone.defaults, **facts})
    backbone.check_folder(found, bundle)
    return found


def _drawing_with(folder: Path) -> tuple[str, Any]:
    """The backbone that draws with a pipeline of this kind."""
    kind = adapters.pipeline_class(folder)
    able = [b for b in registry.names("backbones") if getattr(registry.load("backbones", b), "pipeline", None) == kind]
    if not able:
        raise WeightsError(f"{folder} holds a {kind}, which no backbone draws with; known: {', '.join(registry.names('backbones'))}")
    return able[0], registry.load("backbones", able[0])


def _manifest_of_base(folder: Path, base: Path, said: Mapping[str, Any]) -> Path:
    """Writes the manifest of a pipeline without adapter; its encoding is the base's own unless said, and may have no weights."""
    name, backbone = _drawing_with(base)
    encoding, options = backbone.plain
    if said.get("encoding", encoding) != encoding:
        encoding, options = said["encoding"], {}
    manifest = adapters.Manifest(
        backbone=name,
        base=adapters.describe(base, base.resolve().name),
        encoding=encoding,
        options={**options, **said.get("options", {})},
        tokens=said.get("config", {}).get("tokens", "all"),
    )
    target = folder / adapters.MANIFEST
    write_text(target, manifest.to_json(indent=1) + "\n")
    return target


def _manifest_of_lora(folder: Path, bare: adapters.Bare, said: Mapping[str, Any]) -> Path:
    """Writes an adapter folder of a LoRA without manifest, which must be told its base."""
    base = said.get("config", {}).get("base")
    if base is None:
        raise OptionError(f"{bare.lora} is a LoRA and does not say of what; add --config base=FOLDER, its pipeline's folder or hub id")
    name, backbone = _drawing_with(adapters.base_folder(str(base)))
    if said.get("backbone", name) != name:
        raise OptionError(f"base {base} is a pipeline of {name}, not {said['backbone']}; leave --backbone out or give another base")
    made: Path = backbone.adopt(folder, bare, str(base), said)
    return made


def load_once(found: Checkpoint, state: Mapping[str, Any]) -> None:
    """Builds the checkpoint's network and loads it strictly; WeightsError where keys do not fit."""
    backbone = registry.load("backbones", found.backbone)
    if hasattr(backbone, "load"):
        backbone.load(found, state)
        return
    fit(backbone.build(found.encoding, found.options, found.config), state, f"checkpoint {found.name}")


def completed(config: Mapping[str, Any], backbone: str, weights: Path) -> dict[str, Any]:
    """The sizes that the keys tell, and those that a training file's arguments add; WeightsError where these contradict the keys."""
    plugin = registry.load("backbones", backbone)
    args = plugin.recall(training_arguments(weights)) if hasattr(plugin, "recall") else {}
    if other := [field for field in args if field in config and config[field] != args[field]]:
        field = other[0]
        raise WeightsError(f"{weights}: its args say {field} = {args[field]}, its keys {config[field]}; give the file as training left it")
    return {**args, **config}


def drawable(drawing: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of further Settings, checked; a folder is kept in full.

    Raises:
        OptionError: a field or a value that Settings do not have.
    """
    try:
        Settings.model_validate({"resolution": 1, "sampler": "none", "steps": 1, "guidance": 1, "tile": 1, **drawing})
    except ValidationError as error:
        raise OptionError(f"drawing default {fault(error)}; its fields: {', '.join(Settings.model_fields)}") from error
    vae = drawing.get("vae")
    return {**drawing, "vae": str(Path(vae).resolve())} if vae and Path(vae).is_dir() else dict(drawing)


def export(name: str, target: Path, folded: bool, replace: bool = False) -> Path:
    """Writes a registered checkpoint's weights as one .safetensors file that `register` reads back, and returns its path.

    Args:
        replace: write over a file that holds something else.
        folded: the learned matrices moved into the projections; what is written is a checkpoint of the plain encoding.

    Raises:
        OptionError: its backbone or its encoding cannot do that, or the target is no .safetensors. StorageError: the target holds
            something else, or is the weights file itself. WeightsError: weights altered, or
            the folded network's outputs differ.
    """
    found = checkpoint(name)
    if target.suffix != ".safetensors":
        raise OptionError(f"{target} is no .safetensors; give the file that ending")
    backbone = registry.load("backbones", found.backbone)
    if not hasattr(backbone, "export"):
        raise OptionError(f"backbone {found.backbone} has no export; use its weights file as it is")
    state, changed = backbone.export(found, load_weights(weights_path(found), found.sha256), folded)
    facts = found.model_dump(mode="json", exclude_none=True, exclude={"name", "weights", "sha256", "source"})
    check_target(target, weights_path(found))
    with writing(target, replace=replace) as file:
        file.write(weights_bytes(state, {"checkpoint": json.dumps({**facts, **changed}, sort_keys=True)}))
    return target


def _record(name: str, weights: Path, facts: Mapping[str, Any]) -> Checkpoint:
    source = f"harope-bench register {name} --weights {weights.name}"
    try:
        return Checkpoint.model_validate(
            {**facts, "name": name, "weights": str(weights.resolve()), "sha256": sha256_file(weights), "source": source}
        )
    except ValidationError as error:
        raise OptionError(f"checkpoint {name}: {fault(error)}; give another value") from error


def noted(weights: Path) -> dict[str, Any]:
    """What `train` or `export` wrote into the file of the checkpoint; empty for any other file."""
    try:
        facts = json.loads(weights_note(weights).get("checkpoint", "{}"))
    except ValueError:
        return {}
    if not isinstance(facts, dict) or any(not isinstance(facts.get(key, {}), dict) for key in ("options", "config", "drawing")):
        return {}
    return {key: value for key, value in facts.items() if key in Checkpoint.model_fields}


def agreed(known: Mapping[str, Any], said: Mapping[str, Any], weights: Path) -> dict[str, Any]:
    """Both together; OptionError where what is said contradicts what the file tells of the network itself."""
    facts = {**known, **said}
    for key in ("backbone", "encoding"):
        if known.get(key) not in (None, facts.get(key)):
            raise OptionError(f"{weights} holds {known[key]} parameters, not {said[key]}; leave --{key} out or correct it")
    for key in ("options", "config"):
        told, asked = known.get(key, {}), said.get(key, {})
        if other := [field for field in asked if field in told and told[field] != asked[field]]:
            raise OptionError(f"{weights} was made with {other[0]} = {told[other[0]]}, not {asked[other[0]]}; leave it out or correct it")
        facts[key] = {**told, **asked}
    return facts


def recognised(state: Mapping[str, Any], backbone: str | None) -> tuple[str, Any]:
    """The backbone whose keys these are, with what else they tell."""
    for name in [backbone] if backbone else registry.names("backbones"):
        if clue := registry.load("backbones", name).recognise(state):
            return name, clue
    sample = ", ".join(sorted(state)[:3])
    known = ", ".join(registry.names("backbones"))
    raise WeightsError(f"the keys ({sample}, ...) are those of no backbone asked for ({backbone or known}); check the file")
