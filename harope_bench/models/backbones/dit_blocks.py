"""The modules of a DiT, with the names and layout of facebookresearch/DiT:models.py.

`BlockLayout` chooses the parts in which its successors differ: norms, MLP and modulation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harope_bench.encodings import base as encodings

FREQUENCY_EMBEDDING_SIZE = 256  # Width of the sinusoidal time features.

NormKind = Literal["none", "layer", "rms"]


@dataclass(frozen=True)
class BlockLayout:
    """The parts of a transformer block, by default those of DiT.

    Attributes:
        norm: Norm of the tokens: LayerNorm without parameters, or RMSNorm with a learned scale.
        qk_norm: Norm of the queries and keys of each head, with learned parameters.
        mlp: Two layers with GELU between them, or SwiGLU.
        mlp_width: Width between the layers of the MLP; None is four times that of a token.
        has_shift: Whether the condition shifts the tokens beside scaling them.
    """

    norm: Literal["layer", "rms"] = "layer"
    qk_norm: NormKind = "none"
    mlp: Literal["gelu", "swiglu"] = "gelu"
    mlp_width: int | None = None
    has_shift: bool = True


DIT_LAYOUT = BlockLayout()


def build_token_norm(kind: Literal["layer", "rms"], width: int) -> nn.Module:
    """Return the norm of tokens (B, N, width) that precedes a modulation."""
    if kind == "rms":
        return nn.RMSNorm(width, eps=1e-6)
    return nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)


def build_qk_norm(kind: NormKind, head_dim: int) -> nn.Module:
    """Return the norm of queries or keys (B, heads, N, head_dim).

    A LayerNorm has the epsilon 1e-5, as in timm's Attention, which SiT's successors use.
    """
    if kind == "rms":
        return nn.RMSNorm(head_dim, eps=1e-6)
    return nn.LayerNorm(head_dim) if kind == "layer" else nn.Identity()


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return tokens x (B, N, D) * (1 + scale) + shift, with scale and shift (B, D) per sample.

    Source: facebookresearch/DiT:models.py, modulate.
    """
    return x * (1 + scale[:, None]) + shift[:, None]


class SelfAttention(nn.Module):
    """Self-attention whose queries and keys pass through a positional encoding."""

    def __init__(self, width: int, heads: int, qk_norm: NormKind = "none"):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = build_qk_norm(qk_norm, width // heads)
        self.k_norm = build_qk_norm(qk_norm, width // heads)
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
        q, k = encoding.rotate(self.q_norm(q), self.k_norm(k), positions, layer)
        v = encoding.transform_values(v, layer)
        attention_output = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, head_dim)
        attention_output = encoding.transform_outputs(attention_output, layer)

        return self.proj(attention_output.transpose(1, 2).flatten(2))  # (B, N, width)


class Mlp(nn.Module):
    """Two linear layers with GELU between them: DiT's tanh approximation, or exact ("none")."""

    def __init__(
        self,
        width: int,
        approximate: Literal["tanh", "none"] = "tanh",
        inner_width: int | None = None,
    ):
        super().__init__()
        self.approximate = approximate
        self.fc1 = nn.Linear(width, inner_width or 4 * width)
        self.fc2 = nn.Linear(inner_width or 4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, N, width) for tokens (B, N, width)."""
        return self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))


class SwiGlu(nn.Module):
    """A gated MLP: silu(W_1 x) * W_2 x, then W_3 (Shazeer 2020, arXiv 2002.05202).

    W_1 and W_2 are one layer, as in hustvl/LightningDiT:models/swiglu_ffn.py.
    """

    def __init__(self, width: int, inner_width: int):
        super().__init__()
        self.w12 = nn.Linear(width, 2 * inner_width)
        self.w3 = nn.Linear(inner_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, N, width) for tokens (B, N, width)."""
        gate, values = self.w12(x).chunk(2, dim=-1)  # (B, N, inner_width) each
        return self.w3(F.silu(gate) * values)


def build_mlp(layout: BlockLayout, width: int) -> nn.Module:
    """Return the MLP of a block for tokens (B, N, width)."""
    if layout.mlp == "swiglu":
        return SwiGlu(width, layout.mlp_width or 4 * width)
    return Mlp(width, inner_width=layout.mlp_width)


class DiTBlock(nn.Module):
    """A transformer block with adaLN-Zero conditioning (Peebles and Xie 2023, figure 3)."""

    def __init__(self, width: int, heads: int, layout: BlockLayout = DIT_LAYOUT):
        super().__init__()
        self.has_shift = layout.has_shift
        self.norm1 = build_token_norm(layout.norm, width)
        self.attn = SelfAttention(width, heads, layout.qk_norm)
        self.norm2 = build_token_norm(layout.norm, width)
        self.mlp = build_mlp(layout, width)
        n_parts = 6 if layout.has_shift else 4
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, n_parts * width))

    def forward(
        self, x: Tensor, c: Tensor, encoding: encodings.Encoding, positions: Tensor, layer: int
    ) -> Tensor:
        """Return tokens (B, N, width) for tokens (B, N, width) and a condition c (B, width)."""
        # Shift, scale and gate of the attention and of the MLP, (B, width) each.
        modulation = self.adaLN_modulation(c)
        if self.has_shift:
            shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=1)
        else:
            scale1, gate1, scale2, gate2 = modulation.chunk(4, dim=1)
            shift1 = shift2 = torch.zeros_like(scale1)

        attention_input = modulate(self.norm1(x), shift1, scale1)
        x = x + gate1[:, None] * self.attn(attention_input, encoding, positions, layer)
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    """Adaptive layer norm and the projection from tokens to patches."""

    def __init__(self, width: int, out: int, norm: Literal["layer", "rms"] = "layer"):
        super().__init__()
        self.norm_final = build_token_norm(norm, width)
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


class BottleneckPatchEmbed(nn.Module):
    """Patches of an image to row-major tokens through few channels (Li and He 2025, JiT)."""

    def __init__(self, patch: int, channels: int, bottleneck: int, width: int):
        super().__init__()
        self.proj1 = nn.Conv2d(channels, bottleneck, patch, patch, bias=False)
        self.proj2 = nn.Conv2d(bottleneck, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, N, width) for images (B, C, H, W)."""
        return self.proj2(self.proj1(x)).flatten(2).transpose(1, 2)  # (B, N, width)


def initialise_projections(modules: Iterable[nn.Module], patches: nn.Module) -> None:
    """Initialise linear layers and the patch embedding as DiT does: Xavier weights, zero biases.

    The convolutions of the patch embedding are initialised as linear layers.

    Args:
        modules: Modules that are searched for linear layers, in the order of their random numbers.
    """
    for module in modules:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for module in patches.modules():
        if isinstance(module, nn.Conv2d):
            # (width, channels * patch * patch)
            nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1))


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
        """Return embeddings (B, width) of times (B,), such as DiT's 0 (image) to 1000 (noise).

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
