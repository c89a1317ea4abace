"""Rectified flow: straight lines from data (time 0) to noise (time 1), drawn with Euler steps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor

from harope_bench.models.samplers.base import Predictor, Sampler, TrainingExample
from harope_bench.models.samplers.noise import expand_like

TIME_SCALE = 1000.0  # the network's sinusoidal time embedding expects a range like DDPM's


class Flow(Sampler):
    """x_t = (1 - t) x + t noise; the network predicts the velocity noise - x.

    Source: Liu et al. 2022, arXiv 2209.03003; times are logit-normal in training (Esser et al.
    2024).
    """

    predicts = "velocity"

    def __init__(self, shift: float = 1.0):
        """A static shift s moves drawing times towards noise: s t / (1 + (s - 1) t) (Esser et al.
        2024, equation 23).
        """
        self.shift = shift

    def pair(self, clean: Tensor, noise: Tensor, uniform: Tensor) -> TrainingExample:
        """Example at time t = sigmoid of a standard normal quantile of `uniform`."""
        normal = torch.special.ndtri(uniform.double().clamp(1e-6, 1 - 1e-6)).to(clean.dtype)
        time = normal.sigmoid()
        t = expand_like(time, clean)
        return TrainingExample((1 - t) * clean + t * noise, time * TIME_SCALE, noise - clean)

    def sample(
        self, network: Predictor, noise: Tensor, steps: int, generators: Sequence[Generator]
    ) -> Tensor:
        """Euler integration from time 1 to 0 in steps that are equal before the shift; no noise is
        added on the way.
        """
        even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        x = noise
        times = (self.shift * even / (1 + (self.shift - 1) * even)).tolist()
        for now, later in pairwise(times):
            velocity = network(x, torch.full((len(x),), now * TIME_SCALE, device=x.device))
            x = x + (later - now) * velocity
        return x


PLUGIN = Flow()
