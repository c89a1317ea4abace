"""DeiT: the vision transformer that classifies images, with any positional encoding.

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

EPS = 1e-6  # Of every layer norm.

# Options of the published rotary DeiTs. Source: naver-ai/rope-vit:models/vit_rope.py:51-66; the
# paper states neither of the two.
ROPE_VIT_OPTIONS: dict[str, Option] = {"base": 100.0, "axis_order": "column-first"}

# Mean and standard deviation by which pixels in [0, 1] are normalised.
NORMALISATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
# Keys of published files, and our keys.
KEY_RENAMES = {
    "pos_embed": "encoding.table",
    "freqs": "encoding.freqs",
    "rope.freqs": "encoding.freqs",
}
# Names under which facebookresearch/deit:models_v2.py and naver-ai/rope-vit:models/vit_rope.py
# register their networks.
TRAINING_MODEL_NAMES = re.compile(
    r"(rope_(axial|mixed)(_ape)?_)?deit_(tiny|small|medium|base|large|huge)_patch\d+(_LS|_\d+)?(_21k)?"
)
LAYER_SCALE = re.compile(r"\bls([12])\.gamma$")


class DeitConfig(NetworkSizes):
    """Sizes of a DeiT.

    Attributes:
        hidden, depth, heads: Width of a token, number of blocks, number of heads. Heads have 64
            channels if their number is not stated, as in every published DeiT.
        patch: Side of a patch in pixels.
        size: Side of the training images in pixels.
        channels: 3, or 1 for the mean of the three.
        classes: Number of classes.
        layer_scale: Initial value of the LayerScale factors.
        normalisation: Key of NORMALISATIONS. Its key in files is "normalised".
    """

    hidden: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    patch: int = Field(default=16, gt=0)
    size: int = Field(gt=0)
    channels: Literal[1, 3] = 3
    classes: int = Field(default=1000, gt=0)
    layer_scale: float = 1e-4
    # Shipped weights and recipes are hashed with the key "normalised".
    normalisation: Literal["imagenet", "half"] = Field(default="imagenet", alias="normalised")

    @property
    def layers(self) -> int:
        """Number of attention layers."""
        return self.depth


def parse_config(options: Mapping[str, Option]) -> DeitConfig:
    """Return validated sizes; OptionError names the wrong field."""
    default_heads: dict[str, Option] = {}
    hidden = options.get("hidden")
    if isinstance(hidden, int):
        default_heads["heads"] = hidden // 64
    return parse_sizes(DeitConfig, "deit", {**default_heads, **options})


class DeiTBlock(nn.Module):
    """A pre-norm transformer block with LayerScale: each branch is scaled per channel."""

    def __init__(self, config: DeitConfig):
        super().__init__()
        width = config.hidden
        self.norm1 = nn.LayerNorm(width, EPS)
        self.norm2 = nn.LayerNorm(width, EPS)
        self.attn = SelfAttention(width, config.heads)
        self.mlp = Mlp(width, "none")
        self.gamma_1 = nn.Parameter(torch.full((width,), config.layer_scale))
        self.gamma_2 = nn.Parameter(torch.full((width,), config.layer_scale))

    def forward(
        self, x: Tensor, encoding: encodings.Encoding, positions: Tensor, layer: int
    ) -> Tensor:
        """Return tokens (B, N, width) for tokens (B, N, width) at positions (N, axes)."""
        x = x + self.gamma_1 * self.attn(self.norm1(x), encoding, positions, layer)
        return x + self.gamma_2 * self.mlp(self.norm2(x))


class DeiT(EncodedNetwork):
    """The network: normalised images to logits, which are read from the class token."""

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
        """Initialise as DeiT does: truncated normals with deviation 0.02 and zero biases."""
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @property
    def qkv_projections(self) -> list[nn.Linear]:
        """The fused query, key and value projections, one per layer."""
        return [block.attn.qkv for block in self.blocks if isinstance(block, DeiTBlock)]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of images (B, C, H, W); the patch size divides H and W.

        An additive encoding is added to the patches alone. The class token has position (0, 0),
        which no rotation changes. A learned matrix acts on the class token too; otherwise it could
        not be folded into the projections.
        """
        rows = x.shape[2] // self.config.patch
        columns = x.shape[3] // self.config.patch
        patch_positions = grid_positions(rows, columns)  # (N, 2)
        patches = self.encoding.embed(self.patch_embed(x), patch_positions)  # (B, N, hidden)

        # The class token is prepended at the origin.
        class_token = self.cls_token.expand(len(x), -1, -1)  # (B, 1, hidden)
        tokens = torch.cat((class_token, patches), dim=1)  # (B, 1 + N, hidden)
        origin = torch.zeros(1, patch_positions.shape[1])
        positions = torch.cat((origin, patch_positions))  # (1 + N, 2)

        for layer, block in enumerate(self.blocks):
            tokens = block(tokens, self.encoding, positions, layer)
        return self.head(self.norm(tokens)[:, 0])  # (B, classes)


