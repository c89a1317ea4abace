"""Results that one chart may show together: of one benchmark, one size, or one metric by size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from harope_bench.core.chart_schema import SweepChart
from harope_bench.core.errors import BenchError
from harope_bench.core.schema import Metric, Result
from harope_bench.data.result_store import StoredResult, read_arrays, recorded_arrays_path
from harope_bench.evaluators.base import Evaluator, load_evaluator
from harope_bench.evaluators.prompt_scores import PromptEvaluator
from harope_bench.leaderboards.board import Board
from harope_bench.leaderboards.sweep import build_sweep_chart
from harope_bench.leaderboards.table_spec import EntryRow
from harope_bench.reports.encoding_styles import find_name
from harope_bench.reports.metric_titles import evaluator_title
from harope_bench.reports.runs import ReportedRun

MAX_SWEEP_PANELS = 6  # metrics of one suite by size


@dataclass(frozen=True)
class RunGroup:
    """The results of one prompt benchmark that were measured in one way on images of one size.

    Attributes:
        resolution: Side of the images in pixels; None if it is not recorded.
        family: What the results of several sizes share: evaluator, rules, judge and prompts.
        labels: Name of each result's run.
        baseline_index: Result that the others are compared with.
    """

    evaluator: PromptEvaluator
    suite: str
    resolution: int | None
    family: tuple[object, ...]
    labels: tuple[str, ...]
    stored_results: tuple[StoredResult, ...]
    baseline_index: int

    @property
    def name(self) -> str:
        """Return the name of the evaluator."""
        return self.stored_results[0].result.evaluator

    @property
    def title(self) -> str:
        """Return the title of the evaluator."""
        return evaluator_title(self.name)

    @property
    def size_text(self) -> str:
        """Return the size of the images in words."""
        return "size not recorded" if self.resolution is None else f"{self.resolution:,} px"


def name_runs(runs: Sequence[ReportedRun], boards: Sequence[Board]) -> dict[str, str]:
    """Return the name of each run in charts by the run's id.

    It is the label of its added row, the user's label, or the name of its checkpoint. A run
    without any of them has the name of its folder.
    """
    entry_labels = {
        path: row.title
        for board in boards
        for row in board.table.rows
        if isinstance(row, EntryRow) and row.is_added
        for path in row.result_paths
    }
    names = {}
    for run in runs:
        labels = [entry_labels.get(str(stored_result.path)) for stored_result in run.results]
        labels += [stored_result.result.label for stored_result in run.results]
        usual_name = run.plan.checkpoint.name if run.plan else run.id
        names[run.id] = next((label for label in labels if label), usual_name)
    return names


def drop_sizes(runs: Sequence[ReportedRun], run_names: Mapping[str, str]) -> dict[str, str]:
    """Return the names without the size of the images, which charts show elsewhere.

    Different checkpoints that would then share a name get that of the checkpoint as well.
    """
    names = {}
    for run in runs:
        side = run.plan.settings.resolution if run.plan else None
        name = run_names[run.id]
        names[run.id] = name if side is None else name.replace(f", {side:,} px", "")
    targets: dict[str, set[str]] = {}
    for run in runs:
        targets.setdefault(names[run.id], set()).add(run.title)
    return {
        run.id: names[run.id]
        if len(targets[names[run.id]]) == 1
        else f"{names[run.id]}, {run.title}"
        for run in runs
    }


def rename_lines(
    chart: SweepChart, runs: Sequence[ReportedRun], run_names: Mapping[str, str]
) -> SweepChart:
    """Return a sweep whose lines begin with the name of the run, not of its checkpoint.

    A checkpoint whose runs have several names stays as it is.
    """
    names: dict[str, set[str]] = {}
    for run in runs:
        if run.plan:
            names.setdefault(run.plan.checkpoint.name, set()).add(run_names[run.id])
    lines = []
    for line in chart.lines:
        checkpoint_name = find_name(line.label, names)
        label = line.label
        if checkpoint_name is not None and len(names[checkpoint_name]) == 1:
            label = next(iter(names[checkpoint_name])) + label[len(checkpoint_name) :]
        lines.append(line.model_copy(update={"label": label}))
    return chart.model_copy(update={"lines": tuple(lines)})


def run_encodings(runs: Sequence[ReportedRun], run_names: Mapping[str, str]) -> dict[str, str]:
    """Return the encoding of each run by the run's name in charts.

    A run without a plan counts as an encoding of its own.
    """
    return {run_names[run.id]: run.plan.checkpoint.encoding if run.plan else run.id for run in runs}


def find_evaluator(name: str) -> Evaluator | None:
    """Return an evaluator, None if its plug-in is not installed here or broken."""
    try:
        return load_evaluator(name)
    except BenchError:
        return None


def group_results(
    runs: Sequence[ReportedRun], boards: Sequence[Board], run_names: Mapping[str, str]
) -> list[RunGroup]:
    """Return the results of prompt benchmarks, grouped by benchmark and size, small sizes first.

    Args:
        boards: Their baselines are the baselines of the groups.
        run_names: Names of runs by their id.
    """
    members: dict[tuple[object, ...], list[tuple[ReportedRun, StoredResult]]] = {}
    for run in runs:
        for stored_result in run.results:
            if isinstance(find_evaluator(stored_result.result.evaluator), PromptEvaluator):
                key = (_family(stored_result.result), stored_result.result.side)
                members.setdefault(key, []).append((run, stored_result))
    baselines = _baseline_digests(boards)
    groups = [
        _make_group(pairs, run_names, baselines) for _, pairs in sorted(members.items(), key=_size)
    ]
    order = list(dict.fromkeys(key[0] for key in members))
    return sorted(groups, key=lambda group: order.index(group.family))


def _size(item: tuple[tuple[object, ...], object]) -> int:
    side = item[0][1]
    return side if isinstance(side, int) else 0


def _family(result: Result) -> tuple[object, ...]:
    """Return what two results must share to be in one chart."""
    return (
        result.evaluator,
        result.version,
        result.profile,
        result.rules,
        result.judge.name,
        result.judge.weights_sha256,
        result.reference_sha256,
    )


def _make_group(
    pairs: Sequence[tuple[ReportedRun, StoredResult]],
    run_names: Mapping[str, str],
    baseline_digests: set[str],
) -> RunGroup:
    """Return the group of these results; runs of one name get their path as well."""
    names = [run_names[run.id] for run, _ in pairs]
    unique_names = [
        name if names.count(name) == 1 else f"{name}, {run.id}"
        for name, (run, _) in zip(names, pairs, strict=True)
    ]
    results = tuple(stored_result for _, stored_result in pairs)
    first_result = results[0].result
    evaluator = load_evaluator(first_result.evaluator)
    assert isinstance(evaluator, PromptEvaluator)
    baseline_index = next(
        (
            i
            for i, stored_result in enumerate(results)
            if stored_result.result.plan_digest in baseline_digests
        ),
        0,
    )
    return RunGroup(
        evaluator,
        _suite_name(first_result),
        first_result.side,
        _family(first_result),
        tuple(unique_names),
        results,
        baseline_index,
    )


def _suite_name(result: Result) -> str:
    """Return the suite of a result, the reference's name if none is recorded."""
    if result.plan:
        return result.plan.suite
    return result.source.suite if result.source else result.reference


