"""Inception Score over consecutive blocks, and the effect of the images' order on it."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import TooFewImagesError
from harope_bench.metrics.moments import row_blocks

BLOCK_IMAGES = 5000  # ADM's split_size: a number of images, not a number of splits
# torch-fidelity's defaults
SPLITS = 10
SPLIT_SEED = 2020
# random orders that the images' order is compared with
SHUFFLES = 3
SHUFFLE_SEED = 0
CHANCE_BOUND_NATS = 10.0  # a random order exceeds a bound once in e^10 = 22,000 sets


class InceptionScore(NamedTuple):
    """Inception Score over blocks, with what its error and its dependence on order follow from.

    value: unweighted mean over the blocks. blocks: score of each block (B,). contributions: centred
    first-order contributions (N,). order_loss: nats of log IS lost by the order beyond chance, see
    `order_loss`. order_chance: nats that a random order stays below, see `order_chance`.
    """

    value: float
    blocks: np.ndarray
    contributions: np.ndarray
    order_loss: float
    order_chance: float


def inception_score(logits: np.ndarray, block_size: int = BLOCK_IMAGES) -> InceptionScore:
    """Return the mean over consecutive blocks of exp(mean_i KL(p(y|x_i) || p(y))).

    Natural logarithm; p(y) is the mean of p(y|x_i) over the block.

    Args:
        logits: (N, C) in index order, N >= 1; softmax over all C in float64. A short last block has
            the weight of a full one.

    Returns:
        A value between 1 and C. The standard deviation of the contributions over sqrt(N) is the
        first-order standard error: the derivative of exp(mean KL) is the score times
        (KL_i - mean KL), since the derivative through p(y) sums to 0.

    Source: Salimans et al. 2016; openai/guided-diffusion:evaluations/evaluator.py,
    `compute_inception_score`, which computes in float32 and gives NaN if a probability
    underflows to 0.
    """
    parts = list(row_blocks(len(logits), block_size))
    classes = logits.shape[1]
    scores = np.empty(len(parts))
    contributions = np.empty(len(logits))
    marginals = np.empty((len(parts), classes))
    mean_squares = np.empty((len(parts), classes))

    for b, part in enumerate(parts):
        log_p = log_softmax(logits[part])  # (n, C)
        p = np.exp(log_p)
        marginals[b] = p.mean(axis=0)
        mean_squares[b] = np.einsum("nc,nc->c", p, p) / len(p)

        divergences = kl_divergences(p, log_p, marginals[b])  # (n,)
        scores[b] = np.exp(divergences.mean())
        weight = len(logits) / (len(parts) * len(p))  # an image of a short block weighs more
        contributions[part] = weight * scores[b] * (divergences - divergences.mean())

    sizes = np.array([part.stop - part.start for part in parts])
    return InceptionScore(
        value=float(scores.mean()),
        blocks=scores,
        contributions=contributions,
        order_loss=order_loss(marginals, mean_squares, sizes),
        order_chance=order_chance(marginals, mean_squares, sizes),
    )


class SplitScores(NamedTuple):
    """Mean and population standard deviation of the scores (S,) of splits of shuffled images.

    The standard deviation is not the standard error of the mean.
    """

    mean: float
    std: float
    scores: np.ndarray


def shuffled_inception_score(
    logits: np.ndarray, splits: int = SPLITS, seed: int = SPLIT_SEED
) -> SplitScores:
    """Return the Inception Score as torch-fidelity computes it.

    Images are shuffled by a seeded generator and divided into `splits` parts whose sizes differ by
    at most one. The order of the images does not matter, unlike in `inception_score`.

    Args:
        logits: (N, C), N >= splits; softmax over all C in float64.

    Raises:
        TooFewImagesError: A split would be empty.

    Source: toshas/torch-fidelity:torch_fidelity/metric_isc.py.
    """
    n = len(logits)
    if n < splits:
        raise TooFewImagesError(
            f"the Inception Score over {splits} splits needs at least {splits} images, found {n};"
            " generate more images"
        )
    order = np.random.RandomState(seed).permutation(n)
    edges = [i * n // splits for i in range(splits + 1)]
    scores = np.array([_split_score(logits[order[start:stop]]) for start, stop in pairwise(edges)])
    return SplitScores(float(scores.mean()), float(scores.std()), scores)


def _split_score(logits: np.ndarray) -> float:
    """Return exp(mean_i KL(p(y|x_i) || p(y))) of logits (n, C)."""
    log_p = log_softmax(logits)
    p = np.exp(log_p)
    return float(np.exp(kl_divergences(p, log_p, p.mean(axis=0)).mean()))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the natural logarithm of the softmax of each row (n, C), float64.

    It is finite for finite logits.
    """
    log_p: np.ndarray = logits.astype(np.float64)
    log_p -= log_p.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    return log_p


