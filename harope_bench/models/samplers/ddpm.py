"""DDPM with linear betas, drawn ancestrally on respaced steps, exactly as DiT's diffusion/ does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor

from harope_bench.core.errors import OptionError
from harope_bench.models.samplers.base import Predictor, Sampler, TrainingExample
from harope_bench.models.samplers.noise import expand_like, unit_noise

TRAINING_STEPS = 1000  # diffusion steps of the training process


def linspace_timesteps(steps: int) -> list[int]:
    """The training steps used when drawing, ascending: both ends, and between them a stride summed
    and rounded (half to even).

    One step is the last one; the original's rule would take the first, which starts from an image
    without noise.
    Source: facebookresearch/DiT:diffusion/respace.py, space_timesteps with a single section.

    Raises:
        OptionError: more steps than were trained, or none.
    """
    if not 1 <= steps <= TRAINING_STEPS:
        raise OptionError(
            f"ddpm draws in 1 to {TRAINING_STEPS} steps, found {steps}; give --steps in that range"
        )
    if steps == 1:
        return [TRAINING_STEPS - 1]
    stride = (TRAINING_STEPS - 1) / (steps - 1)
    place = 0.0
    found = []
    for _ in range(steps):
        found.append(round(place))
        place += stride
    return found


def leading_timesteps(steps: int) -> list[int]:
    """The training steps 0, k, 2k, ... for the smallest k that gives so many.

    Source: facebookresearch/DiT:diffusion/respace.py, space_timesteps of "ddimN".

    Raises:
        OptionError: no stride gives so many; the next number that one gives is named.
    """
    counts = {
        len(range(0, TRAINING_STEPS, stride)): stride for stride in range(TRAINING_STEPS - 1, 0, -1)
    }
    if steps not in counts:
        near = min(counts, key=lambda count: abs(count - steps))
        raise OptionError(
            f"{steps} steps of {TRAINING_STEPS} cannot be taken by one stride; --steps {near}"
            " can be"
        )
    return list(range(0, TRAINING_STEPS, counts[steps]))


# By the names that diffusers gives them: linspace is DiT's create_diffusion("N"), leading its
# create_diffusion("ddimN").
SPACINGS: dict[str, Callable[[int], list[int]]] = {
    "linspace": linspace_timesteps,
    "leading": leading_timesteps,
}


@dataclass(frozen=True)
class DiffusionStep:
    """One step back from x_t to x_s, t > s two neighbours of the kept steps, as float64 numbers.

    a, before: products of 1 - beta up to t and to s (1 below the first step). beta: 1 - a / before.
    """

    time: int
    alpha_cumprod: float
    alpha_cumprod_prev: float
    log_posterior_variance: float  # of the posterior's variance, clipped where that is 0
    log_beta: float

    @property
    def beta(self) -> float:
        """Noise that the step takes away."""
        return 1 - self.alpha_cumprod / self.alpha_cumprod_prev

    def predict_clean(self, x: Tensor, noise: Tensor) -> Tensor:
        """x_0 (B, ...) that x_t and the predicted noise mean."""
        return (1 / self.alpha_cumprod) ** 0.5 * x - (1 / self.alpha_cumprod - 1) ** 0.5 * noise

    def posterior_mean(self, clean: Tensor, x: Tensor) -> Tensor:
        """Mean (B, ...) of q(x_s | x_t, x_0)."""
        on_clean = self.beta * self.alpha_cumprod_prev**0.5 / (1 - self.alpha_cumprod)
        on_x = (1 - self.alpha_cumprod_prev) * (1 - self.beta) ** 0.5 / (1 - self.alpha_cumprod)
        return on_clean * clean + on_x * x

    def log_variance(self, share: Tensor | None) -> Tensor | float:
        """Between the posterior's variance (share -1) and beta (share 1) in logarithms; the
        posterior's if nothing is said.
        """
        if share is None:
            return self.log_posterior_variance
        part = (share + 1) / 2
        return part * self.log_beta + (1 - part) * self.log_posterior_variance


def schedule(alphas: Tensor, times: Sequence[int]) -> list[DiffusionStep]:
    """The steps back over ascending `times`, the last time first; alphas (TRAINED,) float64.

    The variance of the step to the image itself is 0, and its logarithm is taken from the next
    step's, as in
    facebookresearch/DiT:diffusion/gaussian_diffusion.py, posterior_log_variance_clipped.
    """
    products = [1.0, *alphas[list(times)].tolist()]
    pairs = list(zip(products[1:], products[:-1], strict=True))
    betas = [1 - a / before for a, before in pairs]
    variances = [
        beta * (1 - before) / (1 - a) for beta, (a, before) in zip(betas, pairs, strict=True)
    ]
    variances[0] = variances[1] if len(variances) > 1 else betas[0]
    logs = torch.tensor([variances, betas], dtype=torch.float64).log().tolist()
    steps = [
        DiffusionStep(t, a, before, *log)
        for t, (a, before), log in zip(times, pairs, zip(*logs, strict=True), strict=True)
    ]
    return steps[::-1]


def predict_noise(network: Predictor, x: Tensor, time: int) -> tuple[Tensor, Tensor | None]:
    """Predicted noise (B, C, ...), and what a network with learned sigma says of the variance in as
    many channels more.
    """
    said = network(x, torch.full((len(x),), float(time), device=x.device))
    if said.shape[1] == 2 * x.shape[1]:
        noise, share = said.split(x.shape[1], dim=1)
        return noise, share
    return said, None


class Ddpm(Sampler):
    """x_t = sqrt(a_t) x + sqrt(1 - a_t) noise; the network predicts the noise and, with learned
    sigma, a share of the variance.

    Source: facebookresearch/DiT:diffusion/ (Ho et al. 2020, arXiv 2006.11239, betas 1e-4 to 0.02;
    respacing and learned
    range as in Nichol and Dhariwal 2021). The network is told the training process's own step.
    Without learned sigma the variance is the
    posterior's ("fixed small", where DiT's code would take beta), which with few steps draws too
    narrow even from a perfect network (18%
    at 50 steps on a Gaussian). Nothing is clipped.
    """

    predicts = "noise"
    spacings = ("linspace", "leading")
    alphas_cumprod: Tensor

    def __init__(self, spacing: str | None = None) -> None:
        self.timesteps = SPACINGS[spacing or self.spacings[0]]
        betas = torch.linspace(1e-4, 0.02, TRAINING_STEPS, dtype=torch.float64)
        self.alphas_cumprod = torch.cumprod(1 - betas, 0)  # (TRAINED,), float64

    def pair(self, clean: Tensor, noise: Tensor, uniform: Tensor) -> TrainingExample:
        """Example at a uniformly drawn step."""
        step = (uniform * TRAINING_STEPS).long().clamp(max=TRAINING_STEPS - 1)
        a = expand_like(self.alphas_cumprod[step.cpu()].to(clean), clean)
        return TrainingExample(
            a.sqrt() * clean + (1 - a).sqrt() * noise, step.to(clean.dtype), noise
        )

    def with_spacing(self, spacing: str) -> Self:
        """Return this sampler with its training steps spaced so, one of `spacings`."""
        respaced = copy.copy(self)
        respaced.timesteps = SPACINGS[spacing]
        return respaced

    def check(self, steps: int) -> None:
        """Raise OptionError for a number of steps that the spacing does not give."""
        self.timesteps(steps)

    def sample(
        self, network: Predictor, noise: Tensor, steps: int, generators: Sequence[Generator]
    ) -> Tensor:
        """Ancestral sampling; each row's step noise comes from its own generator."""
        x = noise
        back = schedule(self.alphas_cumprod, self.timesteps(steps))
        for step in back:
            eps, share = predict_noise(network, x, step.time)
            mean = step.posterior_mean(step.predict_clean(x, eps), x)
            if step is back[-1]:
                return mean
            deviation = torch.exp(0.5 * torch.as_tensor(step.log_variance(share), device=x.device))
            x = mean + deviation * unit_noise(tuple(x.shape[1:]), generators).to(x)
        return x


PLUGIN = Ddpm()
