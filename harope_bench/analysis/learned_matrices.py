"""The matrices that an encoding learned, and what can be said of them across trainings.

M is defined only up to a complex factor for each rotary plane (left multiplication by what commutes
with every rotation changes no
score), so two trainings are compared by M^T R_D M_k, the operator that a score at offset D takes.
Source: paper Figure 6.
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
from harope_bench.models.load_checkpoint import weights_path

Show = Literal["m", "m-i", "m-inverse-t", "operator"]
SIGNIFICANT_DIGITS = 6  # significant digits kept of a drawn value


def measure_matrices(
    found: Checkpoint,
    show: Show,
    offsets: Sequence[tuple[float, ...]],
    layers: Sequence[int] | None,
) -> MatrixChart:
    """The matrices of a registered checkpoint, layer by layer.

    Raises:
        OptionError: the encoding learns no matrix, a layer it does not have, or an offset of
            another number of axes.
    """
    encoding = _encoding(found)
    _check(found, encoding, offsets, layers)
    maps: list[HeadMatrix] = []
    with torch.inference_mode():
        for layer in layers or range(encoding.shape.layers):
            maps += _layer_matrices(encoding, layer, show, offsets)
    return MatrixChart(
        checkpoint=found.name,
        encoding=found.encoding,
        sha256=found.sha256,
        operator=show,
        offsets=tuple(map(tuple, offsets)),
        matrices=tuple(maps),
    )


def _encoding(found: Checkpoint) -> base.Encoding:
    """The trained encoding alone, in float64."""
    path = weights_path(found)
    if path.name == lora_manifest.MANIFEST:
        return _adapter_encoding(found, load_adapter_backbone(found.backbone), path).double().eval()
    return (
        load_backbone(found.backbone)
        .load(found, load_weights(path, found.sha256))
        .encoding.double()
        .eval()
    )


def _adapter_encoding(
    found: Checkpoint, backbone: AdapterBackbone[EncodedNetwork], path: Path
) -> base.Encoding:
    """The encoding of an adapter folder; its manifest keeps the sizes, so that the base need not be
    here.
    """
    check_sha256(path, found.sha256)
    manifest = lora_manifest.read_manifest(path)
    encoding = base.build_encoding(
        base.load_encoding(found.encoding), backbone.shape(manifest.base.config), found.options
    )
    if manifest.encoding_file is not None:
        load_state_strictly(
            encoding,
            load_weights(lora_manifest.checked_file(path, manifest, manifest.encoding_file)),
            f"the adapter of {path}",
        )
    return encoding


def _check(
    found: Checkpoint,
    encoding: base.Encoding,
    offsets: Sequence[tuple[float, ...]],
    layers: Sequence[int] | None,
) -> None:
    shape = encoding.shape
    if encoding.matrices(0) is None:
        raise OptionError(
            f"{found.encoding} of {found.name} learns no matrix before the rotation; choose a"
            " checkpoint of harope, string or rope-matrix"
        )
    if wrong := [layer for layer in layers or () if layer not in range(shape.layers)]:
        raise OptionError(f"{found.name} has layers 0 to {shape.layers - 1}, not {wrong[0]}")
    if wrong_offset := [offset for offset in offsets if len(offset) not in (2, shape.axes)]:
        raise OptionError(
            f"{found.name} has {shape.axes} axes, --offset gives {len(wrong_offset[0])}; write"
            " row,column"
        )


def _layer_matrices(
    encoding: base.Encoding, layer: int, show: Show, offsets: Sequence[tuple[float, ...]]
) -> list[HeadMatrix]:
    pair = encoding.matrices(layer)
    assert pair is not None  # _check has asked
    count, d = pair.q.shape[:2]
    turns = [
        rotation(encoding, offset, layer).expand(encoding.shape.heads, d, d) for offset in offsets
    ]
    made = []
    for group in range(count):
        m = pair.q[group].double()
        k = pair.k[group].double()
        operators = [m.mT @ turn[group] @ k for turn in turns]
        moved = tuple(
            float((operator - turn[group]).norm())
            for operator, turn in zip(operators, turns, strict=True)
        )
        drawn = (
            zip(offsets, operators, strict=True)
            if show == "operator"
            else [(None, displayed_matrix(m, show))]
        )
        numbers = matrix_statistics(m, encoding)
        head = group if count > 1 else None
        made += [
            HeadMatrix(
                **numbers,
                operator_change=moved,
                layer=layer,
                head=head,
                offset=offset,
                values=_rounded(values),
            )
            for offset, values in drawn
        ]
    return made


def rotation(encoding: base.Encoding, offset: Sequence[float], layer: int) -> Tensor:
    """R_D of an offset, (heads or 1, d, d), float64: what the encoding's own rotation does to the
    unit vectors.
    """
    shape = encoding.shape
    unit = torch.eye(shape.head_dim, dtype=torch.float64).expand(
        1, shape.heads, -1, -1
    )  # every vector is a token at the offset
    still = (0.0,) * (shape.axes - len(offset))  # an image lies on the last two axes
    places = torch.tensor((*still, *offset), dtype=torch.float64).expand(shape.head_dim, -1)
    turned: Tensor = encoding.apply_rotation(unit, unit, places, layer)[0]
    return turned[0].mT


def displayed_matrix(m: Tensor, show: Show) -> Tensor:
    """What is drawn of M (d, d)."""
    eye = torch.eye(len(m), dtype=m.dtype)
    return {"m": lambda: m, "m-i": lambda: m - eye, "m-inverse-t": lambda: torch.linalg.inv(m).mT}[
        show
    ]()


class MatrixStatistics(TypedDict):
    """|M - I|_F, condition number (None where singular), singular values, and the share of energy
    that couples the axes.
    """

    distance_from_identity: float
    condition_number: float | None
    singular_values: tuple[float, ...]
    axis_coupling: float


def matrix_statistics(m: Tensor, encoding: base.Encoding) -> MatrixStatistics:
    """Return what is said of M (d, d)."""
    singular = torch.linalg.svdvals(m)
    smallest = float(singular[-1])
    axes = channel_axes(encoding)
    return {
        "distance_from_identity": float((m - torch.eye(len(m), dtype=m.dtype)).norm()),
        "condition_number": float(singular[0]) / smallest if smallest > 0 else None,
        "singular_values": tuple(singular.tolist()),
        "axis_coupling": float(m[axes[:, None] != axes[None]].square().sum() / m.square().sum()),
    }


def channel_axes(encoding: base.Encoding) -> Tensor:
    """The axis (d,) by whose coordinate each channel of a head turns, in the layout of the
    encoding.
    """
    planes = base.planes_per_axis(encoding.shape, type(encoding).__name__.lower())
    axis = torch.repeat_interleave(torch.arange(len(planes)), torch.tensor(planes))
    split = (
        isinstance(encoding.options, base.RotaryOptions) and encoding.options.layout == "half-split"
    )
    return axis.repeat(2) if split else axis.repeat_interleave(2)


def _rounded(values: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(
        tuple(float(f"{value:.{SIGNIFICANT_DIGITS}g}") for value in row) for row in values.tolist()
    )
