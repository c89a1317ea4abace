"""Comparison of two runs, or of two methods with several training seeds each, by metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from harope_bench.core import registry
from harope_bench.core.errors import OptionError, StorageError, UnknownNameError
from harope_bench.core.metric_names import match_metric_name
from harope_bench.core.plugin_contracts import EvaluatorContract
from harope_bench.core.schema import Measurement, Metric
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

RunResults = tuple[StoredResult, ...]  # the results of one run
PAIRING_KEY = "suite, label or prompt, sample index, seed, resolution"
TABLE_HEADER = (
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


@dataclass(frozen=True)
class ComparedRuns:
    """One side of a comparison: one run, or the runs of one method with several training seeds."""

    path: Path
    runs: tuple[RunResults, ...]

    @property
    def title(self) -> str:
        """Return the checkpoint's name, or the method's name and its number of runs."""
        first_result = self.runs[0][0].result
        plan = first_result.plan
        if len(self.runs) == 1:
            return plan.checkpoint.name if plan else first_result.target
        method = plan.checkpoint.encoding if plan else first_result.target
        return f"{method}, {len(self.runs)} training seeds"

    def metric_names(self) -> list[str]:
        """Return the names of the measured metrics, in the order of the first run's results."""
        names = [
            measurement.metric
            for stored_result in self.runs[0]
            for measurement in stored_result.result.measurements
        ]
        return list(dict.fromkeys(names))


@dataclass(frozen=True)
class MetricComparison:
    """The comparison of one metric.

    Attributes:
        metric: the metric as its evaluator declares it.
        measurement_name: name of the measurement, such as fid-50k.
        n_scored: number of scored samples.
        baseline_value: mean over the runs of the baseline; None if a value is missing.
        new_value: mean over the runs of the new side; None if a value is missing.
        difference: new minus baseline.
        p_adjusted: Holm-adjusted p value; None without a test.
        detectable_difference: smallest difference that is detected with 80% power.
        verdict: verdict by the adjusted p value.
    """

    metric: Metric
    measurement_name: str
    n_scored: int
    baseline_value: float | None
    new_value: float | None
    difference: Difference
    p_adjusted: float | None
    detectable_difference: float | None
    verdict: Verdict


@dataclass(frozen=True)
class RunComparison:
    """The comparison of all metrics of two sides, with the level of evidence and notes."""

    baseline_runs: ComparedRuns
    new_runs: ComparedRuns
    level: Literal["L1", "L2"]
    metrics: tuple[MetricComparison, ...]
    notes: tuple[str, ...]

    @property
    def evidence(self) -> str:
        """Return in one sentence what the test rests on: checkpoints, or several training seeds."""
        return pairing.EVIDENCE[self.level]


def load_compared_runs(path: Path) -> ComparedRuns:
    """Load a run folder, or a folder with the runs of one method and several training seeds.

    Raises:
        StorageError: No result is below the folder.
        OptionError: The runs are of several methods, or two are of the same weights.
    """
    results_by_run: dict[Path, list[StoredResult]] = {}
    for stored_result in read_results(path):
        run_folder = run_folder_of(stored_result.path)
        if run_folder == path or not (path / RESULTS_FOLDER).is_dir():
            results_by_run.setdefault(run_folder, []).append(stored_result)
    if not results_by_run:
        raise StorageError(
            f"{path} holds no result; evaluate a run first: harope-bench eval {path}"
        )
    runs = tuple(tuple(results) for results in results_by_run.values())
    if len(runs) > 1:
        _check_method(path, runs)
    return ComparedRuns(path, runs)


