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
from harope_bench.leaderboards.comparability import general, incomparable, named, of_rules
from harope_bench.leaderboards.comparisons import EVIDENCE, Comparison, comparisons
from harope_bench.leaderboards.entries import NO_ENTRIES, Entries, check_entries, enter, notes_of, unplaced_note
from harope_bench.leaderboards.match_runs import SCALES, Picked, Picks, Scale, pick, undecided
from harope_bench.leaderboards.notes import Note, Notes
from harope_bench.leaderboards.table_spec import PERCENT, Column, EntryRow, Row, Table, half_unit, load_table, value_of
from harope_bench.statistics import significance
from harope_bench.statistics.significance import Verdict

__all__ = [
    "EVIDENCE",
    "Board",
    "Cell",
    "Comparison",
    "Note",
    "PaperVerdict",
    "build",
    "build_all",
    "comparisons",
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
class Source:
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
    """One cell. `published` is the printed string (None: the paper prints a dash), `half_unit` its rounding error.

    `delta` is measured minus published; `verdict` says what may be concluded from it; `above` is by how many percent, cut after one
    decimal, the measured number is above its baseline's, where the column prints that; `flags` are ids of the paper's
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
    n: int | None = None
    scale: Scale | None = None
    number: str | None = None
    above: float | None = None
    best_published: bool = False
    best_measured: bool = False
    marks: tuple[int, ...] = ()
    source: Source | None = None


@dataclass(frozen=True)
class Board:
    """A table with its cells by (row id, column key), its notes, and what was compared."""

    table: Table
    show: Show
    scale: Scale | None
    cells: dict[tuple[str, str], Cell]
    notes: tuple[Note, ...]
    table_marks: tuple[int, ...]
    measured_title: str
    measured_heads: dict[str, str]
    compared: tuple[Comparison, ...]

    @property
    def measured(self) -> int:
        """How many cells hold a measured number."""
        return sum(cell.measured is not None for cell in self.cells.values())


def build_all(
    tables: Sequence[Table],
    found: Sequence[StoredResult],
    show: Show = "both",
    scale: Scale | None = None,
    entries: Entries = NO_ENTRIES,
) -> list[Board]:
    """Return the boards of several tables with the rows that a user enters; each names the runs that fit no row of any.

    Raises:
        UnknownName: a run or a row that is not there. OptionError: runs that fit no cell, or several that fit one.
    """
    check_entries(tables, found, entries, SCALES if scale is None else (scale,))
    note = unplaced_note(tables, found, entries) if found and show != "published" else None
    return [build(table, found, show, scale, entries, [note] if note else []) for table in tables]


def build(
    table: Table,
    found: Sequence[StoredResult],
    show: Show = "both",
    scale: Scale | None = None,
    entries: Entries = NO_ENTRIES,
    more_notes: Sequence[str] = (),
) -> Board:
    """The board of a table. Without `scale`, paper-scale results are shown if there are any, else micro.

    Published and measured numbers stand side by side and are never ranked together.

    Args:
        entries: rows that a user enters; a name that no cell of this table takes changes nothing here. more_notes: further
            notes on the measured numbers as a whole.
    """
    wanted = show != "published"
    used = scale or _scale(table, found, entries) if wanted else None
    table = enter(table, found, used, entries) if used else table
    picks = pick(table, found, used) if used else {}
    open_cells = _undecided(table, found, used) if used else {}
    notes = Notes(table.flags if show != "measured" else ())
    remarks = _remarks(table, picks) | open_cells
    best = best_cells(table, picks)
    cells = {}
    for row in table.rows:
        for column in table.columns:
            key = (row.id, column.key)
            base = table.baseline_of(row, used) if used else None
            against = picks.get((base.id, column.key)) if base else None
            cells[key] = _cell(table, row, column, picks.get(key), against, notes, remarks.get(key, []), key in best)
    if wanted:
        notes.general(general(table, found, used, picks))
        notes.general([*notes_of(table), *more_notes])
        if used == "paper":  # readings are of the paper's networks; a micro run has no LoRA, no SD3 table, no 2,048 pixels
            notes.general(f"The paper does not say; our runs: {reading}" for reading in table.readings if picks)
    compared = [item for item in comparisons(table, found) if item.scale == used] if wanted else []
    return Board(
        table,
        show,
        used,
        cells,
        tuple(notes.all),
        notes.of_table(table),
        _measured_title(table, picks, used),
        {column.key: _measured_head(column, [p for (_, key), p in picks.items() if key == column.key]) for column in table.columns},
        tuple(compared),
    )


def _scale(table: Table, found: Sequence[StoredResult], entries: Entries) -> Scale | None:
    """Return the scale that most of the entered rows have numbers of; of equals paper before micro; None without a number."""
    entered = {scale: enter(table, found, scale, entries) for scale in SCALES}
    measured = [scale for scale in SCALES if pick(entered[scale], found, scale) or undecided(entered[scale], found, scale)]
    return max(measured, key=lambda scale: len({row.name for row in entered[scale].rows if isinstance(row, EntryRow)}), default=None)


def _undecided(table: Table, found: Sequence[StoredResult], scale: Scale) -> dict[tuple[str, str], list[str]]:
    """Return the remark on each cell that runs of several checkpoints fit."""
    return {
        (row_id, key): [
            f"undecided: runs of {len(names)} checkpoints fit {table.row(row_id).printed} ({', '.join(names)}); "
            f"--row {row_id}=NAME decides, --add NAME gives one a row"
        ]
        for (row_id, key), names in undecided(table, found, scale).items()
    }


def _cell(
    table: Table, row: Row, column: Column, picked: Picked | None, base: Picked | None, notes: Notes, remarks: list[str], best: bool
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
        status = "undecided" if remarks else "not run"
        return Cell(**facts, status=status, note="; ".join(remarks) or None, marks=(*marks, *map(notes.add, remarks)))  # type: ignore[arg-type]
    measured = picked.measurement
    if measured.value is None:
        remarks = [f"no value: {measured.reason}", *remarks]
    delta, verdict = _against_paper(table, column, printed, picked)
    above = _above(table, row, column, picked, base)
    if printed and above is not None and (said := PERCENT.search(printed)) and said[1] != f"{above:.1f}":
        remarks = [*remarks, f"The percentage of {column.printed} comes out as +{above:.1f}%, printed +{said[1]}%."]
    return Cell(
        **facts,  # type: ignore[arg-type]
        status="measured" if measured.value is not None else "no value",
        measured=measured.value,
        se=measured.se,
        low=measured.low,
        high=measured.high,
        delta=delta,
        verdict=verdict,
        note="; ".join(remarks) or None,
        n=measured.n_scored,
        scale=picked.found.result.scale,
        number=measured.name,
        above=above,
        best_measured=best,
        marks=(*marks, *map(notes.add, remarks)),
        source=_source(picked),
    )


def _source(picked: Picked) -> Source:
    result = picked.found.result
    return Source(
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


def _against_paper(table: Table, column: Column, printed: str | None, picked: Picked) -> tuple[float | None, PaperVerdict | None]:
    """Measured minus published, and what may be said of it.

    The printed number came without an error: it is taken to have the measured one's (evidence L0), and the
    half unit lost in printing is granted to it first.
    """
    value = picked.measurement.value
    if printed is None or value is None:
        return None, None
    delta = value - float(value_of(printed))
    if column.of == "network":
        return delta, _count_against_paper(picked, delta, printed)
    if reason := incomparable(table, column, picked):
        return delta, PaperVerdict("not comparable", reason)
    if not picked.measurement.se:
        return delta, PaperVerdict("not resolved", "no standard error")
    beyond = max(0.0, abs(delta) - float(half_unit(printed)))
    p = significance.two_sided(beyond / (math.sqrt(2) * picked.measurement.se))
    word = significance.verdict(column.direction, delta, p)
    return delta, PaperVerdict(word, "L0: the printed number's error is assumed")


def _count_against_paper(picked: Picked, delta: float, printed: str) -> PaperVerdict:
    """A count is exact: it rounds to the printed digits or it does not."""
    if picked.found.result.scale == "micro":
        return PaperVerdict("not comparable", "micro")
    is_rounding = abs(delta) <= float(half_unit(printed)) * (1 + 1e-9)
    if is_rounding:
        return PaperVerdict("as printed")
    return PaperVerdict("differs", "more than rounding")


def _above(table: Table, row: Row, column: Column, picked: Picked, base: Picked | None) -> float | None:
    """By how many percent a measured number is above its baseline's, cut after one decimal."""
    if not column.percent or base is None or not base.measurement.value or picked.measurement.value is None:
        return None
    return math.floor((picked.measurement.value / base.measurement.value - 1) * 1000 + 1e-9) / 10


def _remarks(table: Table, picks: Picks) -> dict[tuple[str, str], list[str]]:
    """What a reader must know of single cells: other results left out, images that failed, another footing."""
    remarks: dict[tuple[str, str], list[str]] = {key: [] for key in picks}
    for key, picked in picks.items():
        m = picked.measurement
        remarks[key] += of_rules(picked)
        if picked.plan and (scaling := picked.plan.settings.pos_scaling) not in (None, "none"):
            remarks[key].append(f"drawn with position scaling {scaling}, which the paper does not name")
        if picked.others and table.column(key[1]).of == "images":
            remarks[key].append(
                f"{picked.others + 1} results fit {table.row(key[0]).printed}; shown is, of those as trained if there are any, "
                f"the one over the most images ({m.n_scored:,})"
            )
        if m.n_scored != m.n_asked and table.column(key[1]).of == "images":
            remarks[key].append(f"{m.n_scored:,} of {m.n_asked:,} images scored, {m.n_failed} failed, {m.n_abstained} abstained")
    for ranked in ranked_blocks(table, picks).values():
        for key, differs in ranked.aside.items():
            remarks[key].append(f"not ranked with the others: {differs}")
    return remarks


def _measured_title(table: Table, picks: Picks, scale: Scale | None) -> str:
    if not picks:
        return "measured (not run)"
    drawn = [picked for (_, key), picked in picks.items() if table.column(key).of == "images"]
    if not drawn:
        return f"recomputed ({scale}, from the network's shapes)"
    suites = sorted({str(picked.found.result.suite_name) for picked in drawn})
    counts = sorted({picked.measurement.n_scored for picked in drawn})
    images = f"{counts[0]:,} images" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,} images"
    return f"measured ({scale}, {', '.join(suites)}, {images}, {named(table, picks)[0]})"


def _measured_head(column: Column, picked: list[Picked]) -> str:
    """The column's honest name: FID-500 where 500 images were scored, FID-N where cells differ."""
    names = sorted({p.measurement.name for p in picked})
    base = re.sub(r"-\d+K?$", "", column.printed)
    if column.of == "network":
        return column.printed
    if not names:
        return base
    ends = {name.removeprefix(column.measures).lstrip("-").upper() for name in names}
    if len(ends) > 1:
        return f"{base}-N"
    end = ends.pop()
    return f"{base}-{end}" if end else base
