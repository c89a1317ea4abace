"""Keys of mmdet's Mask2Former (Swin-S) to those of the class in transformers 5.

mmdet 2.x and 3.x published one training run under two sets of keys. Keys of 2.x are first converted
to 3.x, then each key to that of transformers. A tensor is rearranged where the two libraries store
it differently: query, key and value are one matrix in mmdet, and its patch merging has the order of
torch's Unfold (channel, then position) where transformers has Swin's (position, then channel).

Source: open-mmlab/mmdetection v2.28.2 and v3.3.0, mmdet/models; huggingface/transformers 5.23,
models/mask2former and models/swin.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from harope_bench.core.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

ENCODER = "model.pixel_level_module.encoder."
DECODER = "model.pixel_level_module.decoder."
TRANSFORMER = "model.transformer_module."
SWIN = ENCODER + "swin."
# tensors that only transformers' class has: a norm that nothing reads, and the loss
UNFILLED_PREFIXES = (SWIN + "layernorm.", "criterion.")
PATCH_ORDER = [0, 2, 1, 3]  # of a 2 x 2 patch: mmdet goes along rows, Swin down columns
QKV = ("q_proj", "k_proj", "v_proj")  # replace "*" in a key; the tensor is split in three

# keys of mmdet 2.x to 3.x: 2.x numbers attention layers in the order in which a layer calls them
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
# keys of mmdet 3.x to transformers'
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
    """Return a state dict of mmdet 2.x or 3.x under the keys of 3.x.

    Raises:
        WeightsError: Two keys become one.
    """
    tensors: dict[str, Tensor] = {}
    for key, tensor in state.items():
        mmdet3_key = _to_mmdet3_key(key)
        if mmdet3_key in tensors:
            raise WeightsError(
                f"{key} does not fit: two tensors for {mmdet3_key}; give the file of one checkpoint"
            )
        tensors[mmdet3_key] = tensor
    return tensors


def _to_mmdet3_key(key: str) -> str:
    """Return the key of mmdet 3.x for a key of 2.x or 3.x."""
    for pattern, replacement in MMDET2_PATTERNS:
        key = re.sub(pattern, replacement, key)
    return key


def convert_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of mmdet 2.x or 3.x as Mask2FormerForUniversalSegmentation has it.

    An unknown key stays as it is, so that a strict comparison reports it. Tensors that only
    transformers' class has (UNFILLED_PREFIXES) are not added.

    Raises:
        WeightsError: Two keys become one, or a tensor cannot be split or reordered.
    """
    tensors: dict[str, Tensor] = {}
    for key, tensor in to_mmdet3_names(state).items():
        tensors |= _converted_tensors(key, _target_key(key), tensor)
    return tensors


def _target_key(key: str) -> str:
    """Return transformers' key for a key of mmdet 3.x; "*" stands for query, key and value."""
    for pattern, replacement in KEY_PATTERNS:
        match = re.match(pattern, key)
        if match is not None:
            if isinstance(replacement, str):
                return match.expand(replacement) + key[match.end() :]
            return replacement(match) + key[match.end() :]
    return key


def _converted_tensors(key: str, target_key: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return a tensor under its new key: split in three, reordered, or as it is."""
    if "*" in target_key:
        if tensor.ndim == 0 or len(tensor) % 3:
            raise WeightsError(
                f"{key} does not fit: {tuple(tensor.shape)} does not split into query, key and"
                " value"
            )
        return {
            target_key.replace("*", name): part
            for name, part in zip(QKV, tensor.chunk(3), strict=True)
        }
    if ".downsample." in target_key:
        if tensor.ndim == 0 or tensor.shape[-1] % 4:
            raise WeightsError(
                f"{key} does not fit: {tuple(tensor.shape)} has a last axis that is not divisible"
                " by the four positions of a patch"
            )
        return {target_key: _reorder_patches(tensor)}
    return {target_key: tensor}


def _reorder_patches(tensor: Tensor) -> Tensor:
    """Return (..., C * 4) in Unfold's order as (..., 4 * C) in Swin's."""
    import torch

    channels_first = tensor.unflatten(-1, (-1, 4))[..., torch.tensor(PATCH_ORDER)]  # (..., C, 4)
    return channels_first.transpose(-1, -2).flatten(-2).contiguous()  # (..., 4 * C)
