"""Training a micro judge: a network, its loss and its examination; what the shipped judges'
trainings share.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from harope_bench.core.errors import BenchError
from harope_bench.core.state_dicts import weights_bytes
from harope_bench.core.storage import sha256_bytes, write_bytes, write_text
from harope_bench.core.toml_file import versioned_toml_text
from harope_bench.suites.base import load_suite
from harope_bench.training.loop import LossFunction, Trainer
from harope_bench.training.recipe import JudgeRecipe

EMA_DECAY = 0.99


class JudgeTraining(NamedTuple):
    """What one judge brings: its class, its loss on images and labels at a batch size, its accuracy
    on held-out ones, and what it reads.
    """

    build_network: Callable[[], nn.Module]
    make_loss: Callable[[np.ndarray, np.ndarray, int], LossFunction]
    measure_accuracy: Callable[..., float]
    sample_noun: str


def train_judge(
    recipe: JudgeRecipe, recipe_sha256: str, folder: Path, resume: bool, training: JudgeTraining
) -> float:
    """Trains the judge; leaves its .safetensors and .toml in the folder and returns held-out
    accuracy.

    Raises:
        BenchError: the accuracy is below what the recipe asks for; nothing is written then.
    """
    suite = load_suite(recipe.suite)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.schedule.seed)
        network = training.build_network()
    trainer = Trainer(
        network, recipe.schedule, EMA_DECAY, folder, f"recipe {recipe.name} {recipe_sha256[:12]}"
    )
    if resume:
        trainer.resume()
    images, labels = suite.images("train")
    average = trainer.train(training.make_loss(images, labels, recipe.schedule.batch), recipe.name)
    network.load_state_dict(average)
    images, labels = suite.images("held-out")
    accuracy = training.measure_accuracy(network, images, labels)
    if accuracy < recipe.least_accuracy:
        raise BenchError(
            f"{recipe.name} reads {accuracy:.1%} of the held-out {training.sample_noun}, wanted"
            f" {recipe.least_accuracy:.1%}; train longer"
        )
    data = weights_bytes(average, {"judge": recipe.judge, "recipe_sha256": recipe_sha256})
    stem = recipe.judge.replace("-", "_")
    facts = {
        "weights": f"{stem}.safetensors",
        "sha256": sha256_bytes(data),
        "held_out_accuracy": accuracy,
        "held_out_images": len(labels),
        "recipe": recipe.name,
        "recipe_sha256": recipe_sha256,
        "training_seed": recipe.schedule.seed,
        "source": f"harope-bench train {recipe.name}",
    }
    write_bytes(folder / f"{stem}.safetensors", data)
    write_text(folder / f"{stem}.toml", versioned_toml_text("judge", facts))
    return accuracy
