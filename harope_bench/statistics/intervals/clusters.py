"""Prompts as clusters: standard errors and paired tests of scores whose images share prompts.

The images of one prompt are correlated (0.3 to 0.5 were measured), so they are not independent
samples. An interval that counts images covers 81% where it claims 95%. There are two intervals:
one for new seeds with the same prompts, and one for new prompts. Both are Student's t with
Satterthwaite's degrees of freedom, because with five prompts the normal interval covers 87%
(tests/statistics/test_intervals.py). Scores with bounds get a score interval for new prompts,
because near a bound the t interval covers 63 to 90% (tests/statistics/test_simulation.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np

from harope_bench.core.errors import ShapeError, TooFewImagesError
from harope_bench.statistics.significance import (
    CONFIDENCE_LEVEL,
    Interval,
    Z,
    critical_value,
    student_interval,
)

FloatOrArray = TypeVar("FloatOrArray", float, np.ndarray)
PERMUTATIONS = 10_000
SEED = 0  # of the sign flips, so that equal data give equal p
CHUNK = 1000  # sign vectors in memory at once
# relative; differences below it are rounding of sums and count as ties
RELATIVE_TOLERANCE = 1e-12
# fraction of a prompt's variance, as if all prompts were at a bound; docs/explanation/statistics.md
# has the simulation that chose it
PRIOR_VARIANCE = 0.1


class PromptMeans(NamedTuple):
    """Means of each prompt's images, ascending by prompt id.

    Attributes:
        means: (P,).
        mean_variances: variance of each mean over its images, (P,); None if a prompt has a single
            image.
        tasks: number of each prompt's task, 0 to T - 1, (P,).
        image_counts: number of each prompt's images, (P,).
    """

    means: np.ndarray
    mean_variances: np.ndarray | None
    tasks: np.ndarray
    image_counts: np.ndarray


class ClusteredMean(NamedTuple):
    """Mean over tasks of the means over prompts, with two intervals.

    Attributes:
        value: the mean.
        new_prompts_interval: interval for new prompts.
        new_seeds_interval: interval for the same prompts and new seeds; None if the images of each
            prompt have equal values.
        df: degrees of freedom of the interval for new prompts; None if its error is 0.
    """

    value: float
    new_prompts_interval: Interval
    new_seeds_interval: Interval | None
    df: float | None


class SignFlipTest(NamedTuple):
    """Paired permutation test over prompts.

    Attributes:
        p: two-sided p value.
        is_exact: whether every sign vector was tried.
        wins: number of prompts that score higher in the new run.
        losses: number of prompts that score lower.
        ties: number of prompts that score equal.
    """

    p: float
    is_exact: bool
    wins: int
    losses: int
    ties: int


def prompt_means(
    values: np.ndarray, prompts: np.ndarray, tasks: np.ndarray | None = None
) -> PromptMeans:
    """Return the means of values over the images of each prompt.

    Args:
        values: one value per image, (N,).
        prompts: prompt id of each image, (N,).
        tasks: task id of each image, (N,); None for a single task.

    Raises:
        ShapeError: The lengths differ, or a prompt is in two tasks.
    """
    tasks = np.zeros(len(values), dtype=np.int64) if tasks is None else tasks
    if not len(values) == len(prompts) == len(tasks) or not len(values):
        raise ShapeError(
            f"{len(values)} values, {len(prompts)} prompts and {len(tasks)} tasks; the lengths must"
            " be equal and above 0"
        )
    _, first_images, prompt_of_image, image_counts = np.unique(
        prompts, return_index=True, return_inverse=True, return_counts=True
    )  # (P,), (N,), (P,)
    _, task_of_image = np.unique(tasks, return_inverse=True)
    task_of_prompt = task_of_image[first_images]
    if (task_of_prompt[prompt_of_image] != task_of_image).any():
        raise ShapeError("a prompt is in two tasks; give it another id in each")

    # Variance of a mean: sum of squared deviations / (n - 1) / n
    values = np.asarray(values, dtype=np.float64)
    means = np.bincount(prompt_of_image, weights=values) / image_counts  # (P,)
    squares = np.bincount(prompt_of_image, weights=(values - means[prompt_of_image]) ** 2)
    mean_variances = None
    if (image_counts > 1).all():
        mean_variances = squares / (image_counts - 1) / image_counts  # (P,)
    return PromptMeans(means, mean_variances, task_of_prompt, image_counts)


def clustered_mean(prompts: PromptMeans) -> ClusteredMean:
    """Return the mean over tasks of the means over prompts, with both intervals.

    For paired differences give the means of new minus baseline.

    Raises:
        TooFewImagesError: A task has a single prompt, so there is no error for new prompts.

    Source: Liang and Zeger 1986 with equal weights within a task. Tasks are fixed, so their
    squared errors add. Satterthwaite 1946 for the degrees of freedom, over tasks for new prompts
    and over prompts for new seeds.
    """
    prompt_counts = np.bincount(prompts.tasks)  # (T,)
    n_tasks = len(prompt_counts)
    _check_two_prompts(prompt_counts)
    task_means = np.bincount(prompts.tasks, weights=prompts.means) / prompt_counts  # (T,)
    value = float(task_means.mean())

    # New prompts: the variance of each task's mean from the variance between its prompts
    deviations = prompts.means - task_means[prompts.tasks]  # (P,)
    variances = np.bincount(prompts.tasks, weights=deviations**2) / (prompt_counts - 1)  # (T,)
    between_variances = variances / prompt_counts  # (T,)
    df = satterthwaite_df(between_variances, prompt_counts - 1)
    new_prompts = student_interval(value, math.sqrt(between_variances.sum()) / n_tasks, df)

    # New seeds: the variance of each prompt's mean from the variance between its images
    rounding_variance = (RELATIVE_TOLERANCE * np.abs(prompts.means).max()) ** 2
    if prompts.mean_variances is None or prompts.mean_variances.max() <= rounding_variance:
        return ClusteredMean(value, new_prompts, new_seeds_interval=None, df=df)
    within_variances = prompts.mean_variances / prompt_counts[prompts.tasks] ** 2  # (P,)
    within_df = satterthwaite_df(within_variances, prompts.image_counts - 1)
    new_seeds = student_interval(value, math.sqrt(within_variances.sum()) / n_tasks, within_df)
    return ClusteredMean(value, new_prompts, new_seeds, df)


def satterthwaite_df(variances: np.ndarray, dfs: np.ndarray) -> float | None:
    """Return the degrees of freedom of a sum of estimated variances; None if all are 0.

    Args:
        variances: (K,).
        dfs: degrees of freedom of each variance, (K,).

    Source: Satterthwaite 1946.
    """
    denominator = float((variances**2 / dfs).sum())
    return float(variances.sum()) ** 2 / denominator if denominator else None


def score_interval(scores: PromptMeans, bounds: tuple[float, float]) -> Interval | None:
    """Return the score interval for new prompts of a mean of task means that has bounds.

    It is Wilson's interval at the effective number of prompts, with Student's critical value. Its
    width is never 0, and its ends are within the bounds. Away from the bounds it equals Student's
    t interval.

    Args:
        scores: means of at least two prompts in each task.
        bounds: the lowest and the highest possible score.

    Returns:
        None if in every task all prompts score equally between the bounds, which does not show how
        much prompts differ. se is the plain standard error; at a bound it is Wilson's half-width
        divided by Z.

    Raises:
        TooFewImagesError: A task has a single prompt.

    Source: Wilson 1927; Korn and Graubard 1998 for the effective number.
    """
    _check_two_prompts(np.bincount(scores.tasks))
    value_range = bounds[1] - bounds[0]
    mean = BoundedMean.from_scores((scores.means - bounds[0]) / value_range, scores.tasks)
    if mean is None:
        return None
    inverse_size, df = mean.inverse_effective_size()
    centre, half_width = wilson_centre_and_half_width(
        mean.rate, inverse_size, critical_value(CONFIDENCE_LEVEL, df)
    )

    is_at_bound = min(mean.rate, 1.0 - mean.rate) <= RELATIVE_TOLERANCE
    se = math.sqrt(inverse_size * mean.rate * (1.0 - mean.rate))
    if is_at_bound:
        se = wilson_centre_and_half_width(mean.rate, inverse_size, Z)[1] / Z

    # At a bound one end equals the rate up to rounding; min and max remove the rounding.
    low = max(0.0, min(float(centre - half_width), mean.rate))
    high = min(1.0, max(float(centre + half_width), mean.rate))
    return Interval(
        value_range * float(se), bounds[0] + value_range * low, bounds[0] + value_range * high
    )


class BoundedMean(NamedTuple):
    """A mean of task means of scores of 0 to 1, with its variance as the prompts show it.

    Attributes:
        rate: the mean.
        variance: variance of the mean, from the variance between prompts of a task.
        df: Student's degrees of freedom of the variance; None if it is 0.
        effective_prompts: number of prompts, less what unequal task sizes cost.
        residual_df: number of prompts minus number of tasks.
    """

    rate: float
    variance: float
    df: float | None
    effective_prompts: float
    residual_df: int

    @classmethod
    def from_scores(cls, scores: np.ndarray, tasks: np.ndarray) -> BoundedMean | None:
        """Return the mean of scores (P,) over tasks (P,).

        None if in every task all scores are the same number, strictly between 0 and 1 in each.
        """
        prompt_counts = np.bincount(tasks)  # (T,)
        n_tasks = len(prompt_counts)
        task_means = np.clip(np.bincount(tasks, weights=scores) / prompt_counts, 0.0, 1.0)  # (T,)
        squares = np.bincount(tasks, weights=(scores - task_means[tasks]) ** 2)  # (T,)
        is_constant = squares <= RELATIVE_TOLERANCE**2
        is_at_bound = is_constant & (np.minimum(task_means, 1.0 - task_means) <= RELATIVE_TOLERANCE)
        if (is_constant & ~is_at_bound).all():
            return None

        # A task at its bound shows no variance, but its mean has Wilson's error. Where the whole
        # mean nears a bound, `effective_prompts` includes that error, so its variance fades out.
        rate = float(task_means.mean())
        estimated_variances = np.where(
            is_constant, 0.0, squares / (prompt_counts - 1) / prompt_counts
        )
        bound_errors = wilson_centre_and_half_width(1.0, 1.0 / prompt_counts, Z)[1] / Z
        bound_variances = np.where(is_at_bound, bound_errors**2, 0.0)
        fading = 4.0 * rate * (1.0 - rate)
        variance = float(estimated_variances.sum() + fading * bound_variances.sum()) / n_tasks**2

        # The variance of tasks at a bound counts as known.
        df = satterthwaite_df(estimated_variances, prompt_counts - 1)
        if df is not None:
            df *= (variance * n_tasks**2 / float(estimated_variances.sum())) ** 2
        effective_prompts = n_tasks**2 / float((1.0 / prompt_counts).sum())
        return cls(rate, variance, df, effective_prompts, int((prompt_counts - 1).sum()))

    def inverse_effective_size(self) -> tuple[float, float | None]:
        """Return 1 / effective number of prompts, and the degrees of freedom of that estimate.

        The variance of a prompt is phi p (1 - p). phi is 0 if prompts are equal and 1 if every
        prompt is at a bound, so P prompts count as P / phi. Near a bound few prompts differ, and
        phi is uncertain. It is therefore shrunk towards 1, the most cautious value, as if
        PRIOR_VARIANCE of a prompt's variance had been observed with phi = 1. The prior's weight
        (1 - 4 p (1 - p))^2 fades away from the bounds, where the variance between prompts is
        informative. The prior counts as known (Satterthwaite 1946).
        """
        binomial = self.rate * (1.0 - self.rate)
        prior_variance = PRIOR_VARIANCE * (1.0 - 4.0 * binomial) ** 2
        observed_squares = self.variance * self.effective_prompts * self.residual_df
        phi = (observed_squares + prior_variance) / (self.residual_df * binomial + prior_variance)
        inverse_size = phi / self.effective_prompts
        if self.df is None or observed_squares == 0:
            return inverse_size, None
        return inverse_size, self.df * ((observed_squares + prior_variance) / observed_squares) ** 2


def wilson_centre_and_half_width(
    rate: float, inverse_size: FloatOrArray, z: float
) -> tuple[FloatOrArray, FloatOrArray]:
    """Return centre and half-width of Wilson's interval of a rate.

    Args:
        rate: fraction, 0 to 1.
        inverse_size: 1 / sample size.
        z: critical value.

    Source: Wilson 1927.
    """
    square = z * z * inverse_size
    half_width = np.sqrt(square * rate * (1.0 - rate) + square**2 / 4.0) / (1.0 + square)
    return (rate + square / 2.0) / (1.0 + square), half_width


def _check_two_prompts(prompt_counts: np.ndarray) -> None:
    """Raise TooFewImagesError if a task has fewer than two prompts."""
    if (prompt_counts < 2).any():
        raise TooFewImagesError(
            "a standard error over prompts needs two prompts in each task, found"
            f" {prompt_counts.min()}"
        )


def sign_flip_test(differences: PromptMeans, permutations: int = PERMUTATIONS) -> SignFlipTest:
    """Return the paired permutation test over prompts.

    Without an effect the difference of each prompt is as likely to have the other sign. Every sign
    vector is tried if there are no more than `permutations`. Otherwise `permutations` random ones
    are tried (fixed seed), and the observed one is added, so that p is never 0.

    Args:
        differences: prompt means of new minus baseline.
        permutations: the maximum number of sign vectors.
    """
    prompt_counts = np.bincount(differences.tasks)  # (T,)
    # The contributions (P,) of prompts add up to the difference of the scores.
    contributions = differences.means / prompt_counts[differences.tasks] / len(prompt_counts)
    contributions = contributions[contributions != 0]
    scale = float(np.abs(contributions).sum())
    test = exchange_test(
        lambda signs: signs @ contributions, len(contributions), scale, permutations
    )
    wins = int((contributions > 0).sum())
    losses = int((contributions < 0).sum())
    ties = len(differences.means) - wins - losses
    return SignFlipTest(test.p, test.is_exact, wins, losses, ties)


class ExchangeTest(NamedTuple):
    """Two-sided p value of a test that exchanges prompts, and whether every exchange was tried."""

    p: float
    is_exact: bool


def exchange_test(
    difference: Callable[[np.ndarray], np.ndarray],
    n_prompts: int,
    scale: float,
    permutations: int = PERMUTATIONS,
) -> ExchangeTest:
    """Return the fraction of exchanges whose difference is at least as large as the observed one.

    Args:
        difference: signs (K, n_prompts) to differences (K,). A sign of +1 leaves a prompt in its
            run, -1 exchanges it with the other run.
        n_prompts: number of prompts that differ between the runs.
        scale: size of the terms in the sums. Differences equal up to its rounding are ties.
        permutations: the maximum number of exchanges. If there are more, this number of random
            ones is tried, and the observed one is added.
    """
    observed_difference = float(abs(difference(np.ones((1, n_prompts)))[0]))
    is_exact = 2**n_prompts <= permutations
    chunks = _all_signs(n_prompts) if is_exact else _random_signs(n_prompts, permutations)
    threshold = observed_difference - RELATIVE_TOLERANCE * scale
    count = sum(int((np.abs(difference(signs)) >= threshold).sum()) for signs in chunks)
    if is_exact:
        return ExchangeTest(count / 2**n_prompts, is_exact)
    return ExchangeTest((count + 1) / (permutations + 1), is_exact)


def _all_signs(n_prompts: int) -> Iterator[np.ndarray]:
    """Yield all sign vectors at once, (2^n_prompts, n_prompts)."""
    signs = list(itertools.product((-1.0, 1.0), repeat=n_prompts))
    yield np.array(signs).reshape(2**n_prompts, n_prompts)


def _random_signs(n_prompts: int, count: int) -> Iterator[np.ndarray]:
    """Yield `count` random sign vectors in chunks (K, n_prompts), K at most CHUNK."""
    rng = np.random.default_rng(SEED)
    for start in range(0, count, CHUNK):
        yield rng.integers(0, 2, (min(CHUNK, count - start), n_prompts)) * 2.0 - 1.0
