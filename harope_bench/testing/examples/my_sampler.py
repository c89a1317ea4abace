"""Sampler my-sampler: rectified flow, sampled by the two-step method of Adams and Bashforth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from harope_bench.models.samplers.base import Predictor, Sampler, TrainingExample

TIME_SCALE = 1000.0  # the networks expect times of 0 to 1,000


class MySampler(Sampler):
    """The path x_t = (1 - t) x + t noise; the network predicts its velocity, noise - x."""

    prediction_type = "velocity"

    def training_example(
        self, clean_images: Tensor, noise: Tensor, uniform: Tensor
    ) -> TrainingExample:
        """Return the example at the times `uniform` (B,)."""
        t = uniform.to(clean_images.dtype).view(-1, *[1] * (clean_images.ndim - 1))  # (B, 1, ...)
        noised_input = (1 - t) * clean_images + t * noise
        return TrainingExample(noised_input, uniform * TIME_SCALE, noise - clean_images)

    def sample(
        self, network: Predictor, noise: Tensor, steps: int, generators: Sequence[Generator]
    ) -> Tensor:
        """Return images (B, ...): integrate the velocity from time 1 to time 0."""
        x = noise
        step_size = 1 / steps
        last_velocity = None
        for step in range(steps):
            time = torch.full((len(x),), (1 - step * step_size) * TIME_SCALE, device=x.device)
            velocity = network(x, time)  # one call for each step
            # x' = x - h (3/2 v - 1/2 v of the step before); the first step is Euler's.
            slope = velocity if last_velocity is None else 1.5 * velocity - 0.5 * last_velocity
            x = x - step_size * slope
            last_velocity = velocity
        return x


PLUGIN = MySampler()
