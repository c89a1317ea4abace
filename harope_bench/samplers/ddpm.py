"""DDPM with linear betas, drawn ancestrally on respaced steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from harope_bench.errors import OptionError
from harope_bench.samplers.base import Network, Pair, beside, unit_noise

TRAINED = 1000  # diffusion steps of the training process


def kept(steps: int) -> Tensor:
    """Indices (steps,) of the training steps used when drawing, evenly spread, both ends included; one step is the last."""
    if not 1 <= steps <= TRAINED:
        raise OptionError(f"ddpm draws in 1 to {TRAINED} steps, found {steps}; give --steps in that range")
    if steps == 1:
        return torch.tensor([TRAINED - 1])  # a single step starts from pure noise
    return torch.linspace(0, TRAINED - 1, steps, dtype=torch.float64).round().long()


class Ddpm:
    """x_t = sqrt(a_t) x + sqrt(1 - a_t) noise; the network predicts the noise.

    Source: Ho et al. 2020 (arXiv 2006.11239), betas 1e-4 to 0.02; respacing as in Nichol and
    Dhariwal 2021. The variance is the posterior's; nothing is clipped. With few
    steps it draws too narrow even from a perfect network (18% at 50 steps on a Gaussian).
    """

    predicts = "noise"
    alphas: Tensor

    def __init__(self) -> None:
        betas = torch.linspace(1e-4, 0.02, TRAINED, dtype=torch.float64)
        self.alphas = torch.cumprod(1 - betas, 0)  # (TRAINED,), float64

    def pair(self, clean: Tensor, noise: Tensor, uniform: Tensor) -> Pair:
        """Example at a uniformly drawn step."""
        step = (uniform * TRAINED).long().clamp(max=TRAINED - 1)
        a = beside(self.alphas[step.cpu()].to(clean), clean)
        return Pair(a.sqrt() * clean + (1 - a).sqrt() * noise, step.to(clean.dtype), noise)

    def check(self, steps: int) -> None:
        """Raises OptionError outside 1 to 1000 steps."""
        kept(steps)

    def sample(self, network: Network, noise: Tensor, steps: int, generators: Sequence[Generator]) -> Tensor:
        """Ancestral sampling; each row's step noise comes from its own generator."""
        x, times = noise, kept(steps)
        alphas = self.alphas[times].tolist()
        for i in reversed(range(steps)):
            a, before = alphas[i], alphas[i - 1] if i else 1.0
            eps = network(x, torch.full((len(x),), float(times[i]), device=x.device))
            clean = (x - (1 - a) ** 0.5 * eps) / a**0.5
            beta = 1 - a / before
            mean = (before**0.5 * beta * clean + (1 - beta) ** 0.5 * (1 - before) * x) / (1 - a)
            if i:
                sigma = (beta * (1 - before) / (1 - a)) ** 0.5
                mean = mean + sigma * unit_noise(tuple(x.shape[1:]), generators).to(x)
            x = mean
        return x


PLUGIN = Ddpm()
