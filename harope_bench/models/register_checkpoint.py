"""Registration of checkpoints: any weights that a user has become a checkpoint with a name.

The fields of the checkpoint come from the file and from the user. The network is built and loaded
once, and the checkpoint is written as a TOML into the user's home.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import ValidationError

from harope_bench.assets.hub import ModelId, parse_model_id, require_snapshot
from harope_bench.core import registry
from harope_bench.core.conditioning import check_checkpoint_suite
from harope_bench.core.errors import NameClashError, OptionError, WeightsError
from harope_bench.core.record_base import Option, validation_summary
from harope_bench.core.schema import Checkpoint, Settings
from harope_bench.core.state_dicts import INDEX_SUFFIX, load_weights, read_weights, weights_sha256
from harope_bench.core.storage import convert_os_errors, write_text
from harope_bench.models import lora_manifest, register_pipeline
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
from harope_bench.models.endpoints.register_endpoint import (
    endpoint_lines,
    make_endpoint_checkpoint,
)
from harope_bench.models.load_checkpoint import (
    SettingValue,
    check_settings,
    find_weights_path,
    validate_user_name,
)
from harope_bench.models.pipeline_manifest import BACKBONE, MODULAR_INDEX
from harope_bench.models.register_pipeline import Trial, repeatability_text
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
    weights_path: Path | str,
    user_fields: CheckpointFields,
    encoding_path: Path | None = None,
    replace: bool = False,
) -> Path:
    """Register a checkpoint, and return its TOML; see `register_checkpoint`."""
    return register_checkpoint(name, weights_path, user_fields, encoding_path, replace).path


def register_checkpoint(
    name: str,
    weights_path: Path | str,
    user_fields: CheckpointFields,
    encoding_path: Path | None = None,
    replace: bool = False,
    trial: Trial | None = None,
) -> Registration:
    """Write a checkpoint's TOML into the user's home; repeating a registration changes nothing.

    Fields come from the metadata that `train` and `export` write into a file, from the keys, from
    a training file's arguments, and from the user. The network is built and strictly loaded once,
    so that every registered checkpoint runs.

    Args:
        weights: A file of weights, an adapter folder, the folder of a pipeline, or a LoRA without
            manifest (a file, or a folder with one). For the last, a manifest and a copy are
            written into the user's home. A text is the address of an image endpoint, which
            generates three images at once.
        user_fields: Fields of Checkpoint that the user states; None is not stated.
        encoding_weights: Weights of the encoding, for a LoRA without manifest alone.
        replace: Replace another checkpoint of the user with this name.
        trial: Where the trial images of a pipeline that is run as it is are generated.

    Raises:
        NameClashError: The name belongs to another checkpoint.
        MissingAssetError: `weights` is a hub id, and the model is not in the local cache.
        WeightsError: Keys do not fit, or contradict the training file's arguments.
        OptionError: A needed field is not stated, or the user's fields contradict the file.
    """
    validate_user_name(name)
    entry = registry.list_entries("checkpoints").get(name)
    if entry is not None and entry.path != toml_path(name):
        raise NameClashError(
            f"checkpoint {name!r} is registered already ({entry.origin}); choose another name"
        )
    if isinstance(weights_path, str):
        checkpoint = make_endpoint_checkpoint(name, weights_path, drop_empty_fields(user_fields))
        return write_registration(checkpoint, replace)
    _require_address(weights_path, user_fields)
    model = find_hub_model(weights_path)
    weights_path = resolve_weights_path(weights_path)
    try:
        if is_plain_pipeline(weights_path):
            title = weights_path.resolve().name if model is None else model.repository
            return _register_pipeline(
                name, weights_path, title, user_fields, replace, trial or Trial()
            )
        return _register(name, weights_path, user_fields, encoding_path, replace)
    except (OptionError, WeightsError) as error:
        if entry is None or replace:
            raise
        raise NameClashError(
            f"checkpoint {name!r} is registered already ({entry.origin}), and this is not the same:"
            f" {error}"
        ) from error


def find_hub_model(weights_path: Path) -> ModelId | None:
    """Return the model of the hub that a path names; None if it exists or can be no id.

    A path in an existing folder is one that is missing.
    """
    if weights_path.exists() or weights_path.parent.is_dir():
        return None
    return parse_model_id(weights_path.as_posix())


def resolve_weights_path(weights_path: Path) -> Path:
    """Return the path of weights: of a model of the hub its local copy, of shards their index.

    Raises:
        MissingAssetError: The model is not in the local cache.
    """
    model = find_hub_model(weights_path)
    return resolve_shard_index(weights_path if model is None else require_snapshot(model))


def is_plain_pipeline(weights_path: Path) -> bool:
    """Return whether a folder contains a pipeline of diffusers that is run as it is."""
    if (weights_path / lora_manifest.MANIFEST).is_file():
        return False
    has_index = any(
        (weights_path / name).is_file() for name in (lora_manifest.PIPELINE_INDEX, MODULAR_INDEX)
    )
    return has_index and not register_pipeline.has_own_backbone(weights_path)


def _register_pipeline(
    name: str,
    folder: Path,
    title: str,
    user_fields: CheckpointFields,
    replace: bool,
    trial: Trial,
) -> Registration:
    """Register a pipeline of diffusers that is run as it is.

    Args:
        title: Hub id, or the name of the folder.
    """
    user_fields = drop_empty_fields(user_fields)
    with scratch_folder(name) as scratch:
        manifest, fields = register_pipeline.prepare_pipeline(scratch, folder, title, user_fields)
        drawing = fields.get("drawing", {})
        validate_default_settings({k: v for k, v in drawing.items() if k in Settings.model_fields})
        checkpoint = _make_checkpoint(name, manifest, fields)
        source = f"harope-bench register {name} --weights {title}"
        checkpoint = checkpoint.model_copy(update={"source": source})
        _check(checkpoint)
        checkpoint = register_pipeline.with_trial(checkpoint, manifest, trial)
        return write_registration(checkpoint, replace, scratch)


def _require_address(weights_path: Path, user_fields: CheckpointFields) -> None:
    """Raise OptionError for the path of a file where a backbone needs an address."""
    backbone = user_fields.get("backbone")
    if backbone is not None and not load_backbone(backbone).has_weights_file:
        raise OptionError(
            f"backbone {backbone} has no weights file, found {weights_path}; give the address of"
            " an image endpoint (http://HOST:PORT) to images-api, or leave --backbone out"
        )


def unregister_checkpoint(name: str) -> Path:
    """Remove the registration of a user's checkpoint; return the path of the removed TOML file.

    The weights stay where they are.

    Raises:
        UnknownNameError: No checkpoint has this name.
        OptionError: The checkpoint is part of the package.
    """
    entry = registry.find_entry("checkpoints", name)
    path = toml_path(name)
    if entry.path != path:
        raise OptionError(
            f"checkpoint {name} is part of {entry.origin} and cannot be unregistered; only your own"
            " checkpoints can"
        )
    with convert_os_errors(path):
        path.unlink()
    return path


def _register(
    name: str,
    weights_path: Path,
    user_fields: CheckpointFields,
    encoding_path: Path | None,
    replace: bool,
) -> Registration:
    """Register what a path contains; see `register_checkpoint`."""
    user_fields = _resolve_user_fields(user_fields)
    manifest_or_pipeline = lora_manifest.find_manifest_or_pipeline(weights_path)
    lora_files = None
    if manifest_or_pipeline is None:
        lora_files = lora_manifest.find_lora_files(weights_path, encoding_path)
    if encoding_path is not None and lora_files is None:
        raise OptionError(
            f"--encoding-weights is for a LoRA without manifest, {weights_path} is none; leave it"
            " out"
        )

    # A LoRA without manifest: its manifest is written first.
    if lora_files is not None:
        with scratch_folder(name) as folder:
            manifest = _manifest_of_lora(folder, lora_files, user_fields)
            checkpoint = _register_folder(name, manifest, user_fields)
            return write_registration(checkpoint, replace, folder)

    # A file with a whole network.
    if manifest_or_pipeline is None:
        return write_registration(_register_file(name, weights_path, user_fields), replace)

    # A pipeline without adapter: its manifest is written first.
    if manifest_or_pipeline.is_dir():
        base = str(manifest_or_pipeline.resolve())
        user_fields["config"] = {"base": base, **user_fields.get("config", {})}
        with scratch_folder(name) as folder:
            manifest = _manifest_of_base(folder, manifest_or_pipeline, user_fields)
            checkpoint = _register_folder(name, manifest, user_fields)
            return write_registration(checkpoint, replace, folder)

    # An adapter folder.
    checkpoint = _register_folder(name, manifest_or_pipeline, user_fields)
    return write_registration(checkpoint, replace)


def resolve_shard_index(weights_path: Path) -> Path:
    """Return the index, or the one weights file, of a folder with one network.

    Returns:
        The path itself for a file, a pipeline, an adapter folder or a folder of something else.
    """
    if (
        not weights_path.is_dir()
        or lora_manifest.find_manifest_or_pipeline(weights_path) is not None
    ):
        return weights_path
    index_paths = sorted(weights_path.glob(f"*{INDEX_SUFFIX}"))
    if len(index_paths) == 1:
        return index_paths[0]

    single_file = weights_path / lora_manifest.SINGLE_FILE
    has_network = single_file.is_file() and not lora_manifest.is_lora_file(single_file)
    return single_file if not index_paths and has_network else weights_path


def _resolve_user_fields(user_fields: CheckpointFields) -> CheckpointFields:
    """Return the fields that the user states, with an absolute path of a base model's folder."""
    fields = drop_empty_fields(user_fields)
    base = fields.get("config", {}).get("base")
    if isinstance(base, str) and Path(base).is_dir():
        fields["config"] = {**fields["config"], "base": str(Path(base).absolute())}
    return fields


