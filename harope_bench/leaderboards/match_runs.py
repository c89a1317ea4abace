"""Matching: the results that fill each cell of a table."""

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
    "MatchesByCell",
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

# Micro scale: the small models that ship with the package. Paper scale: the paper's models.
Scale = Literal["micro", "paper"]
# micro: small shipped models; paper: the paper's models. Paper scale is preferred.
SCALES: tuple[Scale, ...] = ("paper", "micro")


def is_result_of_cell(table: Table, row: Row, column: Column, result: Result) -> bool:
    """Return whether a result may fill a cell of a published row, by scale and criteria."""
    if result.plan is None or column.evaluator not in (None, result.evaluator):
        return False
    if result.scale == "micro":
        return _is_micro_match(table, row, column, result.plan)
    return _is_paper_match(table, row, column, result.plan)


def _is_micro_match(table: Table, row: Row, column: Column, plan: Plan) -> bool:
    """Return whether a micro-scale run is of the cell's checkpoint, suite and resolution.

    The suite is the table's or, where it has none, the one that the checkpoint was trained for.
    A column that is measured on the network requires no suite.
    """
    checkpoint_name = table.micro_checkpoint_name(row, column)
    if checkpoint_name is None or table.micro_scale is None:
        return False
    if plan.checkpoint.name != checkpoint_name:
        return False
    if row.micro_resolution not in (None, plan.settings.resolution):
        return False
    return column.measured_on == "network" or plan.suite == (
        table.micro_scale.suite or plan.checkpoint.suite
    )


def _is_paper_match(table: Table, row: Row, column: Column, plan: Plan) -> bool:
    """Return whether a paper-scale run has the suite, resolution and checkpoint of a cell.

    A cell whose suite or encoding the paper does not state matches no run.
    """
    return (
        (column.measured_on == "network" or _is_of_suite(table, row, column, plan.suite))
        and row.resolution in (None, plan.settings.resolution)
        and is_checkpoint_of_cell(table, row, column, plan.checkpoint)
    )


