"""Trains the judge shapes-net on drawn scenes and measures it on scenes of test captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from harope_bench.data.shapes_scenes.contents import N_COLOUR_SETS
from harope_bench.data.shapes_scenes.words import COLOURS
from harope_bench.judges.micro.shapes_net import ShapesNet, prepare
from harope_bench.training import judge_training
from harope_bench.training.loop import LossFunction
from harope_bench.training.recipe import ShapesJudgeRecipe

MAX_NOISE = 0.1  # largest spread of the noise on an image of [-1, 1]
MAX_SHIFT_PIXELS = 3  # pixels
# weight of the features' squares, which keeps distances between them near those of other judges
FEATURE_PENALTY = 0.01


def train_shapes_judge(
    recipe: ShapesJudgeRecipe, recipe_sha256: str, folder: Path, resume: bool
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
        judge_training.JudgeTraining(ShapesNet, shapes_loss, held_out_accuracy, "scenes"),
    )


def shapes_loss(images: np.ndarray, labels: np.ndarray, size: int) -> LossFunction:
    """Cross-entropy of the content and of each colour, on images that are moved by whole pixels and
    made noisy.
    """
    content = torch.from_numpy(labels // N_COLOUR_SETS)
    painted = colour_targets(labels)

    def loss(network: nn.Module, rng: Generator) -> Tensor:
        chosen = torch.randint(len(images), (size,), generator=rng)
        x = shift_images(prepare(images[chosen.numpy()]), rng)
        x = x + MAX_NOISE * torch.rand(size, 1, 1, 1, generator=rng) * torch.randn(
            x.shape, generator=rng
        )
        assert isinstance(network, ShapesNet)
        outputs = network(x)
        named = (
            F.cross_entropy(outputs.logits, content[chosen])
            + FEATURE_PENALTY * outputs.features.square().mean()
        )
        return named + F.binary_cross_entropy_with_logits(
            network.colours(outputs.features), painted[chosen]
        )

    return loss


def shift_images(x: Tensor, rng: Generator) -> Tensor:
    """A batch (B, 3, H, W) moved by the same few pixels; the edge is repeated."""
    down, right = torch.randint(
        -MAX_SHIFT_PIXELS, MAX_SHIFT_PIXELS + 1, (2,), generator=rng
    ).tolist()
    wide = F.pad(x, (MAX_SHIFT_PIXELS,) * 4, mode="replicate")
    return wide[
        ...,
        MAX_SHIFT_PIXELS + down : MAX_SHIFT_PIXELS + down + x.shape[2],
        MAX_SHIFT_PIXELS + right : MAX_SHIFT_PIXELS + right + x.shape[3],
    ]


def colour_targets(labels: np.ndarray) -> Tensor:
    """Which colours occur, (N, colours) float32."""
    return torch.from_numpy(labels[:, None] >> np.arange(len(COLOURS)) & 1).float()


@torch.inference_mode()
def held_out_accuracy(network: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of images (N, H, W, 3) uint8 whose content the network names."""
    found = network.eval()(prepare(images))[2].argmax(1)
    return float((found == torch.from_numpy(labels // N_COLOUR_SETS)).double().mean())
