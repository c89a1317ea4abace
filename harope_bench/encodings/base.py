"""The contract of a positional encoding, and the rotation that most of them share.

An encoding sees `positions`, an (N, axes) tensor of coordinates (row, column), never a grid size.
It belongs to one model and holds the parameters of all its layers. Angles are made on the CPU in
float64 and
only their cosines and sines go to the device: equal on every device, and some devices know no
float64.

A rotary encoding is up to three steps, each of which a backbone may ask for alone: `matrices`
before the rotation,
`turned` (the rotation), and `values`/`outputs` around the attention. `rotate` is the first two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from harope_bench.core import registry
from harope_bench.core.errors import MissingMemberError, OptionError
from harope_bench.core.record_base import Option
from harope_bench.encodings.scaling import Scaling, ScalingKind, frequencies

_CACHED_ANGLES = (
    WeakIdKeyDictionary()
)  # angles by the very tensor of positions, for as long as it lives


@dataclass(frozen=True)
class ModelShape:
    """What an encoding may know of its model.

    axes_dims: channels of a head that each axis turns, where they are not alike (FLUX: 16, 56, 56).
    grid: rows and columns of tokens at training, which a learned table needs.
    still_axes: how many of the first axes no image moves along (FLUX: 1); no parameter is learned
    for them.
    """

    width: int
    heads: int
    head_dim: int
    layers: int
    axes: int = 2
    axes_dims: tuple[int, ...] | None = None
    grid: tuple[int, int] | None = None
    static_axes: int = 0


@dataclass(frozen=True)
class EncodingProperties:
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


class EncodingOptions(BaseModel):
    """Typed options of an encoding; an unknown option is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RotaryOptions(EncodingOptions):
    """Options of axial rotation.

    base: of the geometric frequencies of each axis. axis_order: whether the first planes turn with
    the row or with the
    column. layout: a plane is two neighbouring channels (interleaved), or channels j and j +
    head_dim/2 (half-split).
    """

    base: float = Field(default=10000.0, gt=1)
    axis_order: Literal["row-first", "column-first"] = "row-first"
    layout: Literal["interleaved", "half-split"] = "interleaved"


class QueryKeyMatrices(NamedTuple):
    """What acts on queries and on keys of a layer: (heads or 1, head_dim, head_dim) each, x -> M
    x.
    """

    q: Tensor
    k: Tensor


