"""Which result belongs to which cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from harope_bench.core import registry
from harope_bench.core.plugin_contracts import SuiteContract
from harope_bench.core.schema import JUDGE_CLASSES, Checkpoint, Measurement, Plan, Result
from harope_bench.data.result_store import StoredResult
from harope_bench.leaderboards.table_spec import Column, EntryRow, Row, Table
from harope_bench.statistics import pairing
from harope_bench.statistics.pairing import MeasurementKey, first_key_difference

__all__ = [
    "SCALES",
    "ColumnKey",
    "MatchedMeasurement",
    "Matches",
    "MeasurementKey",
    "Scale",
    "cell_candidates",
    "checkpoint_names",
    "column_key",
    "excluded_cells",
    "first_key_difference",
    "has_network",
    "is_allowed_in_cell",
    "is_checkpoint_of_cell",
    "is_result_of_cell",
    "match_measurement_key",
    "match_measurements",
    "undecided_cells",
]

Scale = Literal["micro", "paper"]
SCALES: tuple[Scale, ...] = ("paper", "micro")


def is_result_of_cell(table: Table, row: Row, column: Column, result: Result) -> bool:
    """Whether a result is of the run that this cell asks for."""
    if result.plan is None or column.evaluator not in (None, result.evaluator):
        return False
    if result.scale == "micro":
        return _is_micro_match(table, row, column, result.plan)
    return _is_paper_match(table, row, column, result.plan)


def _is_micro_match(table: Table, row: Row, column: Column, plan: Plan) -> bool:
    """The named checkpoint, on the table's suite or, where it has none, on the suite that the
    checkpoint was trained for.

    A column of the network itself asks for no suite.
    """
    named = table.micro_checkpoint_name(row, column)
    if (
        named is None
        or table.micro is None
        or plan.checkpoint.name != named
        or row.micro_res not in (None, plan.settings.resolution)
    ):
        return False
    return column.of == "network" or plan.suite == (table.micro.suite or plan.checkpoint.suite)


def _is_paper_match(table: Table, row: Row, column: Column, plan: Plan) -> bool:
    """A cell whose suite or encoding the paper's facts do not name takes no run: nobody could say
    that it is the same.
    """
    return (
        (column.of == "network" or _is_of_suite(table, row, column, plan.suite))
        and row.res in (None, plan.settings.resolution)
        and is_checkpoint_of_cell(table, row, column, plan.checkpoint)
    )


def is_checkpoint_of_cell(table: Table, row: Row, column: Column, checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint has the encoding, options, network and training steps that a cell
    of the paper prints.
    """
    facts = (row, column, table.paper)
    encoding = next((f.encoding for f in facts if f.encoding), None)
    backbone = next((f.backbone for f in facts if f.backbone), None)
    return (
        encoding == checkpoint.encoding
        and backbone in (None, checkpoint.backbone)
        and row.training_steps in (None, checkpoint.training_steps)
        and all(_has_options(checkpoint, f.config, f.options) for f in facts)
    )


def _is_network(table: Table, row: Row, checkpoint: Checkpoint) -> bool:
    backbone = next((f.backbone for f in (row, table.paper) if f.backbone), None)
    return backbone in (None, checkpoint.backbone) and all(
        _has_options(checkpoint, f.config, {}) for f in (row, table.paper)
    )


def _is_of_suite(table: Table, row: Row, column: Column, suite: str | None) -> bool:
    wanted = table.suite_name(row, column)
    return wanted is not None and suite is not None and wanted in (suite, _parent_suite(suite))


def is_allowed_in_cell(table: Table, row: EntryRow, column: Column, result: Result) -> bool:
    """Return whether a result that a user named may fill this cell: its scale, evaluator, suite and
    side are the column's.

    A column that is of one encoding takes that encoding alone. A side that was not recorded
    contradicts no row.
    """
    if result.scale != row.scale or column.evaluator not in (None, result.evaluator):
        return False
    if column.of != "network" and not _has_suite(table, row, column, result):
        return False
    side = _side_of(table, row)
    return (side is None or result.side in (None, side)) and _has_encoding(column, result.plan)


def _side_of(table: Table, row: EntryRow) -> int | None:
    """Return the side of a row's images in pixels; where every column is of another network, the
    one of the table's protocol.
    """
    if row.scale == "micro":
        return row.micro_res
    side = table.protocol.get("resolution") if table.block == "row" else None
    return side if row.res is None and isinstance(side, int) else row.res


def _has_suite(table: Table, row: EntryRow, column: Column, result: Result) -> bool:
    if row.scale == "micro":
        return row.micro_suite is not None and row.micro_suite == result.suite_name
    return _is_of_suite(table, row, column, result.suite_name)


def _has_encoding(column: Column, plan: Plan | None) -> bool:
    if column.encoding is None:
        return True
    return (
        plan is not None
        and plan.checkpoint.encoding == column.encoding
        and _has_options(plan.checkpoint, {}, column.options)
    )


