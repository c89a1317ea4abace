"""The parts of a DiT, named and laid out as in facebookresearch/DiT:models.py."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harope_bench.encodings import base as encodings

FREQUENCY_EMBEDDING_SIZE = 256  # width of the sinusoidal time features


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (B, N, D) scaled and shifted per sample (B, D)."""
    return x * (1 + scale[:, None]) + shift[:, None]


class SelfAttention(nn.Module):
    """Self-attention whose queries and keys pass through the encoding."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, encoding: encodings.Encoding, positions: Tensor, layer: int
    ) -> Tensor:
        """Tokens (B, N, width) to tokens."""
        qkv = (
            self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # (3, B, heads, N, head_dim)
        q, k, v = qkv.unbind(0)
        q, k = encoding.rotate(q, k, positions, layer)
        found = F.scaled_dot_product_attention(
            q, k, encoding.transform_values(v, layer)
        )  # (B, heads, N, head_dim)
        out = encoding.transform_outputs(found, layer)
        return self.proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers with GELU, in DiT's tanh form or exact ("none")."""

    def __init__(self, width: int, approximate: Literal["tanh", "none"] = "tanh"):
        super().__init__()
        self.approximate = approximate
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, width) to tokens."""
        return self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))


class DiTBlock(nn.Module):
    """adaLN-Zero block."""

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
        """Tokens (B, N, width) under condition (B, width)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate1[:, None] * self.attn(
            modulate(self.norm1(x), shift1, scale1), encoding, positions, layer
        )
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    """adaLN and the projection back to patches."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Tokens (B, N, width) to patches (B, N, patch * patch * channels)."""
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class PatchEmbed(nn.Module):
    """Images to row-major tokens by one strided convolution."""

    def __init__(self, patch: int, channels: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, N, width)."""
        return self.proj(x).flatten(2).transpose(1, 2)


def initialise_projections(modules: Iterable[nn.Module], patches: PatchEmbed) -> None:
    """Set DiT's first weights: Xavier linear layers without bias, then patches as one linear layer.

    Args:
        modules: In which the linear layers are looked for, in the order of their random numbers.
    """
    for module in modules:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    weight = patches.proj.weight
    nn.init.xavier_uniform_(weight.view(len(weight), -1))  # (width, channels * patch * patch)


def unpatchify(patches: Tensor, rows: int, columns: int, patch: int) -> Tensor:
    """Patches (B, rows * columns, patch * patch * C) as images (B, C, rows * patch, columns *
    patch).
    """
    grid = patches.unflatten(1, (rows, columns)).unflatten(
        -1, (patch, patch, -1)
    )  # (B, rows, columns, p, p, C)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, rows * patch, columns * patch)


class TimestepEmbedder(nn.Module):
    """Sinusoidal features (cosines first) and two layers."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(FREQUENCY_EMBEDDING_SIZE, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, time: Tensor) -> Tensor:
        """Times (B,) to (B, width)."""
        half = FREQUENCY_EMBEDDING_SIZE // 2
        w = torch.exp(-math.log(10000) * torch.arange(half, device=time.device) / half)
        angles = time[:, None].float() * w
        return self.mlp(
            torch.cat((angles.cos(), angles.sin()), dim=-1).to(next(self.parameters()).dtype)
        )


class LabelEmbedder(nn.Module):
    """One row a class and, with `null_label`, a last row for "no label", which guidance needs."""

    def __init__(self, classes: int, width: int, null_label: bool = True):
        super().__init__()
        self.embedding_table = nn.Embedding(classes + null_label, width)

    def forward(self, labels: Tensor) -> Tensor:
        """Labels (B,) int64 in [0, classes] to (B, width)."""
        return self.embedding_table(labels)
