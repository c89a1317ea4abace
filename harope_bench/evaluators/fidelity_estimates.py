"""Estimates of the fidelity evaluator: value, interval and warnings of each metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from harope_bench.evaluators.base import Features
from harope_bench.evaluators.fidelity_profiles import FRECHET_KEYS, Profile
from harope_bench.metrics.frechet import (
    covariance_root,
    covariance_root_of_rows,
    frechet_distance,
    influence_values,
)
from harope_bench.metrics.inception_score import (
    BLOCK_IMAGES,
    SHUFFLES,
    SPLITS,
    InceptionScore,
    OrderEffect,
    inception_score,
    order_effect,
    shuffled_inception_score,
)
from harope_bench.metrics.kernel_distance import (
    SUBSET_SIZE,
    SUBSETS,
    Discrepancy,
    cmmd,
    kid,
    kid_subsets,
)
from harope_bench.metrics.moments import Gaussian
from harope_bench.metrics.neighbours import NEIGHBOURS
from harope_bench.metrics.random_halves import HALF_SPLITS as HALF_SPLITS
from harope_bench.metrics.random_halves import fewest_samples, half_recalls
from harope_bench.metrics.row_checks import repeat_counts
from harope_bench.statistics.intervals.heavy_tails import (
    HEAVY_TAIL_KURTOSIS,
    kurtosis,
    skewed_interval,
)
from harope_bench.statistics.significance import (
    Interval,
    normal_interval,
    standard_error,
    wilson_interval,
)

ORDER_LOSS = 0.01  # relative loss of IS from which a warning is given without labels
SPREAD_BLOCKS = 10  # number of blocks from which their standard deviation gives the standard error
ROUNDING = 1e-12  # relative standard error below which it is rounding of sums
# images per dimension below which FID's first-order error is too large by more than an eighth
MIN_ROWS_PER_DIMENSION = 4.0
MIN_KERNEL_IMAGES = 3  # images in each set that the standard error of a kernel distance needs

FIRST_ORDER = "influence function, first order, skewness corrected, reference fixed"
RANDOM_HALVES = f"spread of {HALF_SPLITS} random splits into halves, reference fixed"


class MetricEstimate(NamedTuple):
    """A metric's value with its interval, or the reason why there is no value.

    Attributes:
        value: the value, or None.
        interval: standard error and 95% interval, or None.
        interval_name: method of the interval.
        contributions: first-order contributions, one per sample or per reference image.
        reason: why there is no value.
        warnings: sentences for the reader.
        halves: the metric on random halves of the samples, (H,), where the contributions are not
            those of samples.
    """

    value: float | None
    interval: Interval | None = None
    interval_name: str | None = None
    contributions: np.ndarray | None = None
    reason: str | None = None
    warnings: tuple[str, ...] = ()
    halves: np.ndarray | None = None


def without_empty_interval(metric: str, estimate: MetricEstimate) -> MetricEstimate:
    """Return the estimate, without its interval if the standard error is 0 up to rounding.

    Equal contributions do not show how much other samples would differ.
    """
    if estimate.interval is None or estimate.value is None:
        return estimate
    if estimate.interval.se > ROUNDING * abs(estimate.value):
        return estimate
    warning = f"{metric}: its error is not known; every image adds the same to it"
    return estimate._replace(
        interval=None, interval_name=None, warnings=(*estimate.warnings, warning)
    )


def frechet_estimate(
    metric: str, features: Features, reference: Mapping[str, np.ndarray]
) -> MetricEstimate:
    """Return a Frechet distance to the reference's moments with its first-order error."""
    array, mean, covariance = FRECHET_KEYS[metric]
    if array not in features.arrays:
        return MetricEstimate(None, reason=f"the judge gives no {array}")
    if mean not in reference or covariance not in reference:
        return MetricEstimate(None, reason=f"the reference holds no {mean} and {covariance}")
    rows = features.arrays[array]
    if len(rows) < 2:
        return MetricEstimate(None, reason=f"{metric} needs at least 2 images, found {len(rows)}")
    real = Gaussian(reference[mean].astype(np.float64), reference[covariance].astype(np.float64))
    return _frechet_from_moments(metric, rows, features.moments(array).to_gaussian(), real)


