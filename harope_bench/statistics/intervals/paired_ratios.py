"""Two runs of the same prompts: difference of a score that is a ratio of sums, its error, and a
test that exchanges prompts.

A run's score is the mean over tasks of (sum of totals) / (sum of weights) over the task's images. A
plain mean has weights of 1; a
DPG-Bench category has the number of an image's questions. Plain numpy.
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
    """The images of one run that count for a metric: totals, weights (N,) float64; prompts, tasks
    (N,) integers.
    """

    totals: np.ndarray
    weights: np.ndarray
    prompts: np.ndarray
    tasks: np.ndarray


class PairedRatio(NamedTuple):
    """New minus old with its error over prompts, and the test over prompts.

    se and df are None where nothing tells the error. `new_seeds` is the interval for the same
    prompts, None where a prompt has one
    image or no two images of a prompt differ. `unmoved_tasks` of `tasks` show no spread at all.
    wins, losses and ties count prompts by
    their own score, total / weight.
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
        """Number of prompts that both runs have."""
        return self.wins + self.losses + self.ties


class PromptSums(NamedTuple):
    """Sums over each prompt's images, (P,) ascending by prompt id; tasks are numbered 0 to T - 1.

    totals and weights are scaled by the task's images per prompt, so that four images of a prompt
    and one can be exchanged; no ratio
    depends on that scale.
    """

    totals: np.ndarray
    weights: np.ndarray
    tasks: np.ndarray

    def ratios(self) -> np.ndarray:
        """Return the score of each task, (T,)."""
        return np.bincount(self.tasks, self.totals) / np.bincount(self.tasks, self.weights)


def paired_ratio(
    old: PromptSamples,
    new: PromptSamples,
    same_samples: bool,
    span: float | None = None,
    permutations: int = PERMUTATIONS,
) -> PairedRatio:
    """Compare two runs of the same prompts.

    Args:
        same_samples: the arrays of both runs hold the same samples in the same order, so that
            images pair within a prompt too.
        span: the metric's upper bound minus its lower one; grants an error to a task in which no
            prompt moved.

    Raises:
        ShapeError: The runs hold other prompts, or a prompt in two tasks.
        TooFewImages: A task has a single prompt with any weight.
    """
    old_sums = prompt_sums(old)
    new_sums = prompt_sums(new)
    if not np.array_equal(np.unique(old.prompts), np.unique(new.prompts)):
        raise ShapeError(
            "two runs are compared prompt by prompt, and they hold other prompts; compare them"
            " unpaired"
        )
    if not np.array_equal(old_sums.tasks, new_sums.tasks):
        raise ShapeError("two runs hold a prompt in other tasks; compare them unpaired")

    delta = float((new_sums.ratios() - old_sums.ratios()).mean())
    variances, is_unmoved = _task_variances(old_sums, new_sums)
    counts = np.bincount(old_sums.tasks)
    tasks = len(variances)
    granted = _unmoved_tasks_error(counts, is_unmoved, span)
    parts = np.append(variances / tasks**2, granted**2)
    se = math.sqrt(parts.sum()) if parts.any() else None
    # what is granted was not estimated, so it costs no degrees of freedom
    df = satterthwaite_df(parts, np.append(counts - 1.0, np.inf))
    new_seeds = _new_seeds_interval(old, new, delta, same_samples)
    tested = _exchange_prompts(old_sums, new_sums, permutations)
    return PairedRatio(delta, se, df, new_seeds, tasks, int(is_unmoved.sum()), *tested)


def prompt_sums(samples: PromptSamples) -> PromptSums:
    """Return totals and weights of each prompt.

    Raises:
        ShapeError: A prompt is in two tasks, or has no weight.
    """
    _, first, of, images = np.unique(
        samples.prompts, return_index=True, return_inverse=True, return_counts=True
    )
    _, numbers = np.unique(samples.tasks, return_inverse=True)
    tasks = numbers[first]
    if (tasks[of] != numbers).any():
        raise ShapeError("a prompt stands in two tasks; give it an id of its own in each")

    # images per prompt of each task, (T,), then of each prompt's task, (P,)
    per_prompt = (np.bincount(tasks, images) / np.bincount(tasks))[tasks]
    totals = np.bincount(of, samples.totals) / per_prompt
    weights = np.bincount(of, samples.weights) / per_prompt
    if not (weights > 0).all():
        raise ShapeError("a prompt's images have no weight, so it has no score; leave it out")
    return PromptSums(totals, weights, tasks)


def _task_variances(old: PromptSums, new: PromptSums) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance of each task's difference, and whether the task shows no spread at all,
    (T,) each.

    Delete-one-prompt jackknife: for weights of 1 it is the variance of the mean of the prompts'
    differences.
    """
    counts = np.bincount(old.tasks)
    if (counts < 2).any():
        raise TooFewImagesError(
            f"an error over prompts needs two prompts in each task, found {counts.min()}"
        )
    moves = _leave_one_out_scores(new) - _leave_one_out_scores(
        old
    )  # (P,) difference of the task without that prompt
    centred = moves - (np.bincount(old.tasks, moves) / counts)[old.tasks]
    variances = np.bincount(old.tasks, centred**2) * (counts - 1) / counts

    size = max(float(np.abs(new.ratios()).max()), float(np.abs(old.ratios()).max()))
    is_unmoved = variances <= (RELATIVE_TOLERANCE * size) ** 2  # 0 up to rounding
    return np.where(is_unmoved, 0.0, variances), is_unmoved


def _unmoved_tasks_error(counts: np.ndarray, is_unmoved: np.ndarray, span: float | None) -> float:
    """Return the error of the score for the tasks that show no spread, which is no error of 0; 0
    for a metric without bounds.

    It is what Bonett and Price grant to pairs of which none differs, over the prompts of these
    tasks: one prompt each way.
    """
    if span is None or not is_unmoved.any():
        return 0.0
    return (
        span
        * float(is_unmoved.mean())
        * bonett_price_interval(0, 0, int(counts[is_unmoved].sum()), 1.0).se
    )


def _leave_one_out_scores(sums: PromptSums) -> np.ndarray:
    """Return the score of a prompt's task without that prompt, (P,)."""
    totals, weights = (
        np.bincount(sums.tasks, x)[sums.tasks] - x for x in (sums.totals, sums.weights)
    )
    if (weights <= RELATIVE_TOLERANCE * np.bincount(sums.tasks, sums.weights)[sums.tasks]).any():
        raise TooFewImagesError(
            "an error over prompts needs two prompts in each task, one has all the weight"
        )
    return np.asarray(totals / weights)


