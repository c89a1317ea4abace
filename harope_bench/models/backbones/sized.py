"""What the transformers of this package share: sizes that are checked, their encoding, its position scaling, and what is counted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from harope_bench.core.errors import MissingMemberError, OptionError
from harope_bench.core.record_base import Option, fault
from harope_bench.core.schema import Checkpoint, Settings
from harope_bench.encodings import base as encodings
from harope_bench.encodings.scaling import Scaling
from harope_bench.metrics import attention_cost
from harope_bench.models.backbones import folding
from harope_bench.models.backbones.base import Backbone, Exported, Network

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Sizes(BaseModel):
    """Base class of sizes. Each kind declares the fields below in the order in which its errors list them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    if TYPE_CHECKING:
        hidden: int
        heads: int
        patch: int
        size: int  # side of what it was trained on

    @property
    def layers(self) -> int:
        """Attention layers."""
        raise MissingMemberError(self, "layers")

    @property
    def scale(self) -> int:
        """Pixels along a side of one value of the network's input."""
        return 1

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens at training."""
        return (self.size // self.patch, self.size // self.patch)

    def grid_at(self, resolution: int) -> tuple[int, int]:
        """Rows and columns of tokens of an image of that side in pixels."""
        side = resolution // (self.scale * self.patch)
        return (side, side)

    @property
    def shape(self) -> encodings.Shape:
        """What an encoding may know of such a network."""
        return encodings.Shape(self.hidden, self.heads, self.hidden // self.heads, self.layers, grid=self.grid)


SizesT = TypeVar("SizesT", bound=Sizes)


def checked_sizes(kind: type[SizesT], backbone: str, options: Mapping[str, Option], hint: str = "", size_advice: str = "") -> SizesT:
    """Return sizes that fit together.

    Args:
        backbone: its name, for the message. hint: added to what is said of a wrong field. size_advice: what to do about a wrong size.

    Raises:
        OptionError: Names the field.
    """
    try:
        sizes = kind.model_validate(dict(options))
    except ValidationError as error:
        raise OptionError(f"{backbone} config {fault(error)}; its fields: {', '.join(kind.model_fields)}{hint}") from error
    if sizes.hidden % sizes.heads:
        raise OptionError(f"{backbone} hidden {sizes.hidden} does not divide into {sizes.heads} heads; choose another number")
    if sizes.size % sizes.patch:
        advice = size_advice or "choose another size"
        raise OptionError(f"{backbone} size {sizes.size} does not divide into patches of {sizes.patch}; {advice}")
    return sizes


def encode(encoding: str, options: Mapping[str, Option], sizes: Sizes) -> encodings.Encoding:
    """Return a freshly initialised encoding for a network of this size."""
    return encodings.build(encodings.load_encoding(encoding), sizes.shape, options)


def grid_positions(rows: int, columns: int) -> Tensor:
    """Row-major coordinates (rows * columns, 2), float32, on the CPU: row, column."""
    return torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()


def rescale(encoding: encodings.Encoding, sizes: Sizes, settings: Settings) -> None:
    """Tell the encoding how to meet the grid of these settings; nothing is told where nothing is asked.

    Raises:
        OptionError: A kind of scaling that means nothing to it.
    """
    if settings.pos_scaling is not None:
        encoding.rescale(Scaling(settings.pos_scaling, sizes.grid, sizes.grid_at(settings.resolution)))


def check_resolution(sizes: Sizes, resolution: int) -> None:
    """Raise OptionError for a resolution that the patches do not tile."""
    unit = sizes.patch * sizes.scale
    if resolution % unit:
        near = max(unit, round(resolution / unit) * unit)
        patches = f"patches of {sizes.patch}{' latents' if sizes.scale > 1 else ''}"
        raise OptionError(f"resolution {resolution} does not divide into {patches}; --resolution {near} does")


def check_encoding(checkpoint: Checkpoint, sizes: Sizes, settings: Settings) -> encodings.Encoding:
    """Return a fresh encoding of a checkpoint at these settings, tried with one token and no network.

    Raises:
        OptionError: Heads that the axes do not divide, or a scaling without meaning.
    """
    with torch.random.fork_rng(devices=[]):
        encoding = encode(checkpoint.encoding, checkpoint.options, sizes)
    rescale(encoding, sizes, settings)
    token, place = torch.zeros(1, sizes.heads, 1, sizes.hidden // sizes.heads), grid_positions(1, 1)
    encoding.embed(torch.zeros(1, 1, sizes.hidden), place)
    encoding.rotate(token, token, place, 0)
    return encoding


def ramp(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return pixels (B, C, H, W) from -1 to 1 on the device and in the dtype of `like`."""
    return torch.linspace(-1, 1, math.prod(shape), device=like.device, dtype=like.dtype).view(shape)


def middle_times(batch: int, like: Tensor) -> Tensor:
    """Return times (B,) float32 of the middle of the process, 500 of 1,000, on the device of `like`."""
    return torch.full((batch,), 500.0, device=like.device)


def counted_layer(sizes: Sizes) -> attention_cost.Attention:
    """Return the attention layer whose cost is counted."""
    return attention_cost.Attention(sizes.hidden, sizes.heads, attention_cost.WHOLE)


class FoldingBackbone(Backbone[Network], Generic[Network]):
    """Base class of backbones whose matrices move into their projections (DiT, DeiT)."""

    def fold(self, network: Network, what: str) -> None:
        """Move the encoding's matrices into the projections, in place; WeightsError where the outputs differ."""
        raise MissingMemberError(self, "fold")

    def export(self, checkpoint: Checkpoint, state: Mapping[str, Tensor], folded: bool) -> Exported:
        """Return the weights under this package's names, as they are or folded into a model of the plain encoding."""
        network = self.load(checkpoint, state)
        if not folded:
            return Exported(network.state_dict(), {})
        self.fold(network, f"checkpoint {checkpoint.name}")
        return Exported(network.state_dict(), folding.left_over(network.encoding, checkpoint.drawing))
