"""Making checkpoints known: whatever weights a user has, their facts found or said, tried once, and
written as a TOML at home.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import ValidationError

from harope_bench.core import registry
from harope_bench.core.conditioning import check_checkpoint_suite
from harope_bench.core.errors import NameClashError, OptionError, WeightsError
from harope_bench.core.record_base import Option, validation_summary
from harope_bench.core.schema import Checkpoint, Settings
from harope_bench.core.state_dicts import INDEX_SUFFIX, load_weights, read_weights, weights_sha256
from harope_bench.core.storage import write_text
from harope_bench.models import lora_manifest
from harope_bench.models.backbones.base import (
    AdapterBackbone,
    Backbone,
    load_adapter_backbone,
    load_backbone,
)
from harope_bench.models.checkpoint_fields import CheckpointFields, drop_empty_fields
from harope_bench.models.checkpoint_folder import (
    Registration,
    scratch_folder,
    toml_path,
    write_registration,
)
from harope_bench.models.load_checkpoint import (
    SettingValue,
    check_name,
    check_settings,
    weights_path,
)
from harope_bench.models.samplers.base import load_sampler
from harope_bench.models.weights_metadata import (
    apply_class_count,
    check_file_name,
    config_of_training_file,
    find_backbone,
    merge_config,
    merge_fields,
    read_checkpoint_note,
)

if TYPE_CHECKING:
    from torch import Tensor

    from harope_bench.models.backbones.encoded_network import EncodedNetwork

SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})\.safetensors")


def register(
    name: str,
    weights: Path,
    said: CheckpointFields,
    encoding_weights: Path | None = None,
    replace: bool = False,
) -> Path:
    """Return the path of the TOML that `register_once` writes."""
    return register_checkpoint(name, weights, said, encoding_weights, replace).path


def register_checkpoint(
    name: str,
    weights: Path,
    said: CheckpointFields,
    encoding_weights: Path | None = None,
    replace: bool = False,
) -> Registration:
    """Write the checkpoint's TOML into the user's home; the same weights and facts again change
    nothing.

    Facts are taken from the note that `train` and `export` leave in the file, from the keys, from
    the arguments that a training
    file keeps, and from what is said (fields of Checkpoint; None is not said). The network is built
    and strictly loaded once, so that
    what is registered runs.

    Args:
        weights: a file of weights, an adapter folder, a pipeline's folder, or a LoRA without
            manifest (a file, or a folder that holds
            one), whose manifest is then written beside a copy at home. encoding_weights: for such a
            LoRA alone.
        replace: take the name from another checkpoint of the user's.

    Raises:
        NameClash: the name has other weights or facts.
        WeightsError: keys do not fit, or contradict the training file's arguments. OptionError:
            something that nothing tells, or that is said in contradiction to the file.
    """
    check_name(name)
    weights = resolve_shard_index(weights)
    entry = registry.list_entries("checkpoints").get(name)
    if entry is not None and entry.path != toml_path(name):
        raise NameClashError(
            f"checkpoint {name!r} is registered already ({entry.origin}); choose another name"
        )
    try:
        return _register(name, weights, said, encoding_weights, replace)
    except (OptionError, WeightsError) as error:
        if entry is None or replace:
            raise
        raise NameClashError(
            f"checkpoint {name!r} is registered already ({entry.origin}), and this is not the same:"
            f" {error}"
        ) from error


def _register(
    name: str, weights: Path, said: CheckpointFields, encoding_weights: Path | None, replace: bool
) -> Registration:
    said = _resolve_user_fields(said)
    bundle = lora_manifest.find_manifest_or_pipeline(weights)
    bare = lora_manifest.find_lora_files(weights, encoding_weights) if bundle is None else None
    if encoding_weights is not None and bare is None:
        raise OptionError(
            f"{weights} is no LoRA without manifest, and only such a one takes --encoding-weights;"
            " leave it out"
        )
    if bare is not None:
        with scratch_folder(name) as folder:
            return write_registration(
                _register_folder(name, _manifest_of_lora(folder, bare, said), said), replace, folder
            )
    if bundle is not None and bundle.is_dir():
        said["config"] = {"base": str(bundle.resolve()), **said.get("config", {})}
        with scratch_folder(name) as folder:
            return write_registration(
                _register_folder(name, _manifest_of_base(folder, bundle, said), said),
                replace,
                folder,
            )
    found = (
        _register_folder(name, bundle, said)
        if bundle is not None
        else _register_file(name, weights, said)
    )
    return write_registration(found, replace)


def resolve_shard_index(weights: Path) -> Path:
    """Return the index of a folder that holds the shards of one network and no pipeline, else the
    path itself.
    """
    if not weights.is_dir() or lora_manifest.find_manifest_or_pipeline(weights) is not None:
        return weights
    inside = sorted(weights.glob(f"*{INDEX_SUFFIX}"))
    if len(inside) == 1:
        return inside[0]
    alone = weights / lora_manifest.SINGLE_FILE
    return (
        alone
        if not inside and alone.is_file() and not lora_manifest.is_lora_file(alone)
        else weights
    )


def _resolve_user_fields(said: CheckpointFields) -> CheckpointFields:
    """What is said without what is not; the folder of a base in full."""
    found = drop_empty_fields(said)
    base = found.get("config", {}).get("base")
    if isinstance(base, str) and Path(base).is_dir():
        found["config"] = {**found["config"], "base": str(Path(base).absolute())}
    return found


def _register_file(name: str, weights: Path, said: CheckpointFields) -> Checkpoint:
    """One file with the whole network."""
    if shard := SHARD.fullmatch(weights.name):
        index = f"{shard[1]}{INDEX_SUFFIX}"
        raise WeightsError(
            f"{weights} is one of {int(shard[2])} shards; give their index {index}, or their folder"
        )
    state = load_weights(weights)
    note = read_checkpoint_note(weights)
    facts = merge_fields(note, said, weights)
    facts["backbone"], clue = find_backbone(state, facts.get("backbone"))
    stated_arguments = config_of_training_file(facts["backbone"], weights)
    clue = apply_class_count(
        check_file_name(clue, facts, stated_arguments, weights), facts, stated_arguments
    )
    config = merge_config(clue.config, stated_arguments, weights)
    told: CheckpointFields = {"config": config, "options": clue.options}
    if clue.encoding:
        told["encoding"] = clue.encoding
    facts = merge_fields(told, facts, weights)
    if "encoding" not in facts:
        known = ", ".join(registry.list_names("encodings"))
        raise OptionError(
            f"the keys of {weights} do not tell the encoding; add --encoding, one of: {known}"
        )
    backbone = load_backbone(facts["backbone"])
    if not note:
        _complete_foreign_fields(backbone, state, facts)
    usual = backbone.published_defaults(facts["config"], said)
    facts["config"] = {**usual.pop("config", {}), **facts["config"]}
    drawing = note.get("drawing", {}) if note else clue.defaults.get("drawing", {})
    facts["drawing"] = check_settings_defaults(
        {**usual.get("drawing", {}), **drawing, **said.get("drawing", {})}
    )
    if "base" in facts["config"]:
        lora_manifest.check_base_loads(
            lora_manifest.find_base_folder(str(facts["config"]["base"])), {"transformer"}
        )  # whose weights are in the file
    stated: CheckpointFields = {**usual, **clue.defaults, **facts}
    found = _make_checkpoint(
        name, weights, {**_default_sampling(backbone, stated, weights), **stated}
    )
    _check(found)
    check_weights_load(found, state)
    return found


def _default_sampling(
    backbone: Backbone[EncodedNetwork], stated: CheckpointFields, weights: Path
) -> CheckpointFields:
    """Return steps and guidance where nobody states them; what the network predicts is never
    assumed.

    Raises:
        OptionError: A network that generates, and no sampler that tells what it predicts.
    """
    if backbone.task != "generate":
        return {}
    if "sampler" not in stated:
        known = ", ".join(
            f"{name} ({load_sampler(name).prediction_type})"
            for name in registry.list_names("samplers")
        )
        raise OptionError(
            f"{weights} does not tell what its network predicts; add the --sampler that it was"
            f" trained for: {known}"
        )
    return {"steps": 50, "guidance": 1.0}


def _check(found: Checkpoint) -> None:
    """Raise OptionError for defaults without meaning and for a suite that the network cannot
    serve.
    """
    check_settings(found, _default_settings(found))
    if found.suite is not None:
        check_checkpoint_suite(found, found.suite)


def _default_settings(found: Checkpoint) -> dict[str, SettingValue]:
    """Return the defaults of a checkpoint as Settings, by field."""
    return {
        "sampler": found.sampler,
        "steps": found.steps,
        "guidance": found.guidance,
        **found.drawing,
    }


def description_lines(found: Checkpoint) -> tuple[str, ...]:
    """Return in two lines what a registered checkpoint is taken for: prediction, sampler and
    guidance; conditioning and resolution.
    """
    predicts, taken, side = load_backbone(found.backbone).describe_network(found)
    guidance = "no guidance" if found.guidance is None else f"guidance {found.guidance:g}"
    how = f"; sampler {found.sampler}, {found.steps} steps, {guidance}" if found.sampler else ""
    more = "".join(
        f", {field} {value}" for field, value in sorted(found.drawing.items()) if field != "vae"
    )
    trained = f"trained at {side} px" if side else "resolution at training not known"
    lines = (
        f"predicts {predicts}{how}{more}",
        f"takes {taken}; {trained}; encoding {found.encoding}",
    )
    path = weights_path(found)
    if path.name == lora_manifest.MANIFEST or not (unwrapped := read_weights(path)).wrappers:
        return lines
    return (*lines, str(unwrapped))


def _complete_foreign_fields(
    backbone: Backbone[EncodedNetwork], state: Mapping[str, Tensor], facts: CheckpointFields
) -> None:
    """What only the network's publishers can tell of foreign weights: doubts about what is said,
    and options nobody said.
    """
    backbone.check_foreign_weights(state, facts["encoding"], facts["config"])
    facts["options"] = {**backbone.default_options(facts["encoding"]), **facts.get("options", {})}


def _register_folder(name: str, bundle: Path, said: CheckpointFields) -> Checkpoint:
    """An adapter folder, by its manifest."""
    manifest = lora_manifest.read_manifest(bundle)
    backbone = load_adapter_backbone(manifest.backbone)
    known: CheckpointFields = {
        "backbone": manifest.backbone,
        "encoding": manifest.encoding,
        "options": manifest.options,
        "config": {"tokens": manifest.encoded_tokens},
    }
    facts = merge_fields(known, said, bundle)
    facts["config"] = {"base": manifest.base.id, **facts["config"]}
    usual = backbone.published_defaults(facts["config"], said)
    facts["config"] = {**usual.pop("config", {}), **facts["config"]}
    facts["drawing"] = check_settings_defaults(
        {**usual.get("drawing", {}), **said.get("drawing", {})}
    )
    found = _make_checkpoint(name, bundle, {**usual, **facts})
    lora_manifest.check_base_loads(lora_manifest.find_base_folder(str(found.config["base"])))
    _check(found)
    backbone.check_folder(found, bundle)
    return found


class _NamedBackbone(NamedTuple):
    """The backbone that draws with a pipeline of some kind, and its name."""

    name: str
    backbone: AdapterBackbone[EncodedNetwork]


def _find_pipeline_backbone(folder: Path) -> _NamedBackbone:
    """The backbone that draws with a pipeline of this kind."""
    kind = lora_manifest.pipeline_class_name(folder)
    for name in registry.list_names("backbones"):
        backbone = load_backbone(name)
        if isinstance(backbone, AdapterBackbone) and backbone.pipeline_class_name == kind:
            return _NamedBackbone(name, backbone)
    raise WeightsError(
        f"{folder} holds a {kind}, which no backbone draws with; known:"
        f" {', '.join(registry.list_names('backbones'))}"
    )


def _manifest_of_base(folder: Path, base: Path, said: CheckpointFields) -> Path:
    """Writes the manifest of a pipeline without adapter; its encoding is the base's own unless
    said, and may have no weights.
    """
    name, backbone = _find_pipeline_backbone(base)
    encoding, options = backbone.base_encoding
    if said.get("encoding", encoding) != encoding:
        encoding = said["encoding"]
        options = {}
    manifest = lora_manifest.AdapterManifest(
        backbone=name,
        base=lora_manifest.describe_base(base, base.resolve().name),
        encoding=encoding,
        options={**options, **said.get("options", {})},
        encoded_tokens=said.get("config", {}).get("tokens", "all"),
    )
    target = folder / lora_manifest.MANIFEST
    write_text(target, manifest.to_json(indent=1) + "\n")
    return target


def _manifest_of_lora(folder: Path, bare: lora_manifest.LoraFiles, said: CheckpointFields) -> Path:
    """Writes an adapter folder of a LoRA without manifest, which must be told its base."""
    base = said.get("config", {}).get("base")
    if base is None:
        raise OptionError(
            f"{bare.lora_file} is a LoRA and does not say of what; add --config base=FOLDER, its"
            " pipeline's folder or hub id"
        )
    name, backbone = _find_pipeline_backbone(lora_manifest.find_base_folder(str(base)))
    if said.get("backbone", name) != name:
        raise OptionError(
            f"base {base} is a pipeline of {name}, not {said['backbone']}; leave --backbone out or"
            " give another base"
        )
    return backbone.create_adapter_folder(folder, bare, str(base), said)


def check_weights_load(found: Checkpoint, state: Mapping[str, Tensor]) -> None:
    """Builds the checkpoint's network and loads it strictly; WeightsError where keys do not fit."""
    load_backbone(found.backbone).load(found, state)


def check_settings_defaults(drawing: Mapping[str, Option]) -> dict[str, Option]:
    """Defaults of further Settings, checked; a folder is kept in full.

    Raises:
        OptionError: a field or a value that Settings do not have.
    """
    try:
        Settings.model_validate(
            {"resolution": 1, "sampler": "none", "steps": 1, "guidance": 1, "tile": 1, **drawing}
        )
    except ValidationError as error:
        raise OptionError(
            f"drawing default {validation_summary(error)}; its fields:"
            f" {', '.join(Settings.model_fields)}"
        ) from error
    vae = drawing.get("vae")
    return (
        {**drawing, "vae": str(Path(vae).resolve())}
        if isinstance(vae, str) and vae and Path(vae).is_dir()
        else dict(drawing)
    )


def _make_checkpoint(name: str, weights: Path, facts: CheckpointFields) -> Checkpoint:
    source = f"harope-bench register {name} --weights {weights.name}"
    try:
        return Checkpoint.model_validate(
            {
                **facts,
                "name": name,
                "weights": str(weights.resolve()),
                "sha256": weights_sha256(weights),
                "source": source,
            }
        )
    except ValidationError as error:
        raise OptionError(
            f"checkpoint {name}: {validation_summary(error)}; give another value"
        ) from error
