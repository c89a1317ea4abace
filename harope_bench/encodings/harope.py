"""HARoPE: a learnable matrix per head, in SVD form, before axial RoPE."""

from __future__ import annotations

from harope_bench.encodings import base
from harope_bench.encodings.matrices import MatrixRope, QkMode, add_svd_parameters, svd_matrices


class Harope(MatrixRope):
    """HARoPE: M = U diag(s) V^T of every head, then the rotation R.

    U and V are exponentials of skew matrices, s = softplus(sigma) + 1e-6.
    qk_mode "dual" is the released code (model/models_HARoPE.py:94-100): q -> R M q, k -> R M^-T k.
    qk_mode "same" is the paper's equation 7: q -> R M q, k -> R M k. Both agree where M is
    orthogonal.
    """

    properties = base.EncodingProperties(
        relative=True, orthogonal=False, identity_at_init=True, per_head=True, foldable=True
    )
    source = "paper equations 6-10; release model/models_HARoPE.py:25-52, 94-100"

    class Options(base.RotaryOptions):
        """qk_mode: the released form (dual) or the form of the paper (same)."""

        qk_mode: QkMode = "dual"

    options: Options

    def __init__(self, shape: base.ModelShape, options: Options):
        super().__init__(shape, options)
        add_svd_parameters(self, shape.layers, shape.heads, shape.head_dim)

    def matrices(self, layer: int) -> base.QueryKeyMatrices:
        """Return the matrices (heads, head_dim, head_dim) on q and on k of a layer."""
        return svd_matrices(self, layer, self.options.qk_mode)


PLUGIN = Harope
