"""Runs that fill no table, side by side: a row for each metric, a column for each run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harope_bench.core.errors import BenchError
from harope_bench.core.schema import Measurement, Metric
from harope_bench.data.result_store import StoredResult
from harope_bench.leaderboards.comparisons import RowComparison
from harope_bench.leaderboards.table_spec import DASH
from harope_bench.reports.metric_titles import (
    declared_metrics,
    evaluator_title,
    measurement_title,
)
from harope_bench.reports.page_board import PageCell, PageTable
from harope_bench.reports.page_comparisons import ComparedColumn, ComparisonTexts
from harope_bench.reports.page_runs import RunLinks
from harope_bench.reports.run_names import (
    describe_plan,
    encoding_title,
    short_run_names,
    unique_run_names,
)
from harope_bench.reports.runs import ReportedRun
from harope_bench.reports.table_layout import (
    VERDICT_GLYPHS,
    ColumnKind,
    HeaderCell,
    format_difference,
    format_standard_error,
)
from harope_bench.statistics.compare import (
    ComparedRuns,
    RunComparison,
    adjust_together,
    compare_runs,
)

# the encodings that others are compared with, the first one that was run
BASELINE_ENCODINGS = ("rope-axial", "rope-vanilla", "ape")
HEADLINE_METRICS = ("overall", "score", "fid", "is")
MAX_RUNS = 6  # side by side
UNDECLARED = " (evaluator not installed)"  # after the name of a metric, in place of its direction
MAX_METRICS = 12  # on the first screen; the table of differences has all


@dataclass(frozen=True)
class ComparedRunSet:
    """Runs of one suite side by side, the baseline first.

    names: of the runs by their ids, without what all of them have in common.
    baseline_name: the full name of the baseline.
    comparisons: of each other run with the baseline; p values are adjusted over all of them.
    failure_reasons: why runs are not compared with the baseline.
    omitted_names: full names of the runs with results that are not side by side.
    """

    suite: str
    runs: tuple[ReportedRun, ...]
    names: Mapping[str, str]
    baseline_name: str
    metrics: tuple[Metric, ...]
    comparisons: tuple[tuple[ReportedRun, RunComparison], ...]
    failure_reasons: tuple[str, ...]
    omitted_names: tuple[str, ...]

    @property
    def baseline(self) -> ReportedRun:
        """Return the run that the others are compared with."""
        return self.runs[0]

    def position(self, run: ReportedRun) -> int:
        """Return the place of a run; runs that are not compared come last."""
        run_ids = [compared_run.id for compared_run in self.runs]
        return run_ids.index(run.id) if run.id in run_ids else len(run_ids)

    @property
    def question(self) -> str:
        """Return the question that these runs answer."""
        name = self.names[self.baseline.id]
        if len(self.runs) == 1:
            return f"What was measured in {self.baseline_name}?"
        if len(self.runs) > 2:
            return f"Is any of {len(self.runs) - 1} runs better than {name}?"
        run = self.runs[1]
        if run.plan and self.baseline.plan:
            encodings = (run.plan.checkpoint.encoding, self.baseline.plan.checkpoint.encoding)
            if encodings[0] != encodings[1]:
                titles = [encoding_title(encoding) for encoding in encodings]
                return (
                    f"Is {titles[0]} better than {titles[1]} on {self.suite} ({self.setting_text})?"
                )
        return f"Is {self.names[run.id]} better than {name} on {self.suite}?"

    @property
    def setting_text(self) -> str:
        """Return network and image size of the baseline; empty without a plan."""
        plan = self.baseline.plan
        if plan is None:
            return ""
        name_parts = describe_plan(plan).split(", ")
        return ", ".join(part for i, part in enumerate(name_parts) if i != 1)


def compare_run_set(runs: Sequence[ReportedRun]) -> ComparedRunSet | None:
    """Return the runs of the suite with most runs side by side, None where nothing was measured."""
    measured_runs = [
        run
        for run in runs
        if any(stored_result.result.measurements for stored_result in run.results)
    ]
    if not measured_runs:
        return None
    suites = Counter(_suite(run) for run in measured_runs)
    suite = max(sorted(suites), key=lambda name: suites[name])
    suite_runs = sorted((run for run in measured_runs if _suite(run) == suite), key=_baseline_order)
    shown_runs = tuple(suite_runs[:MAX_RUNS])
    comparisons = [(run, _compare(shown_runs[0], run)) for run in shown_runs[1:]]
    compared = [
        (run, comparison)
        for run, comparison in comparisons
        if isinstance(comparison, RunComparison)
    ]
    adjusted = adjust_together([comparison for _, comparison in compared])
    reasons = [reason for _, reason in comparisons if isinstance(reason, str)]
    names = unique_run_names(runs)
    return ComparedRunSet(
        suite,
        shown_runs,
        short_run_names(shown_runs),
        names[shown_runs[0].id],
        _metrics(shown_runs),
        tuple((run, comparison) for (run, _), comparison in zip(compared, adjusted, strict=True)),
        tuple(dict.fromkeys(reasons)),
        tuple(names[run.id] for run in measured_runs if run not in shown_runs),
    )


def _suite(run: ReportedRun) -> str:
    """Return the suite of a run's results."""
    return run.results[0].result.suite_name or "suite not recorded"


