"""The network of the DiT backbone: the diffusion transformer with adaptive layer norm, and its
successors SiT, REPA, LightningDiT and JiT.

Source: Peebles and Xie 2023; layout and parameter names as in facebookresearch/DiT:models.py,
willisma/SiT:models.py, hustvl/LightningDiT:models/lightningdit.py and LTH14/JiT:model_jit.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harope_bench.core.errors import OptionError
from harope_bench.core.record_base import Option
from harope_bench.encodings import base as encodings
from harope_bench.encodings.ape import sincos_table
from harope_bench.models.backbones.dit_blocks import (
    BlockLayout,
    BottleneckPatchEmbed,
    DiTBlock,
    FinalLayer,
    LabelEmbedder,
    NormKind,
    PatchEmbed,
    TimestepEmbedder,
    initialise_projections,
    unpatchify,
)
from harope_bench.models.backbones.dit_families import FAMILIES, FamilyName
from harope_bench.models.backbones.encoded_network import EncodedNetwork
from harope_bench.models.backbones.network_sizes import NetworkSizes, grid_positions, parse_sizes

TIME_SCALE = 1000.0  # Time of pure noise.
# Smallest time by which a network that predicts images is turned into a velocity: t_eps of JiT.
MIN_TIME = 0.05


class DitConfig(NetworkSizes):
    """Sizes of a DiT.

    Attributes:
        hidden, depth, heads: Width of a token, number of blocks, number of heads.
        patch: Side of a patch, in values of the network's input.
        size: Side of the training inputs: pixels, or latents (pixels / 8) where `latent` is set.
        channels: Channels of the input.
        classes: Number of labels.
        learn_sigma: Whether the network predicts twice the channels: noise and a fraction of the
            variance.
        latent: Whether the network works on latents of an autoencoder.
        null_label: Whether the label table has a last row for "no label", which guidance needs
            (class_dropout_prob above 0 in DiT's code).
        family: The published network whose times and outputs this one has (dit_families.py).
        norm, qk_norm, mlp, mlp_width, has_shift: See `BlockLayout`.
        has_table: Whether DiT's sin-cos table of positions is added beside the encoding.
        bottleneck: Channels between the two layers of the patch embedding; 0 for one layer.
        context_tokens: Number of tokens of the label that join the patches before block
            `context_start`.
        latent_scale: Pixels along a side of one latent.
        noise_scale: Standard deviation of the noise that sampling starts with.
    """

    hidden: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    patch: int = Field(gt=0)
    size: int = Field(gt=0)
    channels: int = Field(gt=0)
    classes: int = Field(gt=0)
    learn_sigma: bool = False
    latent: bool = False
    null_label: bool = True
    family: FamilyName = "dit"
    norm: Literal["layer", "rms"] = "layer"
    qk_norm: NormKind = "none"
    mlp: Literal["gelu", "swiglu"] = "gelu"
    mlp_width: int | None = Field(default=None, gt=0)
    has_shift: bool = True
    has_table: bool = False
    bottleneck: int = Field(default=0, ge=0)
    context_tokens: int = Field(default=0, ge=0)
    context_start: int | None = Field(default=None, ge=0)
    latent_scale: int = Field(default=8, gt=0)
    noise_scale: float = Field(default=1.0, gt=0)

    @property
    def vae_scale_factor(self) -> int:
        """Pixels of the image along a side of one latent; 1 for a network of pixels."""
        return self.latent_scale if self.latent else 1

    @property
    def block_layout(self) -> BlockLayout:
        """The parts of a block."""
        return BlockLayout(self.norm, self.qk_norm, self.mlp, self.mlp_width, self.has_shift)

    @property
    def layers(self) -> int:
        """Number of attention layers."""
        return self.depth

    @property
    def out_channels(self) -> int:
        """Channels of the prediction."""
        return self.channels * (2 if self.learn_sigma else 1)


def configure(options: Mapping[str, Option]) -> DitConfig:
    """Return validated sizes; OptionError names the wrong field."""
    hint = (
        "; --config size=N is the side at training, in pixels or latents (image size / 8)"
        if "size" not in options
        else ""
    )
    sizes = parse_sizes(DitConfig, "dit", options, hint, "give the side the network was trained on")
    is_start_valid = sizes.context_start is not None and sizes.context_start < sizes.depth
    if sizes.context_tokens and not is_start_valid:
        raise OptionError(
            f"dit config context_start is {sizes.context_start}, wanted the index below"
            f" {sizes.depth} of the block that {sizes.context_tokens} label tokens join before; add"
            " --config context_start=N"
        )
    return sizes


class DiT(EncodedNetwork):
    """The network: noised images, times and labels to a prediction in the shape of the images."""

    def __init__(self, config: DitConfig, encoding: encodings.Encoding):
        super().__init__()
        self.config = config
        self.x_embedder = _build_patch_embedding(config)
        self.t_embedder = TimestepEmbedder(config.hidden)
        self.y_embedder = LabelEmbedder(config.classes, config.hidden, config.null_label)
        self.blocks = nn.ModuleList(
            DiTBlock(config.hidden, config.heads, config.block_layout) for _ in range(config.depth)
        )
        self.final_layer = FinalLayer(
            config.hidden, config.patch**2 * config.out_channels, config.norm
        )
        if config.context_tokens:
            self.in_context_posemb = nn.Parameter(
                torch.zeros(1, config.context_tokens, config.hidden)
            )
        self.encoding = encoding
        self._initialise()

    def _initialise(self) -> None:
        """Initialise as DiT does: Xavier layers, small embeddings, zero gates and zero output."""
        initialise_projections(self.modules(), self.x_embedder)
        for _, parameter in self._parameters_with_prefix(
            "x_embedder.proj.bias", "x_embedder.proj2.bias", "final_layer.linear"
        ):
            nn.init.zeros_(parameter)
        for name, parameter in self._parameters_with_prefix("y_embedder", "t_embedder"):
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=0.02)
        for name, parameter in self.named_parameters():
            if ".adaLN_modulation." in name:
                nn.init.zeros_(parameter)
        for _, parameter in self._parameters_with_prefix("in_context_posemb"):
            nn.init.normal_(parameter, std=0.02)

    def _parameters_with_prefix(self, *prefixes: str) -> list[tuple[str, nn.Parameter]]:
        """Return the named parameters that start with a prefix, in the order of `prefixes`."""
        return [
            (name, p)
            for prefix in prefixes
            for name, p in self.named_parameters()
            if name.startswith(prefix)
        ]

    @property
    def qkv_projections(self) -> list[nn.Linear]:
        """The fused query, key and value projections, one per layer."""
        return [block.attn.qkv for block in self.blocks if isinstance(block, DiTBlock)]

    def count_prefix_tokens(self, layer: int) -> int:
        """Return the number of label tokens before those of the patches in one layer."""
        start = self.config.context_start
        return self.config.context_tokens if start is not None and layer >= start else 0

    def forward(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """Return the prediction for noised images: noise, or the velocity noise - image.

        Args:
            x: (B, C, H, W); the patch size divides H and W.
            time: (B,), from 0 (image) to 1000 (noise), for every family.
            labels: (B,) int64; `classes` stands for "no label".

        Returns:
            (B, C, H, W), or (B, 2C, H, W) for a DiT with learned sigma.
        """
        family = FAMILIES[self.config.family]
        if family.time != "step":
            noise_fraction = time / TIME_SCALE
            time = 1 - noise_fraction if family.time == "data" else noise_fraction
        output = self._run_blocks(x, time, labels)

        # The successors of DiT make no use of a learned sigma.
        if self.config.family != "dit" and self.config.learn_sigma:
            output = output[:, : self.config.channels]
        if family.output == "data-velocity":
            return -output
        if family.output == "image":
            # x = (1 - t) image + t noise, so noise - image = (x - image) / t.
            divisor = noise_fraction.clamp(min=MIN_TIME).view(-1, 1, 1, 1)
            return (x.float() - output.float()) / divisor
        return output

    def _run_blocks(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """Return the output (B, C or 2C, H, W) of the layers, with the family's own time (B,)."""
        rows = x.shape[2] // self.config.patch
        columns = x.shape[3] // self.config.patch
        positions = grid_positions(rows, columns)  # (N, 2)

        tokens = self.x_embedder(x)  # (B, N, hidden)
        if self.config.has_table:
            tokens = tokens + sincos_table(positions.double(), tokens.shape[-1], 1e4).to(tokens)
        tokens = self.encoding.embed(tokens, positions)  # (B, N, hidden)

        label_embeddings = self.y_embedder(labels)  # (B, hidden)
        c = self.t_embedder(time) + label_embeddings  # (B, hidden)
        n_context = self.config.context_tokens
        for layer, block in enumerate(self.blocks):
            if n_context and layer == self.config.context_start:
                # Tokens of the label join at the origin, where no rotation changes them.
                context = label_embeddings[:, None] + self.in_context_posemb  # (B, n, hidden)
                tokens = torch.cat((context, tokens), dim=1)  # (B, n + N, hidden)
                positions = torch.cat((torch.zeros(n_context, 2), positions))  # (n + N, 2)
            tokens = block(tokens, c, self.encoding, positions, layer)
        patches = self.final_layer(tokens[:, n_context:], c)
        return unpatchify(patches, rows, columns, self.config.patch)


def _build_patch_embedding(config: DitConfig) -> nn.Module:
    """Return the layers that turn patches into tokens."""
    if config.bottleneck:
        return BottleneckPatchEmbed(config.patch, config.channels, config.bottleneck, config.hidden)
    return PatchEmbed(config.patch, config.channels, config.hidden)
