"""Two runs, or two methods of several training seeds each: metric by metric, what is different and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from harope_bench.core import registry
from harope_bench.core.errors import OptionError, StorageError, UnknownName
from harope_bench.core.plugin_contracts import EvaluatorContract
from harope_bench.core.schema import Metric
from harope_bench.data.result_paths import run_of
from harope_bench.data.result_store import StoredResult, read_results
from harope_bench.data.run_folder import RESULTS
from harope_bench.statistics import pairing, significance
from harope_bench.statistics.intervals.paired_ratios import prompt_contributions
from harope_bench.statistics.intervals.training import hierarchical, shared_variance
from harope_bench.statistics.pairing import (
    RULER,
    SETTINGS,
    Footing,
    Rows,
    contrast,
    footing,
    paired_rows,
    unlike,
    unlikes,
    unrecorded,
)
from harope_bench.statistics.significance import Difference, Verdict, probability

Run = tuple[StoredResult, ...]  # the results of one sample set
KEY = "suite, label or prompt, sample index, seed, resolution"


@dataclass(frozen=True)
class Side:
    """What stands on one side: one run, or one method's runs of several training seeds."""

    path: Path
    runs: tuple[Run, ...]

    @property
    def title(self) -> str:
        """Name of the checkpoint, or of the method and how many runs of it."""
        first = self.runs[0][0].result
        if len(self.runs) == 1:
            return first.plan.checkpoint.name if first.plan else first.target
        return f"{first.plan.checkpoint.encoding if first.plan else first.target}, {len(self.runs)} training seeds"

    def metrics(self) -> list[str]:
        """Names of what was measured, in the order of the first run's results."""
        return list(dict.fromkeys(m.metric for found in self.runs[0] for m in found.result.measurements))


@dataclass(frozen=True)
class Line:
    """One metric. baseline and new are means over the runs of a side; `verdict` is made from the Holm-adjusted p."""

    metric: Metric
    number: str
    n: int
    baseline: float | None
    new: float | None
    difference: Difference
    p_adjusted: float | None
    detectable: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """All metrics of two sides, the level of evidence, and what else a reader must know."""

    baseline: Side
    new: Side
    level: Literal["L1", "L2"]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    @property
    def evidence(self) -> str:
        """The level of evidence in one sentence."""
        return pairing.EVIDENCE[self.level]


def open_side(path: Path) -> Side:
    """A run folder, or a folder of runs of one method that were trained with several seeds.

    Raises:
        StorageError: no result below the folder. OptionError: runs of other encodings, or of the same weights.
    """
    runs: dict[Path, list[StoredResult]] = {}
    for found in read_results(path):
        if run_of(found.path) == path or not (path / RESULTS).is_dir():
            runs.setdefault(run_of(found.path), []).append(found)
    if not runs:
        raise StorageError(f"{path} holds no result; score it first: harope-bench eval {path}")
    side = Side(path, tuple(tuple(run) for run in runs.values()))
    if len(side.runs) > 1:
        _check_method(side)
    return side


def _check_method(side: Side) -> None:
    plans = [run[0].result.plan for run in side.runs]
    checkpoints = [plan.checkpoint for plan in plans if plan]
    if len(checkpoints) < len(plans):
        raise OptionError(f"{side.path} holds images without a plan; give the run folder itself")
    methods = {(c.backbone, c.encoding, str(sorted(c.options.items()))) for c in checkpoints}
    if len(methods) > 1:
        kinds = ", ".join(sorted({c.encoding for c in checkpoints}))
        raise OptionError(f"{side.path} holds runs of several methods ({kinds}); a side is one run, or one method's training seeds")
    if len({c.sha256 for c in checkpoints}) < len(checkpoints):
        raise OptionError(f"{side.path} holds two runs of the same weights; training seeds are different weights, give one run folder")


def compare(baseline: Side, new: Side, metrics: Sequence[str] = ()) -> Comparison:
    """New minus baseline in each metric (all that either side has, or those named), Holm-adjusted over the lines.

    Raises:
        UnknownName: a metric that neither side has. OptionError: several training seeds against a single run.
    """
    known = list(dict.fromkeys([*baseline.metrics(), *new.metrics()]))
    if not known:
        raise StorageError(f"{baseline.path} and {new.path} hold no measurement; evaluate the runs again")
    for name in metrics:
        if name not in known:
            raise UnknownName("metric", name, known)
    counts = len(baseline.runs), len(new.runs)
    if counts != (1, 1) and min(counts) < 2:
        raise OptionError(f"a method needs two training seeds or more on both sides, found {counts[0]} and {counts[1]}; give run folders")
    lines = [_line(name, baseline, new) for name in dict.fromkeys(metrics or known)]
    adjusted = pairing.holm_adjusted([line.difference for line in lines])
    decided = tuple(line if p is None else _decided(line, p) for line, p in zip(lines, adjusted, strict=True))
    return Comparison(baseline, new, "L1" if counts == (1, 1) else "L2", decided, tuple(_notes(baseline, new)))


