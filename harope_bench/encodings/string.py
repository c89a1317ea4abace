"""STRING / Rethinking RoPE: one learned orthogonal change of basis before axial RoPE."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from harope_bench.encodings import base


def skew_exp(raw: Tensor) -> Tensor:
    """Orthogonal (..., d, d): exponential of the skew part (raw - raw^T) / 2, in float32 at least.

    Source: paper section 3.3, "matrix exponential of skew-symmetric matrices".
    """
    wide = raw.float() if raw.dtype in (torch.float16, torch.bfloat16) else raw
    return torch.linalg.matrix_exp((wide - wide.mT) / 2)


class String(base.Encoding):
    """q -> R(p) P q, k -> R(p) P k with P orthogonal, one a layer, shared by its heads.

    Any rotation by commuting generators has this form up to a change of basis that attention does
    not see. Table 2's row equals Table 6's "orthogonal, shared".
    """

    facts = base.Facts(relative=True, orthogonal=True, identity_at_init=True, per_head=False, foldable=True)
    source = "arXiv 2502.02562 (STRING), arXiv 2504.06308 (Rethinking RoPE); exponential map as in the paper"

    class Options(base.Options):
        """base: of the fixed axial frequencies."""

        base: float = Field(default=10000.0, gt=0)

    options: Options

    def __init__(self, shape: base.Shape, options: Options):
        super().__init__(shape, options)
        self.skew = nn.Parameter(torch.zeros(shape.layers, shape.head_dim, shape.head_dim))

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, heads, N, head_dim) in the learned basis, then turned axis by axis."""
        basis = skew_exp(self.skew[layer]).to(q.dtype)  # (head_dim, head_dim)
        angles = base.axial_angles(positions, q.shape[-1], self.options.base, "string")
        return base.turn(q @ basis.mT, angles), base.turn(k @ basis.mT, angles)


PLUGIN = String
