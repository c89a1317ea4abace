"""Published text-to-image transformers, built by diffusers on the meta device for uncounted rows.

Counts are those of the published network plus what an encoding adds to its layers. The sizes of
FLUX.1-dev are the defaults of its class. The sizes of SD3 medium are those of its published config,
which diffusers does not contain and which was not compared with a downloaded one.
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
    """A published transformer.

    build: returns the network.
    inputs: returns the inputs of a forward pass at a side in pixels.
    layer: sizes of the counted layer.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[int], dict[str, torch.Tensor]]
    layer: AttentionSizes
    n_layers: int
    text_tokens: int
    axes_dims: tuple[int, ...]


class CountedLayer(NamedTuple):
    """The counted layer of a published transformer with an encoding; it needs no diffusers.

    learned_parameters: what the encoding learns in this layer.
    parameters: what the encoding learns in all layers.
    """

    attention: AttentionSizes
    learned_parameters: LearnedParameters
    parameters: int
    tokens: int


def counted_layer(
    backbone: str, encoding: str, options: Mapping[str, Option], resolution: int
) -> CountedLayer:
    """Return the layer of a published transformer that Table 9 counts."""
    transformer = PUBLISHED_TRANSFORMERS[backbone]
    with torch.device("meta"):
        layer_encoding = encodings.build_encoding(
            encodings.load_encoding(encoding), _shape(transformer), options
        )
    return CountedLayer(
        transformer.layer,
        count_learned(layer_encoding),
        sum(p.numel() for p in layer_encoding.parameters()),
        (resolution // PIXELS_PER_TOKEN) ** 2 + transformer.text_tokens,
    )


def count_published(backbone: str, layer: CountedLayer, resolution: int) -> OperationCounts:
    """Return the counts of one forward pass of one image, with what an encoding adds to all layers.

    Raises:
        MissingExtraError: diffusers is not installed.
    """
    counts = _published_counts(backbone, resolution)
    attention = layer.attention
    encoding_macs = attention.multiply_adds(
        layer.tokens, layer.learned_parameters
    ) - attention.plain_multiply_adds(layer.tokens)
    return OperationCounts(
        counts.parameters + layer.parameters,
        counts.frozen_parameters,
        counts.macs + PUBLISHED_TRANSFORMERS[backbone].n_layers * encoding_macs,
    )


@lru_cache
def _published_counts(backbone: str, resolution: int) -> OperationCounts:
    """Return the counts of the published network, which are the same for every encoding."""
    with torch.device("meta"):
        return count_operations(
            PUBLISHED_TRANSFORMERS[backbone].build(),
            PUBLISHED_TRANSFORMERS[backbone].inputs(resolution),
        )


def _shape(transformer: PublishedTransformer) -> encodings.ModelShape:
    """Return the shape that encodings are built with; only the last two axes are of the image."""
    layer = transformer.layer
    axes_dims = transformer.axes_dims
    return encodings.ModelShape(
        layer.hidden,
        layer.heads,
        layer.width,
        transformer.n_layers,
        len(axes_dims),
        axes_dims,
        static_axes=len(axes_dims) - 2,
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
    meta_tensor = torch.empty(1, device="meta")
    return {
        "hidden_states": meta_tensor.new_empty(1, tokens, 64),
        "encoder_hidden_states": meta_tensor.new_empty(1, TEXT_TOKENS, 4096),
        "pooled_projections": meta_tensor.new_empty(1, 768),
        "timestep": meta_tensor,
        "guidance": meta_tensor,
        # On the CPU, because tables of angles are made on the device of the ids.
        "img_ids": torch.zeros(tokens, 3, device="cpu"),
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
    meta_tensor = torch.empty(1, device="meta")
    return {
        "hidden_states": meta_tensor.new_empty(1, 16, side // 8, side // 8),
        "encoder_hidden_states": meta_tensor.new_empty(1, SD3_TEXT_TOKENS, 4096),
        "pooled_projections": meta_tensor.new_empty(1, 2048),
        "timestep": meta_tensor,
    }


PUBLISHED_TRANSFORMERS = {
    "flux": PublishedTransformer(
        _flux, _flux_inputs, PAPER_LAYERS["flux"], 57, TEXT_TOKENS, (16, 56, 56)
    ),
    "sd3": PublishedTransformer(
        _sd3, _sd3_inputs, AttentionSizes(1536, 24, ALL_PROJECTIONS), 24, SD3_TEXT_TOKENS, (32, 32)
    ),
}