def _frechet_from_moments(
    metric: str, rows: np.ndarray, generated: Gaussian, real: Gaussian
) -> MetricEstimate:
    """Return the Frechet distance between two Gaussians; rows (N, D) gave the generated one."""
    # A constant float32 column has variance exactly 0, because its float64 sums are exact.
    is_varying = np.diag(generated.covariance) > 0  # (D,)
    n_varying = int(is_varying.sum())
    is_rank_deficient = len(rows) <= n_varying

    if is_rank_deficient:
        root = covariance_root_of_rows(rows)
    else:
        root = covariance_root(generated.covariance)
    warnings = _constant_column_warnings(metric, is_varying, real)
    value = frechet_distance(generated, real, root)
    if value < 0:
        warnings += (f"{metric}: rounding made {value:.2g} of a distance of 0, which is reported",)
        value = 0.0

    # Where the rows do not span the space the distance has no derivative: no first-order error.
    if is_rank_deficient:
        warning = (
            f"{metric}: N <= D ({len(rows):,} images, {n_varying:,} dimensions that vary); the"
            " value depends strongly on N, no error is given"
        )
        return MetricEstimate(value, warnings=(*warnings, warning))

    contributions = influence_values(rows, generated, real, root)  # (N,)
    warnings += _interval_warnings(metric, contributions, n_varying)
    return MetricEstimate(
        value, skewed_interval(value, contributions), FIRST_ORDER, contributions, warnings=warnings
    )


def _interval_warnings(metric: str, contributions: np.ndarray, n_varying: int) -> tuple[str, ...]:
    """Return a warning for each condition under which the first-order error is inaccurate.

    docs/explanation/statistics.md lists the measured coverage.
    """
    warnings = []
    tails = kurtosis(contributions)
    if tails > HEAVY_TAIL_KURTOSIS:
        warnings.append(
            f"{metric} error: features are heavy-tailed (kurtosis {tails:.0f} of the"
            " contributions); the standard error may be too small by half, the interval is widened"
            " for it and covers 91 to 97%"
        )
    rows_per_dimension = len(contributions) / max(n_varying, 1)
    if rows_per_dimension < MIN_ROWS_PER_DIMENSION:
        warnings.append(
            f"{metric} error: N is only {rows_per_dimension:.1f} times the {n_varying:,} dimensions"
            " that vary; the interval is too wide, by up to a third, and covers 95 to 99%"
        )
    return tuple(warnings)


def _constant_column_warnings(
    metric: str, is_varying: np.ndarray, real: Gaussian
) -> tuple[str, ...]:
    """Return a warning about columns (D,) that are constant here but vary in the reference."""
    if not is_varying.any():
        return (
            f"{metric}: constant {FRECHET_KEYS[metric][0]}, those of every sample are the same",
        )
    n_constant = int((~is_varying & (np.diag(real.covariance) > 0)).sum())
    if not n_constant:
        return ()
    return (
        (
            f"{metric}: zero variance in {n_constant:,} of {len(is_varying):,} columns that vary in"
            " the reference"
        ),
    )


def inception_score_estimate(features: Features) -> MetricEstimate:
    """Return the Inception Score over consecutive blocks, as ADM computes it."""
    if "logits" not in features.arrays:
        return MetricEstimate(None, reason="the judge gives no logits")
    logits = features.arrays["logits"]  # (N, C)
    if len(logits) < 2:
        return MetricEstimate(None, reason=f"is needs at least 2 images, found {len(logits)}")

    score = inception_score(logits)
    if len(score.blocks) >= SPREAD_BLOCKS:
        interval = normal_interval(score.value, standard_error(score.blocks))
        interval_name = f"spread of {len(score.blocks)} blocks"
    else:
        interval = normal_interval(score.value, standard_error(score.contributions))
        interval_name = "influence function, first order"
    warnings = (
        *_order_warnings(score.value, order_effect(score, logits, features.labels)),
        *_block_warnings(score),
    )
    return MetricEstimate(
        score.value, interval, interval_name, score.contributions, warnings=warnings
    )


