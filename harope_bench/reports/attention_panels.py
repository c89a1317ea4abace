"""Panels of the paper's Figures 5 and 6: attention distances and learned matrices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from harope_bench.core.chart_schema import CheckpointDistances, HeadMatrix, MatrixChart
from harope_bench.reports.chart_axes import (
    MINUS,
    Scale,
    bottom_axis,
    bounded_number,
    label_width,
    left_axis,
    tick_labels,
)
from harope_bench.reports.encoding_styles import EncodingStyle
from harope_bench.reports.line_panels import (
    AXIS_HEIGHT,
    HEADING_HEIGHT,
    MAX_TICKS,
    PANEL_WIDTH,
    PLOT_HEIGHT,
)
from harope_bench.reports.svg_elements import (
    FONT_SIZE,
    LINE_HEIGHT,
    QUIET_OPACITY,
    Anchor,
    Panel,
    make_curve,
    make_heat_map,
    make_line,
    make_text,
    text_width,
)

MATRIX_TITLES = {"m": "M", "m-i": f"M {MINUS} I", "m-inverse-t": "M⁻ᵀ", "operator": "Mᵀ R Mₖ"}
HEADS_SPREAD = 0.45  # of the distance between layers, over which the heads of one are spread
HEAD_MARK_SIZE = 5.0
MAX_MATRIX_SIDE = 72.0
MIN_MATRIX_SIDE = 18.0
MATRIX_GAP = 4.0
COLOUR_BAR_WIDTH = 120.0
COLOUR_BAR_HEIGHT = 10.0
COLOUR_STEPS = 101


def largest_distance(checkpoints: Sequence[CheckpointDistances]) -> float:
    """Return the largest distance of several checkpoints, which share one scale."""
    return max(
        max(max(max(heads) for heads in distances.pixels), distances.uniform_distance)
        for distances in checkpoints
    )


def bounded_mean(values: Sequence[float]) -> float:
    """Return the mean of numbers, the largest ones taken as the end of an axis."""
    return float(np.mean([bounded_number(value) for value in values]))


def distance_panel(distances: CheckpointDistances, style: EncodingStyle, scale_end: float) -> Panel:
    """Return the attention distances of one checkpoint: heads as marks, layers' means as a line.

    Args:
        scale_end: Largest distance of all checkpoints of the chart.
    """
    plot_bottom = HEADING_HEIGHT + PLOT_HEIGHT
    y_scale = Scale(0.0, bounded_number(1.08 * scale_end) or 1.0, plot_bottom, HEADING_HEIGHT)
    y_ticks = y_scale.ticks(MAX_TICKS)
    left = label_width(tick_labels(y_ticks))
    n_layers = len(distances.pixels)
    x_scale = Scale(-0.6, n_layers - 0.4, left, PANEL_WIDTH - 8)

    elements = [_distance_heading(distances, style)]
    elements += left_axis(y_scale, left, y_ticks, grid_right=x_scale.end)
    layer_ticks = [float(layer) for layer in range(0, n_layers, -(-n_layers // 12))]
    elements += bottom_axis(x_scale, plot_bottom, "layer", layer_ticks)
    y = y_scale.position(distances.uniform_distance)
    elements.append(make_line((left, y), (x_scale.end, y), opacity=QUIET_OPACITY, dashes="4 3"))
    elements += _head_marks(distances, style, x_scale, y_scale)

    means = [
        (x_scale.position(layer), y_scale.position(bounded_mean(heads)))
        for layer, heads in enumerate(distances.pixels)
    ]
    elements.append(make_curve(means, "currentColor", 1.4))
    description = (
        f"Attention distance in pixels of each head of {n_layers} layers of {distances.checkpoint};"
        f" uniform attention has {distances.uniform_distance:.1f} pixels."
    )
    height = plot_bottom + AXIS_HEIGHT
    for note in _distance_notes(distances):
        height += LINE_HEIGHT
        elements.append(
            make_text(left, height - 4, note, max_width=PANEL_WIDTH - left, is_quiet=True)
        )
    return Panel(distances.checkpoint, description, PANEL_WIDTH, height, tuple(elements))


def _distance_heading(distances: CheckpointDistances, style: EncodingStyle) -> str:
    """Return the mark and the name of a checkpoint over its panel."""
    unit_text = "distance (pixels)"
    name_width = PANEL_WIDTH - text_width(unit_text) - 24
    return (
        style.mark_at(6, FONT_SIZE - 4)
        + make_text(16, FONT_SIZE, distances.checkpoint, max_width=name_width, is_bold=True)
        + make_text(PANEL_WIDTH - 8, FONT_SIZE, unit_text, "end", is_quiet=True)
    )


def _distance_notes(distances: CheckpointDistances) -> list[str]:
    """Return the lines of text under a panel."""
    notes = [
        f"SD over heads {bounded_mean(distances.standard_deviation):.2f} px",
        f"dashes: uniform attention {distances.uniform_distance:.1f} px",
    ]
    if distances.excluded_tokens:
        notes.append(f"without {distances.excluded_tokens}")
    return notes


def _head_marks(
    distances: CheckpointDistances, style: EncodingStyle, x_scale: Scale, y_scale: Scale
) -> Iterator[str]:
    """Yield a mark for each head, the heads of a layer side by side."""
    for layer, heads in enumerate(distances.pixels):
        n_heads = len(heads)
        for head, pixels in enumerate(heads):
            offset = (head - (n_heads - 1) / 2) * HEADS_SPREAD / max(1, n_heads - 1)
            tooltip = f"layer {layer}, head {head}: {pixels:.2f} px"
            yield style.mark_at(
                x_scale.position(layer + offset),
                y_scale.position(pixels),
                tooltip,
                HEAD_MARK_SIZE,
            )


def matrix_title(chart: MatrixChart) -> str:
    """Return what the matrices are, as a formula."""
    return MATRIX_TITLES.get(chart.operator, chart.operator)


def largest_entry(charts: Sequence[MatrixChart]) -> float:
    """Return the largest absolute entry of some charts, which share one colour scale."""
    matrices = (matrix for chart in charts for matrix in chart.matrices)
    return max(float(np.abs(np.array(matrix.values)).max()) for matrix in matrices) or 1.0


def matrix_panel(chart: MatrixChart, style: EncodingStyle, limit: float) -> Panel:
    """Return the matrices of one checkpoint: rows are layers, columns are heads.

    Args:
        limit: Absolute entry at which the colours end.
    """
    rows = list(
        dict.fromkeys(
            (matrix.layer, matrix.offset)
            for matrix in sorted(chart.matrices, key=lambda matrix: matrix.layer)
        )
    )
    heads = sorted({head_index(matrix) for matrix in chart.matrices})
    row_labels = [_row_label(layer, offset) for layer, offset in rows]
    left = label_width(row_labels)
    free_side = (PANEL_WIDTH - left) / len(heads) - MATRIX_GAP
    side = min(MAX_MATRIX_SIDE, max(MIN_MATRIX_SIDE, free_side))
    step = side + MATRIX_GAP

    top = HEADING_HEIGHT + LINE_HEIGHT + 4
    width = max(PANEL_WIDTH, left + step * len(heads))
    elements = [style.mark_at(6, FONT_SIZE - 4)]
    heading = f"{chart.checkpoint}: {matrix_title(chart)}"
    elements.append(make_text(16, FONT_SIZE, heading, max_width=width - 16, is_bold=True))
    for j, head in enumerate(heads):
        x = left + step * j + (side / 2 if head >= 0 else 0)
        anchor: Anchor = "middle" if head >= 0 else "start"
        elements.append(make_text(x, top - 6, _head_label(head, step), anchor))
    for i, label in enumerate(row_labels):
        y = top + step * i + side / 2 + FONT_SIZE / 3
        elements.append(make_text(left - 6, y, label, "end"))
    for matrix in chart.matrices:
        i = rows.index((matrix.layer, matrix.offset))
        j = heads.index(head_index(matrix))
        corner = (left + step * j, top + step * i)
        values = np.array(matrix.values)
        elements.append(make_heat_map(values, limit, corner, side, side, matrix_text(matrix)))
    bar_top = top + step * len(rows) + 8
    elements += _colour_bar(left, bar_top, limit)
    description = (
        f"{len(chart.matrices)} matrices of {chart.checkpoint} by layer and head, with colours from"
        f" {MINUS}{limit:.3g} (blue) over 0 (white) to {limit:.3g} (orange)."
    )
    height = bar_top + COLOUR_BAR_HEIGHT + LINE_HEIGHT + 6
    return Panel(heading, description, width, height, tuple(elements))


def _row_label(layer: int, offset: tuple[float, ...] | None) -> str:
    """Return the label of a row of matrices: the layer, and the offset D of an operator."""
    if offset is None:
        return f"layer {layer}"
    return f"layer {layer}, D ({', '.join(f'{x:g}' for x in offset)})"


def _head_label(head: int, step: float) -> str:
    """Return the label of a column: its number alone where the column is narrow."""
    if head < 0:
        return "all heads"
    return f"head {head}" if text_width("head 00") < step else str(head)


def _colour_bar(left: float, top: float, limit: float) -> Iterator[str]:
    """Yield the colours from -limit to limit with the numbers at its ends and its centre."""
    colours = np.linspace(-1, 1, COLOUR_STEPS)[None]  # (1, COLOUR_STEPS)
    yield make_heat_map(colours, 1.0, (left, top), COLOUR_BAR_WIDTH, COLOUR_BAR_HEIGHT)
    y = top + COLOUR_BAR_HEIGHT + FONT_SIZE + 2
    yield make_text(left, y, f"{MINUS}{limit:.3g}", "middle")
    yield make_text(left + COLOUR_BAR_WIDTH / 2, y, "0", "middle")
    yield make_text(left + COLOUR_BAR_WIDTH, y, f"{limit:.3g}", "middle")


def head_index(matrix: HeadMatrix) -> int:
    """Return the head of a matrix, -1 for a matrix that all heads share."""
    return -1 if matrix.head is None else matrix.head


def matrix_text(matrix: HeadMatrix) -> str:
    """Return where a matrix acts and three numbers of it."""
    head = "all heads" if matrix.head is None else f"head {matrix.head}"
    condition = "singular" if matrix.condition_number is None else f"{matrix.condition_number:.3g}"
    return (
        f"layer {matrix.layer}, {head}: |M{MINUS}I| {matrix.distance_from_identity:.2f}, condition"
        f" {condition}, coupling {matrix.axis_coupling:.1%}"
    )
