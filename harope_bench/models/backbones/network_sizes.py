"""What this package's transformers share: validated sizes, encoding, position scaling, cost
inputs.
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
    """Base class of a network's sizes.

    Each network declares the fields below itself, in the order in which error messages list them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    if TYPE_CHECKING:
        hidden: int
        heads: int
        patch: int
        size: int  # Side of the training inputs.

    @property
    def layers(self) -> int:
        """Number of attention layers."""
        raise MissingMemberError(self, "layers")

    @property
    def vae_scale_factor(self) -> int:
        """Pixels of the image along a side of one latent; 1 for a network of pixels."""
        return 1

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens at training."""
        return (self.size // self.patch, self.size // self.patch)

    def grid_at(self, resolution: int) -> tuple[int, int]:
        """Return rows and columns of tokens for images with a side of `resolution` pixels."""
        side = resolution // (self.vae_scale_factor * self.patch)
        return (side, side)

    @property
    def shape(self) -> encodings.ModelShape:
        """What an encoding needs to know of the network."""
        return encodings.ModelShape(
            self.hidden, self.heads, self.hidden // self.heads, self.layers, grid=self.grid
        )


SizesT = TypeVar("SizesT", bound=NetworkSizes)


def parse_sizes(
    config_class: type[SizesT],
    backbone: str,
    options: Mapping[str, Option],
    hint: str = "",
    size_advice: str = "choose another size",
) -> SizesT:
    """Return validated sizes.

    Args:
        backbone: Its name for an error message.
        hint: Text after the error message of a wrong field.
        size_advice: What to do about a size that the patches do not divide.

    Raises:
        OptionError: A field is wrong or missing; the message names it.
    """
    try:
        sizes = config_class.model_validate(dict(options))
    except ValidationError as error:
        keys = [field.alias or name for name, field in config_class.model_fields.items()]
        raise OptionError(
            f"{backbone} config {validation_summary(error)}; its fields: {', '.join(keys)}{hint}"
        ) from error

    if sizes.hidden % sizes.heads:
        raise OptionError(
            f"{backbone} hidden {sizes.hidden} does not divide into {sizes.heads} heads; choose"
            " another number"
        )
    if sizes.size % sizes.patch:
        raise OptionError(
            f"{backbone} size {sizes.size} does not divide into patches of {sizes.patch};"
            f" {size_advice}"
        )
    return sizes


def build_encoding(
    encoding: str, options: Mapping[str, Option], sizes: NetworkSizes
) -> encodings.Encoding:
    """Return a freshly initialised encoding for a network of these sizes."""
    return encodings.build_encoding(encodings.load_encoding(encoding), sizes.shape, options)


def grid_positions(rows: int, columns: int) -> Tensor:
    """Return row-major coordinates (row, column) as (rows * columns, 2) float32 on the CPU."""
    return torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()


def rescale(encoding: encodings.Encoding, sizes: NetworkSizes, settings: Settings) -> None:
    """Apply the position scaling of these settings to the encoding, if they state one.

    Raises:
        OptionError: The scaling does not apply to this encoding.
    """
    if settings.pos_scaling is not None:
        encoding.rescale(
            Scaling(settings.pos_scaling, sizes.grid, sizes.grid_at(settings.resolution))
        )


def check_resolution(sizes: NetworkSizes, resolution: int) -> None:
    """Raise OptionError for a resolution that the patches do not divide.

    Args:
        sizes: Sizes of the network.
        resolution: Side of the images in pixels.
    """
    unit = sizes.patch * sizes.vae_scale_factor
    if resolution % unit:
        nearest = max(unit, round(resolution / unit) * unit)
        latents_text = f"latents of {sizes.vae_scale_factor} " if sizes.vae_scale_factor > 1 else ""
        raise OptionError(
            f"a resolution of {resolution} pixels does not divide into patches of {sizes.patch}"
            f" {latents_text}pixels; choose --resolution {nearest}"
        )


def build_checked_encoding(
    checkpoint: Checkpoint, sizes: NetworkSizes, settings: Settings
) -> encodings.Encoding:
    """Return a fresh encoding of a checkpoint at these settings, tried on one token.

    Raises:
        OptionError: The axes do not divide a head, or the scaling does not apply.
    """
    with torch.random.fork_rng(devices=[]):
        encoding = build_encoding(checkpoint.encoding, checkpoint.options, sizes)
    rescale(encoding, sizes, settings)

    query = torch.zeros(1, sizes.heads, 1, sizes.hidden // sizes.heads)  # (B, heads, N, head_dim)
    origin = grid_positions(1, 1)
    encoding.embed(torch.zeros(1, 1, sizes.hidden), origin)
    encoding.rotate(query, query, origin, 0)
    return encoding


def ramp(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return values of `shape` that rise linearly from -1 to 1, as input of a profiled network.

    Args:
        like: Tensor whose device and dtype the values have.
    """
    return torch.linspace(-1, 1, math.prod(shape), device=like.device, dtype=like.dtype).view(shape)


def middle_times(batch: int, like: Tensor) -> Tensor:
    """Return the middle timestep of the diffusion process, 500 of 1,000, as (batch,) float32.

    Args:
        batch: Number of images.
        like: Tensor whose device the timesteps have.
    """
    return torch.full((batch,), 500.0, device=like.device)


def counted_layer(sizes: NetworkSizes) -> attention_cost.AttentionSizes:
    """Return the sizes of the attention layer whose parameters and FLOPs are reported."""
    return attention_cost.AttentionSizes(sizes.hidden, sizes.heads, attention_cost.ALL_PROJECTIONS)


class FoldingBackbone(Backbone[NetworkT], Generic[NetworkT]):
    """Base class of backbones whose matrices fold into their projections (DiT, DeiT)."""

    def fold(self, network: NetworkT, description: str) -> None:
        """Fold the encoding's matrices into the projections, in place.

        Raises:
            WeightsError: The outputs differ afterwards.
        """
        raise MissingMemberError(self, "fold")

    def export(
        self, checkpoint: Checkpoint, state_dict: Mapping[str, Tensor], is_folded: bool
    ) -> ExportedWeights:
        """Return the weights under this package's names, with the matrices folded if asked for."""
        network = self.load(checkpoint, state_dict)
        if not is_folded:
            return ExportedWeights(network.state_dict(), changed_fields={})

        self.fold(network, f"checkpoint {checkpoint.name}")
        changed_fields = folding.plain_encoding_fields(network.encoding, checkpoint.drawing)
        return ExportedWeights(network.state_dict(), changed_fields)
