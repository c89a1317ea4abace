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
from harope_bench.core.storage import check_overwritten, write_text
from harope_bench.core.text_file import read_text
from harope_bench.data.result_paths import run_of
from harope_bench.data.result_store import StoredResult
from harope_bench.leaderboards.board import EVIDENCE, Board, build
from harope_bench.leaderboards.comparisons import Comparison
from harope_bench.leaderboards.entries import NO_ENTRIES, Entries, check_entries, enter, unplaced_note
from harope_bench.leaderboards.match_runs import SCALES, Scale, pick, undecided
from harope_bench.leaderboards.table_spec import DASH, Column, EntryRow, Row, Table, load_tables
from harope_bench.reports import charts_svg, figures, gallery
from harope_bench.reports.card import Card, Check, cards, checks, span
from harope_bench.reports.chart_files import figures_of, table
from harope_bench.reports.grid import GLYPHS, counted, kinds, shown_error, signed, title
from harope_bench.reports.runs import Run, read_runs
from harope_bench.reports.tables import anchor, environment, render, table_page
from harope_bench.statistics.significance import probability

MARK = '<p class="kicker">harope-bench report</p>'  # by which a later call knows its own page
WORDS = ("better", "worse", "not resolved", "not comparable")
SOURCES = (("LaTeX", "tex"), ("Markdown", "md"), ("CSV", "csv"), ("JSON", "json"))


@dataclass(frozen=True)
class Summary:
    """One line of the header: a verdict and what has it."""

    word: str
    glyph: str
    count: int
    total: int
    text: str


@dataclass(frozen=True)
class Forest:
    """One metric's figure."""

    heading: str
    svg: str


@dataclass(frozen=True)
class Figure:
    """A figure of the runs folder, drawn from its data now; `width` in rem.

    `numbers` is its table as csv, empty for a loss curve's thousands.
    """

    name: str
    caption: str
    svg: str
    width: float
    numbers: str


@dataclass(frozen=True)
class Line:
    """One row of the comparison table, as text and as raw values for sorting."""

    row: str
    baseline: str
    number: str
    verdict: str
    glyph: str
    delta: str
    interval: str
    se: str
    p: str
    adjusted: str
    detectable: str
    how: str
    raw: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """One board with all that is said of it."""

    board: Board
    title: str
    anchor: str
    fragment: dict[str, object]
    sources: tuple[tuple[str, str], ...]
    toggles: tuple[str, ...]
    summary: tuple[Summary, ...]
    forests: tuple[Forest, ...]
    lines: tuple[Line, ...]
    pairing: str
    counted: str | None

    @property
    def against(self) -> str:
        """The rows that differences are taken from."""
        return ", ".join(dict.fromkeys(line.baseline for line in self.lines))


@dataclass(frozen=True)
class Measure:
    """One measurement in the plain list of all results."""

    run: str
    target: str
    evaluator: str
    judge_class: str
    scale: str
    name: str
    value: str
    error: str
    interval: str
    counts: str
    raw: str


@dataclass(frozen=True)
class Page:
    """Everything the template asks for."""

    question: str
    version: str
    evidence: str
    runs: tuple[Run, ...]
    results: int
    span: tuple[str, str] | None
    sections: tuple[Section, ...]
    unplaced: str | None
    unlisted: tuple[Measure, ...]
    measures: tuple[Measure, ...]
    panels: tuple[gallery.Panel, ...]
    left_out: int
    figures: tuple[Figure, ...]
    losses: str | None
    last_losses: tuple[tuple[str, str, str], ...]
    cards: tuple[Card, ...]
    checks: tuple[Check, ...]


def write_report(runs: Path, out: Path, entries: Entries = NO_ENTRIES) -> Path:
    """Writes the report of all runs under a folder; returns `out`.

    Args:
        entries: rows that a user enters into the tables.

    Raises:
        StorageError: the folder holds no run, or a file of a run is broken (named); something other than a report stands at `out`.
            UnknownName, OptionError: an entry that no run or no table has.
    """
    check_overwritten(out, MARK, "report")
    page = read_page(runs, entries)
    write_text(out, environment().get_template("report.html").render(page=page, mark=MARK))
    return out


