"""Two runs, or two methods of several training seeds each: metric by metric, what is different and
how sure that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from harope_bench.core import registry
from harope_bench.core.errors import OptionError, StorageError, UnknownNameError
from harope_bench.core.plugin_contracts import EvaluatorContract
from harope_bench.core.schema import Metric
from harope_bench.data.result_paths import run_folder_of
from harope_bench.data.result_store import StoredResult, read_results
from harope_bench.data.run_folder import RESULTS_FOLDER
from harope_bench.statistics import pairing, significance
from harope_bench.statistics.intervals.paired_ratios import prompt_contributions
from harope_bench.statistics.intervals.training_seeds import method_difference, shared_variance
from harope_bench.statistics.pairing import (
    MEASUREMENT_FIELDS,
    SETTING_FIELDS,
    MeasurementKey,
    PairedContributions,
    compare_results,
    first_key_difference,
    key_differences,
    measurement_key,
    pair_contributions,
    unrecorded_fields,
)
from harope_bench.statistics.significance import Difference, Verdict, format_p_value

RunResults = tuple[StoredResult, ...]  # the results of one sample set
PAIRING_KEY = "suite, label or prompt, sample index, seed, resolution"


@dataclass(frozen=True)
class ComparedRuns:
    """What stands on one side: one run, or one method's runs of several training seeds."""

    path: Path
    runs: tuple[RunResults, ...]

    @property
    def title(self) -> str:
        """Name of the checkpoint, or of the method and how many runs of it."""
        first = self.runs[0][0].result
        if len(self.runs) == 1:
            return first.plan.checkpoint.name if first.plan else first.target
        return (
            f"{first.plan.checkpoint.encoding if first.plan else first.target}, {len(self.runs)}"
            " training seeds"
        )

    def metric_names(self) -> list[str]:
        """Names of what was measured, in the order of the first run's results."""
        return list(
            dict.fromkeys(m.metric for found in self.runs[0] for m in found.result.measurements)
        )


@dataclass(frozen=True)
class MetricComparison:
    """One metric. baseline and new are means over the runs of a side; `verdict` is made from the
    Holm-adjusted p.
    """

    metric: Metric
    measurement_name: str
    n_scored: int
    baseline: float | None
    new: float | None
    difference: Difference
    p_adjusted: float | None
    detectable_difference: float | None
    verdict: Verdict


@dataclass(frozen=True)
class RunComparison:
    """All metrics of two sides, the level of evidence, and what else a reader must know."""

    baseline: ComparedRuns
    new: ComparedRuns
    level: Literal["L1", "L2"]
    metrics: tuple[MetricComparison, ...]
    notes: tuple[str, ...]

    @property
    def evidence(self) -> str:
        """The level of evidence in one sentence."""
        return pairing.EVIDENCE[self.level]


def load_compared_runs(path: Path) -> ComparedRuns:
    """A run folder, or a folder of runs of one method that were trained with several seeds.

    Raises:
        StorageError: no result below the folder. OptionError: runs of other encodings, or of the
            same weights.
    """
    runs: dict[Path, list[StoredResult]] = {}
    for found in read_results(path):
        if run_folder_of(found.path) == path or not (path / RESULTS_FOLDER).is_dir():
            runs.setdefault(run_folder_of(found.path), []).append(found)
    if not runs:
        raise StorageError(f"{path} holds no result; score it first: harope-bench eval {path}")
    side = ComparedRuns(path, tuple(tuple(run) for run in runs.values()))
    if len(side.runs) > 1:
        _check_method(side)
    return side


def _check_method(side: ComparedRuns) -> None:
    plans = [run[0].result.plan for run in side.runs]
    checkpoints = [plan.checkpoint for plan in plans if plan]
    if len(checkpoints) < len(plans):
        raise OptionError(f"{side.path} holds images without a plan; give the run folder itself")
    methods = {(c.backbone, c.encoding, str(sorted(c.options.items()))) for c in checkpoints}
    if len(methods) > 1:
        kinds = ", ".join(sorted({c.encoding for c in checkpoints}))
        raise OptionError(
            f"{side.path} holds runs of several methods ({kinds}); a side is one run, or one"
            " method's training seeds"
        )
    if len({c.sha256 for c in checkpoints}) < len(checkpoints):
        raise OptionError(
            f"{side.path} holds two runs of the same weights; training seeds are different weights,"
            " give one run folder"
        )


