"""The text-to-image transformers as their authors publish them, built by diffusers on the meta device for rows without weights.

Counts are those of the published network plus what an encoding adds to its layers. Sizes: FLUX.1-dev are the class's own defaults; SD3
medium are its published config's, which diffusers does not hold and which was not checked here against a downloaded one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

import torch
from torch import nn

from harope_bench.analysis.cost.operation_count import Counts, counts, learned
from harope_bench.core.errors import MissingExtra
from harope_bench.core.record_base import Option
from harope_bench.encodings import base as encodings
from harope_bench.metrics.attention_cost import LAYERS, PATCH, TEXT_TOKENS, WHOLE, Attention, Learned

SD3_TEXT = 77 + 256


class Published(NamedTuple):
    """A transformer: how it is built, what its forward takes at a side in pixels, its counted layer, layers and text tokens."""

    build: Callable[[], nn.Module]
    inputs: Callable[[int], dict[str, torch.Tensor]]
    layer: Attention
    layers: int
    text: int
    axes_dims: tuple[int, ...]


class Layer(NamedTuple):
    """The counted layer, what an encoding learns in it and in all layers, and its tokens: known without diffusers."""

    layer: Attention
    learned: Learned
    parameters: int
    tokens: int


def layer(backbone: str, encoding: str, options: Mapping[str, Option], resolution: int) -> Layer:
    """The layer of a published transformer that Table 9 counts."""
    network = PUBLISHED[backbone]
    with torch.device("meta"):
        own = encodings.build(encodings.load_encoding(encoding), _shape(network), options)
    parameters = sum(p.numel() for p in own.parameters())
    return Layer(network.layer, learned(own), parameters, (resolution // PATCH) ** 2 + network.text)


def count(backbone: str, found: Layer, resolution: int) -> Counts:
    """One forward of one image of the whole transformer with what an encoding adds to its layers.

    Raises:
        MissingExtra: diffusers is not installed.
    """
    whole, one = _whole(backbone, resolution), found.layer
    extra = one.flops(found.tokens, found.learned) - one.plain_flops(found.tokens)
    return Counts(whole.parameters + found.parameters, whole.frozen, whole.macs + PUBLISHED[backbone].layers * extra)


@lru_cache
def _whole(backbone: str, resolution: int) -> Counts:
    """Counts of the published network, which are the same for every encoding's row."""
    with torch.device("meta"):
        return counts(PUBLISHED[backbone].build(), PUBLISHED[backbone].inputs(resolution))


def _shape(network: Published) -> encodings.Shape:
    one = network.layer
    axes = network.axes_dims
    return encodings.Shape(one.hidden, one.heads, one.width, network.layers, len(axes), axes, still_axes=len(axes) - 2)


def _diffusers() -> ModuleType:
    try:
        import diffusers
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "the published transformers come with diffusers, which is not installed", advice="pip install 'harope-bench[t2i]'"
        ) from error
    return diffusers


def _flux() -> nn.Module:
    return _diffusers().FluxTransformer2DModel(guidance_embeds=True)


def _flux_inputs(side: int) -> dict[str, torch.Tensor]:
    tokens, one = (side // PATCH) ** 2, torch.empty(1, device="meta")
    return {
        "hidden_states": one.new_empty(1, tokens, 64),
        "encoder_hidden_states": one.new_empty(1, TEXT_TOKENS, 4096),
        "pooled_projections": one.new_empty(1, 768),
        "timestep": one,
        "guidance": one,
        "img_ids": torch.zeros(tokens, 3, device="cpu"),  # tables of angles are made where the ids lie
        "txt_ids": torch.zeros(TEXT_TOKENS, 3, device="cpu"),
    }


def _sd3() -> nn.Module:
    return _diffusers().SD3Transformer2DModel(
        sample_size=128,
        num_layers=24,
        num_attention_heads=24,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        pos_embed_max_size=192,
    )


def _sd3_inputs(side: int) -> dict[str, torch.Tensor]:
    one = torch.empty(1, device="meta")
    return {
        "hidden_states": one.new_empty(1, 16, side // 8, side // 8),
        "encoder_hidden_states": one.new_empty(1, SD3_TEXT, 4096),
        "pooled_projections": one.new_empty(1, 2048),
        "timestep": one,
    }


PUBLISHED = {
    "flux": Published(_flux, _flux_inputs, LAYERS["flux"], 57, TEXT_TOKENS, (16, 56, 56)),
    "sd3": Published(_sd3, _sd3_inputs, Attention(1536, 24, WHOLE), 24, SD3_TEXT, (32, 32)),
}
