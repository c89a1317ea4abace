"""DDPM with linear betas: ancestral sampling on a subset of the training steps, as in DiT."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor

from harope_bench.core.errors import OptionError
from harope_bench.models.samplers.base import Predictor, Sampler, TrainingExample
from harope_bench.models.samplers.noise import expand_like, step_noises

TRAINING_STEPS = 1000  # diffusion steps of the training process


def linspace_timesteps(steps: int) -> list[int]:
    """Return evenly spaced training steps in ascending order, from the first to the last.

    A stride is summed and each sum is rounded half to even. For one step this returns the last
    training step; DiT's rule would return the first, where the image has hardly any noise.
    Source: facebookresearch/DiT:diffusion/respace.py, space_timesteps with a single section.

    Raises:
        OptionError: There are fewer than 1 or more than TRAINING_STEPS steps.
    """
    if not 1 <= steps <= TRAINING_STEPS:
        raise OptionError(
            f"ddpm needs 1 to {TRAINING_STEPS} steps, found {steps}; give --steps in that range"
        )
    if steps == 1:
        return [TRAINING_STEPS - 1]

    stride = (TRAINING_STEPS - 1) / (steps - 1)
    position = 0.0
    timesteps = []
    for _ in range(steps):
        timesteps.append(round(position))
        position += stride
    return timesteps


def leading_timesteps(steps: int) -> list[int]:
    """Return the training steps 0, k, 2k, ... for the smallest k that gives `steps` of them.

    Source: facebookresearch/DiT:diffusion/respace.py, space_timesteps of "ddimN".

    Raises:
        OptionError: No stride gives this number of steps; the message names the nearest number.
    """
    strides = {
        len(range(0, TRAINING_STEPS, stride)): stride for stride in range(TRAINING_STEPS - 1, 0, -1)
    }
    if steps not in strides:
        nearest = min(strides, key=lambda count: abs(count - steps))
        raise OptionError(
            f"no constant stride gives {steps} of {TRAINING_STEPS} steps; --steps {nearest} works"
        )
    return list(range(0, TRAINING_STEPS, strides[steps]))


# Rules by diffusers' names: "linspace" is DiT's create_diffusion("N"), "leading" is its
# create_diffusion("ddimN").
SPACINGS: dict[str, Callable[[int], list[int]]] = {
    "linspace": linspace_timesteps,
    "leading": leading_timesteps,
}


@dataclass(frozen=True)
class DiffusionStep:
    """One reverse step from x_t to x_s, where s < t are neighbours in the chosen training steps.

    Attributes:
        time: t, which the network receives.
        alpha_cumprod: Product of 1 - beta up to t, float64.
        alpha_cumprod_prev: Product of 1 - beta up to s; 1 for the step to the image itself.
        log_posterior_variance: Logarithm of the posterior's variance, clipped where that is 0.
        log_beta: Logarithm of `beta`.
    """

    time: int
    alpha_cumprod: float
    alpha_cumprod_prev: float
    log_posterior_variance: float
    log_beta: float

    @property
    def beta(self) -> float:
        """Variance of the noise between s and t: 1 - alpha_cumprod / alpha_cumprod_prev."""
        return 1 - self.alpha_cumprod / self.alpha_cumprod_prev

    def predict_clean(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return x_0 (B, ...), solved from x_t and the predicted noise.

        Source: Ho et al. 2020, equation 15.
        """
        return (1 / self.alpha_cumprod) ** 0.5 * x - (1 / self.alpha_cumprod - 1) ** 0.5 * noise

    def posterior_mean(self, clean_images: Tensor, x: Tensor) -> Tensor:
        """Return the mean (B, ...) of q(x_s | x_t, x_0).

        Source: Ho et al. 2020, equation 7.
        """
        clean_weight = self.beta * self.alpha_cumprod_prev**0.5 / (1 - self.alpha_cumprod)
        x_weight = (1 - self.alpha_cumprod_prev) * (1 - self.beta) ** 0.5 / (1 - self.alpha_cumprod)
        return clean_weight * clean_images + x_weight * x

    def log_variance(self, fraction: Tensor | None) -> Tensor | float:
        """Return the logarithm of the step's variance, interpolated as the network predicts.

        Args:
            fraction: -1 stands for the posterior's variance and 1 for beta (B, C, ...); None, of a
                network without learned sigma, for the posterior's variance.

        Source: Nichol and Dhariwal 2021, equation 15.
        """
        if fraction is None:
            return self.log_posterior_variance
        v = (fraction + 1) / 2
        return v * self.log_beta + (1 - v) * self.log_posterior_variance


