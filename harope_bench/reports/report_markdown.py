"""The report as Markdown for a pull request: question, verdicts, tables, differences, notes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harope_bench.core.schema import Measurement
from harope_bench.core.storage import check_overwrite, write_text
from harope_bench.leaderboards.board import Board, Note
from harope_bench.leaderboards.entries import NO_ENTRIES, Entries
from harope_bench.reports.report_page import ReportPage, build_report_page
from harope_bench.reports.runs import ReportedRun
from harope_bench.reports.table_layout import VERDICT_GLYPHS, TableStyle
from harope_bench.reports.tables import escape_markdown, render_markdown

if TYPE_CHECKING:
    from harope_bench.reports.report_page import ComparisonRow, TableSection

# a file with this line may be overwritten by a later report
MARKDOWN_MARKER = "<!-- harope-bench report -->"
MAX_BYTES = 60_000  # GitHub takes 65,536 characters
MAX_LISTED_ROWS = 6  # of one verdict; further rows are counted
MAX_LISTED_WARNINGS = 8
MAX_ROWS = 80  # of numbers that belong to no table
MENTION_PATTERN = re.compile(r"(?<!\w)@(?=\w)")  # GitHub would notify a user of that name
COMPARISON_TITLES = ("Row", "Number", "Verdict", "Difference", "95% interval", "p, Holm", "Method")


@dataclass(frozen=True)
class TextLimits:
    """How much of a page is written, so that the text stays below MAX_BYTES.

    n_sections, n_differences: of tables, and of differences of each table; None for all.
    """

    n_sections: int | None = None
    n_differences: int | None = None
    has_runs: bool = True
    has_notes: bool = True
    has_tables: bool = True


# from all to the least; the first text that is short enough is written
LIMITS = (
    TextLimits(),
    TextLimits(n_differences=40),
    TextLimits(n_differences=40, has_runs=False),
    TextLimits(1, 20, has_runs=False),
    TextLimits(1, 20, has_runs=False, has_notes=False),
    TextLimits(1, 0, has_runs=False, has_notes=False, has_tables=False),
)


def write_report_markdown(runs: Path, out: Path, entries: Entries = NO_ENTRIES) -> Path:
    """Write the report of all runs under a folder as Markdown and return its path.

    Args:
        entries: rows that the user adds to the tables.

    Raises:
        StorageError: the folder has no run, a file of a run is invalid (the message names it), or
            `out` exists and is not such a report.
        UnknownNameError, OptionError: an entry fits no run or no table.
    """
    check_overwrite(out, MARKDOWN_MARKER, "report")
    write_text(out, render_report_markdown(build_report_page(runs, entries)))
    return out


def render_report_markdown(page: ReportPage) -> str:
    """Return a page as Markdown of at most MAX_BYTES."""
    for limits in LIMITS:
        text = _page_text(page, limits)
        if len(text.encode()) <= MAX_BYTES:
            break
    return text


def asked_sections(page: ReportPage) -> tuple[TableSection, ...]:
    """Return the tables that the runs fill wholly, or the first one that they fill in part.

    Runs of one table fill rows of other tables too.
    """
    sections = [s for s in page.sections if s.board.n_measured == len(s.board.cells)]
    return tuple(sections) or page.sections[:1]


def _page_text(page: ReportPage, limits: TextLimits) -> str:
    """Return the Markdown of a page within limits."""
    sections = asked_sections(page)
    shown_sections = sections[: limits.n_sections]
    parts = [MARKDOWN_MARKER, f"# {escape_markdown(page.question)}"]
    for section in shown_sections:
        parts += _section_parts(section, limits)
    if not sections:
        parts.append("Nothing can be compared yet: no result belongs to a table.")
        parts += _measurement_parts(page.runs)
    parts += _other_parts(page, shown_sections)
    parts.append(f"**Evidence** {escape_markdown(page.evidence)}")
    parts += _check_parts(page, limits)
    if limits.has_runs:
        parts.append(_folded_part("Runs", map(_run_line, page.runs)))
    if limits != TextLimits():
        parts.append("This text is shortened; `harope-bench report` writes a page with all of it.")
    parts.append(f"harope-bench {page.version}, {_counts_text(page)}.")
    return MENTION_PATTERN.sub("@<!-- -->", "\n\n".join(parts)) + "\n"


def _counts_text(page: ReportPage) -> str:
    """Return the number of runs and of results, and when they were recorded."""
    n_runs = len(page.runs)
    text = f"{n_runs} {'run' if n_runs == 1 else 'runs'}"
    text += f", {page.n_results} {'result' if page.n_results == 1 else 'results'}"
    if page.time_range is None:
        return text
    return f"{text}, recorded from {page.time_range[0]} to {page.time_range[1]}"


def _section_parts(section: TableSection, limits: TextLimits) -> Iterator[str]:
    """Yield the verdicts of a table, the table, its differences and its notes."""
    yield from _verdict_parts(section)
    board = _shown_board(section.board)
    if limits.has_tables:
        yield render_markdown(board, TableStyle(has_notes=False)).strip()
    if section.comparisons and limits.n_differences != 0:
        yield _comparison_part(section, limits.n_differences)
    if limits.has_notes and board.notes:
        yield _folded_part("Notes", (_note_line(note) for note in board.notes))


def _shown_board(board: Board) -> Board:
    """Return the board with the columns of a pull request.

    The published numbers are of another scale than those of micro runs, so these are alone.
    """
    if board.scale != "micro":
        return board
    notes = tuple(note for note in board.notes if note.id is None)
    return replace(board, show="measured", notes=notes, table_note_numbers=())


def _note_line(note: Note) -> str:
    """Return a note behind its number."""
    return f"{note.number}. {escape_markdown(note.full_text)}"


def _verdict_parts(section: TableSection) -> Iterator[str]:
    """Yield what the differences of a table say: a line for each verdict, or why there is none."""
    if section.cost_agreement:
        yield escape_markdown(section.cost_agreement)
    if section.comparisons:
        baselines = ", ".join(dict.fromkeys(line.baseline for line in section.comparisons))
        yield escape_markdown(f"Against {baselines}; {section.pairing_text}:")
        yield "\n".join(f"- {line}" for line in _verdict_lines(section.comparisons))
    elif not section.cost_agreement:
        yield "Nothing can be compared: the baseline or every other row of the table was not run."


def _verdict_lines(comparisons: Sequence[ComparisonRow]) -> Iterator[str]:
    """Yield a line for each verdict that occurs: how often, and the rows and numbers with it."""
    for verdict in VERDICT_GLYPHS:
        lines = [line for line in comparisons if line.verdict == verdict]
        if not lines:
            continue
        names_by_row: dict[str, list[str]] = {}
        for line in lines:
            names_by_row.setdefault(line.row, []).append(line.measurement_name)
        rows = [f"{row} ({', '.join(names)})" for row, names in names_by_row.items()]
        further_text = ""
        if len(rows) > MAX_LISTED_ROWS:
            further_text = f"; {len(rows) - MAX_LISTED_ROWS} more rows"
        yield (
            f"{VERDICT_GLYPHS[verdict]} **{verdict}** {len(lines)} of {len(comparisons)}: "
            + escape_markdown("; ".join(rows[:MAX_LISTED_ROWS]) + further_text)
        )


def _comparison_part(section: TableSection, n_differences: int | None) -> str:
    """Return the differences of a table as a folded table, at most n_differences of them."""
    shown_lines = section.comparisons[:n_differences]
    rows = [
        (
            line.row,
            line.measurement_name,
            f"{line.glyph} {line.verdict}",
            line.delta,
            line.interval,
            line.p_adjusted,
            line.explanation,
        )
        for line in shown_lines
    ]
    lines = [_table_row(COMPARISON_TITLES), "|---|---|---|---:|---:|---:|---|"]
    lines += [_table_row(row) for row in rows]
    n_further = len(section.comparisons) - len(shown_lines)
    if n_further:
        lines += ["", f"{n_further} more differences are not shown."]
    return _folded_part(f"Differences ({len(section.comparisons)})", lines)


def _table_row(cells: Iterable[str]) -> str:
    """Return one line of a Markdown table."""
    return f"| {' | '.join(map(escape_markdown, cells))} |"


def _other_parts(page: ReportPage, shown_sections: Sequence[TableSection]) -> Iterator[str]:
    """Yield one line for each other table that the runs fill, and the runs that fill none."""
    lines = [
        f"- {escape_markdown(section.title)}: {section.board.n_measured} of"
        f" {len(section.board.cells)} cells measured"
        for section in page.sections
        if section not in shown_sections
    ]
    if lines:
        yield "Other tables with these runs:\n\n" + "\n".join(lines)
    if page.unmatched_runs_note:
        yield escape_markdown(page.unmatched_runs_note)


def _check_parts(page: ReportPage, limits: TextLimits) -> Iterator[str]:
    """Yield the warnings on the runs, then the other statements."""
    texts_by_status: dict[bool, list[str]] = {True: [], False: []}
    for check in page.checks:
        texts_by_status[check.status == "no"].append(f"- {escape_markdown(check.text)}")
    if warnings := texts_by_status[True]:
        yield "\n".join(["Warnings:", "", *warnings[:MAX_LISTED_WARNINGS]])
    if len(texts_by_status[True]) > MAX_LISTED_WARNINGS:
        yield f"{len(warnings) - MAX_LISTED_WARNINGS} more warnings are not shown."
    if limits.has_runs and texts_by_status[False]:
        yield _folded_part("Judges, evaluators and checks", texts_by_status[False])


def _measurement_parts(runs: Sequence[ReportedRun]) -> Iterator[str]:
    """Yield a table of the numbers of runs that fill no table."""
    rows = [
        (
            run.id,
            item.result.evaluator,
            measurement.name,
            _value_text(measurement),
            f"{measurement.n_scored:,} of {measurement.n_asked:,}",
        )
        for run in runs
        for item in run.results
        for measurement in item.result.measurements
    ]
    if rows:
        titles = ("Run", "Evaluator", "Number", "Value ± SE", "Images scored")
        lines = [_table_row(titles), "|---|---|---|---:|---:|", *map(_table_row, rows[:MAX_ROWS])]
        yield "\n".join(lines)
    if len(rows) > MAX_ROWS:
        yield f"{len(rows) - MAX_ROWS} more numbers are not shown."


def _value_text(measurement: Measurement) -> str:
    """Return a number with its standard error, or why it has no value."""
    if measurement.value is None:
        return f"no value: {measurement.reason}"
    error = "" if measurement.se is None else f" ± {measurement.se:.2g}"
    return f"{measurement.value:.4g}{error}"


def _run_line(run: ReportedRun) -> str:
    """Return what a run is: checkpoint, settings, and the evaluators of its results."""
    evaluators = ", ".join(f"{item.result.evaluator}" for item in run.results) or "not evaluated"
    if run.plan is None:
        return f"- {escape_markdown(f'{run.id}: without a plan; {evaluators}')}"
    checkpoint = run.plan.checkpoint
    settings = run.plan.settings
    return "- " + escape_markdown(
        f"{run.id}: {checkpoint.name} ({checkpoint.encoding} on {checkpoint.backbone}, weights"
        f" {checkpoint.sha256[:12]}), {settings.resolution} px, {settings.sampling_text}, seed"
        f" {settings.seed}; {evaluators}"
    )


def _folded_part(title: str, lines: Iterable[str]) -> str:
    """Return lines that GitHub shows after a click on their title."""
    body = "\n".join(lines)
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"
