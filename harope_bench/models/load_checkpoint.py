"""Registered checkpoints: found and loaded by name.

Each checkpoint is one TOML, shipped in the package or written into the user's home.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from harope_bench.core import registry
from harope_bench.core.errors import BenchError, OptionError
from harope_bench.core.record_base import Option, validate_name, validation_summary
from harope_bench.core.schema import Checkpoint, Settings
from harope_bench.core.state_dicts import check_sha256, load_weights
from harope_bench.core.toml_file import read_versioned_toml
from harope_bench.models import lora_manifest
from harope_bench.models.backbones.base import (
    Classifier,
    ImageGenerator,
    LoadedCheckpoint,
    load_backbone,
    load_manifest_backbone,
)


def load_checkpoint_record(name: str) -> Checkpoint:
    """Return the record of a registered checkpoint, read from its TOML.

    Raises:
        UnknownNameError: No checkpoint has that name; the message offers the nearest.
        BenchError: The TOML is not that of a checkpoint.
        FormatError: Another version of this package wrote the TOML.
    """
    entry = registry.find_entry("checkpoints", name)
    assert entry.path is not None
    try:
        checkpoint = Checkpoint.model_validate(read_versioned_toml("checkpoint", entry.path))
    except ValidationError as error:
        raise BenchError(
            f"{entry.path}: {validation_summary(error)}; register the checkpoint again"
        ) from error
    if checkpoint.name != entry.path.stem:
        raise BenchError(
            f"{entry.path} is the file of a checkpoint named {checkpoint.name}; give both the same"
            " name"
        )
    return checkpoint


def find_weights_path(checkpoint: Checkpoint) -> Path:
    """Return the path of a registered checkpoint's weights.

    A relative path in the TOML starts at the TOML's folder. Records keep the text of the TOML, so
    equal runs have equal bytes wherever the package is installed.
    """
    entry = registry.find_entry("checkpoints", checkpoint.name)
    assert entry.path is not None
    return (entry.path.parent / checkpoint.weights).resolve()


def open_checkpoint(checkpoint: Checkpoint, settings: Settings) -> LoadedCheckpoint:
    """Return the checkpoint's network, ready for use with these settings.

    The hash of the weights is checked, and they are loaded strictly.
    """
    backbone = load_backbone(checkpoint.backbone)
    if not backbone.has_weights_file:
        return backbone.open(checkpoint, {}, settings)
    path = find_weights_path(checkpoint)
    if path.name == lora_manifest.MANIFEST:
        check_sha256(path, checkpoint.sha256)
        manifest_backbone = load_manifest_backbone(checkpoint.backbone)
        return manifest_backbone.open_folder(checkpoint, path, settings)

    state_dict = load_weights(path, checkpoint.sha256)
    return backbone.open(checkpoint, state_dict, settings)


def check_weights_file(checkpoint: Checkpoint) -> None:
    """Raise WeightsError unless a checkpoint's weights file is there and has its hash.

    The checkpoint of an endpoint has no such file.
    """
    if load_backbone(checkpoint.backbone).has_weights_file:
        check_sha256(find_weights_path(checkpoint), checkpoint.sha256)


def open_generator(checkpoint: Checkpoint, settings: Settings) -> ImageGenerator:
    """Return the generator of a checkpoint; OptionError for a classifier."""
    loaded_checkpoint = open_checkpoint(checkpoint, settings)
    if not isinstance(loaded_checkpoint, ImageGenerator):
        raise OptionError(
            f"checkpoint {checkpoint.name} (backbone {checkpoint.backbone}) is a classifier and"
            " cannot generate images; choose another one"
        )
    return loaded_checkpoint


class KeptGenerator:
    """The last generator that was opened, for runs that differ only in settings of `generate`.

    Its memory on the device stays in use until `release`.
    """

    def __init__(self) -> None:
        self._key: object = None
        self._generator: ImageGenerator | None = None

    def open(self, checkpoint: Checkpoint, settings: Settings) -> ImageGenerator:
        """Return the kept generator if it serves these settings, or else open another one."""
        key = _opening_key(checkpoint, settings)
        if self._generator is None or self._key != key:
            self.release()  # before the next one needs the memory
            self._generator = open_generator(checkpoint, settings)
            self._key = key
        return self._generator

    def serves(self, checkpoint: Checkpoint, settings: Settings) -> bool:
        """Return whether `open` would return the kept generator."""
        return self._generator is not None and self._key == _opening_key(checkpoint, settings)

    def release(self) -> None:
        """Forget the generator."""
        self._generator = None
        self._key = None


def _opening_key(checkpoint: Checkpoint, settings: Settings) -> object:
    opening_settings = load_backbone(checkpoint.backbone).opening_settings(settings)
    return checkpoint, tuple(sorted(dict(opening_settings).items(), key=lambda item: item[0]))


def open_classifier(checkpoint: Checkpoint, settings: Settings) -> Classifier:
    """Return the classifier of a checkpoint; OptionError for a generator."""
    loaded_checkpoint = open_checkpoint(checkpoint, settings)
    if not isinstance(loaded_checkpoint, Classifier):
        raise OptionError(
            f"checkpoint {checkpoint.name} (backbone {checkpoint.backbone}) generates images and"
            " cannot classify; choose another one"
        )
    return loaded_checkpoint


# The value of a field of Settings or of an option of a pipeline; None is not stated.
SettingValue = Option | None


def group_pipeline_options(values: Mapping[str, SettingValue]) -> dict[str, object]:
    """Return the fields of Settings in `values`; all other names become `pipeline_options`."""
    fields: dict[str, object] = {k: v for k, v in values.items() if k in Settings.model_fields}
    options = {k: v for k, v in values.items() if k not in fields and v is not None}
    return {**fields, "pipeline_options": options} if options else fields


def validate_user_name(name: str) -> str:
    """Return the name; OptionError unless it is a plain name, which cannot select a path."""
    try:
        return validate_name(name)
    except ValueError as error:
        raise OptionError(f"{error}; choose another name") from error


# Values that describe what a network without the setting does; stating one has no effect.
NEUTRAL_SETTINGS: Mapping[str, object] = {"guidance_channels": "all"}


def drop_neutral_settings(
    checkpoint: Checkpoint, settings_by_name: Mapping[str, SettingValue]
) -> dict[str, SettingValue]:
    """Return settings without unsupported ones that have a neutral value."""
    supported_settings = load_backbone(checkpoint.backbone).supported_settings(checkpoint)
    return {
        field: value
        for field, value in settings_by_name.items()
        if field in supported_settings.setting_names
        or field not in NEUTRAL_SETTINGS
        or NEUTRAL_SETTINGS[field] != value
    }


def check_settings(checkpoint: Checkpoint, settings_by_name: Mapping[str, SettingValue]) -> None:
    """Raise OptionError for a setting that does not apply to this checkpoint's network.

    Args:
        settings_by_name: The user's settings and the checkpoint's defaults; None is not stated.
    """
    supported_settings = load_backbone(checkpoint.backbone).supported_settings(checkpoint)
    for field, value in settings_by_name.items():
        if value is None or field in supported_settings.setting_names:
            continue
        usual_reason = f"backbone {checkpoint.backbone} does not read it"
        other_reason = supported_settings.other_reason or usual_reason
        reason = supported_settings.reasons.get(field, other_reason)
        raise OptionError(
            f"{field} does not apply to checkpoint {checkpoint.name}: {reason};"
            f" {_advice(checkpoint, field, value)}"
        )


def _advice(checkpoint: Checkpoint, field: str, value: SettingValue) -> str:
    """Return what to do about a setting that does not apply.

    A default of the checkpoint can be removed only by registering it again.
    """
    defaults = {
        **checkpoint.drawing,
        "steps": checkpoint.steps,
        "guidance": checkpoint.guidance,
        "sampler": checkpoint.sampler,
    }
    if defaults.get(field) == value:
        return f"{checkpoint.name} was registered with this default, register it again without"

    if field not in Settings.model_fields:
        return f"leave --drawing {field} out"
    option = f"--{field.replace('_', '-')}"
    if field in NEUTRAL_SETTINGS:
        return (
            f"leave {option} out, or give {option} {NEUTRAL_SETTINGS[field]} where a preset sets it"
        )
    return f"leave {option} out"
