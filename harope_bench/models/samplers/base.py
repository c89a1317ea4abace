"""The contract of a sampler: how a network is trained to remove noise, and how images are sampled.

Nothing here imports torch, so plans can read a sampler's contract cheaply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from harope_bench.core import registry
from harope_bench.core.errors import MissingMemberError, OptionError
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Settings

if TYPE_CHECKING:
    from torch import Generator, Tensor

# The fields of Settings that are options of some samplers.
SAMPLER_OPTIONS = ("shift", "diffusion")

# A network with its conditions bound: (x (B, ...), time (B,)) -> prediction (B, ...).
Predictor = Callable[["Tensor", "Tensor"], "Tensor"]


class TrainingExample(NamedTuple):
    """A training example.

    Attributes:
        noised_input: Images with noise, (B, ...).
        time: The time that the network receives, (B,), from 0 (image) to 1000 (noise).
        target: The prediction that the network is trained for, (B, ...).
    """

    noised_input: Tensor
    time: Tensor
    target: Tensor


class Sampler:
    """Base class of all samplers, which have no state.

    The noise of row i comes from generators[i] alone.
    """

    # What the network is trained to predict from a noised input, such as "noise".
    prediction_type: str

    # Names of the rules that choose a subset of the training steps; the default is first.
    spacings: tuple[str, ...] = ()

    # Which of SAMPLER_OPTIONS the sampler has.
    option_names: tuple[str, ...] = ()

    # Whether the times of the network's calls depend on what it returns.
    is_adaptive = False

    # Standard deviation of the noise that a sample keeps with the ideal prediction of one image.
    residual_noise = 0.0

    def training_example(
        self, clean_images: Tensor, noise: Tensor, uniform: Tensor
    ) -> TrainingExample:
        """Return the training example of a batch.

        Args:
            clean_images: (B, ...).
            noise: Unit noise, (B, ...).
            uniform: Numbers in [0, 1), (B,), from which the times are computed.
        """
        raise MissingMemberError(self, "training_example")

    def with_spacing(self, spacing: str) -> Sampler:
        """Return this sampler with its training steps spaced by one of the rules in `spacings`."""
        raise MissingMemberError(self, "with_spacing")

    def with_options(self, options: Mapping[str, Option]) -> Sampler:
        """Return this sampler with values for some of its `option_names`."""
        raise MissingMemberError(self, "with_options")

    def network_calls(self, steps: int) -> int:
        """Return how often the network is called in `steps` steps: once in each by default.

        It is the largest possible number for an adaptive sampler.
        """
        return steps

    def check_steps(self, steps: int) -> None:
        """Raise OptionError if the sampler does not support this number of steps.

        By default every number is supported.
        """

    def sample(
        self, network: Predictor, noise: Tensor, steps: int, generators: Sequence[Generator]
    ) -> Tensor:
        """Return images (B, ...), sampled from unit noise (B, ...) in `network_calls(steps)` calls
        of the network.
        """
        raise MissingMemberError(self, "sample")


def load_sampler(name: str) -> Sampler:
    """Return the sampler of that name.

    Raises:
        UnknownNameError: No sampler has that name.
        PluginError: The class is not derived from Sampler.
        BenchError: The module does not load.
    """
    return registry.load_plugin("samplers", name, Sampler)


def load_settings_sampler(settings: Settings) -> Sampler:
    """Return the sampler of these settings, with their spacing of the training steps and options.

    Raises:
        OptionError: The sampler does not have that spacing or option.
    """
    assert settings.sampler is not None  # a plan that generates has one
    sampler = load_sampler(settings.sampler)
    options = {
        name: value for name in SAMPLER_OPTIONS if (value := getattr(settings, name)) is not None
    }
    for name in options:
        if name not in sampler.option_names:
            raise OptionError(
                f"{name} does not apply to sampler {settings.sampler}; leave --{name} out"
            )
    if options:
        sampler = sampler.with_options(options)
    if settings.spacing is None:
        return sampler

    if settings.spacing not in sampler.spacings:
        if sampler.spacings:
            supported_spacings = f"it supports {', '.join(sampler.spacings)}"
        else:
            supported_spacings = "its times are continuous"
        raise OptionError(
            f"spacing {settings.spacing} does not apply to sampler {settings.sampler}:"
            f" {supported_spacings}; leave --spacing out"
        )
    return sampler.with_spacing(settings.spacing)