def read_page(runs: Path, entries: Entries = NO_ENTRIES) -> Page:
    """The data of the page."""
    folders = read_runs(runs)
    if not folders:
        raise StorageError(f"{runs} holds no run (a folder with plan.json or results/); harope-bench eval or reproduce makes one")
    found = [item for run in folders for item in run.found]
    chosen = shown_tables(found, entries)
    sections = tuple(_section(build(table, found, "both", scale, entries), found) for table, scale in chosen)
    tables = list({table.id: table for table, _ in chosen}.values())
    folders = _in_table_order(folders, sections)
    curves = _curves(folders)
    return Page(
        question=_question([s.board for s in sections if s.board.table.question]),
        version=__version__,
        evidence=EVIDENCE,
        runs=tuple(folders),
        results=len(found),
        span=span(folders),
        sections=sections,
        unplaced=unplaced_note(tables, found, entries) if tables else None,
        unlisted=tuple(m for run in folders for item in run.found if not _listed(item, sections) for m in _measures(run, item)),
        measures=tuple(m for run in folders for item in run.found for m in _measures(run, item)),
        panels=tuple(gallery.panels(folders)),
        left_out=gallery.left_out(folders),
        figures=tuple(_figures(runs)),
        losses=figures.losses("losses", curves) if curves else None,
        last_losses=tuple((name, f"{curve[-1, 0]:,.0f}", f"{curve[-1, 1]:.4f}") for name, curve in curves.items()),
        cards=tuple(cards(folders)),
        checks=tuple(checks(folders)),
    )


def _question(boards: Sequence[Board]) -> str:
    """The page's heading: the question of the table that these runs fill, or one for several; runs of one table stand in others too."""
    filled = [board for board in boards if board.measured == len(board.cells)] or boards[:1]
    asked = {board.table.question for board in filled}
    if len(asked) > 1:
        return "What does the positional encoding change?"
    return next(iter(asked), None) or "What was measured in these runs?"


def shown_tables(found: Sequence[StoredResult], entries: Entries = NO_ENTRIES) -> list[tuple[Table, Scale]]:
    """Return every registered table and scale that a result belongs to, and those that an added run needs to have a row at all.

    Raises:
        UnknownName, OptionError: an entry that no run or no table has.
    """
    tables = load_tables()
    check_entries(tables, found, entries)
    every = [(table, scale) for table in tables for scale in SCALES]
    shown = [(t, scale) for t, scale in every if pick(t, found, scale) or undecided(t, found, scale)]
    added = {t.id + scale: _entered_names(enter(t, found, scale, entries)) for t, scale in every}
    present = {name for t, scale in shown for name in added[t.id + scale]}
    return [(t, scale) for t, scale in every if (t, scale) in shown or added[t.id + scale] - present]


def _entered_names(table: Table) -> set[tuple[str, str]]:
    """Return what was entered into a table: the name, and the table's own row where it stands in one."""
    return {("" if row.is_added else row.id, row.name) for row in table.rows if isinstance(row, EntryRow)}


def _in_table_order(runs: Sequence[Run], sections: Sequence[Section]) -> list[Run]:
    """Runs as the rows of the first table stand; the others after them, by path."""
    order: dict[Path, int] = {}
    for section in sections:
        found = [item for run in runs for item in run.found]
        picks = pick(section.board.table, found, section.board.scale) if section.board.scale else {}
        for picked in picks.values():
            order.setdefault(run_of(picked.found.path), len(order))
    return sorted(runs, key=lambda run: order.get(run.folder, len(order)))


def _listed(item: StoredResult, sections: Sequence[Section]) -> bool:
    return any(
        picked.found.path == item.path
        for section in sections
        if section.board.scale
        for picked in pick(section.board.table, [item], section.board.scale).values()
    )


def _section(board: Board, found: Sequence[StoredResult]) -> Section:
    lines = tuple(_line(board, item) for item in board.compared)
    paired = sum(item.difference.paired for item in board.compared)
    return Section(
        board,
        title(board),
        anchor(board),
        table_page(board),
        tuple((name, render(board, kind)) for name, kind in SOURCES),
        kinds(board),
        tuple(_summaries(board)),
        tuple(_forests(board)),
        lines,
        f"{paired} of {len(lines)} differences are paired",
        counted(board),
    )


