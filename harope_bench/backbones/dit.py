"""DiT: the diffusion transformer with adaptive layer norm, at any size, with any encoding.

Source: Peebles and Xie 2023; layout and parameter names as in facebookresearch/DiT:models.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from harope_bench import registry
from harope_bench.backbones.base import Clue, Drawn
from harope_bench.encodings import base as encodings
from harope_bench.encodings import clues
from harope_bench.errors import OptionError
from harope_bench.records import Checkpoint, Option, Request, Settings, fault
from harope_bench.samplers.base import index_generator, unit_noise
from harope_bench.store import fit

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FREQUENCIES = 256  # width of the sinusoidal time features


class Config(BaseModel):
    """Size of a DiT. `size` is the side of the training images (pixels, or latents at paper scale)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    patch: int = Field(gt=0)
    size: int = Field(gt=0)
    channels: int = Field(gt=0)
    classes: int = Field(gt=0)


def configure(options: Mapping[str, Any]) -> Config:
    """A checked Config; OptionError names the field."""
    try:
        config = Config(**options)
    except ValidationError as error:
        raise OptionError(f"dit config {fault(error)}; its fields: {', '.join(Config.model_fields)}") from error
    if config.hidden % config.heads:
        raise OptionError(f"dit hidden {config.hidden} does not divide into {config.heads} heads; choose another number")
    return config


def grid_positions(rows: int, columns: int) -> Tensor:
    """Row-major coordinates (rows * columns, 2), float32, on the CPU: row, column."""
    return torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (B, N, D) scaled and shifted per sample (B, D)."""
    return x * (1 + scale[:, None]) + shift[:, None]


class Attention(nn.Module):
    """Self-attention whose queries and keys pass through the encoding."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, encoding: encodings.Encoding, positions: Tensor, layer: int) -> Tensor:
        """Tokens (B, N, width) to tokens."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, heads, N, head_dim)
        q, k, v = qkv.unbind(0)
        q, k = encoding.rotate(q, k, positions, layer)
        found = F.scaled_dot_product_attention(q, k, encoding.values(v, layer))  # (B, heads, N, head_dim)
        out = encoding.outputs(found, layer)
        return self.proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers with tanh GELU."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, width) to tokens."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """adaLN-Zero block."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor, encoding: encodings.Encoding, positions: Tensor, layer: int) -> Tensor:
        """Tokens (B, N, width) under condition (B, width)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate1[:, None] * self.attn(modulate(self.norm1(x), shift1, scale1), encoding, positions, layer)
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


class TimestepEmbedder(nn.Module):
    """Sinusoidal features (cosines first) and two layers."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time: Tensor) -> Tensor:
        """Times (B,) to (B, width)."""
        half = FREQUENCIES // 2
        w = torch.exp(-math.log(10000) * torch.arange(half, device=time.device) / half)
        angles = time[:, None].float() * w
        return self.mlp(torch.cat((angles.cos(), angles.sin()), dim=-1).to(next(self.parameters()).dtype))


class LabelEmbedder(nn.Module):
    """One row a class and a last row for "no label", which guidance needs."""

    def __init__(self, classes: int, width: int):
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)

    def forward(self, labels: Tensor) -> Tensor:
        """Labels (B,) int64 in [0, classes] to (B, width)."""
        return self.embedding_table(labels)


