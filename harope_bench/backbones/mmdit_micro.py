"""A small joint text-image transformer in pixel space, built as FLUX and SD3 are: words as tokens beside patches of the image.

Text tokens come first and stand at the origin, image tokens at their row and column; queries and keys are normed, then meet the
encoding. The pooled caption and the time modulate all blocks. Source: Esser et al. 2024; black-forest-labs/flux; paper section 4.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from harope_bench import registry
from harope_bench.backbones.dit_blocks import FinalLayer, PatchEmbed, TimestepEmbedder
from harope_bench.backbones.mmdit_blocks import Block, WordEmbedder
from harope_bench.encodings import base as encodings
from harope_bench.errors import OptionError
from harope_bench.records import fault


class Config(BaseModel):
    """Sizes. `double` blocks with two streams come first, then `single` ones.

    size: side in pixels of the training images. words: the vocabulary, separated by spaces. places: words a caption can have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = Field(gt=0)
    double: int = Field(ge=0)
    single: int = Field(gt=0)
    heads: int = Field(gt=0)
    patch: int = Field(gt=0)
    size: int = Field(gt=0)
    channels: int = Field(default=3, gt=0)
    words: str
    places: int = Field(gt=0)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The known words; word i has number i + 1."""
        return tuple(self.words.split())

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens at training."""
        return (self.size // self.patch, self.size // self.patch)


def configure(options: Mapping[str, Any]) -> Config:
    """A checked Config; OptionError names the field."""
    try:
        config = Config(**options)
    except ValidationError as error:
        raise OptionError(f"mmdit-micro config {fault(error)}; its fields: {', '.join(Config.model_fields)}") from error
    if config.hidden % config.heads:
        raise OptionError(f"mmdit-micro hidden {config.hidden} does not divide into {config.heads} heads; choose another number")
    if config.size % config.patch:
        raise OptionError(f"mmdit-micro size {config.size} does not divide into patches of {config.patch}; choose another size")
    return config


def encode(encoding: str, options: Mapping[str, Any], config: Config) -> encodings.Encoding:
    """A freshly initialised encoding for a network of this size."""
    depth = config.double + config.single
    shape = encodings.Shape(config.hidden, config.heads, config.hidden // config.heads, depth, grid=config.grid)
    return encodings.build(registry.load("encodings", encoding), shape, dict(options))


class MMDiT(nn.Module):
    """The network: noised images, times and words to a prediction of the images' shape."""

    def __init__(self, config: Config, encoding: encodings.Encoding):
        super().__init__()
        self.config = config
        self.x_embedder = PatchEmbed(config.patch, config.channels, config.hidden)
        self.t_embedder = TimestepEmbedder(config.hidden)
        self.words = WordEmbedder(len(config.vocabulary), config.places, config.hidden)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.hidden, 6 * config.hidden))
        streams = [2] * config.double + [1] * config.single
        self.blocks = nn.ModuleList(Block(config.hidden, config.heads, count) for count in streams)
        self.final_layer = FinalLayer(config.hidden, config.patch**2 * config.channels)
        self.encoding = encoding
        self._placed: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._initialise()

    def _initialise(self) -> None:
        """Xavier layers, small embeddings, zero gates and zero output, as in DiT."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and not name.startswith("encoding"):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.view(self.config.hidden, -1))
        for embedding in (self.words.word, self.words.place):
            nn.init.normal_(embedding.weight, std=0.5)
        for linear in (self.modulation[1], self.final_layer.linear, self.final_layer.adaLN_modulation[1]):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def positions(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Positions of all tokens (places + rows * columns, 2), text at the origin, and of the image's alone; always the same tensors."""
        if (rows, columns) not in self._placed:
            image = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
            self._placed[rows, columns] = torch.cat((torch.zeros(self.config.places, 2), image)), image
        return self._placed[rows, columns]

    def forward(self, x: Tensor, time: Tensor, words: Tensor) -> Tensor:
        """Prediction (B, C, H, W) for x (B, C, H, W), times (B,) and words (B, places); patch divides H and W."""
        patch, text = self.config.patch, self.config.places
        rows, columns = x.shape[2] // patch, x.shape[3] // patch
        everywhere, grid = self.positions(rows, columns)
        image = self.encoding.embed(self.x_embedder(x), grid)  # (B, N, hidden)
        tokens, pooled = self.words(words)
        c = self.t_embedder(time) + pooled  # (B, hidden)
        shared = self.modulation(c).unflatten(-1, (6, -1))
        parts = [tokens, image]
        for layer, block in enumerate(self.blocks):
            if len(block.streams) < len(parts):
                parts = [torch.cat(parts, 1)]
            parts = block(parts, shared, self.encoding, everywhere, layer)
        patches = self.final_layer(parts[-1][:, -len(grid) :], c).unflatten(1, (rows, columns)).unflatten(-1, (patch, patch, -1))
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


class MicroBackbone:
    """Draws micro scenes from captions."""

    tile = 24

    def build(self, encoding: str, options: Mapping[str, Any], config: Mapping[str, Any]) -> MMDiT:
        """A freshly initialised network; errors name the option or the field."""
        size = configure(config)
        return MMDiT(size, encode(encoding, options, size))


PLUGIN = MicroBackbone()
