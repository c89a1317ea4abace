"""Training of a micro judge: the part that is common to all shipped judges."""

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
    """The functions that differ from judge to judge.

    build_network: returns the untrained network.
    make_loss: returns the loss for images, labels and a batch size.
    measure_accuracy: returns the fraction of correct predictions for network, images and labels.
    sample_noun: what the training examples are called in messages, "images" or "scenes".
    """

    build_network: Callable[[], nn.Module]
    make_loss: Callable[[np.ndarray, np.ndarray, int], LossFunction]
    measure_accuracy: Callable[..., float]
    sample_noun: str


def train_judge(
    recipe: JudgeRecipe, recipe_sha256: str, folder: Path, resume: bool, training: JudgeTraining
) -> float:
    """Train the judge and return its held-out accuracy, a fraction.

    Writes the judge's .safetensors and .toml to the folder. The weights are the exponential moving
    average.

    Raises:
        BenchError: The accuracy is below the minimum of the recipe. Nothing is written then.
    """
    suite = load_suite(recipe.suite)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.schedule.seed)
        network = training.build_network()

    identity = f"recipe {recipe.name} {recipe_sha256[:12]}"
    trainer = Trainer(network, recipe.schedule, EMA_DECAY, folder, identity)
    if resume:
        trainer.resume()
    images, labels = suite.images("train")
    loss = training.make_loss(images, labels, recipe.schedule.batch)
    ema_weights = trainer.train(loss, recipe.name)

    network.load_state_dict(ema_weights)
    images, labels = suite.images("held-out")
    accuracy = training.measure_accuracy(network, images, labels)
    if accuracy < recipe.min_accuracy:
        raise BenchError(
            f"{recipe.name} predicts {accuracy:.1%} of the held-out {training.sample_noun}"
            f" correctly, wanted {recipe.min_accuracy:.1%}; train longer"
        )

    weights = weights_bytes(ema_weights, {"judge": recipe.judge, "recipe_sha256": recipe_sha256})
    stem = recipe.judge.replace("-", "_")
    fields = {
        "weights": f"{stem}.safetensors",
        "sha256": sha256_bytes(weights),
        "held_out_accuracy": accuracy,
        "held_out_images": len(labels),
        "recipe": recipe.name,
        "recipe_sha256": recipe_sha256,
        "training_seed": recipe.schedule.seed,
        "source": f"harope-bench train {recipe.name}",
    }
    write_bytes(folder / f"{stem}.safetensors", weights)
    write_text(folder / f"{stem}.toml", versioned_toml_text("judge", fields))
    return accuracy
