"""The control of Table 9, printed "RoPE+SVD": HARoPE's parameters and FLOPs, not tied to the
rotation.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from harope_bench.encodings import base
from harope_bench.encodings.matrices import (
    MatrixRope,
    QkMode,
    SvdParameters,
    add_svd_parameters,
    svd_matrices,
)


class RopeSvdControl(MatrixRope):
    """One SVD matrix a head, put where it cannot touch the rotary planes.

    Its parameters lie under `control`, so that a file of weights tells it from HARoPE. The paper
    says "identical SVD layers post
    projection" and gives no formula. A matrix between projection and rotation would be HARoPE
    itself, so two readings are left:
    after the rotation on q and k (default; with "dual" it cancels out of every score), or on the
    values and on what the heads found.
    """

    source = "paper Table 9 and section 4.5; the placement is our reading"

    class Options(base.RotaryOptions):
        """placement: where the matrix acts. qk_mode: what acts on keys (after-rotation) or on
        outputs (value-output).
        """

        placement: Literal["after-rotation", "value-output"] = "after-rotation"
        qk_mode: QkMode = "same"

    options: Options

    def __init__(self, shape: base.ModelShape, options: Options):
        super().__init__(shape, options)
        self.control = SvdParameters()
        add_svd_parameters(self.control, shape.layers, shape.heads, shape.head_dim)

    @property
    def facts(self) -> base.EncodingProperties:
        """What it promises depends on its options."""
        after = self.options.placement == "after-rotation"
        dual = self.options.qk_mode == "dual"
        return base.EncodingProperties(
            relative=not after or dual,
            orthogonal=not after,
            identity_at_init=True,
            per_head=after,
            foldable=False,
        )

    def turned(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, heads, N, head_dim) turned axis by axis, then each head's matrix
        where it belongs here.
        """
        q, k = super().turned(q, k, positions, layer)
        if self.options.placement == "value-output":
            return q, k
        pair = self.control_matrices(layer)
        return q @ pair.q.to(q.dtype).mT, k @ pair.k.to(k.dtype).mT

    def control_matrices(self, layer: int) -> base.QueryKeyMatrices:
        """The two matrices (heads, head_dim, head_dim) of a layer."""
        return svd_matrices(self.control, layer, self.options.qk_mode)

    def values(self, v: Tensor, layer: int) -> Tensor:
        """Values (B, heads, N, head_dim) in each head's basis, with placement value-output."""
        return (
            v @ self.control_matrices(layer).q.to(v.dtype).mT
            if self.options.placement == "value-output"
            else v
        )

    def outputs(self, out: Tensor, layer: int) -> Tensor:
        """What the heads found (B, heads, N, head_dim), with placement value-output under the
        second matrix.
        """
        return (
            out @ self.control_matrices(layer).k.to(out.dtype).mT
            if self.options.placement == "value-output"
            else out
        )

    def plain(self) -> base.Encoding:
        """OptionError: nothing here stands between projection and rotation."""
        return base.Encoding.without_matrices(self)


PLUGIN = RopeSvdControl
