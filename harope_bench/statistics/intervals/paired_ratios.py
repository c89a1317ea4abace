"""Paired comparison of two runs of the same prompts, for scores that are ratios of sums.

A run's score is the mean over tasks of (sum of totals) / (sum of weights) over the task's images.
A plain mean has weights of 1. A DPG-Bench category has the number of an image's questions. Plain
numpy.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import ShapeError, TooFewImagesError
from harope_bench.statistics.intervals.clusters import (
    PERMUTATIONS,
    RELATIVE_TOLERANCE,
    exchange_test,
    satterthwaite_df,
)
from harope_bench.statistics.intervals.paired_fractions import bonett_price_interval
from harope_bench.statistics.significance import Interval, student_interval


class PromptSamples(NamedTuple):
    """The images of one run that count for a metric.

    Attributes:
        totals: (N,) float64.
        weights: (N,) float64.
        prompts: prompt id of each image, (N,) integers.
        tasks: task id of each image, (N,) integers.
    """

    totals: np.ndarray
    weights: np.ndarray
    prompts: np.ndarray
    tasks: np.ndarray


class PairedRatio(NamedTuple):
    """The difference of two runs over prompts, new minus baseline.

    Attributes:
        delta: difference of the scores.
        se: standard error for new prompts; None if it is unknown.
        df: Student's degrees of freedom; None if se is unknown.
        new_seeds_interval: interval for the same prompts and new seeds; None if a prompt has a
            single image, or the images of every prompt are equal.
        n_tasks: number of tasks.
        n_unmoved_tasks: number of tasks in which the differences show no variance.
        p: two-sided p value of the permutation test.
        is_exact: whether every exchange of prompts was tried.
        wins: number of prompts whose own score, total / weight, is higher in the new run.
        losses: number of prompts whose own score is lower.
        ties: number of prompts whose own score is equal.
    """

    delta: float
    se: float | None
    df: float | None
    new_seeds_interval: Interval | None
    n_tasks: int
    n_unmoved_tasks: int
    p: float
    is_exact: bool
    wins: int
    losses: int
    ties: int

    @property
    def n_prompts(self) -> int:
        """Return the number of prompts that both runs have."""
        return self.wins + self.losses + self.ties


class PromptSums(NamedTuple):
    """Sums over the images of each prompt, ascending by prompt id.

    Totals and weights are divided by the task's number of images per prompt, so that prompts with
    four images and with one can be exchanged. No ratio depends on that scale.

    Attributes:
        totals: (P,).
        weights: (P,).
        tasks: number of each prompt's task, 0 to T - 1, (P,).
    """

    totals: np.ndarray
    weights: np.ndarray
    tasks: np.ndarray

    def ratios(self) -> np.ndarray:
        """Return the score of each task, (T,)."""
        return np.bincount(self.tasks, self.totals) / np.bincount(self.tasks, self.weights)


class _ExchangeResult(NamedTuple):
    """p of the permutation test, whether it is exact, and the numbers of prompts by outcome."""

    p: float
    is_exact: bool
    wins: int
    losses: int
    ties: int


def paired_ratio(
    baseline_samples: PromptSamples,
    new_samples: PromptSamples,
    has_same_samples: bool,
    value_range: float | None = None,
    permutations: int = PERMUTATIONS,
) -> PairedRatio:
    """Compare two runs of the same prompts.

    Args:
        baseline_samples: images of the run to compare with.
        new_samples: images of the run of interest.
        has_same_samples: whether both runs hold the same samples in the same order, so that images
            are paired within a prompt too.
        value_range: the metric's upper bound minus its lower one. A task in which no prompt moved
            then gets a standard error.
        permutations: the maximum number of exchanges that the test tries.

    Raises:
        ShapeError: The runs hold different prompts, or a prompt is in two tasks.
        TooFewImagesError: A task has a single prompt with a weight.
    """
    baseline_sums = prompt_sums(baseline_samples)
    new_sums = prompt_sums(new_samples)
    if not np.array_equal(np.unique(baseline_samples.prompts), np.unique(new_samples.prompts)):
        raise ShapeError("the runs hold different prompts; compare them unpaired")
    if not np.array_equal(baseline_sums.tasks, new_sums.tasks):
        raise ShapeError("the runs hold a prompt in different tasks; compare them unpaired")

    # Standard error for new prompts: the errors of the tasks, and one for unmoved tasks
    delta = float((new_sums.ratios() - baseline_sums.ratios()).mean())
    task_variances, is_unmoved = _task_variances(baseline_sums, new_sums)  # (T,), (T,)
    prompt_counts = np.bincount(baseline_sums.tasks)  # (T,)
    n_tasks = len(task_variances)
    unmoved_error = _unmoved_tasks_error(prompt_counts, is_unmoved, value_range)
    variances = np.append(task_variances / n_tasks**2, unmoved_error**2)  # (T + 1,)
    se = math.sqrt(variances.sum()) if variances.any() else None

    # The error of unmoved tasks is not estimated, so it costs no degrees of freedom.
    df = satterthwaite_df(variances, np.append(prompt_counts - 1.0, np.inf))
    new_seeds = _new_seeds_interval(baseline_samples, new_samples, delta, has_same_samples)
    test = _exchange_prompts(baseline_sums, new_sums, permutations)
    return PairedRatio(delta, se, df, new_seeds, n_tasks, int(is_unmoved.sum()), *test)


def prompt_sums(samples: PromptSamples) -> PromptSums:
    """Return totals and weights of each prompt.

    Raises:
        ShapeError: A prompt is in two tasks, or its images have no weight.
    """
    _, first_images, prompt_of_image, image_counts = np.unique(
        samples.prompts, return_index=True, return_inverse=True, return_counts=True
    )  # (P,), (N,), (P,)
    _, task_of_image = np.unique(samples.tasks, return_inverse=True)
    tasks = task_of_image[first_images]  # (P,)
    if (tasks[prompt_of_image] != task_of_image).any():
        raise ShapeError("a prompt is in two tasks; give it another id in each")

    # images per prompt of each task (T,), then of each prompt's task (P,)
    images_per_prompt = (np.bincount(tasks, image_counts) / np.bincount(tasks))[tasks]
    totals = np.bincount(prompt_of_image, samples.totals) / images_per_prompt
    weights = np.bincount(prompt_of_image, samples.weights) / images_per_prompt
    if not (weights > 0).all():
        raise ShapeError("a prompt's images have no weight, so it has no score; exclude it")
    return PromptSums(totals, weights, tasks)


def _task_variances(
    baseline_sums: PromptSums, new_sums: PromptSums
) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance of each task's difference, and whether it is 0, (T,) each.

    The variance is that of the delete-one jackknife over prompts. For weights of 1 it equals the
    variance of the mean of the prompts' differences.
    """
    prompt_counts = np.bincount(baseline_sums.tasks)  # (T,)
    if (prompt_counts < 2).any():
        raise TooFewImagesError(
            "a standard error over prompts needs two prompts in each task, found"
            f" {prompt_counts.min()}"
        )
    # the difference of a task without each of its prompts, (P,)
    differences = _leave_one_out_scores(new_sums) - _leave_one_out_scores(baseline_sums)
    task_means = np.bincount(baseline_sums.tasks, differences) / prompt_counts  # (T,)
    deviations = differences - task_means[baseline_sums.tasks]  # (P,)
    squares = np.bincount(baseline_sums.tasks, deviations**2)  # (T,)
    variances = squares * (prompt_counts - 1) / prompt_counts

    # A variance of 0 up to rounding is 0.
    scale = max(float(np.abs(new_sums.ratios()).max()), float(np.abs(baseline_sums.ratios()).max()))
    is_unmoved = variances <= (RELATIVE_TOLERANCE * scale) ** 2
    return np.where(is_unmoved, 0.0, variances), is_unmoved


