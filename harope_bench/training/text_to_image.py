"""Training of a small text-to-image network of one encoding on rendered scenes.

The log shows whether the network uses the captions: it has the loss of validation scenes with their
own captions and with those of other scenes of the same task, at times with much noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from harope_bench.core.schema import Checkpoint
from harope_bench.data.shapes_scenes.grammar import TASKS
from harope_bench.data.shapes_scenes.scene_pool import render_pool
from harope_bench.models.checkpoint_fields import CheckpointFields
from harope_bench.models.samplers.base import load_sampler
from harope_bench.training.loop import LoggedMetrics, LossFunction
from harope_bench.training.model_training import (
    TrainingSpec,
    build_trainer,
    generation_fields,
    training_command,
    training_fields,
)
from harope_bench.training.noising import make_noised_batch, scale_images
from harope_bench.training.recipe import TextToImageRecipe
from harope_bench.training.training_files import write_checkpoint

N_VALIDATION_SCENES = 96  # a multiple of the number of tasks
# Quantiles of the validation times, where the input is mostly noise and captions matter most.
VALIDATION_TIME_RANGE = (0.65, 0.995)
SINGLE_OBJECT_TASKS = ("single_object", "colors")


class CaptionedScenes(NamedTuple):
    """N rendered scenes with their captions.

    images: (N, 3, side, side) uint8.
    caption_tokens: (N, caption length) indices of words, 0 after the end of a caption.
    is_single_object: (N,) bool, whether the task of a scene has a single object.
    """

    images: Tensor
    caption_tokens: Tensor
    is_single_object: Tensor


def train_text_to_image(
    recipe: TextToImageRecipe, spec: TrainingSpec, name: str, folder: Path, resume: bool
) -> Checkpoint:
    """Train a text-to-image network, or resume its training, and return its checkpoint.

    Writes NAME.safetensors, NAME.toml and log.csv to the folder, and NAME-at-STEP for each of the
    recipe's checkpoint steps. The weights are the exponential moving average.
    """
    scenes = render_scenes(recipe, range(recipe.n_scenes))
    trainer = build_trainer(spec, folder, resume, validation_metrics(recipe))

    def write(checkpoint_name: str, step: int, ema_weights: dict[str, Tensor]) -> Checkpoint:
        fields: CheckpointFields = {
            **training_fields(spec),
            **generation_fields(recipe),
            "training_steps": step,
        }
        return write_checkpoint(
            folder, checkpoint_name, ema_weights, fields, training_command(spec)
        )

    def write_at_checkpoint_step(step: int, ema_weights: dict[str, Tensor]) -> None:
        if step in recipe.checkpoint_steps:
            write(f"{name}-at-{step}", step, ema_weights)

    loss = text_to_image_loss(recipe, scenes)
    ema_weights = trainer.train(loss, name, write_at_checkpoint_step)
    return write(name, recipe.schedule.steps, ema_weights)


def render_scenes(recipe: TextToImageRecipe, indices: Sequence[int]) -> CaptionedScenes:
    """Return the scenes with these indices in the training split, rendered, with tokens."""
    pool = render_pool("train", indices, int(recipe.config["size"]))
    vocabulary = str(recipe.config["words"]).split()
    word_tokens = {word: i + 1 for i, word in enumerate(vocabulary)}  # 0 is padding

    caption_length = int(recipe.config["places"])
    caption_tokens = torch.zeros(len(pool.captions), caption_length, dtype=torch.long)
    for row, case in enumerate(pool.captions):
        for column, word in enumerate(case.prompt.split()):
            caption_tokens[row, column] = word_tokens[word]

    is_single_object = torch.tensor([case.task in SINGLE_OBJECT_TASKS for case in pool.captions])
    images = torch.from_numpy(pool.images).permute(0, 3, 1, 2)  # (N, 3, side, side)
    return CaptionedScenes(images, caption_tokens, is_single_object)


def text_to_image_loss(recipe: TextToImageRecipe, scenes: CaptionedScenes) -> LossFunction:
    """Return the mean squared error of the sampler's target, with caption dropout."""
    sampler = load_sampler(recipe.sampler)
    training_indices = _training_indices(recipe, scenes)

    def loss(network: nn.Module, rng: Generator) -> Tensor:
        batch_size = (recipe.schedule.batch,)
        indices = training_indices[torch.randint(len(training_indices), batch_size, generator=rng)]
        clean_images = scale_images(scenes.images[indices])  # (B, 3, side, side) in [-1, 1]
        batch = make_noised_batch(sampler, clean_images, recipe.caption_dropout, rng)
        tokens = scenes.caption_tokens[indices].masked_fill(batch.is_dropped[:, None], 0)
        prediction = predict_target(
            network, recipe, batch.example.noised_input, batch.example.time, tokens
        )
        return batch.squared_error(prediction)

    return loss


def _training_indices(recipe: TextToImageRecipe, scenes: CaptionedScenes) -> Tensor:
    """Return the indices of the scenes to train on, (n,).

    They are all scenes with several objects, and the recipe's fraction of those with one object,
    counted from the first scene.
    """
    is_single = scenes.is_single_object
    single_object_limit = round(recipe.single_object_fraction * int(is_single.sum()))
    is_within_limit = is_single.cumsum(0) <= single_object_limit
    return (is_within_limit | ~is_single).nonzero()[:, 0]


def predict_target(
    network: nn.Module, recipe: TextToImageRecipe, x: Tensor, time: Tensor, tokens: Tensor
) -> Tensor:
    """Return the network's prediction in float32; its products have the recipe's precision.

    `time` (B,) is from 0 (image) to 1000 (noise).
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        prediction: Tensor = network(x, time, tokens)
    return prediction.float()


def validation_metrics(recipe: TextToImageRecipe) -> LoggedMetrics:
    """Return the losses with own and with shuffled captions on scenes beyond the training scenes.

    Noise and times are the same at every call.
    """
    validation_indices = range(recipe.n_scenes, recipe.n_scenes + N_VALIDATION_SCENES)
    scenes = render_scenes(recipe, validation_indices)
    rng = torch.Generator().manual_seed(0)
    clean_images = scale_images(scenes.images)
    noise = torch.randn(clean_images.shape, generator=rng)
    time_quantiles = torch.linspace(*VALIDATION_TIME_RANGE, N_VALIDATION_SCENES)
    example = load_sampler(recipe.sampler).training_example(clean_images, noise, time_quantiles)

    # The tasks alternate, so a shift by their number gives each scene a caption of its own task.
    own_tokens = scenes.caption_tokens
    shuffled_tokens = own_tokens.roll(len(TASKS), 0)

    @torch.no_grad()
    def measure(network: nn.Module) -> tuple[float, ...]:
        losses = []
        for tokens in (own_tokens, shuffled_tokens):
            prediction = predict_target(network, recipe, example.noised_input, example.time, tokens)
            losses.append(float((prediction - example.target).square().mean()))
        return tuple(losses)

    return LoggedMetrics(("loss_own_captions", "loss_shuffled_captions"), measure)
