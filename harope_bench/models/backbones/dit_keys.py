"""Key names of the files of DiT, its successors and the HARoPE release, and the sizes they reveal.

Source: facebookresearch/DiT:models.py and train.py; model/models_HARoPE.py of the HARoPE release;
willisma/SiT:models.py; sihyun-yu/REPA:models/sit.py and utils.py;
hustvl/LightningDiT:models/lightningdit.py; LTH14/JiT:model_jit.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from harope_bench.core.errors import WeightsError
from harope_bench.core.record_base import Option
from harope_bench.encodings import detect_encoding
from harope_bench.encodings.ape import sincos_table
from harope_bench.encodings.scaling import geometric_frequencies
from harope_bench.models.backbones.dit_families import FamilyName

# Hidden width, depth and heads of the published sizes.
MODEL_SIZES = {
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
    "H": (1280, 32, 16),  # JiT
    "1p0B": (1536, 24, 24),  # LightningDiT
    "1p6B": (1792, 28, 28),  # LightningDiT
}
PATCH_SIZES = (2, 4, 8)
MODEL_NAME = re.compile(rf"(LightningDiT|DiT|SiT|JiT)-({'|'.join(MODEL_SIZES)})/(\d+)")
MODEL_PATCH_SIZES = {"DiT": (2, 4, 8), "SiT": (2, 4, 8), "LightningDiT": (1, 2), "JiT": (16, 32)}
JIT_CONTEXT_STARTS = {12: 4, 24: 8, 32: 10}  # Block that receives JiT's label tokens, by depth.
LATENT_CHANNELS = 4  # Channels of a latent; an image has 1 or 3.
RELEASE_MATRIX_KEY = re.compile(r"blocks\.(\d+)\.attn\.learnable_rot\.(A_u|A_v|sigma)")
PATCH_KEYS = ("x_embedder.proj.weight", "x_embedder.proj1.weight")  # JiT has two layers.
REQUIRED_KEYS = (
    "y_embedder.embedding_table.weight",
    "blocks.0.attn.qkv.weight",
    "final_layer.linear.weight",
)
TABLE_KEY = "pos_embed"
CONTEXT_KEY = "in_context_posemb"
# Tables of cosines and sines (N, head_dim) that LightningDiT saves beside its weights. JiT computes
# them, but some copies of its code save them.
ROPE_KEY = re.compile(r"(feat_rope|feat_rope_incontext)\.freqs_(cos|sin)")
PROJECTOR_PREFIX = "projectors."  # REPA's projections, which only its training loss uses.
LEGACY_BLOCK = re.compile(r"decoder_blocks\.(\d+)\.")
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

    The release stores one matrix per block; they are stacked to (layers, heads or 1, d, d). Older
    files of REPA number the blocks after its projections anew.

    Raises:
        WeightsError: Some blocks have no matrix, or the matrices have different shapes.
    """
    n_first_blocks = block_count(state_dict)
    converted_state = {
        LEGACY_BLOCK.sub(lambda m: f"blocks.{int(m[1]) + n_first_blocks}.", key): tensor
        for key, tensor in state_dict.items()
    }
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


def drop_position_table(
    state_dict: Mapping[str, Tensor], encoding: str, has_table: bool = False
) -> dict[str, Tensor]:
    """Return a state dict without the fixed table of positions, which is computed.

    Args:
        has_table: Whether the network itself adds the table, beside the encoding.

    Raises:
        WeightsError: The table differs from the computed one, or weights with a table are loaded
            under another encoding than "ape".
    """
    remaining = dict(state_dict)
    table = remaining.pop(TABLE_KEY, None)
    if table is None:
        return remaining
    if encoding != "ape" and not has_table:
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


def drop_rope_tables(state_dict: Mapping[str, Tensor], encoding: str) -> dict[str, Tensor]:
    """Return a state dict without the tables of RoPE, which the encoding computes.

    Raises:
        WeightsError: A table differs from that of "rope-axial", or weights with a table are loaded
            under another encoding.
    """
    tables = {key: state_dict[key] for key in state_dict if ROPE_KEY.fullmatch(key)}
    if tables and encoding != "rope-axial":
        raise WeightsError(
            f"these weights contain {min(tables)}, so they were trained with rope-axial, not with"
            f" {encoding}; give --encoding rope-axial"
        )
    for key, table in tables.items():
        difference = _rope_table_difference(key, table)
        if not difference <= TABLE_TOLERANCE:
            raise WeightsError(
                f"{key} differs from the table of rope-axial by up to {difference:.2g}; no encoding"
                " here has this table"
            )
    return {key: tensor for key, tensor in state_dict.items() if key not in tables}


