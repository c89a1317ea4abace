"""DiT's files as they come: names, sizes and training arguments of the official and the released
code, in this package's terms.

Facts from facebookresearch/DiT:models.py and train.py and from the HARoPE release's
model/models_HARoPE.py and its train script.
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

MODEL_SIZES = {
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
}  # hidden, depth, heads
PATCH_SIZES = (2, 4, 8)
MODEL_NAME = re.compile(rf"DiT-({'|'.join(MODEL_SIZES)})/({'|'.join(map(str, PATCH_SIZES))})")
LATENT_CHANNELS = 4  # channels of a latent; an image has 1 or 3
RELEASE_MATRIX_KEY = re.compile(r"blocks\.(\d+)\.attn\.learnable_rot\.(A_u|A_v|sigma)")
REQUIRED_KEYS = (
    "x_embedder.proj.weight",
    "y_embedder.embedding_table.weight",
    "blocks.0.attn.qkv.weight",
    "final_layer.linear.weight",
)
TABLE_KEY = "pos_embed"
# A running average of a constant drifts by half a unit in the last place over its rate of 1e-4,
# about 3e-4 of values up to 1
# (facebookresearch/DiT:train.py averages the frozen table as well); another table differs by about
# 1.
TABLE_TOLERANCE = 2e-3


class DetectedSizes(NamedTuple):
    """A state dict's sizes, as far as its keys tell, and how it is encoded."""

    config: dict[str, Option]
    encoding: detect_encoding.DetectedEncoding | None


def convert_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under this package's names: with the release's matrices stacked by layer.

    Raises:
        WeightsError: layers whose matrices are missing or of different shapes.
    """
    bare = dict(state)
    groups: dict[str, dict[int, Tensor]] = {}
    matches = {key: match for key in bare if (match := RELEASE_MATRIX_KEY.fullmatch(key))}
    for key, match in matches.items():
        layer, name = match.groups()
        groups.setdefault(name, {})[int(layer)] = bare.pop(key)
    for name, layers in groups.items():
        if (
            sorted(layers) != list(range(len(layers)))
            or len({v.shape for v in layers.values()}) != 1
            or len(layers) != block_count(bare)
        ):
            raise WeightsError(
                f"blocks.*.attn.learnable_rot.{name} is in {len(layers)} of {block_count(bare)}"
                " blocks or of several shapes; copy the file again"
            )
        bare[f"encoding.{name}"] = torch.stack(
            [layers[i] for i in range(len(layers))]
        )  # (L, H or 1, d, d) or (L, H or 1, d)
    return bare


def block_count(state: Mapping[str, Tensor]) -> int:
    """Number of blocks."""
    return 1 + max(
        (int(m[1]) for key in state if (m := re.match(r"blocks\.(\d+)\.", key))), default=-1
    )


def drop_position_table(state: Mapping[str, Tensor], encoding: str) -> dict[str, Tensor]:
    """A state dict without the frozen table of positions, which is computed here; it must be the
    computed one.

    Raises:
        WeightsError: another table, or weights trained with a table that are to run under another
            encoding.
    """
    left = dict(state)
    table = left.pop(TABLE_KEY, None)
    if table is None:
        return left
    if encoding != "ape":
        raise WeightsError(
            f"these weights were trained with ape (they hold {TABLE_KEY}), not with {encoding};"
            " give --encoding ape"
        )
    side = table_side(table)
    wanted = sincos_table(
        torch.cartesian_prod(torch.arange(side), torch.arange(side)).double(),
        table.shape[-1],
        10000.0,
    )
    off = float((table[0].double() - wanted).abs().max())
    if not off <= TABLE_TOLERANCE:
        raise WeightsError(
            f"{TABLE_KEY} differs from DiT's sin-cos table of {side} x {side} tokens by up to"
            f" {off:.2g}; no encoding here has this table"
        )
    return left


def table_side(table: Tensor) -> int:
    """Tokens along a side of a table (1, N, width) of positions; WeightsError if N is no square."""
    side = math.isqrt(table.shape[1]) if table.dim() == 3 else 0
    if side == 0 or side * side != table.shape[1]:
        raise WeightsError(
            f"{TABLE_KEY} has shape {tuple(table.shape)}, wanted (1, side * side, width); copy the"
            " file again"
        )
    return side


def detect_sizes(state: Mapping[str, Tensor]) -> DetectedSizes | None:
    """What the keys of a state dict under its own names tell; None if they are not DiT's."""
    if any(key not in state for key in REQUIRED_KEYS) or state[REQUIRED_KEYS[0]].dim() != 4:
        return None
    hidden, channels, patch, _ = state[REQUIRED_KEYS[0]].shape
    config: dict[str, Option] = {
        "hidden": hidden, "channels": channels, "patch": patch, "classes": len(state[REQUIRED_KEYS[1]]) - 1, "depth": block_count(state),
    }  # fmt: skip
    if len(state[REQUIRED_KEYS[3]]) == 2 * patch**2 * channels:
        config["learn_sigma"] = True
    if channels == LATENT_CHANNELS:
        config["latent"] = True
        heads = {(width, layers): heads for width, layers, heads in MODEL_SIZES.values()}.get(
            (hidden, block_count(state))
        )
        config |= {"heads": heads} if heads else {}
    if TABLE_KEY in state:
        config["size"] = table_side(state[TABLE_KEY]) * patch
        return DetectedSizes(config, detect_encoding.DetectedEncoding("ape", {}))
    told = detect_encoding.detect_from_state_dict(state)
    if told and (told.heads or told.head_dim):
        config["heads"] = told.heads or hidden // told.head_dim
    return DetectedSizes(config, told)


def unknown_model_message(model: str) -> str:
    """Return why a training file of another network than DiT is not registered."""
    known = f"DiT-{'|'.join(MODEL_SIZES)}/{'|'.join(map(str, PATCH_SIZES))}"
    if model.startswith("SiT"):
        return (
            f"the file's args name the network {model}: SiT has the keys of DiT, but predicts"
            " velocity from noise at time 0 to data at time 1, which no sampler here follows; give"
            f" weights of {known}"
        )
    return f"the file's args name the network {model}, which is not a DiT; give weights of {known}"


def config_from_training_args(args: Mapping[str, object]) -> dict[str, Option]:
    """Return the configuration that DiT's training arguments state: model, image_size, num_classes.

    Raises:
        WeightsError: The model is not a DiT. SiT has DiT's keys and predicts something else.
    """
    config: dict[str, Option] = {}
    model = args.get("model")
    if model is not None and not MODEL_NAME.fullmatch(str(model)):
        raise WeightsError(unknown_model_message(printable_line(str(model))))
    if named := MODEL_NAME.fullmatch(str(args.get("model", ""))):
        hidden, layers, heads = MODEL_SIZES[named[1]]
        config |= {
            "hidden": hidden,
            "depth": layers,
            "heads": heads,
            "patch": int(named[2]),
            "channels": LATENT_CHANNELS,
        }
    if isinstance(side := args.get("image_size"), int):
        config["size"] = side // VAE_SCALE_FACTOR
    if isinstance(classes := args.get("num_classes"), int):
        config["classes"] = classes
    return config