def _baseline_order(run: ReportedRun) -> tuple[object, ...]:
    """Return the sort key of runs: usual baselines first, then those evaluated first."""
    encoding = run.plan.checkpoint.encoding if run.plan else ""
    order = len(BASELINE_ENCODINGS)
    if encoding in BASELINE_ENCODINGS:
        order = BASELINE_ENCODINGS.index(encoding)
    return (
        order,
        min(stored_result.result.provenance.started for stored_result in run.results),
        run.id,
    )


def _compare(baseline: ReportedRun, run: ReportedRun) -> RunComparison | str:
    """Return the comparison of a run with the baseline, or why there is none."""
    baseline_runs = ComparedRuns(baseline.folder, (baseline.results,))
    try:
        return compare_runs(baseline_runs, ComparedRuns(run.folder, (run.results,)))
    except BenchError as error:  # such as a metric of an evaluator that is not installed
        return error.detail


def _metrics(runs: Sequence[ReportedRun]) -> tuple[Metric, ...]:
    """Return the metrics of all runs as their evaluators declare them, once each."""
    metrics: dict[str, Metric] = {}
    for run in runs:
        for stored_result in run.results:
            result = stored_result.result
            declared = declared_metrics(result.evaluator, result.profile)
            for measurement in stored_result.result.measurements:
                if measurement.metric not in metrics:
                    metrics[measurement.metric] = declared.get(
                        measurement.metric, _undeclared_metric(measurement.metric)
                    )
    return tuple(metrics.values())


def _undeclared_metric(name: str) -> Metric:
    """Return a metric of an evaluator that is not installed; its direction is not shown."""
    return Metric(name=name, title=name + UNDECLARED, direction="higher", unit="none", decimals=3)


