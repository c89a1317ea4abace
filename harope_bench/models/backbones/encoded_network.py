"""The base class of the backbones' networks, whose attention uses a positional encoding."""

from __future__ import annotations

from torch import nn

from harope_bench.encodings.base import Encoding


class EncodedNetwork(nn.Module):
    """Base class of networks with an encoding."""

    encoding: Encoding
    # Number of tokens before those of the patches, such as a class token.
    num_prefix_tokens = 0

    def count_prefix_tokens(self, layer: int) -> int:
        """Return the number of tokens before those of the patches in one layer."""
        return self.num_prefix_tokens