def _unmoved_tasks_error(
    prompt_counts: np.ndarray, is_unmoved: np.ndarray, value_range: float | None
) -> float:
    """Return the score's standard error from tasks without variance; 0 for a metric without bounds.

    No variance in a sample is not a variance of 0. As in the interval of Bonett and Price, one of
    these tasks' prompts counts as moved up over the full range, and one as moved down.

    Args:
        prompt_counts: number of prompts of each task, (T,).
        is_unmoved: whether a task shows no variance, (T,).
        value_range: the metric's upper bound minus its lower one, or None.
    """
    if value_range is None or not is_unmoved.any():
        return 0.0
    n_prompts = int(prompt_counts[is_unmoved].sum())
    error = bonett_price_interval(0, 0, n_prompts, 1.0).se
    return value_range * float(is_unmoved.mean()) * error


def _leave_one_out_scores(sums: PromptSums) -> np.ndarray:
    """Return the score of each prompt's task without that prompt, (P,)."""
    task_weights = np.bincount(sums.tasks, sums.weights)[sums.tasks]  # (P,)
    totals = np.bincount(sums.tasks, sums.totals)[sums.tasks] - sums.totals
    weights = task_weights - sums.weights
    if (weights <= RELATIVE_TOLERANCE * task_weights).any():
        raise TooFewImagesError(
            "a standard error over prompts needs two prompts in each task, but one has all the"
            " weight"
        )
    return np.asarray(totals / weights)


