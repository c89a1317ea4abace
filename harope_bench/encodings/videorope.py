"""VideoRoPE on a single image: rows and columns interleave one spectrum, low frequencies rest."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from harope_bench.encodings import base
from harope_bench.encodings.scaling import ROTARY_SCALINGS


class VideoRope(base.Encoding):
    """Rows take the even, columns the odd planes; the lowest frequencies belong to time.

    An image has one time step, so the time planes and the diagonal layout cancel out of every
    score.
    Source: Wiselnn570/VideoRoPE:videorope-transformer/modeling_videorope.py:258-285, whose sections
    16/24/24 of 64 planes give the default quarter. The paper does not state its setting.
    """

    facts = base.EncodingProperties(
        relative=True, orthogonal=True, identity_at_init=False, per_head=False, foldable=False
    )
    source = "Wiselnn570/VideoRoPE:modeling_videorope.py:258-285"

    scalings = ROTARY_SCALINGS

    class Options(base.EncodingOptions):
        """temporal: share of the planes, the lowest frequencies, kept for time. layout: VideoRoPE's
        own is half-split.
        """

        base: float = Field(default=10000.0, gt=1)
        temporal_fraction: float = Field(default=0.25, ge=0, lt=1)
        layout: Literal["interleaved", "half-split"] = "interleaved"

    options: Options

    def turned(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, heads, N, head_dim), planes alternating between row and column."""
        planes = base.axis_split(q.shape[-1], 1, "videorope")
        axes = positions.shape[1]
        moving = planes - round(planes * self.options.temporal_fraction)
        angles = torch.zeros(len(positions), planes, dtype=torch.float64)
        magnitude = torch.ones(planes, dtype=torch.float64)
        for axis in range(axes):  # 0 row, 1 column
            own = slice(axis, moving, axes)
            speeds = base.frequencies(planes, self.options.base, self.scaling, axis)[own]
            angles[:, own] = positions.cpu().double()[:, axis, None] * speeds
            magnitude[own] = self.scaling.magnitude(axis)
        turns = base.RotationAngles(angles, magnitude, self.options.layout)  # (N, planes)
        return base.rotate_planes(q, turns), base.rotate_planes(k, turns)


PLUGIN = VideoRope
