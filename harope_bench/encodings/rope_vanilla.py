"""One-dimensional RoPE over the raster order of the tokens."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from harope_bench.encodings import base
from harope_bench.encodings.scaling import ROTARY_SCALINGS, Scaling


def raster_index(positions: Tensor) -> Tensor:
    """Raster index (N,) of positions (N, 2): row * width + column, width read off the columns
    present.
    """
    rows, columns = positions.cpu().double().unbind(1)
    width = columns.max() - columns.min() + 1
    return rows * width + columns


class RopeVanilla(base.Encoding):
    """All planes turn with the token's raster index; the image's second dimension is not seen.

    The paper and its release define no formula; this reading is the usual one (RoFormer).
    """

    facts = base.EncodingProperties(
        relative=True, orthogonal=True, identity_at_init=False, per_head=False, foldable=False
    )
    source = "arXiv 2104.09864, equation 15; raster order is our reading"
    scalings = ROTARY_SCALINGS

    class Options(base.EncodingOptions):
        """base: of the geometric frequencies."""

        base: float = Field(default=10000.0, gt=1)

    options: Options

    def turned(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, heads, N, head_dim) turned by raster index times frequency."""
        planes = base.axis_split(q.shape[-1], 1, "rope-vanilla")
        line = Scaling(
            self.scaling.kind,
            *(
                (math.prod(n),) if n else ()
                for n in (self.scaling.train_lengths, self.scaling.current_lengths)
            ),
        )
        speeds = base.frequencies(planes, self.options.base, line, 0)
        turns = base.RotationAngles(
            torch.outer(raster_index(positions), speeds), line.magnitude(0)
        )  # (N, head_dim/2)
        return base.rotate_planes(q, turns), base.rotate_planes(k, turns)


PLUGIN = RopeVanilla
