"""Two-dimensional RoPE, axial: half of each head turns with the row, half with the column."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from harope_bench.encodings import base


class RopeAxial(base.Encoding):
    """Paper equation 3. What Tables 6, 8 and 9 simply call RoPE."""

    facts = base.Facts(relative=True, orthogonal=True, identity_at_init=True, per_head=False, foldable=False)
    source = "paper equation 3; release model/models_HARoPE.py:265-282"

    class Options(base.Options):
        """base: of the geometric frequencies of each axis."""

        base: float = Field(default=10000.0, gt=0)

    options: Options

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, heads, N, head_dim) turned axis by axis."""
        angles = base.axial_angles(positions, q.shape[-1], self.options.base, "rope-axial")
        return base.turn(q, angles), base.turn(k, angles)


PLUGIN = RopeAxial
