"""STRING / Rethinking RoPE: a learned orthogonal change of basis before RoPE."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from harope_bench.encodings import base
from harope_bench.encodings.matrices import MatrixRope, skew_exp, skew_part
from harope_bench.encodings.scaling import frequencies


class String(MatrixRope):
    """q -> R(p) P q, k -> R(p) P k with P orthogonal, one a layer, shared by its heads unless
    `per_head`.

    Circulant generators are one for each axis that images move along (FLUX: two of three).

    Any rotation by commuting generators has this form up to a change of basis that attention does
    not see. Table 2's row equals
    Table 6's "orthogonal, shared". No official code is known; the maps are written from the papers.
    """

    source = (
        "arXiv 2502.02562 (STRING), arXiv 2504.06308 (Rethinking RoPE); exponential map as in the"
        " paper"
    )

    class Options(base.RotaryOptions):
        """map: P is exp(S), (I - S)(I + S)^-1, or the rotation's generators are circulant.
        learn_freqs: frequencies train too.
        """

        map: Literal["exp", "cayley", "circulant"] = "exp"
        per_head: bool = False
        learn_freqs: bool = False

    options: Options

    def __init__(self, shape: base.ModelShape, options: Options):
        super().__init__(shape, options)
        d = shape.head_dim
        groups = (shape.layers, shape.heads) if options.per_head else (shape.layers,)
        if options.map == "circulant":
            self.circulant = nn.Parameter(
                circulant_generators(self._initial_frequencies(d // 2 - 1), d).repeat(*groups, 1, 1)
            )
            return
        self.skew = nn.Parameter(torch.zeros(*groups, d, d))
        if options.learn_freqs:
            planes = base.planes_per_axis(shape, "string")
            start = torch.cat(
                [frequencies(n, options.base, self.scaling, axis) for axis, n in enumerate(planes)]
            )
            self.freqs = nn.Parameter(start.float().repeat(*groups, 1))

    @property
    def facts(self) -> base.EncodingProperties:
        """What it promises depends on its options; circulant generators bring their own basis and
        cannot start as axial RoPE.
        """
        own = self.options.map == "circulant"
        return base.EncodingProperties(
            relative=True,
            orthogonal=True,
            identity_at_init=not own,
            per_head=self.options.per_head,
            foldable=not own and not self.options.learn_freqs,
        )

    def _initial_frequencies(self, planes: int) -> Tensor:
        """Frequencies (moving axes, planes), float64, that a circulant start gives: axial ones,
        each axis its share of the planes.
        """
        axes = self.shape.axes - self.shape.static_axes
        still = self.shape.static_axes
        start = torch.zeros(axes, planes, dtype=torch.float64)
        for axis in range(axes):
            share = slice(axis * planes // axes, (axis + 1) * planes // axes)
            count = share.stop - share.start
            start[axis, share] = frequencies(count, self.options.base, self.scaling, still + axis)
        return start

    def matrices(self, layer: int) -> base.QueryKeyMatrices | None:
        """P (heads or 1, head_dim, head_dim) on q and on k; none for circulant generators."""
        if self.options.map == "circulant":
            return None
        raw = self.skew[layer]
        basis = (skew_exp(raw) if self.options.map == "exp" else cayley_transform(raw)).reshape(
            -1, *raw.shape[-2:]
        )
        return base.QueryKeyMatrices(basis, basis)

    def turned(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, heads, N, head_dim) turned axis by axis, or by their circulant
        generators.
        """
        if self.options.map == "circulant":
            speeds = (
                2 * torch.fft.rfft(self.circulant[layer].float()).imag
            )  # (..., moving axes, d/2 + 1)
            moving = positions[:, self.shape.static_axes :]
            angles = torch.einsum("na,...af->...nf", moving.to(speeds), speeds)
            return rotate_fourier_planes(q, angles), rotate_fourier_planes(k, angles)
        if not self.options.learn_freqs:
            return super().turned(q, k, positions, layer)
        planes = base.planes_per_axis(self.shape, "string")
        axis = torch.repeat_interleave(torch.arange(len(planes)), torch.tensor(planes))
        places = positions[:, axis].to(self.freqs.device, torch.float32)  # (N, head_dim/2)
        turns = base.RotationAngles(
            places * self.freqs[layer].float()[..., None, :], layout=self.options.layout
        )
        return base.rotate_planes(q, turns), base.rotate_planes(k, turns)

    def rescale(self, scaling: base.Scaling) -> None:
        """Only fixed frequencies can be scaled."""
        if scaling.kind != "none" and (self.options.map == "circulant" or self.options.learn_freqs):
            raise base.OptionError(
                f"pos_scaling {scaling.kind} needs fixed frequencies, these were learned; leave it"
                " at none"
            )
        super().rescale(scaling)

    def plain(self) -> base.Encoding:
        """Axial RoPE with the same base, order and layout; OptionError where frequencies are
        learned.
        """
        return super().plain() if self.facts.foldable else base.Encoding.without_matrices(self)


def cayley_transform(raw: Tensor) -> Tensor:
    """Orthogonal (..., d, d): (I - S)(I + S)^-1 of the skew part S of raw. STRING, section 3.3."""
    s = skew_part(raw)
    eye = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)
    return torch.linalg.solve(eye + s, eye - s)  # the two factors commute


def circulant_generators(speeds: Tensor, d: int) -> Tensor:
    """First columns (axes, d), float32, of circulant C whose skew C - C^T turns Fourier plane f + 1
    at `speeds` (axes, d/2 - 1).
    """
    spectrum = torch.zeros(len(speeds), d // 2 + 1, dtype=torch.complex128)
    spectrum[:, 1:-1] = 0.5j * speeds  # eigenvalues of C - C^T are 2i times the imaginary part
    return torch.fft.irfft(spectrum, n=d).float()


def rotate_fourier_planes(x: Tensor, angles: Tensor) -> Tensor:
    """exp of a circulant skew matrix times x (B, heads, N, d): every Fourier coefficient turns by
    its angle; same shape and dtype.

    Args:
        angles: (N, d/2 + 1) or (heads, N, d/2 + 1); the first and the last are zero.
    """
    turned = torch.fft.rfft(x.float()) * torch.polar(torch.ones_like(angles), angles)
    return torch.fft.irfft(turned, n=x.shape[-1]).to(x.dtype)


PLUGIN = String
