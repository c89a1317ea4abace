"""Results times table: the cells of a leaderboard, with what may and may not be said of each."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
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
    Matches,
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
    """What may be concluded from measured minus published.

    reason: why no more can be concluded, or on what evidence.
    """

    word: PaperWord
    reason: str | None = None

    def __str__(self) -> str:
        """Return the word, and the reason in brackets."""
        return f"{self.word} ({self.reason})" if self.reason else self.word


@dataclass(frozen=True)
class MeasurementSource:
    """Which result a measured number was read from."""

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
    """One cell. `published` is the printed string (None: the paper prints a dash), `half_unit` its
    rounding error.

    `delta` is measured minus published; `verdict` says what may be concluded from it; `above` is by
    how many percent, cut after one
    decimal, the measured number is above its baseline's, where the column prints that; `flags` are
    ids of the paper's
    flags; `marks` are numbers of the board's notes that belong here.
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
    """A table with its cells by (row id, column key), its notes, and what was compared."""

    table: Table
    show: Show
    scale: Scale | None
    cells: dict[tuple[str, str], Cell]
    notes: tuple[Note, ...]
    table_note_numbers: tuple[int, ...]
    measured_title: str
    measured_column_titles: dict[str, str]
    comparisons: tuple[RowComparison, ...]

    @property
    def n_measured(self) -> int:
        """How many cells hold a measured number."""
        return sum(cell.measured is not None for cell in self.cells.values())


def build_boards(
    tables: Sequence[Table],
    found: Sequence[StoredResult],
    show: Show = "both",
    scale: Scale | None = None,
    entries: Entries = NO_ENTRIES,
) -> list[Board]:
    """Return the boards of several tables with the rows that a user enters; each names the runs
    that fit no row of any.

    Raises:
        UnknownName: a run or a row that is not there. OptionError: runs that fit no cell, or
            several that fit one.
    """
    check_entries(tables, found, entries, SCALES if scale is None else (scale,))
    note = unmatched_runs_note(tables, found, entries) if found and show != "published" else None
    return [
        build_board(table, found, show, scale, entries, [note] if note else []) for table in tables
    ]


def build_board(
    table: Table,
    found: Sequence[StoredResult],
    show: Show = "both",
    scale: Scale | None = None,
    entries: Entries = NO_ENTRIES,
    more_notes: Sequence[str] = (),
) -> Board:
    """The board of a table. Without `scale`, paper-scale results are shown if there are any, else
    micro.

    Published and measured numbers stand side by side and are never ranked together.

    Args:
        entries: rows that a user enters; a name that no cell of this table takes changes nothing
            here. more_notes: further
            notes on the measured numbers as a whole.
    """
    wanted = show != "published"
    used = scale or _default_scale(table, found, entries) if wanted else None
    table = add_entries(table, found, used, entries) if used else table
    picks = match_measurements(table, found, used) if used else {}
    open_cells = _undecided_notes(table, found, used) if used else {}
    notes = Notes(table.flags if show != "measured" else ())
    remarks = _collect_cell_notes(table, picks) | open_cells
    best = best_cells(table, picks)
    cells = {}
    for row in table.rows:
        for column in table.columns:
            key = (row.id, column.key)
            base = table.baseline_row(row, used) if used else None
            against = picks.get((base.id, column.key)) if base else None
            cells[key] = _make_cell(
                table,
                row,
                column,
                picks.get(key),
                against,
                notes,
                remarks.get(key, []),
                key in best,
            )
    if wanted:
        notes.general(general_notes(table, found, used, picks))
        notes.general([*entry_notes(table), *more_notes])
        if (
            used == "paper"
            # readings are of the paper's networks; a micro run has no LoRA, no SD3 table, no 2,048
            # pixels
        ):
            notes.general(
                f"The paper does not say; our runs: {reading}"
                for reading in table.readings
                if picks
            )
    compared = [item for item in compare_rows(table, found) if item.scale == used] if wanted else []
    return Board(
        table,
        show,
        used,
        cells,
        tuple(notes.all),
        notes.of_table(table),
        _measured_title(table, picks, used),
        {
            column.key: _measured_column_title(
                column, [p for (_, key), p in picks.items() if key == column.key]
            )
            for column in table.columns
        },
        tuple(compared),
    )


