"""Charts of prompt benchmarks: categories with intervals, and prompts of A against B."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from harope_bench.core.schema import Metric
from harope_bench.reports.chart_parts import ChartParts, ChartTable
from harope_bench.reports.encoding_styles import EncodingStyle, EncodingStyles
from harope_bench.reports.line_panels import legend_panel
from harope_bench.reports.prompt_panels import (
    Category,
    PromptPair,
    category_panel,
    measurement_text,
    outcome_counts,
    scatter_panel,
)
from harope_bench.reports.run_groups import RunGroup, leaf_metrics
from harope_bench.reports.svg_elements import Panel
from harope_bench.statistics.intervals.paired_ratios import PromptSamples
from harope_bench.statistics.pairing import pair_contributions

SIZE_HEADER = "Size"
MAX_CSV_ROWS = 3000  # more prompts are too many for a page
MAX_SCATTER_PANELS = 6  # of one benchmark


def benchmark_charts(groups: Sequence[RunGroup], styles: EncodingStyles) -> Iterator[ChartParts]:
    """Yield the categories of each benchmark, a panel for each size."""
    for _, members in groupby(groups, key=lambda group: group.family):
        yield _category_chart(list(members), styles)


def scatter_charts(groups: Sequence[RunGroup], styles: EncodingStyles) -> Iterator[ChartParts]:
    """Yield the prompts of each benchmark in which two runs are paired."""
    for _, members in groupby(groups, key=lambda group: group.family):
        chart = _scatter_chart(list(members), styles)
        if chart is not None:
            yield chart


def _category_chart(groups: Sequence[RunGroup], styles: EncodingStyles) -> ChartParts:
    """Return the categories of a benchmark."""
    labels = list(dict.fromkeys(label for group in groups for label in group.labels))
    label_styles = dict(zip(labels, styles.chart_styles(labels), strict=True))
    panels: list[Panel] = []
    rows: list[tuple[str, ...]] = []
    csv_rows: list[tuple[object, ...]] = [CATEGORY_COLUMNS]
    for group in groups:
        categories = _categories(group)
        panels += _category_panels(group, categories, label_styles)
        rows += _category_rows(group, categories, labels)
        csv_rows += _category_numbers(group)
    panels.append(legend_panel(list(label_styles.values()), labels))
    headers = ("Category", SIZE_HEADER, *labels)
    first_group = groups[0]
    caption = (
        f"Scores on suite {first_group.suite}, {_rules_text(first_group)} Lines are 95% intervals"
        " for new prompts."
    )
    return ChartParts(
        f"categories-{first_group.suite}-{first_group.name}",
        f"{_benchmark_name(first_group)} by category",
        caption,
        tuple(panels),
        without_equal_sizes(
            ChartTable("Scores by category with 95% intervals", headers, tuple(rows)), groups
        ),
        csv_rows,
    )


CATEGORY_COLUMNS = ("run", "size", "metric", "value", "low", "high", "images")


def _benchmark_name(group: RunGroup) -> str:
    """Return the title of a benchmark, with the suite if that has another name."""
    return group.title if group.suite == group.name else f"{group.title} on {group.suite}"


def _rules_text(group: RunGroup) -> str:
    """Return the rules and the judge of a group in a sentence."""
    result = group.stored_results[0].result
    return f"{result.rules} rules, judge {result.judge.name} ({result.judge.judge_class})."


def _categories(group: RunGroup) -> list[tuple[Metric, Category]]:
    """Return the categories in which a run of the group has a value."""
    categories = []
    for metric in group.evaluator.metrics:
        measurements = tuple(
            stored_result.result.find_measurement(metric.name)
            for stored_result in group.stored_results
        )
        if any(m is not None and m.value is not None for m in measurements):
            category = Category(metric.title, metric.decimals, measurements)
            categories.append((metric, category))
    return categories


def _category_panels(
    group: RunGroup,
    categories: Sequence[tuple[Metric, Category]],
    styles: dict[str, EncodingStyle],
) -> list[Panel]:
    """Return the bars of one size; those in another unit than the first are in the table alone."""
    bounded_categories = [(m, c) for m, c in categories if m.bounds is not None]
    if not bounded_categories:
        return []
    unit = bounded_categories[0][0].unit
    categories_of_unit = [
        category for metric, category in bounded_categories if metric.unit == unit
    ]
    bound = bounded_categories[0][0].bounds[1] if bounded_categories[0][0].bounds else 1.0
    label_styles = [styles[label] for label in group.labels]
    heading = f"{group.suite}, {group.size_text}"
    return [category_panel(heading, categories_of_unit, label_styles, group.labels, bound)]


def _category_rows(
    group: RunGroup, categories: Sequence[tuple[Metric, Category]], labels: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    """Yield a row of the table for each category."""
    for _, category in categories:
        texts = {
            label: measurement_text(measurement, category.decimals)
            for label, measurement in zip(group.labels, category.measurements, strict=True)
        }
        yield (category.title, group.size_text, *(texts.get(label, "") for label in labels))


def _category_numbers(group: RunGroup) -> Iterator[tuple[object, ...]]:
    """Yield the numbers of a group in the order of CATEGORY_COLUMNS."""
    for label, stored_result in zip(group.labels, group.stored_results, strict=True):
        for m in stored_result.result.measurements:
            yield label, group.resolution, m.metric, m.value, m.low, m.high, m.n_scored


def _scatter_chart(groups: Sequence[RunGroup], styles: EncodingStyles) -> ChartParts | None:
    """Return the prompts of the baseline against each other run, None without paired prompts."""
    panels: list[Panel] = []
    rows: list[tuple[str, ...]] = []
    csv_rows: list[tuple[object, ...]] = [SCATTER_COLUMNS]
    n_pairs = 0
    for group in groups:
        for i in range(len(group.labels)):
            pairs = prompt_pairs(group, i) if i != group.baseline_index else []
            if not pairs:
                continue
            n_pairs += 1
            if n_pairs > MAX_SCATTER_PANELS:
                continue
            labels = (group.labels[group.baseline_index], group.labels[i])
            panels.append(_scatter_panel(group, pairs, labels, styles))
            rows += _outcome_rows(group, pairs, labels)
            csv_rows += [
                (*labels, group.resolution, p.prompt, p.task, p.baseline, p.value) for p in pairs
            ]
    if not panels:
        return None
    n_hidden = n_pairs - len(panels)
    first_group = groups[0]
    hidden_text = f" {n_hidden} more pairs of runs are not shown." if n_hidden else ""
    caption = (
        f"Each mark is a prompt of suite {first_group.suite}, or several prompts with about equal"
        " scores: the larger, the more. A score is the mean over the images of the prompt. Above"
        " the diagonal the run on the vertical axis scores higher. A mark has the colour of the run"
        f" that scores higher; a tie is a hollow circle.{hidden_text}"
    )
    return ChartParts(
        f"prompts-{first_group.suite}-{first_group.name}",
        f"{_benchmark_name(first_group)} prompt by prompt",
        caption,
        tuple(panels),
        without_equal_sizes(
            ChartTable("Prompts in which a run scores higher", OUTCOME_HEADERS, tuple(rows)), groups
        ),
        csv_rows if len(csv_rows) <= MAX_CSV_ROWS else [],
    )


SCATTER_COLUMNS = ("run_a", "run_b", "size", "prompt_index", "task", "score_a", "score_b")
OUTCOME_HEADERS = ("Run", "Against", SIZE_HEADER, "Task", "Prompts", "Higher", "Equal", "Lower")


def without_equal_sizes(table: ChartTable, groups: Sequence[RunGroup]) -> ChartTable:
    """Return the table without the column of sizes if all groups have one size."""
    if len({group.resolution for group in groups}) > 1:
        return table
    i = table.headers.index(SIZE_HEADER)
    rows = tuple((*row[:i], *row[i + 1 :]) for row in table.rows)
    return ChartTable(table.caption, (*table.headers[:i], *table.headers[i + 1 :]), rows)


def prompt_pairs(group: RunGroup, index: int) -> list[PromptPair]:
    """Return the scores of the prompts in the baseline and another run of a group.

    The list is empty if their prompts are not paired or scores of single prompts were not kept.
    """
    baseline = group.stored_results[group.baseline_index]
    new_result = group.stored_results[index]
    pairs = []
    for metric in leaf_metrics(group.evaluator, baseline):
        samples = pair_contributions(metric.name, baseline, new_result).prompt_pairs
        if samples is None or samples.is_linear or metric.direction != "higher":
            continue
        baseline_scores = _prompt_scores(samples.baseline_samples)
        scores = _prompt_scores(samples.new_samples)
        pairs += [
            PromptPair(prompt, metric.title, score, scores[prompt])
            for prompt, score in baseline_scores.items()
        ]
    return pairs


def _prompt_scores(samples: PromptSamples) -> dict[int, float]:
    """Return the score of each prompt with a weight, by the prompt's number."""
    prompts, positions = np.unique(samples.prompts, return_inverse=True)
    totals = np.bincount(positions, samples.totals)
    weights = np.bincount(positions, samples.weights)
    return {
        int(prompt): float(total / weight)
        for prompt, total, weight in zip(prompts, totals, weights, strict=True)
        if weight > 0
    }


