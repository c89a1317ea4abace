"""Sampler my-sampler: rectified flow, sampled by the midpoint rule."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from harope_bench.models.samplers.base import Predictor, Sampler, TrainingExample

TIME_SCALE = 1000.0  # the networks expect times of 0 to 1,000


class MySampler(Sampler):
    """The path x_t = (1 - t) x + t noise; the network predicts its velocity, noise - x."""

    prediction_type = "velocity"

    def check_steps(self, steps: int) -> None:
        """Accept every number: a step is half a step to the midpoint, and the step itself."""

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
        for step in range(steps):
            time = 1 - step * step_size
            velocity = network(x, self._network_time(x, time))
            midpoint = x - step_size / 2 * velocity
            x = x - step_size * network(midpoint, self._network_time(x, time - step_size / 2))
        return x

    def _network_time(self, x: Tensor, time: float) -> Tensor:
        """Return the time that the network receives, (B,)."""
        return torch.full((len(x),), time * TIME_SCALE, device=x.device)


PLUGIN = MySampler()
