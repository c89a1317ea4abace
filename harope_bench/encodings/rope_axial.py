"""Two-dimensional RoPE, axial: the row rotates half of each head, the column the other half."""

from __future__ import annotations

from torch import Tensor

from harope_bench.encodings import base
from harope_bench.encodings.scaling import ROTARY_SCALINGS


class RopeAxial(base.Encoding):
    """Axial RoPE of paper equation 3, called RoPE in Tables 6, 8 and 9."""

    properties = base.EncodingProperties(
        relative=True, orthogonal=True, identity_at_init=True, per_head=False, foldable=False
    )
    source = "paper equation 3; release model/models_HARoPE.py:265-282"
    supported_scalings = ROTARY_SCALINGS

    class Options(base.RotaryOptions):
        """The options of axial rotation."""

    options: base.RotaryOptions

    def apply_rotation(
        self, q: Tensor, k: Tensor, positions: Tensor, layer: int
    ) -> tuple[Tensor, Tensor]:
        """Return queries and keys (B, heads, N, head_dim) rotated axis by axis."""
        rotation = base.axial_angles(
            positions, self.shape, self.options, self.scaling, "rope-axial"
        )
        return base.rotate_planes(q, rotation), base.rotate_planes(k, rotation)


PLUGIN = RopeAxial