def _check_method(path: Path, runs: Sequence[RunResults]) -> None:
    """Raise OptionError unless the runs are of one method with different weights."""
    plans = [run[0].result.plan for run in runs]
    checkpoints = [plan.checkpoint for plan in plans if plan]
    if len(checkpoints) < len(plans):
        raise OptionError(f"{path} holds images without a plan; give the run folder itself")
    methods = {
        (checkpoint.backbone, checkpoint.encoding, str(sorted(checkpoint.options.items())))
        for checkpoint in checkpoints
    }
    if len(methods) > 1:
        encodings = ", ".join(sorted({checkpoint.encoding for checkpoint in checkpoints}))
        raise OptionError(
            f"{path} holds runs of several methods ({encodings}); give one run, or the training"
            " seeds of one method"
        )
    if len({checkpoint.identity for checkpoint in checkpoints}) < len(checkpoints):
        raise OptionError(
            f"{path} holds two runs of the same weights; training seeds have different weights,"
            " give one run folder"
        )


def compare_runs(
    baseline_runs: ComparedRuns, new_runs: ComparedRuns, metrics: Sequence[str] = ()
) -> RunComparison:
    """Return new minus baseline in each metric, with p values Holm-adjusted over the metrics.

    Args:
        baseline_runs: side to compare with.
        new_runs: side of interest.
        metrics: names of the metrics to compare, in upper or lower case; by default all that
            either side has.

    Raises:
        UnknownNameError: Neither side has a metric of that name.
        OptionError: One side is a single run, the other has several training seeds.
    """
    known_names = list(dict.fromkeys([*baseline_runs.metric_names(), *new_runs.metric_names()]))
    if not known_names:
        raise StorageError(
            f"{baseline_runs.path} and {new_runs.path} hold no measurement; evaluate the runs again"
        )
    requested_names = [match_metric_name(name, known_names) for name in metrics]
    run_counts = (len(baseline_runs.runs), len(new_runs.runs))
    if run_counts != (1, 1) and min(run_counts) < 2:
        raise OptionError(
            "a method needs two training seeds or more on both sides, found"
            f" {run_counts[0]} and {run_counts[1]}; give run folders"
        )

    comparisons = [
        _compare_metric(name, baseline_runs, new_runs)
        for name in dict.fromkeys(requested_names or known_names)
    ]
    p_values = pairing.adjusted_p_values([comparison.difference for comparison in comparisons])
    return RunComparison(
        baseline_runs,
        new_runs,
        "L1" if run_counts == (1, 1) else "L2",
        tuple(map(_with_adjusted_p, comparisons, p_values)),
        tuple(_comparison_notes(baseline_runs, new_runs)),
    )


def adjust_together(comparisons: Sequence[RunComparison]) -> tuple[RunComparison, ...]:
    """Return comparisons with p values and verdicts Holm-adjusted over the metrics of all of them.

    Several runs that are compared with one baseline are one family of tests.
    """
    metrics = [metric for comparison in comparisons for metric in comparison.metrics]
    p_values = pairing.adjusted_p_values([metric.difference for metric in metrics])
    adjusted = map(_with_adjusted_p, metrics, p_values)
    return tuple(
        replace(comparison, metrics=tuple(islice(adjusted, len(comparison.metrics))))
        for comparison in comparisons
    )


def _with_adjusted_p(comparison: MetricComparison, p: float | None) -> MetricComparison:
    """Return the comparison with an adjusted p value and the verdict by it."""
    if p is None:
        return comparison
    delta = comparison.difference.delta or 0.0
    verdict = significance.verdict(comparison.metric.direction, delta, p)
    return replace(comparison, p_adjusted=p, verdict=verdict)


def _compare_metric(
    name: str, baseline_runs: ComparedRuns, new_runs: ComparedRuns
) -> MetricComparison:
    """Return the comparison of one metric, before p values are adjusted."""
    baseline_results = [_result_with_metric(run, name) for run in baseline_runs.runs]
    new_results = [_result_with_metric(run, name) for run in new_runs.runs]
    known_result = next(
        stored_result
        for stored_result in (*baseline_results, *new_results)
        if stored_result is not None
    )
    metric = _declared_metric(known_result, name)
    measurement = _find_measurement(known_result, name)
    difference = _metric_difference(metric, baseline_results, new_results)
    return MetricComparison(
        metric=metric,
        measurement_name=measurement.name,
        n_scored=measurement.n_scored,
        baseline_value=_mean_value(name, baseline_results),
        new_value=_mean_value(name, new_results),
        difference=difference,
        p_adjusted=None,
        detectable_difference=significance.detectable_difference(difference.se, difference.df),
        verdict=difference.verdict,
    )