def has_network(table: Table, row: Row, result: Result) -> bool:
    """Return whether a result is of the network of a table's row, as far as its plan tells; without
    a plan nothing contradicts.
    """
    if result.plan is None:
        return True
    if result.scale == "micro":
        return table.micro is None or table.micro.backbone in (
            None,
            result.plan.checkpoint.backbone,
        )
    return _is_network(table, row, result.plan.checkpoint)


@lru_cache(
    maxsize=64
)  # asked for every cell and result; looking through the installed packages takes 10 ms
def _parent_suite(suite: str) -> str | None:
    """The suite that this one is a part of, all of whose images of a category it has; None where it
    is none.
    """
    return (
        registry.load_plugin("suites", suite, SuiteContract).parent_suite
        if suite in registry.list_entries("suites")
        else None
    )


def _has_options(
    checkpoint: Checkpoint, config: Mapping[str, object], options: Mapping[str, object]
) -> bool:
    return all(checkpoint.config.get(k) == v for k, v in config.items()) and all(
        checkpoint.options.get(k) == v for k, v in options.items()
    )


@dataclass(frozen=True)
class MatchedMeasurement:
    """The measurement that stands in a cell, the result it comes from, and how many others
    fitted.
    """

    stored_result: StoredResult
    measurement: Measurement
    n_other_matches: int

    @property
    def plan(self) -> Plan | None:
        """Return the plan of the run; None of imported results and of folders."""
        return self.stored_result.result.plan


Matches = dict[tuple[str, str], MatchedMeasurement]


class ColumnKey(NamedTuple):
    """What all numbers of a column share: whose formulas, which rules, how its judge stands to the
    paper's, whether all was scored.

    substitutes: which network stood in for each role, by name and hash of its weights, since two
    substitutes are two metrics; wherever
    a model's folder lies, its hash says which one it is.
    """

    profile: str
    rules: str
    judge_class: str
    is_lenient: bool
    substitutes: tuple[str, ...]


def column_key(result: Result) -> ColumnKey:
    """The ruler of a result."""
    records = result.judges or {"judge": result.judge}
    eyes = [
        f"{role} {r.name} {r.weights_sha256[:12]}"
        for role, r in sorted(records.items())
        if r.judge_class == "substitute"
    ]
    return ColumnKey(
        result.profile, result.rules, result.judge.judge_class, result.is_lenient, tuple(eyes)
    )


def match_measurements(table: Table, found: Sequence[StoredResult], scale: Scale) -> Matches:
    """For each (row, column) the fitting measurement over the most images; ties go to the lower
    seed, then path.

    A column has numbers of one ruler: of that which fills most of its rows, of equals the one
    nearest to the paper's.
    A cell that runs of several checkpoints fit has none: `undecided` names them.
    """
    picks: Matches = {}
    for row, column, same, fitting in cell_candidates(table, found, scale):
        if same and (
            isinstance(row, EntryRow) or len(checkpoint_names(same)) < 2 or column.of == "network"
        ):
            picks[row.id, column.key] = MatchedMeasurement(
                *min(same, key=_candidate_order), n_other_matches=fitting - 1
            )
    return picks