def _order_warnings(value: float, effect: OrderEffect | None) -> tuple[str, ...]:
    """Return a warning if the order of the images lowers the Inception Score."""
    if effect is None:
        return ()
    min_loss = 0.0 if effect.is_ordered_by_label else ORDER_LOSS
    if value >= (1 - min_loss) * effect.shuffled_lowest:
        return ()

    loss = 1 - value / effect.shuffled_mean
    loss_text = f"{loss:.0%}" if loss >= 0.1 else f"{loss:.1%}"
    classes = "labels" if effect.is_ordered_by_label else "predicted classes"
    is_sorted = effect.is_ordered_by_label or effect.has_class_runs
    order = "class-sorted order" if is_sorted else "uneven order"
    return (
        (
            f"is: {order}, blocks of {BLOCK_IMAGES:,} hold different {classes};"
            f" {SHUFFLES} random orders give {effect.shuffled_mean:.4g} on average, about"
            f" {loss_text} of the score is lost"
        ),
    )


def _block_warnings(score: InceptionScore) -> tuple[str, ...]:
    """Return a warning if the last block is shorter than half a block."""
    n_last = len(score.contributions) % BLOCK_IMAGES
    if len(score.blocks) > 1 and 0 < n_last < BLOCK_IMAGES / 2:
        return (f"is: short last block, {n_last:,} images count as much as {BLOCK_IMAGES:,}",)
    return ()


def shuffled_inception_score_estimate(features: Features) -> MetricEstimate:
    """Return the Inception Score over shuffled splits, as torch-fidelity computes it."""
    if "logits" not in features.arrays:
        return MetricEstimate(None, reason="the judge gives no logits")
    logits = features.arrays["logits"]  # (N, C)
    if len(logits) < 2 * SPLITS:
        reason = f"is over {SPLITS} splits needs at least {2 * SPLITS} images, found {len(logits)}"
        return MetricEstimate(None, reason=reason)
    score = shuffled_inception_score(logits)
    return MetricEstimate(
        score.mean,
        normal_interval(score.mean, standard_error(score.scores)),
        f"spread of {SPLITS} shuffled splits",
    )


KERNELS: Mapping[str, Callable[[np.ndarray, np.ndarray], Discrepancy]] = {"kid": kid, "cmmd": cmmd}


def kernel_estimate(
    metric: str, features: Features, reference: Mapping[str, np.ndarray]
) -> MetricEstimate:
    """Return KID or CMMD over all pairs, or KID over torch-fidelity's subsets without an error."""
    min_images = SUBSET_SIZE if metric == "kid-subsets" else MIN_KERNEL_IMAGES
    reason = _missing_images_reason(metric, features, reference, min_images)
    if reason is not None:
        return MetricEstimate(None, reason=reason)
    generated = features.arrays["features"]  # (N, D)
    real = reference["features"]  # (M, D)

    # The subsets overlap, so their standard deviation is not the error of their mean.
    if metric == "kid-subsets":
        subsets = kid_subsets(generated, real)
        warning = (
            f"kid-subsets: standard deviation over {SUBSETS} subsets {subsets.std:.3g}, which is"
            " not an error of their mean"
        )
        return MetricEstimate(subsets.mean, warnings=(warning,))

    discrepancy = KERNELS[metric](generated, real)
    return MetricEstimate(
        discrepancy.value,
        normal_interval(discrepancy.value, discrepancy.standard_error_fixed_reference),
        "jackknife over samples, reference fixed",
        discrepancy.generated_contributions,
    )