def _new_seeds_interval(
    baseline_samples: PromptSamples,
    new_samples: PromptSamples,
    delta: float,
    has_same_samples: bool,
) -> Interval | None:
    """Return the interval for the same prompts and new seeds, from the variance within prompts.

    Images that are paired within a prompt are correlated, so their differences count. Otherwise
    the variances of both runs add.
    """
    contributions = [_image_contributions(baseline_samples), _image_contributions(new_samples)]
    if has_same_samples:
        changes = contributions[1] - contributions[0]
        variances_and_dfs = [_within_prompt_variances(changes, baseline_samples.prompts)]
    else:
        variances_and_dfs = [
            _within_prompt_variances(run_contributions, run.prompts)
            for run_contributions, run in zip(
                contributions, (baseline_samples, new_samples), strict=True
            )
        ]
    known_pairs = [pair for pair in variances_and_dfs if pair is not None]
    if len(known_pairs) < len(variances_and_dfs):
        return None

    variances, dfs = (np.concatenate(arrays) for arrays in zip(*known_pairs, strict=True))
    scale = max(float(np.abs(run_contributions).max()) for run_contributions in contributions)
    if variances.max() <= (RELATIVE_TOLERANCE * scale) ** 2:  # 0 up to rounding
        return None
    return student_interval(delta, math.sqrt(variances.sum()), satterthwaite_df(variances, dfs))


def _image_contributions(run: PromptSamples) -> np.ndarray:
    """Return the first-order contribution of each image to the run's score, (N,).

    They sum to 0 in each task.
    """
    _, tasks = np.unique(run.tasks, return_inverse=True)  # (N,)
    task_weights = np.bincount(tasks, run.weights)  # (T,)
    ratios = np.bincount(tasks, run.totals) / task_weights  # (T,)
    residuals = run.totals - ratios[tasks] * run.weights  # (N,)
    return np.asarray(residuals / task_weights[tasks] / len(task_weights))