def _result_with_metric(run: RunResults, metric: str) -> StoredResult | None:
    """Return the result of a run that holds the metric; None if none does."""
    for stored_result in run:
        if stored_result.result.find_measurement(metric) is not None:
            return stored_result
    return None


def _find_measurement(stored_result: StoredResult, metric: str) -> Measurement:
    """Return the measurement of a metric that the result is known to hold."""
    measurement = stored_result.result.find_measurement(metric)
    assert measurement is not None
    return measurement


def _declared_metric(stored_result: StoredResult, name: str) -> Metric:
    """Return the metric as the result's evaluator declares it."""
    evaluator = stored_result.result.evaluator
    contract = registry.load_plugin("evaluators", evaluator, EvaluatorContract)
    metrics = contract.profile_metrics(stored_result.result.profile)
    for metric in metrics:
        if metric.name == name:
            return metric
    raise UnknownNameError(
        f"metric of evaluator {evaluator}", name, [metric.name for metric in metrics]
    )


def _metric_values(name: str, results: Sequence[StoredResult | None]) -> list[float | None]:
    """Return the value of a metric in each result; None if it is missing."""
    values = []
    for stored_result in results:
        measurement = stored_result.result.find_measurement(name) if stored_result else None
        values.append(measurement.value if measurement else None)
    return values


def _mean_value(name: str, results: Sequence[StoredResult | None]) -> float | None:
    """Return the mean of a metric over results; None if a value is missing."""
    values = [value for value in _metric_values(name, results) if value is not None]
    return float(np.mean(values)) if len(values) == len(results) else None


def _metric_difference(
    metric: Metric,
    baseline_run_results: Sequence[StoredResult | None],
    new_run_results: Sequence[StoredResult | None],
) -> Difference:
    """Return the difference of one metric between two runs or two methods."""
    baseline_results = [stored_result for stored_result in baseline_run_results if stored_result]
    new_results = [stored_result for stored_result in new_run_results if stored_result]
    if len(baseline_results) < len(baseline_run_results) or len(new_results) < len(new_run_results):
        return significance.not_comparable(f"{metric.name} was not measured in every run")
    if len(baseline_results) == len(new_results) == 1:
        return compare_results(
            metric.name, metric.direction, baseline_results[0], new_results[0], MEASUREMENT_FIELDS
        )

    first_key, *other_keys = (
        measurement_key(stored_result.result, _find_measurement(stored_result, metric.name))
        for stored_result in (*baseline_results, *new_results)
    )
    for key in other_keys:
        key_difference = first_key_difference(first_key, key, MEASUREMENT_FIELDS)
        if key_difference:
            return significance.not_comparable(key_difference)
    return _method_difference(metric, baseline_results, new_results)


def _method_difference(
    metric: Metric, baseline_results: list[StoredResult], new_results: list[StoredResult]
) -> Difference:
    """Return the difference of two methods over their training seeds."""
    baseline_values = [v for v in _metric_values(metric.name, baseline_results) if v is not None]
    new_values = [v for v in _metric_values(metric.name, new_results) if v is not None]
    if len(baseline_values) < len(baseline_results) or len(new_values) < len(new_results):
        return significance.not_comparable("a value is missing")
    variance, assumption = _shared_variance(metric, baseline_results, new_results)
    method = method_difference(baseline_values, new_values, variance)
    return Difference(
        method.delta,
        method.se,
        method.low,
        method.high,
        method.p,
        is_paired=False,
        verdict=significance.verdict(metric.direction, method.delta, method.p),
        reason=f"{len(baseline_results)} against {len(new_results)} training seeds, {assumption}",
        test="Student's t over training seeds",
        df=method.df,
    )


