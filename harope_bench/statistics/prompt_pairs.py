"""Prompts that two results share: pairs of prompts from their per-sample arrays.

An evaluator of prompts adds `prompts` (N,) to its per-sample arrays, and `METRIC_tasks` (N,) for a
mean of task means. A metric that is a ratio of sums has `METRIC_total` and `METRIC_weight` (N,)
besides its first-order contributions. Older results have the contributions alone. NaN marks a
sample that does not count for the metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from harope_bench.statistics.intervals.paired_ratios import PromptSamples

SampleArrays = Mapping[str, np.ndarray]
SUM_SUFFIXES = ("total", "weight")  # endings of the arrays of a ratio of sums
MAX_PROMPT_LENGTH = 60  # characters of a prompt in a message


class PromptPairs(NamedTuple):
    """The images of the prompts that two runs share.

    Attributes:
        baseline_samples: images of the run to compare with.
        new_samples: images of the run of interest.
        is_linear: whether the values are first-order contributions, which are no scores of single
            prompts.
        request_difference: why samples are not paired within a prompt; empty if they are, in the
            same order.
    """

    baseline_samples: PromptSamples
    new_samples: PromptSamples
    is_linear: bool
    request_difference: str


def match_prompts(
    metric: str, baseline_arrays: SampleArrays, new_arrays: SampleArrays, request_difference: str
) -> PromptPairs | str:
    """Return the prompts of two runs as pairs, or why they are not paired.

    Args:
        metric: name of the metric.
        baseline_arrays: per-sample arrays of the run to compare with.
        new_arrays: per-sample arrays of the run of interest.
        request_difference: why the samples of a prompt are not the same requests; empty if they
            are.
    """
    # A mean over tasks is not paired with a mean over images.
    if (f"{metric}_tasks" in baseline_arrays) != (f"{metric}_tasks" in new_arrays):
        return "other prompts"

    is_ratio = [_has_sums(metric, arrays) for arrays in (baseline_arrays, new_arrays)]
    use_sums = all(is_ratio)
    baseline_samples = _prompt_samples(metric, baseline_arrays, use_sums)
    new_samples = _prompt_samples(metric, new_arrays, use_sums)
    prompt_difference = _prompt_difference(baseline_samples, new_samples)
    if prompt_difference:
        return prompt_difference

    has_same_indices = np.array_equal(
        _counted_indices(metric, baseline_arrays), _counted_indices(metric, new_arrays)
    )
    if not request_difference and not has_same_indices:
        request_difference = "other sample indices"
    is_linear = any(is_ratio) and not use_sums
    return PromptPairs(baseline_samples, new_samples, is_linear, request_difference)


def _has_sums(metric: str, arrays: SampleArrays) -> bool:
    return all(f"{metric}_{suffix}" in arrays for suffix in SUM_SUFFIXES)


def _is_counted(metric: str, arrays: SampleArrays) -> np.ndarray:
    """Return whether each sample counts for the metric, (N,)."""
    return np.isfinite(np.asarray(arrays[metric], dtype=np.float64))


def _prompt_samples(metric: str, arrays: SampleArrays, use_sums: bool) -> PromptSamples:
    """Return the samples that count, by their sums or else by their contributions."""
    is_counted = _is_counted(metric, arrays)
    if use_sums:
        totals, weights = (
            np.asarray(arrays[f"{metric}_{suffix}"], dtype=np.float64)[is_counted]
            for suffix in SUM_SUFFIXES
        )
    else:
        totals = np.asarray(arrays[metric], dtype=np.float64)[is_counted]
        weights = np.ones(len(totals))

    prompts = np.asarray(arrays["prompts"])[is_counted]
    tasks = np.zeros(len(prompts), dtype=np.int64)
    if f"{metric}_tasks" in arrays:
        tasks = np.asarray(arrays[f"{metric}_tasks"])[is_counted]
    return PromptSamples(totals, weights, prompts, tasks)


def _counted_indices(metric: str, arrays: SampleArrays) -> np.ndarray:
    """Return the sample indices that count for the metric."""
    return np.asarray(arrays["indices"])[_is_counted(metric, arrays)]


def _prompt_difference(baseline_samples: PromptSamples, new_samples: PromptSamples) -> str:
    """Return how the prompts of a metric differ, as text; empty if prompts and tasks are equal."""
    if not len(baseline_samples.prompts) or not len(new_samples.prompts):
        return "no prompt counts for the metric"
    baseline_prompts, new_prompts = (
        {*zip(run.prompts.tolist(), run.tasks.tolist(), strict=True)}
        for run in (baseline_samples, new_samples)
    )
    if baseline_prompts == new_prompts:
        return ""
    return (
        f"other prompts: {len(baseline_prompts):,} against {len(new_prompts):,},"
        f" {len(baseline_prompts & new_prompts):,} in both"
    )


def prompt_text_difference(baseline_texts: Mapping[int, str], new_texts: Mapping[int, str]) -> str:
    """Return the first prompt whose recorded texts differ, as text; empty if none does."""
    for prompt in sorted(baseline_texts.keys() & new_texts.keys()):
        if baseline_texts[prompt] != new_texts[prompt]:
            return (
                f"other prompts: number {prompt} is {baseline_texts[prompt][:MAX_PROMPT_LENGTH]!r}"
                f" against {new_texts[prompt][:MAX_PROMPT_LENGTH]!r}"
            )
    return ""
