"""Prompts as clusters: errors and paired tests of scores whose images share prompts. Plain numpy.

The images of one prompt are alike (measured correlation 0.3 to 0.5), so they are not independent draws: an interval that counts
images covers 81% where it claims 95%. Two questions have two intervals: would a rerun with new seeds agree, and would new prompts?
Both are Student's t with Satterthwaite's degrees of freedom: with five prompts the normal interval covers 87% (tests/test_intervals.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from harope_bench.errors import ShapeError, TooFewImages
from harope_bench.statistics import Interval, student, wilson

PERMUTATIONS = 10_000
SEED = 0  # of the sign flips: equal data give equal p
CHUNK = 1000  # sign vectors held at once
SLACK = 1e-12  # relative; sums of the same terms in another order must still count as ties


class PromptMeans(NamedTuple):
    """One row a prompt, ascending by prompt id.

    means (P,); spread (P,) variance of each mean over its images, None where a prompt has one image; tasks (P,) number 0 to T - 1;
    images (P,) how many a prompt has.
    """

    means: np.ndarray
    spread: np.ndarray | None
    tasks: np.ndarray
    images: np.ndarray


class ClusterScore(NamedTuple):
    """Mean over tasks of the mean over prompts. `new_prompts` generalises; `new_seeds` (same prompts) tells if a rerun agrees.

    new_seeds is None where no two images of a prompt differ: nothing was seen of what seeds do. df: Student's degrees of freedom of
    new_prompts, None where its error is 0.
    """

    value: float
    new_prompts: Interval
    new_seeds: Interval | None
    df: float | None


class SignFlip(NamedTuple):
    """Two-sided p of the paired test, whether every sign vector was tried, and prompts won, lost and alike."""

    p: float
    exact: bool
    wins: int
    losses: int
    ties: int


def prompt_means(values: np.ndarray, prompts: np.ndarray, tasks: np.ndarray | None = None) -> PromptMeans:
    """Means of values (N,) over the images of each prompt.

    Args:
        prompts: (N,) id of each image's prompt. tasks: (N,) id of each image's task; None: a single task.

    Raises:
        ShapeError: arrays of other lengths, or a prompt in two tasks.
    """
    tasks = np.zeros(len(values), dtype=np.int64) if tasks is None else tasks
    if not len(values) == len(prompts) == len(tasks) or not len(values):
        raise ShapeError(f"{len(values)} values, {len(prompts)} prompts and {len(tasks)} tasks do not fit together")
    _, first, of, counts = np.unique(prompts, return_index=True, return_inverse=True, return_counts=True)
    _, numbers = np.unique(tasks, return_inverse=True)
    if (numbers[first][of] != numbers).any():
        raise ShapeError("a prompt stands in two tasks; give it an id of its own in each")
    values = np.asarray(values, dtype=np.float64)
    means = np.bincount(of, weights=values) / counts
    squares = np.bincount(of, weights=(values - means[of]) ** 2)
    spread = squares / (counts - 1) / counts if (counts > 1).all() else None  # (P,)
    return PromptMeans(means, spread, numbers[first], counts)


def cluster_score(found: PromptMeans) -> ClusterScore:
    """The macro average with both errors; for paired differences give means of new minus baseline.

    Raises:
        TooFewImages: a task has a single prompt, so nothing can be said of new prompts.

    Source: Liang and Zeger 1986 with equal weights within a task; tasks are fixed, so their errors add in squares. Degrees of freedom:
    Satterthwaite 1946, over tasks for new prompts and over prompts for new seeds.
    """
    counts = np.bincount(found.tasks)
    if (counts < 2).any():
        raise TooFewImages(f"an error over prompts needs two prompts in each task, found {counts.min()}")
    task_means = np.bincount(found.tasks, weights=found.means) / counts  # (T,)
    value = float(task_means.mean())
    squares = np.bincount(found.tasks, weights=(found.means - task_means[found.tasks]) ** 2) / (counts - 1)
    between = squares / counts  # (T,) variances of the task means
    df = satterthwaite(between, counts - 1)
    new_prompts = student(value, math.sqrt(between.sum()) / len(counts), df)
    if found.spread is None or found.spread.max() <= (SLACK * np.abs(found.means).max()) ** 2:  # 0 up to rounding
        return ClusterScore(value, new_prompts, None, df)
    within = found.spread / counts[found.tasks] ** 2  # (P,) what each prompt adds to them
    new_seeds = student(value, math.sqrt(within.sum()) / len(counts), satterthwaite(within, found.images - 1))
    return ClusterScore(value, new_prompts, new_seeds, df)


def satterthwaite(parts: np.ndarray, freedoms: np.ndarray) -> float | None:
    """Degrees of freedom of a sum of estimated variances (K,), each with its own (K,); None where all are 0.

    Source: Satterthwaite 1946.
    """
    loose = float((parts**2 / freedoms).sum())
    return float(parts.sum()) ** 2 / loose if loose else None


def saturated(found: PromptMeans, bounds: tuple[float, float]) -> Interval | None:
    """Interval of the macro average where every prompt is at a bound of the metric: there a spread of 0 is no error of 0.

    Prompts count as hits at the upper bound; Wilson's interval of each task, joined over tasks. None where a prompt lies between.

    Source: Wilson 1927; Zou and Donner 2008 for the mean of several (each end takes the squares of the distances to that end).
    """
    span = bounds[1] - bounds[0]
    top = np.isclose(found.means, bounds[1], rtol=0, atol=SLACK * span)
    if not (top | np.isclose(found.means, bounds[0], rtol=0, atol=SLACK * span)).all():
        return None
    hits, counts = np.bincount(found.tasks, weights=top), np.bincount(found.tasks)
    tasks = [wilson(int(hit), int(n)) for hit, n in zip(hits, counts, strict=True)]
    gaps = [(task.se, hit / n - task.low, task.high - hit / n) for task, hit, n in zip(tasks, hits, counts, strict=True)]
    se, below, above = (span * math.hypot(*ends) / len(counts) for ends in zip(*gaps, strict=True))
    value = bounds[0] + span * float((hits / counts).mean())
    return Interval(se, max(bounds[0], value - below), min(bounds[1], value + above))


def stuck(found: PromptMeans, bounds: tuple[float, float]) -> float:
    """What tasks add to the error of the macro average all of whose prompts are at one bound of the metric: Wilson's error of each."""
    counts = np.bincount(found.tasks)
    errors = [
        wilson(int(n), int(n)).se
        for task, n in enumerate(counts)
        if any(np.allclose(found.means[found.tasks == task], bound, rtol=0, atol=SLACK * (bounds[1] - bounds[0])) for bound in bounds)
    ]
    return (bounds[1] - bounds[0]) * math.hypot(*errors) / len(counts)


