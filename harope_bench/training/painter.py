"""Trains a small text-to-image network of one encoding on drawn scenes, from nothing or from other weights.

Whether the words are used shows in the log: the loss of held-back scenes with their own captions (`true`) and with those of
other scenes of the same task (`shuffled`), at times where the picture is not yet settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from harope_bench.core.schema import Checkpoint
from harope_bench.data.shapes_world.grammar import TASKS
from harope_bench.data.shapes_world.pool import pool
from harope_bench.models.checkpoint_fields import CheckpointFields
from harope_bench.models.samplers.base import load_sampler
from harope_bench.training.loop import Loss, Watch
from harope_bench.training.model import Model, command, drawing, facts, trainer
from harope_bench.training.noising import noised, scaled
from harope_bench.training.recipe import Painter
from harope_bench.training.written import write_checkpoint

WATCHED = 96  # scenes of the gauge, a multiple of the tasks
HIGH = (0.65, 0.995)  # quantiles of the gauge's times, on the side of noise
SINGLE = ("single_object", "colors")


class Scenes(NamedTuple):
    """Pictures (N, 3, side, side) in [-1, 1] as uint8 levels, words (N, places), and which show one thing alone."""

    images: Tensor
    words: Tensor
    alone: Tensor


def train(recipe: Painter, model: Model, name: str, folder: Path, resume: bool) -> Checkpoint:
    """Trains (or takes up) one encoding; leaves NAME.safetensors, NAME.toml and log.csv in the folder, and NAME-at-STEP of kept steps."""
    scenes = render(recipe, range(recipe.scenes))
    training = trainer(model, folder, resume, gauge(recipe))

    def write(title: str, step: int, average: dict[str, Tensor]) -> Checkpoint:
        told: CheckpointFields = {**facts(model), **drawing(recipe), "training_steps": step}
        return write_checkpoint(folder, title, average, told, command(model))

    def keep(step: int, average: dict[str, Tensor]) -> None:
        if step in recipe.keep:
            write(f"{name}-at-{step}", step, average)

    average = training.run(painting_loss(recipe, scenes), name, keep)
    return write(name, recipe.schedule.steps, average)


def render(recipe: Painter, indices: Sequence[int]) -> Scenes:
    """Scenes of the training split with their captions as words."""
    drawn = pool("train", indices, int(recipe.config["size"]))
    known = {word: i + 1 for i, word in enumerate(str(recipe.config["words"]).split())}
    words = torch.zeros(len(drawn.cases), int(recipe.config["places"]), dtype=torch.long)
    for row, case in enumerate(drawn.cases):
        for place, word in enumerate(case.prompt.split()):
            words[row, place] = known[word]
    alone = torch.tensor([case.task in SINGLE for case in drawn.cases])
    return Scenes(torch.from_numpy(drawn.images).permute(0, 3, 1, 2), words, alone)


def painting_loss(recipe: Painter, scenes: Scenes) -> Loss:
    """Mean squared error of the sampler's target; captions are dropped at the recipe's rate."""
    sampler = load_sampler(recipe.sampler)
    first = scenes.alone.cumsum(0) <= round(recipe.spare * int(scenes.alone.sum()))
    among = (first | ~scenes.alone).nonzero()[:, 0]

    def loss(network: nn.Module, rng: Generator) -> Tensor:
        chosen = among[torch.randint(len(among), (recipe.schedule.batch,), generator=rng)]
        batch = noised(sampler, scaled(scenes.images[chosen]), recipe.text_drop, rng)
        words = scenes.words[chosen].masked_fill(batch.dropped[:, None], 0)
        return batch.squared_error(predict(network, recipe, batch.pair.noised, batch.pair.time, words))

    return loss


def predict(network: nn.Module, recipe: Painter, x: Tensor, time: Tensor, words: Tensor) -> Tensor:
    """The network's answer in float32, its products at the recipe's precision."""
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        predicted: Tensor = network(x, time, words)
    return predicted.float()


def gauge(recipe: Painter) -> Watch:
    """Losses with true and with shuffled captions of scenes beyond those trained on; always the same noise and times."""
    held = render(recipe, range(recipe.scenes, recipe.scenes + WATCHED))
    rng = torch.Generator().manual_seed(0)
    clean = scaled(held.images)
    noise = torch.randn(clean.shape, generator=rng)
    pair = load_sampler(recipe.sampler).pair(clean, noise, torch.linspace(*HIGH, WATCHED))

    @torch.no_grad()
    def measure(network: nn.Module) -> tuple[float, ...]:
        """Both losses; captions move on by one scene of the same task."""
        losses = []
        for words in (held.words, held.words.roll(len(TASKS), 0)):
            predicted = predict(network, recipe, pair.noised, pair.time, words)
            losses.append(float((predicted - pair.target).square().mean()))
        return tuple(losses)

    return Watch(("true", "shuffled"), measure)