def precision_and_recall(
    features: Features, reference: Mapping[str, np.ndarray], profile: Profile
) -> dict[str, MetricEstimate]:
    """Return precision and recall by nearest-neighbour balls.

    Precision is the fraction of samples inside the ball of any reference image. Recall is the
    fraction of reference images inside the ball of any sample.

    Source: Kynkaanniemi et al. 2019, equations 1 to 3.
    """
    reason = _missing_images_reason(
        metric="", features=features, reference=reference, min_images=NEIGHBOURS + 1
    )
    if reason is not None:
        return {name: MetricEstimate(None, reason=reason) for name in ("precision", "recall")}
    generated = features.arrays["features"]  # (N, D)
    real = reference["features"]  # (M, D)
    balls = profile.balls(generated, real)

    precision = _fraction_estimate(balls.generated_inside)
    precision_warnings = _radius_warnings(
        "precision", balls.real_radii, real, "reference images", profile
    )
    recall = _fraction_estimate(balls.real_inside)
    recall_warnings = _radius_warnings(
        "recall", balls.generated_radii, generated, "samples", profile
    )
    recall = recall._replace(warnings=recall_warnings)
    return {
        "precision": precision._replace(warnings=precision_warnings),
        "recall": _with_random_halves(recall, features, reference),
    }


def _with_random_halves(
    recall: MetricEstimate, features: Features, reference: Mapping[str, np.ndarray]
) -> MetricEstimate:
    """Return recall with the standard error of its recalls on random halves of the samples.

    The balls are those of the samples, so the number of samples determines the error. Where all
    halves have the same recall, the binomial error over reference images at fixed radii remains.
    """
    generated = features.arrays["features"]
    real = reference["features"]
    if recall.value is None or len(generated) < fewest_samples():
        return recall
    halves = half_recalls(generated, real)  # (H,)
    deviation = float(halves.std(ddof=1))
    if deviation <= ROUNDING:
        return recall
    normal_ci = normal_interval(recall.value, deviation)
    interval = Interval(normal_ci.se, max(0.0, normal_ci.low), min(1.0, normal_ci.high))
    return recall._replace(interval=interval, interval_name=RANDOM_HALVES, halves=halves)


def _missing_images_reason(
    metric: str, features: Features, reference: Mapping[str, np.ndarray], min_images: int
) -> str | None:
    """Return why a metric on pairs of images cannot be computed; None if it can.

    An empty `metric` stands for precision and recall, which need neighbours.
    """
    if "features" not in features.arrays:
        return "the judge gives no features"
    if "features" not in reference:
        return "the reference holds no images"
    n_images = min(len(features.arrays["features"]), len(reference["features"]))
    if n_images >= min_images:
        return None
    subject = f"{metric} needs" if metric else f"{NEIGHBOURS} neighbours need"
    return f"{subject} at least {min_images:,} samples and reference images, found {n_images:,}"


def _fraction_estimate(is_inside: np.ndarray) -> MetricEstimate:
    """Return the fraction of true values (N,) with its Wilson interval."""
    hits = int(is_inside.sum())
    return MetricEstimate(
        hits / len(is_inside),
        wilson_interval(hits, len(is_inside)),
        "Wilson, radii fixed",
        is_inside.astype(np.int8),
    )


def _radius_warnings(
    metric: str, radii: np.ndarray, rows: np.ndarray, noun: str, profile: Profile
) -> tuple[str, ...]:
    """Return warnings about balls of radius 0, one for each of two causes.

    Repeated rows are one cause. The other is distances between different rows that round to 0.

    Args:
        metric: name of the metric.
        radii: radius of each ball, (N,).
        rows: centres of the balls, (N, D).
        noun: what the rows are, in the plural.
        profile: names the data type of the distances.
    """
    has_zero_radius = radii == 0
    if not has_zero_radius.any():
        return ()
    n_repeated = int((repeat_counts(rows)[has_zero_radius] > NEIGHBOURS).sum())
    n_rounded = int(has_zero_radius.sum()) - n_repeated

    template = f"{metric}: zero radius around {{:,}} of {len(radii):,} {noun}"
    warnings: tuple[str, ...] = ()
    if n_repeated:
        warnings += (f"{template.format(n_repeated)}, each repeated {NEIGHBOURS} times or more",)
    if n_rounded:
        warnings += (
            (
                f"{template.format(n_rounded)}, whose features differ: {profile.distance_dtype}"
                " rounds their distances to 0"
            ),
        )
    return warnings
