"""What the transformers of this package share: sizes that are checked, their encoding, its position
scaling, and what is counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from harope_bench.core.errors import MissingMemberError, OptionError
from harope_bench.core.record_base import Option, validation_summary
from harope_bench.core.schema import Checkpoint, Settings
from harope_bench.encodings import base as encodings
from harope_bench.encodings.scaling import Scaling
from harope_bench.metrics import attention_cost
from harope_bench.models.backbones import folding
from harope_bench.models.backbones.base import Backbone, ExportedWeights, NetworkT

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class NetworkSizes(BaseModel):
    """Base class of sizes. Each kind declares the fields below in the order in which its errors
    list them.
    """

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
    def pixels_per_value(self) -> int:
        """Pixels along a side of one value of the network's input."""
        return 1

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens at training."""
        return (self.size // self.patch, self.size // self.patch)

    def grid_at(self, resolution: int) -> tuple[int, int]:
        """Rows and columns of tokens of an image of that side in pixels."""
        side = resolution // (self.pixels_per_value * self.patch)
        return (side, side)

    @property
    def shape(self) -> encodings.ModelShape:
        """What an encoding may know of such a network."""
        return encodings.ModelShape(
            self.hidden, self.heads, self.hidden // self.heads, self.layers, grid=self.grid
        )


SizesT = TypeVar("SizesT", bound=NetworkSizes)


def parse_sizes(
    kind: type[SizesT],
    backbone: str,
    options: Mapping[str, Option],
    hint: str = "",
    size_advice: str = "",
) -> SizesT:
    """Return sizes that fit together.

    Args:
        backbone: its name, for the message. hint: added to what is said of a wrong field.
            size_advice: what to do about a wrong size.

    Raises:
        OptionError: Names the field.
    """
    try:
        sizes = kind.model_validate(dict(options))
    except ValidationError as error:
        raise OptionError(
            f"{backbone} config {validation_summary(error)}; its fields:"
            f" {', '.join(kind.model_fields)}{hint}"
        ) from error
    if sizes.hidden % sizes.heads:
        raise OptionError(
            f"{backbone} hidden {sizes.hidden} does not divide into {sizes.heads} heads; choose"
            " another number"
        )
    if sizes.size % sizes.patch:
        advice = size_advice or "choose another size"
        raise OptionError(
            f"{backbone} size {sizes.size} does not divide into patches of {sizes.patch}; {advice}"
        )
    return sizes


def build_encoding(
    encoding: str, options: Mapping[str, Option], sizes: NetworkSizes
) -> encodings.Encoding:
    """Return a freshly initialised encoding for a network of this size."""
    return encodings.build_encoding(encodings.load_encoding(encoding), sizes.shape, options)


def grid_positions(rows: int, columns: int) -> Tensor:
    """Row-major coordinates (rows * columns, 2), float32, on the CPU: row, column."""
    return torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()


def rescale(encoding: encodings.Encoding, sizes: NetworkSizes, settings: Settings) -> None:
    """Tell the encoding how to meet the grid of these settings; nothing is told where nothing is
    asked.

    Raises:
        OptionError: A kind of scaling that means nothing to it.
    """
    if settings.pos_scaling is not None:
        encoding.rescale(
            Scaling(settings.pos_scaling, sizes.grid, sizes.grid_at(settings.resolution))
        )


def check_resolution(sizes: NetworkSizes, resolution: int) -> None:
    """Raise OptionError for a resolution that the patches do not tile."""
    unit = sizes.patch * sizes.pixels_per_value
    if resolution % unit:
        near = max(unit, round(resolution / unit) * unit)
        patches = f"patches of {sizes.patch}{' latents' if sizes.pixels_per_value > 1 else ''}"
        raise OptionError(
            f"resolution {resolution} does not divide into {patches}; --resolution {near} does"
        )


def check_encoding(
    checkpoint: Checkpoint, sizes: NetworkSizes, settings: Settings
) -> encodings.Encoding:
    """Return a fresh encoding of a checkpoint at these settings, tried with one token and no
    network.

    Raises:
        OptionError: Heads that the axes do not divide, or a scaling without meaning.
    """
    with torch.random.fork_rng(devices=[]):
        encoding = build_encoding(checkpoint.encoding, checkpoint.options, sizes)
    rescale(encoding, sizes, settings)
    token = torch.zeros(1, sizes.heads, 1, sizes.hidden // sizes.heads)
    place = grid_positions(1, 1)
    encoding.embed(torch.zeros(1, 1, sizes.hidden), place)
    encoding.rotate(token, token, place, 0)
    return encoding


def ramp(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return pixels (B, C, H, W) from -1 to 1 on the device and in the dtype of `like`."""
    return torch.linspace(-1, 1, math.prod(shape), device=like.device, dtype=like.dtype).view(shape)


def middle_times(batch: int, like: Tensor) -> Tensor:
    """Return times (B,) float32 of the middle of the process, 500 of 1,000, on the device of
    `like`.
    """
    return torch.full((batch,), 500.0, device=like.device)


def counted_layer(sizes: NetworkSizes) -> attention_cost.AttentionSizes:
    """Return the attention layer whose cost is counted."""
    return attention_cost.AttentionSizes(sizes.hidden, sizes.heads, attention_cost.ALL_PROJECTIONS)


class FoldingBackbone(Backbone[NetworkT], Generic[NetworkT]):
    """Base class of backbones whose matrices move into their projections (DiT, DeiT)."""

    def fold(self, network: NetworkT, what: str) -> None:
        """Move the encoding's matrices into the projections, in place; WeightsError where the
        outputs differ.
        """
        raise MissingMemberError(self, "fold")

    def export(
        self, checkpoint: Checkpoint, state: Mapping[str, Tensor], folded: bool
    ) -> ExportedWeights:
        """Return the weights under this package's names, as they are or folded into a model of the
        plain encoding.
        """
        network = self.load(checkpoint, state)
        if not folded:
            return ExportedWeights(network.state_dict(), {})
        self.fold(network, f"checkpoint {checkpoint.name}")
        return ExportedWeights(
            network.state_dict(),
            folding.plain_encoding_fields(network.encoding, checkpoint.drawing),
        )
