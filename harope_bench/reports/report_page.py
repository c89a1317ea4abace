"""The report: one offline HTML file. Equal records give equal bytes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harope_bench import __version__
from harope_bench.core import registry
from harope_bench.core.errors import StorageError
from harope_bench.core.storage import check_overwrite, write_text
from harope_bench.core.text_file import read_text
from harope_bench.data.result_paths import run_folder_of
from harope_bench.data.result_store import StoredResult
from harope_bench.leaderboards.board import CHECKPOINT_EVIDENCE, Board, build_board
from harope_bench.leaderboards.comparisons import RowComparison
from harope_bench.leaderboards.entries import (
    NO_ENTRIES,
    Entries,
    add_entries,
    check_entries,
    unmatched_runs_note,
)
from harope_bench.leaderboards.match_runs import (
    SCALES,
    MatchesByCell,
    Scale,
    match_measurements,
    undecided_cells,
)
from harope_bench.leaderboards.table_spec import DASH, Column, EntryRow, Row, Table, load_tables
from harope_bench.reports import charts_svg, page_figures
from harope_bench.reports.chart_files import chart_csv, read_figures
from harope_bench.reports.gallery import build_gallery
from harope_bench.reports.gallery_records import Gallery, GalleryOptions
from harope_bench.reports.run_card import (
    ReportCheck,
    RunCard,
    build_cards,
    collect_checks,
    time_range,
)
from harope_bench.reports.runs import ReportedRun, read_runs
from harope_bench.reports.table_layout import (
    VERDICT_GLYPHS,
    board_title,
    column_kinds,
    cost_agreement,
    format_difference,
    format_standard_error,
)
from harope_bench.reports.tables import (
    board_anchor,
    render_table,
    table_context,
    template_environment,
)
from harope_bench.statistics.significance import format_p_value

# a file with this line may be overwritten by a later report
PAGE_MARKER = '<p class="kicker">harope-bench report</p>'
VERDICT_ORDER = ("better", "worse", "not resolved", "not comparable")
COPY_FORMATS = (("LaTeX", "tex"), ("Markdown", "md"), ("CSV", "csv"), ("JSON", "json"))


@dataclass(frozen=True)
class VerdictSummary:
    """One line of the summary: a verdict, how often it occurs, and the rows and metrics with it."""

    verdict: str
    glyph: str
    count: int
    total: int
    text: str


@dataclass(frozen=True)
class ForestPlot:
    """The forest plot of one metric."""

    heading: str
    svg: str


@dataclass(frozen=True)
class PageFigure:
    """A figure of the runs folder, rendered from its data.

    width: in rem. csv_text: its numbers, empty for loss curves (too many).
    """

    name: str
    caption: str
    svg: str
    width: float
    csv_text: str


@dataclass(frozen=True)
class ComparisonRow:
    """One row of the comparison table as text. `sort_values` are the numbers in full."""

    row: str
    baseline: str
    measurement_name: str
    verdict: str
    glyph: str
    delta: str
    interval: str
    se: str
    p: str
    p_adjusted: str
    detectable_difference: str
    explanation: str
    sort_values: tuple[str, ...]


@dataclass(frozen=True)
class TableSection:
    """One board with its summary, plots, comparisons and the texts to copy."""

    board: Board
    title: str
    anchor: str
    table_context: dict[str, object]
    copy_texts: tuple[tuple[str, str], ...]
    column_kinds: tuple[str, ...]
    summary: tuple[VerdictSummary, ...]
    forests: tuple[ForestPlot, ...]
    comparisons: tuple[ComparisonRow, ...]
    pairing_text: str
    cost_agreement: str | None

    @property
    def baseline_labels(self) -> str:
        """Return the labels of the rows that differences are taken from."""
        return ", ".join(dict.fromkeys(line.baseline for line in self.comparisons))


@dataclass(frozen=True)
class MeasurementRow:
    """One measurement in the list of all results."""

    run: str
    target: str
    evaluator: str
    judge_class: str
    scale: str
    name: str
    value: str
    standard_error: str
    interval: str
    scored_text: str
    sort_value: str


@dataclass(frozen=True)
class ReportPage:
    """The data of the page."""

    question: str
    version: str
    evidence: str
    runs: tuple[ReportedRun, ...]
    n_results: int
    time_range: tuple[str, str] | None
    sections: tuple[TableSection, ...]
    unmatched_runs_note: str | None
    measurements_outside_tables: tuple[MeasurementRow, ...]
    measurements: tuple[MeasurementRow, ...]
    gallery: Gallery
    figures: tuple[PageFigure, ...]
    loss_svg: str | None
    final_losses: tuple[tuple[str, str, str], ...]
    cards: tuple[RunCard, ...]
    checks: tuple[ReportCheck, ...]


def write_report(
    runs: Path,
    out: Path,
    entries: Entries = NO_ENTRIES,
    gallery_options: GalleryOptions | None = None,
) -> Path:
    """Write the report of all runs under a folder and return its path.

    Args:
        entries: rows that the user adds to the tables.
        gallery_options: how images are shown, and where full-size ones are written.

    Raises:
        StorageError: the folder has no run, a file of a run is invalid (the message names it), or
            `out` exists and is not a report.
        UnknownNameError, OptionError: an entry fits no run or no table.
    """
    check_overwrite(out, PAGE_MARKER, "report")
    page = build_report_page(runs, entries, gallery_options)
    template = template_environment().get_template("report.html")
    write_text(out, template.render(page=page, page_marker=PAGE_MARKER))
    return out


def build_report_page(
    runs: Path, entries: Entries = NO_ENTRIES, gallery_options: GalleryOptions | None = None
) -> ReportPage:
    """Return the data of the page. Errors are those of write_report."""
    reported_runs = read_runs(runs)
    if not reported_runs:
        raise StorageError(
            f"{runs} has no run (a folder with plan.json or results/); `harope-bench eval` or"
            " `reproduce` writes one"
        )
    results = [item for run in reported_runs for item in run.results]

    # a section for each table and scale that the results fill
    tables_and_scales = tables_with_results(results, entries)
    sections = tuple(
        _build_section(build_board(table, results, "both", scale, entries))
        for table, scale in tables_and_scales
    )
    tables = list({table.id: table for table, _ in tables_and_scales}.values())
    reported_runs = _sort_by_table(reported_runs, sections)

    # every measurement, and those that no table shows
    measurements = []
    measurements_outside_tables = []
    for run in reported_runs:
        for item in run.results:
            rows = _measurement_rows(run, item)
            measurements += rows
            if not _is_in_sections(item, sections):
                measurements_outside_tables += rows

    curves = _read_loss_curves(reported_runs)
    return ReportPage(
        question=_page_heading([s.board for s in sections if s.board.table.question]),
        version=__version__,
        evidence=CHECKPOINT_EVIDENCE,
        runs=tuple(reported_runs),
        n_results=len(results),
        time_range=time_range(reported_runs),
        sections=sections,
        unmatched_runs_note=unmatched_runs_note(tables, results, entries) if tables else None,
        measurements_outside_tables=tuple(measurements_outside_tables),
        measurements=tuple(measurements),
        gallery=build_gallery(reported_runs, gallery_options),
        figures=tuple(_page_figures(runs)),
        loss_svg=page_figures.loss_svg("losses", curves) if curves else None,
        final_losses=tuple(
            (name, f"{curve[-1, 0]:,.0f}", f"{curve[-1, 1]:.4f}") for name, curve in curves.items()
        ),
        cards=tuple(build_cards(reported_runs)),
        checks=tuple(collect_checks(reported_runs)),
    )


def _page_heading(boards: Sequence[Board]) -> str:
    """Return the question of the table that the runs fill, or a general one for several tables.

    Runs of one table fill parts of other tables too, so a table without a gap comes first.
    """
    complete_boards = [board for board in boards if board.n_measured == len(board.cells)] or boards[
        :1
    ]
    questions = {board.table.question for board in complete_boards}
    if len(questions) > 1:
        return "What does the positional encoding change?"
    return next(iter(questions), None) or "What was measured in these runs?"


def tables_with_results(
    results: Sequence[StoredResult], entries: Entries = NO_ENTRIES
) -> list[tuple[Table, Scale]]:
    """Return every registered table and scale that shows a result.

    Those that an added run needs to be shown at all are included.

    Raises:
        UnknownNameError, OptionError: an entry fits no run or no table.
    """
    tables = load_tables()
    check_entries(tables, results, entries)
    candidates = [(table, scale) for table in tables for scale in SCALES]
    tables_with_runs = [
        (table, scale)
        for table, scale in candidates
        if match_measurements(table, results, scale) or undecided_cells(table, results, scale)
    ]

    # entries that no table with runs shows bring their own tables
    entries_by_table = {
        (table.id, scale): _entry_names(add_entries(table, results, scale, entries))
        for table, scale in candidates
    }
    shown_entries = {
        name for table, scale in tables_with_runs for name in entries_by_table[table.id, scale]
    }
    return [
        (table, scale)
        for table, scale in candidates
        if (table, scale) in tables_with_runs or entries_by_table[table.id, scale] - shown_entries
    ]


def _entry_names(table: Table) -> set[tuple[str, str]]:
    """Return (row id, run name) of the entered rows of a table; the id of an added row is empty."""
    return {
        ("" if row.is_added else row.id, row.run_name)
        for row in table.rows
        if isinstance(row, EntryRow)
    }


def _sort_by_table(
    runs: Sequence[ReportedRun], sections: Sequence[TableSection]
) -> list[ReportedRun]:
    """Return the runs in the order of the first table's rows, the others after them by path."""
    results = [item for run in runs for item in run.results]
    order: dict[Path, int] = {}
    for section in sections:
        for match in _section_matches(section, results).values():
            order.setdefault(run_folder_of(match.stored_result.path), len(order))
    return sorted(runs, key=lambda run: order.get(run.folder, len(order)))


