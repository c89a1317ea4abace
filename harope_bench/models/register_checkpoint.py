"""Making checkpoints known: whatever weights a user has, their facts found or said, tried once, and written as a TOML at home."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harope_bench.core import registry
from harope_bench.core.conditioning import asked_by, check_suite
from harope_bench.core.errors import NameClash, OptionError, WeightsError
from harope_bench.core.json_file import parse_json
from harope_bench.core.schema import Checkpoint, Settings, fault, printable
from harope_bench.core.storage import (
    INDEX_SUFFIX,
    check_target,
    fit,
    load_weights,
    read_weights,
    training_arguments,
    weights_bytes,
    weights_note,
    weights_sha256,
    write_text,
    writing,
)
from harope_bench.models import lora_manifest
from harope_bench.models.checkpoint_folder import Registered, building, settle, toml_path
from harope_bench.models.load_checkpoint import check_settings, checkpoint, plain, weights_path

# Marks in the keys of files that hold a known network under names that are not read here, or no network.
FOREIGN = {
    "double_blocks.": "FLUX under its authors' names; convert them by diffusers' FluxTransformer2DModel.from_single_file",
    "joint_blocks.": "SD3 under its authors' names; convert them by diffusers' SD3Transformer2DModel.from_single_file",
    "lora_": "a LoRA in a torch file; save it as .safetensors",
}
WRAPS = {"model", "net", "network", "module", "ema", "ema_model", "model_ema"}
SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})\.safetensors")


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
    weights = indexed(weights)
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
    said, bundle = _meant(said), lora_manifest.bundle(weights)
    bare = lora_manifest.bare(weights, encoding_weights) if bundle is None else None
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


def indexed(weights: Path) -> Path:
    """Return the index of a folder that holds the shards of one network and no pipeline, else the path itself."""
    if not weights.is_dir() or lora_manifest.bundle(weights) is not None:
        return weights
    inside = sorted(weights.glob(f"*{INDEX_SUFFIX}"))
    if len(inside) == 1:
        return inside[0]
    alone = weights / lora_manifest.SINGLE
    return alone if not inside and alone.is_file() and not lora_manifest.low_rank(alone) else weights


def _meant(said: Mapping[str, Any]) -> dict[str, Any]:
    """What is said without what is not; the folder of a base in full."""
    found = {key: value for key, value in said.items() if value not in (None, {})}
    base = found.get("config", {}).get("base")
    if isinstance(base, str) and Path(base).is_dir():
        found["config"] = {**found["config"], "base": str(Path(base).absolute())}
    return found


def _register_file(name: str, weights: Path, said: Mapping[str, Any]) -> Checkpoint:
    """One file with the whole network."""
    if shard := SHARD.fullmatch(weights.name):
        index = f"{shard[1]}{INDEX_SUFFIX}"
        raise WeightsError(f"{weights} is one of {int(shard[2])} shards; give their index {index}, or their folder")
    state, note = load_weights(weights), noted(weights)
    facts = agreed(note, said, weights)
    facts["backbone"], clue = recognised(state, facts.get("backbone"))
    stated_arguments = arguments(facts["backbone"], weights)
    clue = _relabelled(_trusted(clue, facts, stated_arguments, weights), facts, stated_arguments)
    config = completed(clue.config, stated_arguments, weights)
    told = {"config": config, "options": clue.options, **({"encoding": clue.encoding} if clue.encoding else {})}
    facts = agreed(told, facts, weights)
    if "encoding" not in facts:
        known = ", ".join(registry.names("encodings"))
        raise OptionError(f"the keys of {weights} do not tell the encoding; add --encoding, one of: {known}")
    backbone = registry.load("backbones", facts["backbone"])
    if not note:
        _unnoted(backbone, state, facts)
    usual = usual_settings(backbone, facts["config"], said)
    facts["config"] = {**usual.pop("config", {}), **facts["config"]}
    drawing = note.get("drawing", {}) if note else clue.defaults.get("drawing", {})
    facts["drawing"] = drawable({**usual.get("drawing", {}), **drawing, **said.get("drawing", {})})
    if "base" in facts["config"]:
        lora_manifest.check_loads(lora_manifest.base_folder(str(facts["config"]["base"])), {"transformer"})  # whose weights are in the file
    stated = {**usual, **clue.defaults, **facts}
    found = _record(name, weights, {**_assumed(backbone, stated, weights), **stated})
    _check(found)
    load_once(found, state)
    return found


def _trusted(clue: Any, facts: Mapping[str, Any], stated_arguments: Mapping[str, Any], weights: Path) -> Any:
    """Return the clue, whose keys tell a sampler, unless the file's name says that it is of another network with these keys.

    Raises:
        OptionError: Such a name, no arguments in the file and no sampler stated.
    """
    other = getattr(registry.load("backbones", facts["backbone"]), "lookalikes", None)
    is_guess = "sampler" in clue.defaults and "sampler" not in facts and not stated_arguments
    if other is not None and is_guess and (mark := other.search(weights.stem)):
        raise OptionError(
            f"{weights} has the keys of {facts['backbone']}, and {mark[0]} in its name is a network that predicts something else; "
            "if it is none, add --sampler"
        )
    return clue


def _relabelled(clue: Any, facts: Mapping[str, Any], stated_arguments: Mapping[str, Any]) -> Any:
    """Return the clue with the number of labels that the user, the file's arguments or the suite tells, where its backbone reads it so."""
    backbone = registry.load("backbones", facts["backbone"])
    stated = {**stated_arguments, **facts.get("config", {})}
    told = stated.get("classes")
    if told is None and stated.get("null_label") is False:
        told = int(clue.config["classes"]) + 1
    if told is None and facts.get("suite") in registry.entries("suites"):
        asked = asked_by(facts["suite"])
        told = asked.classes if asked.kind == "labels" else None
    return backbone.relabelled(clue, told) if isinstance(told, int) and hasattr(backbone, "relabelled") else clue


