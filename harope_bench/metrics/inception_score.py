"""Inception Score over consecutive blocks, and what the order of the images does to it."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import TooFewImagesError
from harope_bench.metrics.moments import row_blocks

BLOCK = 5000  # ADM's split_size: a number of images, not a number of splits
# torch-fidelity's
SPLITS = 10
SPLIT_SEED = 2020
# random orders that an order is compared with
SHUFFLES = 3
SHUFFLE_SEED = 0
CHANCE_BOUND_NATS = 10.0  # nats: a random order exceeds a bound once in e^10 = 22,000 sets


class InceptionScore(NamedTuple):
    """Unweighted mean over the blocks, each block's score (B,), and centred first-order
    contributions (N,).

    order_loss: nats of log IS that the order takes away, beyond chance; see `order_loss`.
    order_chance: nats that a random order
    stays below; see `order_chance`.
    """

    value: float
    blocks: np.ndarray
    contributions: np.ndarray
    order_loss: float
    order_chance: float


def inception_score(logits: np.ndarray, block: int = BLOCK) -> InceptionScore:
    """Mean over consecutive blocks of exp(mean KL(p(y|x) || p(y))), natural logarithm, p(y) of the
    block.

    Args:
        logits: (N, C) in index order, N >= 1; softmax over all C in float64. A short last block
            counts as much as a full one.

    Returns:
        A value between 1 and C, and contributions whose sd / sqrt(N) is the first-order standard
        error: the
        derivative of exp(mean KL) is the score times (KL_i - mean KL), since that of the marginal
        sums to 0.

    Source: Salimans et al. 2016; openai/guided-diffusion:evaluations/evaluator.py,
    `compute_inception_score`, which works in float32
    and gives NaN where a probability underflows to 0.
    """
    parts = list(row_blocks(len(logits), block))
    classes = logits.shape[1]
    scores = np.empty(len(parts))
    contributions = np.empty(len(logits))
    marginals, squares = np.empty((2, len(parts), classes))
    for b, part in enumerate(parts):
        logp = log_softmax(logits[part])
        p = np.exp(logp)
        marginals[b], squares[b] = p.mean(axis=0), np.einsum("nc,nc->c", p, p) / len(p)
        divergence = kl_divergences(p, logp, marginals[b])
        scores[b] = np.exp(divergence.mean())
        weight = len(logits) / (len(parts) * len(p))  # rows of a short block count for more
        contributions[part] = weight * scores[b] * (divergence - divergence.mean())
    sizes = np.array([part.stop - part.start for part in parts])
    order = order_loss(marginals, squares, sizes), order_chance(marginals, squares, sizes)
    return InceptionScore(float(scores.mean()), scores, contributions, *order)


class SplitScores(NamedTuple):
    """Mean and population standard deviation over splits (S,) of shuffled images; the second is no
    standard error of the first.
    """

    mean: float
    std: float
    scores: np.ndarray


def shuffled_inception_score(
    logits: np.ndarray, splits: int = SPLITS, seed: int = SPLIT_SEED
) -> SplitScores:
    """Inception Score as torch-fidelity reports it: a seeded shuffle, then `splits` parts whose
    sizes differ by at most one.

    Args:
        logits: (N, C), N >= splits; softmax over all C in float64. Order is nothing to it, unlike
            `inception_score`.

    Raises:
        TooFewImages: a split would be empty.

    Source: toshas/torch-fidelity:torch_fidelity/metric_isc.py.
    """
    n = len(logits)
    if n < splits:
        raise TooFewImagesError(f"is over {splits} splits needs at least as many images, found {n}")
    order = np.random.RandomState(seed).permutation(n)
    edges = [i * n // splits for i in range(splits + 1)]
    scores = np.array([_split_score(logits[order[start:stop]]) for start, stop in pairwise(edges)])
    return SplitScores(float(scores.mean()), float(scores.std()), scores)


def _split_score(logits: np.ndarray) -> float:
    logp = log_softmax(logits)
    p = np.exp(logp)
    return float(np.exp(kl_divergences(p, logp, p.mean(axis=0)).mean()))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Natural logarithm of the softmax over each row (n, C), float64; finite for finite logits."""
    logp: np.ndarray = logits.astype(np.float64)
    logp -= logp.max(axis=1, keepdims=True)
    logp -= np.log(np.exp(logp).sum(axis=1, keepdims=True))
    return logp


def kl_divergences(p: np.ndarray, logp: np.ndarray, marginal: np.ndarray) -> np.ndarray:
    """KL(p_i || marginal) in nats (n,) of rows p (n, C); 0 log 0 counts as 0."""
    # A class that underflows in every row adds nothing; its logarithm must not be taken.
    divergence: np.ndarray = np.einsum(
        "nc,nc->n", p, logp - np.log(np.where(marginal > 0, marginal, 1.0))
    )
    return divergence


