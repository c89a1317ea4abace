"""DeiT: the vision transformer that names what a picture shows, at any size, with any encoding.

Source: Touvron et al. 2021 and 2022; layout and parameter names as in
facebookresearch/deit:models_v2.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from harope_bench.core.conditioning import Conditioning
from harope_bench.core.errors import OptionError, WeightsError
from harope_bench.core.escaping import printable_line
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Checkpoint, Settings
from harope_bench.encodings import base as encodings
from harope_bench.encodings import detect_encoding
from harope_bench.models.backbones import folding
from harope_bench.models.backbones.base import (
    CLASSIFICATION_SETTINGS,
    Classifier,
    DetectedFields,
    NetworkDescription,
    ProfilingInputs,
    SupportedSettings,
)
from harope_bench.models.backbones.dit_blocks import Mlp, PatchEmbed, SelfAttention
from harope_bench.models.backbones.encoded_network import EncodedNetwork
from harope_bench.models.backbones.network_sizes import (
    DTYPES,
    FoldingBackbone,
    NetworkSizes,
    build_encoding,
    check_resolution,
    counted_layer,
    grid_positions,
    parse_sizes,
    ramp,
    rescale,
)
from harope_bench.models.checkpoint_fields import CheckpointFields

EPS = 1e-6  # of every layer norm
ROPE_VIT_OPTIONS: dict[str, Option] = {
    "base": 100.0,
    "axis_order": "column-first",
}  # naver-ai/rope-vit:models/vit_rope.py:51-66; the paper gives neither
# Mean and standard deviation that pixels in [0, 1] are normalised with.
NORMALISATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
# Names that published files have for what is called otherwise here.
KEY_RENAMES = {
    "pos_embed": "encoding.table",
    "freqs": "encoding.freqs",
    "rope.freqs": "encoding.freqs",
}
# facebookresearch/deit:models_v2.py and naver-ai/rope-vit:models/vit_rope.py register their
# networks so.
TRAINING_MODEL_NAMES = re.compile(
    r"(rope_(axial|mixed)(_ape)?_)?deit_(tiny|small|medium|base|large|huge)_patch\d+(_LS|_\d+)?(_21k)?"
)
LAYER_SCALE = re.compile(r"\bls([12])\.gamma$")


class DeitConfig(NetworkSizes):
    """Size of a DeiT. size: side of the training images in pixels. layer_scale: where its factors
    start.

    heads are of 64 channels each where they are not said, as in every published DeiT.
    """

    hidden: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    patch: int = Field(default=16, gt=0)
    size: int = Field(gt=0)
    channels: Literal[1, 3] = 3
    classes: int = Field(default=1000, gt=0)
    layer_scale: float = 1e-4
    normalisation: Literal["imagenet", "half"] = "imagenet"

    @property
    def layers(self) -> int:
        """Attention layers."""
        return self.depth


def parse_config(options: Mapping[str, Option]) -> DeitConfig:
    """A checked Config; OptionError names the field."""
    hidden = options.get("hidden")
    heads: dict[str, Option] = {"heads": hidden // 64} if isinstance(hidden, int) else {}
    return parse_sizes(DeitConfig, "deit", {**heads, **options})


class DeiTBlock(nn.Module):
    """Pre-norm block whose two branches are scaled channel by channel (LayerScale)."""

    def __init__(self, config: DeitConfig):
        super().__init__()
        width = config.hidden
        self.norm1, self.norm2 = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.attn, self.mlp = SelfAttention(width, config.heads), Mlp(width, "none")
        self.gamma_1, self.gamma_2 = (
            nn.Parameter(torch.full((width,), config.layer_scale)) for _ in range(2)
        )

    def forward(
        self, x: Tensor, encoding: encodings.Encoding, positions: Tensor, layer: int
    ) -> Tensor:
        """Tokens (B, N, width) to tokens."""
        x = x + self.gamma_1 * self.attn(self.norm1(x), encoding, positions, layer)
        return x + self.gamma_2 * self.mlp(self.norm2(x))


class DeiT(EncodedNetwork):
    """The network: normalised images to logits, read off the class token, the one of `extra` tokens
    before those of the patches.
    """

    num_prefix_tokens = 1

    def __init__(self, config: DeitConfig, encoding: encodings.Encoding):
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config.patch, config.channels, config.hidden)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden))
        self.blocks = nn.ModuleList(DeiTBlock(config) for _ in range(config.depth))
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

    @property
    def qkv_projections(self) -> list[nn.Linear]:
        """The projections to queries, keys and values, layer by layer."""
        return [block.attn.qkv for block in self.blocks if isinstance(block, DeiTBlock)]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W); H, W divisible by patch.

        The table of an additive encoding meets the patches alone. The class token stands at
        position (0, 0), which no rotation
        turns; a learned matrix acts on it as on every token, or it would not fold into the
        projections.
        """
        rows = x.shape[2] // self.config.patch
        columns = x.shape[3] // self.config.patch
        positions = grid_positions(rows, columns)
        tokens = self.encoding.embed(self.patch_embed(x), positions)  # (B, N, hidden)
        tokens = torch.cat(
            (self.cls_token.expand(len(x), -1, -1), tokens), dim=1
        )  # (B, 1 + N, hidden)
        places = torch.cat((torch.zeros(1, positions.shape[1]), positions))
        for layer, block in enumerate(self.blocks):
            tokens = block(tokens, self.encoding, places, layer)
        return self.head(self.norm(tokens)[:, 0])


