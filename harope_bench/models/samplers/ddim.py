"""DDIM: the diffusion process of `ddpm`, drawn with less noise or none on the way."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator, Tensor

from harope_bench.models.samplers.base import Predictor
from harope_bench.models.samplers.ddpm import Ddpm, predict_noise, schedule
from harope_bench.models.samplers.ddpm import (
    leading_timesteps as leading_timesteps,
)  # its own spacing
from harope_bench.models.samplers.noise import unit_noise


class Ddim(Ddpm):
    """Song et al. 2020 (arXiv 2010.02502), equation 12, as
    facebookresearch/DiT:diffusion/gaussian_diffusion.py, ddim_sample.

    eta = 0, the default, adds no noise; eta = 1 adds the posterior's. What a network says of the
    variance is not used; nothing is clipped.
    Steps are those of DiT's create_diffusion("ddimN") unless their spacing is named.
    """

    spacings = ("leading", "linspace")

    def __init__(self, eta: float = 0.0, spacing: str | None = None) -> None:
        super().__init__(spacing)
        self.eta = eta

    def sample(
        self, network: Predictor, noise: Tensor, steps: int, generators: Sequence[Generator]
    ) -> Tensor:
        """Images (B, ...); each row's step noise, where there is any, comes from its own
        generator.
        """
        x = noise
        back = schedule(self.alphas_cumprod, self.timesteps(steps))
        for step in back:
            eps, _ = predict_noise(network, x, step.time)
            spread = (
                self.eta
                * ((1 - step.alpha_cumprod_prev) / (1 - step.alpha_cumprod)) ** 0.5
                * step.beta**0.5
            )
            x = (
                step.alpha_cumprod_prev**0.5 * step.predict_clean(x, eps)
                + max(1 - step.alpha_cumprod_prev - spread**2, 0.0) ** 0.5 * eps
            )
            if spread > 0 and step is not back[-1]:
                x = x + spread * unit_noise(tuple(x.shape[1:]), generators).to(x)
        return x


PLUGIN = Ddim()
