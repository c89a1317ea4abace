"""A learned matrix before axial RoPE: the family of Table 6, of which STRING and HARoPE are
members.

U, V and orthogonal matrices are exponentials of skew matrices (paper section 3.3); singular values
are softplus(sigma) + 1e-6
as in the release (model/models_HARoPE.py:25-52). Dimensions: L layers, G matrices a layer (heads,
or 1 shared by them), d head size.
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

MIN_SINGULAR_VALUE = 1e-6  # added to every singular value by the release
QkMode = Literal["dual", "same"]


def to_float32(raw: Tensor) -> Tensor:
    """In float32 at least: exponentials and inverses of low precision are not orthogonal."""
    return raw.float() if raw.dtype in (torch.float16, torch.bfloat16) else raw


def skew_part(raw: Tensor) -> Tensor:
    """The skew part (raw - raw^T) / 2 of (..., d, d)."""
    return (to_float32(raw) - to_float32(raw).mT) / 2


def skew_exp(raw: Tensor) -> Tensor:
    """Orthogonal (..., d, d): exponential of the skew part."""
    return torch.linalg.matrix_exp(skew_part(raw))


class SvdParameters(nn.Module):
    """The parameters of `add_svd` alone."""

    A_u: Tensor
    A_v: Tensor
    sigma: Tensor


def add_svd_parameters(module: nn.Module, layers: int, count: int, d: int) -> None:
    """Gives a module the parameters A_u, A_v (L, G, d, d) and sigma (L, G, d) of M = U diag(s) V^T;
    M is the identity.
    """
    module.A_u = nn.Parameter(torch.zeros(layers, count, d, d))
    module.A_v = nn.Parameter(torch.zeros(layers, count, d, d))
    module.sigma = nn.Parameter(
        torch.full((layers, count, d), math.log(math.e - 1))
    )  # softplus gives 1


def svd_matrices(
    parameters: SvdParameters | MatrixRope, layer: int, mode: QkMode
) -> base.QueryKeyMatrices:
    """M for queries and, for keys, M^-T ("dual", released code) or M ("same", paper equation 7).

    Args:
        held: a module with the parameters of `add_svd`.

    Returns:
        (G, d, d) each, float32 or better.
    """
    u = skew_exp(parameters.A_u[layer])
    v = skew_exp(parameters.A_v[layer])
    s = F.softplus(parameters.sigma[layer].to(u.dtype)) + MIN_SINGULAR_VALUE  # (G, d)
    on_q = (u * s[..., None, :]) @ v.mT
    return base.QueryKeyMatrices(
        on_q, on_q if mode == "same" else (u / s[..., None, :]) @ v.mT
    )  # M^-T = U diag(1/s) V^T


class MatrixRope(base.Encoding):
    """Axial RoPE after a matrix that `matrices` gives."""

    scalings = ROTARY_SCALINGS
    options: base.RotaryOptions
    A_u: Tensor  # this and the next two: of `add_svd`, where a member calls it
    A_v: Tensor
    sigma: Tensor

    def turned(self, q: Tensor, k: Tensor, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, heads, N, head_dim) turned axis by axis."""
        turns = base.axial_angles(
            positions, self.shape, self.options, self.scaling, self.registered_name()
        )
        return base.rotate_planes(q, turns), base.rotate_planes(k, turns)

    def plain(self) -> base.Encoding:
        """Axial RoPE with the same base, order and layout."""
        left = RopeAxial(
            self.shape,
            RopeAxial.Options(
                **self.options.model_dump(include=set(base.RotaryOptions.model_fields))
            ),
        )
        left.rescale(self.scaling)
        return left
