"""Training examples of a generator: noised images, some of them without label or caption."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from harope_bench.models.samplers.base import Sampler, TrainingExample


class NoisedBatch(NamedTuple):
    """A batch of training examples; `is_dropped` (B,) marks those without label or caption."""

    example: TrainingExample
    is_dropped: Tensor

    def squared_error(self, prediction: Tensor) -> Tensor:
        """Return the mean squared error, a scalar tensor, of a prediction of the targets."""
        return (prediction - self.example.target).square().mean()


def make_noised_batch(
    sampler: Sampler, clean_images: Tensor, dropout: float, rng: Generator
) -> NoisedBatch:
    """Return the training examples of clean images (B, ...), with noise and times from `rng`.

    Args:
        dropout: probability that an example loses its label or caption.
    """
    noise = torch.randn(clean_images.shape, generator=rng)  # (B, ...)
    uniform = torch.rand(len(clean_images), generator=rng)  # (B,)
    is_dropped = torch.rand(len(clean_images), generator=rng) < dropout  # (B,)
    example = sampler.training_example(clean_images, noise, uniform)
    return NoisedBatch(example, is_dropped)


def scale_images(images: Tensor) -> Tensor:
    """Return images of levels 0 to 255 scaled to [-1, 1], float32."""
    return images.float().div(127.5).sub(1)
