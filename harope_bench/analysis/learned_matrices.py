"""Matrices that an encoding learned, and statistics of them that are comparable between trainings.

M is defined only up to a complex factor for each rotary plane, because left multiplication by what
commutes with every rotation changes no score. Two trainings are therefore compared by
M_q^T R_D M_k, the operator of a score at offset D. Source: paper, Figure 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

import torch
from torch import Tensor

from harope_bench.core.chart_schema import HeadMatrix, MatrixChart
from harope_bench.core.errors import OptionError
from harope_bench.core.schema import Checkpoint
from harope_bench.core.state_dicts import check_sha256, load_state_strictly, load_weights
from harope_bench.encodings import base
from harope_bench.models import lora_manifest
from harope_bench.models.backbones.base import AdapterBackbone, load_adapter_backbone, load_backbone
from harope_bench.models.backbones.encoded_network import EncodedNetwork
from harope_bench.models.load_checkpoint import find_weights_path

Show = Literal["m", "m-i", "m-inverse-t", "operator"]
SIGNIFICANT_DIGITS = 6  # of a value in the figure


def measure_matrices(
    checkpoint: Checkpoint,
    show: Show,
    position_offsets: Sequence[tuple[float, ...]],
    layers: Sequence[int] | None,
) -> MatrixChart:
    """Return the matrices of a registered checkpoint, layer by layer.

    Args:
        show: M, M - I, the inverse transpose of M, or the operators M_q^T R_D M_k.
        position_offsets: D of the operators, (row, column) in tokens, or one number for each axis.
        layers: None for all.

    Raises:
        OptionError: The encoding learns no matrix, a layer does not exist, or an offset has another
            number of axes.
    """
    encoding = _encoding(checkpoint)
    _check(checkpoint, encoding, position_offsets, layers)
    matrices: list[HeadMatrix] = []
    with torch.inference_mode():
        for layer in layers or range(encoding.shape.layers):
            matrices += _layer_matrices(encoding, layer, show, position_offsets)
    return MatrixChart(
        checkpoint=checkpoint.name,
        encoding=checkpoint.encoding,
        sha256=checkpoint.sha256,
        operator=show,
        offsets=tuple(map(tuple, position_offsets)),
        matrices=tuple(matrices),
    )


def _encoding(checkpoint: Checkpoint) -> base.Encoding:
    """Return the trained encoding of a checkpoint, in float64."""
    path = find_weights_path(checkpoint)
    if path.name == lora_manifest.MANIFEST:
        backbone = load_adapter_backbone(checkpoint.backbone)
        return _adapter_encoding(checkpoint, backbone, path).double().eval()
    state = load_weights(path, checkpoint.sha256)
    network = load_backbone(checkpoint.backbone).load(checkpoint, state)
    return network.encoding.double().eval()


def _adapter_encoding(
    checkpoint: Checkpoint, backbone: AdapterBackbone[EncodedNetwork], path: Path
) -> base.Encoding:
    """Return the encoding of an adapter folder.

    The manifest records the sizes, so the base model need not be installed.
    """
    check_sha256(path, checkpoint.sha256)
    manifest = lora_manifest.read_manifest(path)
    encoding = base.build_encoding(
        base.load_encoding(checkpoint.encoding),
        backbone.shape(manifest.base.config),
        checkpoint.options,
    )
    if manifest.encoding_file is not None:
        encoding_path = lora_manifest.verify_adapter_file(path, manifest, manifest.encoding_file)
        load_state_strictly(encoding, load_weights(encoding_path), f"the adapter of {path}")
    return encoding


def _check(
    checkpoint: Checkpoint,
    encoding: base.Encoding,
    position_offsets: Sequence[tuple[float, ...]],
    layers: Sequence[int] | None,
) -> None:
    """Raise OptionError for an encoding without matrices, a wrong layer or a wrong offset."""
    shape = encoding.shape
    if encoding.matrices(0) is None:
        raise OptionError(
            f"{checkpoint.encoding} of {checkpoint.name} learns no matrix before the rotation;"
            " choose a checkpoint of harope, string or rope-matrix"
        )
    wrong_layers = [layer for layer in layers or () if layer not in range(shape.layers)]
    if wrong_layers:
        raise OptionError(
            f"{checkpoint.name} has layers 0 to {shape.layers - 1}, not {wrong_layers[0]}"
        )
    wrong_offsets = [offset for offset in position_offsets if len(offset) not in (2, shape.axes)]
    if wrong_offsets:
        raise OptionError(
            f"{checkpoint.name} has {shape.axes} axes, --offset gives {len(wrong_offsets[0])};"
            " write row,column"
        )


def _layer_matrices(
    encoding: base.Encoding, layer: int, show: Show, position_offsets: Sequence[tuple[float, ...]]
) -> list[HeadMatrix]:
    """Return the matrices of each head of a layer, or of all heads where they share one."""
    pair = encoding.matrices(layer)
    assert pair is not None  # `_check` raises otherwise
    matrix_count, head_dim = pair.q.shape[:2]
    rotations = [
        rotation(encoding, offset, layer).expand(encoding.shape.heads, head_dim, head_dim)
        for offset in position_offsets
    ]
    head_matrices = []
    for index in range(matrix_count):
        matrix_q = pair.q[index].double()  # (head_dim, head_dim)
        matrix_k = pair.k[index].double()  # (head_dim, head_dim)

        # The operator of a score at each offset: M_q^T R_D M_k.
        operators = [matrix_q.mT @ r[index] @ matrix_k for r in rotations]
        operator_change = tuple(
            float((operator - r[index]).norm())
            for operator, r in zip(operators, rotations, strict=True)
        )
        statistics = matrix_statistics(matrix_q, encoding)
        offset_matrices: list[tuple[tuple[float, ...] | None, Tensor]]
        if show == "operator":
            offset_matrices = list(zip(position_offsets, operators, strict=True))
        else:
            offset_matrices = [(None, displayed_matrix(matrix_q, show))]
        head_matrices += [
            HeadMatrix(
                **statistics,
                operator_change=operator_change,
                layer=layer,
                head=index if matrix_count > 1 else None,
                offset=offset,
                values=_rounded_rows(values),
            )
            for offset, values in offset_matrices
        ]
    return head_matrices


def rotation(encoding: base.Encoding, offset: Sequence[float], layer: int) -> Tensor:
    """Return R_D of an offset D: the encoding's rotation of the unit vectors.

    Returns:
        (heads or 1, head_dim, head_dim), float64.
    """
    # Each unit vector is a token at the offset.
    shape = encoding.shape
    identity = torch.eye(shape.head_dim, dtype=torch.float64)  # (head_dim, head_dim)
    unit_vectors = identity.expand(1, shape.heads, -1, -1)  # (1, heads, head_dim, head_dim)
    # The image is on the last two axes; the others are 0.
    other_axes = (0.0,) * (shape.axes - len(offset))
    position = torch.tensor((*other_axes, *offset), dtype=torch.float64)  # (axes,)
    positions = position.expand(shape.head_dim, -1)  # (head_dim, axes)
    rotated_vectors: Tensor = encoding.apply_rotation(unit_vectors, unit_vectors, positions, layer)[
        0
    ]
    return rotated_vectors[0].mT


def displayed_matrix(m: Tensor, show: Show) -> Tensor:
    """Return the matrix that the figure shows of M (d, d): M, M - I or M^-T."""
    if show == "m":
        return m
    if show == "m-i":
        return m - torch.eye(len(m), dtype=m.dtype)
    return torch.linalg.inv(m).mT


class MatrixStatistics(TypedDict):
    """Statistics of a matrix M.

    distance_from_identity: |M - I|_F.
    condition_number: None where M is singular.
    singular_values: in falling order.
    axis_coupling: fraction of |M|_F^2 in entries between channels of different axes.
    """

    distance_from_identity: float
    condition_number: float | None
    singular_values: tuple[float, ...]
    axis_coupling: float


def matrix_statistics(m: Tensor, encoding: base.Encoding) -> MatrixStatistics:
    """Return the statistics of M (d, d)."""
    singular_values = torch.linalg.svdvals(m)  # (d,)
    smallest = float(singular_values[-1])
    axes = channel_axes(encoding)  # (d,)
    is_between_axes = axes[:, None] != axes[None]  # (d, d)
    return {
        "distance_from_identity": float((m - torch.eye(len(m), dtype=m.dtype)).norm()),
        "condition_number": float(singular_values[0]) / smallest if smallest > 0 else None,
        "singular_values": tuple(singular_values.tolist()),
        "axis_coupling": float(m[is_between_axes].square().sum() / m.square().sum()),
    }


def channel_axes(encoding: base.Encoding) -> Tensor:
    """Return the axis (d,) whose coordinate rotates each channel of a head."""
    planes = base.planes_per_axis(encoding.shape, type(encoding).__name__.lower())
    plane_axes = torch.repeat_interleave(
        torch.arange(len(planes)), torch.tensor(planes)
    )  # (d / 2,)
    options = encoding.options
    if isinstance(options, base.RotaryOptions) and options.layout == "half-split":
        return plane_axes.repeat(2)  # (d,)
    return plane_axes.repeat_interleave(2)  # (d,)


def _rounded_rows(values: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(
        tuple(float(f"{value:.{SIGNIFICANT_DIGITS}g}") for value in row) for row in values.tolist()
    )