def _default_scale(table: Table, found: Sequence[StoredResult], entries: Entries) -> Scale | None:
    """Return the scale that most of the entered rows have numbers of; of equals paper before micro;
    None without a number.
    """
    entered = {scale: add_entries(table, found, scale, entries) for scale in SCALES}
    measured = [
        scale
        for scale in SCALES
        if match_measurements(entered[scale], found, scale)
        or undecided_cells(entered[scale], found, scale)
    ]
    return max(
        measured,
        key=lambda scale: len(
            {row.run_name for row in entered[scale].rows if isinstance(row, EntryRow)}
        ),
        default=None,
    )


def _undecided_notes(
    table: Table, found: Sequence[StoredResult], scale: Scale
) -> dict[tuple[str, str], list[str]]:
    """Return the remark on each cell that runs of several checkpoints fit."""
    return {
        (row_id, key): [
            f"undecided: runs of {len(names)} checkpoints fit {table.find_row(row_id).printed}"
            f" ({', '.join(names)}); --row {row_id}=NAME decides, --add NAME gives one a row"
        ]
        for (row_id, key), names in undecided_cells(table, found, scale).items()
    }


def _make_cell(
    table: Table,
    row: Row,
    column: Column,
    picked: MatchedMeasurement | None,
    base: MatchedMeasurement | None,
    notes: Notes,
    cell_notes: list[str],
    best: bool,
) -> Cell:
    printed = row.published.get(column.key)
    flags = notes.of_cell(table, row, column)
    facts = {
        "published": printed,
        "half_unit": None if printed is None else str(half_unit(printed)),
        "flags": tuple(flag.id for flag in flags),
        "best_published": table.is_best(row, column),
    }
    marks = [notes.mark(flag) for flag in flags]
    if picked is None:
        status = "undecided" if cell_notes else "not run"
        return Cell(
            **facts,
            status=status,
            note="; ".join(cell_notes) or None,
            note_numbers=(*marks, *map(notes.add, cell_notes)),
        )  # type: ignore[arg-type]
    measured = picked.measurement
    if measured.value is None:
        cell_notes = [f"no value: {measured.reason}", *cell_notes]
    delta, verdict = _compare_with_paper(table, column, printed, picked)
    above = _percent_above_baseline(table, row, column, picked, base)
    if (
        printed
        and above is not None
        and (said := PERCENT_PATTERN.search(printed))
        and said[1] != f"{above:.1f}"
    ):
        cell_notes = [
            *cell_notes,
            f"The percentage of {column.printed} comes out as +{above:.1f}%, printed +{said[1]}%.",
        ]
    return Cell(
        **facts,  # type: ignore[arg-type]
        status="measured" if measured.value is not None else "no value",
        measured=measured.value,
        se=measured.se,
        low=measured.low,
        high=measured.high,
        delta=delta,
        verdict=verdict,
        note="; ".join(cell_notes) or None,
        n_scored=measured.n_scored,
        scale=picked.stored_result.result.scale,
        measurement_name=measured.name,
        percent_above_baseline=above,
        is_best_measured=best,
        note_numbers=(*marks, *map(notes.add, cell_notes)),
        source=_measurement_source(picked),
    )


def _measurement_source(picked: MatchedMeasurement) -> MeasurementSource:
    result = picked.stored_result.result
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
    table: Table, column: Column, printed: str | None, picked: MatchedMeasurement
) -> tuple[float | None, PaperVerdict | None]:
    """Measured minus published, and what may be said of it.

    The printed number came without an error: it is taken to have the measured one's (evidence L0),
    and the
    half unit lost in printing is granted to it first.
    """
    value = picked.measurement.value
    if printed is None or value is None:
        return None, None
    delta = value - float(leading_number(printed))
    if column.of == "network":
        return delta, _count_verdict(picked, delta, printed)
    if reason := incomparability_reason(table, column, picked):
        return delta, PaperVerdict("not comparable", reason)
    if not picked.measurement.se:
        return delta, PaperVerdict("not resolved", "no standard error")
    beyond = max(0.0, abs(delta) - float(half_unit(printed)))
    p = significance.two_sided_p(beyond / (math.sqrt(2) * picked.measurement.se))
    word = significance.verdict(column.direction, delta, p)
    return delta, PaperVerdict(word, "L0: the printed number's error is assumed")