class OrderEffect(NamedTuple):
    """What a random order would give in place of the order that images have.

    shuffled, lowest: mean and lowest of the scores of SHUFFLES random orders in the same blocks.
    by_label: blocks hold different labels.
    in_runs: most images are predicted to be of the class of the image before.
    """

    shuffled_mean: float
    shuffled_lowest: float
    is_ordered_by_label: bool
    has_class_runs: bool


def order_effect(
    score: InceptionScore, logits: np.ndarray, labels: np.ndarray | None, block: int = BLOCK
) -> OrderEffect | None:
    """Return what random orders give where blocks hold different labels or predicted classes; None
    where chance explains it.

    Args:
        score: `inception_score` of the same logits and block. labels: (N,) integers that the images
            were asked to show, or None.
    """
    by_label = labels is not None and _has_label_blocks(labels, block)
    if len(score.blocks) < 2 or not (by_label or score.order_loss > score.order_chance):
        return None
    rng = np.random.default_rng(SHUFFLE_SEED)
    values = [
        inception_score(logits[rng.permutation(len(logits))], block).value for _ in range(SHUFFLES)
    ]
    return OrderEffect(float(np.mean(values)), min(values), by_label, _has_class_runs(logits))


def _has_label_blocks(labels: np.ndarray, block: int) -> bool:
    """Return whether consecutive blocks hold labels (N,) that differ by more than those of random
    orders do.
    """
    rng = np.random.default_rng(SHUFFLE_SEED)
    (_, codes) = np.unique(labels, return_inverse=True)
    usual = max(
        _label_information(codes[rng.permutation(len(codes))], block) for _ in range(SHUFFLES)
    )
    degrees = (math.ceil(len(codes) / block) - 1) * int(codes.max())
    return _label_information(codes, block) > usual + _chi_square_bound(degrees, len(codes))


def _label_information(codes: np.ndarray, block: int) -> float:
    """Return the nats that an image's block tells of its label: mutual information of blocks and
    labels (N,) from 0.
    """
    counts = np.array(
        [
            np.bincount(codes[part], minlength=codes.max() + 1)
            for part in row_blocks(len(codes), block)
        ]
    )
    share = counts.sum(axis=1) / counts.sum()
    whole = counts.sum(axis=0) / counts.sum()
    marginals = counts / counts.sum(axis=1, keepdims=True)
    return float(
        share @ kl_divergences(marginals, np.log(np.where(marginals > 0, marginals, 1.0)), whole)
    )


def _has_class_runs(logits: np.ndarray) -> bool:
    predicted = np.concatenate([logits[part].argmax(axis=1) for part in row_blocks(len(logits))])
    chance = float(np.square(np.bincount(predicted) / len(predicted)).sum())
    return float((predicted[1:] == predicted[:-1]).mean()) > (1 + chance) / 2


def order_chance(marginals: np.ndarray, squares: np.ndarray, sizes: np.ndarray) -> float:
    """Return the nats of `order_loss` that a random order stays below in all but one of 22,000
    sets; arguments as there.

    2 N times the loss is a sum of squared normal numbers whose weights are at most 1 and add up to
    B - 1 times the noise.
    """
    return _chi_square_bound(
        (len(sizes) - 1) * _marginal_noise(marginals, squares, sizes), int(sizes.sum())
    )


def _chi_square_bound(weights: float, images: int) -> float:
    """Return the nats above its mean that a weighted chi-square stays below (Laurent and Massart
    2000, lemma 1).
    """
    return (math.sqrt(max(weights, 0.0) * CHANCE_BOUND_NATS) + CHANCE_BOUND_NATS) / images


def order_loss(marginals: np.ndarray, squares: np.ndarray, sizes: np.ndarray) -> float:
    """Nats of log IS lost because the blocks hold different classes: near 0 for shuffled or
    interleaved images.

    Scoring all images against one marginal would add KL(block's marginal || whole marginal) to each
    block's mean. In a
    random order that is (B - 1) / (2 N) times the sum over classes of variance / mean of p, to
    first order, and is taken off.

    Args:
        marginals, squares: mean of p and of p^2 over each block (B, C). sizes: images in each block
            (B,).
    """
    share = sizes / sizes.sum()
    whole = share @ marginals
    told = share @ kl_divergences(marginals, np.log(np.where(marginals > 0, marginals, 1.0)), whole)
    return float(
        told - (len(sizes) - 1) * _marginal_noise(marginals, squares, sizes) / (2 * sizes.sum())
    )


def _marginal_noise(marginals: np.ndarray, squares: np.ndarray, sizes: np.ndarray) -> float:
    """Return the sum over classes of variance / mean of p."""
    share = sizes / sizes.sum()
    whole = share @ marginals
    used = whole > 0
    return float(((share @ squares)[used] / whole[used] - whole[used]).sum())
