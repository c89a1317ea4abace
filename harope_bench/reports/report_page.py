"""The report: one offline HTML file, equal bytes for equal records."""

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
from harope_bench.leaderboards.match_runs import SCALES, Scale, match_measurements, undecided_cells
from harope_bench.leaderboards.table_spec import DASH, Column, EntryRow, Row, Table, load_tables
from harope_bench.reports import charts_svg, gallery, page_figures
from harope_bench.reports.chart_files import chart_csv, read_figures
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

PAGE_MARKER = (  # by which a later call knows its own page
    '<p class="kicker">harope-bench report</p>'
)
VERDICT_ORDER = ("better", "worse", "not resolved", "not comparable")
COPY_FORMATS = (("LaTeX", "tex"), ("Markdown", "md"), ("CSV", "csv"), ("JSON", "json"))


@dataclass(frozen=True)
class VerdictSummary:
    """One line of the header: a verdict and what has it."""

    verdict: str
    glyph: str
    count: int
    total: int
    text: str


@dataclass(frozen=True)
class ForestPlot:
    """One metric's figure."""

    heading: str
    svg: str


@dataclass(frozen=True)
class PageFigure:
    """A figure of the runs folder, drawn from its data now; `width` in rem.

    `numbers` is its table as csv, empty for a loss curve's thousands.
    """

    name: str
    caption: str
    svg: str
    width: float
    csv_text: str


@dataclass(frozen=True)
class ComparisonRow:
    """One row of the comparison table, as text and as raw values for sorting."""

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
    """One board with all that is said of it."""

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
        """The rows that differences are taken from."""
        return ", ".join(dict.fromkeys(line.baseline for line in self.comparisons))


@dataclass(frozen=True)
class MeasurementRow:
    """One measurement in the plain list of all results."""

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
    """Everything the template asks for."""

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
    panels: tuple[gallery.SamplePanel, ...]
    n_excluded_runs: int
    figures: tuple[PageFigure, ...]
    loss_svg: str | None
    final_losses: tuple[tuple[str, str, str], ...]
    cards: tuple[RunCard, ...]
    checks: tuple[ReportCheck, ...]


def write_report(runs: Path, out: Path, entries: Entries = NO_ENTRIES) -> Path:
    """Writes the report of all runs under a folder; returns `out`.

    Args:
        entries: rows that a user enters into the tables.

    Raises:
        StorageError: the folder holds no run, or a file of a run is broken (named); something other
            than a report stands at `out`.
            UnknownName, OptionError: an entry that no run or no table has.
    """
    check_overwrite(out, PAGE_MARKER, "report")
    page = build_report_page(runs, entries)
    write_text(
        out, template_environment().get_template("report.html").render(page=page, mark=PAGE_MARKER)
    )
    return out


def build_report_page(runs: Path, entries: Entries = NO_ENTRIES) -> ReportPage:
    """The data of the page."""
    folders = read_runs(runs)
    if not folders:
        raise StorageError(
            f"{runs} holds no run (a folder with plan.json or results/); harope-bench eval or"
            " reproduce makes one"
        )
    found = [item for run in folders for item in run.results]
    chosen = tables_with_results(found, entries)
    sections = tuple(
        _build_section(build_board(table, found, "both", scale, entries), found)
        for table, scale in chosen
    )
    tables = list({table.id: table for table, _ in chosen}.values())
    folders = _sort_by_table(folders, sections)
    curves = _read_loss_curves(folders)
    return ReportPage(
        question=_page_heading([s.board for s in sections if s.board.table.question]),
        version=__version__,
        evidence=CHECKPOINT_EVIDENCE,
        runs=tuple(folders),
        n_results=len(found),
        time_range=time_range(folders),
        sections=sections,
        unmatched_runs_note=unmatched_runs_note(tables, found, entries) if tables else None,
        measurements_outside_tables=tuple(
            m
            for run in folders
            for item in run.results
            if not _is_in_sections(item, sections)
            for m in _measurement_rows(run, item)
        ),
        measurements=tuple(
            m for run in folders for item in run.results for m in _measurement_rows(run, item)
        ),
        panels=tuple(gallery.build_panels(folders)),
        n_excluded_runs=gallery.count_excluded_runs(folders),
        figures=tuple(_page_figures(runs)),
        loss_svg=page_figures.loss_svg("losses", curves) if curves else None,
        final_losses=tuple(
            (name, f"{curve[-1, 0]:,.0f}", f"{curve[-1, 1]:.4f}") for name, curve in curves.items()
        ),
        cards=tuple(build_cards(folders)),
        checks=tuple(collect_checks(folders)),
    )


