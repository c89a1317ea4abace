"""HARoPE: a learnable matrix per head, in SVD form, before axial RoPE."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from harope_bench.encodings import base
from harope_bench.encodings.string import skew_exp

SMALLEST = 1e-6  # added to every singular value by the release


class Harope(base.Encoding):
    """M = U diag(s) V^T with U, V exponentials of skew matrices and s = softplus(sigma) + 1e-6.

    qk_mode "dual" is the released code (model/models_HARoPE.py:94-100): q -> R M q, k -> R M^-T k.
    qk_mode "same" is the paper's equation 7: q -> R A q, k -> R A k. They agree where M is orthogonal.
    """

    facts = base.Facts(relative=True, orthogonal=False, identity_at_init=True, per_head=True, foldable=True)
    source = "paper equations 6-10; release model/models_HARoPE.py:25-52, 94-100"

    class Options(base.Options):
        """base: of the axial frequencies. qk_mode: released form (dual) or paper form (same)."""

        base: float = Field(default=10000.0, gt=0)
        qk_mode: Literal["dual", "same"] = "dual"

    options: Options

    def __init__(self, shape: base.Shape, options: Options):
        super().__init__(shape, options)
        square = (shape.layers, shape.heads, shape.head_dim, shape.head_dim)
        self.A_u = nn.Parameter(torch.zeros(square))
        self.A_v = nn.Parameter(torch.zeros(square))
        self.sigma = nn.Parameter(torch.full(square[:3], math.log(math.e - 1)))  # softplus gives 1

    def matrices(self, layer: int) -> tuple[Tensor, Tensor]:
        """The matrices (heads, head_dim, head_dim) that act on q and on k of a layer."""
        u, v = skew_exp(self.A_u[layer]), skew_exp(self.A_v[layer])
        s = F.softplus(self.sigma[layer].to(u.dtype)) + SMALLEST  # (heads, head_dim)
        on_q = (u * s[:, None, :]) @ v.mT
        if self.options.qk_mode == "same":
            return on_q, on_q
        return on_q, (u / s[:, None, :]) @ v.mT  # M^-T = U diag(1/s) V^T

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, heads, N, head_dim) in each head's basis, then turned axis by axis."""
        on_q, on_k = (m.to(q.dtype) for m in self.matrices(layer))
        angles = base.axial_angles(positions, q.shape[-1], self.options.base, "harope")
        return base.turn(q @ on_q.mT, angles), base.turn(k @ on_k.mT, angles)


PLUGIN = Harope