def _register_file(name: str, weights_path: Path, user_fields: CheckpointFields) -> Checkpoint:
    """Return the checkpoint of one file with a whole network, after loading it once."""
    shard = SHARD.fullmatch(weights_path.name)
    if shard:
        raise WeightsError(
            f"{weights_path} is one of {int(shard[2])} shards; give their index"
            f" {shard[1]}{INDEX_SUFFIX}, or their folder"
        )

    state_dict = load_weights(weights_path)
    note = read_checkpoint_note(weights_path)
    fields, default_fields = _detect_file_fields(state_dict, note, user_fields, weights_path)
    backbone = load_backbone(fields["backbone"])
    if not note:
        _complete_foreign_fields(backbone, state_dict, fields)

    # Fields that are not stated are taken from the published network.
    published_defaults = backbone.published_defaults(fields["config"], user_fields)
    fields["config"] = {**published_defaults.pop("config", {}), **fields["config"]}
    detected_drawing = {} if note else default_fields.get("drawing", {})
    fields["drawing"] = validate_default_settings(
        {
            **detected_drawing,
            **published_defaults.get("drawing", {}),
            **note.get("drawing", {}),
            **user_fields.get("drawing", {}),
        }
    )
    if "base" in fields["config"]:
        # The transformer's weights are in the file, the other components in the base's folder.
        base_folder = lora_manifest.find_base_folder(str(fields["config"]["base"]))
        lora_manifest.check_base_loads(base_folder, {"transformer"})

    stated_fields: CheckpointFields = {**default_fields, **published_defaults, **fields}
    sampling = _default_sampling(backbone, stated_fields, weights_path)
    checkpoint = _make_checkpoint(name, weights_path, {**sampling, **stated_fields})
    _check(checkpoint)
    check_weights_load(checkpoint, state_dict)
    return checkpoint


