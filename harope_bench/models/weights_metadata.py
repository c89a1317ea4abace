"""What a file of weights reveals of its network: by metadata, keys, training arguments and name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harope_bench.core import registry
from harope_bench.core.conditioning import suite_conditioning
from harope_bench.core.errors import OptionError, WeightsError
from harope_bench.core.escaping import printable_line
from harope_bench.core.json_file import parse_json
from harope_bench.core.record_base import Option
from harope_bench.core.state_dicts import training_arguments, weights_metadata
from harope_bench.models.backbones.base import DetectedFields, load_backbone
from harope_bench.models.checkpoint_fields import CheckpointFields, known_fields
from harope_bench.models.samplers.base import load_sampler

if TYPE_CHECKING:
    from torch import Tensor

# Parts of keys that mark a known network under unsupported names, or a file without a network, and
# the error message for it.
FOREIGN_FORMATS = {
    "double_blocks.": (
        "those of FLUX under its authors' names; convert them by diffusers'"
        " FluxTransformer2DModel.from_single_file"
    ),
    "joint_blocks.": (
        "those of SD3 under its authors' names; convert them by diffusers'"
        " SD3Transformer2DModel.from_single_file"
    ),
    "lora_": "those of a LoRA in a torch file; save it as .safetensors",
}
NETWORK_FIELDS: tuple[Literal["backbone", "encoding"], ...] = ("backbone", "encoding")
MAPPING_FIELDS: tuple[Literal["options", "config"], ...] = ("options", "config")
WRAPPER_KEYS = {"model", "net", "network", "module", "ema", "ema_model", "model_ema"}


def read_checkpoint_note(weights_path: Path) -> CheckpointFields:
    """Return the fields that `train` or `export` wrote into a file; empty for other files."""
    try:
        fields = parse_json(weights_metadata(weights_path).get("checkpoint", "{}"))
    except ValueError:
        return {}
    if not isinstance(fields, dict):
        return {}
    mappings = [fields.get(key, {}) for key in ("options", "config", "drawing")]
    if not all(isinstance(mapping, dict) for mapping in mappings):
        return {}
    return known_fields(fields)


def merge_fields(
    file_fields: CheckpointFields, user_fields: CheckpointFields, weights_path: Path
) -> CheckpointFields:
    """Return the fields of both sources; where only one has a field, that one's.

    Options of the encoding and sizes of the network (`config`) are merged name by name.

    Raises:
        OptionError: The user's fields contradict what the file reveals of its network.
    """
    fields: CheckpointFields = {**file_fields, **user_fields}
    for key in NETWORK_FIELDS:
        if file_fields.get(key) not in (None, fields.get(key)):
            raise OptionError(
                f"{weights_path} contains {file_fields[key]} parameters, not {user_fields[key]};"
                f" leave --{key} out or correct it"
            )

    for group in MAPPING_FIELDS:
        file_values = file_fields.get(group, {})
        user_values = user_fields.get(group, {})
        for field, value in user_values.items():
            if field in file_values and file_values[field] != value:
                raise OptionError(
                    f"{weights_path} was trained with {field} = {file_values[field]}, not {value};"
                    " leave it out or correct it"
                )
        fields[group] = {**file_values, **user_values}
    return fields


def find_backbone(
    state_dict: Mapping[str, Tensor], backbone: str | None
) -> tuple[str, DetectedFields]:
    """Return the backbone whose keys these are, and what the keys reveal.

    Args:
        backbone: The only backbone to try; None tries all.

    Raises:
        WeightsError: The keys are those of no such backbone.
    """
    for name in [backbone] if backbone else registry.list_names("backbones"):
        detected_fields = load_backbone(name).detect_fields(state_dict)
        if detected_fields:
            return name, detected_fields

    for mark, message in FOREIGN_FORMATS.items():
        if any(mark in key for key in state_dict):
            raise WeightsError(f"these weights are {message}")

    sample_keys = ", ".join(sorted(state_dict)[:3])
    backbones = backbone or ", ".join(registry.list_names("backbones"))
    wrappers = sorted({key.split(".")[0] for key in state_dict})
    wrapper_advice = ""
    if len(wrappers) > 1 and set(wrappers) & WRAPPER_KEYS:
        wrapper_advice = (
            f"; if {', '.join(wrappers[:5])} are several networks, save one of them alone"
        )
    nearest_networks = [
        text
        for name in ([backbone] if backbone else registry.list_names("backbones"))
        if (text := load_backbone(name).nearest_network(state_dict))
    ]
    nearest_text = f"; nearest is {nearest_networks[0]}" if nearest_networks else ""
    raise WeightsError(
        f"the keys ({sample_keys}, ...) are those of no known backbone ({backbones}){nearest_text};"
        f" check the file{wrapper_advice}"
    )


def check_file_name(
    detected_fields: DetectedFields,
    fields: CheckpointFields,
    training_args: Mapping[str, Option],
    weights_path: Path,
) -> None:
    """Check that a sampler detected from keys fits the file's name.

    Some networks share the keys of a backbone but predict something else (SiT and DiT).

    Args:
        fields: Fields of Checkpoint from the file and the user.
        training_args: Sizes from the file's training arguments.

    Raises:
        OptionError: The name is that of such a network, and neither the file's arguments nor the
            user state otherwise.
    """
    pattern = load_backbone(fields["backbone"]).conflicting_file_names
    families = (detected_fields.config.get("family"), fields.get("config", {}).get("family"))
    if pattern is None or training_args or any(families):
        return
    is_sampler_guessed = "sampler" in detected_fields.defaults and "sampler" not in fields
    is_velocity = (
        "sampler" in fields and load_sampler(fields["sampler"]).prediction_type == "velocity"
    )
    match = pattern.search(weights_path.stem)
    if match and (is_sampler_guessed or is_velocity):
        family = match[0].lower()
        raise OptionError(
            f"{weights_path} has the keys of {fields['backbone']}, but {match[0]} in its name is a"
            f" network that predicts something else; add --config family={family}, or --config"
            f" family={fields['backbone']} if it is none"
        )


def apply_class_count(
    detected_fields: DetectedFields,
    fields: CheckpointFields,
    training_args: Mapping[str, Option],
) -> DetectedFields:
    """Return the detected fields, corrected for a known number of labels.

    The number is stated by the user, the file's training arguments or the suite.
    """
    sizes: dict[str, Option] = {**training_args, **fields.get("config", {})}
    classes: Option | None = sizes.get("classes")
    if classes is None and sizes.get("null_label") is False:
        # All rows of the label table are labels.
        classes = int(detected_fields.config["classes"]) + 1
    if classes is None and fields.get("suite") in registry.list_entries("suites"):
        conditioning = suite_conditioning(fields["suite"])
        classes = conditioning.classes if conditioning.kind == "labels" else None

    if not isinstance(classes, int):
        return detected_fields
    return load_backbone(fields["backbone"]).set_class_count(detected_fields, classes)


def config_of_training_file(backbone: str, weights_path: Path) -> dict[str, Option]:
    """Return the sizes that a training file's arguments state; empty for other files.

    Raises:
        WeightsError: The arguments name a network of another backbone.
    """
    args = training_arguments(weights_path)
    try:
        config = load_backbone(backbone).config_from_training_args(args)
    except WeightsError as error:
        raise WeightsError(f"{weights_path}: {error}") from error
    if config is None and "model" in args:
        raise WeightsError(
            f"{weights_path} was trained as {printable_line(str(args['model']))}, but backbone"
            f" {backbone} supports no training files"
        )
    return config or {}


def merge_config(
    detected_config: Mapping[str, Option], training_args: Mapping[str, Option], weights_path: Path
) -> dict[str, Option]:
    """Merge a network's sizes from parameter names and shapes with those from training arguments.

    Args:
        detected_config: Sizes that the parameter names and shapes reveal.
        training_args: Sizes that the training arguments in the file state.
        weights_path: The file, for the message.

    Raises:
        WeightsError: The two contradict each other.
    """
    for field, value in training_args.items():
        if field in detected_config and detected_config[field] != value:
            raise WeightsError(
                f"{weights_path}: its training arguments state {field} = {value}, its parameters"
                f" have {detected_config[field]}; use the unmodified checkpoint"
            )
    return {**training_args, **detected_config}