def _summaries(board: Board) -> list[Summary]:
    """A line for each verdict that occurs: the rows, and the numbers in which they have it."""
    lines = []
    for word in WORDS:
        having = [item for item in board.compared if item.verdict == word]
        if having:
            rows = dict.fromkeys(item.row for item in having)
            parts = [f"{_label(board, row)} ({', '.join(_head(board, item) for item in having if item.row == row)})" for row in rows]
            lines.append(Summary(word, GLYPHS[word], len(having), len(board.compared), "; ".join(parts)))
    return lines


def _head(board: Board, item: Comparison) -> str:
    return board.measured_heads[item.column]


def _forests(board: Board) -> list[Forest]:
    made = []
    for column in board.table.columns:
        rows = [
            (_label(board, item.row), item) for item in board.compared if item.column == column.key and item.difference.delta is not None
        ]
        if rows:
            heading = board.measured_heads[column.key]
            made.append(Forest(heading, figures.forest(f"{anchor(board)}-{column.key}", heading, column.direction, rows)))
    return made


def _label(board: Board, name: str) -> str:
    """A row as it is printed, after the model or the resolution or both where these tell it from others printed alike."""
    row = board.table.row(name)
    alike = [other for other in board.table.rows if other.printed == row.printed]
    choices = [(), ("model",), ("res",), ("model", "res")]
    telling = next((c for c in choices if len({_facts(other, c) for other in alike}) == len(alike)), choices[-1])
    return " ".join((*_facts(row, telling), row.printed))


def _facts(row: Row, fields: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str(value) for field in fields if (value := row.head_facts[field]) is not None)


def _line(board: Board, item: Comparison) -> Line:
    column, found = board.table.column(item.column), item.difference
    digits = _digits(column)
    interval = DASH if found.low is None or found.high is None else f"{signed(found.low, digits)} to {signed(found.high, digits)}"
    raw = (found.delta, found.se, found.p, item.p_adjusted, item.detectable)
    return Line(
        _label(board, item.row),
        _label(board, item.baseline),
        _head(board, item),
        item.verdict,
        GLYPHS[item.verdict],
        DASH if found.delta is None else signed(found.delta, digits),
        interval,
        DASH if found.se is None else shown_error(found.se, digits),
        probability(found.p, DASH),
        probability(item.p_adjusted, DASH),
        DASH if item.detectable is None else shown_error(item.detectable, digits),
        found.why,
        tuple("" if value is None else repr(value) for value in raw),
    )


def _digits(column: Column) -> int:
    """One digit more than the paper prints: differences are smaller than what they are taken from."""
    return (2 if column.decimals is None else column.decimals) + 1


def _measures(run: Run, item: StoredResult) -> list[Measure]:
    return [
        Measure(
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


def _figures(runs: Path) -> list[Figure]:
    made = []
    for i, (name, chart) in enumerate(figures_of(runs).items()):
        svg = charts_svg.draw(chart, f"figure-{i}")
        numbers = "" if chart.kind == "loss" else table(chart)
        made.append(Figure(name, charts_svg.caption(chart), svg, charts_svg.width(svg), numbers))
    return made


def _curves(runs: Sequence[Run]) -> dict[str, np.ndarray]:
    """Training logs that lie beside registered checkpoints (NAME.log.csv), where the weights are the run's."""
    known = registry.entries("checkpoints")
    curves: dict[str, np.ndarray] = {}
    for run in runs:
        entry = known.get(run.plan.checkpoint.name) if run.plan else None
        if run.plan is None or entry is None or entry.path is None or entry.name in curves:
            continue
        log = entry.path.with_name(f"{entry.name}.log.csv")
        if log.is_file() and registry.read_toml(entry.path).get("sha256") == run.plan.checkpoint.sha256:
            curves[entry.name] = _log(log)
    return curves


def _log(path: Path) -> np.ndarray:
    try:
        table = csv.DictReader(read_text(path).splitlines())
        rows = [(float(row["step"]), float(row["loss"])) for row in table]
        curve = np.array(rows, dtype=np.float64).reshape(-1, 2)  # (lines, step and loss)
    except (StorageError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise StorageError(f"{path} is not a training log (step,loss); delete it or bring the file back") from error
    if not len(curve) or not np.isfinite(curve).all():
        raise StorageError(f"{path} has no finite losses; delete it or bring the file back")
    return curve
