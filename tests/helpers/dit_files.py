"""Files as the official DiT and the HARoPE release write them, small, and a tiny autoencoder of the
real class.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harope_bench.core import registry
from harope_bench.models.register_checkpoint import register

SMALL_CONFIG = {
    "hidden": 48,
    "depth": 3,
    "heads": 3,
    "patch": 2,
    "size": 8,
    "channels": 4,
    "classes": 10,
    "learn_sigma": True,
    "latent": True,
}


def state_of(
    config: dict[str, Any], encoding: str = "rope-axial", deviation: float = 0.1, **options: Any
) -> dict[str, Tensor]:
    """Random weights everywhere under this package's names: a fresh DiT predicts zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = registry.load_by_name("backbones", "dit").build(encoding, options, config)
    rng = torch.Generator().manual_seed(1)
    return {
        k: v + deviation * torch.randn(v.shape, generator=rng)
        for k, v in network.state_dict().items()
    }


def release_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under the release's names: matrices lie in the blocks."""
    values = {key: value for key, value in state.items() if not key.startswith("encoding.")}
    for key in state.keys() - values.keys():
        for layer, value in enumerate(state[key]):
            values[f"blocks.{layer}.attn.learnable_rot.{key.removeprefix('encoding.')}"] = (
                value.clone()
            )
    return values


def training_file(path: Path, state: dict[str, Tensor], **args: Any) -> Path:
    """{"model", "ema", "opt", "args"} as DiT's train.py saves them; the model is not the average,
    so that they can be told apart.
    """
    model = {key: value + 1 for key, value in state.items()}
    space = argparse.Namespace(
        **{"image_size": 64, "num_classes": 10, "global_seed": 0, "vae": "ema", **args}
    )
    torch.save(
        {
            "model": model,
            "ema": state,
            "opt": {"state": {}, "param_groups": [{"lr": 1e-4}]},
            "args": space,
        },
        path,
    )
    return path


def autoencoder(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A random AutoencoderKL, 8 pixels a latent, 4 channels."""
    from diffusers import AutoencoderKL

    fields = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (4, 4, 4, 4),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 2,
        "sample_size": 64,
        **changes,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoencoderKL(**fields).save_pretrained(folder)
    return folder


def register_dit(
    folder: Path, name: str = "d", of: str = "harope", file: Path | None = None, **fields: Any
) -> str:
    """A small checkpoint with its autoencoder, registered: this file, or a new one of an encoding
    that its keys tell.
    """
    path = file or training_file(
        folder / f"{name}.pt",
        with_table(state_of(SMALL_CONFIG, of))
        if of == "ape"
        else release_state(state_of(SMALL_CONFIG, of)),
    )
    drawing = {"vae": str(autoencoder(folder / "vae")), "tile": 2}
    config = {"heads": SMALL_CONFIG["heads"], **fields.pop("config", {})}
    register(
        name, path, {"drawing": drawing, "config": config, "suite": "digits", "steps": 2, **fields}
    )
    return name


def with_table(state: dict[str, Tensor], side: int = 4) -> dict[str, Tensor]:
    """An official APE checkpoint: the frozen table lies in the file. Written from its description,
    one number at a time.
    """
    width = state["y_embedder.embedding_table.weight"].shape[1]
    table = torch.zeros(1, side * side, width)
    for token in range(side * side):
        for half, token_result in enumerate((token % side, token // side)):  # the column first
            for i in range(width // 4):
                angle = token_result / 10000 ** (i / (width / 4))
                table[0, token, half * width // 2 + i] = math.sin(angle)
                table[0, token, half * width // 2 + width // 4 + i] = math.cos(angle)
    return {**state, "pos_embed": table}
