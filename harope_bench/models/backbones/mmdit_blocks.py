"""The modules of the small joint text-image transformer.

Each token belongs to one stream with its own projections and norms. A double block has a stream
for text, a stream for the image, and one attention over both. A single block has one stream for
all tokens. Source: Esser et al. 2024 (SD3); black-forest-labs/flux (double and single blocks);
the shared modulation is that of PixArt-alpha (Chen et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harope_bench.encodings import base as encodings
from harope_bench.models.backbones.dit_blocks import Mlp, modulate


class Stream(nn.Module):
    """Parameters of one kind of tokens in one block: norms, projections, MLP, modulation
    offsets.
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

    def modulation(self, shared_modulation: Tensor) -> tuple[Tensor, ...]:
        """Return shift, scale and gate of the attention, then of the MLP, (B, width) each.

        Args:
            shared_modulation: The modulation of all blocks, (B, 6, width).
        """
        return (shared_modulation + self.offsets).unbind(1)

    def project_heads(
        self, x: Tensor, shift: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values (B, heads, N, head_dim) of tokens x (B, N, width).

        Queries and keys are normalised per head.
        """
        qkv = self.qkv(modulate(self.norm1(x), shift, scale))  # (B, N, 3 * width)
        qkv = qkv.unflatten(-1, (3, self.heads, -1))  # (B, N, 3, heads, head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, head_dim)
        return self.norm_q(q), self.norm_k(k), v

    def finish_block(
        self,
        x: Tensor,
        attention_output: Tensor,
        gate1: Tensor,
        shift2: Tensor,
        scale2: Tensor,
        gate2: Tensor,
    ) -> Tensor:
        """Return tokens (B, N, width) after the output projection, the MLP and both residuals.

        Args:
            x: Tokens before the attention, (B, N, width).
            attention_output: Output of the attention with joined heads, (B, N, width).
            gate1: Gate of the attention, (B, width).
            shift2, scale2, gate2: Modulation and gate of the MLP, (B, width) each.
        """
        x = x + gate1[:, None] * self.proj(attention_output)
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(head_dim)) v for tensors (B, heads, N, head_dim).

    Plain products are used, because the backward pass of the fused kernel is many times slower in
    bfloat16 on a CPU.
    """
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


class MMDiTBlock(nn.Module):
    """Joint attention of one or two streams; the encoding acts after the norm of queries and
    keys.
    """

    def __init__(self, width: int, heads: int, streams: int):
        super().__init__()
        self.streams = nn.ModuleList(Stream(width, heads) for _ in range(streams))
        self.is_single_stream = streams == 1

    def forward(
        self,
        stream_tokens: Sequence[Tensor],
        shared_modulation: Tensor,
        encoding: encodings.Encoding,
        positions: Tensor,
        layer: int,
    ) -> list[Tensor]:
        """Return the tokens of each stream, (B, N_i, width).

        Args:
            stream_tokens: Tokens of each stream, (B, N_i, width).
            shared_modulation: (B, 6, width).
            positions: Coordinates of the tokens of all streams, (sum of N_i, axes).
        """
        streams = [stream for stream in self.streams if isinstance(stream, Stream)]
        modulations = [stream.modulation(shared_modulation) for stream in streams]

        # Each stream projects its tokens; the joint sequence is their concatenation.
        projections = [
            stream.project_heads(x, modulation[0], modulation[1])
            for stream, x, modulation in zip(streams, stream_tokens, modulations, strict=True)
        ]
        q, k, v = (torch.cat(tensors, 2) for tensors in zip(*projections, strict=True))

        q, k = encoding.rotate(q, k, positions, layer)
        attention_output = attend(
            q, k, encoding.transform_values(v, layer)
        )  # (B, heads, N, head_dim)
        attention_output = encoding.transform_outputs(attention_output, layer)

        # Each stream receives the outputs of its own tokens.
        outputs = attention_output.transpose(1, 2).flatten(2)  # (B, N, width)
        stream_outputs = outputs.split([x.shape[1] for x in stream_tokens], dim=1)
        return [
            stream.finish_block(x, output, *modulation[2:])
            for stream, x, output, modulation in zip(
                streams, stream_tokens, stream_outputs, modulations, strict=True
            )
        ]


class WordEmbedder(nn.Module):
    """Words of a caption to text tokens and a pooled vector.

    A token is the embedding of its word plus the embedding of its index in the caption. The index
    is part of the embedding, as in the output of a text encoder, because all text tokens have
    position (0, 0) in the image. Word 0 is "no word". A caption of it
    alone is "no text", for guidance.
    """

    def __init__(self, words: int, max_words: int, width: int):
        super().__init__()
        self.word = nn.Embedding(words + 1, width)
        self.place = nn.Embedding(max_words, width)  # the name is a key of shipped weights
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (B, max_words, width) and a pooled vector (B, width) of words (B,
        max_words).
        """
        is_word = (words != 0)[..., None]  # (B, max_words, 1)
        tokens = self.word(words) + self.place.weight * is_word  # (B, max_words, width)
        caption_vector = self.mlp(F.silu(tokens + self.place.weight)).mean(1)  # (B, width)
        return tokens, caption_vector
