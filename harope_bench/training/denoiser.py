"""Trains a small denoiser of one encoding and writes it as a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from harope_bench.core.schema import Checkpoint
from harope_bench.models.samplers.base import load_sampler
from harope_bench.suites.base import load_suite
from harope_bench.training.loop import Loss
from harope_bench.training.model import Model, command, drawing, facts, trainer
from harope_bench.training.noising import noised, scaled
from harope_bench.training.recipe import Denoiser
from harope_bench.training.written import write_checkpoint


def train(recipe: Denoiser, model: Model, name: str, folder: Path, resume: bool) -> Checkpoint:
    """Trains (or takes up) one encoding; leaves NAME.safetensors, NAME.toml and log.csv in the folder. Weights are the running average."""
    average = trainer(model, folder, resume).run(denoising_loss(recipe), name)
    return write_checkpoint(folder, name, average, {**facts(model), **drawing(recipe)}, command(model))


def denoising_loss(recipe: Denoiser) -> Loss:
    """Mean squared error of the sampler's target; labels are dropped at the recipe's rate."""
    images, labels = load_suite(recipe.suite).images("train")
    clean_all = scaled(torch.from_numpy(images))[:, None]  # (N, 1, H, W) in [-1, 1]
    label_all = torch.from_numpy(labels)
    sampler = load_sampler(recipe.sampler)
    empty = int(recipe.config["classes"])

    def loss(network: nn.Module, rng: Generator) -> Tensor:
        chosen = torch.randint(len(clean_all), (recipe.schedule.batch,), generator=rng)
        batch = noised(sampler, clean_all[chosen], recipe.label_drop, rng)
        labels = label_all[chosen].masked_fill(batch.dropped, empty)
        return batch.squared_error(network(batch.pair.noised, batch.pair.time, labels))

    return loss