def is_checkpoint_of_cell(table: Table, row: Row, column: Column, checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint is one that a cell of the paper describes.

    Encoding, options, backbone, configuration and training steps must agree.
    """
    criteria = (row, column, table.paper_scale)
    encoding = next((criterion.encoding for criterion in criteria if criterion.encoding), None)
    backbone = next((criterion.backbone for criterion in criteria if criterion.backbone), None)
    return (
        encoding == checkpoint.encoding
        and backbone in (None, checkpoint.backbone)
        and row.training_steps in (None, checkpoint.training_steps)
        and all(
            _has_options(checkpoint, criterion.config, criterion.options) for criterion in criteria
        )
    )


def _is_network(table: Table, row: Row, checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint has the backbone and configuration of a row."""
    backbone = next(
        (criteria.backbone for criteria in (row, table.paper_scale) if criteria.backbone), None
    )
    return backbone in (None, checkpoint.backbone) and all(
        _has_options(checkpoint, criteria.config, options={})
        for criteria in (row, table.paper_scale)
    )


def _is_of_suite(table: Table, row: Row, column: Column, suite: str | None) -> bool:
    """Return whether a suite, or the suite that it is a part of, is the cell's."""
    expected_suite = table.suite_name(row, column)
    return (
        expected_suite is not None
        and suite is not None
        and expected_suite in (suite, _parent_suite(suite))
    )


def is_allowed_in_cell(table: Table, row: EntryRow, column: Column, result: Result) -> bool:
    """Return whether a result that the user named may fill a cell of an entered row.

    Scale, evaluator, suite, resolution and the column's encoding must agree. A resolution that was
    not recorded is accepted.
    """
    if result.scale != row.scale or column.evaluator not in (None, result.evaluator):
        return False
    if column.measured_on != "network" and not _has_suite(table, row, column, result):
        return False
    expected_side = _expected_side(table, row)
    return (expected_side is None or result.side in (None, expected_side)) and _has_encoding(
        column, result.plan
    )


def _expected_side(table: Table, row: EntryRow) -> int | None:
    """Return the side in pixels of an entered row's images, None where any side is accepted.

    It is the protocol's resolution where each column is another network.
    """
    if row.scale == "micro":
        return row.micro_resolution
    protocol_side = table.protocol.get("resolution") if table.block == "row" else None
    if row.resolution is None and isinstance(protocol_side, int):
        return protocol_side
    return row.resolution


def _has_suite(table: Table, row: EntryRow, column: Column, result: Result) -> bool:
    """Return whether a result is of the suite of a cell in an entered row."""
    if row.scale == "micro":
        return row.micro_suite is not None and row.micro_suite == result.suite_name
    return _is_of_suite(table, row, column, result.suite_name)


def _has_encoding(column: Column, plan: Plan | None) -> bool:
    """Return whether a plan has the encoding and options of a column, if the column has any."""
    if column.encoding is None:
        return True
    return (
        plan is not None
        and plan.checkpoint.encoding == column.encoding
        and _has_options(plan.checkpoint, config={}, options=column.options)
    )


def has_network(table: Table, row: Row, result: Result) -> bool:
    """Return whether a result is of a row's network; True for a result without a plan."""
    if result.plan is None:
        return True
    if result.scale == "micro":
        micro_backbone = table.micro_scale.backbone if table.micro_scale else None
        return micro_backbone in (None, result.plan.checkpoint.backbone)
    return _is_network(table, row, result.plan.checkpoint)


# cached: it is called for every cell and result, and scanning the installed packages takes 10 ms
@lru_cache(maxsize=64)
def _parent_suite(suite: str) -> str | None:
    """Return the suite that a suite is a part of, None where there is none.

    A part has all images of its categories, so their scores are those of the parent suite.
    """
    if suite not in registry.list_entries("suites"):
        return None
    return registry.load_plugin("suites", suite, SuiteContract).parent_suite


def _has_options(
    checkpoint: Checkpoint, config: Mapping[str, object], options: Mapping[str, object]
) -> bool:
    """Return whether a checkpoint has these values in its configuration and encoding options."""
    return all(checkpoint.config.get(key) == value for key, value in config.items()) and all(
        checkpoint.options.get(key) == value for key, value in options.items()
    )


@dataclass(frozen=True)
class MatchedMeasurement:
    """The measurement of a cell, its result, and how many other results fit the cell."""

    stored_result: StoredResult
    measurement: Measurement
    n_other_matches: int

    @property
    def plan(self) -> Plan | None:
        """Return the run's plan, None for imported results and image folders."""
        return self.stored_result.result.plan


# the measured numbers of a table by (row id, column key)
MatchesByCell = dict[tuple[str, str], MatchedMeasurement]


class ColumnKey(NamedTuple):
    """What all numbers of a column share: profile, rules, judge class and completeness.

    is_lenient: scored with --allow-missing.
    substitutes: role, name and weights hash of each substitute judge. Two substitutes measure
        two different metrics.
    """

    profile: str
    rules: str
    judge_class: str
    is_lenient: bool
    substitutes: tuple[str, ...]


def column_key(result: Result) -> ColumnKey:
    """Return the column key of a result."""
    records = result.judges or {"judge": result.judge}
    substitutes = [
        f"{role} {record.name} {record.weights_sha256[:12]}"
        for role, record in sorted(records.items())
        if record.judge_class == "substitute"
    ]
    return ColumnKey(
        result.profile,
        result.rules,
        result.judge.judge_class,
        result.is_lenient,
        tuple(substitutes),
    )


def match_measurements(
    table: Table, results: Sequence[StoredResult], scale: Scale
) -> MatchesByCell:
    """Return the measurement of each cell (row id, column key) at the micro or paper scale.

    A column shows numbers of one column key (see _choose_column_key). Of several fitting
    measurements the first by _candidate_order is used. A cell that runs of several checkpoints
    fit has none; see undecided_cells.
    """
    matches: MatchesByCell = {}
    for row, column, candidates, n_fitting in cell_candidates(table, results, scale):
        if not candidates or _is_undecided(row, column, candidates):
            continue
        stored_result, measurement = min(candidates, key=_candidate_order)
        matches[row.id, column.key] = MatchedMeasurement(stored_result, measurement, n_fitting - 1)
    return matches


def _is_undecided(
    row: Row, column: Column, candidates: Sequence[tuple[StoredResult, Measurement]]
) -> bool:
    """Return whether runs of several checkpoints fit a cell of a published row."""
    if isinstance(row, EntryRow) or column.measured_on == "network":
        return False
    return len(checkpoint_names(candidates)) > 1


def undecided_cells(
    table: Table, results: Sequence[StoredResult], scale: Scale
) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the checkpoint names of each undecided cell by (row id, column key)."""
    return {
        (row.id, column.key): tuple(checkpoint_names(candidates))
        for row, column, candidates, _ in cell_candidates(table, results, scale)
        if _is_undecided(row, column, candidates)
    }


class CellCandidates(NamedTuple):
    """A cell, the measurements with its column's key that may fill it, and how many fit at all."""

    row: Row
    column: Column
    candidates: list[tuple[StoredResult, Measurement]]
    n_fitting: int


def cell_candidates(
    table: Table, results: Sequence[StoredResult], scale: Scale
) -> Iterable[CellCandidates]:
    """Yield every cell with the measurements that may fill it.

    Runs in an added row of their own are removed where several checkpoints fit a published row.
    """
    added_rows = [row for row in table.rows if isinstance(row, EntryRow) and row.is_added]
    added_paths = {path for row in added_rows for path in row.result_paths}
    for column, chosen_key, fitting_by_row in _column_candidates(table, results, scale):
        for row_id, fitting in fitting_by_row.items():
            row = table.find_row(row_id)

            # measurements with a value take precedence over those without
            candidates = [c for c in fitting if column_key(c[0].result) == chosen_key]
            candidates = [c for c in candidates if c[1].value is not None] or candidates
            if not isinstance(row, EntryRow) and len(checkpoint_names(candidates)) > 1:
                candidates = [c for c in candidates if str(c[0].path) not in added_paths]
            yield CellCandidates(row, column, candidates, len(fitting))


def checkpoint_names(candidates: Iterable[tuple[StoredResult, Measurement]]) -> list[str]:
    """Return the sorted names of the different checkpoints that measurements are of.

    Checkpoints differ by the hash of their weights. It is appended where two have one name.
    """
    plans = [
        stored_result.result.plan
        for stored_result, _ in candidates
        if stored_result.result.plan is not None
    ]
    names_by_sha256: dict[str, set[str]] = {}
    for plan in plans:
        names_by_sha256.setdefault(plan.checkpoint.identity, set()).add(plan.checkpoint.name)
    has_namesakes = len({min(names) for names in names_by_sha256.values()}) < len(names_by_sha256)
    return sorted(
        f"{min(names)} ({sha256[:12]})" if has_namesakes else min(names)
        for sha256, names in names_by_sha256.items()
    )


def excluded_cells(
    table: Table, results: Sequence[StoredResult], scale: Scale
) -> dict[str, list[tuple[str, str]]]:
    """Return the cells (row id, column key) without a number of their column's key, by reason.

    These cells stay empty although measurements with another column key fit them.
    """
    cells_by_reason: dict[str, list[tuple[str, str]]] = {}
    for column, chosen_key, fitting_by_row in _column_candidates(table, results, scale):
        for row_id, fitting in fitting_by_row.items():
            keys = [
                column_key(stored_result.result)
                for stored_result, m in fitting
                if m.value is not None
            ]
            if chosen_key is not None and keys and chosen_key not in keys:
                reason = _key_difference(keys[0], chosen_key)
                cells_by_reason.setdefault(reason, []).append((row_id, column.key))
    return cells_by_reason


def _key_difference(key: ColumnKey, expected_key: ColumnKey) -> str:
    """Return how a column key differs from the expected one, as a text."""
    texts = {
        "profile": f"profile {key.profile} against {expected_key.profile}",
        "rules": f"rules {key.rules} against {expected_key.rules}",
        "judge_class": f"judge {key.judge_class} against {expected_key.judge_class}",
        "is_lenient": f"scored {'with' if key.is_lenient else 'without'} --allow-missing",
        "substitutes": (
            f"substitute {' and '.join(key.substitutes)} against"
            f" {' and '.join(expected_key.substitutes)}"
        ),
    }
    expected_fields = expected_key._asdict()
    differing_fields = [
        field for field, value in key._asdict().items() if value != expected_fields[field]
    ]

    # another judge class explains the other substitutes
    if "judge_class" in differing_fields and "substitutes" in differing_fields:
        differing_fields.remove("substitutes")
    return ", ".join(texts[field] for field in differing_fields)


CandidatesByRow = dict[str, list[tuple[StoredResult, Measurement]]]


def _column_candidates(
    table: Table, results: Sequence[StoredResult], scale: Scale
) -> Iterable[tuple[Column, ColumnKey | None, CandidatesByRow]]:
    """Yield every column with its column key and the fitting measurements by row id."""
    scale_results = [
        stored_result for stored_result in results if stored_result.result.scale == scale
    ]
    for column in table.columns:
        fitting_by_row = {
            row.id: _fitting_measurements(table, row, column, scale_results) for row in table.rows
        }
        chosen_key = _choose_column_key(fitting_by_row.values(), table.protocol.get("profile"))
        yield column, chosen_key, fitting_by_row


def _choose_column_key(
    rows: Iterable[Sequence[tuple[StoredResult, Measurement]]], profile: object
) -> ColumnKey | None:
    """Return the column key with which most rows have a number, None without candidates.

    Ties go to complete scoring, the paper's profile, the official rules, the better judge class,
    then to the first candidate by _candidate_order.
    """
    n_rows: Counter[ColumnKey] = Counter()
    lowest_orders: dict[ColumnKey, tuple[bool, bool, int, int, str]] = {}
    for candidates in rows:
        # a row counts once for each key with which it has a number
        n_rows.update(
            {
                column_key(stored_result.result)
                for stored_result, m in candidates
                if m.value is not None
            }
        )
        for candidate in candidates:
            key = column_key(candidate[0].result)
            order = _candidate_order(candidate)
            lowest_orders[key] = min(lowest_orders.get(key, order), order)

    def sort_key(key: ColumnKey) -> tuple[object, ...]:
        return (
            -n_rows[key],
            key.is_lenient,
            key.profile != profile,
            key.rules != "official",
            JUDGE_CLASSES.index(key.judge_class),
            lowest_orders[key],
        )

    return min(lowest_orders, key=sort_key, default=None)


def _fitting_measurements(
    table: Table, row: Row, column: Column, results: Sequence[StoredResult]
) -> list[tuple[StoredResult, Measurement]]:
    """Return the measurements that fit a cell, whatever their column key.

    Where each column is another network, a row of `--row` keeps the published row's runs in the
    columns that its own runs do not fit.
    """
    measurements = [
        (stored_result, m)
        for stored_result in results
        if (m := stored_result.result.find_measurement(column.metric_name)) is not None
    ]
    if isinstance(row, EntryRow):
        entered_measurements = [
            (stored_result, m)
            for stored_result, m in measurements
            if str(stored_result.path) in row.result_paths
            and is_allowed_in_cell(table, row, column, stored_result.result)
        ]
        if entered_measurements or row.is_added or table.block != "row":
            return entered_measurements
    return [
        (stored_result, m)
        for stored_result, m in measurements
        if is_result_of_cell(table, row, column, stored_result.result)
    ]


def _candidate_order(
    candidate: tuple[StoredResult, Measurement],
) -> tuple[bool, bool, int, int, str]:
    """Return the sort key of a candidate; the first one fills the cell.

    The order is: with a value, without position scaling, most images, lowest seed, path.
    """
    stored_result, measurement = candidate
    settings = stored_result.result.plan.settings if stored_result.result.plan else None
    has_position_scaling = settings is not None and settings.pos_scaling not in (None, "none")
    return (
        measurement.value is None,
        has_position_scaling,
        -measurement.n_scored,
        settings.seed if settings else 0,
        str(stored_result.path),
    )


def match_measurement_key(match: MatchedMeasurement) -> MeasurementKey:
    """Return the measurement key of a matched measurement."""
    return pairing.measurement_key(match.stored_result.result, match.measurement)
