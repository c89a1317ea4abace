"""The contract of a sampler: how a network is trained to remove noise, and how it draws with it.

Nothing here imports torch, so that plans can ask a sampler's contract before a network is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from harope_bench.core import registry
from harope_bench.core.errors import MissingMemberError, OptionError
from harope_bench.core.schema import Settings

if TYPE_CHECKING:
    from torch import Generator, Tensor

Predictor = Callable[
    ["Tensor", "Tensor"], "Tensor"
]  # (x (B, ...), time (B,)) -> prediction (B, ...)


class TrainingExample(NamedTuple):
    """A training example: the noised input, the time the network is told, the wanted prediction."""

    noised_input: Tensor
    time: Tensor
    target: Tensor


class Sampler:
    """Base class of all samplers: stateless; the noise of row i comes from generators[i] alone."""

    prediction_type: str  # what the network is trained to say of a noised input
    spacings: tuple[
        str, ...
    ] = ()  # the ways in which it can space its training steps, its default first

    def training_example(self, clean: Tensor, noise: Tensor, uniform: Tensor) -> TrainingExample:
        """Return the example of clean images (B, ...), unit noise of that shape and uniform (B,) in
        [0, 1).
        """
        raise MissingMemberError(self, "pair")

    def with_spacing(self, spacing: str) -> Sampler:
        """Return this sampler with its training steps spaced so, one of `spacings`."""
        raise MissingMemberError(self, "spaced")

    def check_steps(self, steps: int) -> None:
        """Raise OptionError if it cannot draw in so many steps; by default any number will do."""

    def sample(
        self, network: Predictor, noise: Tensor, steps: int, generators: Sequence[Generator]
    ) -> Tensor:
        """Return images (B, ...) drawn from unit noise (B, ...) in `steps` calls of the network."""
        raise MissingMemberError(self, "sample")


def load_sampler(name: str) -> Sampler:
    """Return the sampler of that name.

    Raises:
        UnknownName: No such sampler. PluginError: It is not derived from Sampler. BenchError: It
            does not load.
    """
    return registry.load_plugin("samplers", name, Sampler)


def load_settings_sampler(settings: Settings) -> Sampler:
    """Return the sampler of these settings, with their spacing of the training steps where they
    name one.

    Raises:
        OptionError: The sampler has no such spacing.
    """
    assert settings.sampler is not None  # a plan that generates has one
    sampler = load_sampler(settings.sampler)
    if settings.spacing is None:
        return sampler
    if settings.spacing not in sampler.spacings:
        known = (
            f"it takes {', '.join(sampler.spacings)}"
            if sampler.spacings
            else "it takes every time of its path"
        )
        raise OptionError(
            f"spacing {settings.spacing} means nothing to sampler {settings.sampler}: {known};"
            " leave --spacing out"
        )
    return sampler.with_spacing(settings.spacing)
