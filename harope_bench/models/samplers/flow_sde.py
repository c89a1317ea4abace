"""Rectified flow with noise on the way: the SDE sampler of SiT and REPA."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Self

import torch
from torch import Generator, Tensor

from harope_bench.core.record_base import Option
from harope_bench.models.samplers.base import Predictor
from harope_bench.models.samplers.flow import Flow, predict_velocity
from harope_bench.models.samplers.noise import unit_noise

LAST_STEP = 0.04  # Length of the last step, which adds no noise.
# The coefficient w(t) of a time from 0 (image) to 1 (noise), by SiT's name. On straight paths
# SiT's "linear" equals "sigma", and its "SBDM" is t / (1 - t), which is infinite at the start.
DIFFUSIONS: dict[str, Callable[[float], float]] = {
    "sigma": lambda t: t,
    "constant": lambda t: 1.0,
    "decreasing": lambda t: 0.25 * (math.cos(math.pi * (1 - t)) + 1) ** 2,
    "increasing-decreasing": lambda t: math.sin(math.pi * (1 - t)) ** 2,
}


class FlowSde(Flow):
    """The flow of `flow` with noise on the way, which changes no marginal distribution.

    dx = v dt - w s dt + sqrt(2 w) dW, backwards in time; s is the score and w the diffusion
    coefficient. Steps of Euler and Maruyama are equal down to the time LAST_STEP, and the last one
    adds no noise. With the exact velocity of a single image, LAST_STEP times unit noise remains.
    Source: Ma et al. 2024 (arXiv 2401.08740), equation 6 and table 2; defaults of willisma/SiT
    (form sigma, norm 1, last step "Mean" of 0.04). REPA's sampler is the same.
    """

    option_names = ("diffusion",)
    residual_noise = LAST_STEP

    def __init__(self, diffusion: str = "sigma"):
        super().__init__()
        self.diffusion = diffusion

    def with_options(self, options: Mapping[str, Option]) -> Self:
        """Return a sampler with this diffusion coefficient."""
        return type(self)(diffusion=str(options["diffusion"]))

    def times(self, steps: int) -> list[float]:
        """Return the steps + 1 times from 1 to 0; the last step is LAST_STEP long."""
        if steps == 1:
            return [1.0, 0.0]
        return [*torch.linspace(1, LAST_STEP, steps, dtype=torch.float64).tolist(), 0.0]

    def sample(
        self, network: Predictor, noise: Tensor, steps: int, generators: Sequence[Generator]
    ) -> Tensor:
        """Return images (B, ...); the noise of a row comes from its own generator."""
        x = noise
        coefficient = DIFFUSIONS[self.diffusion]
        for time, next_time in pairwise(self.times(steps)):
            velocity = predict_velocity(network, x, time)
            # The score is minus the predicted noise x + (1 - t) v, divided by t.
            score = -(x + (1 - time) * velocity) / time
            length = time - next_time
            w = coefficient(time)
            x = x - length * (velocity - w * score)
            if next_time > 0:
                unit = unit_noise(tuple(x.shape[1:]), generators).to(x)
                x = x + math.sqrt(2 * w * length) * unit
        return x


PLUGIN = FlowSde()
