"""The charts of a report: panels as inline SVG, with a table of their numbers and CSV."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harope_bench.core.chart_schema import (
    AttentionDistanceChart,
    Chart,
    LossChart,
    LossCurve,
    Matrix,
    MatrixChart,
    SweepChart,
)
from harope_bench.core.escaping import csv_text
from harope_bench.data.result_store import StoredResult
from harope_bench.leaderboards.board import Board
from harope_bench.reports.attention_panels import bounded_mean
from harope_bench.reports.chart_parts import ChartParts, ChartTable
from harope_bench.reports.charts_svg import (
    CSV_COLUMNS,
    ChartContext,
    chart_caption,
    chart_panels,
    chart_rows,
    chart_title,
    checkpoint_context,
    matrix_caption,
    matrix_panels,
    sweep_chart_panel,
)
from harope_bench.reports.encoding_styles import EncodingStyle, EncodingStyles, assign_styles
from harope_bench.reports.line_panels import PANEL_WIDTH, legend_panel, point_text
from harope_bench.reports.prompt_charts import benchmark_charts, scatter_charts
from harope_bench.reports.run_groups import (
    drop_sizes,
    group_results,
    name_runs,
    rename_lines,
    run_encodings,
    sweep_charts,
)
from harope_bench.reports.runs import ReportedRun
from harope_bench.reports.svg_elements import panel_svg
from harope_bench.reports.training_logs import read_loss_curves

MAX_CURVE_POINTS = 120  # of a loss curve on a page


@dataclass(frozen=True)
class PageChart:
    """One chart of the page.

    Attributes:
        anchor: Id on the page, and prefix of every id in the SVGs.
        svgs: Its panels, each an <svg> element. On a wide page they are side by side.
        is_wide: Whether a panel is wider than a telephone, so that the panels scroll sideways.
        csv_text: The numbers in full; empty if there are too many for a page.
    """

    anchor: str
    title: str
    caption: str
    svgs: tuple[str, ...]
    is_wide: bool
    table: ChartTable
    csv_text: str

    @property
    def svg(self) -> str:
        """Return all panels."""
        return "".join(self.svgs)


def build_charts(
    runs: Sequence[ReportedRun],
    boards: Sequence[Board],
    figures: Mapping[str, Chart] | None = None,
    names: Mapping[str, str] | None = None,
) -> tuple[PageChart, ...]:
    """Return the charts of a report in the order of the page.

    Args:
        runs: The runs, in the order in which charts show them.
        boards: The tables that the runs fill: their baselines and the labels of added rows.
        figures: Figures of the runs folder by name (`chart_files.read_figures`).
        names: Names of runs by their id. By default a run has the label of its added row, or the
            name of its checkpoint.

    Raises:
        StorageError: A training log or an array of a result is damaged.
    """
    run_names = drop_sizes(runs, name_runs(runs, boards) | dict(names or {}))
    context = report_context(runs, run_names)
    groups = group_results(runs, boards, run_names)
    sweeps = {
        suite: [rename_lines(chart, runs, run_names) for chart in charts]
        for suite, charts in sweep_charts(runs).items()
    }
    charts = [
        *(_sweep_chart(suite, suite_sweeps, context) for suite, suite_sweeps in sweeps.items()),
        *benchmark_charts(groups, context.styles),
        *scatter_charts(groups, context.styles),
        *_figure_charts(figures or {}, context),
        *_loss_charts(runs, context),
    ]
    return tuple(_render_charts(charts))


def report_context(
    runs: Sequence[ReportedRun], run_names: Mapping[str, str] | None = None
) -> ChartContext:
    """Return the colours, marks and training sizes of a report's runs.

    A run without a plan counts as an encoding of its own.

    Args:
        run_names: Names of runs by their id; None for the usual ones.
    """
    if run_names is None:
        run_names = name_runs(runs, [])
    context = checkpoint_context([run.plan.checkpoint for run in runs if run.plan])
    encodings = {**context.styles.encodings, **run_encodings(runs, run_names)}

    # sizes by the name of the run as well
    sizes = dict(context.training_sizes)
    for run in runs:
        if run.plan and run.plan.checkpoint.name in context.training_sizes:
            sizes[run_names[run.id]] = context.training_sizes[run.plan.checkpoint.name]
    return ChartContext(assign_styles(encodings), sizes)


def run_styles(runs: Sequence[ReportedRun]) -> dict[str, EncodingStyle]:
    """Return the style of each run by its id; runs of one encoding differ in their variant."""
    encodings = [run.plan.checkpoint.encoding if run.plan else run.id for run in runs]
    styles = report_context(runs).styles.chart_styles(encodings)
    return {run.id: style for run, style in zip(runs, styles, strict=True)}


def row_styles(
    board: Board, results: Sequence[StoredResult], styles: EncodingStyles
) -> dict[str, EncodingStyle]:
    """Return the style of each row of a board whose measured cells are of one encoding, by id.

    Rows of one encoding differ in their variant.

    Args:
        results: The results that fill the board.
        styles: The styles of the report (`report_context`).
    """
    plans = (stored_result.result.plan for stored_result in results)
    encodings_by_digest = {plan.digest: plan.checkpoint.encoding for plan in plans if plan}
    encodings_by_row: dict[str, set[str]] = {}
    for (row_id, _), cell in board.cells.items():
        digest = cell.source.plan_digest if cell.source else None
        if digest in encodings_by_digest:
            encodings_by_row.setdefault(row_id, set()).add(encodings_by_digest[digest])
    row_encodings = {
        row_id: next(iter(names)) for row_id, names in encodings_by_row.items() if len(names) == 1
    }
    chart_styles = styles.chart_styles(list(row_encodings.values()))
    return dict(zip(row_encodings, chart_styles, strict=True))


def _render_charts(charts: Iterable[ChartParts]) -> Iterator[PageChart]:
    """Yield the charts for the page. Each has its own anchor, with which ids in its SVGs begin."""
    anchors: set[str] = set()
    for chart in charts:
        anchor = name = "chart-" + re.sub(r"[^a-z0-9]+", "-", chart.anchor.lower()).strip("-")
        number = 2
        while anchor in anchors:
            anchor = f"{name}-{number}"
            number += 1
        anchors.add(anchor)
        yield PageChart(
            anchor,
            chart.title,
            chart.caption,
            tuple(panel_svg(panel, f"{anchor}-panel-{i}") for i, panel in enumerate(chart.panels)),
            any(panel.width > PANEL_WIDTH for panel in chart.panels),
            chart.table,
            csv_text(chart.csv_rows),
        )


# ---------------------------------------------------------------------- metrics by size


def _sweep_chart(suite: str, sweeps: Sequence[SweepChart], context: ChartContext) -> ChartParts:
    """Return the chart of the metrics of one suite by image size, a panel for each metric."""
    labels = list(dict.fromkeys(line.label for sweep in sweeps for line in sweep.lines))
    styles = dict(zip(labels, context.styles.chart_styles(labels), strict=True))
    panels = [
        sweep_chart_panel(sweep, [styles[line.label] for line in sweep.lines], context)
        for sweep in sweeps
    ]
    panels.append(legend_panel(list(styles.values()), labels))
    excluded = sorted({reason for sweep in sweeps for reason in sweep.excluded})
    excluded_text = f" Excluded: {'; '.join(excluded)}." if excluded else ""
    caption = (
        f"Metrics of suite {suite} by the side of the generated images. Ribbons are 95% intervals;"
        f" the dashed vertical line is the size of the training images.{excluded_text}"
    )
    numbers = [
        (sweep.metric, line.label, p.axis_value, p.value, p.low, p.high, p.images)
        for sweep in sweeps
        for line in sweep.lines
        for p in line.points
    ]
    header = ("metric", "run", "resolution", "value", "low", "high", "images")
    return ChartParts(
        f"sweep-{suite}",
        f"Resolution sweep, {suite}",
        caption,
        tuple(panels),
        _sweep_table(sweeps),
        [header, *numbers],
    )


def _sweep_table(sweeps: Sequence[SweepChart]) -> ChartTable:
    """Return a row for each metric and line, a column for each size."""
    sizes = sorted(
        {p.axis_value for sweep in sweeps for line in sweep.lines for p in line.points}, key=float
    )
    rows = []
    for sweep in sweeps:
        for line in sweep.lines:
            texts = {p.axis_value: point_text(p, sweep.decimals) for p in line.points}
            cells = (texts.get(size, "") for size in sizes)
            rows.append((line.label, sweep.title, *cells))
    return ChartTable(
        "Values with 95% intervals by image size",
        ("Run", "Metric", *(f"{size} px" for size in sizes)),
        tuple(rows),
    )


# ---------------------------------------------------------------------- figures of the folder


def _figure_charts(figures: Mapping[str, Chart], context: ChartContext) -> Iterator[ChartParts]:
    """Yield the charts of the runs folder's figures; matrices of one kind are one chart.

    The kind is the operator and the offsets.
    """
    shown_matrices: set[tuple[str, Matrix]] = set()
    for name, chart in figures.items():
        if not isinstance(chart, MatrixChart):
            yield _figure_chart(name, chart, context)
        elif (chart.operator, chart.offsets) not in shown_matrices:
            shown_matrices.add((chart.operator, chart.offsets))
            yield _matrix_chart(chart, figures, context)


def _figure_chart(name: str, chart: Chart, context: ChartContext) -> ChartParts:
    """Return the chart of one figure."""
    table = _distance_table(chart) if isinstance(chart, AttentionDistanceChart) else None
    if isinstance(chart, SweepChart):
        table = _sweep_table([chart])
    if isinstance(chart, LossChart):
        table = _loss_table(chart)
    assert table is not None
    # every point of a loss curve is too much for a page
    has_numbers = not isinstance(chart, LossChart)
    return ChartParts(
        f"figure-{name}",
        f"{chart_title(chart)}: {name}",
        chart_caption(chart),
        tuple(chart_panels(chart, context)),
        table,
        [CSV_COLUMNS[chart.kind], *chart_rows(chart)] if has_numbers else [],
    )


def _matrix_chart(
    first_chart: MatrixChart, figures: Mapping[str, Chart], context: ChartContext
) -> ChartParts:
    """Return the matrices of all checkpoints side by side, with one colour scale."""
    charts = {
        name: chart
        for name, chart in figures.items()
        if isinstance(chart, MatrixChart)
        and (chart.operator, chart.offsets) == (first_chart.operator, first_chart.offsets)
    }
    rows = [row for chart in charts.values() for row in _matrix_rows(chart)]
    numbers = [(chart.checkpoint, *row) for chart in charts.values() for row in chart_rows(chart)]
    columns = ("Checkpoint", "Layer", "Head", "|M \N{MINUS SIGN} I|", "Condition", "Coupling")
    return ChartParts(
        f"matrices-{first_chart.operator}",
        f"{chart_title(first_chart)}: {', '.join(charts)}",
        matrix_caption(list(charts.values())),
        tuple(matrix_panels(list(charts.values()), context)),
        ChartTable("Numbers of each matrix", columns, tuple(dict.fromkeys(rows))),
        [("checkpoint", *CSV_COLUMNS["matrices"]), *numbers],
    )


def _matrix_rows(chart: MatrixChart) -> Iterator[tuple[str, ...]]:
    """Yield a row of the table for each matrix."""
    for matrix in chart.matrices:
        condition = matrix.condition_number
        yield (
            chart.checkpoint,
            str(matrix.layer),
            "all" if matrix.head is None else str(matrix.head),
            f"{matrix.distance_from_identity:.3g}",
            "singular" if condition is None else f"{condition:.3g}",
            f"{matrix.axis_coupling:.1%}",
        )


def _distance_table(chart: AttentionDistanceChart) -> ChartTable:
    """Return a row for each checkpoint and layer."""
    rows = tuple(
        (
            distances.checkpoint,
            str(layer),
            f"{bounded_mean(heads):.2f}",
            f"{min(heads):.2f} to {max(heads):.2f}",
            f"{distances.standard_deviation[layer]:.2f}",
            f"{distances.uniform_distance:.2f}",
        )
        for distances in chart.checkpoints
        for layer, heads in enumerate(distances.pixels)
    )
    headers = ("Checkpoint", "Layer", "Mean (px)", "Heads (px)", "SD over heads", "Uniform (px)")
    return ChartTable("Attention distance by layer", headers, rows)


# ---------------------------------------------------------------------- training


def _loss_charts(runs: Sequence[ReportedRun], context: ChartContext) -> Iterator[ChartParts]:
    """Yield the training losses of the runs' checkpoints, nothing without a log."""
    curves = read_loss_curves(runs)
    if not curves:
        return
    chart = LossChart(
        smoothing=0.0,
        curves=tuple(_thin_curve(name, curve) for name, curve in curves.items()),
    )
    rows = tuple(
        (name, f"{curve[-1, 0]:,.0f}", f"{curve[-1, 1]:.4f}") for name, curve in curves.items()
    )
    numbers = [(name, *map(float, curve[-1])) for name, curve in curves.items()]
    yield ChartParts(
        "training",
        chart_title(chart),
        "Training loss of each checkpoint, averaged over parts of its log.",
        tuple(chart_panels(chart, context)),
        ChartTable("Last line of each training log", ("Checkpoint", "Step", "Loss"), rows),
        [("checkpoint", "step", "loss"), *numbers],
    )


def _loss_table(chart: LossChart) -> ChartTable:
    """Return the last step of each run."""
    rows = tuple(
        (
            curve.label,
            f"{curve.steps[-1]:,.0f}",
            f"{(curve.smoothed_loss or curve.loss)[-1]:.4f}",
        )
        for curve in chart.curves
    )
    return ChartTable("Last point of each curve", ("Run", "Step", "Loss"), rows)


def _thin_curve(name: str, curve: np.ndarray) -> LossCurve:
    """Return a curve (N, 2) with at most MAX_CURVE_POINTS points, each the mean of a part of it."""
    pieces = np.array_split(curve, min(MAX_CURVE_POINTS, len(curve)))
    points = np.stack([piece.mean(axis=0) for piece in pieces])
    return LossCurve(label=name, steps=tuple(points[:, 0]), loss=tuple(points[:, 1]))
