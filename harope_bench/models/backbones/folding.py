"""Folding: an encoding's matrices are multiplied into the query and key projections.

q' = M (W x + b) = (M W) x + M b is exact if there is nothing nonlinear between the projection
and the matrix (DiT, DeiT, SD3-medium). FLUX and SD3.5 normalise queries and keys there.
The result is a model of the encoding without matrices, with equal outputs up to rounding and
without the matrices' cost. Products are computed in float64 and rounded once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from harope_bench.core.errors import OptionError, WeightsError
from harope_bench.core.record_base import Option
from harope_bench.encodings.base import Encoding, QueryKeyMatrices
from harope_bench.models.backbones.base import SupportedSettings
from harope_bench.models.backbones.encoded_network import EncodedNetwork
from harope_bench.models.checkpoint_fields import CheckpointFields

# Relative to the root mean square of the output. Float32 sums in another order differ by about
# 1e-6.
RELATIVE_TOLERANCE = 1e-5


class Projection(NamedTuple):
    """Parameters of a linear layer whose output rows are heads.

    Attributes:
        weight: (heads * d, width).
        bias: (heads * d,), or None.
    """

    weight: Tensor
    bias: Tensor | None


def fold_projection(projection: Projection, matrix: Tensor) -> Projection:
    """Return M W and M b; the rows of each head are multiplied by its own matrix.

    Args:
        matrix: M, (heads, d, d), or (1, d, d) for all heads.

    Returns:
        Parameters of the same shapes and dtypes.
    """
    d = matrix.shape[-1]
    head_rows = projection.weight.double().unflatten(0, (-1, d))  # (heads, d, width)
    weight = (matrix.double() @ head_rows).flatten(0, 1)  # (heads * d, width)
    weight = weight.to(projection.weight.dtype)
    if projection.bias is None:
        return Projection(weight, bias=None)

    bias = matrix.double() @ projection.bias.double().view(-1, d, 1)  # (heads, d, 1)
    return Projection(weight, bias.flatten().to(projection.bias.dtype))


@torch.no_grad()
def fold_linear(layer: nn.Linear, matrix: Tensor) -> None:
    """Fold a matrix into a separate projection of queries or keys, in place.

    Args:
        matrix: (heads or 1, d, d).
    """
    weight, bias = fold_projection(Projection(layer.weight, layer.bias), matrix)
    layer.weight.copy_(weight)
    if bias is not None:
        layer.bias.copy_(bias)


@torch.no_grad()
def fold_fused(layer: nn.Linear, matrices: QueryKeyMatrices) -> None:
    """Fold two matrices into one layer that projects queries, keys and values, in place.

    A third of the layer's rows belongs to each of the three, in this order.
    """
    width = layer.out_features // 3
    for start, matrix in ((0, matrices.q), (width, matrices.k)):
        rows = slice(start, start + width)
        bias_rows = None if layer.bias is None else layer.bias[rows]
        weight, bias = fold_projection(Projection(layer.weight[rows], bias_rows), matrix)
        layer.weight[rows] = weight
        if bias is not None:
            layer.bias[rows] = bias


def check_foldable(encoding: Encoding) -> None:
    """Raise OptionError if the encoding has no matrix that can be folded into the projections."""
    if not encoding.properties.foldable:
        raise OptionError(
            no_matrix_reason(encoding.registered_name()), advice="run it with --no-fold"
        )


def settings_with_fold(
    encoding: Encoding, setting_names: Iterable[str], reasons: Mapping[str, str]
) -> SupportedSettings:
    """Return these settings, with `fold` if the encoding has a foldable matrix.

    Args:
        setting_names: Names of the other supported settings.
        reasons: By name, why other settings do not apply.
    """
    if encoding.properties.foldable:
        return SupportedSettings(frozenset({*setting_names, "fold"}), reasons)
    return SupportedSettings(
        frozenset(setting_names), {**reasons, "fold": no_matrix_reason(encoding.registered_name())}
    )


def no_matrix_reason(encoding: str) -> str:
    """Return the reason why `fold` does not apply to an encoding."""
    return f"{encoding} with these options has no matrix that can be folded into the projections"


def float64_matrices(encoding: Encoding) -> list[QueryKeyMatrices]:
    """Return the matrices in float64, one for each layer that has one, in the order of layers.

    Raises:
        OptionError: The encoding has no foldable matrix.
    """
    check_foldable(encoding)
    float64_encoding = copy.deepcopy(encoding).double()
    with torch.no_grad():
        matrices_by_layer = [
            float64_encoding.matrices(layer) for layer in range(encoding.shape.layers)
        ]
    return [matrices for matrices in matrices_by_layer if matrices is not None]


def fold_layers(encoding: Encoding, qkv_projections: Sequence[nn.Linear]) -> Encoding:
    """Fold every layer's matrices in place, and return the encoding without matrices.

    Args:
        qkv_projections: The fused query, key and value projection of each layer.

    Raises:
        OptionError: The encoding has no foldable matrix.
    """
    for projection, matrices in zip(qkv_projections, float64_matrices(encoding), strict=True):
        fold_fused(projection, matrices)
    return encoding.without_matrices()


@torch.no_grad()
def fold_network(
    network: EncodedNetwork,
    qkv_projections: Sequence[nn.Linear],
    forward: Callable[[], Tensor],
    description: str,
) -> None:
    """Fold a network's encoding into its projections, in place, and check the outputs.

    Args:
        qkv_projections: The fused query, key and value projection of each layer.
        forward: Runs the network on fixed inputs, before and after folding.
        description: The network's name for an error message.

    Raises:
        OptionError: The encoding has no foldable matrix.
        WeightsError: The outputs differ by more than rounding.
    """
    before = forward()
    network.encoding = fold_layers(network.encoding, qkv_projections)
    check_outputs_equal(before, forward(), description)


def plain_encoding_fields(encoding: Encoding, drawing: Mapping[str, Option]) -> CheckpointFields:
    """Return the fields of Checkpoint that folding changes.

    Args:
        encoding: The encoding without matrices.
        drawing: Default settings of the checkpoint before folding.
    """
    return {
        "encoding": encoding.registered_name(),
        "options": encoding.options.model_dump(),
        "drawing": {key: value for key, value in drawing.items() if key != "fold"},
    }


def check_heads_equal(before: Tensor, after: Tensor, dtype: torch.dtype, description: str) -> None:
    """Raise WeightsError unless queries or keys (heads, N, d) are equal in every head.

    Args:
        dtype: Of the weights, whose rounding is tolerated.
        description: Name of the layer for an error message.
    """
    tolerance = max(RELATIVE_TOLERANCE, torch.finfo(dtype).eps)
    for head, (head_before, head_after) in enumerate(zip(before, after, strict=True)):
        check_outputs_equal(head_before, head_after, f"{description}, head {head},", tolerance)


def check_outputs_equal(
    before: Tensor, after: Tensor, description: str, tolerance: float = RELATIVE_TOLERANCE
) -> None:
    """Raise WeightsError unless two outputs are equal up to rounding.

    Args:
        tolerance: Largest root mean square difference, relative to that of `before`.
    """
    if not before.isfinite().all():
        return  # such rows are reported as failures at generation, folded or not
    difference = float((after.double() - before.double()).square().mean().sqrt())
    scale = float(before.double().square().mean().sqrt())
    if not difference <= tolerance * scale:
        raise WeightsError(
            f"{description} differs after folding by {difference:.2e} at outputs of {scale:.2e};"
            " generate with --no-fold"
        )