def sign_flip(differences: PromptMeans, permutations: int = PERMUTATIONS) -> SignFlip:
    """Paired permutation test over prompts: without an effect each prompt's difference is as likely to have the other sign.

    Every sign vector is tried where there are no more than `permutations` of them, else that many random ones (fixed seed), the
    observed one counted among them so that p is never 0.

    Args:
        differences: prompt means of new minus baseline.
    """
    counts = np.bincount(differences.tasks)
    parts = differences.means / counts[differences.tasks] / len(counts)  # (P,), their sum is the difference of the scores
    parts = parts[parts != 0]
    tested = exchange_p(lambda signs: signs @ parts, len(parts), float(np.abs(parts).sum()), permutations)
    wins, losses = int((parts > 0).sum()), int((parts < 0).sum())
    return SignFlip(tested.p, tested.exact, wins, losses, len(differences.means) - wins - losses)


class ExchangeTest(NamedTuple):
    """Two-sided p of a test that exchanges prompts between two runs, and whether it tried every exchange."""

    p: float
    exact: bool


def exchange_p(
    difference: Callable[[np.ndarray], np.ndarray],
    width: int,
    scale: float,
    permutations: int = PERMUTATIONS,
) -> ExchangeTest:
    """Return the share of exchanges whose difference is at least as large as the observed one.

    Args:
        difference: signs (K, width) to differences (K,); +1 leaves a prompt in its run, -1 exchanges it.
        width: prompts that differ between the runs; the others do not move.
        scale: size of the terms that are summed; differences equal up to its rounding are ties.
        permutations: every exchange is tried where there are no more, else that many random ones.
    """
    observed = float(abs(difference(np.ones((1, width)))[0]))
    exact = 2**width <= permutations
    chunks = _every_sign(width) if exact else _random_signs(width, permutations)
    beyond = sum(int((np.abs(difference(chunk)) >= observed - SLACK * scale).sum()) for chunk in chunks)
    return ExchangeTest(beyond / 2**width if exact else (beyond + 1) / (permutations + 1), exact)


def _every_sign(width: int) -> Iterator[np.ndarray]:
    yield np.array(list(itertools.product((-1.0, 1.0), repeat=width))).reshape(2**width, width)


def _random_signs(width: int, count: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(SEED)
    for start in range(0, count, CHUNK):
        yield rng.integers(0, 2, (min(CHUNK, count - start), width)) * 2.0 - 1.0
