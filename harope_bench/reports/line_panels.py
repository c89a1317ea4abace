"""Panels of line charts: a metric along a setting with interval ribbons, and training losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from harope_bench.core.chart_schema import LossChart, LossCurve, SweepChart, SweepLine, SweepPoint
from harope_bench.reports.chart_axes import (
    Scale,
    bottom_axis,
    label_width,
    left_axis,
    make_scale,
    tick_labels,
)
from harope_bench.reports.encoding_styles import SWATCH_WIDTH, EncodingStyle
from harope_bench.reports.svg_elements import (
    FONT_SIZE,
    LINE_HEIGHT,
    QUIET_OPACITY,
    Panel,
    make_curve,
    make_line,
    make_ribbon,
    make_segments,
    make_text,
    text_width,
)

PANEL_WIDTH = 352.0  # fits a telephone of 400 pixels
PLOT_HEIGHT = 170.0
HEADING_HEIGHT = 22.0
AXIS_HEIGHT = 42.0  # ticks, their texts and the title of a horizontal axis
MAX_TICKS = 5


def heading_text(text: str, width: float = PANEL_WIDTH) -> str:
    """Return the heading of a panel."""
    return make_text(0, FONT_SIZE, text, max_width=width, is_bold=True)


def legend_panel(
    styles: Sequence[EncodingStyle], labels: Sequence[str], width: float = PANEL_WIDTH
) -> Panel:
    """Return the swatches and labels of a chart, as many in a row as fit."""
    elements = []
    x = content_width = 0.0
    y = LINE_HEIGHT / 2
    for style, label in zip(styles, labels, strict=True):
        item_width = SWATCH_WIDTH + text_width(label) + LINE_HEIGHT
        if x and x + item_width > width:
            x = 0.0
            y += LINE_HEIGHT + 2
        elements.append(style.swatch(x, y))
        elements.append(
            make_text(x + SWATCH_WIDTH, y + FONT_SIZE / 3, label, max_width=width - SWATCH_WIDTH)
        )
        x += item_width
        content_width = max(content_width, min(x - LINE_HEIGHT, width))
    return Panel(
        "Legend", ", ".join(labels), content_width, y + LINE_HEIGHT / 2 + 2, tuple(elements)
    )


def sweep_panel(
    chart: SweepChart, styles: Sequence[EncodingStyle], training_sizes: Mapping[str, int]
) -> Panel:
    """Return a metric along a setting: a line for each run, a ribbon for its 95% intervals.

    Args:
        styles: Style of each line.
        training_sizes: Side of the training images in pixels by label of a line.
    """
    if not chart.is_numeric or chart.axis != "resolution":
        training_sizes = {}
    plot_top = HEADING_HEIGHT + LINE_HEIGHT * len(set(training_sizes.values()))
    plot_bottom = plot_top + PLOT_HEIGHT
    y_scale = make_scale(_sweep_values(chart), plot_bottom, plot_top)
    y_ticks = y_scale.ticks(MAX_TICKS)
    left = label_width(tick_labels(y_ticks))
    right = PANEL_WIDTH - 8
    positions, labels, x_scale = _sweep_axis(chart, training_sizes, left, right)

    elements = [heading_text(f"{chart.title} ({chart.direction} is better)")]
    elements += left_axis(y_scale, left, y_ticks, grid_right=right)
    title = chart.axis.replace("-", " ") + (" (pixels)" if chart.is_numeric else "")
    elements += bottom_axis(x_scale, plot_bottom, title, list(positions.values()), labels)
    elements += _training_lines(chart, styles, training_sizes, x_scale, plot_bottom)

    # ribbons come first, so that each line is above all of them
    for line, style in zip(chart.lines, styles, strict=True):
        elements += _ribbons(line, style, positions, x_scale, y_scale)
    for line, style in zip(chart.lines, styles, strict=True):
        elements += _sweep_line(chart, line, style, positions, x_scale, y_scale)
    description = f"{chart.title} by {chart.axis.replace('-', ' ')}; {chart.direction} is better."
    height = plot_bottom + AXIS_HEIGHT
    return Panel(chart.title, description, PANEL_WIDTH, height, tuple(elements))


def _sweep_values(chart: SweepChart) -> list[float]:
    """Return every number that the vertical axis must hold."""
    return [
        number
        for line in chart.lines
        for point in line.points
        for number in (point.value, point.low, point.high)
        if number is not None
    ]


def _sweep_axis(
    chart: SweepChart, training_sizes: Mapping[str, int], left: float, right: float
) -> tuple[dict[str, float], list[str], Scale]:
    """Return the number of each axis value, the texts of the ticks, and the horizontal scale."""
    names = list(dict.fromkeys(point.axis_value for line in chart.lines for point in line.points))
    if not chart.is_numeric:
        scale = Scale(-0.5, len(names) - 0.5, left, right)
        return {name: float(i) for i, name in enumerate(names)}, names, scale
    names.sort(key=float)
    positions = {name: float(name) for name in names}
    values = [*positions.values(), *map(float, training_sizes.values())]
    return positions, names, make_scale(values, left, right, is_log=True)


def _training_lines(
    chart: SweepChart,
    styles: Sequence[EncodingStyle],
    training_sizes: Mapping[str, int],
    x_scale: Scale,
    plot_bottom: float,
) -> Iterator[str]:
    """Yield a dashed vertical line at each size that a checkpoint was trained at.

    It has the colour of its line where the checkpoints were trained at different sizes.
    """
    sizes = {line.label: training_sizes.get(line.label) for line in chart.lines}
    different_sizes = sorted({size for size in sizes.values() if size is not None})
    for i, size in enumerate(different_sizes):
        colour = "currentColor"
        if len(different_sizes) > 1:
            line_index = next(j for j, line in enumerate(chart.lines) if sizes[line.label] == size)
            colour = styles[line_index].colour
        x = x_scale.position(size)
        top = HEADING_HEIGHT + LINE_HEIGHT * i
        yield make_line((x, top), (x, plot_bottom), colour, 1.2, QUIET_OPACITY, "4 3")
        text = f"trained at {size:,} px"
        is_left = x + text_width(text) + 6 > x_scale.end
        y = top + FONT_SIZE - 2
        yield make_text(x + (-4 if is_left else 4), y, text, "end" if is_left else "start")


def _ribbons(
    line: SweepLine,
    style: EncodingStyle,
    positions: Mapping[str, float],
    x_scale: Scale,
    y_scale: Scale,
) -> Iterator[str]:
    """Yield a ribbon for each stretch of points with intervals; a single point gets a bar."""
    for stretch in _interval_stretches(line):
        xs = [x_scale.position(positions[point.axis_value]) for point in stretch]
        lows = [(x, y_scale.position(p.low or 0.0)) for x, p in zip(xs, stretch, strict=True)]
        highs = [(x, y_scale.position(p.high or 0.0)) for x, p in zip(xs, stretch, strict=True)]
        if len(stretch) > 1:
            yield make_ribbon(lows, highs, style.colour)
        segments = list(zip(lows, highs, strict=True))
        yield make_segments(segments, style.colour, opacity=QUIET_OPACITY)


def _interval_stretches(line: SweepLine) -> list[list[SweepPoint]]:
    """Return the runs of neighbouring points that have an interval."""
    stretches: list[list[SweepPoint]] = [[]]
    for point in line.points:
        if point.low is None or point.high is None:
            stretches.append([])
        else:
            stretches[-1].append(point)
    return [stretch for stretch in stretches if stretch]


def _sweep_line(
    chart: SweepChart,
    line: SweepLine,
    style: EncodingStyle,
    positions: Mapping[str, float],
    x_scale: Scale,
    y_scale: Scale,
) -> Iterator[str]:
    """Yield the line of a run and its marks."""
    points = [
        (x_scale.position(positions[p.axis_value]), y_scale.position(p.value)) for p in line.points
    ]
    if len(points) > 1:
        yield make_curve(points, style.colour, dashes=style.dashes)
    for (x, y), point in zip(points, line.points, strict=True):
        tooltip = f"{line.label}, {point.axis_value}: {point_text(point, chart.decimals)}"
        yield style.mark_at(x, y, tooltip)


def point_text(point: SweepPoint, decimals: int) -> str:
    """Return the value of a point with its interval."""
    text = f"{point.value:.{decimals}f}"
    if point.low is None or point.high is None:
        return text
    return f"{text} ({point.low:.{decimals}f} to {point.high:.{decimals}f})"


def loss_panel(
    chart: LossChart, styles: Sequence[EncodingStyle], width: float = PANEL_WIDTH
) -> Panel:
    """Return training loss against step, one line per run.

    The loss axis is logarithmic if all losses are positive. The unsmoothed loss is drawn thin.
    """
    losses = [x for curve in chart.curves for x in (*curve.loss, *(curve.smoothed_loss or ()))]
    is_log = min(losses) > 0  # a logarithmic axis has no place for a loss of 0 or less
    plot_bottom = HEADING_HEIGHT + PLOT_HEIGHT
    y_scale = make_scale(losses, plot_bottom, HEADING_HEIGHT, is_log)
    y_ticks = y_scale.ticks(MAX_TICKS + 1)
    left = label_width(tick_labels(y_ticks))
    right = width - 14
    steps = [step for curve in chart.curves for step in curve.steps]
    x_scale = make_scale([*steps, min(0.0, *steps)], left, right, padding=0)

    elements = [heading_text("loss (log scale)" if is_log else "loss")]
    elements += left_axis(y_scale, left, y_ticks, grid_right=right)
    elements += bottom_axis(x_scale, plot_bottom, "training step", x_scale.ticks(MAX_TICKS))
    for curve, style in zip(chart.curves, styles, strict=True):
        elements += _loss_lines(curve, style, x_scale, y_scale)
    description = "Training loss by step: " + ", ".join(curve.label for curve in chart.curves)
    height = plot_bottom + AXIS_HEIGHT
    return Panel("Training loss", description, width, height, tuple(elements))


def _loss_lines(
    curve: LossCurve, style: EncodingStyle, x_scale: Scale, y_scale: Scale
) -> Iterator[str]:
    """Yield the smoothed loss of a run over its loss, and a mark at the last step."""
    xs = [x_scale.position(step) for step in curve.steps]
    shown_loss = curve.smoothed_loss or curve.loss
    if curve.smoothed_loss:
        ys = map(y_scale.position, curve.loss)
        yield make_curve(list(zip(xs, ys, strict=True)), style.colour, 0.7, 0.35)
    points = list(zip(xs, map(y_scale.position, shown_loss), strict=True))
    if len(points) > 1:
        yield make_curve(points, style.colour, dashes=style.dashes)
    tooltip = f"{curve.label}, step {curve.steps[-1]:,.0f}: {shown_loss[-1]:.4f}"
    yield style.mark_at(*points[-1], tooltip)
