"""A small Depth Anything with random weights, as save_pretrained writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")


def save_depth_model(folder: Path, **changes: Any) -> Path:
    """Save a small Depth Anything with random weights and its image steps; return the folder."""
    config = transformers.DepthAnythingConfig(
        backbone_config=transformers.Dinov2Config(
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            mlp_ratio=2,
            out_features=["stage1", "stage2", "stage3", "stage4"],
            reshape_hidden_states=False,
            apply_layernorm=True,
        ),
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
        patch_size=14,
        **changes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = transformers.DepthAnythingForDepthEstimation(config)
    for parameter in network.head.parameters():
        parameter.data = parameter.data.abs() + 0.01  # the last ReLU must not hide the map
    network.save_pretrained(folder)
    steps = {"height": 42, "width": 42}
    transformers.DPTImageProcessor(
        size=steps, do_resize=True, ensure_multiple_of=14
    ).save_pretrained(folder)
    return folder
