"""A checkpoint small enough that every verb runs on it in a second."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from harope_bench.core import registry
from harope_bench.models.register_checkpoint import register

CONFIG = {
    "hidden": 16,
    "depth": 1,
    "heads": 2,
    "patch": 7,
    "size": 28,
    "channels": 1,
    "classes": 10,
}
DRAWING = {"suite": "digits", "sampler": "flow", "steps": 3, "guidance": 1.5, "scale": "micro"}


def weights(path: Path, encoding: str = "rope-axial", seed: int = 0) -> Path:
    """Random weights everywhere, also where training starts at zero; so that pixels depend on
    everything.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = registry.load_by_name("backbones", "dit").build(encoding, {}, CONFIG)
        state = {k: v + 0.2 * torch.randn_like(v) for k, v in network.state_dict().items()}
    save_file(state, path)
    return path


def register_tiny(
    folder: Path, name: str = "tiny", encoding: str = "rope-axial", seed: int = 0
) -> str:
    """Registers such weights in the home that HAROPE_BENCH_HOME names, and returns the name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = weights(folder / f"{name}.safetensors", encoding, seed)
    register(
        name,
        path,
        {
            "encoding": encoding,
            "config": {"heads": CONFIG["heads"], "size": CONFIG["size"]},
            **DRAWING,
        },
    )
    return name