def _decided(line: Line, p: float) -> Line:
    return replace(line, p_adjusted=p, verdict=significance.verdict(line.metric.direction, line.difference.delta or 0.0, p))


def _line(name: str, baseline: Side, new: Side) -> Line:
    sides = [[_with(run, name) for run in side.runs] for side in (baseline, new)]
    known = next(found for side in sides for found in side if found is not None)
    metric, measured = _metric(known, name), known.result.measured(name)
    assert measured is not None
    found = _difference(metric, sides[0], sides[1])
    values = [_mean(name, side) for side in sides]
    detectable = significance.detectable(found.se, found.df)
    return Line(metric, measured.name, measured.n_scored, values[0], values[1], found, None, detectable, found.verdict)


def _with(run: Run, metric: str) -> StoredResult | None:
    """The result of a run that holds this metric."""
    return next((found for found in run if found.result.measured(metric) is not None), None)


def _metric(found: StoredResult, name: str) -> Metric:
    metrics = registry.load_plugin("evaluators", found.result.evaluator, EvaluatorContract).metrics
    metric = next((m for m in metrics if m.name == name), None)
    if metric is None:
        raise UnknownName(f"metric of evaluator {found.result.evaluator}", name, [m.name for m in metrics])
    return metric


def _values(name: str, side: Sequence[StoredResult | None]) -> list[float | None]:
    measured = [found.result.measured(name) if found else None for found in side]
    return [m.value if m else None for m in measured]


def _mean(name: str, side: Sequence[StoredResult | None]) -> float | None:
    values = [v for v in _values(name, side) if v is not None]
    return float(np.mean(values)) if len(values) == len(side) else None


def _difference(metric: Metric, old: Sequence[StoredResult | None], new: Sequence[StoredResult | None]) -> Difference:
    before, after = [f for f in old if f], [f for f in new if f]
    if len(before) < len(old) or len(after) < len(new):
        return significance.silent(f"{metric.name} was not measured in every run")
    if len(before) == len(after) == 1:
        return contrast(metric.name, metric.direction, before[0], after[0], RULER)
    feet = [_footing(metric, found) for found in (*before, *after)]
    if differs := next((d for foot in feet[1:] if (d := unlike(feet[0], foot, RULER))), None):
        return significance.silent(differs)
    return _between_methods(metric, before, after)


def _footing(metric: Metric, found: StoredResult) -> Footing:
    measured = found.result.measured(metric.name)
    assert measured is not None
    return footing(found.result, measured)


def _between_methods(metric: Metric, old: list[StoredResult], new: list[StoredResult]) -> Difference:
    values = [[v for v in _values(metric.name, side) if v is not None] for side in (old, new)]
    if len(values[0]) < len(old) or len(values[1]) < len(new):
        return significance.silent("a value is missing")
    shared, told = _shared(metric, old, new)
    found = hierarchical(values[0], values[1], shared)
    word = significance.verdict(metric.direction, found.delta, found.p)
    why = f"{len(old)} against {len(new)} training seeds, {told}"
    return Difference(found.delta, found.se, found.low, found.high, found.p, False, word, why, "Student's t over training seeds", found.df)


def _shared(metric: Metric, old: list[StoredResult], new: list[StoredResult]) -> tuple[float, str]:
    """Variance of drawing that the spread over a side's runs cannot hold, and in words what was assumed."""
    rows = [paired_rows(metric.name, old[0], other) for other in (*old[1:], *new)]
    if not any(row.why for row in rows):
        first, *others = _contributions(rows)
        words = "same requests drawn by all" if rows[0].prompts is None else "same prompts scored by all"
        return shared_variance([first, *others[: len(old) - 1]], others[len(old) - 1 :]), words
    seeds = [[_seed(f) for f in side] for side in (old, new)]
    if all(None not in side and len(set(side)) == len(side) for side in seeds):
        return 0.0, "other draws in every run"
    measured = [[f.result.measured(metric.name) for f in side] for side in (old, new)]
    errors = [float(np.mean([(m.se or 0.0) ** 2 for m in side if m])) for side in measured]
    return sum(errors), "drawing errors taken as common to a side's runs"


def _contributions(rows: Sequence[Rows]) -> list[np.ndarray]:
    """Return the contributions of the first run and of each other: of samples (N,), or of prompts (P,) where prompts pair."""
    if (pairs := rows[0].prompts) is not None:
        return [prompt_contributions(side) for side in (pairs.old, *(row.prompts.new for row in rows if row.prompts is not None))]
    return [side for side in (rows[0].old, *(row.new for row in rows)) if side is not None]


