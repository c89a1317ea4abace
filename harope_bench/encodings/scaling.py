"""Position scaling: how rotary frequencies change when an image is larger than those of the
training.

It acts on the rotation alone; a learned matrix before it stays as it is. Every axis has its own
factor
s = length now / length at training ("decoupled" in whlzy/FiT:fit/model/rope.py), never below 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ScalingKind = Literal["none", "linear", "ntk", "ntk-by-parts", "yarn", "extend", "interpolate"]
ROTARY_SCALINGS: tuple[ScalingKind, ...] = ("none", "linear", "ntk", "ntk-by-parts", "yarn")
NTK_TO_LINEAR = (1.25, 0.75)  # turns over the training length between which NTK gives way to linear
PLAIN_TO_NTK = (16.0, 2.0)
YARN_BETAS = (32.0, 1.0)


@dataclass(frozen=True)
class Scaling:
    """What is done, the lengths at training and now, one number an axis; empty lengths mean no
    change.
    """

    kind: ScalingKind = "none"
    train_lengths: tuple[int, ...] = ()
    current_lengths: tuple[int, ...] = ()

    def factor(self, axis: int) -> float:
        """s of an axis, at least 1; 1 where nothing is scaled."""
        if self.kind in ("none", "extend") or not self.train_lengths:
            return 1.0
        return max(1.0, self.current_lengths[axis] / self.train_lengths[axis])

    def magnitude(self, axis: int) -> float:
        """What cosines and sines of an axis are multiplied by: YaRN's 0.1 ln s + 1, on q and on
        k.
        """
        return 0.1 * math.log(self.factor(axis)) + 1.0 if self.kind == "yarn" else 1.0


def frequencies(planes: int, base: float, scaling: Scaling, axis: int) -> Tensor:
    """Frequencies (planes,) of an axis, float64, radians per unit step.

    Unscaled: base^(-i/planes) (RoFormer, section 3.2.2). linear: divided by s (arXiv 2306.15595).
    ntk: base becomes
    base * s^(d/(d-2)), d = 2 planes. ntk-by-parts and yarn (arXiv 2309.00071): between these by the
    number of turns that
    a plane makes over the training length; betas as in whlzy/FiT:fit/model/rope.py:141-181.
    """
    plain = geometric_frequencies(planes, base)
    s = scaling.factor(axis)
    if s == 1.0:
        return plain
    linear = plain / s
    ntk = (
        geometric_frequencies(planes, base * s ** (planes / (planes - 1)))
        if planes > 1
        else plain / s
    )
    length = scaling.train_lengths[axis]
    if scaling.kind == "ntk":
        return ntk
    if scaling.kind == "ntk-by-parts":
        return _blend_frequencies(
            plain,
            _blend_frequencies(ntk, linear, NTK_TO_LINEAR, base, length),
            PLAIN_TO_NTK,
            base,
            length,
        )
    if scaling.kind == "yarn":
        return _blend_frequencies(plain, linear, YARN_BETAS, base, length)
    return linear


def geometric_frequencies(planes: int, base: float) -> Tensor:
    """base^(-i/planes), i < planes; float64."""
    return base ** (-torch.arange(planes, dtype=torch.float64) / planes)


def _blend_frequencies(
    fast: Tensor, slow: Tensor, turns: tuple[float, float], base: float, length: int
) -> Tensor:
    """`fast` for planes that turn more than turns[0] times over `length`, `slow` below turns[1], a
    ramp between.
    """
    planes = len(fast)
    first, last = (
        2 * planes * math.log(length / (t * 2 * math.pi)) / (2 * math.log(base)) for t in turns
    )
    low = max(math.floor(first), 0)
    high = min(math.ceil(last), 2 * planes - 1)
    ramp = ((torch.arange(planes, dtype=torch.float64) - low) / (high - low or 0.001)).clamp(0, 1)
    return slow * ramp + fast * (1 - ramp)
