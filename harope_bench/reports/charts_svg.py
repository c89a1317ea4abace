"""Charts rendered as SVG, and their numbers as rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harope_bench.core.chart_schema import (
    AttentionDistanceChart,
    Chart,
    CheckpointDistances,
    HeadMatrix,
    LossChart,
    MatrixChart,
    SweepChart,
)
from harope_bench.core.schema import Checkpoint
from harope_bench.reports.attention_panels import (
    distance_panel,
    largest_distance,
    largest_entry,
    matrix_panel,
    matrix_title,
)
from harope_bench.reports.encoding_styles import (
    EncodingStyle,
    EncodingStyles,
    assign_styles,
    find_name,
)
from harope_bench.reports.line_panels import PANEL_WIDTH, legend_panel, loss_panel, sweep_panel
from harope_bench.reports.svg_elements import Panel, arrange_panels, file_svg

MATRIX_AMBIGUITY_NOTE = (
    "M is defined only up to a complex factor for each rotary plane: multiplying it from the left"
    " by a matrix that commutes with every rotation leaves the attention scores unchanged. Compare"
    " M^T R_D M_k (here: its distance from R_D) across seeds, not M."
)
FILE_COLUMNS = 3  # panels side by side in a file
FILE_WIDTH = 640.0  # of the single panel of a file
CSV_COLUMNS = {
    "attention-distance": (
        "checkpoint",
        "layer",
        "head",
        "pixels",
        "layer_standard_deviation",
        "uniform_distance",
    ),
    "matrices": (
        "layer",
        "head",
        "offset",
        "distance_from_identity",
        "condition_number",
        "smallest_singular_value",
        "largest_singular_value",
        "axis_coupling",
        "operator_change",
    ),
    "loss": ("run", "step", "loss", "smoothed_loss"),
    "sweep": ("run", "axis_value", "value", "low", "high", "images"),
}


@dataclass(frozen=True)
class ChartContext:
    """What charts know of the checkpoints by their names.

    Attributes:
        styles: Colour and mark of each encoding.
        training_sizes: Side of the training images in pixels by checkpoint, where it is recorded.
    """

    styles: EncodingStyles = field(default_factory=lambda: assign_styles({}))
    training_sizes: Mapping[str, int] = field(default_factory=dict)


def checkpoint_context(checkpoints: Sequence[Checkpoint]) -> ChartContext:
    """Return the context of charts of these checkpoints."""
    sizes = {checkpoint.name: checkpoint.config.get("size") for checkpoint in checkpoints}
    return ChartContext(
        assign_styles({checkpoint.name: checkpoint.encoding for checkpoint in checkpoints}),
        {
            name: size
            for name, size in sizes.items()
            if isinstance(size, int) and not isinstance(size, bool)
        },
    )


def render_chart(chart: Chart, name: str, context: ChartContext | None = None) -> str:
    """Return the <svg> element of a chart for a file.

    Args:
        name: Prefix of every id in the element.
        context: What is known of the checkpoints; None if nothing is.
    """
    panels = chart_panels(chart, context or ChartContext(), FILE_WIDTH)
    n_columns = 2 if len(panels) == 4 else min(FILE_COLUMNS, len(panels))
    if isinstance(chart, LossChart | SweepChart):
        n_columns = 1  # the legend is under the lines
    grid = arrange_panels(panels, n_columns, chart_title(chart), chart_caption(chart))
    return file_svg(grid, name)


def chart_panels(
    chart: Chart, context: ChartContext, loss_width: float = PANEL_WIDTH
) -> list[Panel]:
    """Return the panels of a chart, the legend last where it has one.

    Args:
        loss_width: Width of the loss curves.
    """
    if isinstance(chart, AttentionDistanceChart):
        return _distance_panels(chart, context)
    if isinstance(chart, MatrixChart):
        return matrix_panels([chart], context)
    if isinstance(chart, SweepChart):
        labels = [line.label for line in chart.lines]
        styles = context.styles.chart_styles(labels)
        return [sweep_chart_panel(chart, styles, context), legend_panel(styles, labels)]
    labels = [curve.label for curve in chart.curves]
    styles = context.styles.chart_styles(labels)
    panel = loss_panel(chart, styles, loss_width)
    return [panel, legend_panel(styles, labels, loss_width)]


def sweep_chart_panel(
    chart: SweepChart, styles: Sequence[EncodingStyle], context: ChartContext
) -> Panel:
    """Return the panel of a sweep; a line begins with the name of its checkpoint.

    Args:
        styles: Style of each line.
    """
    names = {line.label: find_name(line.label, context.training_sizes) for line in chart.lines}
    known_sizes = {
        label: context.training_sizes[name] for label, name in names.items() if name is not None
    }
    return sweep_panel(chart, styles, known_sizes)


def matrix_panels(charts: Sequence[MatrixChart], context: ChartContext) -> list[Panel]:
    """Return the matrices of several checkpoints with one colour scale."""
    limit = largest_entry(charts)
    return [matrix_panel(chart, context.styles.style(chart.encoding), limit) for chart in charts]


def _distance_panels(chart: AttentionDistanceChart, context: ChartContext) -> list[Panel]:
    """Return a panel for each checkpoint; all have one scale."""
    scale_end = largest_distance(chart.checkpoints)
    encodings = [distances.encoding for distances in chart.checkpoints]
    styles = context.styles.chart_styles(encodings)
    return [
        distance_panel(distances, replace(style, variant=0), scale_end)
        for distances, style in zip(chart.checkpoints, styles, strict=True)
    ]


def chart_title(chart: Chart) -> str:
    """Return the title of a chart."""
    if isinstance(chart, AttentionDistanceChart):
        return "Attention distance (Figure 5)"
    if isinstance(chart, MatrixChart):
        return f"Learned matrices, {matrix_title(chart)} (Figure 6)"
    if isinstance(chart, SweepChart):
        return f"{chart.title} by {chart.axis.replace('-', ' ')}"
    return "Training loss (Figure 7)"


def chart_caption(chart: Chart) -> str:
    """Return what the chart shows, with the settings that the paper does not state."""
    if isinstance(chart, AttentionDistanceChart):
        return (
            "Mean attention distance of each head (marks) and each layer (line); the dashed line is"
            f" uniform attention. {chart.settings_text}"
        )
    if isinstance(chart, MatrixChart):
        return matrix_caption([chart])
    if isinstance(chart, SweepChart):
        excluded_text = f" Excluded: {'; '.join(chart.excluded)}." if chart.excluded else ""
        better = f"{chart.direction} is better"
        return (
            f"{chart.title} of suite {chart.suite} by {chart.axis.replace('-', ' ')} ({better});"
            f" ribbons and vertical lines are 95% intervals.{excluded_text}"
        )
    return "Training loss" + (
        f", running average with weight {chart.smoothing:g} of the past" if chart.smoothing else ""
    )


def matrix_caption(charts: Sequence[MatrixChart]) -> str:
    """Return what the matrices of several checkpoints show; the offsets are those of the first."""
    names = ", ".join(dict.fromkeys(chart.checkpoint for chart in charts))
    offsets = ", ".join(f"({', '.join(f'{x:g}' for x in offset)})" for offset in charts[0].offsets)
    return (
        f"{matrix_title(charts[0])} of {names} by layer and head, with one colour scale; offsets D:"
        f" {offsets}. {MATRIX_AMBIGUITY_NOTE}"
    )


def chart_rows(chart: Chart) -> Iterator[tuple[object, ...]]:
    """Yield the numbers of the chart, in the order of CSV_COLUMNS."""
    if isinstance(chart, AttentionDistanceChart):
        for distances in chart.checkpoints:
            yield from _distance_rows(distances)
    elif isinstance(chart, MatrixChart):
        for matrix in chart.matrices:
            yield _matrix_row(matrix)
    elif isinstance(chart, SweepChart):
        for line in chart.lines:
            for p in line.points:
                yield (line.label, p.axis_value, p.value, p.low, p.high, p.images)
    else:
        for curve in chart.curves:
            smoothed_loss = curve.smoothed_loss or ("",) * len(curve.steps)
            for point in zip(curve.steps, curve.loss, smoothed_loss, strict=True):
                yield (curve.label, *point)


def _distance_rows(distances: CheckpointDistances) -> Iterator[tuple[object, ...]]:
    """Yield a row for each head of a checkpoint."""
    for layer, heads in enumerate(distances.pixels):
        layer_deviation = distances.standard_deviation[layer]
        for head, pixels in enumerate(heads):
            yield (
                distances.checkpoint,
                layer,
                head,
                pixels,
                layer_deviation,
                distances.uniform_distance,
            )


def _matrix_row(matrix: HeadMatrix) -> tuple[object, ...]:
    """Return the row of one matrix; its singular values are sorted from large to small."""
    return (
        matrix.layer,
        "all" if matrix.head is None else matrix.head,
        _join_numbers(matrix.offset),
        matrix.distance_from_identity,
        matrix.condition_number,
        matrix.singular_values[-1],
        matrix.singular_values[0],
        matrix.axis_coupling,
        _join_numbers(matrix.operator_change),
    )


def _join_numbers(values: tuple[float, ...] | None) -> str:
    """Return numbers separated by blanks, empty for None."""
    return " ".join(f"{value:g}" for value in values) if values is not None else ""
