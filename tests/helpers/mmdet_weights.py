"""Weights of Mask2Former Swin-S as mmdet names them, every tensor random; names and shapes are
those of mmdet 2.28.2 and 3.3.0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

KEYS = Path(__file__).parents[1] / "gold" / "mmdet_mask2former_keys.txt"
SMALL_SIZES = (320, 256)  # the scale at which a forward takes seconds and not ten


class Key(NamedTuple):
    """One tensor: its name in mmdet 2.x and 3.x, its shape."""

    old: str
    new: str
    shape: tuple[int, ...]


def keys() -> list[Key]:
    records = []
    for line in KEYS.read_text().splitlines():
        old_part, new_part, shape = line.split()
        records.append(
            Key(
                old_part,
                old_part if new_part == "=" else new_part,
                tuple(int(n) for n in shape.split("x")),
            )
        )
    return records


def window() -> Tensor:
    """Which entry of a window's table the bias of two places is, (49, 49): (row difference + 6) *
    13 + column difference + 6.
    """
    values = torch.arange(49)
    row, column = values // 7, values % 7
    return (row[:, None] - row + 6) * 13 + column[:, None] - column + 6


def random_state(style: str, seed: int = 0) -> dict[str, Tensor]:
    """A state dict in the names of mmdet "old" (2.x) or "new" (3.x); the same seed gives the same
    numbers under both.
    """
    rng = torch.Generator().manual_seed(seed)
    return {getattr(key, style): _tensor(key, rng) for key in keys()}


def _tensor(key: Key, rng: torch.Generator) -> Tensor:
    if key.new.endswith("relative_position_index"):
        return window()
    noise = torch.randn(key.shape, generator=rng)
    if key.new.endswith("weight") and len(key.shape) == 1:  # of a norm
        return 1 + 0.02 * noise
    if key.new == "panoptic_head.cls_embed.weight":  # so wide that some classes are sure
        return 0.4 * noise
    if key.new.startswith("panoptic_head.query"):
        return noise
    fan = key.shape[-1] if len(key.shape) == 2 else 1 if len(key.shape) == 1 else noise[0].numel()
    return noise / fan**0.5 if len(key.shape) > 1 else 0.02 * noise


def write(path: Path, style: str, **meta: Any) -> Path:
    """A checkpoint as OpenMMLab publishes it: torch's older format, the network under
    `state_dict`.
    """
    torch.save(
        {"meta": meta, "state_dict": random_state(style)},
        path,
        _use_new_zipfile_serialization=False,
    )
    return path