def _shared_variance(
    metric: Metric, baseline_results: list[StoredResult], new_results: list[StoredResult]
) -> tuple[float, str]:
    """Return the sampling variance that all runs of a method share, and what it assumes, as text.

    The variance over the runs of a method does not include it.
    """
    # Equal requests or prompts in all runs: estimated from the contributions
    pairs = [
        pair_contributions(metric.name, baseline_results[0], stored_result)
        for stored_result in (*baseline_results[1:], *new_results)
    ]
    if not any(pair.reason for pair in pairs):
        contributions = _contributions(pairs)
        assumption = (
            "same requests generated by all"
            if pairs[0].prompt_pairs is None
            else "same prompts scored by all"
        )
        variance = shared_variance(
            contributions[: len(baseline_results)], contributions[len(baseline_results) :]
        )
        return variance, assumption

    # Different seeds in all runs of each method: nothing is shared
    seeds_by_method = [
        [_seed(stored_result) for stored_result in results]
        for results in (baseline_results, new_results)
    ]
    if all(None not in seeds and len(set(seeds)) == len(seeds) for seeds in seeds_by_method):
        return 0.0, "other seeds in every run"

    # Unknown: the full sampling variance of a run, which is the most that can be shared
    variances = []
    for results in (baseline_results, new_results):
        measurements = [_find_measurement(stored_result, metric.name) for stored_result in results]
        variances.append(float(np.mean([(m.se or 0.0) ** 2 for m in measurements])))
    return sum(variances), "sampling errors assumed common to all runs of a side"


def _contributions(pairs: Sequence[PairedContributions]) -> list[np.ndarray]:
    """Return the contributions of the first run and of each other run that is paired with it.

    They are those of samples (N,), or of prompts (P,) if prompts are paired.
    """
    prompt_pairs = [pair.prompt_pairs for pair in pairs if pair.prompt_pairs is not None]
    if pairs[0].prompt_pairs is not None:
        runs = (
            pairs[0].prompt_pairs.baseline_samples,
            *(pair.new_samples for pair in prompt_pairs),
        )
        return [prompt_contributions(run) for run in runs]
    contributions = (pairs[0].baseline_contributions, *(pair.new_contributions for pair in pairs))
    return [values for values in contributions if values is not None]


def _seed(stored_result: StoredResult) -> int | None:
    plan = stored_result.result.plan
    return plan.settings.seed if plan else None


def _comparison_notes(baseline_runs: ComparedRuns, new_runs: ComparedRuns) -> list[str]:
    """Return notes on different settings, unrecorded fields and failed samples."""
    notes = []
    first_keys = [
        measurement_key(side.runs[0][0].result, side.runs[0][0].result.measurements[0])
        for side in (baseline_runs, new_runs)
        if side.runs[0][0].result.measurements
    ]
    if len(first_keys) == 2:
        for text in key_differences(first_keys[0], first_keys[1], SETTING_FIELDS):
            notes.append(f"generated differently: {text}")

    keys: list[MeasurementKey] = []
    n_failed = 0
    for stored_result in _stored_results(baseline_runs, new_runs):
        for measurement in stored_result.result.measurements[:1]:
            keys.append(measurement_key(stored_result.result, measurement))
            n_failed += measurement.n_failed + measurement.n_abstained
    unrecorded_texts = unrecorded_fields(keys)
    if unrecorded_texts:
        notes.append(
            f"not recorded, so it is unknown whether the sides agree: {', '.join(unrecorded_texts)}"
        )
    if n_failed:
        notes.append(f"{n_failed:,} samples failed or abstained and are in no number")
    return notes


def _stored_results(*sides: ComparedRuns) -> Iterator[StoredResult]:
    """Yield the results of all runs of all sides."""
    for side in sides:
        for run in side.runs:
            yield from run


