"""Training of a model of one encoding: its trainer, its base weights, its checkpoint's fields."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from harope_bench.core import registry
from harope_bench.core.errors import MissingAssetError, OptionError
from harope_bench.core.record_base import Option
from harope_bench.core.state_dicts import check_sha256, load_state_strictly, load_weights
from harope_bench.core.storage import sha256_file
from harope_bench.models.backbones.base import load_backbone
from harope_bench.models.backbones.encoded_network import EncodedNetwork
from harope_bench.models.checkpoint_fields import CheckpointFields
from harope_bench.models.load_checkpoint import find_weights_path, load_checkpoint_record
from harope_bench.models.weights_metadata import read_checkpoint_note
from harope_bench.training.loop import LoggedMetrics, Trainer
from harope_bench.training.recipe import GeneratorRecipe, ModelRecipe, TextToImageRecipe

# Adds positions to the tokens. All other encodings rotate queries and keys.
ADDITIVE_ENCODING = "ape"


class TrainingSpec(NamedTuple):
    """What is trained: the model of a recipe with one encoding, and its initial weights.

    recipe_sha256: of the recipe's file.
    encoding, options: name of the positional encoding, and its options.
    base_weights: file of the weights that training starts from; None for random weights.
    """

    recipe: ModelRecipe
    recipe_sha256: str
    encoding: str
    options: dict[str, Option]
    base_weights: Path | None = None


def build_trainer(
    spec: TrainingSpec, folder: Path, resume: bool, logged_metrics: LoggedMetrics | None = None
) -> Trainer:
    """Return the trainer of a newly built network; `resume` loads the snapshot in the folder.

    Without a snapshot the network has its base weights, or random ones from the recipe's seed.
    torch's global random state does not change.

    Args:
        folder: folder of the snapshot and of the loss log.
        logged_metrics: metrics that are written to the loss log beside the loss.
    """
    recipe = spec.recipe
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.schedule.seed)
        network = load_backbone(recipe.backbone).build(spec.encoding, spec.options, recipe.config)
    if spec.base_weights is not None:
        load_base_weights(network, spec, spec.base_weights)

    identity = _training_identity(spec)
    trainer = Trainer(network, recipe.schedule, recipe.ema_decay, folder, identity, logged_metrics)
    if resume:
        trainer.resume()
    return trainer


def _training_identity(spec: TrainingSpec) -> str:
    """Return the text that must equal the one in a snapshot for training to resume."""
    options = sorted(spec.options.items())
    identity = (
        f"recipe {spec.recipe.name} {spec.recipe_sha256[:12]}, encoding {spec.encoding} {options}"
    )
    if spec.base_weights is None:
        return identity
    return f"{identity}, from {sha256_file(spec.base_weights)[:12]}"


def load_base_weights(network: EncodedNetwork, spec: TrainingSpec, path: Path) -> None:
    """Load weights from `path` into the network; only parameters of the encoding may be missing.

    Raises:
        OptionError: The metadata of the file names another backbone or config, or an encoding that
            adds positions where this one rotates, or the reverse.
        WeightsError: Other weights are missing.
    """
    metadata = read_checkpoint_note(path)
    expected = {"backbone": spec.recipe.backbone, "config": spec.recipe.config}
    differing_keys = [key for key, value in expected.items() if metadata.get(key, value) != value]
    if differing_keys:
        raise OptionError(
            f"{path} has another {differing_keys[0]} than recipe {spec.recipe.name}; start from"
            " weights of the same one"
        )

    base_encoding = metadata.get("encoding", spec.encoding)
    if (base_encoding == ADDITIVE_ENCODING) != (spec.encoding == ADDITIVE_ENCODING):
        raise OptionError(
            f"{path} was trained with {base_encoding}, which adds positions where"
            f" {spec.encoding} rotates, or the reverse; start from another base"
        )

    base_state_dict = {key: value.float() for key, value in load_weights(path).items()}
    encoding_parameters = {
        key: value for key, value in network.state_dict().items() if key.startswith("encoding.")
    }
    load_state_strictly(network, {**encoding_parameters, **base_state_dict}, str(path))


def base_weights_path(recipe: TextToImageRecipe, encoding: str) -> Path | None:
    """Return the shipped weights that training of an encoding starts from, None for random ones.

    Raises:
        MissingAssetError: They do not come with the package and are not registered.
        WeightsError: The sha256 of the file differs from its checkpoint's.
    """
    checkpoint_name = recipe.base_checkpoints.get(encoding, recipe.base_checkpoints.get("default"))
    if checkpoint_name is None:
        return None
    if checkpoint_name not in registry.list_names("checkpoints"):
        raise MissingAssetError(
            f"the weights that {encoding} starts from, checkpoint {checkpoint_name}, do not come"
            " with this package",
            advice=f"make them with `harope-bench train shapes-base --encoding {encoding}` and give"
            f" the file with --base, or register it as {checkpoint_name}",
        )
    checkpoint = load_checkpoint_record(checkpoint_name)
    path = find_weights_path(checkpoint)
    check_sha256(path, checkpoint.sha256)
    return path


def training_fields(spec: TrainingSpec) -> CheckpointFields:
    """Return the checkpoint fields that are common to all models."""
    recipe = spec.recipe
    return {
        "backbone": recipe.backbone,
        "encoding": spec.encoding,
        "options": spec.options,
        "config": recipe.config,
        "scale": "micro",
        "recipe": recipe.name,
        "recipe_sha256": spec.recipe_sha256,
        "training_seed": recipe.schedule.seed,
        "training_steps": recipe.schedule.steps,
    }


def generation_fields(recipe: GeneratorRecipe) -> CheckpointFields:
    """Return the checkpoint fields of a model that generates."""
    return {
        "suite": recipe.suite,
        "sampler": recipe.sampler,
        "steps": recipe.sampler_steps,
        "guidance": recipe.guidance,
    }


def training_command(spec: TrainingSpec) -> str:
    """Return the command line that trains the checkpoint again."""
    option_flags = [
        f"--option {key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in sorted(spec.options.items())
    ]
    train_words = [f"harope-bench train {spec.recipe.name} --encoding {spec.encoding}"]
    command = " ".join([*train_words, *option_flags])
    if spec.base_weights is None:
        return command
    return f"{command} --base {spec.base_weights.name} ({sha256_file(spec.base_weights)[:12]})"
