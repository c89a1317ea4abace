"""A model of one encoding as its recipe says: the training that makes it, and what its checkpoint tells of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from harope_bench import registry
from harope_bench.records import Option
from harope_bench.training.loop import Trainer
from harope_bench.training.recipe import Denoiser, Vit


def trainer(recipe: Denoiser | Vit, recipe_sha256: str, encoding: str, options: dict[str, Option], folder: Path, resume: bool) -> Trainer:
    """The training of a network that starts from the recipe's seed, or where the folder's snapshot stands."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.schedule.seed)
        network = registry.load("backbones", recipe.backbone).build(encoding, options, recipe.config)
    identity = f"recipe {recipe.name} {recipe_sha256[:12]}, encoding {encoding} {sorted(options.items())}"
    made = Trainer(network, recipe.schedule, recipe.ema, folder, identity)
    if resume:
        made.resume()
    return made


def facts(recipe: Denoiser | Vit, recipe_sha256: str, encoding: str, options: dict[str, Option]) -> dict[str, Any]:
    """Fields of the checkpoint that every recipe of a model has."""
    return {
        "backbone": recipe.backbone,
        "encoding": encoding,
        "options": options,
        "config": recipe.config,
        "scale": "micro",
        "recipe": recipe.name,
        "recipe_sha256": recipe_sha256,
        "training_seed": recipe.schedule.seed,
        "training_steps": recipe.schedule.steps,
    }
