"""What a figure shows, as data: measured once, kept as JSON, drawn again wherever it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from harope_bench.core.errors import StorageError
from harope_bench.core.record_base import Record, validation_summary
from harope_bench.core.regular_file import JSON_BYTES, read_regular
from harope_bench.core.storage import convert_os_errors

Matrix = tuple[tuple[float, ...], ...]


class CheckpointDistances(Record):
    """Mean attention distance of one checkpoint: pixels[layer][head]; `uniform` is that of
    attention spread evenly over all tokens.

    times: of the noise process out of 1,000 at which it was looked at, as close to those asked for
    as the sampler's steps come.
    Empty for a classifier, which has neither sampler, steps nor guidance. left_out: tokens that are
    no part of the image.
    spread: standard deviation over the heads of a layer, in pixels.
    """

    checkpoint: str
    encoding: str
    sha256: str
    pixels: Matrix
    standard_deviation: tuple[float, ...]
    uniform_distance: float
    token_pixels: float
    tokens: int
    excluded_tokens: str = ""
    images: int
    timesteps: tuple[float, ...]
    resolution: int
    sampler: str | None
    steps: int | None
    guidance: float | None
    seed: int


class AttentionDistanceChart(Record):
    """Figure 5 of the paper: distance by layer, a dot a head, one panel a checkpoint."""

    kind: Literal["attention-distance"] = "attention-distance"
    settings_text: str
    checkpoints: tuple[CheckpointDistances, ...] = Field(min_length=1)


class HeadMatrix(Record):
    """One learned matrix: what is drawn, and numbers of M itself. moved: |M^T R_D M_k - R_D|_F at
    each offset D.
    """

    layer: int
    head: int | None
    offset: tuple[float, ...] | None = None
    values: Matrix
    distance_from_identity: float
    condition_number: float | None
    singular_values: tuple[float, ...]
    axis_coupling: float
    operator_change: tuple[float, ...]


class MatrixChart(Record):
    """Figure 6: the matrices of one checkpoint, one diverging scale for all."""

    kind: Literal["matrices"] = "matrices"
    checkpoint: str
    encoding: str
    sha256: str
    operator: str
    colour_centre: float = 0.0
    offsets: Matrix
    matrices: tuple[HeadMatrix, ...] = Field(min_length=1)


class LossCurve(Record):
    """One run's training loss; `smooth` is the running average where smoothing was asked for."""

    label: str
    steps: tuple[float, ...] = Field(min_length=1)
    loss: tuple[float, ...]
    smoothed_loss: tuple[float, ...] | None = None


class LossChart(Record):
    """Figure 7: training loss against step."""

    kind: Literal["loss"] = "loss"
    smoothing: float
    curves: tuple[LossCurve, ...] = Field(min_length=1)


class SweepPoint(Record):
    """One run's number at a place of the axis; low and high are its interval where it has one."""

    axis_value: str
    value: float
    low: float | None = None
    high: float | None = None
    images: int


class SweepLine(Record):
    """The runs of one checkpoint that differ in the axis alone, in the axis's order."""

    label: str
    points: tuple[SweepPoint, ...] = Field(min_length=1)


class SweepChart(Record):
    """A metric along resolution, training resolution or position scaling. numeric: the places are
    numbers, drawn to a log scale.
    """

    kind: Literal["sweep"] = "sweep"
    suite: str
    metric: str
    title: str
    direction: Literal["higher", "lower"]
    decimals: int
    axis: Literal["resolution", "training-resolution", "pos-scaling"]
    is_numeric: bool
    lines: tuple[SweepLine, ...] = Field(min_length=1)
    excluded: tuple[str, ...] = ()


Chart = AttentionDistanceChart | MatrixChart | LossChart | SweepChart
CHART_ADAPTER: TypeAdapter[Chart] = TypeAdapter(Annotated[Chart, Field(discriminator="kind")])


def read_chart(path: Path) -> Chart:
    """A figure's data; StorageError names the file and the field."""
    with convert_os_errors(path):
        data = read_regular(path, JSON_BYTES)
    try:
        return CHART_ADAPTER.validate_json(data)
    except ValidationError as error:
        raise StorageError(
            f"{path} is not the data of a figure ({validation_summary(error)}); delete it or draw"
            " the figure again"
        ) from error
