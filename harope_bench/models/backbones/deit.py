"""DeiT: the vision transformer that names what a picture shows, at any size, with any encoding.

Source: Touvron et al. 2021 and 2022; layout and parameter names as in facebookresearch/deit:models_v2.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from harope_bench.core import registry
from harope_bench.core.conditioning import Conditioning
from harope_bench.core.errors import OptionError, WeightsError
from harope_bench.core.schema import Checkpoint, Option, Settings, fault, printable
from harope_bench.core.storage import fit
from harope_bench.encodings import base as encodings
from harope_bench.encodings import clues
from harope_bench.metrics import attention_cost
from harope_bench.models.backbones import folding
from harope_bench.models.backbones.base import CLASSIFIED, Clue, Exported, Probe, Process, SettingsRead
from harope_bench.models.backbones.dit import DTYPES, grid_positions
from harope_bench.models.backbones.dit_blocks import Attention, PatchEmbed

EPS = 1e-6  # of every layer norm
ROPE_VIT: dict[str, Option] = {
    "base": 100.0,
    "axis_order": "column-first",
}  # naver-ai/rope-vit:models/vit_rope.py:51-66; the paper gives neither
# Mean and standard deviation that pixels in [0, 1] are normalised with.
NORMALISED = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
# Names that published files have for what is called otherwise here.
RENAMED = {"pos_embed": "encoding.table", "freqs": "encoding.freqs", "rope.freqs": "encoding.freqs"}
# facebookresearch/deit:models_v2.py and naver-ai/rope-vit:models/vit_rope.py register their networks so.
TRAINED_AS = re.compile(r"(rope_(axial|mixed)(_ape)?_)?deit_(tiny|small|medium|base|large|huge)_patch\d+(_LS|_\d+)?(_21k)?")
LAYER_SCALE = re.compile(r"\bls([12])\.gamma$")


class Config(BaseModel):
    """Size of a DeiT. size: side of the training images in pixels. layer_scale: where its factors start.

    heads are of 64 channels each where they are not said, as in every published DeiT.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    hidden: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    patch: int = Field(default=16, gt=0)
    size: int = Field(gt=0)
    channels: Literal[1, 3] = 3
    classes: int = Field(default=1000, gt=0)
    layer_scale: float = 1e-4
    normalised: Literal["imagenet", "half"] = "imagenet"


def configure(options: Mapping[str, Any]) -> Config:
    """A checked Config; OptionError names the field."""
    hidden = options.get("hidden")
    try:
        config = Config(**{**({"heads": hidden // 64} if isinstance(hidden, int) else {}), **options})
    except ValidationError as error:
        raise OptionError(f"deit config {fault(error)}; its fields: {', '.join(Config.model_fields)}") from error
    if config.hidden % config.heads:
        raise OptionError(f"deit hidden {config.hidden} does not divide into {config.heads} heads; choose another number")
    if config.size % config.patch:
        raise OptionError(f"deit size {config.size} does not divide into patches of {config.patch}; choose another size")
    return config


class Mlp(nn.Module):
    """Two layers with the exact GELU."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, width) to tokens."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm block whose two branches are scaled channel by channel (LayerScale)."""

    def __init__(self, config: Config):
        super().__init__()
        width = config.hidden
        self.norm1, self.norm2 = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.attn, self.mlp = Attention(width, config.heads), Mlp(width)
        self.gamma_1, self.gamma_2 = (nn.Parameter(torch.full((width,), config.layer_scale)) for _ in range(2))

    def forward(self, x: Tensor, encoding: encodings.Encoding, positions: Tensor, layer: int) -> Tensor:
        """Tokens (B, N, width) to tokens."""
        x = x + self.gamma_1 * self.attn(self.norm1(x), encoding, positions, layer)
        return x + self.gamma_2 * self.mlp(self.norm2(x))


class DeiT(nn.Module):
    """The network: normalised images to logits, read off the class token, the one of `extra` tokens before those of the patches."""

    extra = 1

    def __init__(self, config: Config, encoding: encodings.Encoding):
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config.patch, config.channels, config.hidden)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.hidden, EPS)
        self.head = nn.Linear(config.hidden, config.classes)
        self.encoding = encoding
        self._initialise()

    def _initialise(self) -> None:
        """DeiT's own start: truncated normals of 0.02, no biases."""
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W); H, W divisible by patch.

        The table of an additive encoding meets the patches alone. The class token stands at position (0, 0), which no rotation
        turns; a learned matrix acts on it as on every token, or it would not fold into the projections.
        """
        rows, columns = x.shape[2] // self.config.patch, x.shape[3] // self.config.patch
        positions = grid_positions(rows, columns)
        tokens = self.encoding.embed(self.patch_embed(x), positions)  # (B, N, hidden)
        tokens = torch.cat((self.cls_token.expand(len(x), -1, -1), tokens), dim=1)  # (B, 1 + N, hidden)
        places = torch.cat((torch.zeros(1, positions.shape[1]), positions))
        for layer, block in enumerate(self.blocks):
            tokens = block(tokens, self.encoding, places, layer)
        return self.head(self.norm(tokens)[:, 0])


def normalise(images: np.ndarray, config: Config) -> Tensor:
    """Images (B, H, W, 3) uint8 to (B, C, H, W) float32, by the network's mean and deviation; one channel is the mean of three."""
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in NORMALISED[config.normalised])
    x = (x - mean) / deviation
    return x.mean(1, keepdim=True) if config.channels == 1 else x


