"""Training of a small label-conditional denoiser with one encoding."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from harope_bench.core.schema import Checkpoint
from harope_bench.models.checkpoint_fields import CheckpointFields
from harope_bench.models.samplers.base import load_sampler
from harope_bench.suites.base import load_suite
from harope_bench.training.loop import LossFunction
from harope_bench.training.model_training import (
    TrainingSpec,
    build_trainer,
    generation_fields,
    training_command,
    training_fields,
)
from harope_bench.training.noising import make_noised_batch, scale_images
from harope_bench.training.recipe import DenoiserRecipe
from harope_bench.training.training_files import write_checkpoint


def train_denoiser(
    recipe: DenoiserRecipe, spec: TrainingSpec, name: str, folder: Path, resume: bool
) -> Checkpoint:
    """Train a denoiser, or resume its training, and return its checkpoint.

    Writes NAME.safetensors, NAME.toml and log.csv to the folder. The weights are the exponential
    moving average.
    """
    ema_weights = build_trainer(spec, folder, resume).train(denoising_loss(recipe), name)
    fields: CheckpointFields = {**training_fields(spec), **generation_fields(recipe)}
    return write_checkpoint(folder, name, ema_weights, fields, training_command(spec))


def denoising_loss(recipe: DenoiserRecipe) -> LossFunction:
    """Return the mean squared error of the sampler's target, with label dropout."""
    images, labels = load_suite(recipe.suite).images("train")
    clean_images = scale_images(torch.from_numpy(images))[:, None]  # (N, 1, H, W) in [-1, 1]
    class_labels = torch.from_numpy(labels)  # (N,)
    sampler = load_sampler(recipe.sampler)
    null_label = int(recipe.config["classes"])

    def loss(network: nn.Module, rng: Generator) -> Tensor:
        indices = torch.randint(len(clean_images), (recipe.schedule.batch,), generator=rng)
        batch = make_noised_batch(sampler, clean_images[indices], recipe.label_dropout, rng)
        labels = class_labels[indices].masked_fill(batch.is_dropped, null_label)  # (B,)
        prediction = network(batch.example.noised_input, batch.example.time, labels)
        return batch.squared_error(prediction)

    return loss