def normalise(images: np.ndarray, config: DeitConfig) -> Tensor:
    """Images (B, H, W, 3) uint8 to (B, C, H, W) float32, by the network's mean and deviation; one
    channel is the mean of three.
    """
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (
        torch.tensor(values).view(1, 3, 1, 1) for values in NORMALISATIONS[config.normalisation]
    )
    x = (x - mean) / deviation
    return x.mean(1, keepdim=True) if config.channels == 1 else x


class DeitClassifier(Classifier):
    """Reads images with a DeiT."""

    network: DeiT

    def __init__(self, network: DeiT, device: torch.device, dtype: torch.dtype):
        self.network = network.to(device=device, dtype=dtype).eval()
        self.device = device
        self.dtype = dtype

    @torch.inference_mode()
    def classify(self, images: np.ndarray) -> np.ndarray:
        """Logits (B, classes) float32 of images (B, H, W, 3) uint8, resized and cropped already."""
        x = normalise(images, self.network.config).to(self.device, self.dtype)
        return self.network(x).float().cpu().numpy()


def convert_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under this package's names, from those of facebookresearch/deit,
    naver-ai/rope-vit or timm; others stay as they are.

    The coordinates that rope-vit saves beside its weights (`freqs_t_x`, `freqs_t_y`) are left out
    if they are the plain grid.
    """
    grid = _grid_coordinates(state)
    own = {}
    for key, tensor in state.items():
        if (
            key in grid
            and tensor.shape == grid[key].shape
            and torch.equal(tensor.float(), grid[key])
        ):
            continue
        if key in ("freqs", "rope.freqs") and tensor.dim() > 2:
            tensor = tensor.flatten(2)  # (2, L, heads * d/2), which timm keeps apart by heads
        own[KEY_RENAMES.get(key, LAYER_SCALE.sub(r"gamma_\1", key))] = tensor
    return own


def _tokens_per_side(state: Mapping[str, Tensor]) -> int:
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
    side = _tokens_per_side({k: v for k, v in state.items() if k == "freqs_t_x"})
    rows, columns = (
        grid_positions(side, side).unbind(1) if side else (torch.empty(0), torch.empty(0))
    )
    return {"freqs_t_x": columns, "freqs_t_y": rows}


class DeitBackbone(FoldingBackbone[DeiT]):
    """DeiT-B, DeiT-L and the micro classifiers; it draws nothing."""

    task = "classify"
    tile = (
        50  # images a batch, the last one padded, so that bits do not depend on what was asked for
    )

    def build(
        self, encoding: str, options: Mapping[str, Option], config: Mapping[str, Option]
    ) -> DeiT:
        """A freshly initialised DeiT; errors name the option or the field."""
        size = parse_config(config)
        built = build_encoding(encoding, options, size)
        if isinstance(built.options, encodings.RotaryOptions):
            encodings.planes_per_axis(size.shape, encoding)  # else found out at the first picture
        return DeiT(size, built)

    def recognise(self, state: Mapping[str, Tensor]) -> DetectedFields | None:
        """Sizes and, for encodings with parameters, the encoding, read off the keys."""
        own = convert_keys(state)
        needed = ("patch_embed.proj.weight", "cls_token", "blocks.0.gamma_1", "head.weight")
        if any(key not in own for key in needed) or own[needed[0]].dim() != 4:
            return None
        if odd := [
            key
            for key in ("freqs", "rope.freqs")
            if key in state and state[key].dim() not in (3, 4)
        ]:
            raise WeightsError(
                f"{odd[0]} has shape {tuple(state[odd[0]].shape)}, wanted (2, layers, heads * d/2)"
                " of rope-mixed; no encoding here has it"
            )
        hidden, channels, patch, _ = own[needed[0]].shape
        config: dict[str, Option] = {
            "hidden": hidden,
            "channels": channels,
            "patch": patch,
            "classes": len(own["head.weight"]),
            "depth": 1 + max(int(m[1]) for key in own if (m := re.match(r"blocks\.(\d+)\.", key))),
        }
        if side := _tokens_per_side(state):
            config["size"] = side * patch
        told = detect_encoding.detect_from_state_dict(own)
        if told is None:
            return DetectedFields(None, config)
        if told.heads or told.head_dim:
            config["heads"] = told.heads or hidden // told.head_dim
        sized = {"size": patch, **config}  # any side: whether it folds does not depend on it
        folds = (
            "heads" in config
            and self._build_meta_encoding(told.encoding, told.options, sized).properties.foldable
        )
        defaults: CheckpointFields = {"drawing": {"fold": True}} if folds else {}
        return DetectedFields(told.encoding, config, told.options, defaults)

    def recall(self, args: Mapping[str, object]) -> dict[str, Option]:
        """Return nothing: DeiT's training arguments add no size to the keys.

        Raises:
            WeightsError: They name a network that is not a DeiT.
        """
        model = args.get("model")
        if model is not None and not TRAINING_MODEL_NAMES.fullmatch(str(model)):
            raise WeightsError(
                f"the file's args name the network {printable_line(str(model))}, which is not a"
                " DeiT; give weights of a DeiT"
            )
        return {}

    def default_options(self, encoding: str) -> dict[str, Option]:
        """Options that a published DeiT of this encoding has where nothing says them."""
        rotary = issubclass(encodings.load_encoding(encoding).Options, encodings.RotaryOptions)
        return dict(ROPE_VIT_OPTIONS) if rotary else {}

    def doubts(
        self, state: Mapping[str, Tensor], encoding: str, config: Mapping[str, Option]
    ) -> None:
        """Asks for the side at training where a file without a table or saved coordinates leaves it
        open: 192 and 224 are published.
        """
        if "size" not in config:
            raise OptionError(
                f"deit weights of {encoding} do not tell the side of their training pictures; add"
                " --config size=224 or another"
            )

    def _build_meta_encoding(
        self, encoding: str, options: Mapping[str, Option], config: Mapping[str, Option]
    ) -> encodings.Encoding:
        """The encoding of such a network, without memory for it."""
        with torch.device("meta"):
            return self.build(encoding, options, config).encoding

    def own_names(self, checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of this package's file or a published one; WeightsError for two encodings in
        one file.
        """
        own = convert_keys(state)
        if {"encoding.table", "encoding.freqs"} <= own.keys():
            raise WeightsError(
                f"{checkpoint.name} adds a table and turns by frequencies at once; no registered"
                " encoding does both"
            )
        return own

    def conditioning(self, config: Mapping[str, Option]) -> Conditioning:
        """Return the classes that pictures are named by."""
        return Conditioning("images", parse_config(config).classes)

    def settings_read(self, checkpoint: Checkpoint) -> SupportedSettings:
        """Return what every classifier reads, and `fold` where there are matrices."""
        reasons = dict.fromkeys(
            Settings.model_fields, "a classifier looks at pictures and generates none"
        )
        return folding.settings_with_fold(
            self._build_meta_encoding(checkpoint.encoding, checkpoint.options, checkpoint.config),
            CLASSIFICATION_SETTINGS,
            reasons,
        )

    def process(self, checkpoint: Checkpoint) -> NetworkDescription:
        """Return its classes and its side at training."""
        config = parse_config(checkpoint.config)
        return NetworkDescription(f"one of {config.classes:,} classes", "images", config.size)

    def check(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Refuses a resolution that the patches do not tile."""
        config = parse_config(checkpoint.config)
        check_resolution(config, settings.resolution)
        if settings.pos_scaling is not None:
            rescale(
                self._build_meta_encoding(
                    checkpoint.encoding, checkpoint.options, checkpoint.config
                ),
                config,
                settings,
            )
        if settings.fold:
            folding.check_foldable(
                self._build_meta_encoding(
                    checkpoint.encoding, checkpoint.options, checkpoint.config
                )
            )

    def open(
        self, checkpoint: Checkpoint, state: Mapping[str, Tensor], settings: Settings
    ) -> DeitClassifier:
        """The network with these weights, ready to read."""
        network = self.load(checkpoint, state)
        rescale(network.encoding, network.config, settings)
        if settings.fold:
            self.fold(network, f"checkpoint {checkpoint.name}")
        return DeitClassifier(network, torch.device(settings.device), DTYPES[settings.dtype])

    def probe(self, network: DeiT, resolution: int, batch: int) -> ProfilingInputs:
        """A ramp of pixels; tokens with the class token."""
        config = network.config
        one = next(network.parameters())
        x = ramp((batch, config.channels, resolution, resolution), one)
        return ProfilingInputs(
            {"x": x}, counted_layer(config), (resolution // config.patch) ** 2 + 1
        )

    def fold(self, network: DeiT, what: str) -> None:
        """Move the encoding's matrices into the projections, in place; exact, since they act on the
        class token too.
        """
        config = network.config
        picture = torch.randn(
            (1, config.channels, config.size, config.size),
            generator=torch.Generator().manual_seed(0),
        )
        folding.fold_network(network, network.qkv_projections, lambda: network(picture), what)


PLUGIN = DeitBackbone()