def _assumed(backbone: Any, stated: Mapping[str, Any], weights: Path) -> dict[str, Any]:
    """Return steps and guidance where nobody states them; what the network predicts is never assumed.

    Raises:
        OptionError: A network that generates, and no sampler that tells what it predicts.
    """
    if getattr(backbone, "task", "draw") != "draw":
        return {}
    if "sampler" not in stated:
        known = ", ".join(f"{name} ({registry.load('samplers', name).predicts})" for name in registry.names("samplers"))
        raise OptionError(f"{weights} does not tell what its network predicts; add the --sampler that it was trained for: {known}")
    return {"steps": 50, "guidance": 1.0}


def _check(found: Checkpoint) -> None:
    """Raise OptionError for defaults without meaning and for a suite that the network cannot serve."""
    check_settings(found, _settings_of(found))
    if found.suite is not None:
        check_suite(found, found.suite)


def _settings_of(found: Checkpoint) -> dict[str, Any]:
    """Return the defaults of a checkpoint as Settings, by field."""
    return {"sampler": found.sampler, "steps": found.steps, "guidance": found.guidance, **found.drawing}


def usual_settings(backbone: Any, config: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of Checkpoint that the backbone's base is published with; empty for a backbone without a base."""
    if not hasattr(backbone, "usual_settings"):
        return {}
    usual: dict[str, Any] = backbone.usual_settings(config, stated)
    return usual


def process_lines(found: Checkpoint) -> tuple[str, ...]:
    """Return in two lines what a registered checkpoint is taken for: prediction, sampler and guidance; conditioning and resolution."""
    predicts, taken, side = registry.load("backbones", found.backbone).process(found)
    guidance = "no guidance" if found.guidance is None else f"guidance {found.guidance:g}"
    how = f"; sampler {found.sampler}, {found.steps} steps, {guidance}" if found.sampler else ""
    more = "".join(f", {field} {value}" for field, value in sorted(found.drawing.items()) if field != "vae")
    trained = f"trained at {side} px" if side else "resolution at training not known"
    lines = (f"predicts {predicts}{how}{more}", f"takes {taken}; {trained}; encoding {found.encoding}")
    path = weights_path(found)
    if path.name == lora_manifest.MANIFEST or not (unwrapped := read_weights(path)).taken:
        return lines
    return (*lines, str(unwrapped))


def _unnoted(backbone: Any, state: Mapping[str, Any], facts: dict[str, Any]) -> None:
    """What only the network's publishers can tell of foreign weights: doubts about what is said, and options nobody said."""
    if hasattr(backbone, "doubts"):
        backbone.doubts(state, facts["encoding"], facts["config"])
    if hasattr(backbone, "usual"):
        facts["options"] = {**backbone.usual(facts["encoding"]), **facts.get("options", {})}


def _register_folder(name: str, bundle: Path, said: Mapping[str, Any]) -> Checkpoint:
    """An adapter folder, by its manifest."""
    manifest = lora_manifest.read(bundle)
    backbone = registry.load("backbones", manifest.backbone)
    known = {
        "backbone": manifest.backbone,
        "encoding": manifest.encoding,
        "options": manifest.options,
        "config": {"tokens": manifest.tokens},
    }
    facts = agreed(known, said, bundle)
    facts["config"] = {"base": manifest.base.id, **facts["config"]}
    usual = usual_settings(backbone, facts["config"], said)
    facts["config"] = {**usual.pop("config", {}), **facts["config"]}
    facts["drawing"] = drawable({**usual.get("drawing", {}), **said.get("drawing", {})})
    found = _record(name, bundle, {**usual, **facts})
    lora_manifest.check_loads(lora_manifest.base_folder(str(found.config["base"])))
    _check(found)
    backbone.check_folder(found, bundle)
    return found


def _drawing_with(folder: Path) -> tuple[str, Any]:
    """The backbone that draws with a pipeline of this kind."""
    kind = lora_manifest.pipeline_class(folder)
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
    manifest = lora_manifest.Manifest(
        backbone=name,
        base=lora_manifest.describe(base, base.resolve().name),
        encoding=encoding,
        options={**options, **said.get("options", {})},
        tokens=said.get("config", {}).get("tokens", "all"),
    )
    target = folder / lora_manifest.MANIFEST
    write_text(target, manifest.to_json(indent=1) + "\n")
    return target


def _manifest_of_lora(folder: Path, bare: lora_manifest.Bare, said: Mapping[str, Any]) -> Path:
    """Writes an adapter folder of a LoRA without manifest, which must be told its base."""
    base = said.get("config", {}).get("base")
    if base is None:
        raise OptionError(f"{bare.lora} is a LoRA and does not say of what; add --config base=FOLDER, its pipeline's folder or hub id")
    name, backbone = _drawing_with(lora_manifest.base_folder(str(base)))
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


def arguments(backbone: str, weights: Path) -> dict[str, Any]:
    """Return the sizes that a training file's own arguments state.

    Raises:
        WeightsError: They name a network that the backbone is not.
    """
    stated, plugin = training_arguments(weights), registry.load("backbones", backbone)
    if hasattr(plugin, "recall"):
        try:
            recalled: dict[str, Any] = plugin.recall(stated)
        except WeightsError as error:
            raise WeightsError(f"{weights}: {error}") from error
        return recalled
    if "model" in stated:
        raise WeightsError(f"{weights} was trained as {printable(str(stated['model']))}, and backbone {backbone} knows no training files")
    return {}


def completed(config: Mapping[str, Any], args: Mapping[str, Any], weights: Path) -> dict[str, Any]:
    """Return the sizes of the keys with those of the arguments; WeightsError where the two contradict each other."""
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
            {**facts, "name": name, "weights": str(weights.resolve()), "sha256": weights_sha256(weights), "source": source}
        )
    except ValidationError as error:
        raise OptionError(f"checkpoint {name}: {fault(error)}; give another value") from error


def noted(weights: Path) -> dict[str, Any]:
    """What `train` or `export` wrote into the file of the checkpoint; empty for any other file."""
    try:
        facts = parse_json(weights_note(weights).get("checkpoint", "{}"))
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
    if form := next((words for mark, words in FOREIGN.items() if any(mark in key for key in state)), None):
        raise WeightsError(f"these weights are {form}")
    sample = ", ".join(sorted(state)[:3])
    known = ", ".join(registry.names("backbones"))
    parts = sorted({key.split(".")[0] for key in state})
    more = f"; a network under one of {', '.join(parts[:5])} must be saved alone" if len(parts) > 1 and set(parts) & WRAPS else ""
    raise WeightsError(f"the keys ({sample}, ...) are those of no backbone asked for ({backbone or known}); check the file{more}")
