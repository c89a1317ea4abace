"""Trains a small text-to-image network of one encoding on drawn scenes, from nothing or from other
weights.

Whether the words are used shows in the log: the loss of held-back scenes with their own captions
(`true`) and with those of
other scenes of the same task (`shuffled`), at times where the picture is not yet settled.
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
    ModelTraining,
    build_trainer,
    generation_fields,
    training_command,
    training_fields,
)
from harope_bench.training.noising import make_noised_batch, scale_images
from harope_bench.training.recipe import TextToImageRecipe
from harope_bench.training.training_files import write_checkpoint

N_VALIDATION_SCENES = 96  # scenes of the gauge, a multiple of the tasks
VALIDATION_TIME_RANGE = (0.65, 0.995)  # quantiles of the gauge's times, on the side of noise
SINGLE_OBJECT_TASKS = ("single_object", "colors")


class CaptionedScenes(NamedTuple):
    """Pictures (N, 3, side, side) in [-1, 1] as uint8 levels, words (N, places), and which show one
    thing alone.
    """

    images: Tensor
    caption_tokens: Tensor
    is_single_object: Tensor


def train_text_to_image(
    recipe: TextToImageRecipe, model: ModelTraining, name: str, folder: Path, resume: bool
) -> Checkpoint:
    """Trains (or takes up) one encoding; leaves NAME.safetensors, NAME.toml and log.csv in the
    folder, and NAME-at-STEP of kept steps.
    """
    scenes = render_scenes(recipe, range(recipe.scenes))
    training = build_trainer(model, folder, resume, validation_metrics(recipe))

    def write(title: str, step: int, average: dict[str, Tensor]) -> Checkpoint:
        told: CheckpointFields = {
            **training_fields(model),
            **generation_fields(recipe),
            "training_steps": step,
        }
        return write_checkpoint(folder, title, average, told, training_command(model))

    def keep(step: int, average: dict[str, Tensor]) -> None:
        if step in recipe.keep:
            write(f"{name}-at-{step}", step, average)

    average = training.train(text_to_image_loss(recipe, scenes), name, keep)
    return write(name, recipe.schedule.steps, average)


def render_scenes(recipe: TextToImageRecipe, indices: Sequence[int]) -> CaptionedScenes:
    """Scenes of the training split with their captions as words."""
    drawn = render_pool("train", indices, int(recipe.config["size"]))
    known = {word: i + 1 for i, word in enumerate(str(recipe.config["words"]).split())}
    words = torch.zeros(len(drawn.captions), int(recipe.config["places"]), dtype=torch.long)
    for row, case in enumerate(drawn.captions):
        for place, word in enumerate(case.prompt.split()):
            words[row, place] = known[word]
    alone = torch.tensor([case.task in SINGLE_OBJECT_TASKS for case in drawn.captions])
    return CaptionedScenes(torch.from_numpy(drawn.images).permute(0, 3, 1, 2), words, alone)


def text_to_image_loss(recipe: TextToImageRecipe, scenes: CaptionedScenes) -> LossFunction:
    """Mean squared error of the sampler's target; captions are dropped at the recipe's rate."""
    sampler = load_sampler(recipe.sampler)
    first = scenes.is_single_object.cumsum(0) <= round(
        recipe.spare * int(scenes.is_single_object.sum())
    )
    among = (first | ~scenes.is_single_object).nonzero()[:, 0]

    def loss(network: nn.Module, rng: Generator) -> Tensor:
        chosen = among[torch.randint(len(among), (recipe.schedule.batch,), generator=rng)]
        batch = make_noised_batch(
            sampler, scale_images(scenes.images[chosen]), recipe.text_drop, rng
        )
        words = scenes.caption_tokens[chosen].masked_fill(batch.dropped[:, None], 0)
        return batch.squared_error(
            predict_target(network, recipe, batch.pair.noised_input, batch.pair.time, words)
        )

    return loss


def predict_target(
    network: nn.Module, recipe: TextToImageRecipe, x: Tensor, time: Tensor, words: Tensor
) -> Tensor:
    """The network's answer in float32, its products at the recipe's precision."""
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        predicted: Tensor = network(x, time, words)
    return predicted.float()


def validation_metrics(recipe: TextToImageRecipe) -> LoggedMetrics:
    """Losses with true and with shuffled captions of scenes beyond those trained on; always the
    same noise and times.
    """
    held = render_scenes(recipe, range(recipe.scenes, recipe.scenes + N_VALIDATION_SCENES))
    rng = torch.Generator().manual_seed(0)
    clean = scale_images(held.images)
    noise = torch.randn(clean.shape, generator=rng)
    pair = load_sampler(recipe.sampler).training_example(
        clean, noise, torch.linspace(*VALIDATION_TIME_RANGE, N_VALIDATION_SCENES)
    )

    @torch.no_grad()
    def measure(network: nn.Module) -> tuple[float, ...]:
        """Both losses; captions move on by one scene of the same task."""
        losses = []
        for words in (held.caption_tokens, held.caption_tokens.roll(len(TASKS), 0)):
            predicted = predict_target(network, recipe, pair.noised_input, pair.time, words)
            losses.append(float((predicted - pair.target).square().mean()))
        return tuple(losses)

    return LoggedMetrics(("true", "shuffled"), measure)
