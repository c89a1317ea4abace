"""The sections of a page: a table with its verdict, plot and differences, or runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harope_bench.data.result_store import StoredResult
from harope_bench.leaderboards.board import CHECKPOINT_EVIDENCE, Board
from harope_bench.leaderboards.match_runs import MatchesByCell, Scale, match_measurements
from harope_bench.reports.encoding_styles import EncodingStyle, EncodingStyles
from harope_bench.reports.page_board import PageTable, lay_out_page_table
from harope_bench.reports.page_charts import row_styles
from harope_bench.reports.page_comparisons import (
    ComparisonRow,
    ComparisonTexts,
    ForestPlot,
    board_comparison_texts,
    column_forest,
    compared_keys,
    comparison_rows,
    forest_plots,
    headline_key,
    row_forest,
)
from harope_bench.reports.page_notes import PageNotes, number_ranges
from harope_bench.reports.page_runs import RunLinks
from harope_bench.reports.page_verdict import (
    AnswerSentence,
    PageVerdict,
    missing_verdict,
    write_verdict,
)
from harope_bench.reports.run_comparison import (
    ComparedRunSet,
    count_omitted_metrics,
    lay_out_run_set,
    run_set_texts,
)
from harope_bench.reports.runs import ReportedRun
from harope_bench.reports.table_layout import DEFAULT_STYLE, board_title, cost_agreement
from harope_bench.reports.tables import board_anchor, render_table

COPY_FORMATS = (("LaTeX", "tex"), ("Markdown", "md"), ("CSV", "csv"), ("JSON", "json"))
MICRO_REMARK = (
    "Micro scale: small networks, small images and small judges. These numbers cannot be compared"
    " with those of the paper."
)


@dataclass(frozen=True, kw_only=True)
class PageSection:
    """A table of numbers with its verdict, plots and differences: a paper's table or runs.

    name: short name, for the list of contents. title: caption of the table.
    forest: the plot of the first screen. forests: one plot for each column.
    table_note_numbers: the board's numbers of the notes on the table as a whole.
    note_numbers: page numbers of the board's notes, by their numbers in the board.
    notes_text: page numbers of all notes of the table, as a text.
    n_omitted_metrics: metrics that the table leaves out, because they are many.
    omitted_runs: names of the runs that are not compared here: of other suites, or too many.
    result_paths: of the results that fill a cell.
    """

    name: str
    title: str
    question: str
    anchor: str
    table: PageTable
    verdict: PageVerdict
    remark: str
    forest: ForestPlot | None
    forests: tuple[ForestPlot, ...]
    comparisons: tuple[ComparisonRow, ...]
    baseline_text: str
    pairing_text: str
    result_paths: frozenset[Path]
    is_of_table: bool = False
    scale: Scale | None = None
    copy_texts: tuple[tuple[str, str], ...] = ()
    cost_agreement: str | None = None
    table_note_numbers: tuple[int, ...] = ()
    note_numbers: Mapping[int, int] = field(default_factory=dict)
    notes_text: str = ""
    n_omitted_metrics: int = 0
    omitted_runs: tuple[str, ...] = ()

    @property
    def n_tested(self) -> int:
        """Return how many differences have a p value."""
        return sum(line.is_tested for line in self.comparisons)

    @property
    def baselines_in_words(self) -> str:
        """Return the baseline; several ones are those of the blocks of rows."""
        n_baselines = len({line.baseline for line in self.comparisons})
        return self.baseline_text if n_baselines == 1 else "the baseline of each block"


@dataclass(frozen=True, kw_only=True)
class TableSection(PageSection):
    """A table of the paper, or of the user, with the measured numbers."""

    board: Board
    is_of_table: bool = True


def build_table_section(
    board: Board,
    results: Sequence[StoredResult],
    links: RunLinks,
    notes: PageNotes,
    styles: EncodingStyles,
) -> TableSection:
    """Return the section of a board. Its notes are added to those of the page."""
    matches = match_measurements(board.table, results, board.scale) if board.scale else {}
    texts = replace(board_comparison_texts(board), styles=row_styles(board, results, styles))
    anchor = board_anchor(board)
    key = headline_key(compared_keys(texts))
    agreement = cost_agreement(board)
    name = board.table.display_name
    note_numbers = notes.add_board(board)
    return TableSection(
        board=board,
        name=name,
        title=board_title(board),
        question=board.table.question or board.table.title,
        anchor=anchor,
        table=lay_out_page_table(
            board, matches, lambda row, column: _link(matches, links, row, column)
        ),
        verdict=_board_verdict(board, texts, agreement),
        remark=MICRO_REMARK if board.scale == "micro" else "",
        forest=column_forest(texts, key, f"{anchor}-first") if key else None,
        forests=forest_plots(texts, anchor),
        comparisons=comparison_rows(texts),
        baseline_text=", ".join(texts.baseline_labels),
        pairing_text=texts.pairing_text,
        result_paths=frozenset(match.stored_result.path for match in matches.values()),
        scale=board.scale,
        copy_texts=_copy_texts(board),
        cost_agreement=agreement,
        table_note_numbers=board.table_note_numbers,
        note_numbers=note_numbers,
        notes_text=number_ranges(notes.numbers_of(name)),
    )


def _copy_texts(board: Board) -> tuple[tuple[str, str], ...]:
    """Return the title and the text of each format that the page offers to copy.

    Differences of unlike scales say nothing, so tables at micro scale are copied without them.
    """
    style = replace(DEFAULT_STYLE, has_differences=board.scale != "micro")
    return tuple((title, render_table(board, suffix, style)) for title, suffix in COPY_FORMATS)


def _link(matches: MatchesByCell, links: RunLinks, row_id: str, key: str) -> str:
    """Return the id of the measurement in a cell, empty where there is none."""
    match = matches.get((row_id, key))
    return links.find(match.stored_result, match.measurement) if match else ""


def _board_verdict(board: Board, texts: ComparisonTexts, agreement: str | None) -> PageVerdict:
    """Return the verdict of a board: its comparisons, its costs, or why there are none."""
    if texts.comparisons:
        return write_verdict(texts)
    if agreement:
        certainty = AnswerSentence("How sure: counts of a network are exact and have no error.")
        return PageVerdict(AnswerSentence(agreement), certainty)
    if not board.n_measured:
        return missing_verdict("no result belongs to this table", f"Evidence {CHECKPOINT_EVIDENCE}")
    return missing_verdict(
        "the baseline or every other row of the table was not run",
        f"Evidence {CHECKPOINT_EVIDENCE}",
    )


def build_run_section(
    run_set: ComparedRunSet, links: RunLinks, styles: Mapping[str, EncodingStyle]
) -> PageSection:
    """Return the section that shows runs side by side."""
    texts = replace(run_set_texts(run_set), styles=styles)
    key = headline_key(compared_keys(texts))
    is_micro = any(
        stored_result.result.scale == "micro"
        for run in run_set.runs
        for stored_result in run.results
    )
    return PageSection(
        name="Runs side by side",
        title=", ".join(filter(None, (f"Runs on {run_set.suite}", run_set.setting_text))),
        question=run_set.question,
        anchor="runs-side-by-side",
        table=lay_out_run_set(run_set, texts, links),
        verdict=_run_verdict(run_set, texts),
        remark=MICRO_REMARK if is_micro else "",
        forest=_run_forest(run_set.runs, texts, key),
        forests=forest_plots(texts, "runs") if len(run_set.runs) > 2 else (),
        comparisons=comparison_rows(texts),
        baseline_text=", ".join(texts.baseline_labels),
        pairing_text=texts.pairing_text,
        result_paths=frozenset(
            stored_result.path for run in run_set.runs for stored_result in run.results
        ),
        n_omitted_metrics=count_omitted_metrics(run_set),
        omitted_runs=run_set.omitted_names,
    )


def _run_forest(
    runs: Sequence[ReportedRun], texts: ComparisonTexts, key: str | None
) -> ForestPlot | None:
    """Return one plot: the metrics of one unit for two runs, one metric for several."""
    if key is None:
        return None
    if len(runs) == 2:
        return row_forest(texts, runs[1].id, key, "runs-first")
    return column_forest(texts, key, "runs-first")


def _run_verdict(run_set: ComparedRunSet, texts: ComparisonTexts) -> PageVerdict:
    """Return the verdict on runs side by side, or why there is none."""
    if texts.comparisons:
        return write_verdict(texts)
    reason = "there is one run" if len(run_set.runs) == 1 else "the runs have no number in common"
    if run_set.failure_reasons:
        reason = run_set.failure_reasons[0]
    return missing_verdict(reason, f"Evidence {CHECKPOINT_EVIDENCE}")
