"""A learned matrix before axial RoPE: the family of Table 6, which includes STRING and HARoPE.

U, V and orthogonal matrices are exponentials of skew matrices (paper section 3.3). Singular values
are softplus(sigma) + 1e-6 as in the release (model/models_HARoPE.py:25-52). Shapes use L layers,
G matrices in a layer (one for each head, or 1 shared by all heads) and the head size d.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harope_bench.encodings import base
from harope_bench.encodings.rope_axial import RopeAxial
from harope_bench.encodings.scaling import ROTARY_SCALINGS

MIN_SINGULAR_VALUE = 1e-6  # the release adds it to every singular value
QkMode = Literal["dual", "same"]


def to_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 or better.

    Exponentials and inverses in half precision are not orthogonal.
    """
    is_half_precision = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.float() if is_half_precision else tensor


def skew_part(matrix: Tensor) -> Tensor:
    """Return the skew part (A - A^T) / 2 of matrices A (..., d, d), float32 or better."""
    return (to_float32(matrix) - to_float32(matrix).mT) / 2


def skew_exp(matrix: Tensor) -> Tensor:
    """Return the orthogonal exponential (..., d, d) of the skew part of `matrix`."""
    return torch.linalg.matrix_exp(skew_part(matrix))


class SvdParameters(nn.Module):
    """A module with the parameters of `add_svd_parameters` and nothing else."""

    A_u: Tensor
    A_v: Tensor
    sigma: Tensor


def add_svd_parameters(module: nn.Module, layers: int, groups: int, d: int) -> None:
    """Add the parameters of M = U diag(s) V^T to a module: A_u, A_v (L, G, d, d), sigma (L, G, d).

    Their initial values make M the identity.
    """
    softplus_inverse_of_1 = math.log(math.e - 1)
    module.A_u = nn.Parameter(torch.zeros(layers, groups, d, d))
    module.A_v = nn.Parameter(torch.zeros(layers, groups, d, d))
    module.sigma = nn.Parameter(torch.full((layers, groups, d), softplus_inverse_of_1))


def svd_matrices(
    parameters: SvdParameters | MatrixRope, layer: int, mode: QkMode
) -> base.QueryKeyMatrices:
    """Return M on queries and, on keys, M^-T ("dual", release) or M ("same", paper equation 7).

    Args:
        parameters: a module with the parameters of `add_svd_parameters`.

    Returns:
        (G, d, d) each, float32 or better.
    """
    u = skew_exp(parameters.A_u[layer])  # (G, d, d)
    v = skew_exp(parameters.A_v[layer])  # (G, d, d)
    s = F.softplus(parameters.sigma[layer].to(u.dtype)) + MIN_SINGULAR_VALUE  # (G, d)

    query_matrix = (u * s[..., None, :]) @ v.mT  # M = U diag(s) V^T
    if mode == "same":
        return base.QueryKeyMatrices(query_matrix, query_matrix)
    key_matrix = (u / s[..., None, :]) @ v.mT  # M^-T = U diag(1/s) V^T
    return base.QueryKeyMatrices(query_matrix, key_matrix)


class MatrixRope(base.Encoding):
    """Axial RoPE after the matrices that a subclass returns from `matrices`.

    A_u, A_v, sigma: the parameters of `add_svd_parameters`, in the subclasses that call it.
    """

    supported_scalings = ROTARY_SCALINGS
    options: base.RotaryOptions
    A_u: Tensor
    A_v: Tensor
    sigma: Tensor

    def apply_rotation(
        self, q: Tensor, k: Tensor, positions: Tensor, layer: int
    ) -> tuple[Tensor, Tensor]:
        """Return queries and keys (B, heads, N, head_dim) rotated axis by axis."""
        rotation = base.axial_angles(
            positions, self.shape, self.options, self.scaling, self.registered_name()
        )
        return base.rotate_planes(q, rotation), base.rotate_planes(k, rotation)

    def without_matrices(self) -> base.Encoding:
        """Return axial RoPE with the same base, axis order, layout and scaling."""
        rotary_options = self.options.model_dump(include=set(base.RotaryOptions.model_fields))
        encoding = RopeAxial(self.shape, RopeAxial.Options(**rotary_options))
        encoding.rescale(self.scaling)
        return encoding