def _detect_file_fields(
    state_dict: Mapping[str, Tensor],
    note_fields: CheckpointFields,
    user_fields: CheckpointFields,
    weights_path: Path,
) -> tuple[CheckpointFields, CheckpointFields]:
    """Merge the fields that a file and the user state with those detected from parameter names.

    Returns:
        The merged fields, and the default fields of the detected network.

    Args:
        note_fields: Fields in the file's metadata.

    Raises:
        OptionError: Nothing reveals the encoding.
    """
    fields = merge_fields(note_fields, user_fields, weights_path)
    fields["backbone"], detected_fields = find_backbone(state_dict, fields.get("backbone"))
    training_args = config_of_training_file(fields["backbone"], weights_path)
    check_file_name(detected_fields, fields, training_args, weights_path)
    detected_fields = apply_class_count(detected_fields, fields, training_args)

    file_fields: CheckpointFields = {
        "config": merge_config(detected_fields.config, training_args, weights_path),
        "options": detected_fields.options,
    }
    if detected_fields.encoding:
        file_fields["encoding"] = detected_fields.encoding
    fields = merge_fields(file_fields, fields, weights_path)
    if "encoding" not in fields:
        raise OptionError(
            f"the keys of {weights_path} do not reveal the encoding; add --encoding, one of:"
            f" {', '.join(registry.list_names('encodings'))}"
        )
    return fields, detected_fields.defaults


