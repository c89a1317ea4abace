"""Drawing with a sampler and classifier-free guidance: what the transformers of this package that
generate share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic

import numpy as np
import torch
from torch import Tensor

from harope_bench.core.errors import MissingMemberError
from harope_bench.core.schema import Request, Settings
from harope_bench.models.backbones.base import GeneratedTile, ImageGenerator, NetworkT
from harope_bench.models.samplers.base import load_settings_sampler
from harope_bench.models.samplers.noise import index_generator, unit_noise

if TYPE_CHECKING:
    from harope_bench.models.samplers.base import Predictor as Predictor


class SamplerImageGenerator(ImageGenerator, Generic[NetworkT]):
    """Base class of drawers whose network takes (x, time, conditions), conditions being a row of
    labels or words a sample.
    """

    network: NetworkT
    channels: int  # of the network's input

    def __init__(self, network: NetworkT, device: torch.device, dtype: torch.dtype):
        self.network = network.to(device=device, dtype=dtype).eval()
        self.device = device
        self.dtype = dtype

    def conditions(self, requests: Sequence[Request]) -> Tensor:
        """Return what the network is told of each request, (B,) or (B, N) int64; OptionError for a
        request that it cannot serve.
        """
        raise MissingMemberError(self, "conditions")

    def null_conditions(self, conditions: Tensor) -> Tensor:
        """Return the conditions of that shape that tell nothing."""
        raise MissingMemberError(self, "unconditional")

    def input_side(self, resolution: int) -> int:
        """Return the side of the network's input for images of that side in pixels."""
        return resolution

    def decode(self, images: Tensor) -> Tensor:
        """Return what the sampler drew (B, C, h, w) as images (B, 1 or 3, H, W) in about [-1,
        1].
        """
        return images

    @torch.inference_mode()
    def draw(self, requests: Sequence[Request], settings: Settings) -> GeneratedTile:
        """Return a tile of images; a row that is not finite is a fault."""
        assert settings.steps is not None and settings.guidance is not None  # make_plan refuses
        sampler = load_settings_sampler(settings)
        side = self.input_side(settings.resolution)
        generators = [index_generator(settings.seed, r.index) for r in requests]
        noise = unit_noise((self.channels, side, side), generators)
        network = self._guided_network(
            self.conditions(requests).to(self.device), settings.guidance, settings.guidance_channels
        )
        images = sampler.sample(network, noise.to(self.device), settings.steps, generators)

        finite = images.flatten(1).isfinite().all(1).tolist()
        faults = {
            row: "the network's output is not finite" for row, good in enumerate(finite) if not good
        }
        return GeneratedTile(to_uint8(self.decode(images.nan_to_num())), faults)

    def _guided_network(
        self, conditions: Tensor, guidance: float, channels: str | None = None
    ) -> Predictor:
        """Return the network with conditions bound; classifier-free guidance unless it is exactly
        1.

        Only predicted noise is guided, of the first three channels ("3") or of all; the rest is the
        conditional prediction's.
        Source: facebookresearch/DiT:models.py:251-266, forward_with_cfg, whose code guides three of
        four channels.
        """
        empty = self.null_conditions(conditions)
        guided = 3 if channels == "3" else self.channels

        def predict(x: Tensor, time: Tensor) -> Tensor:
            if guidance == 1:
                return self.network(x.to(self.dtype), time, conditions).float()
            both = self.network(
                torch.cat((x, x)).to(self.dtype),
                torch.cat((time, time)),
                torch.cat((conditions, empty)),
            )
            told, untold = both.float().chunk(2)
            noise = untold[:, :guided] + guidance * (told[:, :guided] - untold[:, :guided])
            return torch.cat((noise, told[:, guided:]), dim=1)

        return predict


def to_uint8(images: Tensor) -> np.ndarray:
    """Images (B, C, H, W) in [-1, 1] to (B, H, W, 3) uint8 by DiT's rule: clamp(127.5 x + 128),
    cut.
    """
    levels = (127.5 * images + 128).clamp(0, 255).to("cpu", torch.uint8)
    return levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
