"""Sizes of small detectors of the real classes, and weights that make their answers differ."""

from __future__ import annotations

from typing import Any

SWIN_SIZES = {
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 4,
    "image_size": 64,
}
DETR_SIZES = {
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
}


def scale_parameters(network: Any, part: str, factor: float, shift: float = 0.0) -> Any:
    """Scale the parameters of a part in place, so that answers differ and are sure; return the
    network.
    """
    for name, tensor in network.named_parameters():
        if part in name:
            tensor.data = tensor.data * factor + shift
    return network
