"""Judges of prompts as their real classes, small and with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_clip import CLIP_SIZES, random_clip_weights
from tiny_depth import save_depth_model
from tiny_detectors import DETR_SIZES, scale_parameters
from tiny_prompts import readings
from tiny_vlm import save_vlm

from harope_bench.core import registry
from harope_bench.suites import noun_chunks


def models(folder: Path) -> str:
    """Saves the judges' networks and returns what --judge is told."""
    detector(folder / "detr")
    save_vlm(folder / "llava")
    save_depth_model(folder / "depth")
    torch.save(random_clip_weights(), folder / "clip.pt")
    roles = {
        "detector": "detector:detr",
        "detector-2d": "detector:detr",
        "vqa": "vlm:llava",
        "depth": "depth:depth",
    }
    return ",".join(f"{role}={text.replace(':', f':{folder}/')}" for role, text in roles.items())


def detector(folder: Path) -> None:
    """A small DETR of two classes, its answers spread and sure."""
    transformers = pytest.importorskip("transformers")
    resnet = {
        "embedding_size": 8,
        "hidden_sizes": [8] * 4,
        "depths": [1] * 4,
        "layer_type": "basic",
        "out_features": ["stage4"],
    }
    names = {0: "Cat", 1: "Dog"}
    config = transformers.DetrConfig(
        backbone_config=transformers.ResNetConfig(**resnet),
        use_timm_backbone=False,
        backbone=None,
        num_queries=6,
        d_model=16,
        id2label=names,
        label2id={v: k for k, v in names.items()},
        **DETR_SIZES,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = scale_parameters(
            transformers.DetrForObjectDetection(config), "query_position_embeddings", 40
        )
        scale_parameters(network, "class_labels_classifier.weight", 20).save_pretrained(folder)
    transformers.DetrImageProcessor(size={"shortest_edge": 48, "longest_edge": 64}).save_pretrained(
        folder
    )


CANARIES = {
    name: type(registry.load_by_name("judges", name)).self_checks
    for name in ("clip-vit-l-14", "clipscore", "vlm", "depth")
}


def stand_in(patch: pytest.MonkeyPatch, folder: Path, home: Path) -> None:
    """Makes the home, the small CLIP and the readings the ones in use. Random weights cannot pass a
    self-check, so none is asked for.
    """
    own_readings = readings()
    patch.setenv("HAROPE_BENCH_HOME", str(home))
    patch.setattr(noun_chunks, "_rows", lambda version: own_readings)
    for name in ("clip-vit-l-14", "clipscore"):
        plugin = registry.load_by_name("judges", name)
        patch.setattr(plugin, "sizes", CLIP_SIZES)
        patch.setenv(plugin.source.environment_variable, str(folder / "clip.pt"))
    for name in CANARIES:
        patch.setattr(type(registry.load_by_name("judges", name)), "self_checks", lambda self: ())
