"""What all networks of the backbones are: modules whose attention asks an encoding for
positions.
"""

from __future__ import annotations

from torch import nn

from harope_bench.encodings.base import Encoding


class EncodedNetwork(nn.Module):
    """Base class of networks with an encoding."""

    encoding: Encoding
    num_prefix_tokens = 0  # tokens before those of the patches, such as a class token
