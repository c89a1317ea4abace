"""A board: the cells of a published table with the measured numbers that match them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from harope_bench.core.storage import sha256_bytes
from harope_bench.data.result_store import StoredResult
from harope_bench.leaderboards.best_cells import best_cells, ranked_blocks
from harope_bench.leaderboards.comparability import (
    general_notes,
    incomparability_reason,
    profiles_and_references,
    rule_notes,
)
from harope_bench.leaderboards.comparisons import CHECKPOINT_EVIDENCE, RowComparison, compare_rows
from harope_bench.leaderboards.entries import (
    NO_ENTRIES,
    Entries,
    add_entries,
    check_entries,
    entry_notes,
    unmatched_runs_note,
)
from harope_bench.leaderboards.match_runs import (
    SCALES,
    MatchedMeasurement,
    MatchesByCell,
    Scale,
    match_measurements,
    undecided_cells,
)
from harope_bench.leaderboards.notes import Note, Notes
from harope_bench.leaderboards.table_spec import (
    PERCENT_PATTERN,
    Column,
    EntryRow,
    Row,
    Table,
    half_unit,
    leading_number,
    load_table,
)
from harope_bench.statistics import significance
from harope_bench.statistics.significance import Verdict

__all__ = [
    "CHECKPOINT_EVIDENCE",
    "Board",
    "Cell",
    "Note",
    "PaperVerdict",
    "RowComparison",
    "build_board",
    "build_boards",
    "compare_rows",
    "load_table",
]

PaperWord = Verdict | Literal["as printed", "differs"]
Show = Literal["published", "measured", "both"]
Status = Literal["measured", "no value", "not run", "undecided"]


class PaperVerdict(NamedTuple):
    """What can be concluded from measured minus published.

    reason: why no more can be concluded, or the evidence for the verdict.
    """

    word: PaperWord
    reason: str | None = None

    def __str__(self) -> str:
        """Return the verdict with its reason in brackets."""
        return f"{self.word} ({self.reason})" if self.reason else self.word


@dataclass(frozen=True)
class MeasurementSource:
    """The result that a measured number was read from."""

    result_sha256: str
    plan_digest: str | None
    samples_sha256: str
    reference: str
    reference_sha256: str
    judge: str
    judge_class: str
    evaluator: str
    profile: str


@dataclass(frozen=True)
class Cell:
    """One cell of a board.

    published: the printed string, None where the paper prints a dash.
    half_unit: largest rounding error of the printed number.
    measured, se, low, high: the measured number, its standard error and 95% interval.
    delta: measured minus published. verdict: what can be concluded from it.
    flags: ids of the paper's flags on this cell.
    percent_above_baseline: percent by which the measured number exceeds its baseline's,
        truncated to one decimal, in columns that print it.
    note_numbers: numbers of the board's notes that belong to this cell.
    """

    published: str | None = None
    half_unit: str | None = None
    status: Status = "not run"
    measured: float | None = None
    se: float | None = None
    low: float | None = None
    high: float | None = None
    delta: float | None = None
    verdict: PaperVerdict | None = None
    flags: tuple[str, ...] = ()
    note: str | None = None
    n_scored: int | None = None
    scale: Scale | None = None
    measurement_name: str | None = None
    percent_above_baseline: float | None = None
    is_best_published: bool = False
    is_best_measured: bool = False
    note_numbers: tuple[int, ...] = ()
    source: MeasurementSource | None = None


@dataclass(frozen=True)
class Board:
    """A table with its cells by (row id, column key), its notes and its comparisons.

    ranked_blocks: the measured cells of each block that may be ranked with each other.
    """

    table: Table
    show: Show
    scale: Scale | None
    cells: dict[tuple[str, str], Cell]
    notes: tuple[Note, ...]
    table_note_numbers: tuple[int, ...]
    measured_title: str
    measured_column_titles: dict[str, str]
    comparisons: tuple[RowComparison, ...]
    ranked_blocks: tuple[tuple[tuple[str, str], ...], ...] = ()

    @property
    def n_measured(self) -> int:
        """Return how many cells have a measured number."""
        return sum(cell.measured is not None for cell in self.cells.values())


def build_boards(
    tables: Sequence[Table],
    results: Sequence[StoredResult],
    show: Show = "both",
    scale: Scale | None = None,
    entries: Entries = NO_ENTRIES,
) -> list[Board]:
    """Return the boards of several tables, with the rows that the user adds.

    Each board has a note on the runs that fit no row of any of the tables. `scale` is micro or
    paper; None builds both.

    Raises:
        UnknownNameError: an entry names a run or a row that does not exist.
        OptionError: the runs of an entry fit no cell, or several different runs fit one cell.
    """
    check_entries(tables, results, entries, SCALES if scale is None else (scale,))
    note = (
        unmatched_runs_note(tables, results, entries) if results and show != "published" else None
    )
    return [
        build_board(table, results, show, scale, entries, [note] if note else [])
        for table in tables
    ]


def build_board(
    table: Table,
    results: Sequence[StoredResult],
    show: Show = "both",
    scale: Scale | None = None,
    entries: Entries = NO_ENTRIES,
    more_notes: Sequence[str] = (),
) -> Board:
    """Return the board of a table.

    Published and measured numbers are shown side by side and are never ranked together.

    Args:
        scale: scale of the measured numbers; None takes paper scale if there are results, else
            micro.
        entries: rows that the user adds. An entry that fits no cell of this table is ignored.
        more_notes: further notes on the measured numbers.
    """
    # match the runs to the cells
    shows_measured = show != "published"
    used_scale = None
    matches: MatchesByCell = {}
    undecided_notes: dict[tuple[str, str], list[str]] = {}
    if shows_measured:
        used_scale = scale or _default_scale(table, results, entries)
    if used_scale:
        table = add_entries(table, results, used_scale, entries)
        matches = match_measurements(table, results, used_scale)
        undecided_notes = _undecided_notes(table, results, used_scale)

    # fill the cells; notes are numbered in the order of the cells
    notes = Notes(table.flags if show != "measured" else ())
    notes_by_cell = _collect_cell_notes(table, matches) | undecided_notes
    best_keys = best_cells(table, matches)
    cells = {}
    for row in table.rows:
        baseline = table.baseline_row(row, used_scale) if used_scale else None
        for column in table.columns:
            key = (row.id, column.key)
            cells[key] = _make_cell(
                table,
                row,
                column,
                matches.get(key),
                matches.get((baseline.id, column.key)) if baseline else None,
                notes,
                notes_by_cell.get(key, []),
                key in best_keys,
            )

    # notes on the board as a whole, and differences between its rows
    comparisons: list[RowComparison] = []
    if shows_measured:
        notes.add_general_notes(general_notes(table, results, used_scale, matches))
        notes.add_general_notes([*entry_notes(table), *more_notes])
        notes.add_general_notes(_assumption_notes(table, used_scale, matches))
        comparisons = [
            comparison
            for comparison in compare_rows(table, results)
            if comparison.scale == used_scale
        ]
    return Board(
        table,
        show,
        used_scale,
        cells,
        tuple(notes.notes),
        notes.table_note_numbers(table),
        _measured_title(table, matches, used_scale),
        _measured_column_titles(table, matches),
        tuple(comparisons),
        tuple(tuple(block.comparable_cells) for block in ranked_blocks(table, matches).values()),
    )


def _assumption_notes(table: Table, scale: Scale | None, matches: MatchesByCell) -> list[str]:
    """Return a note for each assumption of the table, none at micro scale or without runs.

    The assumptions concern the paper's networks: LoRA, SD3 or 2,048 pixels have no micro run.
    """
    if scale != "paper" or not matches:
        return []
    return [
        f"The paper does not state this. In runs of harope-bench: {text}"
        for text in table.assumptions
    ]


def _default_scale(table: Table, results: Sequence[StoredResult], entries: Entries) -> Scale | None:
    """Return the scale at which most of the user's rows have numbers, None without any number.

    Paper scale wins a tie.
    """
    extended_tables = {scale: add_entries(table, results, scale, entries) for scale in SCALES}
    measured_scales = [
        scale
        for scale in SCALES
        if match_measurements(extended_tables[scale], results, scale)
        or undecided_cells(extended_tables[scale], results, scale)
    ]

    # SCALES has paper first, and max keeps the first of equals
    def count_entered_runs(scale: Scale) -> int:
        rows = extended_tables[scale].rows
        return len({row.run_name for row in rows if isinstance(row, EntryRow)})

    return max(measured_scales, key=count_entered_runs, default=None)


def _undecided_notes(
    table: Table, results: Sequence[StoredResult], scale: Scale
) -> dict[tuple[str, str], list[str]]:
    """Return a note for each cell that runs of several checkpoints could fill.

    Args:
        scale: micro scale or paper scale.

    Returns:
        A list of one note by row id and column key.
    """
    return {
        (row_id, column_key): [
            f"undecided: runs of {len(names)} checkpoints fit {table.find_row(row_id).title}"
            f" ({', '.join(names)}); --row {row_id}=NAME decides, --add NAME adds a row for one"
        ]
        for (row_id, column_key), names in undecided_cells(table, results, scale).items()
    }


def _make_cell(
    table: Table,
    row: Row,
    column: Column,
    match: MatchedMeasurement | None,
    baseline_match: MatchedMeasurement | None,
    notes: Notes,
    cell_notes: list[str],
    is_best_measured: bool,
) -> Cell:
    """Return one cell; its notes are added to the board's notes.

    Args:
        match: the measurement of the cell, None where no run fits.
        baseline_match: the measurement of the row's baseline in this column.
    """
    published_text = row.published.get(column.key)
    flags = notes.cell_flags(table, row, column)
    published_cell = Cell(
        published=published_text,
        half_unit=None if published_text is None else str(half_unit(published_text)),
        flags=tuple(flag.id for flag in flags),
        is_best_published=table.is_best(row, column),
    )
    flag_numbers = [notes.flag_number(flag) for flag in flags]

    if match is None:
        return replace(
            published_cell,
            status="undecided" if cell_notes else "not run",
            note="; ".join(cell_notes) or None,
            note_numbers=(*flag_numbers, *map(notes.add_note, cell_notes)),
        )

    measurement = match.measurement
    if measurement.value is None:
        cell_notes = [f"no value: {measurement.reason}", *cell_notes]
    delta, verdict = _compare_with_paper(table, column, published_text, match)
    percent_above = _percent_above_baseline(column, match, baseline_match)
    cell_notes = [*cell_notes, *_percentage_notes(column, published_text, percent_above)]
    return replace(
        published_cell,
        status="measured" if measurement.value is not None else "no value",
        measured=measurement.value,
        se=measurement.se,
        low=measurement.low,
        high=measurement.high,
        delta=delta,
        verdict=verdict,
        note="; ".join(cell_notes) or None,
        n_scored=measurement.n_scored,
        scale=match.stored_result.result.scale,
        measurement_name=measurement.name,
        percent_above_baseline=percent_above,
        is_best_measured=is_best_measured,
        note_numbers=(*flag_numbers, *map(notes.add_note, cell_notes)),
        source=_measurement_source(match),
    )


def _percentage_notes(
    column: Column, published_text: str | None, percent_above: float | None
) -> list[str]:
    """Return a note if the printed percentage is not the measured one, else an empty list."""
    printed_percentage = PERCENT_PATTERN.search(published_text or "")
    if printed_percentage is None or percent_above is None:
        return []
    if printed_percentage[1] == f"{percent_above:.1f}":
        return []
    return [
        f"The percentage of {column.title} is computed as +{percent_above:.1f}%; the paper prints"
        f" +{printed_percentage[1]}%."
    ]


def _measurement_source(match: MatchedMeasurement) -> MeasurementSource:
    """Return where the measurement of a cell was read from."""
    result = match.stored_result.result
    return MeasurementSource(
        sha256_bytes(result.to_json().encode()),
        result.plan_digest,
        result.samples_sha256,
        result.reference,
        result.reference_sha256,
        f"{result.judge.name}@{result.judge.version} {result.judge.weights_sha256[:12]}",
        result.judge.judge_class,
        f"{result.evaluator}@{result.version}",
        result.profile,
    )


def _compare_with_paper(
    table: Table, column: Column, published_text: str | None, match: MatchedMeasurement
) -> tuple[float | None, PaperVerdict | None]:
    """Return measured minus published and the verdict on it, None and None without two numbers.

    The paper prints no standard error, so the published number is assumed to have the measured
    one's (evidence L0). The rounding error of the printed number is subtracted first.
    """
    value = match.measurement.value
    if published_text is None or value is None:
        return None, None
    delta = value - float(leading_number(published_text))
    if column.measured_on == "network":
        return delta, _count_verdict(match, delta, published_text)
    if reason := incomparability_reason(table, column, match):
        return delta, PaperVerdict("not comparable", reason)
    if not match.measurement.se:
        return delta, PaperVerdict("not resolved", "no standard error")

    # z = (|delta| - half unit) / SE(difference), with SE(difference) = sqrt(2) SE(measured)
    difference_beyond_rounding = max(0.0, abs(delta) - float(half_unit(published_text)))
    p = significance.two_sided_p(difference_beyond_rounding / (math.sqrt(2) * match.measurement.se))
    word = significance.verdict(column.direction, delta, p)
    return delta, PaperVerdict(word, "L0: the printed number's error is assumed")


def _count_verdict(match: MatchedMeasurement, delta: float, published_text: str) -> PaperVerdict:
    """Return the verdict on an exact count: it rounds to the printed digits or it differs."""
    if match.stored_result.result.scale == "micro":
        return PaperVerdict("not comparable", "micro")
    # the factor allows for a count exactly between two printed values
    if abs(delta) <= float(half_unit(published_text)) * (1 + 1e-9):
        return PaperVerdict("as printed")
    return PaperVerdict("differs", "more than rounding")


def _percent_above_baseline(
    column: Column, match: MatchedMeasurement, baseline_match: MatchedMeasurement | None
) -> float | None:
    """Return by how many percent a number exceeds its baseline's, truncated to one decimal.

    None if the column prints no percentage or a number is missing.
    """
    if not column.has_percentage or baseline_match is None:
        return None
    value = match.measurement.value
    baseline_value = baseline_match.measurement.value
    if value is None or not baseline_value:
        return None
    return math.floor((value / baseline_value - 1) * 1000 + 1e-9) / 10


def _collect_cell_notes(table: Table, matches: MatchesByCell) -> dict[tuple[str, str], list[str]]:
    """Return the notes on each matched cell.

    They name judges and rules, other results, failed images, and why a cell is not ranked.
    """
    notes_by_cell = {
        (row_id, column_key): _match_notes(
            table.find_row(row_id), table.find_column(column_key), match
        )
        for (row_id, column_key), match in matches.items()
    }
    for block in ranked_blocks(table, matches).values():
        for key, reason in block.exclusion_reasons.items():
            notes_by_cell[key].append(f"not ranked with the others: {reason}")
    return notes_by_cell


def _match_notes(row: Row, column: Column, match: MatchedMeasurement) -> list[str]:
    """Return the notes on one matched measurement."""
    measurement = match.measurement
    notes = rule_notes(match)
    if match.plan and match.plan.settings.pos_scaling not in (None, "none"):
        notes.append(
            f"generated with position scaling {match.plan.settings.pos_scaling}, which the paper"
            " does not name"
        )
    if column.measured_on == "images" and match.n_other_matches:
        notes.append(
            f"{match.n_other_matches + 1} results fit {row.title}; the cell shows the one with the"
            f" most images ({measurement.n_scored:,}), without position scaling if there is one"
        )
    if column.measured_on == "images" and measurement.n_scored != measurement.n_asked:
        notes.append(
            f"{measurement.n_scored:,} of {measurement.n_asked:,} images scored,"
            f" {measurement.n_failed} failed, {measurement.n_abstained} abstained"
        )
    return notes


def _measured_title(table: Table, matches: MatchesByCell, scale: Scale | None) -> str:
    """Return the heading of the measured columns: scale, suites, number of images, profiles."""
    if not matches:
        return "measured (not run)"
    image_matches = [
        match
        for (_, key), match in matches.items()
        if table.find_column(key).measured_on == "images"
    ]
    if not image_matches:
        return f"recomputed ({scale}, from the network's shapes)"
    suites = sorted({str(match.stored_result.result.suite_name) for match in image_matches})
    counts = sorted({match.measurement.n_scored for match in image_matches})
    if len(counts) == 1:
        images = f"{counts[0]:,} images"
    else:
        images = f"{counts[0]:,} to {counts[-1]:,} images"
    return (
        f"measured ({scale}, {', '.join(suites)}, {images},"
        f" {profiles_and_references(table, matches)[0]})"
    )


def _measured_column_titles(table: Table, matches: MatchesByCell) -> dict[str, str]:
    """Return the title of each measured column by its key."""
    titles = {}
    for column in table.columns:
        names = {m.measurement.name for (_, key), m in matches.items() if key == column.key}
        titles[column.key] = _measured_column_title(column, names)
    return titles


def _measured_column_title(column: Column, measurement_names: set[str]) -> str:
    """Return FID-500 where 500 images were scored, FID-N where the cells' counts differ."""
    if column.measured_on == "network":
        return column.title

    # the printed title may end in the paper's own count, as in FID-50K
    base_title = re.sub(r"-\d+K?$", "", column.title)
    suffixes = {
        name.removeprefix(column.metric_name).lstrip("-").upper() for name in measurement_names
    }
    if not suffixes:
        return base_title
    if len(suffixes) > 1:
        return f"{base_title}-N"
    suffix = suffixes.pop()
    return f"{base_title}-{suffix}" if suffix else base_title
