"""DDIM: the diffusion process of `ddpm`, sampled with less step noise or none."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator, Tensor

from harope_bench.models.samplers.base import Predictor
from harope_bench.models.samplers.ddpm import Ddpm, predict_noise, schedule
from harope_bench.models.samplers.ddpm import leading_timesteps as leading_timesteps
from harope_bench.models.samplers.noise import step_noises


class Ddim(Ddpm):
    """DDIM sampling: Song et al. 2020 (arXiv 2010.02502), equation 12.

    With eta = 0, the default, no step noise is added; with eta = 1 its variance is that of the
    posterior. A learned variance is not used, and predictions are not clipped.
    Source: facebookresearch/DiT:diffusion/gaussian_diffusion.py, ddim_sample. The steps are those
    of DiT's create_diffusion("ddimN") unless another spacing is chosen.
    """

    spacings = ("leading", "linspace")

    def __init__(self, eta: float = 0.0, spacing: str | None = None) -> None:
        super().__init__(spacing)
        self.eta = eta

    def sample(
        self, network: Predictor, noise: Tensor, steps: int, generators: Sequence[Generator]
    ) -> Tensor:
        """Return images (B, ...); the step noise of a row comes from its own generator."""
        x = noise
        reverse_steps = schedule(self.alphas_cumprod, self.timesteps(steps))
        n_noises = len(reverse_steps) - 1 if self.eta > 0 else 0
        noises = step_noises(tuple(x.shape[1:]), generators, n_noises, x.device)
        for step in reverse_steps:
            eps, _ = predict_noise(network, x, step.time)

            # Equation 16: standard deviation of the step noise.
            sigma = (
                self.eta
                * ((1 - step.alpha_cumprod_prev) / (1 - step.alpha_cumprod)) ** 0.5
                * step.beta**0.5
            )

            # Equation 12: predicted x_0, direction to x_t, random noise.
            x = (
                step.alpha_cumprod_prev**0.5 * step.predict_clean(x, eps)
                + max(1 - step.alpha_cumprod_prev - sigma**2, 0.0) ** 0.5 * eps
            )
            if sigma > 0 and step is not reverse_steps[-1]:
                x = x + sigma * next(noises).to(x)
        return x


PLUGIN = Ddim()
