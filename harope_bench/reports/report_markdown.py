"""The report as Markdown for a pull request: question, verdicts, tables, differences, notes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harope_bench.core.storage import check_overwrite, write_text
from harope_bench.leaderboards.entries import NO_ENTRIES, Entries
from harope_bench.reports.gallery_records import GalleryOptions
from harope_bench.reports.page_board import PageCell, PageTable
from harope_bench.reports.page_sections import PageSection, TableSection
from harope_bench.reports.report_page import ReportPage, build_report_page
from harope_bench.reports.runs import ReportedRun
from harope_bench.reports.table_layout import place_header_cells
from harope_bench.reports.tables import escape_markdown

# a file with this line may be overwritten by a later report
MARKDOWN_MARKER = "<!-- harope-bench report -->"
MAX_BYTES = 60_000  # GitHub takes 65,536 characters
MAX_LISTED_WARNINGS = 8
CUT_NOTE = "\nThe text was cut here; the HTML report has all of it.\n"
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


def write_report_markdown(
    runs: Path, out: Path, entries: Entries = NO_ENTRIES, tables: Sequence[str] = ()
) -> Path:
    """Write the report of all runs under a folder as Markdown and return its path.

    Args:
        entries: rows that the user adds to the tables.
        tables: names of the tables that were asked for, as in write_report.

    Raises:
        StorageError: the folder has no run, a file of a run is invalid (the message names it), or
            `out` exists and is not such a report.
        UnknownNameError, OptionError: an entry fits no run or no table.
    """
    check_overwrite(out, MARKDOWN_MARKER, "report")
    no_images = GalleryOptions(has_images=False)
    page = build_report_page(runs, entries, tables, no_images)
    write_text(out, render_report_markdown(page))
    return out


def render_report_markdown(page: ReportPage) -> str:
    """Return a page as Markdown of at most MAX_BYTES."""
    for limits in LIMITS:
        text = _page_text(page, limits)
        if len(text.encode()) <= MAX_BYTES:
            return text
    # long texts of the results themselves are left
    kept = text.encode()[: MAX_BYTES - len(CUT_NOTE)].decode(errors="ignore")
    return kept[: kept.rfind("\n") + 1] + CUT_NOTE


def _page_text(page: ReportPage, limits: TextLimits) -> str:
    """Return the Markdown of a page within limits."""
    sections = page.shown_sections
    shown_sections = sections[: limits.n_sections]
    parts = [MARKDOWN_MARKER, f"# {escape_markdown(page.question)}"]
    for section in shown_sections:
        parts += _section_parts(page, section, limits)
    if not sections:
        parts.append("Nothing was measured yet.")
    parts += _other_parts(page, sections[len(shown_sections) :])
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


def _section_parts(page: ReportPage, section: PageSection, limits: TextLimits) -> Iterator[str]:
    """Yield the verdict of a table, the table, its differences and its notes."""
    answer = section.verdict.answer
    yield f"{answer.glyph} **{escape_markdown(answer.text)}**".strip()
    yield escape_markdown(section.verdict.certainty.text)
    if section.remark:
        yield escape_markdown(section.remark)
    if limits.has_tables:
        yield f"## {escape_markdown(section.title)}"
        yield "\n".join(_table_lines(section))
        if isinstance(section, TableSection):
            yield escape_markdown(f"Numbers: {section.board.measured_title}.")
    if section.comparisons and limits.n_differences != 0:
        yield _comparison_part(section, limits.n_differences)
    notes = [note for note in page.notes if section.name in note.tables]
    if limits.has_notes and notes:
        lines = (f"{note.number}. {escape_markdown(note.text)}" for note in notes)
        yield _folded_part("Notes", lines)


def _table_lines(section: PageSection) -> list[str]:
    """Return the table of a section without its hidden columns, as the page first shows it."""
    table = section.table
    kinds = [kind for kind, count in table.column_groups for _ in range(count)]
    shown_columns = [i for i, kind in enumerate(kinds) if kind not in table.hidden_kinds]
    titles = _column_titles(table, kinds)
    rules = ["---" if kinds[i] == "head" else "---:" for i in shown_columns]
    rows = [
        [_cell_text(section, row[i]) for i in shown_columns]
        for block in table.blocks
        for row in block
    ]
    lines = [[escape_markdown(titles[i]) for i in shown_columns], rules, *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _column_titles(table: PageTable, kinds: Sequence[str]) -> list[str]:
    """Return the titles of each column in one line.

    The title above all columns of one kind is long, so the kind's name stands in its place.
    """
    titles: list[list[str]] = [[] for _ in kinds]
    for level, cells in enumerate(place_header_cells(table.header_rows, len(kinds))):
        for start, cell in cells.items():
            is_title_of_kind = level == 0 and len(table.header_rows) > 1 and cell.kind != "head"
            for i in range(start, start + cell.column_span):
                titles[i].append(cell.kind if is_title_of_kind else cell.text)
    return [" ".join(filter(None, column_titles)) for column_titles in titles]


def _cell_text(section: PageSection, cell: PageCell) -> str:
    """Return a cell with the numbers of its notes."""
    text = escape_markdown(cell.text)
    if cell.is_bold:
        text = f"**{text}**"
    numbers = [str(section.note_numbers[n]) for n in cell.note_numbers if n in section.note_numbers]
    return f"{text} [{', '.join(numbers)}]" if numbers else text


def _comparison_part(section: PageSection, n_differences: int | None) -> str:
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


def _other_parts(page: ReportPage, further_sections: Sequence[PageSection]) -> Iterator[str]:
    """Yield one line for each other table that the runs fill, and the runs that fill none."""
    lines = [f"- {escape_markdown(section.title)}: left out here" for section in further_sections]
    lines += [
        "- "
        + escape_markdown(
            f"{other.name}. {other.title}: runs in {other.n_rows} of {other.n_all_rows} rows"
        )
        + f" (`--table {other.option}`)"
        for other in page.other_tables
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


def _run_line(run: ReportedRun) -> str:
    """Return what a run is: checkpoint, settings, and the evaluators of its results."""
    evaluators = (
        ", ".join(f"{stored_result.result.evaluator}" for stored_result in run.results)
        or "not evaluated"
    )
    if run.plan is None:
        return f"- {escape_markdown(f'{run.id}: without a plan; {evaluators}')}"
    checkpoint = run.plan.checkpoint
    settings = run.plan.settings
    return "- " + escape_markdown(
        f"{run.id}: {checkpoint.name} ({checkpoint.encoding} on {checkpoint.backbone},"
        f" {checkpoint.weights_text}), {settings.resolution} px, {settings.sampling_text}, seed"
        f" {settings.seed}; {evaluators}"
    )


def _folded_part(title: str, lines: Iterable[str]) -> str:
    """Return lines that GitHub shows after a click on their title."""
    body = "\n".join(lines)
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"
