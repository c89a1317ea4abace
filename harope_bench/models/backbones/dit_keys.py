"""Key names, sizes and training arguments of DiT's files, official and released.

Source: facebookresearch/DiT:models.py and train.py; model/models_HARoPE.py and the training
script of the HARoPE release.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from harope_bench.core.errors import WeightsError
from harope_bench.core.escaping import printable_line
from harope_bench.core.record_base import Option
from harope_bench.encodings import detect_encoding
from harope_bench.encodings.ape import sincos_table
from harope_bench.models.backbones.latents import VAE_SCALE_FACTOR

# Hidden width, depth and heads of the published sizes.
MODEL_SIZES = {
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
}
PATCH_SIZES = (2, 4, 8)
MODEL_NAME = re.compile(rf"DiT-({'|'.join(MODEL_SIZES)})/({'|'.join(map(str, PATCH_SIZES))})")
LATENT_CHANNELS = 4  # Channels of a latent; an image has 1 or 3.
RELEASE_MATRIX_KEY = re.compile(r"blocks\.(\d+)\.attn\.learnable_rot\.(A_u|A_v|sigma)")
REQUIRED_KEYS = (
    "x_embedder.proj.weight",
    "y_embedder.embedding_table.weight",
    "blocks.0.attn.qkv.weight",
    "final_layer.linear.weight",
)
TABLE_KEY = "pos_embed"
# Largest difference between a saved table and the computed one. facebookresearch/DiT:train.py
# averages the fixed table as well, and a running average with a rate of 1e-4 drifts by about 3e-4
# of values up to 1. Another table differs by about 1.
TABLE_TOLERANCE = 2e-3


class DetectedSizes(NamedTuple):
    """Sizes and encoding of a network that its parameter names and shapes reveal."""

    config: dict[str, Option]
    encoding: detect_encoding.DetectedEncoding | None


def convert_keys(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict under this package's names.

    The release stores one matrix per block; they are stacked to (layers, heads or 1, d, d).

    Raises:
        WeightsError: Some blocks have no matrix, or the matrices have different shapes.
    """
    converted_state = dict(state_dict)
    groups: dict[str, dict[int, Tensor]] = {}  # parameter name -> layer -> tensor
    matches = {
        key: match for key in converted_state if (match := RELEASE_MATRIX_KEY.fullmatch(key))
    }
    for key, match in matches.items():
        layer, name = match.groups()
        groups.setdefault(name, {})[int(layer)] = converted_state.pop(key)

    n_blocks = block_count(converted_state)
    for name, tensors in groups.items():
        is_every_layer = sorted(tensors) == list(range(n_blocks))
        n_shapes = len({tensor.shape for tensor in tensors.values()})
        if not is_every_layer or n_shapes != 1:
            raise WeightsError(
                f"blocks.*.attn.learnable_rot.{name} is in {len(tensors)} of {n_blocks} blocks or"
                " has several shapes, wanted one shape in every block; copy the file again"
            )
        # (layers, heads or 1, d, d) or (layers, heads or 1, d)
        converted_state[f"encoding.{name}"] = torch.stack([tensors[i] for i in range(n_blocks)])
    return converted_state


def block_count(state_dict: Mapping[str, Tensor]) -> int:
    """Return the number of transformer blocks, from the largest index in the keys."""
    matches = (re.match(r"blocks\.(\d+)\.", key) for key in state_dict)
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def drop_position_table(state_dict: Mapping[str, Tensor], encoding: str) -> dict[str, Tensor]:
    """Return a state dict without the fixed table of positions, which the encoding computes.

    Raises:
        WeightsError: The table differs from the computed one, or weights with a table are loaded
            under another encoding than "ape".
    """
    remaining = dict(state_dict)
    table = remaining.pop(TABLE_KEY, None)
    if table is None:
        return remaining
    if encoding != "ape":
        raise WeightsError(
            f"these weights contain {TABLE_KEY}, so they were trained with ape, not with"
            f" {encoding}; give --encoding ape"
        )

    side = table_side(table)
    positions = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double()
    expected_table = sincos_table(positions, table.shape[-1], 10000.0)  # (N, width)
    difference = float((table[0].double() - expected_table).abs().max())
    if not difference <= TABLE_TOLERANCE:
        raise WeightsError(
            f"{TABLE_KEY} differs from DiT's sin-cos table of {side} x {side} tokens by up to"
            f" {difference:.2g}; no encoding here has this table"
        )
    return remaining


