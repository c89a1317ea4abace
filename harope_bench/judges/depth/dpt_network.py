"""DPT-Hybrid in transformers: its sizes, and the names of the published file.

transformers' own defaults differ from the published network in the towers' norms (1e-12 for 1e-6),
the resampling of the first two stages
and the image size, which is 480 here; positions are brought there bilinear in either network. With
random weights it equals timm's network
under the published head; the epsilon that standardises its convolutions is timm's of today, 1e-8,
and earlier releases had another.

Source: isl-org/DPT:dpt/models.py, dpt/vit.py, dpt/blocks.py (also
Karine-Huang/T2I-CompBench:UniDet_eval/experts/depth).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from harope_bench.judges.generic.library_types import Network
from harope_bench.judges.generic.local_model import import_transformers

SIDE = 480
UNUSED_KEYS = (
    "pretrained.model.head.weight",
    "pretrained.model.head.bias",
)  # the classifier of its pretraining
Sizes = Mapping[str, int | list[int]]
SIZES: Sizes = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "neck_hidden_sizes": [256, 512, 768, 768],
}
BIT = "dpt.embeddings.backbone.bit."
NECK = "neck.reassemble_stage."
KEY_PATTERNS = {  # the published file's names to transformers'
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
    """transformers' network, images (1, 3, 480, 480) to inverse depth (1, 480, 480); its weights
    not set.
    """
    library = import_transformers()
    own = {
        "image_size": 384,
        "layer_norm_eps": 1e-6,
        "readout_type": "project",
        "reassemble_factors": [1, 1, 1, 0.5],
    }
    with torch.random.fork_rng(devices=[]):
        network: Network = library.DPTForDepthEstimation(
            library.DPTConfig(is_hybrid=True, **own, **sizes)
        )
    network.dpt.embeddings.image_size = (
        SIDE,
        SIDE,
    )  # it would refuse images of another size than the stored positions'
    found: nn.Module = network.eval()
    return found


def convert_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the published file under transformers' names; what is not known keeps its
    name.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in UNUSED_KEYS:
            continue
        if packed := PACKED_QKV.match(name):
            block, kind = packed.groups()
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                found[f"dpt.encoder.layer.{block}.attention.attention.{part}.{kind}"] = third
        else:
            found[_renamed(name)] = tensor
    return found


def _renamed(name: str) -> str:
    for pattern, other in KEY_PATTERNS.items():
        if re.match(pattern, name):
            return re.sub(pattern, other, name, count=1)
    return name
