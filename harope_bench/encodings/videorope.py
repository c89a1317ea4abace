"""VideoRoPE on a single image: rows and columns interleave one spectrum, low frequencies rest."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from harope_bench.encodings import base


class VideoRope(base.Encoding):
    """Rows take the even, columns the odd planes; the lowest frequencies belong to time.

    An image has one time step, so the time planes and the diagonal layout cancel out of every score.
    Source: Wiselnn570/VideoRoPE:videorope-transformer/modeling_videorope.py:258-285, whose sections
    16/24/24 of 64 planes give the default quarter. The paper does not state its setting.
    """

    facts = base.Facts(relative=True, orthogonal=True, identity_at_init=False, per_head=False, foldable=False)
    source = "Wiselnn570/VideoRoPE:modeling_videorope.py:258-285"

    class Options(base.Options):
        """temporal: share of the planes, the lowest frequencies, kept for time."""

        base: float = Field(default=10000.0, gt=0)
        temporal: float = Field(default=0.25, ge=0, lt=1)

    options: Options

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, heads, N, head_dim), planes alternating between row and column."""
        planes = base.axis_split(q.shape[-1], 1, "videorope")
        frequencies = base.spectrum(planes, self.options.base)
        moving = planes - round(planes * self.options.temporal)
        axis = torch.arange(planes) % positions.shape[1]  # 0 row, 1 column
        angles = positions.cpu().double()[:, axis] * frequencies  # (N, planes)
        angles[:, moving:] = 0.0
        return base.turn(q, angles), base.turn(k, angles)


PLUGIN = VideoRope
