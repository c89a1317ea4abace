"""The modules of a DiT, with the names and layout of facebookresearch/DiT:models.py."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harope_bench.encodings import base as encodings

FREQUENCY_EMBEDDING_SIZE = 256  # Width of the sinusoidal time features.


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return tokens x (B, N, D) * (1 + scale) + shift, with scale and shift (B, D) per sample.

    Source: facebookresearch/DiT:models.py, modulate.
    """
    return x * (1 + scale[:, None]) + shift[:, None]


class SelfAttention(nn.Module):
    """Self-attention whose queries and keys pass through a positional encoding."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, encoding: encodings.Encoding, positions: Tensor, layer: int
    ) -> Tensor:
        """Return tokens (B, N, width) for tokens (B, N, width).

        Args:
            positions: Coordinates of the tokens, (N, axes).
            layer: Index of this layer, by which the encoding selects its parameters.
        """
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, heads, head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, head_dim)

        # The encoding acts on queries, keys, values and outputs; the attention itself is plain.
        q, k = encoding.rotate(q, k, positions, layer)
        v = encoding.transform_values(v, layer)
        attention_output = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, head_dim)
        attention_output = encoding.transform_outputs(attention_output, layer)

        return self.proj(attention_output.transpose(1, 2).flatten(2))  # (B, N, width)


class Mlp(nn.Module):
    """Two linear layers with GELU between them: DiT's tanh approximation, or exact ("none")."""

    def __init__(self, width: int, approximate: Literal["tanh", "none"] = "tanh"):
        super().__init__()
        self.approximate = approximate
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, N, width) for tokens (B, N, width)."""
        return self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))


class DiTBlock(nn.Module):
    """A transformer block with adaLN-Zero conditioning (Peebles and Xie 2023, figure 3)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(
        self, x: Tensor, c: Tensor, encoding: encodings.Encoding, positions: Tensor, layer: int
    ) -> Tensor:
        """Return tokens (B, N, width) for tokens (B, N, width) and a condition c (B, width)."""
        # Shift, scale and gate of the attention and of the MLP, (B, width) each.
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)

        attention_input = modulate(self.norm1(x), shift1, scale1)
        x = x + gate1[:, None] * self.attn(attention_input, encoding, positions, layer)
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    """Adaptive layer norm and the projection from tokens to patches."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Return patches (B, N, patch * patch * channels) for tokens (B, N, width)."""
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class PatchEmbed(nn.Module):
    """Patches of an image to row-major tokens, by one strided convolution."""

    def __init__(self, patch: int, channels: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, N, width) for images (B, C, H, W)."""
        return self.proj(x).flatten(2).transpose(1, 2)  # (B, N, width)


def initialise_projections(modules: Iterable[nn.Module], patches: PatchEmbed) -> None:
    """Initialise linear layers and the patch embedding as DiT does: Xavier weights, zero biases.

    The convolution of the patch embedding is initialised as one linear layer.

    Args:
        modules: Modules that are searched for linear layers, in the order of their random numbers.
    """
    for module in modules:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    weight = patches.proj.weight
    nn.init.xavier_uniform_(weight.view(len(weight), -1))  # (width, channels * patch * patch)


def unpatchify(patches: Tensor, rows: int, columns: int, patch: int) -> Tensor:
    """Return images (B, C, rows * patch, columns * patch) for their patches.

    Args:
        patches: (B, rows * columns, patch * patch * C), row-major.
        rows, columns: Numbers of patches along the height and the width.
        patch: Side of a patch in pixels.
    """
    grid = patches.unflatten(1, (rows, columns))  # (B, rows, columns, patch * patch * C)
    grid = grid.unflatten(-1, (patch, patch, -1))  # (B, rows, columns, patch, patch, C)
    grid = grid.permute(0, 5, 1, 3, 2, 4)  # (B, C, rows, patch, columns, patch)
    return grid.reshape(len(patches), -1, rows * patch, columns * patch)


class TimestepEmbedder(nn.Module):
    """Sinusoidal time features, cosines first, and two linear layers."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(FREQUENCY_EMBEDDING_SIZE, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, time: Tensor) -> Tensor:
        """Return embeddings (B, width) of times (B,), from 0 (image) to 1000 (noise).

        Source: facebookresearch/DiT:models.py, TimestepEmbedder.timestep_embedding.
        """
        half = FREQUENCY_EMBEDDING_SIZE // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=time.device) / half)
        angles = time[:, None].float() * frequencies  # (B, half)
        features = torch.cat((angles.cos(), angles.sin()), dim=-1)  # (B, 2 * half)
        return self.mlp(features.to(next(self.parameters()).dtype))


class LabelEmbedder(nn.Module):
    """Embedding table with one row per class.

    With `null_label` a last row stands for "no label", which classifier-free guidance needs.
    """

    def __init__(self, classes: int, width: int, null_label: bool = True):
        super().__init__()
        self.embedding_table = nn.Embedding(classes + null_label, width)

    def forward(self, labels: Tensor) -> Tensor:
        """Return embeddings (B, width) of labels (B,) int64 in [0, classes]."""
        return self.embedding_table(labels)
