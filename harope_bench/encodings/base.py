"""The base class of positional encodings, and the rotation that most of them share.

An encoding receives `positions`, an (N, axes) tensor of coordinates (row, column), never the size
of a grid. It belongs to one model and holds the parameters of all layers of that model. Angles are
computed on the CPU in float64. Only their cosines and sines move to the device, so they are equal
on every device, including devices without float64.

A rotary encoding has up to three steps, and a backbone may call each of them alone: `matrices`
before the rotation, `apply_rotation`, and `transform_values` / `transform_outputs` around the
attention. `rotate` applies the first two.
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

# Angles by the tensor object of positions. An entry is dropped together with its tensor.
_CACHED_ANGLES = WeakIdKeyDictionary()


@dataclass(frozen=True)
class ModelShape:
    """The dimensions of the model that an encoding is built for.

    width: channels of a token. heads, head_dim: attention heads and channels of each.
    axes_dims: channels of a head that each axis rotates, where they differ (FLUX: 16, 56, 56).
    grid: rows and columns of tokens at training; a learned table needs it.
    static_axes: how many of the first axes have one coordinate for all image tokens (FLUX: 1). No
    parameter is learned for them.
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
    """The properties that an encoding declares; the contract tests check each of them.

    relative: attention scores depend on differences of positions only.
    orthogonal: `rotate` preserves the lengths of queries and keys.
    identity_at_init: before training the encoding equals `rope-axial` with the same options.
    per_head: the heads of a layer may be encoded differently.
    foldable: the matrices can be multiplied into the query and key projections.
    """

    relative: bool
    orthogonal: bool
    identity_at_init: bool
    per_head: bool
    foldable: bool