class DiT(nn.Module):
    """The network: noised images, times and labels to a prediction of the images' shape."""

    def __init__(self, config: Config, encoding: encodings.Encoding):
        super().__init__()
        self.config = config
        self.x_embedder = PatchEmbed(config.patch, config.channels, config.hidden)
        self.t_embedder = TimestepEmbedder(config.hidden)
        self.y_embedder = LabelEmbedder(config.classes, config.hidden)
        self.blocks = nn.ModuleList(Block(config.hidden, config.heads) for _ in range(config.depth))
        self.final_layer = FinalLayer(config.hidden, config.patch**2 * config.channels)
        self.encoding = encoding
        self._initialise()

    def _initialise(self) -> None:
        """DiT's own start: Xavier layers, small embeddings, zero gates and zero output."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.view(self.config.hidden, -1))
        for _, parameter in self._named("x_embedder.proj.bias", "final_layer.linear"):
            nn.init.zeros_(parameter)
        for name, parameter in self._named("y_embedder", "t_embedder"):
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=0.02)
        for name, parameter in self.named_parameters():
            if ".adaLN_modulation." in name:
                nn.init.zeros_(parameter)

    def _named(self, *starts: str) -> list[tuple[str, nn.Parameter]]:
        """Parameters whose name starts so, in the order of `starts`."""
        return [(name, p) for start in starts for name, p in self.named_parameters() if name.startswith(start)]

    def forward(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """Prediction (B, C, H, W) for images (B, C, H, W), times (B,) and labels (B,); H, W divisible by patch."""
        rows, columns = x.shape[2] // self.config.patch, x.shape[3] // self.config.patch
        positions = grid_positions(rows, columns)
        tokens = self.encoding.embed(self.x_embedder(x), positions)  # (B, N, hidden)
        c = self.t_embedder(time) + self.y_embedder(labels)  # (B, hidden)
        for layer, block in enumerate(self.blocks):
            tokens = block(tokens, c, self.encoding, positions, layer)
        patches = self.final_layer(tokens, c).unflatten(1, (rows, columns))
        patches = patches.unflatten(-1, (self.config.patch, self.config.patch, -1))  # (B, rows, cols, p, p, C)
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


class DitDrawer:
    """Draws pixel-space images from a DiT."""

    def __init__(self, network: DiT, device: torch.device, dtype: torch.dtype):
        self.network = network.to(device=device, dtype=dtype).eval()
        self.device, self.dtype = device, dtype

    @torch.inference_mode()
    def draw(self, requests: Sequence[Request], settings: Settings) -> Drawn:
        """A tile of images; grey ones get three equal channels. A row that is not finite is a fault."""
        assert settings.sampler is not None and settings.steps is not None and settings.guidance is not None  # make_plan refuses
        sampler = registry.load("samplers", settings.sampler)
        config = self.network.config
        generators = [index_generator(settings.seed, r.index) for r in requests]
        noise = unit_noise((config.channels, settings.resolution, settings.resolution), generators)
        labels = torch.tensor([config.classes if r.label is None else r.label for r in requests], device=self.device)
        images = sampler.sample(self._guided(labels, settings.guidance), noise.to(self.device), settings.steps, generators)
        finite = images.flatten(1).isfinite().all(1).tolist()
        faults = {row: "the network's output is not finite" for row, good in enumerate(finite) if not good}
        return Drawn(to_uint8(images.nan_to_num()), faults)

    def _guided(self, labels: Tensor, guidance: float) -> Any:
        """The network with labels bound; classifier-free guidance unless it is exactly 1."""
        empty = torch.full_like(labels, self.network.config.classes)

        def predict(x: Tensor, time: Tensor) -> Tensor:
            if guidance == 1:
                return self.network(x.to(self.dtype), time, labels).float()
            both = self.network(torch.cat((x, x)).to(self.dtype), torch.cat((time, time)), torch.cat((labels, empty)))
            told, untold = both.float().chunk(2)
            return untold + guidance * (told - untold)

        return predict


def to_uint8(images: Tensor) -> np.ndarray:
    """Images (B, C, H, W) in [-1, 1] to (B, H, W, 3) uint8 by DiT's rule: clamp(127.5 x + 128), cut."""
    levels = (127.5 * images + 128).clamp(0, 255).to("cpu", torch.uint8)
    return levels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


class DitBackbone:
    """DiT in pixel space; the micro checkpoints are of this kind."""

    tile = 25

    def build(self, encoding: str, options: Mapping[str, Any], config: Mapping[str, Any]) -> DiT:
        """A freshly initialised DiT; errors name the option or the field."""
        size = configure(config)
        side = size.size // size.patch
        shape = encodings.Shape(size.hidden, size.heads, size.hidden // size.heads, size.depth, grid=(side, side))
        return DiT(size, encodings.build(registry.load("encodings", encoding), shape, dict(options)))

    def recognise(self, state: Mapping[str, Tensor]) -> Clue | None:
        """Sizes and, for encodings with parameters, the encoding, read off the keys."""
        needed = ("x_embedder.proj.weight", "y_embedder.embedding_table.weight", "blocks.0.attn.qkv.weight")
        if any(key not in state for key in needed) or state[needed[0]].dim() != 4:
            return None
        hidden, channels, patch, _ = state[needed[0]].shape
        config: dict[str, Option] = {
            "hidden": hidden,
            "channels": channels,
            "patch": patch,
            "classes": len(state[needed[1]]) - 1,
            "depth": 1 + max(int(m[1]) for key in state if (m := re.match(r"blocks\.(\d+)\.", key))),
        }
        told = clues.told({k.removeprefix("encoding."): v.shape for k, v in state.items() if k.startswith("encoding.")})
        if told is None:
            return Clue(None, config)
        if told.heads or told.head_dim:
            config["heads"] = told.heads or hidden // told.head_dim
        return Clue(told.encoding, config, told.options)

    def check(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Refuses a resolution that the patches do not tile."""
        patch = configure(checkpoint.config).patch
        if settings.resolution % patch:
            near = max(patch, round(settings.resolution / patch) * patch)
            raise OptionError(f"resolution {settings.resolution} does not divide into patches of {patch}; --resolution {near} does")

    def open(self, checkpoint: Checkpoint, state: Mapping[str, Tensor], settings: Settings) -> DitDrawer:
        """The network with these weights, ready to draw."""
        with torch.random.fork_rng(devices=[]):
            network = self.build(checkpoint.encoding, checkpoint.options, checkpoint.config)
        fit(network, state, f"checkpoint {checkpoint.name}")
        return DitDrawer(network, torch.device(settings.device), DTYPES[settings.dtype])


PLUGIN = DitBackbone()
