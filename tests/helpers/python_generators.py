"""Python callables that generate images, for tests of the Python interface."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harope_bench.api.generation import Run
from harope_bench.api.generation import generate as generate_run
from harope_bench.api.generators import GenerationRequest, Generator


def noise_images(
    requests: Sequence[GenerationRequest], generators: Sequence[torch.Generator]
) -> torch.Tensor:
    """Images (B, H, W, 3) of noise; each row draws from its own generator."""
    side = requests[0].resolution
    rows = [
        torch.randint(0, 256, (side, side, 3), generator=generator, dtype=torch.uint8)
        for generator in generators
    ]
    return torch.stack(rows)


def seeded_images(requests: Sequence[GenerationRequest], generators: object) -> np.ndarray:
    """Images (B, H, W, 3) of noise, from the seeds of the requests without torch."""
    side = requests[0].resolution
    shape = (side, side, 3)
    return np.stack(
        [np.random.default_rng(r.seed).integers(0, 256, shape, dtype=np.uint8) for r in requests]
    )


def noise_generator(batch_size: int = 4, **fields: Any) -> Generator:
    options: dict[str, Any] = {"name": "noise", "version": "1", "batch_size": batch_size, **fields}
    return Generator(options.pop("call", noise_images), **options)


def generate_killed_after(folder: Path, n_calls: int, count: int) -> Run:
    """Generate, and end the process without any clean-up in the call after `n_calls`."""
    calls = []

    def dying_images(requests: Any, generators: Any) -> Any:
        calls.append(len(requests))
        if len(calls) > n_calls:
            # images are written by another thread
            while not list((folder / "images").glob("*.png")):
                time.sleep(0.01)
            os._exit(9)
        return noise_images(requests, generators)

    return generate_run(noise_generator(call=dying_images), "digits", count=count, out=folder)
