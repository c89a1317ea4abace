"""The data of figures as records: measured once, stored as JSON, plotted from there."""

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
    """Mean attention distance of one checkpoint, in pixels.

    Attributes:
        pixels: Distance by layer and head.
        standard_deviation: Over the heads of a layer, by layer, in pixels.
        uniform_distance: Distance of attention with equal weight on all tokens.
        token_pixels: Side of a token in pixels.
        excluded_tokens: Tokens that are not part of the image, in words.
        images: Number of images.
        timesteps: Noise levels (0 to 1,000) at which the attention was recorded: the sampler's
            steps that are nearest to the requested ones. Empty for a classifier, which also has no
            sampler, steps or guidance.
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
    """Figure 5 of the paper: attention distance by layer, one dot per head, one panel per
    checkpoint.
    """

    kind: Literal["attention-distance"] = "attention-distance"
    settings_text: str
    checkpoints: tuple[CheckpointDistances, ...] = Field(min_length=1)


class HeadMatrix(Record):
    """One learned matrix M of an encoding: the plotted values and numbers about M.

    operator_change: |M^T R_D M_k - R_D|_F at each offset D of the chart, where R_D is the rotation.
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
    """Figure 6 of the paper: the matrices of one checkpoint on one diverging colour scale."""

    kind: Literal["matrices"] = "matrices"
    checkpoint: str
    encoding: str
    sha256: str
    operator: str
    colour_centre: float = 0.0
    offsets: Matrix
    matrices: tuple[HeadMatrix, ...] = Field(min_length=1)


class LossCurve(Record):
    """Training loss of one run by step; `smoothed_loss` is its running average, if requested."""

    label: str
    steps: tuple[float, ...] = Field(min_length=1)
    loss: tuple[float, ...]
    smoothed_loss: tuple[float, ...] | None = None


class LossChart(Record):
    """Figure 7 of the paper: training loss against step."""

    kind: Literal["loss"] = "loss"
    smoothing: float
    curves: tuple[LossCurve, ...] = Field(min_length=1)


class SweepPoint(Record):
    """The metric of one run at one value of the axis; low and high are its confidence interval."""

    axis_value: str
    value: float
    low: float | None = None
    high: float | None = None
    images: int


class SweepLine(Record):
    """The runs of one checkpoint that differ only in the axis value, in the order of the axis."""

    label: str
    points: tuple[SweepPoint, ...] = Field(min_length=1)


class SweepChart(Record):
    """A metric against resolution, training resolution or position scaling.

    Attributes:
        is_numeric: Whether the axis values are numbers, which are plotted on a log scale.
        excluded: Runs that are not plotted, each with the reason.
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
    """Return the data of a figure.

    Raises:
        StorageError: The file cannot be read or is no such data. The message names file and field.
    """
    with convert_os_errors(path):
        data = read_regular(path, JSON_BYTES)
    try:
        return CHART_ADAPTER.validate_json(data)
    except ValidationError as error:
        raise StorageError(
            f"{path} is not the data of a figure ({validation_summary(error)}); delete it or draw"
            " the figure again"
        ) from error
