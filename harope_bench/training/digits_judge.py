"""Training of the judge digits-net on real digits, and its accuracy on held-out ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from harope_bench.judges.micro.digits_net import prepare
from harope_bench.judges.micro.digits_network import DigitsNet
from harope_bench.training import judge_training
from harope_bench.training.loop import LossFunction
from harope_bench.training.recipe import DigitsJudgeRecipe

MAX_SHIFT_FRACTION = 0.15  # of half the image side: about two pixels
MAX_ROTATION_DEGREES = 12.0
MAX_SCALE_CHANGE = 0.1


def train_digits_judge(
    recipe: DigitsJudgeRecipe, recipe_sha256: str, folder: Path, resume: bool
) -> float:
    """Train the judge and return its held-out accuracy, a fraction.

    Writes the judge's .safetensors and .toml to the folder.

    Raises:
        BenchError: The accuracy is below the minimum of the recipe. Nothing is written then.
    """
    training = judge_training.JudgeTraining(DigitsNet, digits_loss, held_out_accuracy, "images")
    return judge_training.train_judge(recipe, recipe_sha256, folder, resume, training)


def digits_loss(images: np.ndarray, labels: np.ndarray, batch_size: int) -> LossFunction:
    """Return the cross-entropy on randomly shifted, rotated and scaled images.

    Args:
        images: (N, H, W) uint8. labels: (N,).
    """
    targets = torch.from_numpy(labels)

    def loss(network: nn.Module, rng: Generator) -> Tensor:
        indices = torch.randint(len(images), (batch_size,), generator=rng)
        rgb = _grey_to_rgb(images[indices.numpy()])
        logits = network(random_affine(prepare(rgb), rng))[2]  # (B, classes)
        return F.cross_entropy(logits, targets[indices])

    return loss


def random_affine(x: Tensor, rng: Generator) -> Tensor:
    """Return images (B, 1, H, W), each under its own small random affine map.

    Pixels from outside the image are black (-1).
    """
    uniform = torch.rand(len(x), 5, generator=rng) * 2 - 1  # (B, 5) in [-1, 1]
    angle = uniform[:, 0] * math.radians(MAX_ROTATION_DEGREES)
    scale = 1 + uniform[:, 1] * MAX_SCALE_CHANGE
    shift_x = uniform[:, 2] * MAX_SHIFT_FRACTION
    shift_y = uniform[:, 3] * MAX_SHIFT_FRACTION

    # Rows of the map: (s cos, -s sin, shift_x) and (s sin, s cos, shift_y).
    cos = scale * angle.cos()
    sin = scale * angle.sin()
    theta = torch.stack((cos, -sin, shift_x, sin, cos, shift_y), 1).view(-1, 2, 3)  # (B, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)  # (B, H, W, 2)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1


@torch.inference_mode()
def held_out_accuracy(network: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the fraction of images (N, H, W) uint8 whose label (N,) the network predicts."""
    logits = network.eval()(prepare(_grey_to_rgb(images)))[2]  # (N, classes)
    return float((logits.argmax(1) == torch.from_numpy(labels)).double().mean())


def _grey_to_rgb(images: np.ndarray) -> np.ndarray:
    """Return grey images (N, H, W) with three equal channels, (N, H, W, 3)."""
    return np.repeat(images[..., None], 3, -1)
