"""The parts of the small joint text-image transformer.

Each token goes through one stream: its own projections and norms. A double block has a stream for
text and one for the image and
one attention over both; a single block has one stream for all tokens. Source: Esser et al. 2024
(SD3), black-forest-labs/flux
(double and single blocks); the shared modulation is PixArt-alpha's (Chen et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harope_bench.encodings import base as encodings
from harope_bench.models.backbones.dit_blocks import Mlp, modulate


class Stream(nn.Module):
    """One kind of tokens in one block: norms, projections, an MLP, and offsets of the shared
    modulation.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q = nn.RMSNorm(width // heads, eps=1e-6)
        self.norm_k = nn.RMSNorm(width // heads, eps=1e-6)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width)
        self.offsets = nn.Parameter(torch.zeros(6, width))

    def modulation(self, c: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of the attention, then of the MLP, (B, width) each, of the shared c
        (B, 6, width).
        """
        return (c + self.offsets).unbind(1)

    def project_heads(
        self, x: Tensor, shift: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, each normed in its head, and values (B, heads, N, head_dim)."""
        qkv = (
            self.qkv(modulate(self.norm1(x), shift, scale))
            .unflatten(-1, (3, self.heads, -1))
            .permute(2, 0, 3, 1, 4)
        )
        q, k, v = qkv.unbind(0)
        return self.norm_q(q), self.norm_k(k), v

    def apply_residuals(
        self, x: Tensor, found: Tensor, gate1: Tensor, shift2: Tensor, scale2: Tensor, gate2: Tensor
    ) -> Tensor:
        """Tokens (B, N, width) with what attention found (B, N, width) and with the MLP's part."""
        x = x + gate1[:, None] * self.proj(found)
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of (B, heads, N, head_dim) in plain products: the fused kernel's backward is many
    times slower in bfloat16 on a CPU.
    """
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


class MMDiTBlock(nn.Module):
    """Joint attention of its streams: norm, then the encoding, then the products."""

    def __init__(self, width: int, heads: int, streams: int):
        super().__init__()
        self.streams = nn.ModuleList(Stream(width, heads) for _ in range(streams))
        self.is_single_stream = streams == 1

    def forward(
        self,
        parts: Sequence[Tensor],
        c: Tensor,
        encoding: encodings.Encoding,
        positions: Tensor,
        layer: int,
    ) -> list[Tensor]:
        """Tokens of each stream (B, N_i, width) to tokens; `positions` (sum of N_i, axes) and c (B,
        6, width) are those of all.
        """
        streams = [stream for stream in self.streams if isinstance(stream, Stream)]
        told = [stream.modulation(c) for stream in streams]
        triples = [
            stream.project_heads(x, m[0], m[1])
            for stream, x, m in zip(streams, parts, told, strict=True)
        ]
        q, k, v = (torch.cat(same, 2) for same in zip(*triples, strict=True))
        q, k = encoding.rotate(q, k, positions, layer)
        found = encoding.transform_outputs(attend(q, k, encoding.transform_values(v, layer)), layer)
        split = found.transpose(1, 2).flatten(2).split([x.shape[1] for x in parts], dim=1)
        return [
            stream.apply_residuals(x, near, *m[2:])
            for stream, x, near, m in zip(streams, parts, split, told, strict=True)
        ]


class WordEmbedder(nn.Module):
    """Words of a caption to tokens: a row a word, a row a place in the caption, and a pooled vector
    of all of them.

    The place is part of the embedding, as it is of what a text encoder gives out: all text tokens
    stand at the origin of the image.
    Word 0 is "no word"; a caption of it alone is "no text", which guidance needs.
    """

    def __init__(self, words: int, places: int, width: int):
        super().__init__()
        self.word = nn.Embedding(words + 1, width)
        self.place = nn.Embedding(places, width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Words (B, places) int64 to tokens (B, places, width) and a pooled vector (B, width)."""
        tokens = self.word(words) + self.place.weight * (words != 0)[..., None]
        return tokens, self.mlp(F.silu(tokens + self.place.weight)).mean(1)
