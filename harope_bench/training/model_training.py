"""A model of one encoding as its recipe says: the training that makes it, and what its checkpoint
tells of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from harope_bench.core.errors import OptionError
from harope_bench.core.record_base import Option
from harope_bench.core.state_dicts import check_sha256, load_state_strictly, load_weights
from harope_bench.core.storage import sha256_file
from harope_bench.models.backbones.base import load_backbone
from harope_bench.models.backbones.encoded_network import EncodedNetwork
from harope_bench.models.checkpoint_fields import CheckpointFields
from harope_bench.models.load_checkpoint import load_checkpoint_record, weights_path
from harope_bench.models.weights_metadata import read_checkpoint_note
from harope_bench.training.loop import LoggedMetrics, Trainer
from harope_bench.training.recipe import GeneratorRecipe, ModelRecipe, TextToImageRecipe

ADDITIVE_ENCODING = (  # adds its positions to the tokens, where all others rotate queries and keys
    "ape"
)


class ModelTraining(NamedTuple):
    """Which model: its recipe and the hash of its file, the encoding with its options, and the
    weights it starts from, if any.
    """

    recipe: ModelRecipe
    recipe_sha256: str
    encoding: str
    options: dict[str, Option]
    base: Path | None = None


def build_trainer(
    model: ModelTraining, folder: Path, resume: bool, logged_metrics: LoggedMetrics | None = None
) -> Trainer:
    """The training of a network that starts from the recipe's seed or its base, or where the
    folder's snapshot stands.
    """
    recipe = model.recipe
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.schedule.seed)
        network = load_backbone(recipe.backbone).build(model.encoding, model.options, recipe.config)
    if model.base is not None:
        load_base_weights(network, model, model.base)
    made = Trainer(
        network, recipe.schedule, recipe.ema, folder, _training_identity(model), logged_metrics
    )
    if resume:
        made.resume()
    return made


def _training_identity(model: ModelTraining) -> str:
    """What a snapshot must be of to be taken up."""
    said = "" if model.base is None else f", from {sha256_file(model.base)[:12]}"
    options = sorted(model.options.items())
    return (
        f"recipe {model.recipe.name} {model.recipe_sha256[:12]}, encoding {model.encoding}"
        f" {options}{said}"
    )


def load_base_weights(network: EncodedNetwork, model: ModelTraining, base: Path) -> None:
    """Weights of `base` in the network's place; only parameters of the encoding may be missing
    there.

    Raises:
        OptionError: the note in the file tells of another network, or of positions that are added
            where these are rotated.
        WeightsError: other weights are missing.
    """
    note = read_checkpoint_note(base)
    wanted = {"backbone": model.recipe.backbone, "config": model.recipe.config}
    if other := [key for key, value in wanted.items() if note.get(key, value) != value]:
        raise OptionError(
            f"{base} has another {other[0]} than recipe {model.recipe.name}; start from weights of"
            " the same one"
        )
    before = note.get("encoding", model.encoding)
    if (before == ADDITIVE_ENCODING) != (model.encoding == ADDITIVE_ENCODING):
        raise OptionError(
            f"{base} was trained with {before}, {model.encoding} meets positions otherwise; start"
            " from another base"
        )
    state = {key: value.float() for key, value in load_weights(base).items()}
    own = {key: value for key, value in network.state_dict().items() if key.startswith("encoding.")}
    load_state_strictly(network, {**own, **state}, str(base))


def base_weights_path(recipe: TextToImageRecipe, encoding: str) -> Path | None:
    """The shipped weights that a recipe lets an encoding go on from, their hash checked; None where
    it starts from nothing.
    """
    name = recipe.base.get(encoding, recipe.base.get("default"))
    if name is None:
        return None
    found = load_checkpoint_record(name)
    check_sha256(weights_path(found), found.sha256)
    return weights_path(found)


def training_fields(model: ModelTraining) -> CheckpointFields:
    """Fields of the checkpoint that every recipe of a model has."""
    recipe = model.recipe
    return {
        "backbone": recipe.backbone,
        "encoding": model.encoding,
        "options": model.options,
        "config": recipe.config,
        "scale": "micro",
        "recipe": recipe.name,
        "recipe_sha256": model.recipe_sha256,
        "training_seed": recipe.schedule.seed,
        "training_steps": recipe.schedule.steps,
    }


def generation_fields(recipe: GeneratorRecipe) -> CheckpointFields:
    """Fields of a checkpoint that draws."""
    return {
        "suite": recipe.suite,
        "sampler": recipe.sampler,
        "steps": recipe.draw_steps,
        "guidance": recipe.guidance,
    }


def training_command(model: ModelTraining) -> str:
    """What makes the checkpoint again."""
    options = [
        f"--option {key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in sorted(model.options.items())
    ]
    said = " ".join(
        [f"harope-bench train {model.recipe.name} --encoding {model.encoding}", *options]
    )
    return (
        said
        if model.base is None
        else f"{said} --base {model.base.name} ({sha256_file(model.base)[:12]})"
    )