def schedule(alphas_cumprod: Tensor, times: Sequence[int]) -> list[DiffusionStep]:
    """Return the reverse steps over ascending `times`, the last time first.

    The posterior variance of the step to the image itself is 0; its logarithm is that of the next
    step, as in facebookresearch/DiT:diffusion/gaussian_diffusion.py,
    posterior_log_variance_clipped.

    Args:
        alphas_cumprod: Products of 1 - beta of all training steps, (TRAINING_STEPS,) float64.
    """
    # Products up to each time t, paired with those up to the time s before it.
    products = [1.0, *alphas_cumprod[list(times)].tolist()]
    pairs = list(zip(products[1:], products[:-1], strict=True))

    # Ho et al. 2020, equation 7: variance of q(x_s | x_t, x_0).
    betas = [1 - alpha / alpha_prev for alpha, alpha_prev in pairs]
    variances = [
        beta * (1 - alpha_prev) / (1 - alpha)
        for beta, (alpha, alpha_prev) in zip(betas, pairs, strict=True)
    ]
    variances[0] = variances[1] if len(variances) > 1 else betas[0]
    logarithms = torch.tensor([variances, betas], dtype=torch.float64).log().tolist()

    steps = [
        DiffusionStep(time, alpha, alpha_prev, log_variance, log_beta)
        for time, (alpha, alpha_prev), log_variance, log_beta in zip(
            times, pairs, logarithms[0], logarithms[1], strict=True
        )
    ]
    return steps[::-1]


def predict_noise(network: Predictor, x: Tensor, time: int) -> tuple[Tensor, Tensor | None]:
    """Return the predicted noise (B, C, ...) and the variance fraction (B, C, ...).

    `time` is DDPM's step, 0 to 999. The fraction is None for a network without learned sigma, which
    returns C channels, not 2C.
    """
    prediction = network(x, torch.full((len(x),), float(time), device=x.device))
    if prediction.shape[1] == 2 * x.shape[1]:
        noise, fraction = prediction.split(x.shape[1], dim=1)
        return noise, fraction
    return prediction, None


class Ddpm(Sampler):
    """DDPM: x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise, a_t the product of 1 - beta up to t.

    The network predicts the noise and, with learned sigma, a fraction of the variance. It receives
    the step of the training process. Without learned sigma the variance is that of the posterior
    ("fixed small"; DiT's code would take beta). With few steps this makes samples too narrow even
    for a perfect network: by 18% at 50 steps on a Gaussian. Predictions are not clipped.
    Source: facebookresearch/DiT:diffusion/ (Ho et al. 2020, arXiv 2006.11239, betas 1e-4 to 0.02;
    respacing and learned range as in Nichol and Dhariwal 2021).
    """

    prediction_type = "noise"
    spacings = ("linspace", "leading")
    alphas_cumprod: Tensor

    def __init__(self, spacing: str | None = None) -> None:
        self.timesteps = SPACINGS[spacing or self.spacings[0]]
        betas = torch.linspace(1e-4, 0.02, TRAINING_STEPS, dtype=torch.float64)
        self.alphas_cumprod = torch.cumprod(1 - betas, 0)  # (TRAINING_STEPS,) float64

    def training_example(
        self, clean_images: Tensor, noise: Tensor, uniform: Tensor
    ) -> TrainingExample:
        """Return the example at a uniformly distributed training step."""
        step = (uniform * TRAINING_STEPS).long().clamp(max=TRAINING_STEPS - 1)  # (B,)
        a = expand_like(self.alphas_cumprod[step.cpu()].to(clean_images), clean_images)

        # Ho et al. 2020, equation 4.
        noised_input = a.sqrt() * clean_images + (1 - a).sqrt() * noise
        return TrainingExample(noised_input, step.to(clean_images.dtype), noise)

    def with_spacing(self, spacing: str) -> Self:
        """Return this sampler with its training steps spaced by one of the rules in `spacings`."""
        sampler = copy.copy(self)
        sampler.timesteps = SPACINGS[spacing]
        return sampler

    def check_steps(self, steps: int) -> None:
        """Raise OptionError for a number of steps that the spacing cannot give."""
        self.timesteps(steps)

    def sample(
        self, network: Predictor, noise: Tensor, steps: int, generators: Sequence[Generator]
    ) -> Tensor:
        """Return images (B, ...) by ancestral sampling (Ho et al. 2020, algorithm 2).

        The step noise of a row comes from its own generator. The last step adds none.
        """
        x = noise
        reverse_steps = schedule(self.alphas_cumprod, self.timesteps(steps))
        noises = step_noises(tuple(x.shape[1:]), generators, len(reverse_steps) - 1, x.device)
        for step in reverse_steps:
            eps, fraction = predict_noise(network, x, step.time)
            mean = step.posterior_mean(step.predict_clean(x, eps), x)
            if step is reverse_steps[-1]:
                return mean
            log_variance = torch.as_tensor(step.log_variance(fraction), device=x.device)
            deviation = torch.exp(0.5 * log_variance)
            x = mean + deviation * next(noises).to(x)
        return x


PLUGIN = Ddpm()
