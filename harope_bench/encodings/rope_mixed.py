"""Two-dimensional RoPE, mixed: every plane turns with its own learned mixture of row and column."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from harope_bench.encodings import base


class RopeMixed(base.Encoding):
    """Angle of plane j, head h, layer l: x fx[l, h, j] + y fy[l, h, j], x the column, all
    frequencies learned.

    Start: magnitudes base^(-2i/(d/2)), i < d/4, twice, in a random direction of the head and at
    right angles to it.
    `freqs` is (2, L, heads * d/2), x first, as rope-vit stores it.
    """

    facts = base.EncodingProperties(
        relative=True, orthogonal=True, identity_at_init=False, per_head=True, foldable=False
    )
    source = (
        "arXiv 2403.13298; naver-ai/rope-vit:models/vit_rope.py:24-37,"
        " self-attn/rope_self_attn.py:110-114"
    )
    scalings = ("none", "linear")  # learned frequencies have no base that ntk or yarn could change

    class Options(base.EncodingOptions):
        """base: of the magnitudes at the start."""

        base: float = Field(default=10.0, gt=1)

    options: Options

    def __init__(self, shape: base.ModelShape, options: Options):
        super().__init__(shape, options)
        if shape.axes != 2:
            raise base.OptionError(
                f"rope-mixed turns by row and column, found {shape.axes} axes; choose another"
                " encoding"
            )
        half = base.axis_split(shape.head_dim, 2, "rope-mixed")
        size = options.base ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = 2 * math.pi * torch.rand(shape.layers, shape.heads, 1)
        turned = [
            torch.cat((f(angle), f(angle + math.pi / 2)), -1) for f in (torch.cos, torch.sin)
        ]  # (L, heads, 2) each
        freqs = torch.stack(
            [(d[..., None] * size).flatten(1) for d in turned]
        )  # (2, L, heads * d/2)
        self.freqs = nn.Parameter(freqs.float())

    def turned(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, heads, N, head_dim), each head by its own frequencies."""
        factors = torch.tensor([self.scaling.factor(axis) for axis in range(2)])
        places = (
            (positions.cpu().float() / factors).flip(1).to(self.freqs.device)
        )  # (N, 2), x first
        speeds = (
            self.freqs[:, layer].float().unflatten(-1, (self.shape.heads, -1))
        )  # (2, heads, d/2)
        turns = base.RotationAngles(torch.einsum("na,ahj->hnj", places, speeds))
        return base.rotate_planes(q, turns), base.rotate_planes(k, turns)


PLUGIN = RopeMixed
