"""Trains a small denoiser of one encoding and writes it as a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from harope_bench import registry
from harope_bench.records import Checkpoint, Option
from harope_bench.store import sha256_bytes, weights_bytes, write_bytes, write_text
from harope_bench.tomlfile import toml_text
from harope_bench.training.loop import Loss, Trainer
from harope_bench.training.recipe import Denoiser


def train(
    recipe: Denoiser, recipe_sha256: str, encoding: str, options: dict[str, Option], name: str, folder: Path, resume: bool
) -> Checkpoint:
    """Trains (or takes up) one encoding; leaves NAME.safetensors, NAME.toml and log.csv in the folder.

    Weights are the running average, stored as float16 to halve the file.
    """
    backbone = registry.load("backbones", recipe.backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.schedule.seed)
        network = backbone.build(encoding, options, recipe.config)
    identity = f"recipe {recipe.name} {recipe_sha256[:12]}, encoding {encoding} {sorted(options.items())}"
    trainer = Trainer(network, recipe.schedule, recipe.ema, folder, identity)
    if resume:
        trainer.resume()
    average = trainer.run(denoising_loss(recipe), name)
    facts = {
        "backbone": recipe.backbone,
        "encoding": encoding,
        "options": options,
        "config": recipe.config,
        "scale": "micro",
        "suite": recipe.suite,
        "sampler": recipe.sampler,
        "steps": recipe.draw_steps,
        "guidance": recipe.guidance,
        "recipe": recipe.name,
        "recipe_sha256": recipe_sha256,
        "training_seed": recipe.schedule.seed,
        "training_steps": recipe.schedule.steps,
    }
    # the facts travel in the file: equal keys do not tell qk_mode, heads or the sampler
    data = weights_bytes({k: v.half() for k, v in average.items()}, {"checkpoint": json.dumps(facts, sort_keys=True)})
    checkpoint = Checkpoint.model_validate(
        {
            "name": name,
            **facts,
            "weights": f"{name}.safetensors",
            "sha256": sha256_bytes(data),
            "source": command(recipe.name, encoding, options),
        }
    )
    write_bytes(folder / checkpoint.weights, data)
    write_text(folder / f"{name}.toml", toml_text(checkpoint.model_dump(mode="json", exclude_none=True)))
    return checkpoint


def command(recipe: str, encoding: str, options: dict[str, Option]) -> str:
    """What makes the checkpoint again."""
    said = [f"--option {key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in sorted(options.items())]
    return " ".join([f"harope-bench train {recipe} --encoding {encoding}", *said])


def denoising_loss(recipe: Denoiser) -> Loss:
    """Mean squared error of the sampler's target; labels are dropped at the recipe's rate."""
    images, labels = registry.load("suites", recipe.suite).images("train")
    clean_all = torch.from_numpy(images).float().div(127.5).sub(1)[:, None]  # (N, 1, H, W) in [-1, 1]
    label_all = torch.from_numpy(labels)
    sampler = registry.load("samplers", recipe.sampler)
    empty = int(recipe.config["classes"])

    def loss(network: nn.Module, rng: Generator) -> Tensor:
        size = recipe.schedule.batch
        chosen = torch.randint(len(clean_all), (size,), generator=rng)
        clean = clean_all[chosen]
        noise, uniform = torch.randn(clean.shape, generator=rng), torch.rand(size, generator=rng)
        drop = torch.rand(size, generator=rng) < recipe.label_drop
        pair = sampler.pair(clean, noise, uniform)
        predicted = network(pair.noised, pair.time, label_all[chosen].masked_fill(drop, empty))
        return (predicted - pair.target).square().mean()

    return loss