def headline_metrics(run_set: ComparedRunSet) -> tuple[Metric, ...]:
    """Return the metrics of the first screen: the same number of each evaluator, headlines first.

    The choice depends on names alone, not on the values.
    """
    by_evaluator: dict[str, list[Metric]] = {}
    for metric in run_set.metrics:
        if _has_value(run_set.runs, metric.name):
            evaluator = _evaluator_of(run_set.runs, metric.name)
            by_evaluator.setdefault(evaluator, []).append(metric)
    n_each = max(1, MAX_METRICS // max(1, len(by_evaluator)))
    headlines: list[Metric] = []
    for metrics in by_evaluator.values():
        metrics.sort(key=lambda metric: metric.name not in HEADLINE_METRICS)
        headlines += metrics[:n_each]
    return tuple(headlines)


def count_omitted_metrics(run_set: ComparedRunSet) -> int:
    """Return how many metrics with a value are not on the first screen."""
    n_metrics = sum(_has_value(run_set.runs, metric.name) for metric in run_set.metrics)
    return n_metrics - len(headline_metrics(run_set))


def _locate(runs: Sequence[ReportedRun], metric: str) -> tuple[StoredResult, Measurement] | None:
    """Return the first result of the runs with a metric, and its measurement."""
    for run in runs:
        for stored_result in run.results:
            measurement = stored_result.result.find_measurement(metric)
            if measurement is not None:
                return stored_result, measurement
    return None


def _has_value(runs: Sequence[ReportedRun], metric: str) -> bool:
    """Return whether a run has a value of a metric; parts of a suite leave tasks without one."""
    return any(
        measurement.value is not None
        for run in runs
        for stored_result in run.results
        for measurement in stored_result.result.measurements
        if measurement.metric == metric
    )


def _evaluator_of(runs: Sequence[ReportedRun], metric: str) -> str:
    """Return the evaluator of the first result with a metric."""
    source = _locate(runs, metric)
    return source[0].result.evaluator if source else ""


def run_set_texts(run_set: ComparedRunSet) -> ComparisonTexts:
    """Return the comparisons of a run set with the names of runs and metrics."""
    columns = {metric.name: _compared_column(run_set, metric) for metric in run_set.metrics}
    has_several_evaluators = len({column.evaluator for column in columns.values()}) > 1
    if has_several_evaluators:
        columns = {name: _with_evaluator(column) for name, column in columns.items()}
    comparisons = [
        RowComparison(
            "micro" if run.results[0].result.scale == "micro" else "paper",
            run.id,
            run_set.baseline.id,
            metric_comparison.metric.name,
            metric_comparison.measurement_name,
            metric_comparison.n_scored,
            metric_comparison.difference,
            metric_comparison.p_adjusted,
            metric_comparison.detectable_difference,
            metric_comparison.verdict,
        )
        for run, comparison in run_set.comparisons
        for metric_comparison in comparison.metrics
        if _has_value(run_set.runs, metric_comparison.metric.name)
    ]
    return ComparisonTexts(tuple(comparisons), run_set.names, columns)


def _compared_column(run_set: ComparedRunSet, metric: Metric) -> ComparedColumn:
    """Return the column of a metric, with the title of its evaluator."""
    source = _locate(run_set.runs, metric.name)
    return ComparedColumn(
        measurement_title(metric, source[1].name) if source else metric.title,
        metric.direction,
        metric.unit,
        metric.decimals + 1,
        evaluator_title(_evaluator_of(run_set.runs, metric.name)),
    )


def _with_evaluator(column: ComparedColumn) -> ComparedColumn:
    """Return a column of a prompt benchmark with its title after that of the benchmark.

    "Color" alone could be a task of two benchmarks.
    """
    has_own_title = column.title.startswith(column.evaluator)
    if has_own_title or column.evaluator.islower():  # a title has upper case, a bare name has not
        return column
    return replace(column, title=f"{column.evaluator}: {column.title}")


def lay_out_run_set(run_set: ComparedRunSet, texts: ComparisonTexts, links: RunLinks) -> PageTable:
    """Return the table of a run set: metrics as rows, runs as columns, then the difference."""
    runs = run_set.runs
    has_difference = len(runs) == 2 and bool(texts.comparisons)
    headers = [
        HeaderCell("Metric", 1, 1, "head"),
        *[HeaderCell(run_set.names[run.id], 1, 1, "measured") for run in runs],
    ]
    if has_difference:
        headers += [HeaderCell(title, 1, 1, "delta") for title in ("Difference", "Verdict")]
    by_row = {(comparison.row, comparison.column): comparison for comparison in texts.comparisons}
    rows = []
    for metric in headline_metrics(run_set):
        column = texts.columns[metric.name]
        arrow = "higher" if metric.direction == "higher" else "lower"
        title = f"{column.title} ({arrow} is better)"
        if metric.title.endswith(UNDECLARED):
            title = column.title
        cells = [PageCell(title, column.title, "head")]
        for run in runs:
            comparison = None if has_difference else by_row.get((run.id, metric.name))
            cells.append(_value_cell(run, metric, comparison, links))
        if has_difference:
            cells += _difference_cells(by_row.get((runs[1].id, metric.name)), column)
        rows.append(tuple(cells))
    groups: list[tuple[ColumnKind, int]] = [("head", 1), ("measured", len(runs))]
    if has_difference:
        groups.append(("delta", 2))
    return PageTable(
        (tuple(headers),),
        (tuple(rows),),
        tuple(groups),
        ("measured",),
        (),
        True,
    )


def _value_cell(
    run: ReportedRun, metric: Metric, comparison: RowComparison | None, links: RunLinks
) -> PageCell:
    """Return the cell of a metric of a run, with the verdict's sign where there is one."""
    source = _locate([run], metric.name)
    if source is None:
        return PageCell("not measured", "", "measured", is_absent=True)
    stored_result, measurement = source
    link = links.find(stored_result, measurement)
    if measurement.value is None:
        return PageCell("no value", "", "measured", is_absent=True, link=link)
    text = format_difference(measurement.value, metric.decimals).lstrip("+")
    if measurement.se is not None:
        text += f" ± {format_standard_error(measurement.se, metric.decimals)}"
    tooltip = ""
    if comparison is not None:
        text += f" {VERDICT_GLYPHS[comparison.verdict]}"
        tooltip = f"against the first run: {comparison.verdict}"
    return PageCell(text, repr(measurement.value), "measured", tooltip=tooltip, link=link)


def _difference_cells(comparison: RowComparison | None, column: ComparedColumn) -> list[PageCell]:
    """Return the difference of a metric with its interval, and the verdict."""
    if comparison is None or comparison.difference.delta is None:
        verdict = f"{VERDICT_GLYPHS['not comparable']} not comparable"
        reason = comparison.difference.reason if comparison else ""
        dash_cell = PageCell(DASH, "", "delta", is_absent=True)
        return [dash_cell, PageCell(verdict, verdict, "delta", tooltip=reason)]
    difference = comparison.difference
    assert difference.delta is not None
    text = format_difference(difference.delta, column.decimals)
    if difference.low is not None and difference.high is not None:
        low, high = (
            format_difference(value, column.decimals) for value in (difference.low, difference.high)
        )
        text += f" [{low}, {high}]"
    verdict = f"{VERDICT_GLYPHS[comparison.verdict]} {comparison.verdict}"
    return [
        PageCell(text, repr(difference.delta), "delta"),
        PageCell(verdict, verdict, "delta", tooltip=difference.reason),
    ]
