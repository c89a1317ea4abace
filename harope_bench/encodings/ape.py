"""Absolute positional embedding: the fixed tables of DiT and SD3, and the learned one of DeiT."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from harope_bench.encodings import base
from harope_bench.encodings.scaling import geometric_frequencies


class Ape(base.Encoding):
    """An embedding of the absolute position that is added to the tokens, in three forms.

    sincos: [sin | cos] of the column in the first half of the width, of the row in the second
    half.
    sd3: the sincos table of table x table positions with distance base_grid/table, of which the
    image takes the centre crop.
    learned: one learned row for each token of the training grid; for another grid the table is
    resized with bicubic interpolation.
    """

    properties = base.EncodingProperties(
        relative=False, orthogonal=True, identity_at_init=False, per_head=False, foldable=False
    )
    source = (
        "facebookresearch/DiT:models.py:274-312; facebookresearch/deit:models_v2.py:198, 249-251; "
        "naver-ai/rope-vit:deit/models_v2_rope.py:171-183; diffusers:models/embeddings.py:336-357"
    )
    supported_scalings = ("none", "extend", "interpolate", "linear")

    class Options(base.EncodingOptions):
        """The options of an absolute embedding.

        form: the kind of table. base: base of the geometric frequencies.
        table, base_grid: sides of SD3's table and of its training grid, in tokens.
        """

        form: Literal["sincos", "learned", "sd3"] = "sincos"
        base: float = Field(default=10000.0, gt=1)
        table: int = Field(default=192, gt=0)
        base_grid: int = Field(default=64, gt=0)

    options: Options

    def __init__(self, shape: base.ModelShape, options: Options):
        super().__init__(shape, options)
        if options.form != "learned":
            return
        if shape.grid is None:
            raise base.OptionError(
                "ape form learned needs the training grid, which this backbone does not give; use"
                " form sincos"
            )
        self.table = nn.Parameter(torch.empty(1, shape.grid[0] * shape.grid[1], shape.width))
        nn.init.trunc_normal_(self.table, std=0.02)

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return tokens (B, N, width) plus the embedding of their positions.

        Args:
            positions: row and column (N, 2) of each token in the grid, from 0.

        Raises:
            OptionError: The positions exceed SD3's table, or the scaling cannot resize a learned
                table.
        """
        if self.options.form == "learned":
            return tokens + self._learned_rows(positions).to(tokens)

        coordinates = positions.cpu().double()
        if self.options.form == "sd3":
            coordinates = self._crop_positions(coordinates)
        elif self.scaling.kind in ("interpolate", "linear"):
            factors = [self.scaling.factor(axis) for axis in range(coordinates.shape[1])]
            coordinates = coordinates / torch.tensor(factors, dtype=torch.float64)
        table = sincos_table(coordinates, tokens.shape[-1], self.options.base)  # (N, width)
        return tokens + table.float().to(tokens)

    def _crop_positions(self, coordinates: Tensor) -> Tensor:
        """Return the coordinates (N, axes) of a grid from 0 within the centre crop of SD3's table.

        Source: diffusers:models/embeddings.py:336-357.
        """
        sides = (coordinates.amax(0) + 1).round()
        if (sides > self.options.table).any():
            grid_text = " x ".join(str(int(side)) for side in sides)
            raise base.OptionError(
                f"ape form sd3 has a table of {self.options.table} tokens a side, the image has"
                f" {grid_text} tokens; generate smaller images"
            )
        crop_start = torch.floor((self.options.table - sides) / 2)
        return (coordinates + crop_start) * self.options.base_grid / self.options.table

    def _learned_rows(self, positions: Tensor) -> Tensor:
        """Return the rows (N, width) of the learned table at integer positions.

        Raises:
            OptionError: The grid differs from the training grid and the scaling is `extend`.
        """
        assert self.shape.grid is not None
        table = self.table.float().unflatten(1, self.shape.grid)  # (1, rows, columns, width)
        table = table.permute(0, 3, 1, 2)  # (1, width, rows, columns)

        rows, columns = positions.long().unbind(1)
        grid = (int(rows.max()) + 1, int(columns.max()) + 1)
        if self.scaling.current_lengths:
            grid = (self.scaling.current_lengths[0], self.scaling.current_lengths[1])

        if self.scaling.kind == "extend" and grid != self.shape.grid:
            raise base.OptionError(
                "a learned table cannot be extended beyond its grid; use pos_scaling interpolate"
            )
        if grid != self.shape.grid:
            table = F.interpolate(table, grid, mode="bicubic", align_corners=False)
        return table[0, :, rows, columns].T  # (N, width)


def sincos_table(coordinates: Tensor, width: int, freq_base: float) -> Tensor:
    """Return the sine-cosine embedding (N, width), float64, of coordinates (N, axes).

    The last axis comes first, and each axis gives [sin | cos].

    Source: facebookresearch/DiT:models.py:274-312 (its grid puts the column first).
    """
    planes = base.axis_split(width, coordinates.shape[1], "ape")
    freqs = geometric_frequencies(planes, freq_base)
    angles = coordinates.flip(1)[:, :, None] * freqs  # (N, axes, planes)
    return torch.cat((angles.sin(), angles.cos()), -1).flatten(1)  # (N, width)


PLUGIN = Ape
