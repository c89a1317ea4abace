"""Exact counts of one attention layer, as the cost columns of the paper's Table 9 take them.

The DiT rows count an attention block: the q, k, v and output projections with biases, the two
attention products and the additions of biases. The FLUX rows count the fused qkv projection of a
single block: its parameters with biases, and its multiply-adds over all tokens without biases and
without attention products. DiT rows and FLUX rows are therefore not comparable.

Neither counts norms, rotation, softmax or matrix exponentials. A learned matrix adds its product
with the queries and with the keys. A matrix that is a product of factors also adds the product that
builds it and the product that builds its inverse, since the released module computes both in every
forward (model/models_HARoPE.py:25-52, 94-100). Every multiply-add counts once.
"""

from __future__ import annotations

from dataclasses import dataclass

PIXELS_PER_TOKEN = 16  # pixels of a side per image token of FLUX: VAE 8, patch 2
TEXT_TOKENS = 512
# projections that are counted: q, k, v and output for DiT; q, k and v for FLUX
ALL_PROJECTIONS = 4
QKV_PROJECTIONS = 3


@dataclass(frozen=True)
class LearnedParameters:
    """Parameters that an encoding learns in one layer.

    parameters: their number. matrices: how many width x width matrices it learns, one per head or
    one for all heads. width: of a matrix. factors: how many factors make one matrix.
    """

    parameters: int = 0
    matrices: int = 0
    width: int = 0
    factors: int = 0

    @property
    def construction_multiply_adds(self) -> int:
        """Return the multiply-adds that build the matrices and their inverses from the factors."""
        return 2 * max(0, self.factors - 1) * self.matrices * self.width**3


@dataclass(frozen=True)
class AttentionSizes:
    """Sizes of one attention layer; `projections` is the number of hidden x hidden maps counted."""

    hidden: int
    heads: int
    projections: int

    @property
    def width(self) -> int:
        """Return the channels of a head."""
        return self.hidden // self.heads

    @property
    def weights(self) -> int:
        """Return the parameters of the counted projections without biases."""
        return self.projections * self.hidden**2

    @property
    def parameters(self) -> int:
        """Return the parameters of the counted projections with biases."""
        return self.weights + self.projections * self.hidden

    @property
    def harope_matrices(self) -> LearnedParameters:
        """Return what HARoPE learns here: one matrix U diag(s) V^T per head."""
        return LearnedParameters(self.harope_parameters, self.heads, self.width, factors=2)

    @property
    def harope_parameters(self) -> int:
        """Return the parameters of one matrix U diag(s) V^T per head."""
        return self.heads * (2 * self.width**2 + self.width)

    @property
    def construction_multiply_adds(self) -> int:
        """Return the multiply-adds that build HARoPE's matrices and their inverses."""
        return self.harope_matrices.construction_multiply_adds

    def plain_multiply_adds(self, tokens: int) -> int:
        """Return the multiply-adds of the layer over `tokens` tokens without an encoding."""
        if self.projections == QKV_PROJECTIONS:
            return tokens * self.weights
        products = 2 * tokens**2 * self.hidden  # q k^T, and the weighted sum of values
        return tokens * self.parameters + products

    def multiply_adds(self, tokens: int, learned_parameters: LearnedParameters) -> int:
        """Return the multiply-adds of the layer with those that the encoding adds.

        Args:
            tokens: number of tokens of the sequence.
            learned_parameters: what the encoding learns in this layer.
        """
        # a matrix that all heads share acts on every head, too
        matrix_multiply_adds = 0
        if learned_parameters.matrices:
            matrix_multiply_adds = 2 * tokens * self.heads * self.width**2
        return (
            self.plain_multiply_adds(tokens)
            + matrix_multiply_adds
            + learned_parameters.construction_multiply_adds
        )


PAPER_LAYERS = {
    "dit": AttentionSizes(hidden=768, heads=12, projections=ALL_PROJECTIONS),
    "flux": AttentionSizes(hidden=3072, heads=24, projections=QKV_PROJECTIONS),
}
MATRIX_ENCODINGS = {"harope", "rope-svd-control"}  # encodings whose rows count the added matrix


def flux_tokens(side: int) -> int:
    """Return the image and text tokens of FLUX for an image of `side` x `side` pixels."""
    return (side // PIXELS_PER_TOKEN) ** 2 + TEXT_TOKENS
