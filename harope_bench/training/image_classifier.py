"""Trains a small image classifier of one encoding and writes it as a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from harope_bench.core.schema import Checkpoint
from harope_bench.models.backbones.deit import normalise, parse_config
from harope_bench.suites.base import load_suite
from harope_bench.training.digits_judge import random_affine
from harope_bench.training.loop import LossFunction
from harope_bench.training.model_training import (
    ModelTraining,
    build_trainer,
    training_command,
    training_fields,
)
from harope_bench.training.recipe import ClassifierRecipe
from harope_bench.training.training_files import write_checkpoint


def train_classifier(
    recipe: ClassifierRecipe, model: ModelTraining, name: str, folder: Path, resume: bool
) -> Checkpoint:
    """Trains (or takes up) one encoding; leaves NAME.safetensors, NAME.toml and log.csv in the
    folder. Weights are the running average.
    """
    average = build_trainer(model, folder, resume).train(classification_loss(recipe), name)
    return write_checkpoint(
        folder,
        name,
        average,
        {**training_fields(model), "suite": recipe.tested_on},
        training_command(model),
    )


def classification_loss(recipe: ClassifierRecipe) -> LossFunction:
    """Cross-entropy on randomly shifted, turned and stretched training images."""
    images, labels = load_suite(recipe.suite).images("train")
    whole = normalise(
        np.repeat(images[..., None], 3, -1), parse_config(recipe.config)
    )  # (N, C, H, W)
    wanted = torch.from_numpy(labels)

    def loss(network: nn.Module, rng: Generator) -> Tensor:
        chosen = torch.randint(len(whole), (recipe.schedule.batch,), generator=rng)
        return F.cross_entropy(
            network(random_affine(whole[chosen], rng)),
            wanted[chosen],
            label_smoothing=recipe.smoothing,
        )

    return loss
