"""The contract of a sampler: how a network is trained to remove noise, and how it draws with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from harope_bench.core import registry
from harope_bench.core.errors import OptionError
from harope_bench.core.schema import Settings

Network = Callable[[Tensor, Tensor], Tensor]  # (x (B, ...), time (B,)) -> prediction (B, ...)


class Pair(NamedTuple):
    """A training example: the noised input, the time the network is told, the wanted prediction."""

    noised: Tensor
    time: Tensor
    target: Tensor


class Sampler(Protocol):
    """Stateless; the noise of row i comes from generators[i] alone. `predicts` names what the network is trained to say.

    A sampler that can space its training steps in several ways names these in `spacings`, its own first, and has a method
    `spaced(name)` that returns the sampler with another one.
    """

    predicts: str

    def pair(self, clean: Tensor, noise: Tensor, uniform: Tensor) -> Pair:
        """Example for clean images (B, ...), unit noise of that shape and uniform (B,) in [0, 1)."""

    def check(self, steps: int) -> None:
        """Raises OptionError if it cannot draw in so many steps."""

    def sample(self, network: Network, noise: Tensor, steps: int, generators: Sequence[Generator]) -> Tensor:
        """Images (B, ...) drawn from unit noise (B, ...) in `steps` calls of the network."""


def chosen_sampler(settings: Settings) -> Sampler:
    """Return the sampler of these settings, with their spacing of the training steps where they name one.

    Raises:
        OptionError: The sampler has no such spacing.
    """
    assert settings.sampler is not None  # a plan that generates has one
    sampler: Sampler = registry.load("samplers", settings.sampler)
    if settings.spacing is None:
        return sampler
    spacings: tuple[str, ...] = getattr(sampler, "spacings", ())
    if settings.spacing not in spacings:
        known = f"it takes {', '.join(spacings)}" if spacings else "it takes every time of its path"
        raise OptionError(f"spacing {settings.spacing} means nothing to sampler {settings.sampler}: {known}; leave --spacing out")
    respaced: Sampler = sampler.spaced(settings.spacing)  # type: ignore[attr-defined]
    return respaced


def unit_noise(shape: tuple[int, ...], generators: Sequence[Generator]) -> Tensor:
    """Float32 CPU noise (B, *shape), row i from generators[i]."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators])


def beside(values: Tensor, like: Tensor) -> Tensor:
    """Values (B,) shaped to multiply a tensor (B, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def index_generator(seed: int, index: int) -> Generator:
    """The CPU generator of one sample, a function of the run's seed and the index alone."""
    digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
