"""The ablation of Table 6: axial RoPE after a normal, orthogonal or SVD matrix, shared by the heads
or one for each.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from harope_bench.encodings import base
from harope_bench.encodings.matrices import (
    MatrixRope,
    QkMode,
    add_svd_parameters,
    skew_exp,
    svd_matrices,
    to_float32,
)


class RopeMatrix(MatrixRope):
    """q -> R M q and k -> R M k ("same") or R M^-T k ("dual"); the two agree where M is orthogonal.

    matrix = svd with per_head is HARoPE; matrix = orthogonal, shared, is STRING. The release has
    code for SVD alone; the other
    parameter names are ours.
    """

    source = "paper section 4.4 and Table 6"

    class Options(base.RotaryOptions):
        """matrix, per_head: the two factors of the table. qk_mode: same if left out, but dual for
        svd as released.
        """

        matrix: Literal["normal", "orthogonal", "svd"] = "svd"
        per_head: bool = False
        qk_mode: QkMode | None = None

    options: Options

    def __init__(self, shape: base.ModelShape, options: Options):
        super().__init__(shape, options)
        count = shape.heads if options.per_head else 1
        d = shape.head_dim
        if options.matrix == "svd":
            add_svd_parameters(self, shape.layers, count, d)
        elif options.matrix == "orthogonal":
            self.orthogonal = nn.Parameter(torch.zeros(shape.layers, count, d, d))
        else:
            self.matrix = nn.Parameter(torch.eye(d).repeat(shape.layers, count, 1, 1))

    @property
    def facts(self) -> base.EncodingProperties:
        """What it promises depends on its options."""
        return base.EncodingProperties(
            relative=True,
            orthogonal=self.options.matrix == "orthogonal",
            identity_at_init=True,
            per_head=self.options.per_head,
            foldable=True,
        )

    @property
    def qk_mode(self) -> QkMode:
        """What acts on keys."""
        return self.options.qk_mode or ("dual" if self.options.matrix == "svd" else "same")

    def matrices(self, layer: int) -> base.QueryKeyMatrices:
        """The matrices (heads or 1, head_dim, head_dim) that act on q and on k of a layer."""
        if self.options.matrix == "svd":
            return svd_matrices(self, layer, self.qk_mode)
        if self.options.matrix == "orthogonal":
            basis = skew_exp(self.orthogonal[layer])
            return base.QueryKeyMatrices(basis, basis)
        free = to_float32(self.matrix[layer])
        return base.QueryKeyMatrices(
            free, free if self.qk_mode == "same" else torch.linalg.inv(free).mT
        )


PLUGIN = RopeMatrix
