"""Before a run: which difference a design can see, and how many images and training seeds a
difference needs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from harope_bench.statistics.significance import CONFIDENCE_LEVEL, POWER, inverse_cdf, quantile

# Published spreads of FID, as shares of FID. Training: "The FID Lottery" (arXiv 2606.20536), gaps
# below about 1.3% are inconclusive.
# Sampling: clean-fid's README, 17 networks drawn ten times each, median 0.56% at 50,000 images,
# rounded to 0.5%.
TRAINING_COV = 0.013
SAMPLING_COV = 0.005
SAMPLING_IMAGES = 50_000


class NoiseLevels(NamedTuple):
    """Standard deviations in the metric's unit: over training seeds, and of drawing for one image
    (se * sqrt(N)).

    training is None where nobody knows it. paired is that of one sample's difference between two
    checkpoints on the same
    requests, None where it was not measured.
    """

    training_deviation: float | None
    sampling_deviation: float
    paired_deviation: float | None = None


def assumed_fid_noise(value: float) -> NoiseLevels:
    """The noise of an FID of that value by the published constants; nothing is known of the
    pairing.
    """
    return NoiseLevels(TRAINING_COV * value, SAMPLING_COV * value * math.sqrt(SAMPLING_IMAGES))


def power_multiplier(power: float = POWER, df: float | None = None) -> float:
    """Standard errors that a true difference must span to be found with that power at the 5% level,
    two-sided.
    """
    return quantile(CONFIDENCE_LEVEL, df) + inverse_cdf(power, df)


def detectable_method_difference(
    noise: NoiseLevels, images: int, seeds: int, power: float = POWER, estimated: bool = False
) -> float | None:
    """The smallest difference between two methods that is found, with `seeds` training seeds each
    and `images` drawn from each.

    Args:
        estimated: the spread over training seeds is not known beforehand but taken from these
            seeds: Student's t with 2 seeds - 2.

    Returns:
        None where it cannot be said: no training spread, or one to be estimated from a single seed.
    """
    if noise.training_deviation is None or (estimated and seeds < 2):
        return None
    se = math.sqrt(2 / seeds * (noise.training_deviation**2 + noise.sampling_deviation**2 / images))
    return power_multiplier(power, 2 * seeds - 2 if estimated else None) * se


def images_for_pair(noise: NoiseLevels, difference: float, power: float = POWER) -> int:
    """Images from each of two checkpoints for that difference between the checkpoints themselves
    (evidence L1).

    Paired where the paired noise was measured; else two independent draws.
    """
    single = (
        noise.paired_deviation
        if noise.paired_deviation is not None
        else math.sqrt(2) * noise.sampling_deviation
    )
    return max(2, math.ceil((power_multiplier(power) * single / difference) ** 2))


def seeds_for_method(
    noise: NoiseLevels, difference: float, images: int, power: float = POWER
) -> int | None:
    """Training seeds of each method for that difference between methods (evidence L2); at least 2;
    None without a training spread.

    Counted with Student's t, whose spread comes from the seeds themselves, as `compare` will test
    it.
    """
    if noise.training_deviation is None:
        return None
    # the normal count is a lower bound; t asks for a few more
    seeds = max(
        2,
        math.ceil(
            2
            * (power_multiplier(power) / difference) ** 2
            * (noise.training_deviation**2 + noise.sampling_deviation**2 / images)
        ),
    )
    while (
        detectable_method_difference(noise, images, seeds, power, estimated=True) or 0.0
    ) > difference:
        seeds += 1
    return seeds


def images_for_method(
    noise: NoiseLevels, difference: float, seeds: int, power: float = POWER
) -> int | None:
    """Images from each run with so many training seeds; None where the training spread alone hides
    the difference.
    """
    if noise.training_deviation is None:
        return None
    left = seeds / 2 * (difference / power_multiplier(power)) ** 2 - noise.training_deviation**2
    return max(2, math.ceil(noise.sampling_deviation**2 / left)) if left > 0 else None
