"""Trains a judge's network on real images and measures it on held-out ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from harope_bench.judges.micro.digits_net import DigitsNet, prepare
from harope_bench.training import judge_training
from harope_bench.training.loop import LossFunction
from harope_bench.training.recipe import DigitsJudgeRecipe

MAX_SHIFT_FRACTION = 0.15  # of half the image side: about two pixels
MAX_ROTATION_DEGREES = 12.0  # degrees
MAX_SCALE_CHANGE = 0.1


def train_digits_judge(
    recipe: DigitsJudgeRecipe, recipe_sha256: str, folder: Path, resume: bool
) -> float:
    """Trains the judge; leaves its .safetensors and .toml in the folder and returns held-out
    accuracy.

    Raises:
        BenchError: the accuracy is below what the recipe asks for; nothing is written then.
    """
    return judge_training.train_judge(
        recipe,
        recipe_sha256,
        folder,
        resume,
        judge_training.JudgeTraining(DigitsNet, digits_loss, held_out_accuracy, "images"),
    )


def digits_loss(images: np.ndarray, labels: np.ndarray, size: int) -> LossFunction:
    """Cross-entropy on randomly shifted, turned and stretched images."""
    wanted = torch.from_numpy(labels)

    def loss(network: nn.Module, rng: Generator) -> Tensor:
        chosen = torch.randint(len(images), (size,), generator=rng)
        batch = random_affine(prepare(np.repeat(images[chosen.numpy()][..., None], 3, -1)), rng)
        return F.cross_entropy(network(batch)[2], wanted[chosen])

    return loss


def random_affine(x: Tensor, rng: Generator) -> Tensor:
    """Images (B, 1, H, W) under a small random affine map each; outside is black (-1)."""
    u = torch.rand(len(x), 5, generator=rng) * 2 - 1
    angle = u[:, 0] * math.radians(MAX_ROTATION_DEGREES)
    size = 1 + u[:, 1] * MAX_SCALE_CHANGE
    theta = torch.stack(
        (
            size * angle.cos(),
            -size * angle.sin(),
            u[:, 2] * MAX_SHIFT_FRACTION,
            size * angle.sin(),
            size * angle.cos(),
            u[:, 3] * MAX_SHIFT_FRACTION,
        ),
        1,
    ).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1


@torch.inference_mode()
def held_out_accuracy(network: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of images (N, H, W) uint8 whose label (N,) the network reads."""
    logits = network.eval()(prepare(np.repeat(images[..., None], 3, -1)))[2]
    return float((logits.argmax(1) == torch.from_numpy(labels)).double().mean())
