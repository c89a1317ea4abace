"""DDIM: the diffusion process of `ddpm`, drawn with less noise or none on the way."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator, Tensor

from harope_bench.models.samplers.base import Network
from harope_bench.models.samplers.ddpm import Ddpm, schedule, told
from harope_bench.models.samplers.ddpm import strided as strided  # its own spacing
from harope_bench.models.samplers.noise import unit_noise


class Ddim(Ddpm):
    """Song et al. 2020 (arXiv 2010.02502), equation 12, as facebookresearch/DiT:diffusion/gaussian_diffusion.py, ddim_sample.

    eta = 0, the default, adds no noise; eta = 1 adds the posterior's. What a network says of the variance is not used; nothing is clipped.
    Steps are those of DiT's create_diffusion("ddimN") unless their spacing is named.
    """

    spacings = ("leading", "linspace")

    def __init__(self, eta: float = 0.0, spacing: str | None = None) -> None:
        super().__init__(spacing)
        self.eta = eta

    def sample(self, network: Network, noise: Tensor, steps: int, generators: Sequence[Generator]) -> Tensor:
        """Images (B, ...); each row's step noise, where there is any, comes from its own generator."""
        x, back = noise, schedule(self.alphas, self.times(steps))
        for step in back:
            eps, _ = told(network, x, step.time)
            spread = self.eta * ((1 - step.before) / (1 - step.a)) ** 0.5 * step.beta**0.5
            x = step.before**0.5 * step.clean(x, eps) + max(1 - step.before - spread**2, 0.0) ** 0.5 * eps
            if spread > 0 and step is not back[-1]:
                x = x + spread * unit_noise(tuple(x.shape[1:]), generators).to(x)
        return x


PLUGIN = Ddim()
