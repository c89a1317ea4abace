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
    """form = sincos adds [sin | cos] of the column to the first half of the width, of the row to
    the second half.

    sd3 is the same with positions base_grid/table apart, the needed grid cut from the middle of a
    table x table grid. learned has
    one free row for each token of the training grid; another grid is a bicubic enlargement of it.
    """

    facts = base.EncodingProperties(
        relative=False, orthogonal=True, identity_at_init=False, per_head=False, foldable=False
    )
    source = (
        "facebookresearch/DiT:models.py:274-312; facebookresearch/deit:models_v2.py:198, 249-251; "
        "naver-ai/rope-vit:deit/models_v2_rope.py:171-183; diffusers:models/embeddings.py:336-357"
    )
    scalings = ("none", "extend", "interpolate", "linear")

    class Options(base.EncodingOptions):
        """form: whose table. base: longest wavelength over 2 pi. table, base_grid: sides of SD3's
        table and of its own grid, in tokens.
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
        """Tokens (B, N, width) plus the table at these positions.

        Raises:
            OptionError: positions beyond SD3's table, or a grid that a learned table cannot be
                enlarged to.
        """
        if self.options.form == "learned":
            return tokens + self._learned_rows(positions).to(tokens)
        places = positions.cpu().double()
        if self.options.form == "sd3":
            places = self._crop_positions(places)
        elif self.scaling.kind in ("interpolate", "linear"):
            places = places / torch.tensor(
                [self.scaling.factor(axis) for axis in range(places.shape[1])], dtype=torch.float64
            )
        return tokens + sincos_table(places, tokens.shape[-1], self.options.base).float().to(tokens)

    def _crop_positions(self, places: Tensor) -> Tensor:
        """Where the middle crop of SD3's table puts positions that start at 0."""
        sides = (places.amax(0) + 1).round()
        if (sides > self.options.table).any():
            found = " x ".join(str(int(side)) for side in sides)
            raise base.OptionError(
                f"ape form sd3 holds {self.options.table} tokens a side, the image has {found};"
                " draw it smaller"
            )
        first = torch.floor((self.options.table - sides) / 2)
        return (places + first) * self.options.base_grid / self.options.table

    def _learned_rows(self, positions: Tensor) -> Tensor:
        """Rows (N, width) of the learned table at integer positions; a grid of another size is
        enlarged first.
        """
        assert self.shape.grid is not None
        whole = (
            self.table.float().unflatten(1, self.shape.grid).permute(0, 3, 1, 2)
        )  # (1, width, rows, columns)
        rows, columns = positions.long().unbind(1)
        sides = (int(rows.max()) + 1, int(columns.max()) + 1)
        if self.scaling.current_lengths:
            sides = (self.scaling.current_lengths[0], self.scaling.current_lengths[1])
        if self.scaling.kind == "extend" and sides != self.shape.grid:
            raise base.OptionError(
                "a learned table cannot be extended beyond its grid; use pos_scaling interpolate"
            )
        if sides != self.shape.grid:
            whole = F.interpolate(whole, sides, mode="bicubic", align_corners=False)
        return whole[0, :, rows, columns].T


def sincos_table(places: Tensor, width: int, longest: float) -> Tensor:
    """Table (N, width), float64, of positions (N, axes): the last axis first, [sin | cos] of each.

    Source: facebookresearch/DiT:models.py:274-312 (its grid puts the column first).
    """
    speeds = geometric_frequencies(base.axis_split(width, places.shape[1], "ape"), longest)
    angles = places.flip(1)[:, :, None] * speeds  # (N, axes, planes)
    return torch.cat((angles.sin(), angles.cos()), -1).flatten(1)


PLUGIN = Ape