def _within_prompt_variances(
    contributions: np.ndarray, prompts: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the variance of each prompt's sum of contributions, and its degrees of freedom.

    Both are (P,). None if a prompt has a single image.

    Args:
        contributions: (N,).
        prompts: prompt id of each image, (N,).
    """
    _, prompt_of_image, image_counts = np.unique(prompts, return_inverse=True, return_counts=True)
    if (image_counts < 2).any():
        return None
    means = np.bincount(prompt_of_image, contributions) / image_counts  # (P,)
    deviations = contributions - means[prompt_of_image]  # (N,)
    squares = np.bincount(prompt_of_image, deviations**2)  # (P,)
    return image_counts * squares / (image_counts - 1), image_counts - 1


def _exchange_prompts(
    baseline_sums: PromptSums, new_sums: PromptSums, permutations: int
) -> _ExchangeResult:
    """Return the permutation test and the numbers of prompts that improved, worsened and tied.

    Without an effect the sums of a prompt are as likely to be in the other run. Prompts with equal
    totals and weights do not move.
    """
    # Change and size of each prompt's sums, (P,)
    total_changes = new_sums.totals - baseline_sums.totals
    weight_changes = new_sums.weights - baseline_sums.weights
    total_sizes = np.abs(new_sums.totals) + np.abs(baseline_sums.totals)
    weight_sizes = new_sums.weights + baseline_sums.weights
    is_moved = (np.abs(total_changes) > RELATIVE_TOLERANCE * total_sizes) | (
        np.abs(weight_changes) > RELATIVE_TOLERANCE * weight_sizes
    )

    # Sums of both runs by task, (T,), and what exchanges change of their difference
    both_totals = np.bincount(new_sums.tasks, new_sums.totals + baseline_sums.totals)
    both_weights = np.bincount(new_sums.tasks, weight_sizes)
    is_member = np.eye(len(both_totals))[new_sums.tasks]  # (P, T)
    fixed_total = total_changes[~is_moved] @ is_member[~is_moved]  # (T,), rounding alone
    fixed_weight = weight_changes[~is_moved] @ is_member[~is_moved]
    moved_totals = total_changes[is_moved, None] * is_member[is_moved]  # (moved, T)
    moved_weights = weight_changes[is_moved, None] * is_member[is_moved]

    def difference(signs: np.ndarray) -> np.ndarray:
        """Return the difference of the runs' scores after each exchange, (K,)."""
        # With sums s of both runs and differences d, a run has (s + d) / 2, the other (s - d) / 2.
        totals = fixed_total + signs @ moved_totals  # (K, T)
        weights = fixed_weight + signs @ moved_weights  # (K, T)
        new_scores = (both_totals + totals) / (both_weights + weights)
        baseline_scores = (both_totals - totals) / (both_weights - weights)
        return np.asarray((new_scores - baseline_scores).mean(1))

    scale = float((np.bincount(new_sums.tasks, total_sizes) / both_weights).max())
    test = exchange_test(difference, int(is_moved.sum()), scale, permutations)
    wins, losses = _count_wins_and_losses(baseline_sums, new_sums)
    return _ExchangeResult(test.p, test.is_exact, wins, losses, len(is_moved) - wins - losses)


def _count_wins_and_losses(baseline_sums: PromptSums, new_sums: PromptSums) -> tuple[int, int]:
    """Return the numbers of prompts whose own score is higher, and lower, in the new run."""
    baseline_scores = baseline_sums.totals / baseline_sums.weights  # (P,)
    new_scores = new_sums.totals / new_sums.weights  # (P,)
    scale = np.maximum(np.abs(baseline_scores), np.abs(new_scores))
    has_changed = np.abs(new_scores - baseline_scores) > RELATIVE_TOLERANCE * scale
    wins = int((has_changed & (new_scores > baseline_scores)).sum())
    losses = int((has_changed & (new_scores < baseline_scores)).sum())
    return wins, losses


def prompt_contributions(run: PromptSamples) -> np.ndarray:
    """Return the first-order contributions of the prompts to the run's score, (P,).

    Their mean is the score and their standard error its standard error. They serve methods of
    several training seeds, whose runs share the prompts.
    """
    sums = prompt_sums(run)
    ratios = sums.ratios()  # (T,)
    task_weights = np.bincount(sums.tasks, sums.weights)  # (T,)
    residuals = sums.totals - ratios[sums.tasks] * sums.weights  # (P,)
    effects = residuals / task_weights[sums.tasks] / len(ratios)
    return np.asarray(ratios.mean() + len(effects) * effects)
