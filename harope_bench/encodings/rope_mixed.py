"""Two-dimensional RoPE, mixed: every plane has a learned frequency for the row and the column."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from harope_bench.encodings import base


class RopeMixed(base.Encoding):
    """Angle of plane j, head h, layer l: x fx[l, h, j] + y fy[l, h, j], with x the column.

    All frequencies are learned. Their initial magnitudes are base^(-2i/(d/2)), i < d/4, twice: in
    a random direction of each head and at right angles to it. `freqs` is (2, L, heads * d/2), x
    first, as rope-vit stores it.
    """

    properties = base.EncodingProperties(
        relative=True, orthogonal=True, identity_at_init=False, per_head=True, foldable=False
    )
    source = (
        "arXiv 2403.13298; naver-ai/rope-vit:models/vit_rope.py:24-37,"
        " self-attn/rope_self_attn.py:110-114"
    )
    # Learned frequencies have no base that ntk or yarn could change.
    supported_scalings = ("none", "linear")

    class Options(base.EncodingOptions):
        """base: base of the initial magnitudes."""

        base: float = Field(default=10.0, gt=1)

    options: Options

    def __init__(self, shape: base.ModelShape, options: Options):
        super().__init__(shape, options)
        if shape.axes != 2:
            raise base.OptionError(
                f"rope-mixed needs positions of 2 axes (row, column), found {shape.axes} axes;"
                " choose another encoding"
            )
        # Source: naver-ai/rope-vit:models/vit_rope.py:24-37.
        n_magnitudes = base.axis_split(shape.head_dim, 2, "rope-mixed")
        exponents = -torch.arange(n_magnitudes, dtype=torch.float64) / n_magnitudes
        magnitudes = options.base**exponents  # (d/4,)

        angle = 2 * math.pi * torch.rand(shape.layers, shape.heads, 1)
        axis_components = [
            torch.cat((trig(angle), trig(angle + math.pi / 2)), -1)  # (L, heads, 2)
            for trig in (torch.cos, torch.sin)
        ]
        freqs = torch.stack(
            [(part[..., None] * magnitudes).flatten(1) for part in axis_components]
        )  # (2, L, heads * d/2)
        self.freqs = nn.Parameter(freqs.float())

    def apply_rotation(
        self, q: Tensor, k: Tensor, positions: Tensor, layer: int
    ) -> tuple[Tensor, Tensor]:
        """Return queries and keys (B, heads, N, head_dim) rotated with each head's frequencies."""
        factors = torch.tensor([self.scaling.factor(axis) for axis in range(2)])
        coordinates = (positions.cpu().float() / factors).flip(1)  # (N, 2), x first
        coordinates = coordinates.to(self.freqs.device)

        layer_freqs = self.freqs[:, layer].float()  # (2, heads * d/2)
        layer_freqs = layer_freqs.unflatten(-1, (self.shape.heads, -1))  # (2, heads, d/2)
        angles = torch.einsum("na,ahj->hnj", coordinates, layer_freqs)  # (heads, N, d/2)
        rotation = base.RotationAngles(angles)
        return base.rotate_planes(q, rotation), base.rotate_planes(k, rotation)


PLUGIN = RopeMixed
