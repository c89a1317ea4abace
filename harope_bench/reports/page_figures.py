"""Forest plots: differences from a baseline with their intervals, as inline SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from harope_bench.leaderboards.comparisons import RowComparison
from harope_bench.reports.chart_axes import Scale, bottom_axis, make_scale
from harope_bench.reports.encoding_styles import EncodingStyle
from harope_bench.reports.line_panels import AXIS_HEIGHT, HEADING_HEIGHT, PANEL_WIDTH, heading_text
from harope_bench.reports.svg_elements import (
    FONT_SIZE,
    QUIET_OPACITY,
    Panel,
    make_line,
    make_mark,
    make_segments,
    make_text,
    panel_svg,
    text_width,
)
from harope_bench.reports.table_layout import VERDICT_GLYPHS

VERDICT_COLOURS = {"better": "var(--better, #0b5f96)", "worse": "var(--worse, #a44200)"}
ROW_HEIGHT = 24.0
MAX_LABEL_FRACTION = 0.36  # of the width, for the labels of the rows
MAX_TICK_DISTANCE = 1.5  # of a tick from zero, in units of the widest interval's far end
TICK_HALF_HEIGHT = 6.0  # of the smallest detectable difference


def forest_svg(
    name: str,
    heading: str,
    direction: str,
    rows: Sequence[tuple[str, RowComparison]],
    styles: Mapping[str, EncodingStyle] | None = None,
    width: float = PANEL_WIDTH,
) -> str:
    """Return the forest plot of one metric as the <svg> element of a page.

    Args:
        name: Prefix of every id in the SVG.
        heading: Name of the measurement.
        direction: "higher" or "lower", whichever is better.
        rows: Label and comparison, from top to bottom. Those without a difference are omitted.
        styles: Colour and mark by row id; None for circles in the colour of the text.
        width: Width in CSS pixels.
    """
    return panel_svg(forest_panel(heading, direction, rows, styles or {}, width), name)


def forest_panel(
    heading: str,
    direction: str,
    rows: Sequence[tuple[str, RowComparison]],
    styles: Mapping[str, EncodingStyle],
    width: float = PANEL_WIDTH,
) -> Panel:
    """Return differences with 95% intervals around the zero line. Arguments: see forest_svg.

    A thicker line is the interval for the same prompts and new seeds, where there is one. A pair of
    thin ticks is the smallest detectable difference.
    """
    plotted_rows = [
        (label, comparison)
        for label, comparison in rows
        if comparison.difference.delta is not None and comparison.difference.low is not None
    ]
    labels = [label for label, _ in plotted_rows]
    left = min(max(map(text_width, labels), default=0.0), width * MAX_LABEL_FRACTION) + 24
    right = (
        width - max(text_width(verdict_text(comparison)) for _, comparison in rows) - 8
        if rows
        else width
    )
    scale = make_scale(_forest_values(plotted_rows), left, right)
    plot_bottom = HEADING_HEIGHT + ROW_HEIGHT * max(1, len(plotted_rows))

    elements = [heading_text(heading, width)]
    ticks = scale.ticks(max(3, int((right - left) / 40)))
    axis_title = f"difference ({direction} is better)"
    elements += bottom_axis(scale, plot_bottom, axis_title, ticks, grid_top=HEADING_HEIGHT)
    zero = scale.position(0.0)
    elements.append(make_line((zero, HEADING_HEIGHT), (zero, plot_bottom), opacity=QUIET_OPACITY))
    for i, (label, comparison) in enumerate(plotted_rows):
        y = HEADING_HEIGHT + ROW_HEIGHT * (i + 0.5)
        elements += _forest_row(
            label, comparison, styles.get(comparison.row), scale, y, left, width
        )
    description = "; ".join(
        f"{label}: {difference_text(comparison)}" for label, comparison in plotted_rows
    )
    height = plot_bottom + AXIS_HEIGHT
    title = f"Differences in {heading}"
    return Panel(title, description or "No difference.", width, height, tuple(elements))


def _forest_values(rows: Sequence[tuple[str, RowComparison]]) -> list[float]:
    """Return every number that the axis must hold, among them 0.

    Of the smallest detectable differences it holds those that are not far beyond the intervals.
    """
    values = [0.0]
    for _, comparison in rows:
        ends = (comparison.difference.delta, comparison.difference.low, comparison.difference.high)
        values += [value for value in ends if value is not None]
    largest = max(map(abs, values))
    detectables = [comparison.detectable_difference or 0.0 for _, comparison in rows]
    shown = [value for value in detectables if value <= MAX_TICK_DISTANCE * largest]
    return [*values, *shown, *(-value for value in shown)]


def _forest_row(
    label: str,
    comparison: RowComparison,
    style: EncodingStyle | None,
    scale: Scale,
    y: float,
    left: float,
    width: float,
) -> Iterator[str]:
    """Yield the label, the intervals, the mark and the verdict of one comparison at height y."""
    difference = comparison.difference
    colour = style.colour if style else "currentColor"
    text_y = y + FONT_SIZE / 3
    if style:
        yield style.mark_at(6, y)
    yield make_text(16 if style else 0, text_y, label, max_width=left - 20)

    if comparison.detectable_difference is not None:
        detectable_ends = (-comparison.detectable_difference, comparison.detectable_difference)
        xs = [scale.position(end) for end in detectable_ends if scale.low <= end <= scale.high]
        ticks = [((x, y - TICK_HALF_HEIGHT), (x, y + TICK_HALF_HEIGHT)) for x in xs]
        yield make_segments(ticks, opacity=QUIET_OPACITY)
    if difference.low is not None and difference.high is not None:
        ends = ((scale.position(difference.low), y), (scale.position(difference.high), y))
        yield make_line(*ends, colour, 1.6)
    if difference.new_seeds_interval is not None:
        _, low, high = difference.new_seeds_interval
        ends = (
            (max(scale.start, scale.position(low)), y),
            (min(scale.end, scale.position(high)), y),
        )
        yield make_line(*ends, colour, 4.0)
    x = scale.position(difference.delta or 0.0)
    tooltip = f"{label}: {difference_text(comparison)}"
    if style:
        yield style.mark_at(x, y, tooltip, 10)
    else:
        yield make_mark("circle", x, y, colour, 10, comparison.verdict == "not resolved", tooltip)
    verdict_colour = VERDICT_COLOURS.get(comparison.verdict)
    yield make_text(width, text_y, verdict_text(comparison), "end", colour=verdict_colour)


def verdict_text(comparison: RowComparison) -> str:
    """Return the verdict of a comparison with its glyph."""
    return f"{VERDICT_GLYPHS[comparison.verdict]} {comparison.verdict}"


def difference_text(comparison: RowComparison) -> str:
    """Return a difference with its interval and verdict in words."""
    difference = comparison.difference
    text = f"{difference.delta or 0.0:+.3g}"
    if difference.low is not None and difference.high is not None:
        text += f" ({difference.low:+.3g} to {difference.high:+.3g})"
    return f"{text}, {comparison.verdict}"
