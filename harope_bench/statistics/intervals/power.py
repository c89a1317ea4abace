"""Power: the difference that a design can detect, and the images and training seeds it needs."""

from __future__ import annotations

import math
from typing import NamedTuple

from harope_bench.statistics.significance import (
    CONFIDENCE_LEVEL,
    POWER,
    critical_value,
    inverse_cdf,
)

# Published standard deviations of FID, as fractions of FID. Training: "The FID Lottery" (arXiv
# 2606.20536), gaps below about 1.3% are inconclusive. Sampling: README of clean-fid, 17 networks
# sampled ten times each, median 0.56% at 50,000 images, rounded to 0.5%.
TRAINING_COV = 0.013
SAMPLING_COV = 0.005
SAMPLING_IMAGES = 50_000


class NoiseLevels(NamedTuple):
    """Standard deviations in the metric's unit.

    Attributes:
        training_deviation: over training seeds; None if unknown.
        sampling_deviation: of sampling, for one image: se * sqrt(N).
        paired_deviation: of the difference between two checkpoints in one sample of the same
            request; None if it was not measured.
    """

    training_deviation: float | None
    sampling_deviation: float
    paired_deviation: float | None = None


def assumed_fid_noise(value: float) -> NoiseLevels:
    """Return the noise levels of an unpaired FID of this value, by the published constants."""
    return NoiseLevels(TRAINING_COV * value, SAMPLING_COV * value * math.sqrt(SAMPLING_IMAGES))


def power_multiplier(power: float = POWER, df: float | None = None) -> float:
    """Return the smallest difference, in standard errors, that is detected with a power.

    The test is two-sided at the 5% level. df: Student's degrees of freedom; None for the normal
    distribution.
    """
    return critical_value(CONFIDENCE_LEVEL, df) + inverse_cdf(power, df)


def detectable_method_difference(
    noise: NoiseLevels,
    n_images: int,
    n_seeds: int,
    power: float = POWER,
    is_estimated: bool = False,
) -> float | None:
    """Return the smallest detectable difference between two methods.

    Args:
        noise: standard deviations in the metric's unit.
        n_images: number of images per training run.
        n_seeds: number of training seeds per method.
        power: probability of detection.
        is_estimated: the deviation over training seeds is estimated from these seeds, so the test
            is Student's with 2 n_seeds - 2 degrees of freedom.

    Returns:
        None if the deviation over training seeds is unknown, or is estimated from one seed.
    """
    if noise.training_deviation is None or (is_estimated and n_seeds < 2):
        return None
    # Variance of the difference of two means over seeds: 2 / seeds (training^2 + sampling^2 / N)
    run_variance = noise.training_deviation**2 + noise.sampling_deviation**2 / n_images
    se = math.sqrt(2 / n_seeds * run_variance)
    return power_multiplier(power, 2 * n_seeds - 2 if is_estimated else None) * se


def images_for_pair(noise: NoiseLevels, difference: float, power: float = POWER) -> int:
    """Return the number of images per checkpoint that is needed to detect a difference.

    The difference is one between two checkpoints (evidence L1). Samples are paired if the paired
    deviation was measured, else independent.
    """
    deviation = noise.paired_deviation
    if deviation is None:
        deviation = math.sqrt(2) * noise.sampling_deviation
    return max(2, math.ceil((power_multiplier(power) * deviation / difference) ** 2))


def seeds_for_method(
    noise: NoiseLevels, difference: float, n_images: int, power: float = POWER
) -> int | None:
    """Return the number of training seeds per method that is needed to detect a difference.

    The difference is one between methods (evidence L2). The test is Student's with the deviation
    estimated from the seeds, as in `compare`. The number is at least 2; it is None if the deviation
    over training seeds is unknown.
    """
    if noise.training_deviation is None:
        return None
    # Start at the number for the normal distribution, which is a lower bound
    run_variance = noise.training_deviation**2 + noise.sampling_deviation**2 / n_images
    seeds = max(2, math.ceil(2 * (power_multiplier(power) / difference) ** 2 * run_variance))
    while True:
        detectable = detectable_method_difference(noise, n_images, seeds, power, is_estimated=True)
        if (detectable or 0.0) <= difference:
            return seeds
        seeds += 1


def images_for_method(
    noise: NoiseLevels, difference: float, n_seeds: int, power: float = POWER
) -> int | None:
    """Return the number of images per run that is needed to detect a difference of methods.

    `n_seeds` is the number of training seeds per method. None if the deviation over training seeds
    is unknown, or if it alone makes the difference undetectable.
    """
    if noise.training_deviation is None:
        return None
    run_variance = n_seeds / 2 * (difference / power_multiplier(power)) ** 2
    sampling_variance = run_variance - noise.training_deviation**2
    if sampling_variance <= 0:
        return None
    return max(2, math.ceil(noise.sampling_deviation**2 / sampling_variance))
