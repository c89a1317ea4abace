"""What the cost columns of Table 9 count: one attention layer, in exact integers.

The DiT rows count an attention block: q, k, v and output projection with biases, the two attention
products, the bias additions.
The FLUX rows count one fused qkv projection of a single block: its parameters with biases, its
multiply-adds over all tokens without
them, no attention products. Rows of the two are therefore not comparable with each other. Norms,
rotation, softmax and matrix
exponentials are in neither. A learned matrix adds its product on queries and on keys and, where it
is made of factors, the product
that builds it and the one that builds its inverse, as the release's module does in every forward
(model/models_HARoPE.py:25-52, 94-100).
All counts are multiply-adds, counted once.
"""

from __future__ import annotations

from dataclasses import dataclass

PIXELS_PER_TOKEN = 16  # pixels of a side per image token of FLUX: VAE 8, patch 2
TEXT_TOKENS = 512
# projections of the two readings: q, k, v and output; q, k and v alone
ALL_PROJECTIONS = 4
QKV_PROJECTIONS = 3


@dataclass(frozen=True)
class LearnedParameters:
    """What an encoding learns in one layer. matrices: width x width ones, one a head or one for
    all; factors: of which each is made.
    """

    parameters: int = 0
    matrices: int = 0
    width: int = 0
    factors: int = 0

    @property
    def construction_flops(self) -> int:
        """Multiply-adds of building the matrices from their factors, and their inverses too."""
        return 2 * max(0, self.factors - 1) * self.matrices * self.width**3


@dataclass(frozen=True)
class AttentionSizes:
    """Sizes of one attention layer. `projections` is how many hidden x hidden maps the columns
    count.
    """

    hidden: int
    heads: int
    projections: int

    @property
    def width(self) -> int:
        """Channels of a head."""
        return self.hidden // self.heads

    @property
    def weights(self) -> int:
        """Parameters of the counted projections without biases."""
        return self.projections * self.hidden**2

    @property
    def parameters(self) -> int:
        """Parameters of the counted projections with biases."""
        return self.weights + self.projections * self.hidden

    @property
    def harope_matrices(self) -> LearnedParameters:
        """One matrix U diag(s) V^T per head."""
        return LearnedParameters(self.harope_parameters, self.heads, self.width, factors=2)

    @property
    def harope_parameters(self) -> int:
        """Parameters of one matrix U diag(s) V^T per head."""
        return self.heads * (2 * self.width**2 + self.width)

    @property
    def construction_flops(self) -> int:
        """Multiply-adds of two head-width matrix products per head: what building the matrices and
        their inverses takes.
        """
        return self.harope_matrices.construction_flops

    def plain_flops(self, tokens: int) -> int:
        """Multiply-adds of the layer over so many tokens, without an encoding's share."""
        if self.projections == QKV_PROJECTIONS:
            return tokens * self.weights
        products = 2 * tokens**2 * self.hidden  # scores, and their mix of values
        return tokens * self.parameters + products

    def flops(self, tokens: int, learned: LearnedParameters) -> int:
        """Multiply-adds of the layer with what the encoding adds."""
        applied = (
            2 * tokens * self.heads * self.width**2 if learned.matrices else 0
        )  # a shared matrix acts on every head too
        return self.plain_flops(tokens) + applied + learned.construction_flops


PAPER_LAYERS = {
    "dit": AttentionSizes(hidden=768, heads=12, projections=ALL_PROJECTIONS),
    "flux": AttentionSizes(hidden=3072, heads=24, projections=QKV_PROJECTIONS),
}
MATRIX_ENCODINGS = {"harope", "rope-svd-control"}  # encodings whose rows carry the added matrix


def flux_tokens(side: int) -> int:
    """Image and text tokens of FLUX at this side in pixels."""
    return (side // PIXELS_PER_TOKEN) ** 2 + TEXT_TOKENS
