"""The ablation of Table 6: axial RoPE after a normal, orthogonal or SVD matrix.

The matrix is shared by the heads of a layer, or every head has its own.
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
    """q -> R M q and k -> R M k ("same") or R M^-T k ("dual"); both agree where M is orthogonal.

    matrix = svd with per_head is HARoPE. matrix = orthogonal without per_head is STRING. The
    release has code for SVD only. The names of the other parameters are defined here.
    """

    source = "paper section 4.4 and Table 6"

    class Options(base.RotaryOptions):
        """The options of the ablation.

        matrix, per_head: the two factors of Table 6.
        qk_mode: if left out, dual for svd as in the release, same for the other matrices.
        """

        matrix: Literal["normal", "orthogonal", "svd"] = "svd"
        per_head: bool = False
        qk_mode: QkMode | None = None

    options: Options

    def __init__(self, shape: base.ModelShape, options: Options):
        super().__init__(shape, options)
        groups = shape.heads if options.per_head else 1
        d = shape.head_dim
        if options.matrix == "svd":
            add_svd_parameters(self, shape.layers, groups, d)
        elif options.matrix == "orthogonal":
            self.orthogonal = nn.Parameter(torch.zeros(shape.layers, groups, d, d))
        else:
            self.matrix = nn.Parameter(torch.eye(d).repeat(shape.layers, groups, 1, 1))

    @property
    def properties(self) -> base.EncodingProperties:
        """Return the properties, which depend on the options."""
        return base.EncodingProperties(
            relative=True,
            orthogonal=self.options.matrix == "orthogonal",
            identity_at_init=True,
            per_head=self.options.per_head,
            foldable=True,
        )

    @property
    def qk_mode(self) -> QkMode:
        """Return the mode that decides the matrix on keys."""
        return self.options.qk_mode or ("dual" if self.options.matrix == "svd" else "same")

    def matrices(self, layer: int) -> base.QueryKeyMatrices:
        """Return the matrices (heads or 1, head_dim, head_dim) on q and on k of a layer."""
        if self.options.matrix == "svd":
            return svd_matrices(self, layer, self.qk_mode)
        if self.options.matrix == "orthogonal":
            rotation = skew_exp(self.orthogonal[layer])
            return base.QueryKeyMatrices(rotation, rotation)

        query_matrix = to_float32(self.matrix[layer])
        if self.qk_mode == "same":
            return base.QueryKeyMatrices(query_matrix, query_matrix)
        key_matrix = torch.linalg.inv(query_matrix).mT  # M^-T
        return base.QueryKeyMatrices(query_matrix, key_matrix)


PLUGIN = RopeMatrix
