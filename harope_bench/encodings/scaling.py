"""Position scaling: rotary frequencies for images larger than those of the training.

Scaling changes the rotation alone. A learned matrix before it stays as it is. Every axis has its
own factor s = current length / training length ("decoupled" in whlzy/FiT:fit/model/rope.py), which
is at least 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ScalingKind = Literal["none", "linear", "ntk", "ntk-by-parts", "yarn", "extend", "interpolate"]
ROTARY_SCALINGS: tuple[ScalingKind, ...] = ("none", "linear", "ntk", "ntk-by-parts", "yarn")

# Ranges of blending, as numbers of turns of a plane over the training length: (high, low). Between
# them the first kind of frequencies changes into the second.
NTK_TO_LINEAR = (1.25, 0.75)
PLAIN_TO_NTK = (16.0, 2.0)
YARN_BETAS = (32.0, 1.0)


@dataclass(frozen=True)
class Scaling:
    """A kind of position scaling, and the lengths of each axis at training and now, in tokens.

    Empty lengths mean that nothing is scaled.
    """

    kind: ScalingKind = "none"
    train_lengths: tuple[int, ...] = ()
    current_lengths: tuple[int, ...] = ()

    def factor(self, axis: int) -> float:
        """Return the factor s of an axis, at least 1; it is 1 if nothing is scaled."""
        if self.kind in ("none", "extend") or not self.train_lengths:
            return 1.0
        return max(1.0, self.current_lengths[axis] / self.train_lengths[axis])

    def magnitude(self, axis: int) -> float:
        """Return the factor of cosines and sines of an axis: 0.1 ln s + 1 for YaRN, otherwise 1.

        Source: arXiv 2309.00071 (YaRN); the factor applies to q and to k.
        """
        return 0.1 * math.log(self.factor(axis)) + 1.0 if self.kind == "yarn" else 1.0


def frequencies(planes: int, base: float, scaling: Scaling, axis: int) -> Tensor:
    """Return the frequencies (planes,) of an axis, float64, radians per unit step.

    none: base^(-i/planes) (RoFormer, section 3.2.2).
    linear: divided by s (arXiv 2306.15595).
    ntk: base becomes base * s^(d/(d-2)), d = 2 planes.
    ntk-by-parts and yarn (arXiv 2309.00071): a blend by the number of turns that a plane makes
    over the training length; betas as in whlzy/FiT:fit/model/rope.py:141-181.
    """
    unscaled = geometric_frequencies(planes, base)
    s = scaling.factor(axis)
    if s == 1.0:
        return unscaled

    linear = unscaled / s
    if planes > 1:
        ntk = geometric_frequencies(planes, base * s ** (planes / (planes - 1)))
    else:
        ntk = linear
    if scaling.kind == "ntk":
        return ntk

    train_length = scaling.train_lengths[axis]
    if scaling.kind == "ntk-by-parts":
        ntk_or_linear = _blend_frequencies(ntk, linear, NTK_TO_LINEAR, base, train_length)
        return _blend_frequencies(unscaled, ntk_or_linear, PLAIN_TO_NTK, base, train_length)
    if scaling.kind == "yarn":
        return _blend_frequencies(unscaled, linear, YARN_BETAS, base, train_length)
    return linear


def geometric_frequencies(planes: int, base: float) -> Tensor:
    """Return base^(-i/planes) for i < planes; (planes,), float64."""
    return base ** (-torch.arange(planes, dtype=torch.float64) / planes)


def _blend_frequencies(
    many_turns: Tensor,
    few_turns: Tensor,
    turn_limits: tuple[float, float],
    base: float,
    train_length: int,
) -> Tensor:
    """Return frequencies (planes,): `many_turns` for fast planes, `few_turns` for slow ones.

    A plane is fast where it turns more than turn_limits[0] times over the training length, and slow
    where it turns less than turn_limits[1] times. Between the limits the blend is linear in the
    index of the plane.

    Source: arXiv 2309.00071 (YaRN); whlzy/FiT:fit/model/rope.py:141-181.
    """
    planes = len(many_turns)
    head_dim = 2 * planes
    fast_bound, slow_bound = (
        head_dim * math.log(train_length / (turns * 2 * math.pi)) / (2 * math.log(base))
        for turns in turn_limits
    )
    low = max(math.floor(fast_bound), 0)
    high = min(math.ceil(slow_bound), head_dim - 1)

    indices = torch.arange(planes, dtype=torch.float64)
    ramp = ((indices - low) / (high - low or 0.001)).clamp(0, 1)
    return few_turns * ramp + many_turns * (1 - ramp)
