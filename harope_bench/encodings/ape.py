"""Absolute positional embedding, the fixed sine-cosine table of DiT."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from harope_bench.encodings import base


class Ape(base.Encoding):
    """Adds [sin | cos] of the column to the first half of the width, of the row to the second half.

    Source: facebookresearch/DiT:models.py:274-312 (its grid puts the column first).
    """

    facts = base.Facts(relative=False, orthogonal=True, identity_at_init=False, per_head=False, foldable=False)
    source = "facebookresearch/DiT:models.py:274-312"

    class Options(base.Options):
        """base: longest wavelength over 2 pi."""

        base: float = Field(default=10000.0, gt=0)

    options: Options

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Tokens (B, N, width) plus the table at these positions."""
        planes = base.axis_split(tokens.shape[-1], positions.shape[1], "ape")
        frequencies = base.spectrum(planes, self.options.base)
        angles = positions.cpu().double().flip(1)[:, :, None] * frequencies  # (N, axes, planes), last axis first
        table = torch.cat((angles.sin(), angles.cos()), -1).flatten(1)  # (N, width)
        return tokens + table.float().to(tokens)


PLUGIN = Ape
