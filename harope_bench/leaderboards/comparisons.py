"""Measured rows against the baseline row: differences, adjusted for how many were looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from harope_bench import statistics
from harope_bench.errors import StorageError
from harope_bench.leaderboards.layout import Column, Row, Table
from harope_bench.leaderboards.matching import SCALES, Found, Picked, Picks, Scale, footing, pick, unlike
from harope_bench.statistics import Difference, Verdict
from harope_bench.store import load_arrays

EVIDENCE = "L1: this checkpoint against that checkpoint; a claim about the method needs several training seeds."
POWER = 0.8
REACH = NormalDist().inv_cdf(0.5 + statistics.LEVEL / 2) + NormalDist().inv_cdf(POWER)


@dataclass(frozen=True)
class Comparison:
    """One row against its baseline in one column. `verdict` is made from the adjusted p."""

    scale: Scale
    row: str
    baseline: str
    column: str
    number: str
    n: int
    difference: Difference
    p_adjusted: float | None
    detectable: float | None
    verdict: Verdict


def comparisons(table: Table, found: Sequence[Found]) -> list[Comparison]:
    """Every measured row against its baseline in every column, Holm-adjusted within the table and scale.

    `detectable` is the smallest difference that this design finds with 80% power, (1.96 + 0.84) SE.
    """
    done: list[Comparison] = []
    for scale in SCALES:
        done += _adjusted(table, list(_raw(table, pick(table, found, scale), scale)))
    return done


def _raw(table: Table, picks: Picks, scale: Scale) -> list[Comparison]:
    rows = [(row, base) for row in table.rows if (base := table.baseline_of(row, scale)) is not None]
    return [
        _compare(scale, row, base, column, picks[base.id, column.key], picks[row.id, column.key])
        for row, base in rows
        for column in table.columns
        if (row.id, column.key) in picks and (base.id, column.key) in picks
    ]


def _compare(scale: Scale, row: Row, base: Row, column: Column, old: Picked, new: Picked) -> Comparison:
    found = contrast(column, old, new)
    detectable = REACH * found.se if found.se else None  # an error of exactly 0 says that nothing was seen, not that all would be
    measured = new.measurement
    return Comparison(scale, row.id, base.id, column.key, measured.name, measured.n_scored, found, None, detectable, found.verdict)


def _adjusted(table: Table, raw: list[Comparison]) -> list[Comparison]:
    tested = [item for item in raw if item.difference.p is not None]
    adjusted = dict(zip(map(id, tested), statistics.holm([item.difference.p or 0.0 for item in tested]), strict=True))
    return [_decided(table, item, adjusted[id(item)]) if id(item) in adjusted else item for item in raw]


def _decided(table: Table, item: Comparison, p: float) -> Comparison:
    direction = table.column(item.column).direction
    return replace(item, p_adjusted=p, verdict=statistics.verdict(direction, item.difference.delta or 0.0, p))


def contrast(column: Column, old: Picked, new: Picked) -> Difference:
    """New minus old, paired by sample where both runs drew the same samples; not comparable on unequal footing."""
    if differs := unlike(footing(old), footing(new)):
        return Difference(None, None, None, None, None, False, "not comparable", differs)
    rows = paired_rows(column.measures, old.found, new.found)
    if rows.why:
        return statistics.difference(column.direction, old.measurement, new.measurement)._replace(why=f"unpaired: {rows.why}")
    return statistics.difference(column.direction, old.measurement, new.measurement, rows.old, rows.new)


class Rows(NamedTuple):
    """Per-sample contributions of two runs in one order, or why they cannot be paired."""

    old: np.ndarray | None
    new: np.ndarray | None
    why: str


def paired_rows(metric: str, old: Found, new: Found) -> Rows:
    """Rows of the same samples of two runs.

    The key is seed, suite, resolution and sample indices; recall has a row for each reference image,
    so the references must be equal too.
    """
    for item in (old, new):
        if item.result.per_sample is None or not _beside(item).is_file():
            return Rows(None, None, "per-sample values were not kept")
    if other := _other_samples(old, new):
        return Rows(None, None, other)
    arrays = [_arrays(_beside(item)) for item in (old, new)]
    if any(metric not in a or "indices" not in a for a in arrays):
        return Rows(None, None, f"no per-sample values of {metric}")
    if not np.array_equal(arrays[0]["indices"], arrays[1]["indices"]):
        return Rows(None, None, "other sample indices")
    one, two = (np.asarray(a[metric], dtype=np.float64) for a in arrays)
    if one.shape != two.shape:
        return Rows(None, None, f"{len(one):,} against {len(two):,} per-sample values")
    return Rows(one, two, "")


def _other_samples(old: Found, new: Found) -> str:
    a, b = old.result, new.result
    if a.plan is None or b.plan is None:
        return "a run has no plan"
    if a.reference_sha256 != b.reference_sha256:
        return "other reference images"
    keys = [(p.settings.seed, p.suite, p.suite_version, p.settings.resolution) for p in (a.plan, b.plan)]
    names = ("seed", "suite", "suite version", "resolution")
    return next((f"other {name}" for name, x, y in zip(names, *keys, strict=True) if x != y), "")


def _beside(item: Found) -> Path:
    """Path of the per-sample arrays: a plain file name beside the result, never a path of its choosing."""
    name = item.result.per_sample or ""
    if Path(name).name != name:
        raise StorageError(f"{item.path} names per-sample values outside its folder ({name}); evaluate the run again")
    return item.path.parent / name


@lru_cache(maxsize=32)
def _read(path: Path, stamp: tuple[int, int]) -> dict[str, np.ndarray]:
    return load_arrays(path)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, read once as long as it does not change: every cell of a table asks again."""
    status = path.stat()
    return _read(path, (status.st_mtime_ns, status.st_size))
