"""The text-to-image transformers as their authors publish them, built by diffusers on the meta
device for rows without weights.

Counts are those of the published network plus what an encoding adds to its layers. Sizes:
FLUX.1-dev are the class's own defaults; SD3
medium are its published config's, which diffusers does not hold and which was not checked here
against a downloaded one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

import torch
from torch import nn

from harope_bench.analysis.cost.operation_count import (
    OperationCounts,
    count_learned,
    count_operations,
)
from harope_bench.core.errors import MissingExtraError
from harope_bench.core.record_base import Option
from harope_bench.encodings import base as encodings
from harope_bench.metrics.attention_cost import (
    ALL_PROJECTIONS,
    PAPER_LAYERS,
    PIXELS_PER_TOKEN,
    TEXT_TOKENS,
    AttentionSizes,
    LearnedParameters,
)

SD3_TEXT_TOKENS = 77 + 256


class PublishedTransformer(NamedTuple):
    """A transformer: how it is built, what its forward takes at a side in pixels, its counted
    layer, layers and text tokens.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[int], dict[str, torch.Tensor]]
    layer: AttentionSizes
    n_layers: int
    text_tokens: int
    axes_dims: tuple[int, ...]


class CountedLayer(NamedTuple):
    """The counted layer, what an encoding learns in it and in all layers, and its tokens: known
    without diffusers.
    """

    attention: AttentionSizes
    learned: LearnedParameters
    parameters: int
    tokens: int


def counted_layer(
    backbone: str, encoding: str, options: Mapping[str, Option], resolution: int
) -> CountedLayer:
    """The layer of a published transformer that Table 9 counts."""
    network = PUBLISHED[backbone]
    with torch.device("meta"):
        own = encodings.build_encoding(encodings.load_encoding(encoding), _shape(network), options)
    parameters = sum(p.numel() for p in own.parameters())
    return CountedLayer(
        network.layer,
        count_learned(own),
        parameters,
        (resolution // PIXELS_PER_TOKEN) ** 2 + network.text_tokens,
    )


def count_published(backbone: str, found: CountedLayer, resolution: int) -> OperationCounts:
    """One forward of one image of the whole transformer with what an encoding adds to its layers.

    Raises:
        MissingExtra: diffusers is not installed.
    """
    whole = _published_counts(backbone, resolution)
    one = found.attention
    extra = one.flops(found.tokens, found.learned) - one.plain_flops(found.tokens)
    return OperationCounts(
        whole.parameters + found.parameters,
        whole.frozen_parameters,
        whole.macs + PUBLISHED[backbone].n_layers * extra,
    )


@lru_cache
def _published_counts(backbone: str, resolution: int) -> OperationCounts:
    """Counts of the published network, which are the same for every encoding's row."""
    with torch.device("meta"):
        return count_operations(PUBLISHED[backbone].build(), PUBLISHED[backbone].inputs(resolution))


def _shape(network: PublishedTransformer) -> encodings.ModelShape:
    one = network.layer
    axes = network.axes_dims
    return encodings.ModelShape(
        one.hidden,
        one.heads,
        one.width,
        network.n_layers,
        len(axes),
        axes,
        static_axes=len(axes) - 2,
    )


def _diffusers() -> ModuleType:
    try:
        import diffusers
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "the published transformers come with diffusers, which is not installed",
            advice="pip install 'harope-bench[t2i]'",
        ) from error
    return diffusers


def _flux() -> nn.Module:
    return _diffusers().FluxTransformer2DModel(guidance_embeds=True)


def _flux_inputs(side: int) -> dict[str, torch.Tensor]:
    tokens = (side // PIXELS_PER_TOKEN) ** 2
    one = torch.empty(1, device="meta")
    return {
        "hidden_states": one.new_empty(1, tokens, 64),
        "encoder_hidden_states": one.new_empty(1, TEXT_TOKENS, 4096),
        "pooled_projections": one.new_empty(1, 768),
        "timestep": one,
        "guidance": one,
        "img_ids": torch.zeros(
            tokens, 3, device="cpu"
        ),  # tables of angles are made where the ids lie
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
        "encoder_hidden_states": one.new_empty(1, SD3_TEXT_TOKENS, 4096),
        "pooled_projections": one.new_empty(1, 2048),
        "timestep": one,
    }


PUBLISHED = {
    "flux": PublishedTransformer(
        _flux, _flux_inputs, PAPER_LAYERS["flux"], 57, TEXT_TOKENS, (16, 56, 56)
    ),
    "sd3": PublishedTransformer(
        _sd3, _sd3_inputs, AttentionSizes(1536, 24, ALL_PROJECTIONS), 24, SD3_TEXT_TOKENS, (32, 32)
    ),
}
