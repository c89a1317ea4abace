"""Which prompts two results share: their per-sample arrays to pairs of prompts, or the reason why
there are none.

An evaluator of prompts adds `prompts` (N,) to its per-sample arrays and `METRIC_tasks` (N,) to a
mean of task means. A metric that is a
ratio of sums has `METRIC_total` and `METRIC_weight` (N,) beside its first-order contributions;
results written before these existed
have the contributions alone. NaN marks a sample that does not count for the metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from harope_bench.statistics.intervals.paired_ratios import PromptSamples

SampleArrays = Mapping[str, np.ndarray]
SUM_SUFFIXES = ("total", "weight")  # what a ratio metric's arrays end in


class PromptPairs(NamedTuple):
    """Both runs' images of the prompts that they share.

    is_linear: the arrays are first-order contributions, of which no prompt's own score can be told.
    difference_of_samples: why samples do not pair within a prompt; empty where they do, in one
    order.
    """

    baseline: PromptSamples
    new: PromptSamples
    is_linear: bool
    request_difference: str


def match_prompts(
    metric: str, old: SampleArrays, new: SampleArrays, other_samples: str
) -> PromptPairs | str:
    """Return the prompts of two runs as pairs, or why they are none.

    Args:
        other_samples: why the samples of a prompt are not the same requests, empty where they are.
    """
    if (
        len({f"{metric}_tasks" in arrays for arrays in (old, new)}) > 1
    ):  # one score is a mean of tasks, the other is not
        return "other prompts"
    is_ratio = [_has_sums(metric, arrays) for arrays in (old, new)]
    use_sums = all(is_ratio)
    before, after = (_samples(metric, arrays, use_sums) for arrays in (old, new))
    if reason := _prompt_difference(before, after):
        return reason
    if not other_samples and not np.array_equal(_indices(metric, old), _indices(metric, new)):
        other_samples = "other sample indices"
    return PromptPairs(before, after, any(is_ratio) and not use_sums, other_samples)


def _has_sums(metric: str, arrays: SampleArrays) -> bool:
    return all(f"{metric}_{end}" in arrays for end in SUM_SUFFIXES)


def _is_counted(metric: str, arrays: SampleArrays) -> np.ndarray:
    """Return which samples count for the metric, (N,)."""
    return np.isfinite(np.asarray(arrays[metric], dtype=np.float64))


def _samples(metric: str, arrays: SampleArrays, use_sums: bool) -> PromptSamples:
    counts = _is_counted(metric, arrays)
    names = [f"{metric}_{end}" for end in SUM_SUFFIXES] if use_sums else [metric]
    sums = [np.asarray(arrays[name], dtype=np.float64)[counts] for name in names]
    totals, weights = sums if use_sums else (sums[0], np.ones(len(sums[0])))
    prompts = np.asarray(arrays["prompts"])[counts]
    tasks = arrays.get(f"{metric}_tasks")
    tasks = np.zeros(len(prompts), dtype=np.int64) if tasks is None else np.asarray(tasks)[counts]
    return PromptSamples(totals, weights, prompts, tasks)


def _indices(metric: str, arrays: SampleArrays) -> np.ndarray:
    return np.asarray(arrays["indices"])[_is_counted(metric, arrays)]


def _prompt_difference(old: PromptSamples, new: PromptSamples) -> str:
    """Return how the prompts that count for a metric differ, empty where they are the same in the
    same tasks.
    """
    if not len(old.prompts) or not len(new.prompts):
        return "no prompt counts for the metric"
    before, after = (
        {*zip(run.prompts.tolist(), run.tasks.tolist(), strict=True)} for run in (old, new)
    )
    if before == after:
        return ""
    return f"other prompts: {len(before):,} against {len(after):,}, {len(before & after):,} in both"


def prompt_text_difference(old: Mapping[int, str], new: Mapping[int, str]) -> str:
    """Return the first prompt whose recorded texts differ, in words; empty where none does."""
    for prompt in sorted(old.keys() & new.keys()):
        if old[prompt] != new[prompt]:
            return (
                f"other prompts: number {prompt} is {old[prompt][:60]!r} against"
                f" {new[prompt][:60]!r}"
            )
    return ""