class EncodingOptions(BaseModel):
    """The typed options of an encoding; an unknown option is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RotaryOptions(EncodingOptions):
    """The options of axial rotation.

    base: base of the geometric frequencies of each axis.
    axis_order: whether the row or the column rotates the first planes of a head.
    layout: a plane is two neighbouring channels (interleaved), or channels j and j + head_dim/2
    (half-split).
    """

    base: float = Field(default=10000.0, gt=1)
    axis_order: Literal["row-first", "column-first"] = "row-first"
    layout: Literal["interleaved", "half-split"] = "interleaved"


class QueryKeyMatrices(NamedTuple):
    """The matrices M that a layer applies to queries and to keys, x -> M x.

    Shapes: (heads or 1, head_dim, head_dim) each.
    """

    q: Tensor
    k: Tensor


class Encoding(nn.Module):
    """A positional encoding: additive part `embed`, rotary part `rotate`, identities by default.

    options: an instance of the class `Options`; a subclass annotates it with its own class.
    source: the equation of the paper or the lines of code that the encoding follows.
    supported_scalings: the kinds of position scaling that the encoding defines.
    """

    options: BaseModel
    Options: ClassVar[type[BaseModel]] = EncodingOptions
    source: ClassVar[str] = ""
    supported_scalings: ClassVar[tuple[ScalingKind, ...]] = ("none",)

    def __init__(self, shape: ModelShape, options: BaseModel):
        super().__init__()
        self.shape = shape
        self.options = options
        self.scaling = Scaling()

    @property
    def properties(self) -> EncodingProperties:
        """Return the declared properties.

        A plug-in whose properties do not depend on its options declares a class attribute instead.
        """
        raise MissingMemberError(self, "properties")

    @classmethod
    def registered_name(cls) -> str:
        """Return the registered name, which is the stem of the module."""
        return cls.__module__.rsplit(".", 1)[-1].replace("_", "-")

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return tokens (B, N, width) plus an embedding of positions (N, axes).

        Shape and dtype are those of `tokens`.
        """
        return tokens

    def matrices(self, layer: int) -> QueryKeyMatrices | None:
        """Return the learned matrices that act before the rotation in a layer.

        Returns:
            Matrices (heads or 1, head_dim, head_dim), or None if the encoding has none.
        """
        return None

    def apply_rotation(
        self, q: Tensor, k: Tensor, positions: Tensor, layer: int
    ) -> tuple[Tensor, Tensor]:
        """Return queries and keys (B, heads, N, head_dim) rotated by position, without matrices."""
        return q, k

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Return queries and keys after the layer's learned matrices and the rotary rotation.

        Args:
            q, k: queries and keys, (B, heads, N, head_dim).
            positions: coordinates of the tokens, (N, axes).
            layer: index of the attention layer.
        """
        layer_matrices = self.matrices(layer)
        if layer_matrices is not None:
            q = q @ layer_matrices.q.to(q.dtype).mT
            k = k @ layer_matrices.k.to(k.dtype).mT
        return self.apply_rotation(q, k, positions, layer)

    def transform_values(self, v: Tensor, layer: int) -> Tensor:
        """Return the values (B, heads, N, head_dim) that enter the attention."""
        return v

    def transform_outputs(self, out: Tensor, layer: int) -> Tensor:
        """Return the attention outputs (B, heads, N, head_dim) that enter the output projection."""
        return out

    def without_matrices(self) -> Encoding:
        """Return the encoding that remains after `matrices` were folded into the projections.

        Raises:
            OptionError: The encoding cannot be folded.
        """
        raise OptionError(
            f"{self.registered_name()} has no matrix that folds into the projections; run it"
            " unfolded"
        )

    def rescale(self, scaling: Scaling) -> None:
        """Set the position scaling of all later calls.

        Raises:
            OptionError: The encoding does not define this kind of scaling.
        """
        if scaling.kind not in self.supported_scalings:
            raise OptionError(
                f"pos_scaling {scaling.kind} does not apply to {self.registered_name()}; it takes"
                f" {', '.join(self.supported_scalings)}"
            )
        self.scaling = scaling


def load_encoding(name: str) -> type[Encoding]:
    """Return the class of the encoding with this registered name.

    Raises:
        UnknownNameError: There is no such encoding.
        PluginError: The plug-in is not a class derived from Encoding.
        BenchError: The plug-in cannot be imported.
    """
    return registry.load_plugin_class("encodings", name, Encoding)


def build_encoding(
    encoding_class: type[Encoding], shape: ModelShape, options: Mapping[str, Option]
) -> Encoding:
    """Return an encoding with validated options.

    Raises:
        OptionError: An option is unknown or its value is invalid. The message lists the options of
            the encoding.
    """
    try:
        return encoding_class(shape, encoding_class.Options(**options))
    except ValidationError as error:
        details = error.errors()[0]
        option_name = ".".join(map(str, details["loc"]))
        option_names = ", ".join(encoding_class.Options.model_fields) or "none"
        raise OptionError(
            f"option {option_name!r} of {encoding_class.registered_name()}: {details['msg']}; its"
            f" options: {option_names}"
        ) from error


def axis_split(head_dim: int, axes: int, encoding_name: str) -> int:
    """Return the number of rotary planes of an axis when all axes share `head_dim` equally.

    Raises:
        OptionError: `head_dim` does not divide into that number of pairs of channels.
    """
    if head_dim % (2 * axes):
        raise OptionError(
            f"{encoding_name} needs a head size divisible by {2 * axes}, found {head_dim}; choose"
            " other heads or width"
        )
    return head_dim // (2 * axes)


def planes_per_axis(shape: ModelShape, encoding_name: str) -> tuple[int, ...]:
    """Return the number of rotary planes of each axis.

    Raises:
        OptionError: `axes_dims` are odd or do not add up to the head size, or the head size does
            not divide equally.
    """
    if shape.axes_dims is None:
        return (axis_split(shape.head_dim, shape.axes, encoding_name),) * shape.axes

    has_odd_axis = any(d % 2 for d in shape.axes_dims)
    if sum(shape.axes_dims) != shape.head_dim or has_odd_axis:
        raise OptionError(
            f"{encoding_name} needs even axes_dims that add up to the head size {shape.head_dim},"
            f" found {shape.axes_dims}"
        )
    return tuple(d // 2 for d in shape.axes_dims)


@dataclass(frozen=True, eq=False)
class RotationAngles:
    """The rotation angle of every plane at every position, with cached cosines and sines.

    angles: (N, head_dim/2) or (heads, N, head_dim/2), radians, float32 or float64.
    magnitude: factor of cosines and sines, a number or (head_dim/2,); 1 except for YaRN.
    layout: which channels form a plane, as in `RotaryOptions`.
    """

    angles: Tensor
    magnitude: Tensor | float = 1.0
    layout: str = "interleaved"
    cached_waves: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def cos_sin(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return cosines and sines on a device, float32; each device computes them once."""
        if device not in self.cached_waves:
            cos = (self.angles.cos() * self.magnitude).float().to(device)
            sin = (self.angles.sin() * self.magnitude).float().to(device)
            self.cached_waves[device] = (cos, sin)
        return self.cached_waves[device]