def kl_divergences(p: np.ndarray, log_p: np.ndarray, marginal: np.ndarray) -> np.ndarray:
    """Return KL(p_i || marginal) in nats (n,) for rows p (n, C); 0 log 0 counts as 0."""
    # A class whose probability underflows in every row adds nothing, and log 0 is never taken.
    divergences: np.ndarray = np.einsum(
        "nc,nc->n", p, log_p - np.log(np.where(marginal > 0, marginal, 1.0))
    )
    return divergences


class OrderEffect(NamedTuple):
    """Inception Scores of random orders, where the order of the images matters.

    shuffled_mean, shuffled_lowest: mean and lowest score of SHUFFLES random orders in blocks of the
    same size. is_ordered_by_label: the blocks hold different labels. has_class_runs: most images
    are predicted to be of the class of the image before.
    """

    shuffled_mean: float
    shuffled_lowest: float
    is_ordered_by_label: bool
    has_class_runs: bool


def order_effect(
    score: InceptionScore,
    logits: np.ndarray,
    labels: np.ndarray | None,
    block_size: int = BLOCK_IMAGES,
) -> OrderEffect | None:
    """Return the scores of random orders if the blocks hold different labels or classes.

    Args:
        score: `inception_score` of these logits and this block size.
        labels: (N,) integers that the images were generated for, or None.

    Returns:
        None if there is one block, or if chance explains the differences between blocks.
    """
    is_ordered_by_label = labels is not None and _has_label_blocks(labels, block_size)
    is_beyond_chance = score.order_loss > score.order_chance
    if len(score.blocks) < 2 or not (is_ordered_by_label or is_beyond_chance):
        return None
    rng = np.random.default_rng(SHUFFLE_SEED)
    values = [
        inception_score(logits[rng.permutation(len(logits))], block_size).value
        for _ in range(SHUFFLES)
    ]
    return OrderEffect(
        float(np.mean(values)), min(values), is_ordered_by_label, _has_class_runs(logits)
    )


def _has_label_blocks(labels: np.ndarray, block_size: int) -> bool:
    """Return whether consecutive blocks of labels (N,) differ more than shuffled labels do."""
    rng = np.random.default_rng(SHUFFLE_SEED)
    _, codes = np.unique(labels, return_inverse=True)
    shuffled_information = max(
        _label_block_information(codes[rng.permutation(len(codes))], block_size)
        for _ in range(SHUFFLES)
    )

    # Shuffled labels have positive information too. Its excess over that of a random order is a
    # chi-square variable divided by 2 N; the bound is exceeded by chance once in 22,000 sets.
    n_blocks = math.ceil(len(codes) / block_size)
    degrees_of_freedom = (n_blocks - 1) * int(codes.max())  # (blocks - 1) * (labels - 1)
    chance_bound = shuffled_information + _chi_square_bound(degrees_of_freedom, len(codes))
    return _label_block_information(codes, block_size) > chance_bound