def _seed(found: StoredResult) -> int | None:
    return found.result.plan.settings.seed if found.result.plan else None


def _notes(baseline: Side, new: Side) -> list[str]:
    """Settings in which the sides differ, which may be the question, and what is not recorded, so that nobody can compare it."""
    first = [side.runs[0][0].result for side in (baseline, new)]
    feet = [footing(result, result.measurements[0]) for result in first if result.measurements]
    notes = [f"drawn differently: {what}" for what in unlikes(feet[0], feet[1], SETTINGS)] if len(feet) == 2 else []
    every = [footing(f.result, m) for side in (baseline, new) for run in side.runs for f in run for m in f.result.measurements[:1]]
    if missing := unrecorded(every):
        notes.append(f"not recorded, so nobody knows whether the sides agree: {', '.join(missing)}")
    failed = sum(
        m.n_failed + m.n_abstained for side in (baseline, new) for run in side.runs for f in run for m in f.result.measurements[:1]
    )
    return [*notes, *([f"{failed:,} samples failed or abstained and are in no number"] if failed else [])]


def words(comparison: Comparison) -> list[str]:
    """The comparison as lines of text."""
    told = [
        f"baseline  {comparison.baseline.title}  ({comparison.baseline.path})",
        f"new       {comparison.new.title}  ({comparison.new.path})",
    ]
    told += [f"evidence  {comparison.evidence}", *(f"note      {note}" for note in comparison.notes), ""]
    head = ("metric", "baseline", "new", "difference", "95% interval", "p", "p, Holm", "detectable", "verdict")
    told += in_columns([head, *(_cells(line) for line in comparison.lines)])
    return [*told, "", *together([(line.number, _how(line)) for line in comparison.lines])]


def _cells(line: Line) -> tuple[str, ...]:
    digits, found = line.metric.decimals + 1, line.difference
    return (
        line.number,
        shown(line.baseline, digits),
        shown(line.new, digits),
        shown(found.delta, digits, "+"),
        ends(found.low, found.high, digits),
        probability(found.p),
        probability(line.p_adjusted),
        shown(line.detectable, digits),
        line.verdict,
    )


def _how(line: Line) -> str:
    found, digits = line.difference, line.metric.decimals + 1
    parts = [found.why.replace("paired by sample", f"paired by {KEY}", 1), *([found.test] if found.p is not None else [])]
    if found.again is not None:
        parts.append(f"same prompts, new seeds: {ends(found.again.low, found.again.high, digits)}; the table's interval is for new prompts")
    if found.wins is not None:
        parts.append(f"{found.wins:,} won, {found.losses:,} lost, {found.ties:,} alike")
    return "; ".join(parts)


def together(told: Sequence[tuple[str, str]]) -> list[str]:
    """`fid, is: why` lines: names with the same words share a line."""
    names: dict[str, list[str]] = {}
    for name, why in told:
        names.setdefault(why, []).append(name)
    return [f"{', '.join(having)}: {why}" for why, having in names.items()]


def shown(value: float | None, digits: int, sign: str = "") -> str:
    """A number with so many digits, or a dash; what rounds to zero has no minus."""
    return "-" if value is None else f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def ends(low: float | None, high: float | None, digits: int) -> str:
    """An interval, or a dash."""
    return "-" if low is None or high is None else f"{shown(low, digits, '+')} to {shown(high, digits, '+')}"


def in_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def facts(comparison: Comparison) -> dict[str, object]:
    """The comparison as plain JSON values."""
    sides = {name: {"path": str(s.path), "title": s.title, "runs": len(s.runs)} for name, s in _sides(comparison)}
    return {
        **sides,
        "level": comparison.level,
        "evidence": comparison.evidence,
        "notes": list(comparison.notes),
        "lines": _facts(comparison),
    }


def _sides(comparison: Comparison) -> list[tuple[str, Side]]:
    return [("baseline", comparison.baseline), ("new", comparison.new)]


def _facts(comparison: Comparison) -> list[dict[str, object]]:
    def plain(line: Line) -> dict[str, object]:
        found = line.difference._asdict()
        found["again"] = None if line.difference.again is None else line.difference.again._asdict()
        del found["verdict"]
        values = {"baseline": line.baseline, "new": line.new, "p_adjusted": line.p_adjusted, "detectable": line.detectable}
        named = {"metric": line.metric.name, "number": line.number, "n": line.n, "direction": line.metric.direction}
        return {**named, **values, **found, "verdict": line.verdict}

    return [plain(line) for line in comparison.lines]