def comparison_text(comparison: RunComparison) -> list[str]:
    """Return the comparison as lines of text."""
    rows = [_table_cells(metric_comparison) for metric_comparison in comparison.metrics]
    methods = [
        (metric_comparison.measurement_name, _method_text(metric_comparison))
        for metric_comparison in comparison.metrics
    ]
    return [
        f"baseline  {comparison.baseline_runs.title}  ({comparison.baseline_runs.path})",
        f"new       {comparison.new_runs.title}  ({comparison.new_runs.path})",
        f"evidence  {comparison.evidence}",
        *(f"note      {note}" for note in comparison.notes),
        "",
        *align_columns([TABLE_HEADER, *rows]),
        "",
        *group_by_reason(methods),
    ]


def _table_cells(comparison: MetricComparison) -> tuple[str, ...]:
    """Return the cells of one row of the table, in the order of TABLE_HEADER."""
    digits = comparison.metric.decimals + 1
    difference = comparison.difference
    return (
        comparison.measurement_name,
        format_number(comparison.baseline_value, digits),
        format_number(comparison.new_value, digits),
        format_number(difference.delta, digits, "+"),
        format_interval(difference.low, difference.high, digits),
        format_p_value(difference.p),
        format_p_value(comparison.p_adjusted),
        format_number(comparison.detectable_difference, digits),
        comparison.verdict,
    )


def _method_text(comparison: MetricComparison) -> str:
    """Return pairing, test, second interval and counts of one comparison."""
    difference = comparison.difference
    digits = comparison.metric.decimals + 1
    parts = [difference.reason.replace("paired by sample", f"paired by {PAIRING_KEY}", 1)]
    if difference.p is not None:
        parts.append(difference.test)
    if difference.new_seeds_interval is not None:
        _, low, high = difference.new_seeds_interval
        parts.append(
            f"same prompts, new seeds: {format_interval(low, high, digits)}; the table's interval"
            " is for new prompts"
        )
    if difference.wins is not None:
        parts.append(
            f"{difference.wins:,} better, {difference.losses:,} worse, {difference.ties:,} equal"
        )
    return "; ".join(parts)


def group_by_reason(reasons: Sequence[tuple[str, str]]) -> list[str]:
    """Return lines like "fid, is: reason", one line for all names with the same reason.

    Args:
        reasons: pairs of a name and its reason.
    """
    names_by_reason: dict[str, list[str]] = {}
    for name, reason in reasons:
        names_by_reason.setdefault(reason, []).append(name)
    return [f"{', '.join(names)}: {reason}" for reason, names in names_by_reason.items()]


def format_number(value: float | None, digits: int, sign: str = "") -> str:
    """Return a number with `digits` decimals, or a dash for None. Zero has no minus sign."""
    if value is None:
        return "-"
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def format_interval(low: float | None, high: float | None, digits: int) -> str:
    """Return an interval as text, or a dash."""
    if low is None or high is None:
        return "-"
    return f"{format_number(low, digits, '+')} to {format_number(high, digits, '+')}"


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines, with columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def comparison_json(comparison: RunComparison) -> dict[str, object]:
    """Return the comparison as JSON values."""
    return {
        "baseline": _side_json(comparison.baseline_runs),
        "new": _side_json(comparison.new_runs),
        "level": comparison.level,
        "evidence": comparison.evidence,
        "notes": list(comparison.notes),
        "metrics": [_metric_json(metric_comparison) for metric_comparison in comparison.metrics],
    }


def _side_json(side: ComparedRuns) -> dict[str, object]:
    return {"path": str(side.path), "title": side.title, "runs": len(side.runs)}


def _metric_json(comparison: MetricComparison) -> dict[str, object]:
    """Return the comparison of one metric as JSON values."""
    difference = comparison.difference._asdict()
    new_seeds = comparison.difference.new_seeds_interval
    difference["new_seeds_interval"] = new_seeds._asdict() if new_seeds else None
    del difference["verdict"]
    return {
        "metric": comparison.metric.name,
        "measurement_name": comparison.measurement_name,
        "n_scored": comparison.n_scored,
        "direction": comparison.metric.direction,
        "baseline": comparison.baseline_value,
        "new": comparison.new_value,
        "p_adjusted": comparison.p_adjusted,
        "detectable_difference": comparison.detectable_difference,
        **difference,
        "verdict": comparison.verdict,
    }