def compare_runs(
    baseline: ComparedRuns, new: ComparedRuns, metrics: Sequence[str] = ()
) -> RunComparison:
    """New minus baseline in each metric (all that either side has, or those named), Holm-adjusted
    over the lines.

    Raises:
        UnknownName: a metric that neither side has. OptionError: several training seeds against a
            single run.
    """
    known = list(dict.fromkeys([*baseline.metric_names(), *new.metric_names()]))
    if not known:
        raise StorageError(
            f"{baseline.path} and {new.path} hold no measurement; evaluate the runs again"
        )
    for name in metrics:
        if name not in known:
            raise UnknownNameError("metric", name, known)
    counts = len(baseline.runs), len(new.runs)
    if counts != (1, 1) and min(counts) < 2:
        raise OptionError(
            f"a method needs two training seeds or more on both sides, found {counts[0]} and"
            f" {counts[1]}; give run folders"
        )
    lines = [_compare_metric(name, baseline, new) for name in dict.fromkeys(metrics or known)]
    adjusted = pairing.adjusted_p_values([line.difference for line in lines])
    decided = tuple(
        line if p is None else _with_adjusted_p(line, p)
        for line, p in zip(lines, adjusted, strict=True)
    )
    return RunComparison(
        baseline,
        new,
        "L1" if counts == (1, 1) else "L2",
        decided,
        tuple(_comparison_notes(baseline, new)),
    )


def _with_adjusted_p(line: MetricComparison, p: float) -> MetricComparison:
    return replace(
        line,
        p_adjusted=p,
        verdict=significance.verdict(line.metric.direction, line.difference.delta or 0.0, p),
    )


def _compare_metric(name: str, baseline: ComparedRuns, new: ComparedRuns) -> MetricComparison:
    sides = [[_result_with_metric(run, name) for run in side.runs] for side in (baseline, new)]
    known = next(found for side in sides for found in side if found is not None)
    metric = _declared_metric(known, name)
    measured = known.result.find_measurement(name)
    assert measured is not None
    found = _metric_difference(metric, sides[0], sides[1])
    values = [_mean_value(name, side) for side in sides]
    detectable = significance.detectable_difference(found.se, found.df)
    return MetricComparison(
        metric,
        measured.name,
        measured.n_scored,
        values[0],
        values[1],
        found,
        None,
        detectable,
        found.verdict,
    )


def _result_with_metric(run: RunResults, metric: str) -> StoredResult | None:
    """The result of a run that holds this metric."""
    return next((found for found in run if found.result.find_measurement(metric) is not None), None)


def _declared_metric(found: StoredResult, name: str) -> Metric:
    metrics = registry.load_plugin("evaluators", found.result.evaluator, EvaluatorContract).metrics
    metric = next((m for m in metrics if m.name == name), None)
    if metric is None:
        raise UnknownNameError(
            f"metric of evaluator {found.result.evaluator}", name, [m.name for m in metrics]
        )
    return metric


def _metric_values(name: str, side: Sequence[StoredResult | None]) -> list[float | None]:
    measured = [found.result.find_measurement(name) if found else None for found in side]
    return [m.value if m else None for m in measured]


def _mean_value(name: str, side: Sequence[StoredResult | None]) -> float | None:
    values = [v for v in _metric_values(name, side) if v is not None]
    return float(np.mean(values)) if len(values) == len(side) else None


def _metric_difference(
    metric: Metric, old: Sequence[StoredResult | None], new: Sequence[StoredResult | None]
) -> Difference:
    before = [f for f in old if f]
    after = [f for f in new if f]
    if len(before) < len(old) or len(after) < len(new):
        return significance.not_comparable(f"{metric.name} was not measured in every run")
    if len(before) == len(after) == 1:
        return compare_results(
            metric.name, metric.direction, before[0], after[0], MEASUREMENT_FIELDS
        )
    feet = [_measurement_key(metric, found) for found in (*before, *after)]
    if differs := next(
        (d for foot in feet[1:] if (d := first_key_difference(feet[0], foot, MEASUREMENT_FIELDS))),
        None,
    ):
        return significance.not_comparable(differs)
    return _between_methods(metric, before, after)


