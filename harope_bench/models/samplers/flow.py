"""Rectified flow: straight paths from images (time 0) to noise (time 1), sampled by Euler steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Self

import torch
from torch import Generator, Tensor

from harope_bench.core.record_base import Option
from harope_bench.models.samplers.base import Predictor, Sampler, TrainingExample
from harope_bench.models.samplers.noise import expand_like

# Factor of the times that the network receives: its embedding expects the range of DDPM.
TIME_SCALE = 1000.0


class Flow(Sampler):
    """Rectified flow: x_t = (1 - t) x + t noise; the network predicts the velocity noise - x.

    Source: Liu et al. 2022, arXiv 2209.03003. Training times are logit-normal (Esser et al. 2024).
    """

    prediction_type = "velocity"
    option_names: tuple[str, ...] = ("shift",)

    def __init__(self, shift: float = 1.0):
        """Create a sampler whose times are shifted towards noise.

        Args:
            shift: The s of s t / (1 + (s - 1) t), Esser et al. 2024, equation 23; 1 is no shift.
        """
        self.shift = shift

    def with_options(self, options: Mapping[str, Option]) -> Self:
        """Return a sampler with this shift."""
        return type(self)(shift=float(options["shift"]))

    def training_example(
        self, clean_images: Tensor, noise: Tensor, uniform: Tensor
    ) -> TrainingExample:
        """Return the example at the logit-normal time that belongs to `uniform` (B,)."""
        # t = sigmoid(u), u standard normal (Esser et al. 2024, equation 19 with m = 0, s = 1).
        quantile = torch.special.ndtri(uniform.double().clamp(1e-6, 1 - 1e-6))
        time = quantile.to(clean_images.dtype).sigmoid()

        t = expand_like(time, clean_images)  # (B, 1, ..., 1)
        noised_input = (1 - t) * clean_images + t * noise
        return TrainingExample(noised_input, time * TIME_SCALE, noise - clean_images)

    def times(self, steps: int) -> list[float]:
        """Return the steps + 1 times from 1 to 0, equal steps before the shift."""
        even_times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        times = self.shift * even_times / (1 + (self.shift - 1) * even_times)
        return times.tolist()

    def sample(
        self, network: Predictor, noise: Tensor, steps: int, generators: Sequence[Generator]
    ) -> Tensor:
        """Integrate the velocity from time 1 to time 0 by Euler's method.

        No noise is added between the steps.
        """
        x = noise
        for time, next_time in pairwise(self.times(steps)):
            x = x + (next_time - time) * predict_velocity(network, x, time)
        return x


def predict_velocity(network: Predictor, x: Tensor, time: float) -> Tensor:
    """Return the velocity (B, ...) of x (B, ...) at a time from 0 (image) to 1 (noise)."""
    return network(x, torch.full((len(x),), time * TIME_SCALE, device=x.device))


PLUGIN = Flow()
