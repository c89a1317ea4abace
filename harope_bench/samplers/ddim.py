"""DDIM: the diffusion process of `ddpm`, drawn with less noise or none on the way."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator, Tensor

from harope_bench.errors import OptionError
from harope_bench.samplers.base import Network, unit_noise
from harope_bench.samplers.ddpm import TRAINED, Ddpm, schedule, told


def strided(steps: int) -> list[int]:
    """The training steps 0, k, 2k, ... for the smallest k that gives so many.

    Source: facebookresearch/DiT:diffusion/respace.py, space_timesteps of "ddimN".

    Raises:
        OptionError: no stride gives so many; the next number that one gives is named.
    """
    counts = {len(range(0, TRAINED, stride)): stride for stride in range(TRAINED - 1, 0, -1)}
    if steps not in counts:
        near = min(counts, key=lambda count: abs(count - steps))
        raise OptionError(f"ddim cannot take {steps} steps of {TRAINED} by one stride; --steps {near} can be")
    return list(range(0, TRAINED, counts[steps]))


class Ddim(Ddpm):
    """Song et al. 2020 (arXiv 2010.02502), equation 12, as facebookresearch/DiT:diffusion/gaussian_diffusion.py, ddim_sample.

    eta = 0, the default, adds no noise; eta = 1 adds the posterior's. What a network says of the variance is not used; nothing is clipped.
    """

    def __init__(self, eta: float = 0.0) -> None:
        super().__init__()
        self.eta = eta

    def check(self, steps: int) -> None:
        """Raises OptionError for a number of steps that no stride gives."""
        strided(steps)

    def sample(self, network: Network, noise: Tensor, steps: int, generators: Sequence[Generator]) -> Tensor:
        """Images (B, ...); each row's step noise, where there is any, comes from its own generator."""
        x, back = noise, schedule(self.alphas, strided(steps))
        for step in back:
            eps, _ = told(network, x, step.time)
            spread = self.eta * ((1 - step.before) / (1 - step.a)) ** 0.5 * step.beta**0.5
            x = step.before**0.5 * step.clean(x, eps) + max(1 - step.before - spread**2, 0.0) ** 0.5 * eps
            if spread > 0 and step is not back[-1]:
                x = x + spread * unit_noise(tuple(x.shape[1:]), generators).to(x)
        return x


PLUGIN = Ddim()
