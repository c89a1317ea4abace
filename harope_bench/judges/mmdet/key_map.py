"""Names of mmdet's Mask2Former (Swin-S, both key styles) to those of transformers 5's class.

mmdet 2.x and 3.x published one training run under two sets of names. The old names are first made
new ones, then each name is made
transformers' and its tensor rearranged where the two store it differently: query, key and value are
one matrix in mmdet, and its patch
merging has torch's Unfold order (channel, then place) where transformers has Swin's own (place,
then channel).

Source: open-mmlab/mmdetection v2.28.2 and v3.3.0, mmdet/models; huggingface/transformers 5.23,
models/mask2former and models/swin.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from harope_bench.core.errors import WeightsError

ENCODER = "model.pixel_level_module.encoder."
DECODER = "model.pixel_level_module.decoder."
TRANSFORMER = "model.transformer_module."
SWIN = ENCODER + "swin."
UNFILLED_PREFIXES = (
    SWIN + "layernorm.",
    "criterion.",
)  # of transformers' class alone: a norm that nothing reads, and the loss
PATCH_ORDER = [0, 2, 1, 3]  # of a 2 x 2 patch: mmdet goes along rows, Swin down columns
QKV = ("q_proj", "k_proj", "v_proj")  # what "*" in a target stands for; the tensor is split

# mmdet 2.x to 3.x: attention layers by number, in the order in which a layer calls them
MMDET2_PATTERNS = [
    (r"(pixel_decoder\.encoder\.layers\.\d+\.)attentions\.0\.", r"\1self_attn."),
    (r"(transformer_decoder\.layers\.\d+\.)attentions\.0\.", r"\1cross_attn."),
    (r"(transformer_decoder\.layers\.\d+\.)attentions\.1\.", r"\1self_attn."),
    (r"(panoptic_head\..*\.layers\.\d+\.)ffns\.0\.", r"\1ffn."),
]

_LAYER = r"layers\.(\d+)\."
_BLOCK = r"backbone\.stages\.(\d+)\.blocks\.(\d+)\."
_MERGE = r"backbone\.stages\.(\d+)\.downsample\."
_PIXEL = r"panoptic_head\.pixel_decoder\."
_QUERY = r"panoptic_head\.transformer_decoder\."
_HEAD = r"panoptic_head\."
_B = SWIN + r"encoder.layers.\1.blocks.\2."
_E = DECODER + r"encoder.layers.\1."
_T = TRANSFORMER + r"decoder.layers.\1."
KEY_PATTERNS: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"backbone\.patch_embed\.projection\.", SWIN + "embeddings.patch_embeddings.projection."),
    (r"backbone\.patch_embed\.norm\.", SWIN + "embeddings.norm."),
    (r"backbone\.norm(\d)\.", lambda m: f"{ENCODER}hidden_states_norms.stage{int(m[1]) + 1}."),
    (_BLOCK + r"norm1\.", _B + "layernorm_before."),
    (_BLOCK + r"norm2\.", _B + "layernorm_after."),
    (_BLOCK + r"attn\.w_msa\.qkv\.", _B + "attention.*."),
    (_BLOCK + r"attn\.w_msa\.proj\.", _B + "attention.o_proj."),
    (
        _BLOCK + r"attn\.w_msa\.relative_position_",
        _B + "attention.relative_position_bias.relative_position_",
    ),
    (_BLOCK + r"ffn\.layers\.0\.0\.", _B + "mlp.fc1."),
    (_BLOCK + r"ffn\.layers\.1\.", _B + "mlp.fc2."),
    (_MERGE, SWIN + r"encoder.layers.\1.downsample."),
    (_PIXEL + r"input_convs\.(\d)\.conv\.", DECODER + r"input_projections.\1.0."),
    (_PIXEL + r"input_convs\.(\d)\.gn\.", DECODER + r"input_projections.\1.1."),
    (_PIXEL + r"level_encoding\.weight", DECODER + "level_embed"),
    (_PIXEL + r"lateral_convs\.0\.conv\.", DECODER + "adapter_1.0."),
    (_PIXEL + r"lateral_convs\.0\.gn\.", DECODER + "adapter_1.1."),
    (_PIXEL + r"output_convs\.0\.conv\.", DECODER + "layer_1.0."),
    (_PIXEL + r"output_convs\.0\.gn\.", DECODER + "layer_1.1."),
    (_PIXEL + r"mask_feature\.", DECODER + "mask_projection."),
    (_PIXEL + r"encoder\." + _LAYER + r"self_attn\.", _E + "self_attn."),
    (_PIXEL + r"encoder\." + _LAYER + r"norms\.0\.", _E + "self_attn_layer_norm."),
    (_PIXEL + r"encoder\." + _LAYER + r"norms\.1\.", _E + "final_layer_norm."),
    (_PIXEL + r"encoder\." + _LAYER + r"ffn\.layers\.0\.0\.", _E + "fc1."),
    (_PIXEL + r"encoder\." + _LAYER + r"ffn\.layers\.1\.", _E + "fc2."),
    (_QUERY + _LAYER + r"cross_attn\.attn\.", _T + "cross_attn."),
    (_QUERY + _LAYER + r"self_attn\.attn\.in_proj_", _T + "self_attn.*."),
    (_QUERY + _LAYER + r"self_attn\.attn\.out_proj\.", _T + "self_attn.out_proj."),
    (_QUERY + _LAYER + r"norms\.0\.", _T + "cross_attn_layer_norm."),
    (_QUERY + _LAYER + r"norms\.1\.", _T + "self_attn_layer_norm."),
    (_QUERY + _LAYER + r"norms\.2\.", _T + "final_layer_norm."),
    (_QUERY + _LAYER + r"ffn\.layers\.0\.0\.", _T + "fc1."),
    (_QUERY + _LAYER + r"ffn\.layers\.1\.", _T + "fc2."),
    (_QUERY + r"post_norm\.", TRANSFORMER + "decoder.layernorm."),
    (_HEAD + r"query_embed\.", TRANSFORMER + "queries_embedder."),
    (_HEAD + r"query_feat\.", TRANSFORMER + "queries_features."),
    (_HEAD + r"level_embed\.", TRANSFORMER + "level_embed."),
    (
        _HEAD + r"mask_embed\.([024])\.",
        lambda m: f"{TRANSFORMER}decoder.mask_predictor.mask_embedder.{int(m[1]) // 2}.0.",
    ),
    (_HEAD + r"cls_embed\.", "class_predictor."),
]


def to_mmdet3_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of mmdet 2.x or 3.x under 3.x names; WeightsError where two of its names mean
    one tensor.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if (new := _renewed(name)) in found:
            raise WeightsError(
                f"{name} does not fit: two tensors for {new}; give one checkpoint's file"
            )
        found[new] = tensor
    return found


def _renewed(name: str) -> str:
    for pattern, new in MMDET2_PATTERNS:
        name = re.sub(pattern, new, name)
    return name


def convert_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of mmdet 2.x or 3.x as transformers' Mask2FormerForUniversalSegmentation has it.

    A name that is not known stays as it is, so that a strict comparison finds it. What
    transformers' class alone has (`UNFILLED`) is
    not made up.

    Raises:
        WeightsError: two of its names mean one tensor, or a tensor cannot be split or merged.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in to_mmdet3_names(state).items():
        target = _target(name)
        found |= _converted_tensors(name, target, tensor)
    return found


def _target(name: str) -> str:
    for pattern, new in KEY_PATTERNS:
        if (match := re.match(pattern, name)) is not None:
            start = match.expand(new) if isinstance(new, str) else new(match)
            return start + name[match.end() :]
    return name


def _converted_tensors(name: str, target: str, tensor: Tensor) -> dict[str, Tensor]:
    """The tensor under its new name: split in three, merged anew, or as it is."""
    if "*" in target:
        if tensor.ndim == 0 or len(tensor) % 3:
            raise WeightsError(
                f"{name} does not fit: {tuple(tensor.shape)} does not split into query, key and"
                " value"
            )
        return {
            target.replace("*", kind): part for kind, part in zip(QKV, tensor.chunk(3), strict=True)
        }
    if ".downsample." in target:
        if tensor.ndim == 0 or tensor.shape[-1] % 4:
            raise WeightsError(
                f"{name} does not fit: {tuple(tensor.shape)} has no four places of a patch in its"
                " last axis"
            )
        return {target: _reorder_patches(tensor)}
    return {target: tensor}


def _reorder_patches(tensor: Tensor) -> Tensor:
    """(..., C * 4) of Unfold's order to (..., 4 * C) of Swin's."""
    four = tensor.unflatten(-1, (-1, 4))[..., torch.tensor(PATCH_ORDER)]  # (..., C, 4)
    return four.transpose(-1, -2).flatten(-2).contiguous()
