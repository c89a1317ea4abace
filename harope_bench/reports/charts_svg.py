"""The figures of charts.py drawn as SVG, and their numbers as rows."""

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
    "M is defined only up to a complex factor for each rotary plane: left-multiplied by what"
    " commutes with every rotation it gives the same scores. Compare M^T R_D M_k (here: its"
    " distance from R_D), not M, across seeds."
)
MATRIX_TITLES = {"m": "M", "m-i": "M \N{MINUS SIGN} I", "m-inverse-t": "M⁻ᵀ", "operator": "Mᵀ R Mₖ"}
MAX_NUMBERED_PANELS = 48  # panels up to which each carries its numbers
CSV_COLUMNS = {
    "attention-distance": ("checkpoint", "layer", "head", "pixels", "layer_spread", "uniform"),
    "matrices": (
        "layer",
        "head",
        "offset",
        "from_identity",
        "condition",
        "smallest",
        "largest",
        "coupling",
        "moved",
    ),
    "loss": ("run", "step", "loss", "smooth"),
    "sweep": ("run", "place", "value", "low", "high", "images"),
}


def render_chart(chart: Chart, name: str) -> str:
    """The <svg> element; `name` is the prefix of every id in it."""
    import matplotlib

    with matplotlib.rc_context({**RC_PARAMS, "svg.hashsalt": name}):
        if isinstance(chart, AttentionDistanceChart):
            return figure_svg(_distance_figure(chart), name)
        if isinstance(chart, SweepChart):
            return figure_svg(_sweep_figure(chart), name)
        return figure_svg(
            _matrix_figure(chart) if isinstance(chart, MatrixChart) else _loss_figure(chart), name
        )


def page_width(svg: str) -> float:
    """How wide a page should show it, in rem, so that letters of all figures are alike."""
    shown = re.search(r'viewBox="0 0 ([\d.]+) ', svg)
    return round(float(shown[1]) * 0.08, 1) if shown else 40.0


def chart_caption(chart: Chart) -> str:
    """What is seen, with the settings that the paper leaves open."""
    if isinstance(chart, AttentionDistanceChart):
        return (
            "Mean attention distance, a dot a head; the line is the layer's mean, dashes are even"
            f" attention. {chart.settings_text}"
        )
    if isinstance(chart, MatrixChart):
        offsets = ", ".join(f"({', '.join(f'{x:g}' for x in offset)})" for offset in chart.offsets)
        return (
            f"{MATRIX_TITLES[chart.operator]} of {chart.checkpoint} by layer and head, one scale"
            f" for all; offsets D: {offsets}. {MATRIX_AMBIGUITY_NOTE}"
        )
    if isinstance(chart, SweepChart):
        left = f" Left out: {'; '.join(chart.excluded)}." if chart.excluded else ""
        better = f"{chart.direction} is better"
        return (
            f"{chart.title} of suite {chart.suite} by {chart.axis.replace('-', ' ')} ({better});"
            f" bars are 95% intervals.{left}"
        )
    return "Training loss" + (
        f", running average with weight {chart.smoothing:g} of the past" if chart.smoothing else ""
    )


def chart_rows(chart: Chart) -> Iterator[tuple[object, ...]]:
    """The numbers of the figure, in the order of HEADS."""
    if isinstance(chart, AttentionDistanceChart):
        for run in chart.checkpoints:
            for layer, heads in enumerate(run.pixels):
                yield from (
                    (
                        run.checkpoint,
                        layer,
                        head,
                        value,
                        run.standard_deviation[layer],
                        run.uniform_distance,
                    )
                    for head, value in enumerate(heads)
                )
    elif isinstance(chart, MatrixChart):
        for one in chart.matrices:
            numbers = (
                one.distance_from_identity,
                one.condition_number,
                one.singular_values[-1],
                one.singular_values[0],
                one.axis_coupling,
            )
            yield (
                one.layer,
                "all" if one.head is None else one.head,
                _join_numbers(one.offset),
                *numbers,
                _join_numbers(one.operator_change),
            )
    elif isinstance(chart, SweepChart):
        for line in chart.lines:
            yield from (
                (line.label, p.axis_value, p.value, p.low, p.high, p.images) for p in line.points
            )
    else:
        for curve in chart.curves:
            smooth = curve.smoothed_loss or ("",) * len(curve.steps)
            yield from (
                (curve.label, *point) for point in zip(curve.steps, curve.loss, smooth, strict=True)
            )


