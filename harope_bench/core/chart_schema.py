"""What a figure shows, as data: measured once, kept as JSON, drawn again wherever it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from harope_bench.core.errors import StorageError
from harope_bench.core.record_base import Record, fault
from harope_bench.core.regular_file import JSON_BYTES, read_regular
from harope_bench.core.storage import disk

Matrix = tuple[tuple[float, ...], ...]


class Distances(Record):
    """Mean attention distance of one checkpoint: pixels[layer][head]; `uniform` is that of attention spread evenly over all tokens.

    times: of the noise process out of 1,000 at which it was looked at, as close to those asked for as the sampler's steps come.
    Empty for a classifier, which has neither sampler, steps nor guidance. left_out: tokens that are no part of the image.
    spread: standard deviation over the heads of a layer, in pixels.
    """

    checkpoint: str
    encoding: str
    sha256: str
    pixels: Matrix
    spread: tuple[float, ...]
    uniform: float
    token_pixels: float
    tokens: int
    left_out: str = ""
    images: int
    times: tuple[float, ...]
    resolution: int
    sampler: str | None
    steps: int | None
    guidance: float | None
    seed: int


class AttentionDistance(Record):
    """Figure 5 of the paper: distance by layer, a dot a head, one panel a checkpoint."""

    kind: Literal["attention-distance"] = "attention-distance"
    settings: str
    runs: tuple[Distances, ...] = Field(min_length=1)


class HeadMatrix(Record):
    """One learned matrix: what is drawn, and numbers of M itself. moved: |M^T R_D M_k - R_D|_F at each offset D."""

    layer: int
    head: int | None
    offset: tuple[float, ...] | None = None
    shown: Matrix
    from_identity: float
    condition: float | None
    singular: tuple[float, ...]
    coupling: float
    moved: tuple[float, ...]


class Matrices(Record):
    """Figure 6: the matrices of one checkpoint, one diverging scale for all."""

    kind: Literal["matrices"] = "matrices"
    checkpoint: str
    encoding: str
    sha256: str
    show: str
    centre: float = 0.0
    offsets: Matrix
    maps: tuple[HeadMatrix, ...] = Field(min_length=1)


class Curve(Record):
    """One run's training loss; `smooth` is the running average where smoothing was asked for."""

    label: str
    steps: tuple[float, ...] = Field(min_length=1)
    loss: tuple[float, ...]
    smooth: tuple[float, ...] | None = None


class Loss(Record):
    """Figure 7: training loss against step."""

    kind: Literal["loss"] = "loss"
    ema: float
    runs: tuple[Curve, ...] = Field(min_length=1)


class SweepPoint(Record):
    """One run's number at a place of the axis; low and high are its interval where it has one."""

    place: str
    value: float
    low: float | None = None
    high: float | None = None
    images: int


class SweepLine(Record):
    """The runs of one checkpoint that differ in the axis alone, in the axis's order."""

    label: str
    points: tuple[SweepPoint, ...] = Field(min_length=1)


class Sweep(Record):
    """A metric along resolution, training resolution or position scaling. numeric: the places are numbers, drawn to a log scale."""

    kind: Literal["sweep"] = "sweep"
    suite: str
    metric: str
    title: str
    direction: Literal["higher", "lower"]
    decimals: int
    axis: Literal["resolution", "training-resolution", "pos-scaling"]
    numeric: bool
    lines: tuple[SweepLine, ...] = Field(min_length=1)
    left_out: tuple[str, ...] = ()


Chart = AttentionDistance | Matrices | Loss | Sweep
CHARTS: TypeAdapter[Chart] = TypeAdapter(Annotated[Chart, Field(discriminator="kind")])


def read_chart(path: Path) -> Chart:
    """A figure's data; StorageError names the file and the field."""
    with disk(path):
        data = read_regular(path, JSON_BYTES)
    try:
        return CHARTS.validate_json(data)
    except ValidationError as error:
        raise StorageError(f"{path} is not the data of a figure ({fault(error)}); delete it or draw the figure again") from error
