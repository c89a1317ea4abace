"""One-dimensional RoPE over the raster order of the tokens."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from harope_bench.encodings import base
from harope_bench.encodings.scaling import ROTARY_SCALINGS, Scaling, frequencies


def raster_index(positions: Tensor) -> Tensor:
    """Return the raster index (N,), float64, of positions (N, 2): row * width + column.

    The width is that of the columns present.
    """
    rows, columns = positions.cpu().double().unbind(1)
    width = columns.max() - columns.min() + 1
    return rows * width + columns


class RopeVanilla(base.Encoding):
    """RoPE by the raster index of a token, without regard to the second dimension of the image.

    The paper and its release define no formula. This reading is the usual one (RoFormer).
    """

    properties = base.EncodingProperties(
        relative=True, orthogonal=True, identity_at_init=False, per_head=False, foldable=False
    )
    source = "arXiv 2104.09864, equation 15; raster order is our reading"
    supported_scalings = ROTARY_SCALINGS

    class Options(base.EncodingOptions):
        """base: base of the geometric frequencies."""

        base: float = Field(default=10000.0, gt=1)

    options: Options

    def apply_rotation(
        self, q: Tensor, k: Tensor, positions: Tensor, layer: int
    ) -> tuple[Tensor, Tensor]:
        """Return queries and keys (B, heads, N, head_dim) rotated by index times frequency."""
        planes = base.axis_split(q.shape[-1], 1, "rope-vanilla")
        raster_scaling = self._raster_scaling()
        freqs = frequencies(planes, self.options.base, raster_scaling, 0)
        angles = torch.outer(raster_index(positions), freqs)  # (N, head_dim/2)
        rotation = base.RotationAngles(angles, raster_scaling.magnitude(0))
        return base.rotate_planes(q, rotation), base.rotate_planes(k, rotation)

    def _raster_scaling(self) -> Scaling:
        """Return the scaling of the raster axis, whose lengths are numbers of tokens."""
        train_lengths = self.scaling.train_lengths
        current_lengths = self.scaling.current_lengths
        return Scaling(
            self.scaling.kind,
            (math.prod(train_lengths),) if train_lengths else (),
            (math.prod(current_lengths),) if current_lengths else (),
        )


PLUGIN = RopeVanilla