def _section_matches(section: TableSection, results: Sequence[StoredResult]) -> MatchesByCell:
    """Return the measurements that fill a section's cells, none without a scale."""
    board = section.board
    return match_measurements(board.table, results, board.scale) if board.scale else {}


def _is_in_sections(item: StoredResult, sections: Sequence[TableSection]) -> bool:
    """Return whether a result, considered alone, fills a cell of a section."""
    return any(_section_matches(section, [item]) for section in sections)


def _build_section(board: Board) -> TableSection:
    """Return the section of a board."""
    comparison_rows = tuple(_comparison_row(board, item) for item in board.comparisons)
    n_paired = sum(item.difference.is_paired for item in board.comparisons)
    return TableSection(
        board=board,
        title=board_title(board),
        anchor=board_anchor(board),
        table_context=table_context(board),
        copy_texts=tuple((name, render_table(board, suffix)) for name, suffix in COPY_FORMATS),
        column_kinds=column_kinds(board),
        summary=tuple(_summaries(board)),
        forests=tuple(_forest_plots(board)),
        comparisons=comparison_rows,
        pairing_text=f"{n_paired} of {len(comparison_rows)} differences are paired",
        cost_agreement=cost_agreement(board),
    )


def _summaries(board: Board) -> list[VerdictSummary]:
    """Return a summary of each verdict that occurs: its rows and their metrics."""
    summaries = []
    for verdict in VERDICT_ORDER:
        comparisons = [item for item in board.comparisons if item.verdict == verdict]
        if not comparisons:
            continue
        titles_by_row: dict[str, list[str]] = {}
        for item in comparisons:
            titles_by_row.setdefault(item.row, []).append(_column_title(board, item))
        row_texts = [
            f"{_row_label(board, row_id)} ({', '.join(titles)})"
            for row_id, titles in titles_by_row.items()
        ]
        summaries.append(
            VerdictSummary(
                verdict,
                VERDICT_GLYPHS[verdict],
                len(comparisons),
                len(board.comparisons),
                "; ".join(row_texts),
            )
        )
    return summaries


