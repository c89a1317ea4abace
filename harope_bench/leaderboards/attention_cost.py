"""What the cost columns of Table 9 count, from the shapes of the two models: one attention layer, in exact integers.

The DiT rows count one attention block (qkv and output projection, with biases), the FLUX rows one fused qkv projection
of a single block. FLOPs of the FLUX rows are multiply-adds of that projection over all tokens, biases left out. The added
matrix is U diag(s) V^T per head: two square matrices and a diagonal; its FLOPs are its parameters times the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

PATCH = 16  # pixels of a side per image token of FLUX: VAE 8, patch 2
TEXT_TOKENS = 512


@dataclass(frozen=True)
class Attention:
    """Sizes of one attention layer. `projections` is how many hidden x hidden maps the columns count."""

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
    def added(self) -> int:
        """Parameters of one matrix U diag(s) V^T per head."""
        return self.heads * (2 * self.width**2 + self.width)

    @property
    def construction(self) -> int:
        """Multiply-adds of two head-width matrix products per head: what building the matrices and their inverses takes."""
        return 2 * self.heads * self.width**3


LAYERS = {"dit": Attention(hidden=768, heads=12, projections=4), "flux": Attention(hidden=3072, heads=24, projections=3)}
WITH_MATRIX = {"harope", "rope-svd-control"}  # encodings whose rows carry the added matrix


def flux_tokens(side: int) -> int:
    """Image and text tokens of FLUX at this side in pixels."""
    return (side // PATCH) ** 2 + TEXT_TOKENS
