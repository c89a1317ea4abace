"""Prompts as clusters: errors and paired tests of scores whose images share prompts. Plain numpy.

The images of one prompt are alike (measured correlation 0.3 to 0.5), so they are not independent
draws: an interval that counts
images covers 81% where it claims 95%. Two questions have two intervals: would a rerun with new
seeds agree, and would new prompts?
Both are Student's t with Satterthwaite's degrees of freedom: with five prompts the normal interval
covers 87%
(tests/statistics/test_intervals.py).
Scores with bounds have a score interval for new prompts: near a bound the t interval covers 63 to
90%
(tests/statistics/test_simulation.py).
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
    quantile,
    student_interval,
)

Draws = TypeVar("Draws", float, np.ndarray)
PERMUTATIONS = 10_000
SEED = 0  # of the sign flips: equal data give equal p
CHUNK = 1000  # sign vectors held at once
RELATIVE_TOLERANCE = (
    1e-12  # relative; sums of the same terms in another order must still count as ties
)
# of a prompt's variance, seen with every prompt at a bound; chosen by simulation, docs/prompts.md
PRIOR_VARIANCE = 0.1


class PromptMeans(NamedTuple):
    """One row a prompt, ascending by prompt id.

    means (P,); spread (P,) variance of each mean over its images, None where a prompt has one
    image; tasks (P,) number 0 to T - 1;
    images (P,) how many a prompt has.
    """

    means: np.ndarray
    mean_variances: np.ndarray | None
    tasks: np.ndarray
    image_counts: np.ndarray


class ClusteredMean(NamedTuple):
    """Mean over tasks of the mean over prompts. `new_prompts` generalises; `new_seeds` (same
    prompts) tells if a rerun agrees.

    new_seeds is None where no two images of a prompt differ: nothing was seen of what seeds do. df:
    Student's degrees of freedom of
    new_prompts, None where its error is 0.
    """

    value: float
    new_prompts_interval: Interval
    new_seeds_interval: Interval | None
    df: float | None


class SignFlipTest(NamedTuple):
    """Two-sided p of the paired test, whether every sign vector was tried, and prompts won, lost
    and alike.
    """

    p: float
    is_exact: bool
    wins: int
    losses: int
    ties: int


def prompt_means(
    values: np.ndarray, prompts: np.ndarray, tasks: np.ndarray | None = None
) -> PromptMeans:
    """Means of values (N,) over the images of each prompt.

    Args:
        prompts: (N,) id of each image's prompt. tasks: (N,) id of each image's task; None: a single
            task.

    Raises:
        ShapeError: arrays of other lengths, or a prompt in two tasks.
    """
    tasks = np.zeros(len(values), dtype=np.int64) if tasks is None else tasks
    if not len(values) == len(prompts) == len(tasks) or not len(values):
        raise ShapeError(
            f"{len(values)} values, {len(prompts)} prompts and {len(tasks)} tasks do not fit"
            " together"
        )
    _, first, of, counts = np.unique(
        prompts, return_index=True, return_inverse=True, return_counts=True
    )
    _, numbers = np.unique(tasks, return_inverse=True)
    if (numbers[first][of] != numbers).any():
        raise ShapeError("a prompt stands in two tasks; give it an id of its own in each")
    values = np.asarray(values, dtype=np.float64)
    means = np.bincount(of, weights=values) / counts
    squares = np.bincount(of, weights=(values - means[of]) ** 2)
    spread = squares / (counts - 1) / counts if (counts > 1).all() else None  # (P,)
    return PromptMeans(means, spread, numbers[first], counts)


def clustered_mean(found: PromptMeans) -> ClusteredMean:
    """The macro average with both errors; for paired differences give means of new minus baseline.

    Raises:
        TooFewImages: a task has a single prompt, so nothing can be said of new prompts.

    Source: Liang and Zeger 1986 with equal weights within a task; tasks are fixed, so their errors
    add in squares. Degrees of freedom:
    Satterthwaite 1946, over tasks for new prompts and over prompts for new seeds.
    """
    counts = np.bincount(found.tasks)
    _need_two_prompts(counts)
    task_means = np.bincount(found.tasks, weights=found.means) / counts  # (T,)
    value = float(task_means.mean())
    squares = np.bincount(found.tasks, weights=(found.means - task_means[found.tasks]) ** 2) / (
        counts - 1
    )
    between = squares / counts  # (T,) variances of the task means
    df = satterthwaite_df(between, counts - 1)
    new_prompts = student_interval(value, math.sqrt(between.sum()) / len(counts), df)
    if (
        found.mean_variances is None
        or found.mean_variances.max() <= (RELATIVE_TOLERANCE * np.abs(found.means).max()) ** 2
    ):  # 0 up to rounding
        return ClusteredMean(value, new_prompts, None, df)
    within = found.mean_variances / counts[found.tasks] ** 2  # (P,) what each prompt adds to them
    new_seeds = student_interval(
        value,
        math.sqrt(within.sum()) / len(counts),
        satterthwaite_df(within, found.image_counts - 1),
    )
    return ClusteredMean(value, new_prompts, new_seeds, df)


def satterthwaite_df(parts: np.ndarray, freedoms: np.ndarray) -> float | None:
    """Degrees of freedom of a sum of estimated variances (K,), each with its own (K,); None where
    all are 0.

    Source: Satterthwaite 1946.
    """
    loose = float((parts**2 / freedoms).sum())
    return float(parts.sum()) ** 2 / loose if loose else None


def score_interval(scores: PromptMeans, bounds: tuple[float, float]) -> Interval | None:
    """Return the score interval for new prompts of a mean, or a mean of task means, that has
    bounds.

    It is Wilson's interval at the effective number of prompts, with Student's quantile. Its width
    is
    never 0 and its ends lie within the bounds. Between the bounds it equals Student's t interval.

    Args:
        scores: at least two prompts in each task.
        bounds: the least and the most that a score can be.

    Returns:
        None where the prompts of every task score alike between the bounds: nothing was seen of how
        prompts differ. se is the plain error, at a bound Wilson's half width in deviates.

    Raises:
        TooFewImages: A task has a single prompt.

    Source: Wilson 1927; Korn and Graubard 1998 for the effective number.
    """
    _need_two_prompts(np.bincount(scores.tasks))
    span = bounds[1] - bounds[0]
    share = BoundedMean.from_scores((scores.means - bounds[0]) / span, scores.tasks)
    if share is None:
        return None
    inverse, freedom = share.inverse_effective_size()
    centre, half = wilson_centre_and_half_width(
        share.rate, inverse, quantile(CONFIDENCE_LEVEL, freedom)
    )
    is_at_bound = min(share.rate, 1.0 - share.rate) <= RELATIVE_TOLERANCE
    plain = math.sqrt(inverse * share.rate * (1.0 - share.rate))
    se = wilson_centre_and_half_width(share.rate, inverse, Z)[1] / Z if is_at_bound else plain
    low = max(
        0.0, min(float(centre - half), share.rate)
    )  # at a bound it is the rate, up to rounding
    high = min(1.0, max(float(centre + half), share.rate))
    return Interval(span * float(se), bounds[0] + span * low, bounds[0] + span * high)


class BoundedMean(NamedTuple):
    """A mean of task means of scores of 0 to 1, and what the prompts show of its variance.

    rate: the mean. variance: of the mean, from the prompts' spread in their tasks. freedom:
    Student's
    degrees of freedom of that variance, None where it is 0. prompts: how many there are, less what
    unequal tasks waste. loose: prompts minus tasks.
    """

    rate: float
    variance: float
    df: float | None
    effective_prompts: float
    residual_df: int

    @classmethod
    def from_scores(cls, scores: np.ndarray, tasks: np.ndarray) -> BoundedMean | None:
        """Return the mean of scores (P,) over tasks (P,); None where all tasks are alike between 0
        and 1.
        """
        counts = np.bincount(tasks)
        means = np.clip(np.bincount(tasks, weights=scores) / counts, 0.0, 1.0)  # (T,)
        squares = np.bincount(tasks, weights=(scores - means[tasks]) ** 2)
        is_alike = squares <= RELATIVE_TOLERANCE**2
        is_at_bound = is_alike & (np.minimum(means, 1.0 - means) <= RELATIVE_TOLERANCE)
        if (is_alike & ~is_at_bound).all():
            return None

        # A task at its bound shows no spread and has an error none the less, its Wilson error.
        # Where the
        # whole mean is at a bound, the effective number stands for it, so it fades there.
        rate = float(means.mean())
        parts = np.where(is_alike, 0.0, squares / (counts - 1) / counts)
        unseen = np.where(
            is_at_bound, (wilson_centre_and_half_width(1.0, 1.0 / counts, Z)[1] / Z) ** 2, 0.0
        )
        variance = float(parts.sum() + 4.0 * rate * (1.0 - rate) * unseen.sum()) / len(counts) ** 2
        freedom = satterthwaite_df(parts, counts - 1)
        if freedom is not None:  # the unseen part counts as known
            freedom *= (variance * len(counts) ** 2 / float(parts.sum())) ** 2
        return cls(
            rate,
            variance,
            freedom,
            len(counts) ** 2 / float((1.0 / counts).sum()),
            int((counts - 1).sum()),
        )

    def inverse_effective_size(self) -> tuple[float, float | None]:
        """Return 1 / effective number of prompts and the degrees of freedom that it is known with.

        A prompt's variance is phi p (1 - p), with phi from 0 (prompts alike) to 1 (every prompt at
        a
        bound), so P prompts count as P / phi. Near a bound few prompts differ and tell little of
        phi.
        It is therefore shrunk towards 1, the most cautious value, as if PRIOR of a prompt's
        variance
        had been seen with phi = 1. The weight (1 - 4 p (1 - p))^2 fades between the bounds, where
        the
        prompts' own spread is enough. The prior part counts as known (Satterthwaite 1946).
        """
        binomial = self.rate * (1.0 - self.rate)
        prior = PRIOR_VARIANCE * (1.0 - 4.0 * binomial) ** 2
        seen_squares = self.variance * self.effective_prompts * self.residual_df
        phi = (seen_squares + prior) / (self.residual_df * binomial + prior)
        if self.df is None or seen_squares == 0:
            return phi / self.effective_prompts, None
        return phi / self.effective_prompts, self.df * ((seen_squares + prior) / seen_squares) ** 2


def wilson_centre_and_half_width(rate: float, inverse: Draws, reach: float) -> tuple[Draws, Draws]:
    """Return centre and half width of Wilson's interval of a rate; inverse is 1 / number of
    draws.
    """
    square = reach * reach * inverse
    half = np.sqrt(square * rate * (1.0 - rate) + square**2 / 4.0) / (1.0 + square)
    return (rate + square / 2.0) / (1.0 + square), half


def _need_two_prompts(counts: np.ndarray) -> None:
    if (counts < 2).any():
        raise TooFewImagesError(
            f"an error over prompts needs two prompts in each task, found {counts.min()}"
        )


def sign_flip_test(differences: PromptMeans, permutations: int = PERMUTATIONS) -> SignFlipTest:
    """Paired permutation test over prompts: without an effect each prompt's difference is as likely
    to have the other sign.

    Every sign vector is tried where there are no more than `permutations` of them, else that many
    random ones (fixed seed), the
    observed one counted among them so that p is never 0.

    Args:
        differences: prompt means of new minus baseline.
    """
    counts = np.bincount(differences.tasks)
    parts = (
        differences.means / counts[differences.tasks] / len(counts)
    )  # (P,), their sum is the difference of the scores
    parts = parts[parts != 0]
    tested = exchange_test(
        lambda signs: signs @ parts, len(parts), float(np.abs(parts).sum()), permutations
    )
    wins = int((parts > 0).sum())
    losses = int((parts < 0).sum())
    return SignFlipTest(
        tested.p, tested.is_exact, wins, losses, len(differences.means) - wins - losses
    )


class ExchangeTest(NamedTuple):
    """Two-sided p of a test that exchanges prompts between two runs, and whether it tried every
    exchange.
    """

    p: float
    is_exact: bool


def exchange_test(
    difference: Callable[[np.ndarray], np.ndarray],
    width: int,
    scale: float,
    permutations: int = PERMUTATIONS,
) -> ExchangeTest:
    """Return the share of exchanges whose difference is at least as large as the observed one.

    Args:
        difference: signs (K, width) to differences (K,); +1 leaves a prompt in its run, -1
            exchanges it.
        width: prompts that differ between the runs; the others do not move.
        scale: size of the terms that are summed; differences equal up to its rounding are ties.
        permutations: every exchange is tried where there are no more, else that many random ones.
    """
    observed = float(abs(difference(np.ones((1, width)))[0]))
    exact = 2**width <= permutations
    chunks = _all_signs(width) if exact else _random_signs(width, permutations)
    beyond = sum(
        int((np.abs(difference(chunk)) >= observed - RELATIVE_TOLERANCE * scale).sum())
        for chunk in chunks
    )
    return ExchangeTest(beyond / 2**width if exact else (beyond + 1) / (permutations + 1), exact)


def _all_signs(width: int) -> Iterator[np.ndarray]:
    yield np.array(list(itertools.product((-1.0, 1.0), repeat=width))).reshape(2**width, width)


def _random_signs(width: int, count: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(SEED)
    for start in range(0, count, CHUNK):
        yield rng.integers(0, 2, (min(CHUNK, count - start), width)) * 2.0 - 1.0
