"""Encoding my-encoding: axial RoPE in which every head learns the scale of its angles."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harope_bench.encodings import base


class MyEncoding(base.Encoding):
    """Rotation by s[layer, head] * position * frequency, with s = exp(log_scales).

    All s are 1 before training, so the encoding starts as `rope-axial`.
    """

    # `harope-bench check` tests each of these claims.
    properties = base.EncodingProperties(
        relative=True, orthogonal=True, identity_at_init=True, per_head=True, foldable=False
    )
    source = "paper equation 3, with a learned scale in every head"

    class Options(base.RotaryOptions):
        """The options base, axis_order and layout of axial rotation."""

    options: base.RotaryOptions

    def __init__(self, shape: base.ModelShape, options: base.RotaryOptions):
        super().__init__(shape, options)
        self.log_scales = nn.Parameter(torch.zeros(shape.layers, shape.heads))

    def apply_rotation(
        self, q: Tensor, k: Tensor, positions: Tensor, layer: int
    ) -> tuple[Tensor, Tensor]:
        """Return queries and keys (B, heads, N, head_dim), rotated with the scale of each head."""
        # Angles of the coordinates (N, 2). An encoding never sees the size of the grid.
        axial = base.axial_angles(
            positions, self.shape, self.options, self.scaling, self.registered_name()
        )

        # One factor for each head. Angles stay float32, because bfloat16 cannot tell 256 from 257.
        scales = self.log_scales[layer].float().exp()[:, None, None]  # (heads, 1, 1)
        angles = scales * axial.angles.float().to(scales.device)  # (heads, N, head_dim/2)

        rotation = base.RotationAngles(angles, axial.magnitude, self.options.layout)
        return base.rotate_planes(q, rotation), base.rotate_planes(k, rotation)


PLUGIN = MyEncoding
