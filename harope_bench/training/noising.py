"""Training examples of a generator: clean images noised as its sampler says, some without what they
are conditioned on.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from harope_bench.models.samplers.base import Sampler, TrainingExample


class NoisedBatch(NamedTuple):
    """A batch of examples, and which rows (B,) bool are trained without their label or caption."""

    pair: TrainingExample
    dropped: Tensor

    def squared_error(self, predicted: Tensor) -> Tensor:
        """Return the mean squared error () of a prediction of the batch."""
        return (predicted - self.pair.target).square().mean()


def make_noised_batch(sampler: Sampler, clean: Tensor, drop: float, rng: Generator) -> NoisedBatch:
    """Return the examples of clean images (B, ...), with noise and times of `rng`.

    Args:
        drop: probability of a row to be trained without its label or caption.
    """
    noise = torch.randn(clean.shape, generator=rng)
    uniform = torch.rand(len(clean), generator=rng)
    dropped = torch.rand(len(clean), generator=rng) < drop
    return NoisedBatch(sampler.training_example(clean, noise, uniform), dropped)


def scale_images(images: Tensor) -> Tensor:
    """Levels 0 to 255 to [-1, 1], float32."""
    return images.float().div(127.5).sub(1)