def _page_heading(boards: Sequence[Board]) -> str:
    """The page's heading: the question of the table that these runs fill, or one for several; runs
    of one table stand in others too.
    """
    filled = [board for board in boards if board.n_measured == len(board.cells)] or boards[:1]
    asked = {board.table.question for board in filled}
    if len(asked) > 1:
        return "What does the positional encoding change?"
    return next(iter(asked), None) or "What was measured in these runs?"


def tables_with_results(
    found: Sequence[StoredResult], entries: Entries = NO_ENTRIES
) -> list[tuple[Table, Scale]]:
    """Return every registered table and scale that a result belongs to, and those that an added run
    needs to have a row at all.

    Raises:
        UnknownName, OptionError: an entry that no run or no table has.
    """
    tables = load_tables()
    check_entries(tables, found, entries)
    every = [(table, scale) for table in tables for scale in SCALES]
    shown = [
        (t, scale)
        for t, scale in every
        if match_measurements(t, found, scale) or undecided_cells(t, found, scale)
    ]
    added = {
        t.id + scale: _entry_names(add_entries(t, found, scale, entries)) for t, scale in every
    }
    present = {name for t, scale in shown for name in added[t.id + scale]}
    return [
        (t, scale) for t, scale in every if (t, scale) in shown or added[t.id + scale] - present
    ]


def _entry_names(table: Table) -> set[tuple[str, str]]:
    """Return what was entered into a table: the name, and the table's own row where it stands in
    one.
    """
    return {
        ("" if row.is_added else row.id, row.run_name)
        for row in table.rows
        if isinstance(row, EntryRow)
    }


def _sort_by_table(
    runs: Sequence[ReportedRun], sections: Sequence[TableSection]
) -> list[ReportedRun]:
    """Runs as the rows of the first table stand; the others after them, by path."""
    order: dict[Path, int] = {}
    for section in sections:
        found = [item for run in runs for item in run.results]
        picks = (
            match_measurements(section.board.table, found, section.board.scale)
            if section.board.scale
            else {}
        )
        for picked in picks.values():
            order.setdefault(run_folder_of(picked.stored_result.path), len(order))
    return sorted(runs, key=lambda run: order.get(run.folder, len(order)))


def _is_in_sections(item: StoredResult, sections: Sequence[TableSection]) -> bool:
    return any(
        picked.stored_result.path == item.path
        for section in sections
        if section.board.scale
        for picked in match_measurements(section.board.table, [item], section.board.scale).values()
    )


def _build_section(board: Board, found: Sequence[StoredResult]) -> TableSection:
    lines = tuple(_comparison_row(board, item) for item in board.comparisons)
    paired = sum(item.difference.is_paired for item in board.comparisons)
    return TableSection(
        board,
        board_title(board),
        board_anchor(board),
        table_context(board),
        tuple((name, render_table(board, kind)) for name, kind in COPY_FORMATS),
        column_kinds(board),
        tuple(_summaries(board)),
        tuple(_forest_plots(board)),
        lines,
        f"{paired} of {len(lines)} differences are paired",
        cost_agreement(board),
    )


def _summaries(board: Board) -> list[VerdictSummary]:
    """A line for each verdict that occurs: the rows, and the numbers in which they have it."""
    lines = []
    for word in VERDICT_ORDER:
        having = [item for item in board.comparisons if item.verdict == word]
        if having:
            rows = dict.fromkeys(item.row for item in having)
            parts = [
                f"{_row_label(board, row)}"
                f" ({', '.join(_column_title(board, item) for item in having if item.row == row)})"
                for row in rows
            ]
            lines.append(
                VerdictSummary(
                    word,
                    VERDICT_GLYPHS[word],
                    len(having),
                    len(board.comparisons),
                    "; ".join(parts),
                )
            )
    return lines


def _column_title(board: Board, item: RowComparison) -> str:
    return board.measured_column_titles[item.column]


