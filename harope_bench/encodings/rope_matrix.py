"""The ablation of Table 6: axial RoPE after a normal, orthogonal or SVD matrix, shared by the heads or one for each."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from harope_bench.encodings import base
from harope_bench.encodings.matrices import Before, QkMode, add_svd, skew_exp, svd_pair, wide


class RopeMatrix(Before):
    """q -> R M q and k -> R M k ("same") or R M^-T k ("dual"); the two agree where M is orthogonal.

    matrix = svd with per_head is HARoPE; matrix = orthogonal, shared, is STRING. The release has code for SVD alone; the other
    parameter names are ours.
    """

    source = "paper section 4.4 and Table 6"

    class Options(base.Rotary):
        """matrix, per_head: the two factors of the table. qk_mode: same if left out, but dual for svd as released."""

        matrix: Literal["normal", "orthogonal", "svd"] = "svd"
        per_head: bool = False
        qk_mode: QkMode | None = None

    options: Options

    def __init__(self, shape: base.Shape, options: Options):
        super().__init__(shape, options)
        count, d = shape.heads if options.per_head else 1, shape.head_dim
        if options.matrix == "svd":
            add_svd(self, shape.layers, count, d)
        elif options.matrix == "orthogonal":
            self.orthogonal = nn.Parameter(torch.zeros(shape.layers, count, d, d))
        else:
            self.matrix = nn.Parameter(torch.eye(d).repeat(shape.layers, count, 1, 1))

    @property
    def facts(self) -> base.Facts:
        """What it promises depends on its options."""
        return base.Facts(
            relative=True,
            orthogonal=self.options.matrix == "orthogonal",
            identity_at_init=True,
            per_head=self.options.per_head,
            foldable=True,
        )

    @property
    def mode(self) -> QkMode:
        """What acts on keys."""
        return self.options.qk_mode or ("dual" if self.options.matrix == "svd" else "same")

    def matrices(self, layer: int) -> base.Pair:
        """The matrices (heads or 1, head_dim, head_dim) that act on q and on k of a layer."""
        if self.options.matrix == "svd":
            return svd_pair(self, layer, self.mode)
        if self.options.matrix == "orthogonal":
            basis = skew_exp(self.orthogonal[layer])
            return base.Pair(basis, basis)
        free = wide(self.matrix[layer])
        return base.Pair(free, free if self.mode == "same" else torch.linalg.inv(free).mT)


PLUGIN = RopeMatrix