def _join_numbers(values: tuple[float, ...] | None) -> str:
    return " ".join(f"{value:g}" for value in values) if values is not None else ""


def _distance_figure(chart: AttentionDistanceChart) -> Figure:
    from matplotlib.figure import Figure

    count = len(chart.checkpoints)
    columns = 2 if count == 4 else min(3, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(0.9 + 2.5 * columns, 0.5 + 2.4 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    for i, run in enumerate(chart.checkpoints):
        _add_distance_panel(grid.flat[i], run)
    for axes in grid[:, 0]:
        axes.set_ylabel("distance (pixels)")
    for i in range(max(0, count - columns), count):
        grid.flat[i].set_xlabel("layer")
        grid.flat[i].tick_params(labelbottom=True)
    top = max(
        max(max(max(layer) for layer in run.pixels), run.uniform_distance)
        for run in chart.checkpoints
    )
    grid.flat[0].set_ylim(0, 1.12 * top)
    return figure


def _add_distance_panel(axes: Axes, run: CheckpointDistances) -> None:
    layers = np.arange(len(run.pixels))
    for layer, heads in enumerate(run.pixels):
        aside = (np.arange(len(heads)) - (len(heads) - 1) / 2) * 0.45 / max(1, len(heads) - 1)
        axes.plot(
            layer + aside,
            heads,
            "o",
            color=LINE_COLOURS[0],
            markersize=3.4,
            markeredgewidth=0,
            alpha=0.8,
        )
    axes.plot(
        layers, [np.mean(heads) for heads in run.pixels], color=LINE_COLOURS[1], linewidth=1.2
    )
    axes.axhline(run.uniform_distance, color=TEXT_COLOUR, linewidth=0.8, linestyle="--")
    axes.set_title(run.checkpoint, fontsize=9, parse_math=False)
    axes.set_xlim(-0.6, len(layers) - 0.4)
    axes.set_xticks(layers[:: max(1, -(-len(layers) // 12))])
    said = (
        f"spread over heads {np.mean(run.standard_deviation):.2f} px\ndashes: even attention"
        f" {run.uniform_distance:.1f} px"
    )
    said += f"\nwithout {run.excluded_tokens}" if run.excluded_tokens else ""
    axes.text(0.02, 0.02, said, transform=axes.transAxes, fontsize=6.5, in_layout=False)
    _remove_spines(axes)


def _matrix_figure(chart: MatrixChart) -> Figure:
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    lines = list(
        dict.fromkeys(
            (one.layer, one.offset or ())
            for one in sorted(chart.matrices, key=lambda one: one.layer)
        )
    )
    columns = sorted({-1 if one.head is None else one.head for one in chart.matrices})
    numbered = len(chart.matrices) <= MAX_NUMBERED_PANELS
    side = 1.15 if numbered else 0.62
    size = (1.5 + side * len(columns), 0.6 + (side + (0.42 if numbered else 0.08)) * len(lines))
    figure = Figure(figsize=(max(size[0], 3.2), size[1]), layout="constrained")
    grid = figure.subplots(len(lines), len(columns), squeeze=False)
    reach = max(abs(value) for one in chart.matrices for row in one.values for value in row) or 1.0
    images: list[AxesImage] = []
    for one in chart.matrices:
        axes = grid[
            lines.index((one.layer, one.offset or ())),
            columns.index(-1 if one.head is None else one.head),
        ]
        norm = Normalize(-reach, reach)
        images.append(axes.imshow(one.values, cmap="RdBu_r", norm=norm, interpolation="nearest"))
        axes.set_xticks([])
        axes.set_yticks([])
        if numbered:
            axes.set_xlabel(_panel_text(chart, one), fontsize=6, labelpad=2, parse_math=False)
    for i, (layer, offset) in enumerate(lines):
        grid[i, 0].set_ylabel(
            f"layer {layer}"
            + (f"\nD = ({_join_numbers(offset).replace(' ', ', ')})" if offset else ""),
            fontsize=7,
        )
    for j, head in enumerate(columns):
        grid[0, j].set_title("all heads" if head < 0 else f"head {head}", fontsize=7)
    bar = figure.colorbar(
        images[-1], ax=grid, shrink=min(1.0, 2.2 / size[1]), fraction=0.03, pad=0.02
    )
    bar.set_label(MATRIX_TITLES[chart.operator], fontsize=8)
    bar.ax.tick_params(labelsize=7, width=0.6, length=3)
    bar.outline.set_linewidth(0.4)
    return figure


def _panel_text(chart: MatrixChart, one: HeadMatrix) -> str:
    """The numbers under a panel: of the operator its distance from the plain rotation, else those
    of M.
    """
    if one.offset in chart.offsets and one.offset is not None:
        return f"moved {one.operator_change[chart.offsets.index(one.offset)]:.2f}"
    condition = "singular" if one.condition_number is None else f"{one.condition_number:.3g}"
    return (
        f"|M\N{MINUS SIGN}I| {one.distance_from_identity:.2f}, cond {condition}\ncoupling"
        f" {one.axis_coupling:.1%}"
    )


def _loss_figure(chart: LossChart) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for i, curve in enumerate(chart.curves):
        tone = LINE_COLOURS[i % len(LINE_COLOURS)]
        line = LINE_STYLES[i // len(LINE_COLOURS) % len(LINE_STYLES)]
        drawn = curve.smoothed_loss or curve.loss
        if curve.smoothed_loss:
            axes.plot(curve.steps, curve.loss, color=tone, linewidth=0.6, alpha=0.25)
        marker = "o" if len(curve.steps) == 1 else None
        axes.plot(
            curve.steps,
            drawn,
            color=tone,
            linestyle=line,
            linewidth=1.3,
            marker=marker,
            label=_escape_math(curve.label),
        )
    axes.set_xlabel("training step")
    axes.set_ylabel(
        "loss" if min(min(curve.loss) for curve in chart.curves) <= 0 else "loss (log scale)"
    )
    if axes.get_ylabel() != "loss":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.legend(frameon=False, fontsize=8, ncols=2)
    _remove_spines(axes)
    return figure


def _sweep_figure(chart: SweepChart) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    places = list(dict.fromkeys(point.axis_value for line in chart.lines for point in line.points))
    places = sorted(places, key=float) if chart.is_numeric else places
    for i, line in enumerate(chart.lines):
        tone = LINE_COLOURS[i % len(LINE_COLOURS)]
        stroke = LINE_STYLES[i // len(LINE_COLOURS) % len(LINE_STYLES)]
        aside = (i - (len(chart.lines) - 1) / 2) * 0.06
        x = [places.index(point.axis_value) + aside for point in line.points]
        axes.plot(
            x,
            [p.value for p in line.points],
            stroke,
            color=tone,
            marker="o",
            markersize=3.4,
            linewidth=1.2,
            label=_escape_math(line.label),
        )
        for at, point in zip(x, line.points, strict=True):
            if point.low is not None and point.high is not None:
                axes.vlines(at, point.low, point.high, color=tone, linewidth=0.8)
    axes.set_xticks(range(len(places)), [_escape_math(place) for place in places])
    axes.set_xlabel(chart.axis.replace("-", " ") + (" (pixels)" if chart.is_numeric else ""))
    axes.set_ylabel(_escape_math(chart.title))
    axes.legend(frameon=False, fontsize=8, ncols=2)
    _remove_spines(axes)
    return figure


def _escape_math(text: str) -> str:
    """Text that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")
