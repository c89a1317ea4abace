"""VideoRoPE on a single image: rows and columns alternate in one spectrum of frequencies."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from harope_bench.encodings import base
from harope_bench.encodings.scaling import ROTARY_SCALINGS, frequencies


class VideoRope(base.Encoding):
    """Rows rotate the even planes and columns the odd planes; time has the lowest frequencies.

    An image has one time step, so the time planes and the diagonal layout cancel out of every
    score. The paper does not state its setting. The default fraction of a quarter follows the
    sections 16/24/24 of 64 planes in the source.
    Source: Wiselnn570/VideoRoPE:videorope-transformer/modeling_videorope.py:258-285.
    """

    properties = base.EncodingProperties(
        relative=True, orthogonal=True, identity_at_init=False, per_head=False, foldable=False
    )
    source = "Wiselnn570/VideoRoPE:modeling_videorope.py:258-285"

    supported_scalings = ROTARY_SCALINGS

    class Options(base.EncodingOptions):
        """The options of VideoRoPE.

        base: base of the geometric frequencies.
        temporal_fraction: fraction of the planes, the lowest frequencies, that belongs to time.
        layout: which channels form a plane; VideoRoPE's code uses half-split.
        """

        base: float = Field(default=10000.0, gt=1)
        temporal_fraction: float = Field(default=0.25, ge=0, lt=1)
        layout: Literal["interleaved", "half-split"] = "interleaved"

    options: Options

    def apply_rotation(
        self, q: Tensor, k: Tensor, positions: Tensor, layer: int
    ) -> tuple[Tensor, Tensor]:
        """Return queries and keys (B, heads, N, head_dim), planes alternating by row and column."""
        planes = base.axis_split(q.shape[-1], 1, "videorope")
        n_axes = positions.shape[1]
        n_spatial = planes - round(planes * self.options.temporal_fraction)
        coordinates = positions.cpu().double()

        angles = torch.zeros(len(positions), planes, dtype=torch.float64)
        magnitude = torch.ones(planes, dtype=torch.float64)
        for axis in range(n_axes):  # 0 row, 1 column
            axis_planes = slice(axis, n_spatial, n_axes)
            freqs = frequencies(planes, self.options.base, self.scaling, axis)[axis_planes]
            angles[:, axis_planes] = coordinates[:, axis, None] * freqs
            magnitude[axis_planes] = self.scaling.magnitude(axis)

        rotation = base.RotationAngles(angles, magnitude, self.options.layout)  # (N, planes)
        return base.rotate_planes(q, rotation), base.rotate_planes(k, rotation)


PLUGIN = VideoRope
