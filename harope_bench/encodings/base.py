"""The contract of a positional encoding, and the rotation that most of them share.

An encoding sees `positions`, an (N, axes) tensor of coordinates (row, column), never a grid size.
It belongs to one model and holds the parameters of all its layers. Angles are made on the CPU in float64 and
only their cosines and sines go to the device: equal on every device, and some devices know no float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from harope_bench.errors import OptionError


@dataclass(frozen=True)
class Shape:
    """What an encoding may know of its model."""

    width: int
    heads: int
    head_dim: int
    layers: int
    axes: int = 2


@dataclass(frozen=True)
class Facts:
    """What an encoding promises; the contract tests hold it to each.

    relative: scores depend on position differences only. orthogonal: `rotate` keeps lengths.
    identity_at_init: before training it equals `rope-axial` (rotary) with the same options.
    per_head: heads may differ. foldable: its matrix can be moved into the q/k projections.
    """

    relative: bool
    orthogonal: bool
    identity_at_init: bool
    per_head: bool
    foldable: bool


class Options(BaseModel):
    """Typed options of an encoding; an unknown option is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Encoding(nn.Module):
    """Additive part `embed` and rotary part `rotate`, both identity unless overridden."""

    facts: ClassVar[Facts]
    Options: ClassVar[type[BaseModel]] = Options
    source: ClassVar[str]

    def __init__(self, shape: Shape, options: Any):
        super().__init__()
        self.shape = shape
        self.options = options

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Tokens (B, N, width) with absolute positions (N, axes) added; same shape and dtype."""
        return tokens

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, heads, N, head_dim) of attention layer `layer`, made position-aware."""
        return q, k


def build(kind: type[Encoding], shape: Shape, options: dict[str, Any]) -> Encoding:
    """An encoding with checked options.

    Raises:
        OptionError: an option it does not know or a value it does not take; the known ones are named.
    """
    try:
        return kind(shape, kind.Options(**options))
    except ValidationError as error:
        first = error.errors()[0]
        wrong = ".".join(map(str, first["loc"]))
        known = ", ".join(kind.Options.model_fields) or "none"
        raise OptionError(f"option {wrong!r} of {kind.__module__.rsplit('.', 1)[-1]}: {first['msg']}; its options: {known}") from error


def axis_split(head_dim: int, axes: int, what: str) -> int:
    """Rotary planes an axis gets when all axes share `head_dim` alike.

    Raises:
        OptionError: the head does not divide into that many pairs of channels.
    """
    if head_dim % (2 * axes):
        raise OptionError(f"{what} needs a head size divisible by {2 * axes}, found {head_dim}; choose other heads or width")
    return head_dim // (2 * axes)


def spectrum(planes: int, base: float) -> Tensor:
    """Frequencies base^(-i/planes), i < planes; float64, radians per unit step. RoFormer, section 3.2.2."""
    return base ** (-torch.arange(planes, dtype=torch.float64) / planes)


def turn(x: Tensor, angles: Tensor) -> Tensor:
    """Rotates planes (2j, 2j+1) of x by angles.

    Args:
        x: (B, heads, N, head_dim). angles: (N, head_dim/2) or (heads, N, head_dim/2), float32 or better.

    Returns:
        Same shape and dtype as x; the products are taken in float32.
    """
    cos, sin = angles.cos().float().to(x.device), angles.sin().float().to(x.device)
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)  # (B, heads, N, head_dim/2) each
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)


def axial_angles(positions: Tensor, head_dim: int, base: float, what: str) -> Tensor:
    """Angles (N, head_dim/2), float64: the first planes turn with axis 0, the next with axis 1, ...

    Source: paper equation 3; the release's model/models_HARoPE.py:265-282 has the same order (row first).
    """
    frequencies = spectrum(axis_split(head_dim, positions.shape[1], what), base)
    return (positions.cpu().double()[:, :, None] * frequencies).flatten(1)  # (N, axes * planes)
