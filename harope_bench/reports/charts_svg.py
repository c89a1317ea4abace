"""Charts rendered as SVG, and their numbers as rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from harope_bench.core.chart_schema import (
    AttentionDistanceChart,
    Chart,
    CheckpointDistances,
    HeadMatrix,
    LossChart,
    MatrixChart,
    SweepChart,
)
from harope_bench.reports.page_figures import (
    LINE_COLOURS,
    LINE_STYLES,
    RC_PARAMS,
    TEXT_COLOUR,
    _remove_spines,
    figure_svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

MATRIX_AMBIGUITY_NOTE = (
    "M is defined only up to a complex factor for each rotary plane: multiplying it from the left"
    " by a matrix that commutes with every rotation leaves the attention scores unchanged. Compare"
    " M^T R_D M_k (here: its distance from R_D) across seeds, not M."
)
MATRIX_TITLES = {"m": "M", "m-i": "M \N{MINUS SIGN} I", "m-inverse-t": "M⁻ᵀ", "operator": "Mᵀ R Mₖ"}
MAX_LABELED_PANELS = 48  # with more panels, the numbers under them are omitted
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


def render_chart(chart: Chart, name: str) -> str:
    """Return the <svg> element of a chart.

    Args:
        name: prefix of every id in the element.
    """
    import matplotlib

    with matplotlib.rc_context({**RC_PARAMS, "svg.hashsalt": name}):
        if isinstance(chart, AttentionDistanceChart):
            figure = _distance_figure(chart)
        elif isinstance(chart, SweepChart):
            figure = _sweep_figure(chart)
        elif isinstance(chart, MatrixChart):
            figure = _matrix_figure(chart)
        else:
            figure = _loss_figure(chart)
        return figure_svg(figure, name)


def page_width(svg: str) -> float:
    """Return the width of an SVG on a page in rem; text of all figures gets one size."""
    view_box = re.search(r'viewBox="0 0 ([\d.]+) ', svg)
    return round(float(view_box[1]) * 0.08, 1) if view_box else 40.0


def chart_caption(chart: Chart) -> str:
    """Return what the chart shows, with the settings that the paper does not state."""
    if isinstance(chart, AttentionDistanceChart):
        return (
            "Mean attention distance of each head (dots) and each layer (line); the dashed line is"
            f" uniform attention. {chart.settings_text}"
        )
    if isinstance(chart, MatrixChart):
        offsets = ", ".join(f"({', '.join(f'{x:g}' for x in offset)})" for offset in chart.offsets)
        return (
            f"{MATRIX_TITLES[chart.operator]} of {chart.checkpoint} by layer and head, with one"
            f" colour scale; offsets D: {offsets}. {MATRIX_AMBIGUITY_NOTE}"
        )
    if isinstance(chart, SweepChart):
        excluded_text = f" Excluded: {'; '.join(chart.excluded)}." if chart.excluded else ""
        better = f"{chart.direction} is better"
        return (
            f"{chart.title} of suite {chart.suite} by {chart.axis.replace('-', ' ')} ({better});"
            f" bars are 95% intervals.{excluded_text}"
        )
    return "Training loss" + (
        f", running average with weight {chart.smoothing:g} of the past" if chart.smoothing else ""
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


def _distance_figure(chart: AttentionDistanceChart) -> Figure:
    """Return a figure with one panel per checkpoint."""
    from matplotlib.figure import Figure

    n_panels = len(chart.checkpoints)
    n_columns = 2 if n_panels == 4 else min(3, n_panels)
    n_rows = -(-n_panels // n_columns)
    figure = Figure(figsize=(0.9 + 2.5 * n_columns, 0.5 + 2.4 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)

    for axes in grid.flat[n_panels:]:
        axes.set_visible(False)
    for i, distances in enumerate(chart.checkpoints):
        _add_distance_panel(grid.flat[i], distances)

    # axis labels at the left and under the lowest panel of each column
    for axes in grid[:, 0]:
        axes.set_ylabel("distance (pixels)")
    for i in range(max(0, n_panels - n_columns), n_panels):
        grid.flat[i].set_xlabel("layer")
        grid.flat[i].tick_params(labelbottom=True)

    # one scale for all panels
    largest_distance = max(
        max(max(max(heads) for heads in distances.pixels), distances.uniform_distance)
        for distances in chart.checkpoints
    )
    grid.flat[0].set_ylim(0, 1.12 * largest_distance)
    return figure


def _add_distance_panel(axes: Axes, distances: CheckpointDistances) -> None:
    """Add the attention distances of one checkpoint: heads as dots, the layers' means as a line."""
    layers = np.arange(len(distances.pixels))
    for layer, heads in enumerate(distances.pixels):
        # the dots of one layer are spread over 0.45 of the distance between layers
        head_offsets = (
            (np.arange(len(heads)) - (len(heads) - 1) / 2) * 0.45 / max(1, len(heads) - 1)
        )
        axes.plot(
            layer + head_offsets,
            heads,
            "o",
            color=LINE_COLOURS[0],
            markersize=3.4,
            markeredgewidth=0,
            alpha=0.8,
        )
    axes.plot(
        layers, [np.mean(heads) for heads in distances.pixels], color=LINE_COLOURS[1], linewidth=1.2
    )
    axes.axhline(distances.uniform_distance, color=TEXT_COLOUR, linewidth=0.8, linestyle="--")
    axes.set_title(distances.checkpoint, fontsize=9, parse_math=False)
    axes.set_xlim(-0.6, len(layers) - 0.4)
    axes.set_xticks(layers[:: max(1, -(-len(layers) // 12))])
    summary = (
        f"SD over heads {np.mean(distances.standard_deviation):.2f} px\ndashes: uniform attention"
        f" {distances.uniform_distance:.1f} px"
    )
    if distances.excluded_tokens:
        summary += f"\nwithout {distances.excluded_tokens}"
    axes.text(0.02, 0.02, summary, transform=axes.transAxes, fontsize=6.5, in_layout=False)
    _remove_spines(axes)


def _matrix_figure(chart: MatrixChart) -> Figure:
    """Return a figure with one panel per matrix: rows are layers, columns are heads."""
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    # a row of panels for each layer and offset, a column for each head (-1: all heads in one)
    panel_rows = list(
        dict.fromkeys(
            (matrix.layer, matrix.offset or ())
            for matrix in sorted(chart.matrices, key=lambda matrix: matrix.layer)
        )
    )
    heads = sorted({_head_index(matrix) for matrix in chart.matrices})

    # sizes are in inches
    has_labels = len(chart.matrices) <= MAX_LABELED_PANELS
    side = 1.15 if has_labels else 0.62
    label_height = 0.42 if has_labels else 0.08
    width = max(1.5 + side * len(heads), 3.2)
    height = 0.6 + (side + label_height) * len(panel_rows)
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(len(panel_rows), len(heads), squeeze=False)

    # one symmetric colour scale for all panels
    largest_value = max(abs(x) for matrix in chart.matrices for row in matrix.values for x in row)
    largest_value = largest_value or 1.0
    images: list[AxesImage] = []
    for matrix in chart.matrices:
        panel_row = panel_rows.index((matrix.layer, matrix.offset or ()))
        axes = grid[panel_row, heads.index(_head_index(matrix))]
        norm = Normalize(-largest_value, largest_value)
        image = axes.imshow(matrix.values, cmap="RdBu_r", norm=norm, interpolation="nearest")
        images.append(image)
        axes.set_xticks([])
        axes.set_yticks([])
        if has_labels:
            axes.set_xlabel(_panel_text(chart, matrix), fontsize=6, labelpad=2, parse_math=False)

    for i, (layer, offset) in enumerate(panel_rows):
        offset_text = f"\nD = ({_join_numbers(offset).replace(' ', ', ')})" if offset else ""
        grid[i, 0].set_ylabel(f"layer {layer}{offset_text}", fontsize=7)
    for j, head in enumerate(heads):
        grid[0, j].set_title("all heads" if head < 0 else f"head {head}", fontsize=7)

    bar = figure.colorbar(
        images[-1], ax=grid, shrink=min(1.0, 2.2 / height), fraction=0.03, pad=0.02
    )
    bar.set_label(MATRIX_TITLES[chart.operator], fontsize=8)
    bar.ax.tick_params(labelsize=7, width=0.6, length=3)
    bar.outline.set_linewidth(0.4)
    return figure


def _head_index(matrix: HeadMatrix) -> int:
    """Return the head of a matrix, -1 for a matrix that all heads share."""
    return -1 if matrix.head is None else matrix.head


def _panel_text(chart: MatrixChart, matrix: HeadMatrix) -> str:
    """Return the numbers under a panel.

    For the operator it is the distance from the rotation without matrices, else three numbers of M.
    """
    if matrix.offset in chart.offsets and matrix.offset is not None:
        return f"change {matrix.operator_change[chart.offsets.index(matrix.offset)]:.2f}"
    condition = "singular"
    if matrix.condition_number is not None:
        condition = f"{matrix.condition_number:.3g}"
    return (
        f"|M\N{MINUS SIGN}I| {matrix.distance_from_identity:.2f}, cond {condition}\ncoupling"
        f" {matrix.axis_coupling:.1%}"
    )


def _loss_figure(chart: LossChart) -> Figure:
    """Return a figure of training loss against step, one line per run.

    The loss axis is logarithmic if all losses are positive. The unsmoothed loss is drawn thin.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for i, curve in enumerate(chart.curves):
        colour = LINE_COLOURS[i % len(LINE_COLOURS)]
        line_style = LINE_STYLES[i // len(LINE_COLOURS) % len(LINE_STYLES)]
        shown_loss = curve.smoothed_loss or curve.loss
        if curve.smoothed_loss:
            axes.plot(curve.steps, curve.loss, color=colour, linewidth=0.6, alpha=0.25)
        marker = "o" if len(curve.steps) == 1 else None
        axes.plot(
            curve.steps,
            shown_loss,
            color=colour,
            linestyle=line_style,
            linewidth=1.3,
            marker=marker,
            label=_escape_math(curve.label),
        )
    axes.set_xlabel("training step")

    # a logarithmic axis has no place for a loss of 0 or less
    is_positive = min(min(curve.loss) for curve in chart.curves) > 0
    axes.set_ylabel("loss (log scale)" if is_positive else "loss")
    if is_positive:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.legend(frameon=False, fontsize=8, ncols=2)
    _remove_spines(axes)
    return figure


def _sweep_figure(chart: SweepChart) -> Figure:
    """Return a figure of a metric along an axis, one line per run, with 95% intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axis_values = list(
        dict.fromkeys(point.axis_value for line in chart.lines for point in line.points)
    )
    axis_values = sorted(axis_values, key=float) if chart.is_numeric else axis_values

    # lines are shifted slightly so that their intervals do not overlap
    for i, line in enumerate(chart.lines):
        colour = LINE_COLOURS[i % len(LINE_COLOURS)]
        line_style = LINE_STYLES[i // len(LINE_COLOURS) % len(LINE_STYLES)]
        line_offset = (i - (len(chart.lines) - 1) / 2) * 0.06
        x = [axis_values.index(point.axis_value) + line_offset for point in line.points]
        axes.plot(
            x,
            [p.value for p in line.points],
            line_style,
            color=colour,
            marker="o",
            markersize=3.4,
            linewidth=1.2,
            label=_escape_math(line.label),
        )
        for position, point in zip(x, line.points, strict=True):
            if point.low is not None and point.high is not None:
                axes.vlines(position, point.low, point.high, color=colour, linewidth=0.8)
    axes.set_xticks(
        range(len(axis_values)), [_escape_math(axis_value) for axis_value in axis_values]
    )
    axes.set_xlabel(chart.axis.replace("-", " ") + (" (pixels)" if chart.is_numeric else ""))
    axes.set_ylabel(_escape_math(chart.title))
    axes.legend(frameon=False, fontsize=8, ncols=2)
    _remove_spines(axes)
    return figure


def _escape_math(text: str) -> str:
    """Return the text with dollars escaped, which matplotlib would read as mathematics."""
    return text.replace("$", r"\$")
