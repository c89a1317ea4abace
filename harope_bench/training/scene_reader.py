"""Trains the judge shapes-net on drawn scenes and measures it on scenes of test captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from harope_bench import registry
from harope_bench.errors import BenchError
from harope_bench.judges.shapes_net import ShapesNet, prepare
from harope_bench.scenes.contents import MARKS
from harope_bench.scenes.grammar import COLOURS
from harope_bench.store import sha256_bytes, weights_bytes, write_bytes, write_text
from harope_bench.tomlfile import toml_text
from harope_bench.training.loop import Loss, Trainer
from harope_bench.training.recipe import SceneReader

EMA = 0.99
NOISE = 0.1  # largest spread of the noise on an image of [-1, 1]
MOVE = 3  # pixels
SMALL = 0.01  # weight of the features' squares, which keeps distances between them near those of other judges


def train(recipe: SceneReader, recipe_sha256: str, folder: Path, resume: bool) -> float:
    """Trains the judge; leaves its .safetensors and .toml in the folder and returns held-out accuracy.

    Raises:
        BenchError: the accuracy is below what the recipe asks for; nothing is written then.
    """
    suite = registry.load("suites", recipe.suite)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.schedule.seed)
        network = ShapesNet()
    trainer = Trainer(network, recipe.schedule, EMA, folder, f"recipe {recipe.name} {recipe_sha256[:12]}")
    if resume:
        trainer.resume()
    images, labels = suite.images("train")
    average = trainer.run(reading_loss(images, labels, recipe.schedule.batch), recipe.name)
    network.load_state_dict(average)
    images, labels = suite.images("held-out")
    accuracy = held_out(network, images, labels)
    if accuracy < recipe.least_accuracy:
        raise BenchError(f"{recipe.name} reads {accuracy:.1%} of the held-out scenes, wanted {recipe.least_accuracy:.1%}; train longer")
    data = weights_bytes(average, {"judge": recipe.judge, "recipe_sha256": recipe_sha256})
    stem = recipe.judge.replace("-", "_")
    facts = {
        "weights": f"{stem}.safetensors",
        "sha256": sha256_bytes(data),
        "held_out_accuracy": accuracy,
        "held_out_images": len(labels),
        "recipe": recipe.name,
        "recipe_sha256": recipe_sha256,
        "training_seed": recipe.schedule.seed,
        "source": f"harope-bench train {recipe.name}",
    }
    write_bytes(folder / f"{stem}.safetensors", data)
    write_text(folder / f"{stem}.toml", toml_text(facts))
    return accuracy


def reading_loss(images: np.ndarray, labels: np.ndarray, size: int) -> Loss:
    """Cross-entropy of the content and of each colour, on images that are moved by whole pixels and made noisy."""
    content, painted = torch.from_numpy(labels // MARKS), bits(labels)

    def loss(network: nn.Module, rng: Generator) -> Tensor:
        chosen = torch.randint(len(images), (size,), generator=rng)
        x = moved(prepare(images[chosen.numpy()]), rng)
        x = x + NOISE * torch.rand(size, 1, 1, 1, generator=rng) * torch.randn(x.shape, generator=rng)
        features, _, logits, colours = network(x)
        named = F.cross_entropy(logits, content[chosen]) + SMALL * features.square().mean()
        return named + F.binary_cross_entropy_with_logits(colours, painted[chosen])

    return loss


def moved(x: Tensor, rng: Generator) -> Tensor:
    """A batch (B, 3, H, W) moved by the same few pixels; the edge is repeated."""
    down, right = torch.randint(-MOVE, MOVE + 1, (2,), generator=rng).tolist()
    wide = F.pad(x, (MOVE,) * 4, mode="replicate")
    return wide[..., MOVE + down : MOVE + down + x.shape[2], MOVE + right : MOVE + right + x.shape[3]]


def bits(labels: np.ndarray) -> Tensor:
    """Which colours occur, (N, colours) float32."""
    return torch.from_numpy(labels[:, None] >> np.arange(len(COLOURS)) & 1).float()


@torch.inference_mode()
def held_out(network: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of images (N, H, W, 3) uint8 whose content the network names."""
    found = network.eval()(prepare(images))[2].argmax(1)
    return float((found == torch.from_numpy(labels // MARKS)).double().mean())
