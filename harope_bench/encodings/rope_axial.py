"""Two-dimensional RoPE, axial: half of each head turns with the row, half with the column."""

from __future__ import annotations

from torch import Tensor

from harope_bench.encodings import base
from harope_bench.encodings.scaling import ROTARY_SCALINGS


class RopeAxial(base.Encoding):
    """Paper equation 3. What Tables 6, 8 and 9 simply call RoPE."""

    facts = base.EncodingProperties(
        relative=True, orthogonal=True, identity_at_init=True, per_head=False, foldable=False
    )
    source = "paper equation 3; release model/models_HARoPE.py:265-282"
    scalings = ROTARY_SCALINGS

    class Options(base.RotaryOptions):
        """Those of axial rotation."""

    options: base.RotaryOptions

    def turned(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, heads, N, head_dim) turned axis by axis."""
        turns = base.axial_angles(positions, self.shape, self.options, self.scaling, "rope-axial")
        return base.rotate_planes(q, turns), base.rotate_planes(k, turns)


PLUGIN = RopeAxial