def _default_sampling(
    backbone: Backbone[EncodedNetwork], stated_fields: CheckpointFields, weights_path: Path
) -> CheckpointFields:
    """Return steps and guidance for a network whose sampler is known.

    Raises:
        OptionError: The sampler of a network that generates is not stated. It is never assumed,
            because it decides what the prediction means.
    """
    if backbone.task != "generate":
        return {}
    if "sampler" not in stated_fields:
        samplers = ", ".join(
            f"{name} ({load_sampler(name).prediction_type})"
            for name in registry.list_names("samplers")
        )
        raise OptionError(
            f"{weights_path} does not reveal what its network predicts; add the --sampler that it"
            f" was trained for: {samplers}"
        )
    return {"steps": 50, "guidance": 1.0}


def _check(checkpoint: Checkpoint) -> None:
    """Raise OptionError for defaults that do not apply, or a suite that the network cannot
    serve.
    """
    check_settings(checkpoint, _default_settings(checkpoint))
    if checkpoint.suite is not None:
        check_checkpoint_suite(checkpoint, checkpoint.suite)


def _default_settings(checkpoint: Checkpoint) -> dict[str, SettingValue]:
    """Return a checkpoint's default settings by field."""
    return {
        "sampler": checkpoint.sampler,
        "steps": checkpoint.steps,
        "guidance": checkpoint.guidance,
        **checkpoint.drawing,
    }