def _new_seeds_interval(
    old: PromptSamples, new: PromptSamples, delta: float, same_samples: bool
) -> Interval | None:
    """Return the interval for other seeds of the same prompts, from what varies within prompts.

    Images that pair within a prompt vary together, so their differences count; else the variances
    of both runs add.
    """
    effects = [_image_contributions(old), _image_contributions(new)]
    if same_samples:
        parts = [_within_prompt_variances(effects[1] - effects[0], old.prompts)]
    else:
        parts = [
            _within_prompt_variances(effect, run.prompts)
            for effect, run in zip(effects, (old, new), strict=True)
        ]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    variances, freedoms = (np.concatenate(arrays) for arrays in zip(*known, strict=True))
    largest = max(float(np.abs(effect).max()) for effect in effects)
    if variances.max() <= (RELATIVE_TOLERANCE * largest) ** 2:  # 0 up to rounding
        return None
    return student_interval(
        delta, math.sqrt(variances.sum()), satterthwaite_df(variances, freedoms)
    )


def _image_contributions(run: PromptSamples) -> np.ndarray:
    """Return what each image adds to the run's score, first order, (N,); they sum to 0 in each
    task.
    """
    _, numbers = np.unique(run.tasks, return_inverse=True)
    weights = np.bincount(numbers, run.weights)
    ratios = np.bincount(numbers, run.totals) / weights
    effects = (run.totals - ratios[numbers] * run.weights) / weights[numbers] / len(weights)
    return np.asarray(effects)


def _within_prompt_variances(
    effects: np.ndarray, prompts: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the variance of each prompt's sum of effects and its degrees of freedom, (P,) each;
    None where a prompt has one image.
    """
    _, of, images = np.unique(prompts, return_inverse=True, return_counts=True)
    if (images < 2).any():
        return None
    centred = effects - (np.bincount(of, effects) / images)[of]
    return images * np.bincount(of, centred**2) / (images - 1), images - 1


def _exchange_prompts(
    old: PromptSums, new: PromptSums, permutations: int
) -> tuple[float, bool, int, int, int]:
    """Return p, whether it is exact, and prompts won, lost and alike.

    Without an effect a prompt's sums could as well stand in the other run. Prompts whose totals and
    weights are equal do not move.
    """
    # (P,)
    totals = new.totals - old.totals
    weights = new.weights - old.weights
    sizes = np.abs(new.totals) + np.abs(old.totals), new.weights + old.weights
    moved = (np.abs(totals) > RELATIVE_TOLERANCE * sizes[0]) | (
        np.abs(weights) > RELATIVE_TOLERANCE * sizes[1]
    )
    whole = [
        np.bincount(new.tasks, size) for size in (new.totals + old.totals, sizes[1])
    ]  # (T,) of both runs
    members = np.eye(len(whole[0]))[new.tasks]  # (P, T)
    still = [x[~moved] @ members[~moved] for x in (totals, weights)]  # rounding alone
    parts = [x[moved, None] * members[moved] for x in (totals, weights)]  # (moved, T)

    def difference(signs: np.ndarray) -> np.ndarray:
        a, b = (
            still[i] + signs @ parts[i] for i in (0, 1)
        )  # (K, T) new minus old after the exchange
        return np.asarray(
            ((whole[0] + a) / (whole[1] + b) - (whole[0] - a) / (whole[1] - b)).mean(1)
        )

    scale = float((np.bincount(new.tasks, sizes[0]) / whole[1]).max())
    p, exact = exchange_test(difference, int(moved.sum()), scale, permutations)
    scores = [sums.totals / sums.weights for sums in (old, new)]
    apart = np.abs(scores[1] - scores[0]) > RELATIVE_TOLERANCE * np.maximum(
        np.abs(scores[0]), np.abs(scores[1])
    )
    wins, losses = (
        int((apart & sign).sum()) for sign in (scores[1] > scores[0], scores[1] < scores[0])
    )
    return p, exact, wins, losses, len(moved) - wins - losses


def prompt_contributions(run: PromptSamples) -> np.ndarray:
    """Return first-order contributions of the prompts, (P,), with the score as their mean and its
    error as their standard error.

    For methods of several training seeds, whose runs share the prompts.
    """
    sums = prompt_sums(run)
    ratios = sums.ratios()
    weights = np.bincount(sums.tasks, sums.weights)
    effects = (sums.totals - ratios[sums.tasks] * sums.weights) / weights[sums.tasks] / len(ratios)
    return np.asarray(ratios.mean() + len(effects) * effects)