def table_side(table: Tensor) -> int:
    """Return the tokens along a side of a table of positions (1, N, width).

    Raises:
        WeightsError: N is no square.
    """
    side = math.isqrt(table.shape[1]) if table.dim() == 3 else 0
    if side == 0 or side * side != table.shape[1]:
        raise WeightsError(
            f"{TABLE_KEY} has shape {tuple(table.shape)}, wanted (1, side * side, width); copy the"
            " file again"
        )
    return side


def detect_sizes(state_dict: Mapping[str, Tensor]) -> DetectedSizes | None:
    """Return what the keys reveal, under this package's names; None if they are not DiT's."""
    patch_key, labels_key, _, output_key = REQUIRED_KEYS
    if any(key not in state_dict for key in REQUIRED_KEYS) or state_dict[patch_key].dim() != 4:
        return None

    hidden, channels, patch, _ = state_dict[patch_key].shape
    depth = block_count(state_dict)
    config: dict[str, Option] = {
        "hidden": hidden,
        "channels": channels,
        "patch": patch,
        "classes": len(state_dict[labels_key]) - 1,
        "depth": depth,
    }
    if len(state_dict[output_key]) == 2 * patch**2 * channels:
        config["learn_sigma"] = True
    if channels == LATENT_CHANNELS:
        config["latent"] = True
        # The keys do not reveal the heads; latent networks have one of the published sizes.
        for size_hidden, size_depth, heads in MODEL_SIZES.values():
            if (size_hidden, size_depth) == (hidden, depth):
                config["heads"] = heads

    if TABLE_KEY in state_dict:
        config["size"] = table_side(state_dict[TABLE_KEY]) * patch
        return DetectedSizes(config, detect_encoding.DetectedEncoding("ape", {}))
    encoding = detect_encoding.detect_from_state_dict(state_dict)
    if encoding and (encoding.heads or encoding.head_dim):
        config["heads"] = encoding.heads or hidden // encoding.head_dim
    return DetectedSizes(config, encoding)


def unknown_model_message(model: str) -> str:
    """Return the error message for a training file of another network than DiT.

    Args:
        model: Name of the network in the training arguments.
    """
    dit_names = f"DiT-{'|'.join(MODEL_SIZES)}/{'|'.join(map(str, PATCH_SIZES))}"
    if model.startswith("SiT"):
        return (
            f"the file's args name the network {model}: SiT has the keys of DiT, but predicts"
            " velocity from noise at time 0 to data at time 1, which no sampler here supports;"
            f" give weights of {dit_names}"
        )
    return (
        f"the file's args name the network {model}, which is not a DiT; give weights of {dit_names}"
    )


def config_from_training_args(args: Mapping[str, object]) -> dict[str, Option]:
    """Return the sizes that DiT's training arguments state: model, image_size, num_classes.

    Raises:
        WeightsError: The model is not a DiT. SiT has DiT's keys but predicts something else.
    """
    config: dict[str, Option] = {}
    model = args.get("model")
    if model is not None:
        match = MODEL_NAME.fullmatch(str(model))
        if match is None:
            raise WeightsError(unknown_model_message(printable_line(str(model))))
        hidden, layers, heads = MODEL_SIZES[match[1]]
        config = {
            "hidden": hidden,
            "depth": layers,
            "heads": heads,
            "patch": int(match[2]),
            "channels": LATENT_CHANNELS,
        }
    side = args.get("image_size")
    if isinstance(side, int):
        config["size"] = side // VAE_SCALE_FACTOR
    classes = args.get("num_classes")
    if isinstance(classes, int):
        config["classes"] = classes
    return config
