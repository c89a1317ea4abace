"""A CLIP of both towers, small and with random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CLIP_SIZES: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 32, "head_width": 16, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


def clip_model(quick_gelu: bool = True) -> torch.nn.Module:
    """Return open_clip's whole model, built in its own way."""
    from open_clip.model import CLIP

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CLIP(
            16, CLIP_SIZES["vision_cfg"], CLIP_SIZES["text_cfg"], quick_gelu=quick_gelu
        ).eval()


def random_clip_weights() -> dict[str, Tensor]:
    """Return random weights under the names and with the extra entries of OpenAI's file."""
    rng = torch.Generator().manual_seed(1)
    state = {
        k: v + 0.3 * torch.randn(v.shape, generator=rng)
        for k, v in clip_model().state_dict().items()
    }
    return {
        **state,
        "input_resolution": torch.tensor(224),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }
