"""Training of the judge shapes-net on rendered scenes, and its accuracy on test captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from harope_bench.data.shapes_scenes.contents import N_COLOUR_SETS
from harope_bench.data.shapes_scenes.words import COLOURS
from harope_bench.judges.micro.shapes_net import prepare
from harope_bench.judges.micro.shapes_network import ShapesNet
from harope_bench.training import judge_training
from harope_bench.training.loop import LossFunction
from harope_bench.training.recipe import ShapesJudgeRecipe

MAX_NOISE = 0.1  # largest standard deviation of the noise on an image in [-1, 1]
MAX_SHIFT_PIXELS = 3
# Weight of the squared features. The penalty keeps distances near those of other judges.
FEATURE_PENALTY = 0.01


def train_shapes_judge(
    recipe: ShapesJudgeRecipe, recipe_sha256: str, folder: Path, resume: bool
) -> float:
    """Train the judge and return its held-out accuracy, a fraction.

    Writes the judge's .safetensors and .toml to the folder.

    Raises:
        BenchError: The accuracy is below the minimum of the recipe. Nothing is written then.
    """
    training = judge_training.JudgeTraining(ShapesNet, shapes_loss, held_out_accuracy, "scenes")
    return judge_training.train_judge(recipe, recipe_sha256, folder, resume, training)


def shapes_loss(images: np.ndarray, labels: np.ndarray, batch_size: int) -> LossFunction:
    """Return the cross-entropy of the content and of each colour, plus the feature penalty.

    Each batch is shifted by whole pixels and gets Gaussian noise.

    Args:
        images: (N, H, W, 3) uint8.
        labels: (N,) label = content * N_COLOUR_SETS + bit set of the colours.
    """
    content_targets = torch.from_numpy(labels // N_COLOUR_SETS)  # (N,)
    targets_by_colour = colour_targets(labels)  # (N, colours)

    def loss(network: nn.Module, rng: Generator) -> Tensor:
        assert isinstance(network, ShapesNet)
        indices = torch.randint(len(images), (batch_size,), generator=rng)
        x = shift_images(prepare(images[indices.numpy()]), rng)  # (B, 3, H, W)
        noise_level = MAX_NOISE * torch.rand(batch_size, 1, 1, 1, generator=rng)
        x = x + noise_level * torch.randn(x.shape, generator=rng)

        outputs = network(x)
        content_loss = F.cross_entropy(outputs.logits, content_targets[indices])
        penalty = FEATURE_PENALTY * outputs.features.square().mean()
        colour_loss = F.binary_cross_entropy_with_logits(
            network.colours(outputs.features), targets_by_colour[indices]
        )
        return content_loss + penalty + colour_loss

    return loss


def shift_images(x: Tensor, rng: Generator) -> Tensor:
    """Return a batch (B, 3, H, W) shifted by the same random pixels; the edge is repeated."""
    shift_range = (-MAX_SHIFT_PIXELS, MAX_SHIFT_PIXELS + 1)
    down, right = torch.randint(*shift_range, (2,), generator=rng).tolist()
    padding = (MAX_SHIFT_PIXELS,) * 4
    padded = F.pad(x, padding, mode="replicate")  # (B, 3, H + 2 shift, W + 2 shift)
    top = MAX_SHIFT_PIXELS + down
    left = MAX_SHIFT_PIXELS + right
    return padded[..., top : top + x.shape[2], left : left + x.shape[3]]  # (B, 3, H, W)


def colour_targets(labels: np.ndarray) -> Tensor:
    """Return which colours occur in scenes with these labels (N,): 0 or 1, (N, colours) float32."""
    return torch.from_numpy(labels[:, None] >> np.arange(len(COLOURS)) & 1).float()


@torch.inference_mode()
def held_out_accuracy(network: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the fraction of images (N, H, W, 3) uint8 whose content the network predicts."""
    predictions = network.eval()(prepare(images))[2].argmax(1)  # (N,)
    targets = torch.from_numpy(labels // N_COLOUR_SETS)
    return float((predictions == targets).double().mean())
