"""Rectified flow: straight paths from images (time 0) to noise (time 1), sampled by Euler steps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor

from harope_bench.models.samplers.base import Predictor, Sampler, TrainingExample
from harope_bench.models.samplers.noise import expand_like

# Factor of the times that the network receives: its embedding expects the range of DDPM.
TIME_SCALE = 1000.0


class Flow(Sampler):
    """Rectified flow: x_t = (1 - t) x + t noise; the network predicts the velocity noise - x.

    Source: Liu et al. 2022, arXiv 2209.03003. Training times are logit-normal (Esser et al. 2024).
    """

    prediction_type = "velocity"

    def __init__(self, shift: float = 1.0):
        """Create a sampler whose times are shifted towards noise.

        Args:
            shift: The s of s t / (1 + (s - 1) t), Esser et al. 2024, equation 23; 1 is no shift.
        """
        self.shift = shift

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

    def sample(
        self, network: Predictor, noise: Tensor, steps: int, generators: Sequence[Generator]
    ) -> Tensor:
        """Integrate the velocity from time 1 to time 0 by Euler's method.

        The steps are equal before the shift. No noise is added between them.
        """
        even_times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        times = (self.shift * even_times / (1 + (self.shift - 1) * even_times)).tolist()

        x = noise
        for time, next_time in pairwise(times):
            velocity = network(x, torch.full((len(x),), time * TIME_SCALE, device=x.device))
            x = x + (next_time - time) * velocity
        return x


PLUGIN = Flow()
