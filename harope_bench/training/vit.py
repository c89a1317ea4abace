"""Trains a small image classifier of one encoding and writes it as a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from harope_bench.core.schema import Checkpoint
from harope_bench.models.backbones.deit import configure, normalise
from harope_bench.suites.base import load_suite
from harope_bench.training.classifier import jitter
from harope_bench.training.loop import Loss
from harope_bench.training.model import Model, command, facts, trainer
from harope_bench.training.recipe import Vit
from harope_bench.training.written import write_checkpoint


def train(recipe: Vit, model: Model, name: str, folder: Path, resume: bool) -> Checkpoint:
    """Trains (or takes up) one encoding; leaves NAME.safetensors, NAME.toml and log.csv in the folder. Weights are the running average."""
    average = trainer(model, folder, resume).run(naming_loss(recipe), name)
    return write_checkpoint(folder, name, average, {**facts(model), "suite": recipe.tested_on}, command(model))


def naming_loss(recipe: Vit) -> Loss:
    """Cross-entropy on randomly shifted, turned and stretched training images."""
    images, labels = load_suite(recipe.suite).images("train")
    whole = normalise(np.repeat(images[..., None], 3, -1), configure(recipe.config))  # (N, C, H, W)
    wanted = torch.from_numpy(labels)

    def loss(network: nn.Module, rng: Generator) -> Tensor:
        chosen = torch.randint(len(whole), (recipe.schedule.batch,), generator=rng)
        return F.cross_entropy(network(jitter(whole[chosen], rng)), wanted[chosen], label_smoothing=recipe.smoothing)

    return loss