def _forest_plots(board: Board) -> list[ForestPlot]:
    made = []
    for column in board.table.columns:
        rows = [
            (_row_label(board, item.row), item)
            for item in board.comparisons
            if item.column == column.key and item.difference.delta is not None
        ]
        if rows:
            heading = board.measured_column_titles[column.key]
            made.append(
                ForestPlot(
                    heading,
                    page_figures.forest_svg(
                        f"{board_anchor(board)}-{column.key}", heading, column.direction, rows
                    ),
                )
            )
    return made


def _row_label(board: Board, name: str) -> str:
    """A row as it is printed, after the model or the resolution or both where these tell it from
    others printed alike.
    """
    row = board.table.find_row(name)
    alike = [other for other in board.table.rows if other.title == row.title]
    choices = [(), ("model",), ("res",), ("model", "res")]
    telling = next(
        (c for c in choices if len({_row_fields(other, c) for other in alike}) == len(alike)),
        choices[-1],
    )
    return " ".join((*_row_fields(row, telling), row.title))


def _row_fields(row: Row, fields: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str(value) for field in fields if (value := row.header_fields[field]) is not None)


def _comparison_row(board: Board, item: RowComparison) -> ComparisonRow:
    column = board.table.find_column(item.column)
    found = item.difference
    digits = _count_digits(column)
    interval = (
        DASH
        if found.low is None or found.high is None
        else f"{format_difference(found.low, digits)} to {format_difference(found.high, digits)}"
    )
    raw = (found.delta, found.se, found.p, item.p_adjusted, item.detectable_difference)
    return ComparisonRow(
        _row_label(board, item.row),
        _row_label(board, item.baseline),
        _column_title(board, item),
        item.verdict,
        VERDICT_GLYPHS[item.verdict],
        DASH if found.delta is None else format_difference(found.delta, digits),
        interval,
        DASH if found.se is None else format_standard_error(found.se, digits),
        format_p_value(found.p, DASH),
        format_p_value(item.p_adjusted, DASH),
        (
            DASH
            if item.detectable_difference is None
            else format_standard_error(item.detectable_difference, digits)
        ),
        found.reason,
        tuple("" if value is None else repr(value) for value in raw),
    )


def _count_digits(column: Column) -> int:
    """One digit more than the paper prints: differences are smaller than what they are taken
    from.
    """
    return (2 if column.decimals is None else column.decimals) + 1


def _measurement_rows(run: ReportedRun, item: StoredResult) -> list[MeasurementRow]:
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
    made = []
    for i, (name, chart) in enumerate(read_figures(runs).items()):
        svg = charts_svg.render_chart(chart, f"figure-{i}")
        numbers = "" if chart.kind == "loss" else chart_csv(chart)
        made.append(
            PageFigure(
                name, charts_svg.chart_caption(chart), svg, charts_svg.page_width(svg), numbers
            )
        )
    return made


def _read_loss_curves(runs: Sequence[ReportedRun]) -> dict[str, np.ndarray]:
    """Training logs that lie beside registered checkpoints (NAME.log.csv), where the weights are
    the run's.
    """
    known = registry.list_entries("checkpoints")
    curves: dict[str, np.ndarray] = {}
    for run in runs:
        entry = known.get(run.plan.checkpoint.name) if run.plan else None
        if run.plan is None or entry is None or entry.path is None or entry.name in curves:
            continue
        log = entry.path.with_name(f"{entry.name}.log.csv")
        if (
            log.is_file()
            and registry.read_toml(entry.path).get("sha256") == run.plan.checkpoint.sha256
        ):
            curves[entry.name] = _read_log(log)
    return curves


def _read_log(path: Path) -> np.ndarray:
    try:
        table = csv.DictReader(read_text(path).splitlines())
        rows = [(float(row["step"]), float(row["loss"])) for row in table]
        curve = np.array(rows, dtype=np.float64).reshape(-1, 2)  # (lines, step and loss)
    except (StorageError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise StorageError(
            f"{path} is not a training log (step,loss); delete it or bring the file back"
        ) from error
    if not len(curve) or not np.isfinite(curve).all():
        raise StorageError(f"{path} has no finite losses; delete it or bring the file back")
    return curve