def _baseline_digests(boards: Sequence[Board]) -> set[str]:
    """Return the plans of the runs that are baselines in a table."""
    sources = (
        board.cells[comparison.baseline, comparison.column].source
        for board in boards
        for comparison in board.comparisons
    )
    return {source.plan_digest for source in sources if source and source.plan_digest}


def has_arrays(stored_result: StoredResult) -> bool:
    """Return whether the per-sample arrays of a result were kept."""
    return (
        stored_result.result.arrays_file is not None
        and recorded_arrays_path(stored_result).is_file()
    )


def main_metrics(evaluator: PromptEvaluator, stored_result: StoredResult) -> list[Metric]:
    """Return the metrics that sum a benchmark up: a mean over tasks, or one of all images.

    A benchmark without such a metric has all its metrics as main ones.
    """
    if evaluator.macro_metrics:
        return [metric for metric in evaluator.metrics if metric.name in evaluator.macro_metrics]
    if has_arrays(stored_result):
        arrays = read_arrays(stored_result)
        metrics = [metric for metric in evaluator.metrics if metric.name in arrays]
        is_scored = [np.isfinite(np.asarray(arrays[m.name], dtype=np.float64)) for m in metrics]
        n_images = int(np.any(is_scored, axis=0).sum()) if is_scored else 0
        for metric, is_counted in zip(metrics, is_scored, strict=True):
            if is_counted.sum() == n_images:
                return [metric]
    return list(evaluator.metrics)


def leaf_metrics(evaluator: PromptEvaluator, stored_result: StoredResult) -> list[Metric]:
    """Return metrics of which each prompt counts for one: the tasks, or one of all prompts."""
    members = {name for names in evaluator.macro_metrics.values() for name in names}
    if members:
        return [metric for metric in evaluator.metrics if metric.name in members]
    return main_metrics(evaluator, stored_result)


def sweep_charts(runs: Sequence[ReportedRun]) -> dict[str, list[SweepChart]]:
    """Return the metrics by image size of each suite that a checkpoint has at several sizes."""
    results = [stored_result for run in runs for stored_result in run.results]
    charts: dict[str, list[SweepChart]] = {}
    suites = dict.fromkeys(
        stored_result.result.plan.suite for stored_result in results if stored_result.result.plan
    )
    for suite in suites:
        suite_results = [
            stored_result
            for stored_result in results
            if stored_result.result.plan and stored_result.result.plan.suite == suite
        ]
        suite_charts = [
            chart
            for metric in _sweep_metrics(suite_results)
            if (chart := build_sweep_chart(suite_results, suite, metric, "resolution"))
            and any(len(line.points) > 1 for line in chart.lines)
        ]
        if suite_charts:
            charts[suite] = suite_charts[:MAX_SWEEP_PANELS]
    return charts


def _sweep_metrics(results: Sequence[StoredResult]) -> list[str]:
    """Return the measured metrics that a sweep shows, nothing for results of one size."""
    sizes = {stored_result.result.side for stored_result in results}
    if len(sizes) < 2:
        return []
    metrics_by_evaluator: dict[str, dict[str, None]] = {}
    for stored_result in results:
        names = metrics_by_evaluator.setdefault(stored_result.result.evaluator, {})
        for metric in _evaluator_metrics(stored_result):
            measurement = stored_result.result.find_measurement(metric.name)
            if measurement is not None and measurement.value is not None:
                names[metric.name] = None

    # the first metric of each evaluator, then the second ones
    ranks = zip_longest(*metrics_by_evaluator.values())
    return list(dict.fromkeys(name for names in ranks for name in names if name is not None))


def _evaluator_metrics(stored_result: StoredResult) -> Sequence[Metric]:
    """Return the metrics of a result that depend on its images and sum them up."""
    evaluator = find_evaluator(stored_result.result.evaluator)
    if evaluator is None or evaluator.subject == "network":
        return ()
    if isinstance(evaluator, PromptEvaluator):
        return main_metrics(evaluator, stored_result)
    return evaluator.metrics
