"""Table 10: axial RoPE whose base frequency may differ from head to head; nothing is learned."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from harope_bench.encodings import base
from harope_bench.encodings.scaling import ROTARY_SCALINGS, Scaling, frequencies

FIRST_BASE = 10000.0  # base of the first head in a geometric progression


class HeadFreq(base.Encoding):
    """Axial RoPE in which every head has its own base.

    The paper prints one number for each column of Table 10 and no formula. By default all heads
    have the base of the column. base_progression = geometric: from 10,000 in the first head to the
    base of the column in the last head. bases: one base for each head, separated by commas, for
    any other assignment.
    """

    source = "paper Table 10; the assignment to heads is our reading"
    supported_scalings = ROTARY_SCALINGS

    class Options(base.EncodingOptions):
        """The options of bases by head.

        theta: the base of the column. base_progression: none, or geometric over the heads.
        bases: one base for each head, instead of both other options.
        """

        theta: float = Field(default=10000.0, gt=1)
        base_progression: str = Field(default="none", pattern="^(none|geometric)$")
        bases: str = Field(default="", pattern=r"^(\d+(\.\d+)?(,\d+(\.\d+)?)*)?$")

    options: Options

    def __init__(self, shape: base.ModelShape, options: Options):
        super().__init__(shape, options)
        self.bases = self._head_bases()
        if len(self.bases) != shape.heads or min(self.bases) <= 1:
            raise base.OptionError(
                f"head-freq needs {shape.heads} bases above 1, one a head, found {options.bases}"
            )

    @property
    def properties(self) -> base.EncodingProperties:
        """Return the properties; heads differ only where their bases do."""
        return base.EncodingProperties(
            relative=True,
            orthogonal=True,
            identity_at_init=set(self.bases) == {FIRST_BASE},
            per_head=len(set(self.bases)) > 1,
            foldable=False,
        )

    def _head_bases(self) -> tuple[float, ...]:
        """Return the base of each head that the options define."""
        heads = self.shape.heads
        if self.options.bases:
            return tuple(float(text) for text in self.options.bases.split(","))
        if self.options.base_progression == "none" or heads == 1:
            return (self.options.theta,) * heads
        ratio = self.options.theta / FIRST_BASE
        return tuple(FIRST_BASE * ratio ** (head / (heads - 1)) for head in range(heads))

    def axis_frequencies(self, scaling: Scaling) -> list[Tensor]:
        """Return the frequencies (heads, planes) of each axis, float64."""
        planes = base.planes_per_axis(self.shape, "head-freq")
        return [
            torch.stack([frequencies(n, head_base, scaling, axis) for head_base in self.bases])
            for axis, n in enumerate(planes)
        ]

    def apply_rotation(
        self, q: Tensor, k: Tensor, positions: Tensor, layer: int
    ) -> tuple[Tensor, Tensor]:
        """Return queries and keys (B, heads, N, head_dim) rotated with the base of each head."""
        coordinates = positions.cpu().double()  # (N, axes)
        angles = []
        magnitudes = []
        for axis, freqs in enumerate(self.axis_frequencies(self.scaling)):
            angles.append(coordinates[:, axis, None] * freqs[:, None])  # (heads, N, planes)
            magnitudes.append(
                torch.full(freqs.shape[1:], self.scaling.magnitude(axis), dtype=torch.float64)
            )
        rotation = base.RotationAngles(
            torch.cat(angles, -1),  # (heads, N, head_dim/2)
            torch.cat(magnitudes),  # (head_dim/2,)
        )
        return base.rotate_planes(q, rotation), base.rotate_planes(k, rotation)


PLUGIN = HeadFreq