def _count_verdict(picked: MatchedMeasurement, delta: float, printed: str) -> PaperVerdict:
    """A count is exact: it rounds to the printed digits or it does not."""
    if picked.stored_result.result.scale == "micro":
        return PaperVerdict("not comparable", "micro")
    is_rounding = abs(delta) <= float(half_unit(printed)) * (1 + 1e-9)
    if is_rounding:
        return PaperVerdict("as printed")
    return PaperVerdict("differs", "more than rounding")


def _percent_above_baseline(
    table: Table,
    row: Row,
    column: Column,
    picked: MatchedMeasurement,
    base: MatchedMeasurement | None,
) -> float | None:
    """By how many percent a measured number is above its baseline's, cut after one decimal."""
    if (
        not column.percent
        or base is None
        or not base.measurement.value
        or picked.measurement.value is None
    ):
        return None
    return math.floor((picked.measurement.value / base.measurement.value - 1) * 1000 + 1e-9) / 10


def _collect_cell_notes(table: Table, picks: Matches) -> dict[tuple[str, str], list[str]]:
    """What a reader must know of single cells: other results left out, images that failed, another
    footing.
    """
    remarks: dict[tuple[str, str], list[str]] = {key: [] for key in picks}
    for key, picked in picks.items():
        m = picked.measurement
        remarks[key] += rule_notes(picked)
        if picked.plan and (scaling := picked.plan.settings.pos_scaling) not in (None, "none"):
            remarks[key].append(
                f"drawn with position scaling {scaling}, which the paper does not name"
            )
        if picked.n_other_matches and table.find_column(key[1]).of == "images":
            remarks[key].append(
                f"{picked.n_other_matches + 1} results fit {table.find_row(key[0]).printed}; shown"
                " is, of those as trained if there are any, the one over the most images"
                f" ({m.n_scored:,})"
            )
        if m.n_scored != m.n_asked and table.find_column(key[1]).of == "images":
            remarks[key].append(
                f"{m.n_scored:,} of {m.n_asked:,} images scored, {m.n_failed} failed,"
                f" {m.n_abstained} abstained"
            )
    for ranked in ranked_blocks(table, picks).values():
        for key, differs in ranked.aside.items():
            remarks[key].append(f"not ranked with the others: {differs}")
    return remarks


def _measured_title(table: Table, picks: Matches, scale: Scale | None) -> str:
    if not picks:
        return "measured (not run)"
    drawn = [picked for (_, key), picked in picks.items() if table.find_column(key).of == "images"]
    if not drawn:
        return f"recomputed ({scale}, from the network's shapes)"
    suites = sorted({str(picked.stored_result.result.suite_name) for picked in drawn})
    counts = sorted({picked.measurement.n_scored for picked in drawn})
    images = (
        f"{counts[0]:,} images" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,} images"
    )
    return (
        f"measured ({scale}, {', '.join(suites)}, {images},"
        f" {profiles_and_references(table, picks)[0]})"
    )


def _measured_column_title(column: Column, matches: list[MatchedMeasurement]) -> str:
    """The column's honest name: FID-500 where 500 images were scored, FID-N where cells differ."""
    names = sorted({p.measurement.name for p in matches})
    base = re.sub(r"-\d+K?$", "", column.printed)
    if column.of == "network":
        return column.printed
    if not names:
        return base
    ends = {name.removeprefix(column.metric_name).lstrip("-").upper() for name in names}
    if len(ends) > 1:
        return f"{base}-N"
    end = ends.pop()
    return f"{base}-{end}" if end else base
