"""DPT-Hybrid in transformers: its sizes, and the keys of the published file.

The defaults of transformers differ from the published network in the norms of the towers (1e-12
for 1e-6), the resampling of the first two stages and the image size, which is 480 here. Both
networks resize position embeddings bilinear. With random weights the network equals timm's network
under the published head. The epsilon that standardises its convolutions is that of today's timm,
1e-8; earlier releases had another.

Source: isl-org/DPT:dpt/models.py, dpt/vit.py, dpt/blocks.py (also
Karine-Huang/T2I-CompBench:UniDet_eval/experts/depth).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from harope_bench.judges.generic.library_types import Network
from harope_bench.judges.generic.local_model import import_transformers

if TYPE_CHECKING:
    from torch import Tensor, nn

SIDE = 480
# classifier of the pretraining
UNUSED_KEYS = ("pretrained.model.head.weight", "pretrained.model.head.bias")
Sizes = Mapping[str, int | list[int]]
SIZES: Sizes = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "neck_hidden_sizes": [256, 512, 768, 768],
}
BIT = "dpt.embeddings.backbone.bit."
NECK = "neck.reassemble_stage."
KEY_PATTERNS = {  # patterns of the published file's keys to transformers' keys
    r"pretrained\.model\.cls_token$": "dpt.embeddings.cls_token",
    r"pretrained\.model\.pos_embed$": "dpt.embeddings.position_embeddings",
    r"pretrained\.model\.patch_embed\.proj\.": "dpt.embeddings.projection.",
    r"pretrained\.model\.patch_embed\.backbone\.stem\.conv\.": BIT + "embedder.convolution.",
    r"pretrained\.model\.patch_embed\.backbone\.stem\.norm\.": BIT + "embedder.norm.",
    r"pretrained\.model\.patch_embed\.backbone\.stages\.(\d+)\.blocks\.": (
        BIT + r"encoder.stages.\1.layers."
    ),
    r"pretrained\.model\.norm\.": "dpt.layernorm.",
    r"pretrained\.model\.blocks\.(\d+)\.norm1\.": r"dpt.encoder.layer.\1.layernorm_before.",
    r"pretrained\.model\.blocks\.(\d+)\.norm2\.": r"dpt.encoder.layer.\1.layernorm_after.",
    r"pretrained\.model\.blocks\.(\d+)\.attn\.proj\.": (
        r"dpt.encoder.layer.\1.attention.output.dense."
    ),
    r"pretrained\.model\.blocks\.(\d+)\.mlp\.fc1\.": r"dpt.encoder.layer.\1.intermediate.dense.",
    r"pretrained\.model\.blocks\.(\d+)\.mlp\.fc2\.": r"dpt.encoder.layer.\1.output.dense.",
    r"pretrained\.act_postprocess3\.0\.project\.0\.": NECK + "readout_projects.2.0.",
    r"pretrained\.act_postprocess4\.0\.project\.0\.": NECK + "readout_projects.3.0.",
    r"pretrained\.act_postprocess3\.3\.": NECK + "layers.2.projection.",
    r"pretrained\.act_postprocess4\.3\.": NECK + "layers.3.projection.",
    r"pretrained\.act_postprocess4\.4\.": NECK + "layers.3.resize.",
    **{rf"scratch\.layer{n}_rn\.": f"neck.convs.{n - 1}." for n in (1, 2, 3, 4)},
    **{
        rf"scratch\.refinenet{n}\.out_conv\.": f"neck.fusion_stage.layers.{4 - n}.projection."
        for n in (1, 2, 3, 4)
    },
    **{
        rf"scratch\.refinenet{n}\.resConfUnit(\d)\.conv(\d)\.": (
            rf"neck.fusion_stage.layers.{4 - n}.residual_layer\1.convolution\2."
        )
        for n in (1, 2, 3, 4)
    },
    r"scratch\.output_conv\.": "head.head.",
}
PACKED_QKV = re.compile(r"pretrained\.model\.blocks\.(\d+)\.attn\.qkv\.(weight|bias)$")


def build_network(sizes: Sizes) -> nn.Module:
    """Return transformers' network with its weights not set.

    It maps images (1, 3, 480, 480) to inverse depth (1, 480, 480).
    """
    import torch

    transformers = import_transformers()
    config = transformers.DPTConfig(
        is_hybrid=True,
        image_size=384,
        layer_norm_eps=1e-6,
        readout_type="project",
        reassemble_factors=[1, 1, 1, 0.5],
        **sizes,
    )
    with torch.random.fork_rng(devices=[]):
        network: Network = transformers.DPTForDepthEstimation(config)
    # otherwise it would reject images of another size than that of the stored positions
    network.dpt.embeddings.image_size = (SIDE, SIDE)
    evaluation_network: nn.Module = network.eval()
    return evaluation_network


def convert_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the published file under transformers' keys.

    The packed query, key and value of a block are split. An unknown key stays as it is.
    """
    tensors: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key in UNUSED_KEYS:
            continue
        if match := PACKED_QKV.match(key):
            block, parameter = match.groups()
            for name, part in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                tensors[f"dpt.encoder.layer.{block}.attention.attention.{name}.{parameter}"] = part
        else:
            tensors[_convert_key(key)] = tensor
    return tensors


def _convert_key(key: str) -> str:
    """Return transformers' key for a key of the published file."""
    for pattern, replacement in KEY_PATTERNS.items():
        if re.match(pattern, key):
            return re.sub(pattern, replacement, key, count=1)
    return key