def description_lines(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the lines that `register` prints of a checkpoint.

    They state prediction type and sampling, then conditioning, resolution and encoding, then the
    entry of the file that contains the network, if there is one.
    """
    backbone = load_backbone(checkpoint.backbone)
    if not backbone.has_weights_file:
        return endpoint_lines(checkpoint)
    description = backbone.describe_network(checkpoint)

    sampling = ""
    if checkpoint.sampler or checkpoint.steps:
        guidance = "no guidance"
        if checkpoint.guidance is not None:
            guidance = f"guidance {checkpoint.guidance:g}"
        sampler = checkpoint.sampler or "of the pipeline"
        sampling = f"; sampler {sampler}, {checkpoint.steps} steps, {guidance}"
    settings = "".join(
        f", {field} {value}"
        for field, value in sorted(checkpoint.drawing.items())
        if field != "vae"
    )

    resolution = "resolution at training not known"
    if description.resolution:
        resolution = f"trained at {description.resolution} px"
    lines: tuple[str, ...] = (
        f"predicts {description.prediction_type}{sampling}{settings}",
        f"takes {description.conditioning}; {resolution}; encoding {checkpoint.encoding}",
    )

    path = find_weights_path(checkpoint)
    if checkpoint.backbone == BACKBONE:
        return (*lines, repeatability_text(checkpoint))
    if path.name == lora_manifest.MANIFEST:
        return lines
    unwrapped_weights = read_weights(path)
    if unwrapped_weights.wrappers:
        lines = (*lines, str(unwrapped_weights))
    ignored_keys = load_backbone(checkpoint.backbone).describe_ignored_keys(unwrapped_weights.state)
    return (*lines, ignored_keys) if ignored_keys else lines


def _complete_foreign_fields(
    backbone: Backbone[EncodedNetwork],
    state_dict: Mapping[str, Tensor],
    fields: CheckpointFields,
) -> None:
    """Check weights that this package did not write, and add published options, in place.

    Args:
        fields: Fields of the new checkpoint. Missing options of the encoding are added to it.
    """
    backbone.check_foreign_weights(state_dict, fields["encoding"], fields["config"])
    default_options = backbone.default_options(fields["encoding"])
    fields["options"] = {**default_options, **fields.get("options", {})}


def _register_folder(name: str, manifest_path: Path, user_fields: CheckpointFields) -> Checkpoint:
    """Return the checkpoint of an adapter folder, after comparing it with its base model."""
    manifest = lora_manifest.read_manifest(manifest_path)
    backbone = load_adapter_backbone(manifest.backbone)
    file_fields: CheckpointFields = {
        "backbone": manifest.backbone,
        "encoding": manifest.encoding,
        "options": manifest.options,
        "config": {"encoded_tokens": manifest.encoded_tokens},
    }
    fields = merge_fields(file_fields, user_fields, manifest_path)
    fields["config"] = {"base": manifest.base.id, **fields["config"]}

    published_defaults = backbone.published_defaults(fields["config"], user_fields)
    fields["config"] = {**published_defaults.pop("config", {}), **fields["config"]}
    fields["drawing"] = validate_default_settings(
        {**published_defaults.get("drawing", {}), **user_fields.get("drawing", {})}
    )

    checkpoint = _make_checkpoint(name, manifest_path, {**published_defaults, **fields})
    base_folder = lora_manifest.find_base_folder(str(checkpoint.config["base"]))
    lora_manifest.check_base_loads(base_folder)
    _check(checkpoint)
    backbone.check_folder(checkpoint, manifest_path)
    return checkpoint


class _NamedBackbone(NamedTuple):
    """The backbone of a pipeline class, and its name."""

    name: str
    backbone: AdapterBackbone[EncodedNetwork]


def _find_pipeline_backbone(folder: Path) -> _NamedBackbone:
    """Return the backbone that runs the pipeline in a folder.

    Raises:
        WeightsError: No backbone runs a pipeline of this class.
    """
    class_name = lora_manifest.pipeline_class_name(folder)
    backbone_names = registry.list_names("backbones")
    for name in backbone_names:
        backbone = load_backbone(name)
        if isinstance(backbone, AdapterBackbone) and backbone.pipeline_class_name == class_name:
            return _NamedBackbone(name, backbone)
    raise WeightsError(
        f"{folder} contains a {class_name}, which no backbone runs; known:"
        f" {', '.join(backbone_names)}"
    )


def _manifest_of_base(folder: Path, base: Path, user_fields: CheckpointFields) -> Path:
    """Write the manifest of a pipeline without adapter, and return its path.

    The encoding is that of the base model unless the user states another, without weights.
    """
    name, backbone = _find_pipeline_backbone(base)
    encoding, options = backbone.base_encoding
    if user_fields.get("encoding", encoding) != encoding:
        encoding = user_fields["encoding"]
        options = {}
    manifest = lora_manifest.AdapterManifest(
        backbone=name,
        base=lora_manifest.describe_base(base, base.resolve().name),
        encoding=encoding,
        options={**options, **user_fields.get("options", {})},
        encoded_tokens=user_fields.get("config", {}).get("encoded_tokens", "all"),
    )
    target = folder / lora_manifest.MANIFEST
    write_text(target, manifest.to_json(indent=1) + "\n")
    return target


def _manifest_of_lora(
    folder: Path, lora_files: lora_manifest.LoraFiles, user_fields: CheckpointFields
) -> Path:
    """Write an adapter folder for a LoRA without manifest, and return the manifest's path.

    Raises:
        OptionError: The user does not state the base model, or states another backbone.
    """
    base = user_fields.get("config", {}).get("base")
    if base is None:
        raise OptionError(
            f"{lora_files.lora_file} is a LoRA without its base model; add --config base=FOLDER,"
            " the pipeline's folder or hub id"
        )
    name, backbone = _find_pipeline_backbone(lora_manifest.find_base_folder(str(base)))
    if user_fields.get("backbone", name) != name:
        raise OptionError(
            f"base {base} is a pipeline of {name}, not {user_fields['backbone']}; leave --backbone"
            " out or give another base"
        )
    return backbone.create_adapter_folder(folder, lora_files, str(base), user_fields)


def check_weights_load(checkpoint: Checkpoint, state_dict: Mapping[str, Tensor]) -> None:
    """Build the checkpoint's network and load it strictly; WeightsError if keys do not fit."""
    load_backbone(checkpoint.backbone).load(checkpoint, state_dict)


def validate_default_settings(drawing: Mapping[str, Option]) -> dict[str, Option]:
    """Return validated default settings of a checkpoint, with an absolute path of `vae`.

    Raises:
        OptionError: A field is unknown or has a wrong value.
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

    defaults = dict(drawing)
    vae = defaults.get("vae")
    if isinstance(vae, str) and vae and Path(vae).is_dir():
        defaults["vae"] = str(Path(vae).resolve())
    return defaults


def _make_checkpoint(name: str, weights_path: Path, fields: CheckpointFields) -> Checkpoint:
    """Return the record of a checkpoint; OptionError names the wrong field.

    Args:
        name: Name of the checkpoint.
        weights_path: Its weights.
        fields: All other fields that are known.
    """
    source = f"harope-bench register {name} --weights {weights_path.name}"
    try:
        return Checkpoint.model_validate(
            {
                **fields,
                "name": name,
                "weights": str(weights_path.resolve()),
                "sha256": weights_sha256(weights_path),
                "source": source,
            }
        )
    except ValidationError as error:
        raise OptionError(
            f"checkpoint {name}: {validation_summary(error)}; give another value"
        ) from error