def _rope_table_difference(key: str, table: Tensor) -> float:
    """Return the largest difference from the table of "rope-axial"; infinite for other shapes.

    The rows of JiT's label tokens come first: cosines of 1 and sines of 0.
    """
    if table.dim() != 2 or table.shape[1] % 4:
        return math.inf
    side = math.isqrt(len(table))
    n_context = len(table) - side * side if "incontext" in key else 0
    if side == 0 or n_context + side * side != len(table):
        return math.inf
    is_cosine = key.endswith("cos")

    # The row turns the first half of the planes, the column the second; a plane has two channels.
    frequencies = geometric_frequencies(table.shape[1] // 4, 10000.0)
    grid = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double()
    angles = torch.cat((grid[:, :1] * frequencies, grid[:, 1:] * frequencies), 1)
    angles = torch.cat((torch.zeros(n_context, angles.shape[1]), angles)).repeat_interleave(2, 1)
    expected_table = angles.cos() if is_cosine else angles.sin()
    return float((table.double() - expected_table).abs().max())


def detect_family(state_dict: Mapping[str, Tensor]) -> FamilyName | None:
    """Return the family whose marks the keys have; None for DiT and SiT, whose keys are equal."""
    if PATCH_KEYS[1] in state_dict or CONTEXT_KEY in state_dict:
        return "jit"
    if any(key.startswith(PROJECTOR_PREFIX) for key in state_dict):
        return "repa"
    marks = ("blocks.0.mlp.w12.weight", "blocks.0.norm1.weight", "feat_rope.freqs_cos")
    return "lightningdit" if any(mark in state_dict for mark in marks) else None


def detect_sizes(state_dict: Mapping[str, Tensor]) -> DetectedSizes | None:
    """Return what the keys reveal, under this package's names; None if they are not DiT's."""
    patch_key = next((key for key in PATCH_KEYS if key in state_dict), None)
    labels_key, _, output_key = REQUIRED_KEYS
    if patch_key is None or any(key not in state_dict for key in REQUIRED_KEYS):
        return None
    if state_dict[patch_key].dim() != 4:
        return None

    _, channels, patch, _ = state_dict[patch_key].shape
    hidden = state_dict[labels_key].shape[1]
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
    family = detect_family(state_dict)
    if channels == LATENT_CHANNELS or (family == "lightningdit" and channels > 3):
        config["latent"] = True
        if channels > LATENT_CHANNELS:
            config["latent_scale"] = 16
    if config.get("latent") or family == "jit":
        # The keys do not reveal the heads; such networks have one of the published sizes.
        for size_hidden, size_depth, heads in MODEL_SIZES.values():
            if (size_hidden, size_depth) == (hidden, depth):
                config["heads"] = heads
    config.update(_detect_blocks(state_dict, hidden))
    if family is not None:
        config["family"] = family
    if family == "jit":
        config.update(_detect_jit(state_dict, depth))
    return _detect_encoding(state_dict, config)


def _detect_blocks(state_dict: Mapping[str, Tensor], hidden: int) -> dict[str, Option]:
    """Return the parts of the first block that differ from DiT's, and the heads if keys tell."""
    config: dict[str, Option] = {}
    block = {
        key.removeprefix("blocks.0."): tensor
        for key, tensor in state_dict.items()
        if key.startswith("blocks.0.")
    }
    if "norm1.weight" in block:
        config["norm"] = "rms"
    if "attn.q_norm.weight" in block:
        config["qk_norm"] = "layer" if "attn.q_norm.bias" in block else "rms"
        config["heads"] = hidden // len(block["attn.q_norm.weight"])
    if "mlp.w3.weight" in block:
        config["mlp"] = "swiglu"
        config["mlp_width"] = block["mlp.w3.weight"].shape[1]
    elif "mlp.fc1.weight" in block and len(block["mlp.fc1.weight"]) != 4 * hidden:
        config["mlp_width"] = len(block["mlp.fc1.weight"])
    modulation = block.get("adaLN_modulation.1.weight")
    if modulation is not None and len(modulation) == 4 * hidden:
        config["has_shift"] = False
    return config


def _detect_jit(state_dict: Mapping[str, Tensor], depth: int) -> dict[str, Option]:
    """Return the sizes of JiT's patch embedding and label tokens."""
    config: dict[str, Option] = {}
    if PATCH_KEYS[1] in state_dict:
        config["bottleneck"] = len(state_dict[PATCH_KEYS[1]])
    if CONTEXT_KEY in state_dict:
        config["context_tokens"] = state_dict[CONTEXT_KEY].shape[1]
        if depth in JIT_CONTEXT_STARTS:
            config["context_start"] = JIT_CONTEXT_STARTS[depth]
    return config


def _detect_encoding(state_dict: Mapping[str, Tensor], config: dict[str, Option]) -> DetectedSizes:
    """Return the sizes with those that tables reveal, and the encoding."""
    hidden = int(config["hidden"])
    rope_tables = [tensor for key, tensor in state_dict.items() if ROPE_KEY.fullmatch(key)]
    if TABLE_KEY in state_dict:
        config["size"] = table_side(state_dict[TABLE_KEY]) * int(config["patch"])
    if rope_tables and rope_tables[0].dim() == 2:
        config["heads"] = hidden // rope_tables[0].shape[1]
    if rope_tables or (config.get("family") == "jit" and TABLE_KEY in state_dict):
        if TABLE_KEY in state_dict:
            config["has_table"] = True
        return DetectedSizes(config, detect_encoding.DetectedEncoding("rope-axial", {}))
    if TABLE_KEY in state_dict:
        return DetectedSizes(config, detect_encoding.DetectedEncoding("ape", {}))
    encoding = detect_encoding.detect_from_state_dict(state_dict)
    if encoding and (encoding.heads or encoding.head_dim):
        config["heads"] = encoding.heads or hidden // encoding.head_dim
    return DetectedSizes(config, encoding)
