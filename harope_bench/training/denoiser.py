"""Trains a small denoiser of one encoding and writes it as a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from harope_bench.core.schema import Checkpoint
from harope_bench.models.samplers.base import load_sampler
from harope_bench.suites.base import load_suite
from harope_bench.training.loop import LossFunction
from harope_bench.training.model_training import (
    ModelTraining,
    build_trainer,
    generation_fields,
    training_command,
    training_fields,
)
from harope_bench.training.noising import make_noised_batch, scale_images
from harope_bench.training.recipe import DenoiserRecipe
from harope_bench.training.training_files import write_checkpoint


def train_denoiser(
    recipe: DenoiserRecipe, model: ModelTraining, name: str, folder: Path, resume: bool
) -> Checkpoint:
    """Trains (or takes up) one encoding; leaves NAME.safetensors, NAME.toml and log.csv in the
    folder. Weights are the running average.
    """
    average = build_trainer(model, folder, resume).train(denoising_loss(recipe), name)
    return write_checkpoint(
        folder,
        name,
        average,
        {**training_fields(model), **generation_fields(recipe)},
        training_command(model),
    )


def denoising_loss(recipe: DenoiserRecipe) -> LossFunction:
    """Mean squared error of the sampler's target; labels are dropped at the recipe's rate."""
    images, labels = load_suite(recipe.suite).images("train")
    clean_all = scale_images(torch.from_numpy(images))[:, None]  # (N, 1, H, W) in [-1, 1]
    label_all = torch.from_numpy(labels)
    sampler = load_sampler(recipe.sampler)
    empty = int(recipe.config["classes"])

    def loss(network: nn.Module, rng: Generator) -> Tensor:
        chosen = torch.randint(len(clean_all), (recipe.schedule.batch,), generator=rng)
        batch = make_noised_batch(sampler, clean_all[chosen], recipe.label_drop, rng)
        labels = label_all[chosen].masked_fill(batch.dropped, empty)
        return batch.squared_error(network(batch.pair.noised_input, batch.pair.time, labels))

    return loss
