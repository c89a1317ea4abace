"""Folding: an encoding's matrices moved into the query and key projections.

q' = M (W x + b) = (M W) x + M b, exactly, where nothing nonlinear stands between the projection and
the matrix (DiT, DeiT,
SD3-medium; not FLUX or SD3.5, whose queries and keys are normalised there). What is left is a model
of the plain encoding,
with the same outputs up to rounding and without the matrices' cost. Products are taken in float64
and cast once.
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

RELATIVE_TOLERANCE = (
    1e-5  # of the output's root mean square; float32 sums in another order differ by about 1e-6
)


class Projection(NamedTuple):
    """Weight (heads * d, width) and bias (heads * d,) or None of a linear layer whose rows are
    heads.
    """

    weight: Tensor
    bias: Tensor | None


def fold_projection(projection: Projection, matrix: Tensor) -> Projection:
    """M W and M b, each head's rows by its own matrix.

    Args:
        matrix: (heads, d, d), or (1, d, d) for all heads.

    Returns:
        Same shapes and dtypes as given.
    """
    d = matrix.shape[-1]
    rows = projection.weight.double().unflatten(0, (-1, d))  # (heads, d, width)
    weight = (matrix.double() @ rows).flatten(0, 1).to(projection.weight.dtype)
    if projection.bias is None:
        return Projection(weight, None)
    bias = matrix.double() @ projection.bias.double().view(-1, d, 1)  # (heads, d, 1)
    return Projection(weight, bias.flatten().to(projection.bias.dtype))


@torch.no_grad()
def fold_linear(layer: nn.Linear, matrix: Tensor) -> None:
    """The same in place on a separate projection of queries or keys."""
    weight, bias = fold_projection(Projection(layer.weight, layer.bias), matrix)
    layer.weight.copy_(weight)
    if bias is not None:
        layer.bias.copy_(bias)


@torch.no_grad()
def fold_fused(layer: nn.Linear, pair: QueryKeyMatrices) -> None:
    """The same in place on one layer whose rows are queries, keys, values, in this order and of
    equal number.
    """
    width = layer.out_features // 3
    for start, matrix in ((0, pair.q), (width, pair.k)):
        rows = slice(start, start + width)
        weight, bias = fold_projection(
            Projection(layer.weight[rows], None if layer.bias is None else layer.bias[rows]), matrix
        )
        layer.weight[rows] = weight
        if bias is not None:
            layer.bias[rows] = bias


def check_foldable(encoding: Encoding) -> None:
    """Raises OptionError if the encoding has no matrix that folds."""
    if not encoding.properties.foldable:
        raise OptionError(
            f"{no_matrix_reason(encoding.registered_name())} into the projections; run it unfolded"
        )


def settings_with_fold(
    encoding: Encoding, fields: Iterable[str], reasons: Mapping[str, str]
) -> SupportedSettings:
    """Return these fields, with `fold` where the encoding has matrices that fold, else with the
    reason why not.
    """
    if encoding.properties.foldable:
        return SupportedSettings(frozenset({*fields, "fold"}), reasons)
    return SupportedSettings(
        frozenset(fields), {**reasons, "fold": no_matrix_reason(encoding.registered_name())}
    )


def no_matrix_reason(encoding: str) -> str:
    """Return why an encoding of that name takes no `fold`."""
    return f"{encoding} with these options has no matrix that folds"


def float64_matrices(encoding: Encoding) -> list[QueryKeyMatrices]:
    """The matrices of all layers, float64.

    Raises:
        OptionError: it does not fold.
    """
    check_foldable(encoding)
    wide = copy.deepcopy(encoding).double()
    with torch.no_grad():
        return [
            pair
            for layer in range(encoding.shape.layers)
            if (pair := wide.matrices(layer)) is not None
        ]


def fold_layers(encoding: Encoding, fused: Sequence[nn.Linear]) -> Encoding:
    """Folds every layer's matrices into its fused projection and returns the encoding that is left.

    Raises:
        OptionError: it does not fold.
    """
    for layer, pair in zip(fused, float64_matrices(encoding), strict=True):
        fold_fused(layer, pair)
    return encoding.without_matrices()


@torch.no_grad()
def fold_network(
    network: EncodedNetwork, fused: Sequence[nn.Linear], trial: Callable[[], Tensor], what: str
) -> None:
    """Folds a network's `encoding` into its fused projections, in place, and tries one random
    forward pass before and after.

    Raises:
        OptionError: the encoding does not fold. WeightsError: the outputs differ.
    """
    before = trial()
    network.encoding = fold_layers(network.encoding, fused)
    check_outputs_equal(before, trial(), what)


def plain_encoding_fields(encoding: Encoding, drawing: Mapping[str, Option]) -> CheckpointFields:
    """The fields of a Checkpoint that are other ones once its matrix is folded and `encoding` is
    left.
    """
    return {
        "encoding": encoding.registered_name(),
        "options": encoding.options.model_dump(),
        "drawing": {key: value for key, value in drawing.items() if key != "fold"},
    }


def check_heads_equal(before: Tensor, after: Tensor, dtype: torch.dtype, what: str) -> None:
    """WeightsError unless queries or keys (heads, N, d) agree in every head as far as weights of
    that dtype can.
    """
    for head, (one, other) in enumerate(zip(before, after, strict=True)):
        check_outputs_equal(
            one, other, f"{what}, head {head},", max(RELATIVE_TOLERANCE, torch.finfo(dtype).eps)
        )


def check_outputs_equal(
    before: Tensor, after: Tensor, what: str, slack: float = RELATIVE_TOLERANCE
) -> None:
    """WeightsError unless two outputs agree to `slack` of the first one's root mean square; one
    that is not finite has no equal.
    """
    if not before.isfinite().all():
        return  # its rows are faults when they are drawn, folded or not
    off = float((after.double() - before.double()).square().mean().sqrt())
    size = float(before.double().square().mean().sqrt())
    if not off <= slack * size:
        raise WeightsError(
            f"{what} folded differs from itself unfolded by {off:.2e} at outputs of {size:.2e};"
            " draw with --no-fold"
        )