class DeitClassifier:
    """Reads images with a DeiT."""

    def __init__(self, network: DeiT, device: torch.device, dtype: torch.dtype):
        self.network = network.to(device=device, dtype=dtype).eval()
        self.device, self.dtype = device, dtype

    @torch.inference_mode()
    def classify(self, images: np.ndarray) -> np.ndarray:
        """Logits (B, classes) float32 of images (B, H, W, 3) uint8, resized and cropped already."""
        x = normalise(images, self.network.config).to(self.device, self.dtype)
        return self.network(x).float().cpu().numpy()


def translated(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under this package's names, from those of facebookresearch/deit, naver-ai/rope-vit or timm; others stay as they are.

    The coordinates that rope-vit saves beside its weights (`freqs_t_x`, `freqs_t_y`) are left out if they are the plain grid.
    """
    grid = _grid_coordinates(state)
    own = {}
    for key, tensor in state.items():
        if key in grid and tensor.shape == grid[key].shape and torch.equal(tensor.float(), grid[key]):
            continue
        if key in ("freqs", "rope.freqs") and tensor.dim() > 2:
            tensor = tensor.flatten(2)  # (2, L, heads * d/2), which timm keeps apart by heads
        own[RENAMED.get(key, LAYER_SCALE.sub(r"gamma_\1", key))] = tensor
    return own


def _side(state: Mapping[str, Tensor]) -> int:
    """Tokens a side at training where a table or saved coordinates tell it, else 0."""
    counts = (
        [state["pos_embed"].shape[1]]
        if "pos_embed" in state and state["pos_embed"].dim() == 3
        else [len(state[k]) for k in ("freqs_t_x",) if k in state]
    )
    side = math.isqrt(counts[0]) if counts else 0
    return side if counts and side**2 == counts[0] else 0


def _grid_coordinates(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What rope-vit's buffers hold for its square grid: the column and the row of each token."""
    side = _side({k: v for k, v in state.items() if k == "freqs_t_x"})
    rows, columns = grid_positions(side, side).unbind(1) if side else (torch.empty(0), torch.empty(0))
    return {"freqs_t_x": columns, "freqs_t_y": rows}


class DeitBackbone:
    """DeiT-B, DeiT-L and the micro classifiers; it draws nothing."""

    task = "classify"
    tile = 50  # images a batch, the last one padded, so that bits do not depend on what was asked for

    def build(self, encoding: str, options: Mapping[str, Any], config: Mapping[str, Any]) -> DeiT:
        """A freshly initialised DeiT; errors name the option or the field."""
        size = configure(config)
        side = size.size // size.patch
        shape = encodings.Shape(size.hidden, size.heads, size.hidden // size.heads, size.depth, grid=(side, side))
        built = encodings.build(registry.load("encodings", encoding), shape, dict(options))
        if isinstance(built.options, encodings.Rotary):
            encodings.planes_of(shape, encoding)  # else found out at the first picture
        return DeiT(size, built)

    def recognise(self, state: Mapping[str, Tensor]) -> Clue | None:
        """Sizes and, for encodings with parameters, the encoding, read off the keys."""
        own = translated(state)
        needed = ("patch_embed.proj.weight", "cls_token", "blocks.0.gamma_1", "head.weight")
        if any(key not in own for key in needed) or own[needed[0]].dim() != 4:
            return None
        if odd := [key for key in ("freqs", "rope.freqs") if key in state and state[key].dim() not in (3, 4)]:
            raise WeightsError(
                f"{odd[0]} has shape {tuple(state[odd[0]].shape)}, wanted (2, layers, heads * d/2) of rope-mixed; no encoding here has it"
            )
        hidden, channels, patch, _ = own[needed[0]].shape
        config: dict[str, Option] = {
            "hidden": hidden,
            "channels": channels,
            "patch": patch,
            "classes": len(own["head.weight"]),
            "depth": 1 + max(int(m[1]) for key in own if (m := re.match(r"blocks\.(\d+)\.", key))),
        }
        if side := _side(state):
            config["size"] = side * patch
        told = clues.told({k.removeprefix("encoding."): v.shape for k, v in own.items() if k.startswith("encoding.")})
        if told is None:
            return Clue(None, config)
        if told.heads or told.head_dim:
            config["heads"] = told.heads or hidden // told.head_dim
        sized = {"size": patch, **config}  # any side: whether it folds does not depend on it
        folds = "heads" in config and self._encoding(told.encoding, told.options, sized).facts.foldable
        return Clue(told.encoding, config, told.options, {"drawing": {"fold": True}} if folds else {})

    def recall(self, args: Mapping[str, Any]) -> dict[str, Option]:
        """Return nothing: DeiT's training arguments add no size to the keys.

        Raises:
            WeightsError: They name a network that is not a DeiT.
        """
        model = args.get("model")
        if model is not None and not TRAINED_AS.fullmatch(str(model)):
            raise WeightsError(f"the file's args name the network {printable(str(model))}, which is not a DeiT; give weights of a DeiT")
        return {}

    def usual(self, encoding: str) -> dict[str, Option]:
        """Options that a published DeiT of this encoding has where nothing says them."""
        rotary = issubclass(registry.load("encodings", encoding).Options, encodings.Rotary)
        return dict(ROPE_VIT) if rotary else {}

    def doubts(self, state: Mapping[str, Tensor], encoding: str, config: Mapping[str, Any]) -> None:
        """Asks for the side at training where a file without a table or saved coordinates leaves it open: 192 and 224 are published."""
        if "size" not in config:
            raise OptionError(
                f"deit weights of {encoding} do not tell the side of their training pictures; add --config size=224 or another"
            )

    def _encoding(self, encoding: str, options: Mapping[str, Any], config: Mapping[str, Any]) -> encodings.Encoding:
        """The encoding of such a network, without memory for it."""
        with torch.device("meta"):
            return self.build(encoding, options, config).encoding

    def load(self, checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> DeiT:
        """The network with these weights, under this package's names or those of a published file; every key is accounted for.

        Raises:
            WeightsError: keys or shapes that do not fit, or two encodings in one file.
        """
        with torch.random.fork_rng(devices=[]):
            network = self.build(checkpoint.encoding, checkpoint.options, checkpoint.config)
        own = translated(state)
        if {"encoding.table", "encoding.freqs"} <= own.keys():
            raise WeightsError(f"{checkpoint.name} adds a table and turns by frequencies at once; no registered encoding does both")
        fit(network, own, f"checkpoint {checkpoint.name}")
        return network

    def conditioning(self, config: Mapping[str, Any]) -> Conditioning:
        """Return the classes that pictures are named by."""
        return Conditioning("pictures", configure(config).classes)

    def settings_read(self, checkpoint: Checkpoint) -> SettingsRead:
        """Return what every classifier reads, and `fold` where there are matrices."""
        reasons = dict.fromkeys(Settings.model_fields, "a classifier looks at pictures and generates none")
        return folding.settings_read(self._encoding(checkpoint.encoding, checkpoint.options, checkpoint.config), CLASSIFIED, reasons)

    def process(self, checkpoint: Checkpoint) -> Process:
        """Return its classes and its side at training."""
        config = configure(checkpoint.config)
        return Process(f"one of {config.classes:,} classes", "pictures", config.size)

    def check(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Refuses a resolution that the patches do not tile."""
        patch = configure(checkpoint.config).patch
        if settings.resolution % patch:
            near = max(patch, round(settings.resolution / patch) * patch)
            raise OptionError(f"resolution {settings.resolution} does not divide into patches of {patch}; --resolution {near} does")
        if settings.pos_scaling is not None:
            rescale(self._encoding(checkpoint.encoding, checkpoint.options, checkpoint.config), configure(checkpoint.config), settings)
        if settings.fold:
            folding.foldable(self._encoding(checkpoint.encoding, checkpoint.options, checkpoint.config))

    def open(self, checkpoint: Checkpoint, state: Mapping[str, Tensor], settings: Settings) -> DeitClassifier:
        """The network with these weights, ready to read."""
        network = self.load(checkpoint, state)
        if settings.pos_scaling is not None:
            rescale(network.encoding, network.config, settings)
        if settings.fold:
            fold(network, f"checkpoint {checkpoint.name}")
        return DeitClassifier(network, torch.device(settings.device), DTYPES[settings.dtype])

    def probe(self, network: DeiT, resolution: int, batch: int) -> Probe:
        """A ramp of pixels; tokens with the class token."""
        config, one = network.config, next(network.parameters())
        shape = (batch, config.channels, resolution, resolution)
        ramp = torch.linspace(-1, 1, math.prod(shape), device=one.device, dtype=one.dtype).view(shape)
        layer = attention_cost.Attention(config.hidden, config.heads, attention_cost.WHOLE)
        return Probe({"x": ramp}, layer, (resolution // config.patch) ** 2 + 1)

    def export(self, checkpoint: Checkpoint, state: Mapping[str, Tensor], folded: bool) -> Exported:
        """The weights under this package's names, as they are or folded into a model of the plain encoding."""
        network = self.load(checkpoint, state)
        if not folded:
            return Exported(network.state_dict(), {})
        fold(network, f"checkpoint {checkpoint.name}")
        return Exported(network.state_dict(), folding.left_over(network.encoding, checkpoint.drawing))


def rescale(encoding: encodings.Encoding, config: Config, settings: Settings) -> None:
    """Tells the encoding how to meet the grid of these settings; OptionError for a kind that means nothing to it."""
    sides = [side // config.patch for side in (config.size, settings.resolution)]
    encoding.rescale(encodings.Scaling(settings.pos_scaling or "none", *((side, side) for side in sides)))


def fold(network: DeiT, what: str) -> None:
    """Moves the encoding's matrices into the projections, in place; exact, since they act on the class token too."""
    config = network.config
    picture = torch.randn((1, config.channels, config.size, config.size), generator=torch.Generator().manual_seed(0))
    fused = [cast(Block, block).attn.qkv for block in network.blocks]
    folding.fold_network(network, fused, lambda: cast(Tensor, network(picture)), what)


PLUGIN = DeitBackbone()
