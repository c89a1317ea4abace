"""Which result belongs to which cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import ValidationError

from harope_bench.errors import StorageError
from harope_bench.leaderboards.layout import Column, Row, Table
from harope_bench.records import Checkpoint, Measurement, Plan, Result, fault
from harope_bench.store import disk

Scale = Literal["micro", "paper"]
SCALES: tuple[Scale, ...] = ("paper", "micro")


class Found(NamedTuple):
    """A result and the file it was read from (its per-sample arrays lie beside it)."""

    result: Result
    path: Path


def collect(runs: Path) -> list[Found]:
    """Every result under a folder (`**/results/*.json`), in the order of the paths.

    Raises:
        StorageError: the folder is not there, or a file is not a result; the file is named.
    """
    if not runs.is_dir():
        raise StorageError(f"{runs} is not a folder; give the folder that holds the runs")
    return [Found(read_result(path), path) for path in sorted(runs.glob("**/results/*.json"))]


def read_result(path: Path) -> Result:
    """One result file; StorageError names the file and the field."""
    with disk(path):
        data = path.read_bytes()
    try:
        return Result.model_validate_json(data)
    except ValidationError as error:
        raise StorageError(f"{path} is not a result ({fault(error)}); delete it and evaluate again") from error


def fits(table: Table, row: Row, column: Column, result: Result) -> bool:
    """Whether a result is of the run that this cell asks for."""
    if result.plan is None or column.evaluator not in (None, result.evaluator):
        return False
    if result.scale == "micro":
        named = row.micro is not None and result.plan.checkpoint.name == row.micro
        return named and table.micro is not None and table.micro.suite in (None, result.plan.suite)
    return _fits_paper(table, row, column, result.plan)


def _fits_paper(table: Table, row: Row, column: Column, plan: Plan) -> bool:
    """A cell whose suite or encoding the paper's facts do not name takes no run: nobody could say that it is the same."""
    checkpoint, facts = plan.checkpoint, (row, column, table.paper)
    suite = next((f.suite for f in facts if f.suite), None)
    encoding = next((f.encoding for f in facts if f.encoding), None)
    backbone = next((f.backbone for f in facts if f.backbone), None)
    return (
        suite == plan.suite
        and encoding == checkpoint.encoding
        and backbone in (None, checkpoint.backbone)
        and row.res in (None, plan.settings.resolution)
        and row.training_steps in (None, checkpoint.training_steps)
        and all(_holds(checkpoint, f.config, f.options) for f in facts)
    )


def _holds(checkpoint: Checkpoint, config: Mapping[str, object], options: Mapping[str, object]) -> bool:
    return all(checkpoint.config.get(k) == v for k, v in config.items()) and all(checkpoint.options.get(k) == v for k, v in options.items())


@dataclass(frozen=True)
class Picked:
    """The measurement that stands in a cell, the result it comes from, and how many others fitted."""

    found: Found
    measurement: Measurement
    others: int

    @property
    def plan(self) -> Plan:
        """A picked result has a plan: nothing else fits a cell."""
        assert self.found.result.plan is not None
        return self.found.result.plan


Picks = dict[tuple[str, str], Picked]


def pick(table: Table, found: Sequence[Found], scale: Scale) -> Picks:
    """For each (row, column) the fitting measurement over the most images; ties go to the lower seed, then path."""
    picks: Picks = {}
    of_scale = [item for item in found if item.result.scale == scale]
    for row in table.rows:
        for column in table.columns:
            candidates = list(_candidates(table, row, column, of_scale))
            if candidates:
                best = min(candidates, key=_rank)
                picks[row.id, column.key] = Picked(*best, others=len(candidates) - 1)
    return picks


def _candidates(table: Table, row: Row, column: Column, found: Sequence[Found]) -> Iterable[tuple[Found, Measurement]]:
    for item in found:
        measurement = item.result.measured(column.measures)
        if measurement is not None and fits(table, row, column, item.result):
            yield item, measurement


def _rank(candidate: tuple[Found, Measurement]) -> tuple[bool, int, int, str]:
    item, measurement = candidate
    seed = item.result.plan.settings.seed if item.result.plan else 0
    return (measurement.value is None, -measurement.n_scored, seed, str(item.path))


class Footing(NamedTuple):
    """What two numbers must share before one may be called the better."""

    number: str
    images: int
    evaluator: str
    profile: str
    rules: str
    judge: str
    reference: str
    suite: str
    resolution: int
    sampler: str
    steps: int
    guidance: float


def footing(picked: Picked) -> Footing:
    """The footing of a picked number."""
    result, settings = picked.found.result, picked.plan.settings
    return Footing(
        picked.measurement.name,
        picked.measurement.n_scored,
        f"{result.evaluator}@{result.version}",
        result.profile,
        result.rules,
        f"{result.judge.name}@{result.judge.version} {result.judge.weights_sha256[:12]} {result.judge.preprocessing}",
        result.reference_sha256[:12],
        f"{picked.plan.suite}@{picked.plan.suite_version}",
        settings.resolution,
        settings.sampler,
        settings.steps,
        settings.guidance,
    )


def unlike(one: Footing, other: Footing) -> str | None:
    """The first thing in which two footings differ, in words; None where they agree."""
    for name, a, b in zip(Footing._fields, one, other, strict=True):
        if a != b:
            return f"{name} {a} against {b}"
    return None