def _label_block_information(codes: np.ndarray, block_size: int) -> float:
    """Return the mutual information in nats of an image's label and its block.

    Args:
        codes: labels (N,) as integers from 0, in index order.
        block_size: images per block.
    """
    counts = np.array(
        [
            np.bincount(codes[part], minlength=codes.max() + 1)
            for part in row_blocks(len(codes), block_size)
        ]
    )  # (B, labels)
    block_weights = counts.sum(axis=1) / counts.sum()
    overall_marginal = counts.sum(axis=0) / counts.sum()
    marginals = counts / counts.sum(axis=1, keepdims=True)
    return float(block_weights @ _marginal_divergences(marginals, overall_marginal))


def _marginal_divergences(marginals: np.ndarray, overall_marginal: np.ndarray) -> np.ndarray:
    """Return KL(marginal of each block || marginal of all images) in nats (B,)."""
    log_marginals = np.log(np.where(marginals > 0, marginals, 1.0))
    return kl_divergences(marginals, log_marginals, overall_marginal)


def _has_class_runs(logits: np.ndarray) -> bool:
    """Return whether images repeat the class of the image before more often than chance explains.

    The limit is (1 + c) / 2, where c is the fraction that repeats in a random order.
    """
    classes = np.concatenate([logits[part].argmax(axis=1) for part in row_blocks(len(logits))])
    chance = float(np.square(np.bincount(classes) / len(classes)).sum())
    return float((classes[1:] == classes[:-1]).mean()) > (1 + chance) / 2


def order_chance(marginals: np.ndarray, mean_squares: np.ndarray, sizes: np.ndarray) -> float:
    """Return the nats of `order_loss` that a random order exceeds once in 22,000 sets.

    2 N times the loss is a sum of squared normal numbers whose weights are at most 1 and add up to
    (B - 1) times `_marginal_noise`. The arguments are those of `order_loss`.
    """
    weights = (len(sizes) - 1) * _marginal_noise(marginals, mean_squares, sizes)
    return _chi_square_bound(weights, int(sizes.sum()))


def _chi_square_bound(total_weight: float, n_images: int) -> float:
    """Return by how many nats a weighted chi-square divided by 2 N exceeds its mean at most.

    It exceeds the bound once in 22,000 cases.

    Args:
        total_weight: sum of the weights of the squared normal numbers; each weight is at most 1.
        n_images: N.

    Source: Laurent and Massart 2000, lemma 1.
    """
    return (math.sqrt(max(total_weight, 0.0) * CHANCE_BOUND_NATS) + CHANCE_BOUND_NATS) / n_images


def order_loss(marginals: np.ndarray, mean_squares: np.ndarray, sizes: np.ndarray) -> float:
    """Return the nats of log IS that are lost because the blocks hold different classes.

    Near 0 for shuffled images. Scoring all images against one marginal would add
    KL(block's marginal || overall marginal) to the mean divergence of each block. In a random order
    that sum is (B - 1) / (2 N) times the sum over classes of variance / mean of p, to first order,
    which is subtracted.

    Args:
        marginals, mean_squares: mean of p and of p^2 over each block (B, C).
        sizes: images in each block (B,).
    """
    block_weights = sizes / sizes.sum()
    divergence = block_weights @ _marginal_divergences(marginals, block_weights @ marginals)
    noise = _marginal_noise(marginals, mean_squares, sizes)
    return float(divergence - (len(sizes) - 1) * noise / (2 * sizes.sum()))


def _marginal_noise(marginals: np.ndarray, mean_squares: np.ndarray, sizes: np.ndarray) -> float:
    """Return the sum over classes of variance / mean of p, over all images.

    Args:
        marginals, mean_squares, sizes: arguments of `order_loss`.
    """
    block_weights = sizes / sizes.sum()
    means = block_weights @ marginals  # (C,)
    has_mass = means > 0
    ratios = (block_weights @ mean_squares)[has_mass] / means[has_mass]
    return float((ratios - means[has_mass]).sum())