class Encoding(nn.Module):
    """Additive part `embed` and rotary part `rotate`, both identity unless overridden."""

    options: BaseModel  # of the class Options; a plug-in that reads them annotates them as its own
    Options: ClassVar[type[BaseModel]] = EncodingOptions
    source: ClassVar[str] = ""  # the paper's equation or the code that it follows
    supported_scalings: ClassVar[tuple[ScalingKind, ...]] = (
        "none",
    )  # position scalings that mean something to it

    def __init__(self, shape: ModelShape, options: BaseModel):
        super().__init__()
        self.shape = shape
        self.options = options
        self.scaling = Scaling()

    @property
    def properties(self) -> EncodingProperties:
        """Return what it promises; a plug-in whose options do not change that states it as an
        attribute.
        """
        raise MissingMemberError(self, "facts")

    @classmethod
    def registered_name(cls) -> str:
        """The name it is registered under: its module's stem."""
        return cls.__module__.rsplit(".", 1)[-1].replace("_", "-")

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Tokens (B, N, width) with absolute positions (N, axes) added; same shape and dtype."""
        return tokens

    def matrices(self, layer: int) -> QueryKeyMatrices | None:
        """The learned matrices of a layer that act before the rotation; None where there are
        none.
        """
        return None

    def apply_rotation(
        self, q: Tensor, k: Tensor, positions: Tensor, layer: int
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, heads, N, head_dim) rotated by their positions, without any
        matrix.
        """
        return q, k

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, heads, N, head_dim) of attention layer `layer`, made
        position-aware.
        """
        if (pair := self.matrices(layer)) is not None:
            q = q @ pair.q.to(q.dtype).mT
            k = k @ pair.k.to(k.dtype).mT
        return self.apply_rotation(q, k, positions, layer)

    def transform_values(self, v: Tensor, layer: int) -> Tensor:
        """Values (B, heads, N, head_dim) before they are attended to."""
        return v

    def transform_outputs(self, out: Tensor, layer: int) -> Tensor:
        """What the heads found (B, heads, N, head_dim), before the output projection."""
        return out

    def without_matrices(self) -> Encoding:
        """The encoding that is left when `matrices` have been folded into the projections.

        Raises:
            OptionError: it does not fold.
        """
        raise OptionError(
            f"{self.registered_name()} has no matrix that folds into the projections; run it"
            " unfolded"
        )

    def rescale(self, scaling: Scaling) -> None:
        """Sets the position scaling of all calls that follow.

        Raises:
            OptionError: a kind that this encoding has no meaning for.
        """
        if scaling.kind not in self.supported_scalings:
            raise OptionError(
                f"pos_scaling {scaling.kind} means nothing to {self.registered_name()}; it takes"
                f" {', '.join(self.supported_scalings)}"
            )
        self.scaling = scaling


def load_encoding(name: str) -> type[Encoding]:
    """Return the class of the encoding of that name.

    Raises:
        UnknownName: No such encoding. PluginError: It is no class derived from Encoding.
            BenchError: It does not load.
    """
    return registry.load_plugin_class("encodings", name, Encoding)


def build_encoding(
    encoding_class: type[Encoding], shape: ModelShape, options: Mapping[str, Option]
) -> Encoding:
    """An encoding with checked options.

    Raises:
        OptionError: an option it does not know or a value it does not take; the known ones are
            named.
    """
    try:
        return encoding_class(shape, encoding_class.Options(**options))
    except ValidationError as error:
        first = error.errors()[0]
        wrong = ".".join(map(str, first["loc"]))
        known = ", ".join(encoding_class.Options.model_fields) or "none"
        raise OptionError(
            f"option {wrong!r} of {encoding_class.registered_name()}: {first['msg']}; its options:"
            f" {known}"
        ) from error


def axis_split(head_dim: int, axes: int, encoding_name: str) -> int:
    """Rotary planes an axis gets when all axes share `head_dim` alike.

    Raises:
        OptionError: the head does not divide into that many pairs of channels.
    """
    if head_dim % (2 * axes):
        raise OptionError(
            f"{encoding_name} needs a head size divisible by {2 * axes}, found {head_dim}; choose"
            " other heads or width"
        )
    return head_dim // (2 * axes)


def planes_per_axis(shape: ModelShape, what: str) -> tuple[int, ...]:
    """Rotary planes of each axis.

    Raises:
        OptionError: `axes_dims` do not add up to the head size or are odd, or the head does not
            divide alike.
    """
    if shape.axes_dims is None:
        return (axis_split(shape.head_dim, shape.axes, what),) * shape.axes
    if sum(shape.axes_dims) != shape.head_dim or any(d % 2 for d in shape.axes_dims):
        raise OptionError(
            f"{what} needs even axes_dims that add up to the head size {shape.head_dim}, found"
            f" {shape.axes_dims}"
        )
    return tuple(d // 2 for d in shape.axes_dims)


@dataclass(frozen=True, eq=False)
class RotationAngles:
    """Angles (N, head_dim/2) or (heads, N, head_dim/2), float32 or better, and what cos and sin are
    multiplied by.
    """

    angles: Tensor
    magnitude: Tensor | float = 1.0
    layout: str = "interleaved"
    cached_waves: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def cos_sin(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines on that device, float32; made once."""
        if device not in self.cached_waves:
            cos, sin = (
                (wave * self.magnitude).float().to(device)
                for wave in (self.angles.cos(), self.angles.sin())
            )
            self.cached_waves[device] = (cos, sin)
        return self.cached_waves[device]


def rotate_planes(x: Tensor, turns: RotationAngles) -> Tensor:
    """Rotates the planes of x (B, heads, N, head_dim): (a, b) -> (a cos - b sin, a sin + b cos).

    Returns:
        Same shape and dtype as x; the products are taken in float32.
    """
    cos, sin = turns.cos_sin(x.device)
    if turns.layout == "half-split":
        first, second = x.float().chunk(2, -1)  # (B, heads, N, head_dim/2) each
        return torch.cat((first * cos - second * sin, first * sin + second * cos), -1).to(x.dtype)
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)


def axial_angles(
    positions: Tensor, shape: ModelShape, options: RotaryOptions, scaling: Scaling, what: str
) -> RotationAngles:
    """Each axis turns its own planes, in the order of the axes or with row and column exchanged.

    The layers of one forward hand in the same tensor of positions and share its angles: at FLUX's
    2048 px they take 0.1 s to make.

    Source: paper equation 3; the release's model/models_HARoPE.py:265-282 has the row first,
    naver-ai/rope-vit:models/vit_rope.py:51-66
    the column.
    """
    key = (planes_per_axis(shape, what), options, scaling, torch.is_inference_mode_enabled())
    known = _CACHED_ANGLES.setdefault(positions, {})
    if key not in known:
        known[key] = _compute_axial_angles(positions, key[0], options, scaling)
    return known[key]


def _compute_axial_angles(
    positions: Tensor, planes: tuple[int, ...], options: RotaryOptions, scaling: Scaling
) -> RotationAngles:
    places = positions.cpu().double()
    order = list(range(len(planes)))
    if options.axis_order == "column-first":
        order[-2:] = reversed(order[-2:])  # row and column; FLUX's axis before them stays
    angles = []
    magnitude = []
    for axis in order:
        count = planes[axis]
        angles.append(
            places[:, axis, None] * frequencies(count, options.base, scaling, axis)
        )  # (N, planes)
        magnitude.append(torch.full((count,), scaling.magnitude(axis), dtype=torch.float64))
    return RotationAngles(torch.cat(angles, -1), torch.cat(magnitude), options.layout)