def _measurement_key(metric: Metric, found: StoredResult) -> MeasurementKey:
    measured = found.result.find_measurement(metric.name)
    assert measured is not None
    return measurement_key(found.result, measured)


def _between_methods(
    metric: Metric, old: list[StoredResult], new: list[StoredResult]
) -> Difference:
    values = [
        [v for v in _metric_values(metric.name, side) if v is not None] for side in (old, new)
    ]
    if len(values[0]) < len(old) or len(values[1]) < len(new):
        return significance.not_comparable("a value is missing")
    shared, told = _shared_variance(metric, old, new)
    found = method_difference(values[0], values[1], shared)
    word = significance.verdict(metric.direction, found.delta, found.p)
    why = f"{len(old)} against {len(new)} training seeds, {told}"
    return Difference(
        found.delta,
        found.se,
        found.low,
        found.high,
        found.p,
        False,
        word,
        why,
        "Student's t over training seeds",
        found.df,
    )


def _shared_variance(
    metric: Metric, old: list[StoredResult], new: list[StoredResult]
) -> tuple[float, str]:
    """Variance of drawing that the spread over a side's runs cannot hold, and in words what was
    assumed.
    """
    rows = [pair_contributions(metric.name, old[0], other) for other in (*old[1:], *new)]
    if not any(row.reason for row in rows):
        first, *others = _contributions(rows)
        words = (
            "same requests drawn by all"
            if rows[0].prompt_pairs is None
            else "same prompts scored by all"
        )
        return shared_variance([first, *others[: len(old) - 1]], others[len(old) - 1 :]), words
    seeds = [[_seed(f) for f in side] for side in (old, new)]
    if all(None not in side and len(set(side)) == len(side) for side in seeds):
        return 0.0, "other draws in every run"
    measured = [[f.result.find_measurement(metric.name) for f in side] for side in (old, new)]
    errors = [float(np.mean([(m.se or 0.0) ** 2 for m in side if m])) for side in measured]
    return sum(errors), "drawing errors taken as common to a side's runs"


def _contributions(rows: Sequence[PairedContributions]) -> list[np.ndarray]:
    """Return the contributions of the first run and of each other: of samples (N,), or of prompts
    (P,) where prompts pair.
    """
    if (pairs := rows[0].prompt_pairs) is not None:
        return [
            prompt_contributions(side)
            for side in (
                pairs.baseline,
                *(row.prompt_pairs.new for row in rows if row.prompt_pairs is not None),
            )
        ]
    return [side for side in (rows[0].baseline, *(row.new for row in rows)) if side is not None]


def _seed(found: StoredResult) -> int | None:
    return found.result.plan.settings.seed if found.result.plan else None


def _comparison_notes(baseline: ComparedRuns, new: ComparedRuns) -> list[str]:
    """Settings in which the sides differ, which may be the question, and what is not recorded, so
    that nobody can compare it.
    """
    first = [side.runs[0][0].result for side in (baseline, new)]
    feet = [
        measurement_key(result, result.measurements[0]) for result in first if result.measurements
    ]
    notes = (
        [f"drawn differently: {what}" for what in key_differences(feet[0], feet[1], SETTING_FIELDS)]
        if len(feet) == 2
        else []
    )
    every = [
        measurement_key(f.result, m)
        for side in (baseline, new)
        for run in side.runs
        for f in run
        for m in f.result.measurements[:1]
    ]
    if missing := unrecorded_fields(every):
        notes.append(f"not recorded, so nobody knows whether the sides agree: {', '.join(missing)}")
    failed = sum(
        m.n_failed + m.n_abstained
        for side in (baseline, new)
        for run in side.runs
        for f in run
        for m in f.result.measurements[:1]
    )
    return [
        *notes,
        *([f"{failed:,} samples failed or abstained and are in no number"] if failed else []),
    ]


