"""STRING / Rethinking RoPE: a learned orthogonal change of basis before RoPE."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from harope_bench.encodings import base
from harope_bench.encodings.matrices import MatrixRope, skew_exp, skew_part
from harope_bench.encodings.scaling import frequencies


class String(MatrixRope):
    """q -> R(p) P q, k -> R(p) P k with P orthogonal.

    A layer has one P that its heads share, or one for each head with `per_head`. Any rotation by
    commuting generators has this form, up to a change of basis that does not change attention.
    Circulant generators: one for each axis whose coordinate varies over the image (FLUX: two of
    three).

    The row of Table 2 equals "orthogonal, shared" in Table 6. No official code is known. The maps
    are written from the papers.
    """

    source = (
        "arXiv 2502.02562 (STRING), arXiv 2504.06308 (Rethinking RoPE); exponential map as in the"
        " paper"
    )

    class Options(base.RotaryOptions):
        """The options of STRING.

        map: P is exp(S) or (I - S)(I + S)^-1, or the generators of the rotation are circulant.
        per_head: whether each head has its own P. learn_freqs: whether frequencies are learned.
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
            generators = circulant_generators(self._initial_frequencies(d // 2 - 1), d)  # (axes, d)
            self.circulant = nn.Parameter(generators.repeat(*groups, 1, 1))  # (*groups, axes, d)
            return

        self.skew = nn.Parameter(torch.zeros(*groups, d, d))
        if options.learn_freqs:
            planes = base.planes_per_axis(shape, "string")
            initial_freqs = torch.cat(
                [frequencies(n, options.base, self.scaling, axis) for axis, n in enumerate(planes)]
            )  # (d/2,)
            self.freqs = nn.Parameter(initial_freqs.float().repeat(*groups, 1))  # (*groups, d/2)

    @property
    def properties(self) -> base.EncodingProperties:
        """Return the properties, which depend on the options.

        Circulant generators rotate in a basis of their own and cannot equal axial RoPE at the
        start.
        """
        is_circulant = self.options.map == "circulant"
        return base.EncodingProperties(
            relative=True,
            orthogonal=True,
            identity_at_init=not is_circulant,
            per_head=self.options.per_head,
            foldable=not is_circulant and not self.options.learn_freqs,
        )

    def _initial_frequencies(self, planes: int) -> Tensor:
        """Return the initial frequencies (moving axes, planes), float64, of circulant generators.

        They are axial: each axis has an equal fraction of the planes, and 0 in all others.
        """
        n_static = self.shape.static_axes
        n_moving = self.shape.axes - n_static
        initial_freqs = torch.zeros(n_moving, planes, dtype=torch.float64)
        for axis in range(n_moving):
            axis_planes = slice(axis * planes // n_moving, (axis + 1) * planes // n_moving)
            n_planes = axis_planes.stop - axis_planes.start
            initial_freqs[axis, axis_planes] = frequencies(
                n_planes, self.options.base, self.scaling, n_static + axis
            )
        return initial_freqs

    def matrices(self, layer: int) -> base.QueryKeyMatrices | None:
        """Return P (heads or 1, head_dim, head_dim) on q and on k, None for circulant ones."""
        if self.options.map == "circulant":
            return None
        skew = self.skew[layer]
        basis = skew_exp(skew) if self.options.map == "exp" else cayley_transform(skew)
        basis = basis.reshape(-1, *skew.shape[-2:])  # (heads or 1, d, d)
        return base.QueryKeyMatrices(basis, basis)

    def apply_rotation(
        self, q: Tensor, k: Tensor, positions: Tensor, layer: int
    ) -> tuple[Tensor, Tensor]:
        """Return queries and keys (B, heads, N, head_dim) rotated by position.

        The angles come from circulant generators, from learned frequencies or from fixed axial
        ones.
        """
        if self.options.map == "circulant":
            angles = self._circulant_angles(positions, layer)
            return rotate_fourier_planes(q, angles), rotate_fourier_planes(k, angles)
        if not self.options.learn_freqs:
            return super().apply_rotation(q, k, positions, layer)
        rotation = self._learned_angles(positions, layer)
        return base.rotate_planes(q, rotation), base.rotate_planes(k, rotation)

    def _circulant_angles(self, positions: Tensor, layer: int) -> Tensor:
        """Return the angles (N, d/2 + 1) or (heads, N, d/2 + 1) of the Fourier planes.

        The eigenvalues of C - C^T are 2i times the imaginary part of the spectrum of C.
        """
        spectrum = torch.fft.rfft(self.circulant[layer].float())  # (..., moving axes, d/2 + 1)
        freqs = 2 * spectrum.imag
        moving_positions = positions[:, self.shape.static_axes :]  # (N, moving axes)
        return torch.einsum("na,...af->...nf", moving_positions.to(freqs), freqs)

    def _learned_angles(self, positions: Tensor, layer: int) -> base.RotationAngles:
        """Return the axial angles of the learned frequencies of a layer."""
        planes = base.planes_per_axis(self.shape, "string")
        plane_axes = torch.repeat_interleave(torch.arange(len(planes)), torch.tensor(planes))
        coordinates = positions[:, plane_axes].to(self.freqs.device, torch.float32)  # (N, d/2)
        freqs = self.freqs[layer].float()[..., None, :]  # (heads, 1, d/2) or (1, d/2)
        return base.RotationAngles(coordinates * freqs, layout=self.options.layout)

    def rescale(self, scaling: base.Scaling) -> None:
        """Set the position scaling of all later calls.

        Raises:
            OptionError: The frequencies are learned; only fixed frequencies can be scaled.
        """
        has_learned_frequencies = self.options.map == "circulant" or self.options.learn_freqs
        if scaling.kind != "none" and has_learned_frequencies:
            raise base.OptionError(
                f"pos_scaling {scaling.kind} needs fixed frequencies, these were learned; leave it"
                " at none"
            )
        super().rescale(scaling)

    def without_matrices(self) -> base.Encoding:
        """Return axial RoPE with the same base, axis order and layout.

        Raises:
            OptionError: The frequencies are learned.
        """
        if self.properties.foldable:
            return super().without_matrices()
        return base.Encoding.without_matrices(self)


def cayley_transform(matrix: Tensor) -> Tensor:
    """Return the orthogonal (I - S)(I + S)^-1 (..., d, d) of the skew part S of `matrix`.

    Source: STRING (arXiv 2502.02562), section 3.3.
    """
    skew = skew_part(matrix)
    eye = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    return torch.linalg.solve(eye + skew, eye - skew)  # the two factors commute


def circulant_generators(freqs: Tensor, d: int) -> Tensor:
    """Return the first columns (axes, d), float32, of circulant matrices C.

    The skew matrix C - C^T rotates Fourier plane f + 1 by freqs[:, f] per unit step.

    Args:
        freqs: (axes, d/2 - 1), radians per unit step.
    """
    spectrum = torch.zeros(len(freqs), d // 2 + 1, dtype=torch.complex128)
    spectrum[:, 1:-1] = 0.5j * freqs  # eigenvalues of C - C^T are 2i times the imaginary part
    return torch.fft.irfft(spectrum, n=d).float()


def rotate_fourier_planes(x: Tensor, angles: Tensor) -> Tensor:
    """Return exp(S) x for a circulant skew matrix S: each Fourier coefficient is rotated.

    Args:
        x: (B, heads, N, d).
        angles: (N, d/2 + 1) or (heads, N, d/2 + 1), radians; the first and the last are zero.

    Returns:
        Shape and dtype of x.
    """
    coefficients = torch.fft.rfft(x.float())  # (B, heads, N, d/2 + 1)
    rotated = coefficients * torch.polar(torch.ones_like(angles), angles)
    return torch.fft.irfft(rotated, n=x.shape[-1]).to(x.dtype)  # (B, heads, N, d)


PLUGIN = String
