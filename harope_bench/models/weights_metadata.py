"""What a file of weights tells of its network: by its note, its keys, its training arguments and
its name.
"""

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

if TYPE_CHECKING:
    from torch import Tensor

# Marks in the keys of files that hold a known network under names that are not read here, or no
# network.
FOREIGN_FORMATS = {
    "double_blocks.": (
        "FLUX under its authors' names; convert them by diffusers'"
        " FluxTransformer2DModel.from_single_file"
    ),
    "joint_blocks.": (
        "SD3 under its authors' names; convert them by diffusers'"
        " SD3Transformer2DModel.from_single_file"
    ),
    "lora_": "a LoRA in a torch file; save it as .safetensors",
}
NETWORK_FIELDS: tuple[Literal["backbone", "encoding"], ...] = ("backbone", "encoding")
MAPPING_FIELDS: tuple[Literal["options", "config"], ...] = ("options", "config")
WRAPPER_KEYS = {"model", "net", "network", "module", "ema", "ema_model", "model_ema"}


def read_checkpoint_note(weights: Path) -> CheckpointFields:
    """What `train` or `export` wrote into the file of the checkpoint; empty for any other file."""
    try:
        facts = parse_json(weights_metadata(weights).get("checkpoint", "{}"))
    except ValueError:
        return {}
    if not isinstance(facts, dict) or any(
        not isinstance(facts.get(key, {}), dict) for key in ("options", "config", "drawing")
    ):
        return {}
    return known_fields(facts)


def merge_fields(
    known: CheckpointFields, said: CheckpointFields, weights: Path
) -> CheckpointFields:
    """Both together; OptionError where what is said contradicts what the file tells of the network
    itself.
    """
    facts: CheckpointFields = {**known, **said}
    for key in NETWORK_FIELDS:
        if known.get(key) not in (None, facts.get(key)):
            raise OptionError(
                f"{weights} holds {known[key]} parameters, not {said[key]}; leave --{key} out or"
                " correct it"
            )
    for group in MAPPING_FIELDS:
        told = known.get(group, {})
        asked = said.get(group, {})
        if other := [field for field in asked if field in told and told[field] != asked[field]]:
            raise OptionError(
                f"{weights} was made with {other[0]} = {told[other[0]]}, not {asked[other[0]]};"
                " leave it out or correct it"
            )
        facts[group] = {**told, **asked}
    return facts


def find_backbone(state: Mapping[str, Tensor], backbone: str | None) -> tuple[str, DetectedFields]:
    """The backbone whose keys these are, with what else they tell."""
    for name in [backbone] if backbone else registry.list_names("backbones"):
        if clue := load_backbone(name).detect_fields(state):
            return name, clue
    if form := next(
        (words for mark, words in FOREIGN_FORMATS.items() if any(mark in key for key in state)),
        None,
    ):
        raise WeightsError(f"these weights are {form}")
    sample = ", ".join(sorted(state)[:3])
    known = ", ".join(registry.list_names("backbones"))
    parts = sorted({key.split(".")[0] for key in state})
    more = (
        f"; a network under one of {', '.join(parts[:5])} must be saved alone"
        if len(parts) > 1 and set(parts) & WRAPPER_KEYS
        else ""
    )
    raise WeightsError(
        f"the keys ({sample}, ...) are those of no backbone asked for ({backbone or known}); check"
        f" the file{more}"
    )


def check_file_name(
    clue: DetectedFields,
    facts: CheckpointFields,
    stated_arguments: Mapping[str, Option],
    weights: Path,
) -> DetectedFields:
    """Return the clue, whose keys tell a sampler, unless the file's name says that it is of another
    network with these keys.

    Raises:
        OptionError: Such a name, no arguments in the file and no sampler stated.
    """
    other = load_backbone(facts["backbone"]).conflicting_file_names
    is_guess = "sampler" in clue.defaults and "sampler" not in facts and not stated_arguments
    if other is not None and is_guess and (mark := other.search(weights.stem)):
        raise OptionError(
            f"{weights} has the keys of {facts['backbone']}, and {mark[0]} in its name is a network"
            " that predicts something else; if it is none, add --sampler"
        )
    return clue


def apply_class_count(
    clue: DetectedFields, facts: CheckpointFields, stated_arguments: Mapping[str, Option]
) -> DetectedFields:
    """Return the clue with the number of labels that the user, the file's arguments or the suite
    tells, where its backbone reads it so.
    """
    stated: dict[str, Option] = {**stated_arguments, **facts.get("config", {})}
    told: Option | None = stated.get("classes")
    if told is None and stated.get("null_label") is False:
        told = int(clue.config["classes"]) + 1
    if told is None and facts.get("suite") in registry.list_entries("suites"):
        asked = suite_conditioning(facts["suite"])
        told = asked.classes if asked.kind == "labels" else None
    return (
        load_backbone(facts["backbone"]).set_class_count(clue, told)
        if isinstance(told, int)
        else clue
    )


def config_of_training_file(backbone: str, weights: Path) -> dict[str, Option]:
    """Return the sizes that a training file's own arguments state.

    Raises:
        WeightsError: They name a network that the backbone is not.
    """
    stated = training_arguments(weights)
    try:
        recalled = load_backbone(backbone).config_from_training_args(stated)
    except WeightsError as error:
        raise WeightsError(f"{weights}: {error}") from error
    if recalled is None and "model" in stated:
        raise WeightsError(
            f"{weights} was trained as {printable_line(str(stated['model']))}, and backbone"
            f" {backbone} knows no training files"
        )
    return recalled or {}


def merge_config(
    config: Mapping[str, Option], args: Mapping[str, Option], weights: Path
) -> dict[str, Option]:
    """Return the sizes of the keys with those of the arguments; WeightsError where the two
    contradict each other.
    """
    if other := [field for field in args if field in config and config[field] != args[field]]:
        field = other[0]
        raise WeightsError(
            f"{weights}: its args say {field} = {args[field]}, its keys {config[field]}; give the"
            " file as training left it"
        )
    return {**args, **config}