def _scatter_panel(
    group: RunGroup,
    pairs: Sequence[PromptPair],
    labels: tuple[str, str],
    styles: EncodingStyles,
) -> Panel:
    """Return the panel of one pair of runs."""
    baseline_style, style = styles.chart_styles(labels)
    bounds = [metric.bounds[1] for metric in group.evaluator.metrics if metric.bounds]
    largest_score = max(max(p.baseline, p.value) for p in pairs)
    bound = min((b for b in bounds if b >= largest_score), default=largest_score or 1.0)
    return scatter_panel(pairs, labels, (baseline_style, style), bound, group.size_text)


def _outcome_rows(
    group: RunGroup, pairs: Sequence[PromptPair], labels: tuple[str, str]
) -> Iterator[tuple[str, ...]]:
    """Yield the prompts of each task and of all tasks by outcome."""
    tasks = list(dict.fromkeys(pair.task for pair in pairs))
    parts = [(task, [pair for pair in pairs if pair.task == task]) for task in tasks]
    if len(tasks) > 1:
        parts.append(("All", list(pairs)))
    for task, task_pairs in parts:
        counts = outcome_counts(task_pairs)
        yield (
            labels[1],
            labels[0],
            group.size_text,
            task,
            f"{len(task_pairs):,}",
            *(f"{counts[outcome]:,}" for outcome in ("win", "tie", "loss")),
        )
