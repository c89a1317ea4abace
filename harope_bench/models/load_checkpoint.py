"""Registered checkpoints: one TOML each, shipped in the package or in the user's home; found and
opened by name.
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
    load_adapter_backbone,
    load_backbone,
)


def load_checkpoint_record(name: str) -> Checkpoint:
    """A registered checkpoint, as its TOML says.

    Raises:
        UnknownName: offers the nearest. BenchError: the TOML is not a checkpoint's. FormatError:
            another version wrote it.
    """
    entry = registry.find_entry("checkpoints", name)
    assert entry.path is not None
    try:
        found = Checkpoint.model_validate(read_versioned_toml("checkpoint", entry.path))
    except ValidationError as error:
        raise BenchError(
            f"{entry.path}: {validation_summary(error)}; register the checkpoint again"
        ) from error
    if found.name != entry.path.stem:
        raise BenchError(f"{entry.path} names itself {found.name}; file and name must agree")
    return found


def weights_path(found: Checkpoint) -> Path:
    """Where a registered checkpoint's weights lie: beside its TOML, unless that names another
    place.

    Records keep what the TOML says, so that equal runs have equal bytes wherever the package lies.
    """
    entry = registry.find_entry("checkpoints", found.name)
    assert entry.path is not None
    return (entry.path.parent / found.weights).resolve()


def open_checkpoint(found: Checkpoint, settings: Settings) -> LoadedCheckpoint:
    """Return the checkpoint's network, hash checked, strictly loaded, ready to draw or to classify
    with these settings.
    """
    path = weights_path(found)
    if path.name == lora_manifest.MANIFEST:
        check_sha256(path, found.sha256)
        return load_adapter_backbone(found.backbone).open_folder(found, path, settings)
    return load_backbone(found.backbone).open(found, load_weights(path, found.sha256), settings)


def open_generator(found: Checkpoint, settings: Settings) -> ImageGenerator:
    """Return `open_checkpoint` of a checkpoint that generates; OptionError for a classifier."""
    opened = open_checkpoint(found, settings)
    if not isinstance(opened, ImageGenerator):
        raise OptionError(
            f"checkpoint {found.name} ({found.backbone}) opens no Drawer and cannot generate"
            " images; choose another one"
        )
    return opened


def open_classifier(found: Checkpoint, settings: Settings) -> Classifier:
    """Return `open_checkpoint` of a classifier; OptionError for a checkpoint that generates."""
    opened = open_checkpoint(found, settings)
    if not isinstance(opened, Classifier):
        raise OptionError(
            f"checkpoint {found.name} ({found.backbone}) opens no Classifier and cannot classify;"
            " choose another one"
        )
    return opened


SettingValue = Option | None  # the value of a field of Settings; None is not stated


def check_name(name: str) -> str:
    """The name itself; OptionError unless it is one that can never choose a path."""
    try:
        return validate_name(name)
    except ValueError as error:
        raise OptionError(f"{error}; choose another name") from error


NEUTRAL_SETTINGS: Mapping[str, object] = {
    "guidance_channels": "all"
}  # what a network without the setting does anyway: to say so is to leave it out


def drop_neutral_settings(
    found: Checkpoint, named: Mapping[str, SettingValue]
) -> dict[str, SettingValue]:
    """Return settings by field, without those that the network does not read and that state what it
    does anyway.
    """
    read = load_backbone(found.backbone).supported_settings(found)
    return {
        field: value
        for field, value in named.items()
        if field in read.fields or field not in NEUTRAL_SETTINGS or NEUTRAL_SETTINGS[field] != value
    }


def check_settings(found: Checkpoint, named: Mapping[str, SettingValue]) -> None:
    """Raise OptionError for a setting that changes nothing for this checkpoint's network; the
    backbone declares which it reads.

    Args:
        named: Settings by field, those that are asked for and the checkpoint's own defaults; None
            is not named.
    """
    read = load_backbone(found.backbone).supported_settings(found)
    for field, value in named.items():
        if value is None or field in read.fields:
            continue
        reason = read.reasons.get(field, f"backbone {found.backbone} does not read it")
        raise OptionError(
            f"{field} means nothing to checkpoint {found.name}: {reason};"
            f" {_advice(found, field, value)}"
        )


def _advice(found: Checkpoint, field: str, value: SettingValue) -> str:
    """What to do about a setting without meaning: the checkpoint's own default can only go by
    registering again.
    """
    if {
        **found.drawing,
        "steps": found.steps,
        "guidance": found.guidance,
        "sampler": found.sampler,
    }.get(field) == value:
        return f"it is the default that {found.name} was registered with, register it again without"
    option = f"--{field.replace('_', '-')}"
    return f"leave {option} out" + (
        f", or give {option} {NEUTRAL_SETTINGS[field]} where a preset sets it"
        if field in NEUTRAL_SETTINGS
        else ""
    )
