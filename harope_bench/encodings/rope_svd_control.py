"""The control of Table 9, printed "RoPE+SVD".

It has the parameters and FLOPs of HARoPE, but its matrices do not act on the rotary planes.
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
    """One SVD matrix for each head that does not change the basis of the rotation.

    The names of its parameters start with `control`, which distinguishes a file of weights from
    HARoPE's. The paper says "identical SVD layers post projection" and gives no formula. A matrix
    between projection and rotation would be HARoPE itself. Two readings remain: on q and k after
    the rotation (default; with "dual" it cancels out of every score), or on values and outputs of
    the attention.
    """

    source = "paper Table 9 and section 4.5; the placement is our reading"

    class Options(base.RotaryOptions):
        """The options of the control.

        placement: where the matrix acts.
        qk_mode: the matrix on keys (after-rotation) or on outputs (value-output).
        """

        placement: Literal["after-rotation", "value-output"] = "after-rotation"
        qk_mode: QkMode = "same"

    options: Options

    def __init__(self, shape: base.ModelShape, options: Options):
        super().__init__(shape, options)
        self.control = SvdParameters()
        add_svd_parameters(self.control, shape.layers, shape.heads, shape.head_dim)

    @property
    def properties(self) -> base.EncodingProperties:
        """Return the properties, which depend on the options."""
        is_after_rotation = self.options.placement == "after-rotation"
        is_dual = self.options.qk_mode == "dual"
        return base.EncodingProperties(
            relative=not is_after_rotation or is_dual,
            orthogonal=not is_after_rotation,
            identity_at_init=True,
            per_head=is_after_rotation,
            foldable=False,
        )

    def apply_rotation(
        self, q: Tensor, k: Tensor, positions: Tensor, layer: int
    ) -> tuple[Tensor, Tensor]:
        """Return queries and keys (B, heads, N, head_dim) rotated axis by axis.

        With placement after-rotation the matrices of each head are applied to the rotated ones.
        """
        q, k = super().apply_rotation(q, k, positions, layer)
        if self.options.placement == "value-output":
            return q, k
        control = self.control_matrices(layer)
        return q @ control.q.to(q.dtype).mT, k @ control.k.to(k.dtype).mT

    def control_matrices(self, layer: int) -> base.QueryKeyMatrices:
        """Return the two matrices (heads, head_dim, head_dim) of a layer."""
        return svd_matrices(self.control, layer, self.options.qk_mode)

    def transform_values(self, v: Tensor, layer: int) -> Tensor:
        """Return values (B, heads, N, head_dim), times the first matrix for value-output."""
        if self.options.placement != "value-output":
            return v
        return v @ self.control_matrices(layer).q.to(v.dtype).mT

    def transform_outputs(self, out: Tensor, layer: int) -> Tensor:
        """Return outputs (B, heads, N, head_dim), times the second matrix for value-output."""
        if self.options.placement != "value-output":
            return out
        return out @ self.control_matrices(layer).k.to(out.dtype).mT

    def without_matrices(self) -> base.Encoding:
        """Raise OptionError: no matrix acts between projection and rotation."""
        return base.Encoding.without_matrices(self)


PLUGIN = RopeSvdControl