def _column_title(board: Board, item: RowComparison) -> str:
    """Return the title of the column that a comparison is of."""
    return board.measured_column_titles[item.column]


def _forest_plots(board: Board) -> list[ForestPlot]:
    """Return a forest plot for each column that has a difference."""
    plots = []
    for column in board.table.columns:
        rows = [
            (_row_label(board, item.row), item)
            for item in board.comparisons
            if item.column == column.key and item.difference.delta is not None
        ]
        if rows:
            heading = board.measured_column_titles[column.key]
            svg_id = f"{board_anchor(board)}-{column.key}"
            svg = page_figures.forest_svg(svg_id, heading, column.direction, rows)
            plots.append(ForestPlot(heading, svg))
    return plots


def _row_label(board: Board, row_id: str) -> str:
    """Return a row's title, after model, resolution or both where several rows have this title."""
    row = board.table.find_row(row_id)
    namesakes = [r for r in board.table.rows if r.title == row.title]
    for fields in ((), ("model",), ("resolution",), ("model", "resolution")):
        is_unique = len({_row_fields(r, fields) for r in namesakes}) == len(namesakes)
        if is_unique:
            break
    return " ".join((*_row_fields(row, fields), row.title))


def _row_fields(row: Row, fields: tuple[str, ...]) -> tuple[str, ...]:
    """Return the values of these fields that are not None, as texts."""
    values = [row.header_fields[field] for field in fields]
    return tuple(str(value) for value in values if value is not None)


