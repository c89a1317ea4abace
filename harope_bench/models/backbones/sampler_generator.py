"""Image generation with a sampler and classifier-free guidance, shared by this package's
networks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic

import numpy as np
import torch
from torch import Tensor

from harope_bench.core.errors import MissingMemberError
from harope_bench.core.progress import report_step
from harope_bench.core.schema import Request, Settings
from harope_bench.models.backbones.base import GeneratedBatch, ImageGenerator, NetworkT
from harope_bench.models.samplers.base import load_settings_sampler
from harope_bench.models.samplers.noise import index_generator, unit_noise

if TYPE_CHECKING:
    from harope_bench.models.samplers.base import Predictor as Predictor


MAX_TIME = 1000.0  # Time of pure noise.
ROUNDING = 1e-6  # Times of this difference are equal.


class SamplerImageGenerator(ImageGenerator, Generic[NetworkT]):
    """Base class of generators whose network takes (x, time, conditions).

    The conditions of a sample are one label or a row of words.
    """

    network: NetworkT
    channels: int  # Channels of the network's input.
    noise_scale = 1.0  # Standard deviation of the starting noise.

    def __init__(self, network: NetworkT, device: torch.device, dtype: torch.dtype):
        self.network = network.to(device=device, dtype=dtype).eval()
        self.device = device
        self.dtype = dtype

    def conditions(self, requests: Sequence[Request]) -> Tensor:
        """Return the conditions of the requests as int64, (B,) labels or (B, N) words.

        Raises:
            OptionError: The network cannot serve a request.
        """
        raise MissingMemberError(self, "conditions")

    def null_conditions(self, conditions: Tensor) -> Tensor:
        """Return "no label" or "no text" in the shape of these conditions, for guidance."""
        raise MissingMemberError(self, "null_conditions")

    def input_side(self, resolution: int) -> int:
        """Return the side of the network's input for images with a side of `resolution` pixels."""
        return resolution

    def decode(self, images: Tensor) -> Tensor:
        """Return images (B, 1 or 3, H, W) in about [-1, 1] for the sampler's output (B, C, h,
        w).
        """
        return images

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], settings: Settings) -> GeneratedBatch:
        """Generate one image per request; a row with a value that is not finite has failed."""
        # make_plan rejects a plan without steps or guidance.
        assert settings.steps is not None and settings.guidance is not None

        # Starting noise, one generator per sample.
        side = self.input_side(settings.resolution)
        generators = [index_generator(settings.seed, r.index) for r in requests]
        noise = unit_noise((self.channels, side, side), generators)  # (B, C, side, side)
        noise = self.noise_scale * noise

        sampler = load_settings_sampler(settings)
        conditions = self.conditions(requests).to(self.device)
        network = self._guided_network(
            conditions,
            settings.guidance,
            settings.guidance_channels,
            settings.guidance_interval,
            has_equal_times=not sampler.is_adaptive,
        )
        network = _report_calls(network, sampler.network_calls(settings.steps))
        images = sampler.sample(network, noise.to(self.device), settings.steps, generators)

        row_is_finite = images.flatten(1).isfinite().all(1).tolist()
        failures = {
            row: "the network's output is not finite"
            for row, is_finite in enumerate(row_is_finite)
            if not is_finite
        }
        return GeneratedBatch(to_uint8(self.decode(images.nan_to_num())), failures)

    def _guided_network(
        self,
        conditions: Tensor,
        guidance: float,
        channels: str | None = None,
        interval: str | None = None,
        has_equal_times: bool = True,
    ) -> Predictor:
        """Return the network with its conditions bound, under classifier-free guidance.

        A guidance of exactly 1 runs the conditional network alone. Guidance acts on the first three
        channels ("3") or on all channels of the predicted noise. The other channels, such as the
        variance, are those of the conditional prediction.
        Source: facebookresearch/DiT:models.py:251-266, forward_with_cfg, which guides three of four
        latent channels. Outside of the interval, the conditional network runs alone, unless the
        times of the rows differ: the pass of a row must not depend on the others.
        """
        null_conditions = self.null_conditions(conditions)
        n_guided = 3 if channels == "3" else self.channels

        def predict(x: Tensor, time: Tensor) -> Tensor:
            scales = guidance_scales(time, guidance, interval)  # (B,)
            is_outside = interval is not None and has_equal_times and bool((scales == 1).all())
            if guidance == 1 or is_outside:
                return self.network(x.to(self.dtype), time, conditions).float()

            # One forward pass for both predictions.
            predictions = self.network(
                torch.cat((x, x)).to(self.dtype),
                torch.cat((time, time)),
                torch.cat((conditions, null_conditions)),
            )  # (2B, C, H, W)
            conditional, unconditional = predictions.float().chunk(2)

            # Ho and Salimans 2022: unconditional + guidance * (conditional - unconditional).
            base_noise = unconditional[:, :n_guided]
            scale = guidance if interval is None else scales.view(-1, 1, 1, 1)
            noise = base_noise + scale * (conditional[:, :n_guided] - base_noise)
            return torch.cat((noise, conditional[:, n_guided:]), dim=1)

        return predict


def guidance_scales(time: Tensor, guidance: float, interval: str | None) -> Tensor:
    """Return the scale of guidance (B,) at times (B,) from 0 (image) to 1000 (noise).

    Args:
        interval: "LOW..HIGH", fractions of the time of noise; None is all times. The scale is 1
            outside.
    """
    if interval is None:
        return torch.full_like(time, guidance)
    low, high = (float(bound) for bound in interval.split(".."))
    fraction = time / MAX_TIME
    is_guided = (fraction >= low - ROUNDING) & (fraction <= high + ROUNDING)
    return torch.where(is_guided, guidance, 1.0)


def to_uint8(images: Tensor) -> np.ndarray:
    """Return images (B, H, W, 3) uint8 for images (B, C, H, W) in [-1, 1].

    Levels are clamp(127.5 x + 128, 0, 255), rounded down, as in
    facebookresearch/DiT:sample_ddp.py.
    """
    levels = (127.5 * images + 128).clamp(0, 255).to("cpu", torch.uint8)
    levels = levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1)  # (B, H, W, 3)
    return levels.contiguous().numpy()


def _report_calls(network: Predictor, steps: int) -> Predictor:
    """Return the network; each of its calls is reported as a finished step of `steps`."""
    calls = itertools.count(1)

    def predict(x: Tensor, time: Tensor) -> Tensor:
        prediction = network(x, time)
        report_step(min(next(calls), steps), steps)
        return prediction

    return predict