def normalise(images: np.ndarray, config: DeitConfig) -> Tensor:
    """Return normalised pixels (B, C, H, W) float32 of images (B, H, W, 3) uint8.

    A network with one channel receives the mean of the three.
    """
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (
        torch.tensor(values).view(1, 3, 1, 1) for values in NORMALISATIONS[config.normalisation]
    )
    x = (x - mean) / deviation  # (B, 3, H, W)
    return x.mean(1, keepdim=True) if config.channels == 1 else x


class DeitClassifier(Classifier):
    """Classifies images with a DeiT."""

    network: DeiT

    def __init__(self, network: DeiT, device: torch.device, dtype: torch.dtype):
        self.network = network.to(device=device, dtype=dtype).eval()
        self.device = device
        self.dtype = dtype

    @torch.inference_mode()
    def classify(self, images: np.ndarray) -> np.ndarray:
        """Return logits (B, classes) float32 of images (B, H, W, 3) uint8, resized and cropped
        already.
        """
        x = normalise(images, self.network.config).to(self.device, self.dtype)
        return self.network(x).float().cpu().numpy()


def convert_keys(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict under this package's names.

    The names of facebookresearch/deit, naver-ai/rope-vit and timm are known; other keys stay as
    they are. rope-vit saves coordinates (`freqs_t_x`, `freqs_t_y`) beside its weights. They are
    dropped if they are those of the regular grid.
    """
    grid = _grid_coordinates(state_dict)
    converted_state = {}
    for key, tensor in state_dict.items():
        is_grid_shape = key in grid and tensor.shape == grid[key].shape
        if is_grid_shape and torch.equal(tensor.float(), grid[key]):
            continue
        if key in ("freqs", "rope.freqs") and tensor.dim() > 2:
            tensor = tensor.flatten(2)  # (2, layers, heads * d/2); timm has an axis of heads
        new_key = KEY_RENAMES.get(key, LAYER_SCALE.sub(r"gamma_\1", key))
        converted_state[new_key] = tensor
    return converted_state


def _tokens_per_side(state_dict: Mapping[str, Tensor]) -> int:
    """Return the tokens per side at training, from a table or saved coordinates.

    Returns:
        0 where the file has neither, or where the number of tokens is no square.
    """
    n_tokens = 0
    if "pos_embed" in state_dict and state_dict["pos_embed"].dim() == 3:
        n_tokens = state_dict["pos_embed"].shape[1]  # (1, N, hidden)
    elif "freqs_t_x" in state_dict:
        n_tokens = len(state_dict["freqs_t_x"])
    side = math.isqrt(n_tokens)
    return side if side**2 == n_tokens else 0


def _grid_coordinates(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return rope-vit's buffers for the square grid of a file: column and row of each token."""
    coordinates = {key: value for key, value in state_dict.items() if key == "freqs_t_x"}
    side = _tokens_per_side(coordinates)
    if side == 0:
        return {"freqs_t_x": torch.empty(0), "freqs_t_y": torch.empty(0)}
    rows, columns = grid_positions(side, side).unbind(1)
    return {"freqs_t_x": columns, "freqs_t_y": rows}


def _check_frequencies(state_dict: Mapping[str, Tensor]) -> None:
    """Raise WeightsError for rotary frequencies that are not those of rope-mixed."""
    for key in ("freqs", "rope.freqs"):
        if key in state_dict and state_dict[key].dim() not in (3, 4):
            raise WeightsError(
                f"{key} has shape {tuple(state_dict[key].shape)}, wanted (2, layers, heads * d/2)"
                " of rope-mixed; no encoding here has it"
            )


def _detect_sizes(
    state_dict: Mapping[str, Tensor], converted_state: Mapping[str, Tensor]
) -> dict[str, Option]:
    """Return the sizes that the keys reveal.

    Args:
        state_dict: Tensors by the file's names.
        converted_state: The same tensors by this package's names.
    """
    hidden, channels, patch, _ = converted_state["patch_embed.proj.weight"].shape
    block_matches = [re.match(r"blocks\.(\d+)\.", key) for key in converted_state]
    config: dict[str, Option] = {
        "hidden": hidden,
        "channels": channels,
        "patch": patch,
        "classes": len(converted_state["head.weight"]),
        "depth": 1 + max(int(match[1]) for match in block_matches if match),
    }
    side = _tokens_per_side(state_dict)
    if side:
        config["size"] = side * patch
    return config


class DeitBackbone(FoldingBackbone[DeiT]):
    """DeiT-B, DeiT-L and the micro classifiers. They cannot generate images."""

    task = "classify"
    # The last batch is padded, so that an image's logits do not depend on the number of images.
    tile = 50
    example_config = {
        "hidden": 16,
        "depth": 2,
        "heads": 2,
        "patch": 2,
        "size": 8,
        "channels": 1,
        "classes": 10,
        "normalised": "half",
    }

    def build(
        self, encoding: str, options: Mapping[str, Option], config: Mapping[str, Option]
    ) -> DeiT:
        """Return a freshly initialised DeiT; OptionError names the wrong option or size."""
        sizes = parse_config(config)
        built_encoding = build_encoding(encoding, options, sizes)
        if isinstance(built_encoding.options, encodings.RotaryOptions):
            # Raises OptionError now, not at the first image, if the axes do not divide a head.
            encodings.planes_per_axis(sizes.shape, encoding)
        return DeiT(sizes, built_encoding)

    def detect_fields(self, state_dict: Mapping[str, Tensor]) -> DetectedFields | None:
        """Return sizes and, for encodings with parameters, the encoding, read from the keys.

        Returns:
            None if the keys are not those of a DeiT.

        Raises:
            WeightsError: The frequencies have a shape that no encoding here has.
        """
        converted_state = convert_keys(state_dict)
        required_keys = ("patch_embed.proj.weight", "cls_token", "blocks.0.gamma_1", "head.weight")
        if any(key not in converted_state for key in required_keys):
            return None
        if converted_state["patch_embed.proj.weight"].dim() != 4:
            return None
        _check_frequencies(state_dict)

        config = _detect_sizes(state_dict, converted_state)
        encoding = detect_encoding.detect_from_state_dict(converted_state)
        if encoding is None:
            return DetectedFields(encoding=None, config=config)
        if encoding.heads or encoding.head_dim:
            config["heads"] = encoding.heads or int(config["hidden"]) // encoding.head_dim

        defaults: CheckpointFields = {}
        if "heads" in config:
            # The side of the training images does not matter here, so one patch can stand in.
            sizes = {"size": config["patch"], **config}
            meta_encoding = self._build_meta_encoding(encoding.encoding, encoding.options, sizes)
            if meta_encoding.properties.foldable:
                defaults["drawing"] = {"fold": True}
        return DetectedFields(encoding.encoding, config, encoding.options, defaults)

    def config_from_training_args(self, args: Mapping[str, object]) -> dict[str, Option]:
        """Return no sizes, because DeiT's training arguments state none that the keys do not.

        Raises:
            WeightsError: The arguments name a network that is not a DeiT.
        """
        model = args.get("model")
        if model is not None and not TRAINING_MODEL_NAMES.fullmatch(str(model)):
            raise WeightsError(
                f"the file's args name the network {printable_line(str(model))}, which is not a"
                " DeiT; give weights of a DeiT"
            )
        return {}

    def default_options(self, encoding: str) -> dict[str, Option]:
        """Return the published DeiT's options for this encoding; they complete the user's."""
        options_class = encodings.load_encoding(encoding).Options
        is_rotary = issubclass(options_class, encodings.RotaryOptions)
        return dict(ROPE_VIT_OPTIONS) if is_rotary else {}

    def check_foreign_weights(
        self, state_dict: Mapping[str, Tensor], encoding: str, config: Mapping[str, Option]
    ) -> None:
        """Raise OptionError if a file does not reveal the side of its training images.

        Only a table or saved coordinates reveal it; sides of 192 and 224 are published.
        """
        if "size" not in config:
            raise OptionError(
                f"deit weights of {encoding} do not reveal the side of their training images; add"
                " --config size=224 or another"
            )

    def _build_meta_encoding(
        self, encoding: str, options: Mapping[str, Option], config: Mapping[str, Option]
    ) -> encodings.Encoding:
        """Return the encoding of such a network on the meta device, without memory."""
        with torch.device("meta"):
            return self.build(encoding, options, config).encoding

    def convert_keys(
        self, checkpoint: Checkpoint, state_dict: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the weights of this package's or a published file under our names.

        Raises:
            WeightsError: The file has both a table and rotary frequencies.
        """
        converted_state = convert_keys(state_dict)
        if {"encoding.table", "encoding.freqs"} <= converted_state.keys():
            raise WeightsError(
                f"{checkpoint.name} has an added table and rotary frequencies, which no encoding"
                " here combines; give another file"
            )
        return converted_state

    def conditioning(self, config: Mapping[str, Option]) -> Conditioning:
        """Return the conditioning: real images of this number of classes."""
        return Conditioning("images", parse_config(config).classes)

    def supported_settings(self, checkpoint: Checkpoint) -> SupportedSettings:
        """Return the settings of every classifier, and `fold` if the encoding has matrices."""
        reason = "it is a classifier and generates no images"
        encoding = self._build_meta_encoding(
            checkpoint.encoding, checkpoint.options, checkpoint.config
        )
        return folding.settings_with_fold(
            encoding, CLASSIFICATION_SETTINGS, dict.fromkeys(Settings.model_fields, reason)
        )

    def describe_network(self, checkpoint: Checkpoint) -> NetworkDescription:
        """Return the number of classes and the side of the training images in pixels."""
        config = parse_config(checkpoint.config)
        return NetworkDescription(f"one of {config.classes:,} classes", "images", config.size)

    def check_inputs(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Raise OptionError for a resolution or a position scaling that the network cannot take."""
        config = parse_config(checkpoint.config)
        check_resolution(config, settings.resolution)
        if settings.pos_scaling is None and not settings.fold:
            return

        encoding = self._build_meta_encoding(
            checkpoint.encoding, checkpoint.options, checkpoint.config
        )
        rescale(encoding, config, settings)
        if settings.fold:
            folding.check_foldable(encoding)

    def open(
        self, checkpoint: Checkpoint, state_dict: Mapping[str, Tensor], settings: Settings
    ) -> DeitClassifier:
        """Return the network with these weights, ready to classify images."""
        network = self.load(checkpoint, state_dict)
        rescale(network.encoding, network.config, settings)
        if settings.fold:
            self.fold(network, f"checkpoint {checkpoint.name}")
        return DeitClassifier(network, torch.device(settings.device), DTYPES[settings.dtype])

    def profiling_inputs(self, network: DeiT, resolution: int, batch: int) -> ProfilingInputs:
        """Return images with linearly rising values; the class token is one of the tokens."""
        config = network.config
        x = ramp((batch, config.channels, resolution, resolution), next(network.parameters()))
        tokens = (resolution // config.patch) ** 2 + 1
        return ProfilingInputs({"x": x}, counted_layer(config), tokens)

    def fold(self, network: DeiT, description: str) -> None:
        """Fold the encoding's matrices into the projections, in place.

        Folding is exact, because the matrices act on the class token too.

        Raises:
            WeightsError: One random forward pass gives other outputs afterwards.
        """
        config = network.config
        shape = (1, config.channels, config.size, config.size)
        image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        folding.fold_network(network, network.qkv_projections, lambda: network(image), description)


PLUGIN = DeitBackbone()
