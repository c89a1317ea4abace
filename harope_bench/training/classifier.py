"""Trains a judge's network on real images and measures it on held-out ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from harope_bench import registry
from harope_bench.errors import BenchError
from harope_bench.judges.digits_net import DigitsNet, prepare
from harope_bench.store import sha256_bytes, weights_bytes, write_bytes, write_text
from harope_bench.tomlfile import toml_text
from harope_bench.training.loop import Loss, Trainer
from harope_bench.training.recipe import Classifier

SHIFT = 0.15  # of half the image side: about two pixels
TURN = 12.0  # degrees
STRETCH = 0.1
EMA = 0.99


def train(recipe: Classifier, recipe_sha256: str, folder: Path, resume: bool) -> float:
    """Trains the judge; leaves its .safetensors and .toml in the folder and returns held-out accuracy.

    Raises:
        BenchError: the accuracy is below what the recipe asks for; nothing is written then.
    """
    suite = registry.load("suites", recipe.suite)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.schedule.seed)
        network = DigitsNet()
    trainer = Trainer(network, recipe.schedule, EMA, folder, f"recipe {recipe.name} {recipe_sha256[:12]}")
    if resume:
        trainer.resume()
    images, labels = suite.images("train")
    average = trainer.run(reading_loss(images, labels, recipe.schedule.batch), recipe.name)
    network.load_state_dict(average)
    accuracy = held_out(network, *suite.images("held-out"))
    if accuracy < recipe.least_accuracy:
        raise BenchError(f"{recipe.name} reads {accuracy:.1%} of the held-out images, wanted {recipe.least_accuracy:.1%}; train longer")
    data = weights_bytes(average, {"judge": recipe.judge, "recipe_sha256": recipe_sha256})
    stem = recipe.judge.replace("-", "_")
    facts = {
        "weights": f"{stem}.safetensors",
        "sha256": sha256_bytes(data),
        "held_out_accuracy": accuracy,
        "held_out_images": len(suite.images("held-out")[1]),
        "recipe": recipe.name,
        "recipe_sha256": recipe_sha256,
        "training_seed": recipe.schedule.seed,
        "source": f"harope-bench train {recipe.name}",
    }
    write_bytes(folder / f"{stem}.safetensors", data)
    write_text(folder / f"{stem}.toml", toml_text(facts))
    return accuracy


def reading_loss(images: np.ndarray, labels: np.ndarray, size: int) -> Loss:
    """Cross-entropy on randomly shifted, turned and stretched images."""
    wanted = torch.from_numpy(labels)

    def loss(network: nn.Module, rng: Generator) -> Tensor:
        chosen = torch.randint(len(images), (size,), generator=rng)
        batch = jitter(prepare(np.repeat(images[chosen.numpy()][..., None], 3, -1)), rng)
        return F.cross_entropy(network(batch)[2], wanted[chosen])

    return loss


def jitter(x: Tensor, rng: Generator) -> Tensor:
    """Images (B, 1, H, W) under a small random affine map each; outside is black (-1)."""
    u = torch.rand(len(x), 5, generator=rng) * 2 - 1
    angle, size = u[:, 0] * math.radians(TURN), 1 + u[:, 1] * STRETCH
    theta = torch.stack(
        (size * angle.cos(), -size * angle.sin(), u[:, 2] * SHIFT, size * angle.sin(), size * angle.cos(), u[:, 3] * SHIFT), 1
    ).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1


@torch.inference_mode()
def held_out(network: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of images (N, H, W) uint8 whose label (N,) the network reads."""
    logits = network.eval()(prepare(np.repeat(images[..., None], 3, -1)))[2]
    return float((logits.argmax(1) == torch.from_numpy(labels)).double().mean())