def undecided_cells(
    table: Table, found: Sequence[StoredResult], scale: Scale
) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the cells (row, column) of the table's own rows that runs of several checkpoints fit,
    with the names of these.
    """
    return {
        (row.id, column.key): tuple(names)
        for row, column, same, _ in cell_candidates(table, found, scale)
        if not isinstance(row, EntryRow)
        and column.of == "images"
        and len(names := checkpoint_names(same)) > 1
    }


class CellCandidates(NamedTuple):
    """A cell, the measurements of its column's ruler that may fill it, and how many fit it under
    any ruler.
    """

    row: Row
    column: Column
    candidates: list[tuple[StoredResult, Measurement]]
    n_fitting: int


def cell_candidates(
    table: Table, found: Sequence[StoredResult], scale: Scale
) -> Iterable[CellCandidates]:
    """Yield every cell with the measurements that may fill it; runs that have a row of their own
    contend for no other.
    """
    added = {
        path
        for row in table.rows
        if isinstance(row, EntryRow) and row.is_added
        for path in row.result_paths
    }
    for column, chosen, fitting in _column_candidates(table, found, scale):
        for row_id, candidates in fitting.items():
            row = table.find_row(row_id)
            same = [c for c in candidates if column_key(c[0].result) == chosen]
            same = [c for c in same if c[1].value is not None] or same
            if not isinstance(row, EntryRow) and len(checkpoint_names(same)) > 1:
                same = [c for c in same if str(c[0].path) not in added]
            yield CellCandidates(row, column, same, len(candidates))


def checkpoint_names(candidates: Iterable[tuple[StoredResult, Measurement]]) -> list[str]:
    """Return the names of the different checkpoints (by their weights) that measurements are of,
    sorted.
    """
    plans = [item.result.plan for item, _ in candidates if item.result.plan is not None]
    names: dict[str, set[str]] = {}
    for plan in plans:
        names.setdefault(plan.checkpoint.sha256, set()).add(plan.checkpoint.name)
    has_namesakes = len({min(group) for group in names.values()}) < len(
        names
    )  # one name, other weights: the hash tells
    return sorted(
        f"{min(group)} ({sha256[:12]})" if has_namesakes else min(group)
        for sha256, group in names.items()
    )


def excluded_cells(
    table: Table, found: Sequence[StoredResult], scale: Scale
) -> dict[str, list[tuple[str, str]]]:
    """The cells (row, column) that stay empty because their numbers have another ruler than their
    column, by what differs.
    """
    told: dict[str, list[tuple[str, str]]] = {}
    for column, chosen, fitting in _column_candidates(table, found, scale):
        for row_id, candidates in fitting.items():
            others = [
                column_key(item.result)
                for item, measurement in candidates
                if measurement.value is not None
            ]
            if chosen is not None and others and chosen not in others:
                told.setdefault(_key_difference(others[0], chosen), []).append((row_id, column.key))
    return told


def _key_difference(key: ColumnKey, expected_key: ColumnKey) -> str:
    """How a ruler is unlike a column's, in words."""
    words = {
        "profile": f"profile {key.profile} against {expected_key.profile}",
        "rules": f"rules {key.rules} against {expected_key.rules}",
        "judge": f"judge {key.judge_class} against {expected_key.judge_class}",
        "lenient": f"scored {'with' if key.is_lenient else 'without'} --allow-missing",
        "substitutes": (
            f"substitute {' and '.join(key.substitutes)} against"
            f" {' and '.join(expected_key.substitutes)}"
        ),
    }
    expected = expected_key._asdict()
    names = [name for name, value in key._asdict().items() if value != expected[name]]
    return ", ".join(
        words[name] for name in names if name != "substitutes" or "judge" not in names
    )  # another class says it already


CandidatesByRow = dict[str, list[tuple[StoredResult, Measurement]]]


def _column_candidates(
    table: Table, found: Sequence[StoredResult], scale: Scale
) -> Iterable[tuple[Column, ColumnKey | None, CandidatesByRow]]:
    """Every column with its ruler and, by row, the measurements that fit."""
    of_scale = [item for item in found if item.result.scale == scale]
    for column in table.columns:
        fitting = {
            row.id: _fitting_measurements(table, row, column, of_scale) for row in table.rows
        }
        yield column, _choose_column_key(fitting.values(), table.protocol.get("profile")), fitting


def _choose_column_key(
    rows: Iterable[Sequence[tuple[StoredResult, Measurement]]], profile: object
) -> ColumnKey | None:
    """The ruler that most rows have a number of; of equals a strict one, the paper's profile, rules
    and judge, then rank.
    """
    first: dict[ColumnKey, tuple[bool, bool, int, int, str]] = {}
    filled: Counter[ColumnKey] = Counter()
    for candidates in rows:
        filled.update(
            {
                column_key(item.result)
                for item, measurement in candidates
                if measurement.value is not None
            }
        )
        for candidate in candidates:
            name = column_key(candidate[0].result)
            rank = _candidate_order(candidate)
            first[name] = min(first.get(name, rank), rank)
    return min(
        first,
        key=lambda r: (
            -filled[r],
            r.is_lenient,
            r.profile != profile,
            r.rules != "official",
            JUDGE_CLASSES.index(r.judge_class),
            first[r],
        ),
        default=None,
    )


def _fitting_measurements(
    table: Table, row: Row, column: Column, found: Sequence[StoredResult]
) -> list[tuple[StoredResult, Measurement]]:
    """Return the measurements that fit a cell. Where each column is of another network, an entered
    row leaves the other columns.
    """
    measured = [
        (item, m)
        for item in found
        if (m := item.result.find_measurement(column.metric_name)) is not None
    ]
    if isinstance(row, EntryRow):
        own = [
            (item, m)
            for item, m in measured
            if str(item.path) in row.result_paths
            and is_allowed_in_cell(table, row, column, item.result)
        ]
        if own or row.is_added or table.block != "row":
            return own
    return [(item, m) for item, m in measured if is_result_of_cell(table, row, column, item.result)]


def _candidate_order(
    candidate: tuple[StoredResult, Measurement],
) -> tuple[bool, bool, int, int, str]:
    """A value first, then positions as trained, then the most images, the lowest seed."""
    item, measurement = candidate
    settings = item.result.plan.settings if item.result.plan else None
    scaled = settings is not None and settings.pos_scaling not in (None, "none")
    return (
        measurement.value is None,
        scaled,
        -measurement.n_scored,
        settings.seed if settings else 0,
        str(item.path),
    )


def match_measurement_key(match: MatchedMeasurement) -> MeasurementKey:
    """The footing of a picked number."""
    return pairing.measurement_key(match.stored_result.result, match.measurement)