def rotate_planes(x: Tensor, rotation: RotationAngles) -> Tensor:
    """Rotate the planes of x (B, heads, N, head_dim): (a, b) -> (a cos - b sin, a sin + b cos).

    Returns:
        Shape and dtype of x. The products are computed in float32.

    Source: RoFormer (arXiv 2104.09864), equation 34.
    """
    cos, sin = rotation.cos_sin(x.device)
    if rotation.layout == "half-split":
        a, b = x.float().chunk(2, -1)  # (B, heads, N, head_dim/2) each
        rotated = torch.cat((a * cos - b * sin, a * sin + b * cos), -1)  # (B, heads, N, head_dim)
        return rotated.to(x.dtype)

    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)  # (B, heads, N, head_dim/2) each
    pairs = torch.stack((a * cos - b * sin, a * sin + b * cos), -1)  # (B, heads, N, head_dim/2, 2)
    return pairs.flatten(-2).to(x.dtype)  # (B, heads, N, head_dim)


def axial_angles(
    positions: Tensor,
    shape: ModelShape,
    options: RotaryOptions,
    scaling: Scaling,
    encoding_name: str,
) -> RotationAngles:
    """Return the angles with which each axis rotates its own planes, for positions (N, axes).

    All layers of one forward pass receive the same tensor of positions and share its cached
    angles: computing them takes 0.1 s for FLUX at 2048 px.

    Source: paper equation 3. The row comes first in the release, model/models_HARoPE.py:265-282.
    The column comes first in naver-ai/rope-vit:models/vit_rope.py:51-66.
    """
    planes = planes_per_axis(shape, encoding_name)
    cache_key = (planes, options, scaling, torch.is_inference_mode_enabled())
    cached_angles = _CACHED_ANGLES.setdefault(positions, {})
    if cache_key not in cached_angles:
        cached_angles[cache_key] = _compute_axial_angles(positions, planes, options, scaling)
    return cached_angles[cache_key]


def _compute_axial_angles(
    positions: Tensor, planes: tuple[int, ...], options: RotaryOptions, scaling: Scaling
) -> RotationAngles:
    """Return the axial angles (N, head_dim/2), float64 on the CPU, for `planes` of each axis."""
    coordinates = positions.cpu().double()

    # Only row and column are exchanged. The static axis of FLUX stays in front of them.
    axis_order = list(range(len(planes)))
    if options.axis_order == "column-first":
        axis_order[-2:] = reversed(axis_order[-2:])

    angles = []
    magnitudes = []
    for axis in axis_order:
        axis_frequencies = frequencies(planes[axis], options.base, scaling, axis)
        angles.append(coordinates[:, axis, None] * axis_frequencies)  # (N, planes of the axis)
        magnitudes.append(torch.full((planes[axis],), scaling.magnitude(axis), dtype=torch.float64))
    return RotationAngles(torch.cat(angles, -1), torch.cat(magnitudes), options.layout)