def comparison_text(comparison: RunComparison) -> list[str]:
    """The comparison as lines of text."""
    told = [
        f"baseline  {comparison.baseline.title}  ({comparison.baseline.path})",
        f"new       {comparison.new.title}  ({comparison.new.path})",
    ]
    told += [
        f"evidence  {comparison.evidence}",
        *(f"note      {note}" for note in comparison.notes),
        "",
    ]
    head = (
        "metric",
        "baseline",
        "new",
        "difference",
        "95% interval",
        "p",
        "p, Holm",
        "detectable",
        "verdict",
    )
    told += align_columns([head, *(_table_cells(line) for line in comparison.metrics)])
    return [
        *told,
        "",
        *group_by_reason(
            [(line.measurement_name, _method_text(line)) for line in comparison.metrics]
        ),
    ]


def _table_cells(line: MetricComparison) -> tuple[str, ...]:
    digits = line.metric.decimals + 1
    found = line.difference
    return (
        line.measurement_name,
        format_number(line.baseline, digits),
        format_number(line.new, digits),
        format_number(found.delta, digits, "+"),
        format_interval(found.low, found.high, digits),
        format_p_value(found.p),
        format_p_value(line.p_adjusted),
        format_number(line.detectable_difference, digits),
        line.verdict,
    )


def _method_text(line: MetricComparison) -> str:
    found = line.difference
    digits = line.metric.decimals + 1
    parts = [
        found.reason.replace("paired by sample", f"paired by {PAIRING_KEY}", 1),
        *([found.test] if found.p is not None else []),
    ]
    if found.new_seeds_interval is not None:
        parts.append(
            "same prompts, new seeds:"
            f" {format_interval(found.new_seeds_interval.low, found.new_seeds_interval.high, digits)};"
            " the table's interval is for new prompts"
        )
    if found.wins is not None:
        parts.append(f"{found.wins:,} won, {found.losses:,} lost, {found.ties:,} alike")
    return "; ".join(parts)


def group_by_reason(told: Sequence[tuple[str, str]]) -> list[str]:
    """`fid, is: why` lines: names with the same words share a line."""
    names: dict[str, list[str]] = {}
    for name, why in told:
        names.setdefault(why, []).append(name)
    return [f"{', '.join(having)}: {why}" for why, having in names.items()]


def format_number(value: float | None, digits: int, sign: str = "") -> str:
    """A number with so many digits, or a dash; what rounds to zero has no minus."""
    return "-" if value is None else f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def format_interval(low: float | None, high: float | None, digits: int) -> str:
    """An interval, or a dash."""
    return (
        "-"
        if low is None or high is None
        else f"{format_number(low, digits, '+')} to {format_number(high, digits, '+')}"
    )


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def comparison_json(comparison: RunComparison) -> dict[str, object]:
    """The comparison as plain JSON values."""
    sides = {
        name: {"path": str(s.path), "title": s.title, "runs": len(s.runs)}
        for name, s in _sides(comparison)
    }
    return {
        **sides,
        "level": comparison.level,
        "evidence": comparison.evidence,
        "notes": list(comparison.notes),
        "lines": _metrics_json(comparison),
    }


def _sides(comparison: RunComparison) -> list[tuple[str, ComparedRuns]]:
    return [("baseline", comparison.baseline), ("new", comparison.new)]


def _metrics_json(comparison: RunComparison) -> list[dict[str, object]]:
    def plain(line: MetricComparison) -> dict[str, object]:
        found = line.difference._asdict()
        found["again"] = (
            None
            if line.difference.new_seeds_interval is None
            else line.difference.new_seeds_interval._asdict()
        )
        del found["verdict"]
        values = {
            "baseline": line.baseline,
            "new": line.new,
            "p_adjusted": line.p_adjusted,
            "detectable": line.detectable_difference,
        }
        named = {
            "metric": line.metric.name,
            "number": line.measurement_name,
            "n": line.n_scored,
            "direction": line.metric.direction,
        }
        return {**named, **values, **found, "verdict": line.verdict}

    return [plain(line) for line in comparison.metrics]
