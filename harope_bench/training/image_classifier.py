"""Training of a small image classifier with one encoding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from harope_bench.core.schema import Checkpoint
from harope_bench.models.backbones.deit import normalise, parse_config
from harope_bench.models.checkpoint_fields import CheckpointFields
from harope_bench.suites.base import load_suite
from harope_bench.training.digits_judge import random_affine
from harope_bench.training.loop import LossFunction
from harope_bench.training.model_training import (
    TrainingSpec,
    build_trainer,
    training_command,
    training_fields,
)
from harope_bench.training.recipe import ClassifierRecipe
from harope_bench.training.training_files import write_checkpoint


def train_classifier(
    recipe: ClassifierRecipe, spec: TrainingSpec, name: str, folder: Path, resume: bool
) -> Checkpoint:
    """Train a classifier, or resume its training, and return its checkpoint.

    Writes NAME.safetensors, NAME.toml and log.csv to the folder. The weights are the exponential
    moving average.
    """
    ema_weights = build_trainer(spec, folder, resume).train(classification_loss(recipe), name)
    fields: CheckpointFields = {**training_fields(spec), "suite": recipe.test_suite}
    return write_checkpoint(folder, name, ema_weights, fields, training_command(spec))


def classification_loss(recipe: ClassifierRecipe) -> LossFunction:
    """Return the cross-entropy on randomly shifted, rotated and scaled training images."""
    images, labels = load_suite(recipe.suite).images("train")
    rgb = np.repeat(images[..., None], 3, -1)  # (N, H, W, 3)
    inputs = normalise(rgb, parse_config(recipe.config))  # (N, C, H, W)
    targets = torch.from_numpy(labels)

    def loss(network: nn.Module, rng: Generator) -> Tensor:
        indices = torch.randint(len(inputs), (recipe.schedule.batch,), generator=rng)
        logits = network(random_affine(inputs[indices], rng))  # (B, classes)
        return F.cross_entropy(logits, targets[indices], label_smoothing=recipe.label_smoothing)

    return loss
