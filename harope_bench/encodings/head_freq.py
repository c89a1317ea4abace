"""Table 10: axial RoPE whose base frequency may differ from head to head; nothing is learned."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from harope_bench.encodings import base
from harope_bench.encodings.scaling import ROTARY_SCALINGS, Scaling


class HeadFreq(base.Encoding):
    """Every head turns by its own base.

    The paper prints one number a column and no formula. Default: the column's base for all heads.
    spread = geometric: from 10,000
    in the first head to the column's base in the last. bases: one a head, comma-separated, so that
    any assignment can be run.
    """

    source = "paper Table 10; the assignment to heads is our reading"
    scalings = ROTARY_SCALINGS

    class Options(base.EncodingOptions):
        """theta: the column's base. spread: none or geometric over the heads. bases: one a head, in
        place of both.
        """

        theta: float = Field(default=10000.0, gt=1)
        spread: str = Field(default="none", pattern="^(none|geometric)$")
        bases: str = Field(default="", pattern=r"^(\d+(\.\d+)?(,\d+(\.\d+)?)*)?$")

    options: Options

    def __init__(self, shape: base.ModelShape, options: Options):
        super().__init__(shape, options)
        self.bases = self._assigned()
        if len(self.bases) != shape.heads or min(self.bases) <= 1:
            raise base.OptionError(
                f"head-freq needs {shape.heads} bases above 1, one a head, found {options.bases}"
            )

    @property
    def facts(self) -> base.EncodingProperties:
        """Heads differ only if their bases do."""
        alike = len(set(self.bases)) == 1
        return base.EncodingProperties(
            relative=True,
            orthogonal=True,
            identity_at_init=set(self.bases) == {10000.0},
            per_head=not alike,
            foldable=False,
        )

    def _assigned(self) -> tuple[float, ...]:
        heads = self.shape.heads
        if self.options.bases:
            return tuple(float(text) for text in self.options.bases.split(","))
        if self.options.spread == "none" or heads == 1:
            return (self.options.theta,) * heads
        ratio = self.options.theta / 10000.0
        return tuple(10000.0 * ratio ** (h / (heads - 1)) for h in range(heads))

    def tables(self, scaling: Scaling) -> list[Tensor]:
        """Frequencies (heads, planes) of each axis, float64."""
        planes = base.planes_per_axis(self.shape, "head-freq")
        return [
            torch.stack([base.frequencies(n, b, scaling, axis) for b in self.bases])
            for axis, n in enumerate(planes)
        ]

    def turned(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, heads, N, head_dim), each head by its own base."""
        places = positions.cpu().double()
        tables = self.tables(self.scaling)
        angles = torch.cat(
            [places[:, axis, None] * table[:, None] for axis, table in enumerate(tables)], -1
        )  # (heads, N, d/2)
        magnitude = torch.cat(
            [
                torch.full(t.shape[1:], self.scaling.magnitude(a), dtype=torch.float64)
                for a, t in enumerate(tables)
            ]
        )
        turns = base.RotationAngles(angles, magnitude)
        return base.rotate_planes(q, turns), base.rotate_planes(k, turns)


PLUGIN = HeadFreq