def _comparison_row(board: Board, item: RowComparison) -> ComparisonRow:
    """Return a comparison as the texts of one table row."""
    column = board.table.find_column(item.column)
    difference = item.difference
    decimals = _count_digits(column)
    interval = DASH
    if difference.low is not None and difference.high is not None:
        low_text = format_difference(difference.low, decimals)
        high_text = format_difference(difference.high, decimals)
        interval = f"{low_text} to {high_text}"
    detectable_text = DASH
    if item.detectable_difference is not None:
        detectable_text = format_standard_error(item.detectable_difference, decimals)
    numbers = (
        difference.delta,
        difference.se,
        difference.p,
        item.p_adjusted,
        item.detectable_difference,
    )
    return ComparisonRow(
        _row_label(board, item.row),
        _row_label(board, item.baseline),
        _column_title(board, item),
        item.verdict,
        VERDICT_GLYPHS[item.verdict],
        DASH if difference.delta is None else format_difference(difference.delta, decimals),
        interval,
        DASH if difference.se is None else format_standard_error(difference.se, decimals),
        format_p_value(difference.p, DASH),
        format_p_value(item.p_adjusted, DASH),
        detectable_text,
        difference.reason,
        tuple("" if value is None else repr(value) for value in numbers),
    )


def _count_digits(column: Column) -> int:
    """Return one decimal more than the paper prints, since differences are small."""
    return (2 if column.decimals is None else column.decimals) + 1


def _measurement_rows(run: ReportedRun, item: StoredResult) -> list[MeasurementRow]:
    """Return the rows of a result's measurements."""
    return [
        MeasurementRow(
            run.id,
            run.title,
            f"{item.result.evaluator}@{item.result.version}",
            item.result.judge.judge_class,
            item.result.scale,
            m.name,
            f"no value: {m.reason}" if m.value is None else f"{m.value:.4g}",
            DASH if m.se is None else f"{m.se:.2g}",
            DASH if m.low is None or m.high is None else f"{m.low:.4g} to {m.high:.4g}",
            f"{m.n_scored:,} of {m.n_asked:,}",
            "" if m.value is None else repr(m.value),
        )
        for m in item.result.measurements
    ]


def _page_figures(runs: Path) -> list[PageFigure]:
    """Return the figures of the runs folder, rendered from their data."""
    figures = []
    for i, (name, chart) in enumerate(read_figures(runs).items()):
        svg = charts_svg.render_chart(chart, f"figure-{i}")
        numbers_csv = "" if chart.kind == "loss" else chart_csv(chart)
        figures.append(
            PageFigure(
                name, charts_svg.chart_caption(chart), svg, charts_svg.page_width(svg), numbers_csv
            )
        )
    return figures


def _read_loss_curves(runs: Sequence[ReportedRun]) -> dict[str, np.ndarray]:
    """Return the training logs of the runs' checkpoints by checkpoint name, (N, 2) each.

    A log is NAME.log.csv beside a registered checkpoint with the weights of the run.
    """
    checkpoints = registry.list_entries("checkpoints")
    curves: dict[str, np.ndarray] = {}
    for run in runs:
        entry = checkpoints.get(run.plan.checkpoint.name) if run.plan else None
        if run.plan is None or entry is None or entry.path is None or entry.name in curves:
            continue
        log_path = entry.path.with_name(f"{entry.name}.log.csv")
        if (
            log_path.is_file()
            and registry.read_toml(entry.path).get("sha256") == run.plan.checkpoint.sha256
        ):
            curves[entry.name] = _read_log(log_path)
    return curves


def _read_log(path: Path) -> np.ndarray:
    """Return the steps and losses of a training log, (N, 2) float64.

    Raises:
        StorageError: the file is not a training log.
    """
    try:
        table = csv.DictReader(read_text(path).splitlines())
        rows = [(float(row["step"]), float(row["loss"])) for row in table]
        curve = np.array(rows, dtype=np.float64).reshape(-1, 2)  # (N, 2): step and loss
    except (StorageError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise StorageError(
            f"{path} is not a training log (step,loss); delete or restore it"
        ) from error
    if not len(curve) or not np.isfinite(curve).all():
        raise StorageError(f"{path} has no finite losses; delete or restore it")
    return curve
