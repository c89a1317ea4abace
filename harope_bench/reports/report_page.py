"""The report: one offline HTML file. Equal records give equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harope_bench import __version__
from harope_bench.core.errors import StorageError
from harope_bench.core.storage import check_overwrite, write_text
from harope_bench.data.result_paths import run_folder_of
from harope_bench.data.result_store import StoredResult
from harope_bench.leaderboards.board import CHECKPOINT_EVIDENCE, build_board
from harope_bench.leaderboards.entries import NO_ENTRIES, Entries, unmatched_runs_note
from harope_bench.leaderboards.match_runs import match_measurements
from harope_bench.reports.chart_files import read_figures
from harope_bench.reports.gallery import build_gallery
from harope_bench.reports.gallery_records import Gallery, GalleryOptions
from harope_bench.reports.page_charts import (
    PageChart,
    build_charts,
    report_context,
    run_styles,
)
from harope_bench.reports.page_notes import PageNote, PageNotes
from harope_bench.reports.page_runs import RunList, describe_runs, link_runs
from harope_bench.reports.page_sections import (
    PageSection,
    TableSection,
    build_run_section,
    build_table_section,
)
from harope_bench.reports.page_tables import OtherTable, choose_tables
from harope_bench.reports.page_verdict import join_words
from harope_bench.reports.run_card import (
    ReportCheck,
    RunCard,
    build_cards,
    collect_checks,
    time_range,
)
from harope_bench.reports.run_comparison import compare_run_set
from harope_bench.reports.run_names import unique_run_names
from harope_bench.reports.runs import ReportedRun, read_runs
from harope_bench.reports.tables import template_environment

# a file with this line may be overwritten by a later report
PAGE_MARKER = '<p class="kicker">harope-bench report</p>'


@dataclass(frozen=True)
class ReportPage:
    """The data of the page. The first of the sections is on the first screen."""

    question: str
    version: str
    evidence: str
    runs: tuple[ReportedRun, ...]
    n_results: int
    time_range: tuple[str, str] | None
    sections: tuple[TableSection, ...]
    run_section: PageSection | None
    other_tables: tuple[OtherTable, ...]
    unmatched_runs_note: str | None
    run_list: RunList
    gallery: Gallery
    charts: tuple[PageChart, ...]
    cards: tuple[RunCard, ...]
    checks: tuple[ReportCheck, ...]
    notes: tuple[PageNote, ...]

    @property
    def first_section(self) -> PageSection | None:
        """Return the section of the first screen; None where nothing was measured."""
        return self.shown_sections[0] if self.shown_sections else None

    @property
    def shown_sections(self) -> tuple[PageSection, ...]:
        """Return the tables, or the runs side by side where no table fits."""
        if self.sections:
            return self.sections
        return (self.run_section,) if self.run_section else ()


def write_report(
    runs: Path,
    out: Path,
    entries: Entries = NO_ENTRIES,
    tables: Sequence[str] = (),
    gallery_options: GalleryOptions | None = None,
) -> Path:
    """Write the report of all runs under a folder and return its path.

    Args:
        entries: rows that the user adds to the tables.
        tables: names of the tables that were asked for, the first one for the first screen. By
            default it is the table that most runs fill, or a comparison of the runs if none fits.
        gallery_options: how images are shown, and where full-size ones are written.

    Raises:
        StorageError: the folder has no run, a file of a run is invalid (the message names it), or
            `out` exists and is not a report.
        UnknownNameError, OptionError: an entry fits no run or no table, or there is no such table.
    """
    check_overwrite(out, PAGE_MARKER, "report")
    page = build_report_page(runs, entries, tables, gallery_options)
    template = template_environment().get_template("report.html")
    write_text(out, template.render(page=page, page_marker=PAGE_MARKER))
    return out


def build_report_page(
    runs: Path,
    entries: Entries = NO_ENTRIES,
    tables: Sequence[str] = (),
    gallery_options: GalleryOptions | None = None,
) -> ReportPage:
    """Return the data of the page. Arguments and errors are those of write_report."""
    reported_runs = read_runs(runs)
    if not reported_runs:
        raise StorageError(
            f"{runs} has no run (a folder with plan.json or results/); `harope-bench eval` or"
            " `reproduce` writes one"
        )
    results = [stored_result for run in reported_runs for stored_result in run.results]

    # the tables, and the runs side by side where no table fits
    choice = choose_tables(results, entries, tables)
    links = link_runs(reported_runs)
    notes = PageNotes()
    styles = report_context(reported_runs).styles
    sections = tuple(
        build_table_section(
            build_board(table, results, "both", scale, entries), results, links, notes, styles
        )
        for table, scale in choice.shown_tables
    )
    reported_runs = _sort_by_table(reported_runs, sections, results)
    run_set = None if sections else compare_run_set(reported_runs)
    run_section = build_run_section(run_set, links, run_styles(reported_runs)) if run_set else None
    if run_set:
        reported_runs.sort(key=run_set.position)

    unmatched_note = None
    if choice.filled_tables:
        unmatched_note = unmatched_runs_note(choice.filled_tables, results, entries)
    return ReportPage(
        question=_page_question(sections, run_section),
        version=__version__,
        evidence=CHECKPOINT_EVIDENCE,
        runs=tuple(reported_runs),
        n_results=len(results),
        time_range=time_range(reported_runs),
        sections=sections,
        run_section=run_section,
        other_tables=choice.other_tables,
        unmatched_runs_note=unmatched_note,
        run_list=describe_runs(
            reported_runs,
            links,
            [
                path
                for section in (*sections, run_section)
                if section
                for path in section.result_paths
            ],
        ),
        gallery=build_gallery(reported_runs, gallery_options),
        charts=build_charts(
            reported_runs,
            [section.board for section in sections if section.board],
            read_figures(runs),
            unique_run_names(reported_runs),
        ),
        cards=tuple(build_cards(reported_runs)),
        checks=tuple(collect_checks(reported_runs)),
        notes=notes.page_notes(),
    )


def _page_question(sections: Sequence[TableSection], run_section: PageSection | None) -> str:
    """Return what was asked: the question of the table, of several tables, or of the runs."""
    names = list(dict.fromkeys(section.name for section in sections))
    if len(names) == 1:
        return sections[0].question
    if names:
        numbers = [name.removeprefix("Table ") for name in names]
        if all(number.isdigit() for number in numbers):
            return f"What does the positional encoding change in Tables {join_words(numbers)}?"
        return f"What does the positional encoding change in {join_words(names)}?"
    return run_section.question if run_section else "What was generated in these runs?"


def _sort_by_table(
    runs: Sequence[ReportedRun], sections: Sequence[TableSection], results: Sequence[StoredResult]
) -> list[ReportedRun]:
    """Return the runs in the order of the tables' rows, the others after them by path."""
    order: dict[Path, int] = {}
    for section in sections:
        if section.scale is None:
            continue
        for match in match_measurements(section.board.table, results, section.scale).values():
            order.setdefault(run_folder_of(match.stored_result.path), len(order))
    return sorted(runs, key=lambda run: order.get(run.folder, len(order)))
