"""What the rules of image quality find: each metric's value, its error, and the warnings that
belong to it.
"""

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
    BLOCK,
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

ORDER_LOSS = 0.01  # of IS: a smaller loss is named only where labels show that images are sorted
SPREAD_BLOCKS = 10  # from so many blocks on, their spread is the error of their mean
ROUNDING = 1e-12  # share of a value: a standard error below it is that of sums, not of samples
# images a dimension, below which FID's first-order error is too wide by more than an eighth
MIN_ROWS_PER_DIMENSION = 4.0
MIN_KERNEL_IMAGES = 3  # images in both sets that a kernel distance with an error needs

FIRST_ORDER = "influence function, first order, skewness corrected, reference fixed"
RANDOM_HALVES = f"spread of {HALF_SPLITS} random splits into halves, reference fixed"


class MetricEstimate(NamedTuple):
    """What a rule found: a value or a reason, its error, and the rows it is made of.

    halves: the metric on random halves of the samples (H,), where the rows are not the samples'.
    """

    value: float | None
    interval: Interval | None = None
    interval_name: str | None = None
    contributions: np.ndarray | None = None
    reason: str | None = None
    warnings: tuple[str, ...] = ()
    halves: np.ndarray | None = None


def without_empty_interval(metric: str, finding: MetricEstimate) -> MetricEstimate:
    """Return the finding without an error of 0 up to rounding: equal rows do not show what others
    would be.
    """
    if (
        finding.interval is None
        or finding.value is None
        or finding.interval.se > ROUNDING * abs(finding.value)
    ):
        return finding
    warning = f"{metric}: its error is not known; every image adds the same to it"
    return finding._replace(
        interval=None, interval_name=None, warnings=(*finding.warnings, warning)
    )


def frechet_finding(
    metric: str, seen: Features, reference: Mapping[str, np.ndarray]
) -> MetricEstimate:
    """Return a Frechet distance of the metric's array to the reference's moments, with its
    first-order error.
    """
    array, mean, covariance = FRECHET_KEYS[metric]
    if array not in seen.arrays:
        return MetricEstimate(None, reason=f"the judge gives no {array}")
    if mean not in reference or covariance not in reference:
        return MetricEstimate(None, reason=f"the reference holds no {mean} and {covariance}")
    rows = seen.arrays[array]
    if len(rows) < 2:
        return MetricEstimate(None, reason=f"{metric} needs at least 2 images, found {len(rows)}")
    real = Gaussian(reference[mean].astype(np.float64), reference[covariance].astype(np.float64))
    return _frechet_from_moments(metric, rows, seen.moments(array).to_gaussian(), real)


def _frechet_from_moments(
    metric: str, rows: np.ndarray, drawn: Gaussian, real: Gaussian
) -> MetricEstimate:
    live = (
        np.diag(drawn.covariance) > 0
    )  # a constant float32 column has variance exactly 0: its float64 sums are exact
    few = len(rows) <= live.sum()
    root = covariance_root_of_rows(rows) if few else covariance_root(drawn.covariance)
    warnings = _dead_columns(metric, live, real)
    value = frechet_distance(drawn, real, root)
    if value < 0:
        warnings += (f"{metric}: rounding made {value:.2g} of a distance of 0, which is reported",)
        value = 0.0
    if few:
        # The rows do not span the space they were drawn from: the distance has no derivative there,
        # so no first-order error.
        told = (
            f"{metric}: N <= D ({len(rows):,} images, {live.sum():,} live dimensions); the value"
            " leans on N, no error is given"
        )
        return MetricEstimate(value, warnings=(*warnings, told))
    contributions = influence_values(rows, drawn, real, root)
    warnings += _interval_warnings(metric, contributions, int(live.sum()))
    return MetricEstimate(
        value, skewed_interval(value, contributions), FIRST_ORDER, contributions, warnings=warnings
    )


def _interval_warnings(metric: str, contributions: np.ndarray, live: int) -> tuple[str, ...]:
    """Return a line for each way in which the first-order error is known to be off;
    docs/fidelity.md has the measurements.
    """
    lines = []
    tails = kurtosis(contributions)
    ratio = len(contributions) / max(live, 1)
    if tails > HEAVY_TAIL_KURTOSIS:
        lines.append(
            f"{metric} error: features are heavy-tailed (kurtosis {tails:.0f} of the"
            " contributions); the standard error may be too small by half, the interval is widened"
            " for it and covers 91 to 97%"
        )
    if ratio < MIN_ROWS_PER_DIMENSION:
        lines.append(
            f"{metric} error: N is only {ratio:.1f} times the {live:,} live dimensions; the"
            " interval is too wide, by up to a third, and covers 95 to 99%"
        )
    return tuple(lines)


def _dead_columns(metric: str, live: np.ndarray, real: Gaussian) -> tuple[str, ...]:
    """Columns that never change over the samples although they do over the reference."""
    dead = int((~live & (np.diag(real.covariance) > 0)).sum())
    if not live.any():
        return (
            f"{metric}: constant {FRECHET_KEYS[metric][0]}, those of every sample are the same",
        )
    return (
        (
            (
                f"{metric}: zero variance in {dead:,} of {len(live):,} columns that vary in the"
                " reference"
            ),
        )
        if dead
        else ()
    )


def inception_finding(seen: Features) -> MetricEstimate:
    """Return the Inception Score over consecutive blocks, as ADM computes it."""
    if "logits" not in seen.arrays:
        return MetricEstimate(None, reason="the judge gives no logits")
    logits = seen.arrays["logits"]
    if len(logits) < 2:
        return MetricEstimate(None, reason=f"is needs at least 2 images, found {len(logits)}")
    score = inception_score(logits)
    if len(score.blocks) >= SPREAD_BLOCKS:
        error = normal_interval(score.value, standard_error(score.blocks))
        interval = f"spread of {len(score.blocks)} blocks"
    else:
        error = normal_interval(score.value, standard_error(score.contributions))
        interval = "influence function, first order"
    warnings = (
        *_order_warnings(score.value, order_effect(score, logits, seen.labels)),
        *_block_warnings(score),
    )
    return MetricEstimate(score.value, error, interval, score.contributions, warnings=warnings)


def _order_warnings(value: float, effect: OrderEffect | None) -> tuple[str, ...]:
    """A warning where the order of the images lowers the score, with the score of random orders."""
    least = 0.0 if effect is not None and effect.is_ordered_by_label else ORDER_LOSS
    if effect is None or not value < (1 - least) * effect.shuffled_lowest:
        return ()
    lost = 1 - value / effect.shuffled_mean
    what = "labels" if effect.is_ordered_by_label else "predicted classes"
    order = (
        "class-sorted order"
        if effect.is_ordered_by_label or effect.has_class_runs
        else "uneven order"
    )
    share = f"{lost:.0%}" if lost >= 0.1 else f"{lost:.1%}"
    return (
        (
            f"is: {order}, blocks of {BLOCK:,} hold different {what}; {SHUFFLES} random orders give"
            f" {effect.shuffled_mean:.4g} on average, about {share} of the score is lost"
        ),
    )


def _block_warnings(score: InceptionScore) -> tuple[str, ...]:
    warnings: tuple[str, ...] = ()
    last = len(score.contributions) % BLOCK
    if len(score.blocks) > 1 and 0 < last < BLOCK / 2:
        warnings += (f"is: short last block, {last:,} images count as much as {BLOCK:,}",)
    return warnings


def shuffled_inception_finding(seen: Features) -> MetricEstimate:
    """Return the Inception Score over shuffled splits, as torch-fidelity computes it."""
    if "logits" not in seen.arrays:
        return MetricEstimate(None, reason="the judge gives no logits")
    logits = seen.arrays["logits"]
    if len(logits) < 2 * SPLITS:
        return MetricEstimate(
            None,
            reason=(
                f"is over {SPLITS} splits needs at least {2 * SPLITS} images, found {len(logits)}"
            ),
        )
    found = shuffled_inception_score(logits)
    return MetricEstimate(
        found.mean,
        normal_interval(found.mean, standard_error(found.scores)),
        f"spread of {SPLITS} shuffled splits",
    )


KERNELS: Mapping[str, Callable[[np.ndarray, np.ndarray], Discrepancy]] = {"kid": kid, "cmmd": cmmd}


def kernel_finding(
    metric: str, seen: Features, reference: Mapping[str, np.ndarray]
) -> MetricEstimate:
    """Return KID or CMMD over all pairs, or KID over torch-fidelity's subsets, which says nothing
    of its error.
    """
    fewest = SUBSET_SIZE if metric == "kid-subsets" else MIN_KERNEL_IMAGES
    if (reason := _missing_images_reason(metric, seen, reference, fewest)) is not None:
        return MetricEstimate(None, reason=reason)
    drawn = seen.arrays["features"]
    real = reference["features"]
    if metric == "kid-subsets":
        found = kid_subsets(drawn, real)
        told = (
            f"kid-subsets: standard deviation over {SUBSETS} subsets {found.std:.3g}, which is not"
            " an error of their mean"
        )
        return MetricEstimate(found.mean, warnings=(told,))
    whole = KERNELS[metric](drawn, real)
    return MetricEstimate(
        whole.value,
        normal_interval(whole.value, whole.standard_error_fixed_reference),
        "jackknife over samples, reference fixed",
        whole.generated_contributions,
    )


def neighbour_findings(
    seen: Features, reference: Mapping[str, np.ndarray], profile: Profile
) -> dict[str, MetricEstimate]:
    """Return precision, the share of samples in the ball of any reference image, and recall, the
    share of these in balls of samples.
    """
    if (reason := _missing_images_reason("", seen, reference, NEIGHBOURS + 1)) is not None:
        return {name: MetricEstimate(None, reason=reason) for name in ("precision", "recall")}
    drawn = seen.arrays["features"]
    real = reference["features"]
    found = profile.balls(drawn, real)
    precision = _share(found.generated_inside)
    recall = _share(found.real_inside)
    recall = recall._replace(
        warnings=_radius_warnings("recall", found.generated_radii, drawn, "samples", profile)
    )
    return {
        "precision": precision._replace(
            warnings=_radius_warnings(
                "precision", found.real_radii, real, "reference images", profile
            )
        ),
        "recall": _with_random_halves(recall, seen, reference),
    }


def _with_random_halves(
    found: MetricEstimate, seen: Features, reference: Mapping[str, np.ndarray]
) -> MetricEstimate:
    """Return recall with the error that other draws would have: the balls are the samples', so it
    is their number that counts.

    Where no half differs from another, the references' binomial error stands, radii fixed.
    """
    drawn = seen.arrays["features"]
    real = reference["features"]
    if found.value is None or len(drawn) < fewest_samples():
        return found
    halves = half_recalls(drawn, real)
    spread = float(halves.std(ddof=1))
    if spread <= ROUNDING:
        return found
    error = normal_interval(found.value, spread)
    error = Interval(error.se, max(0.0, error.low), min(1.0, error.high))
    return found._replace(interval=error, interval_name=RANDOM_HALVES, halves=halves)


def _missing_images_reason(
    metric: str, seen: Features, reference: Mapping[str, np.ndarray], fewest: int
) -> str | None:
    """Why two sets of images cannot be compared one by one; None where they can."""
    if "features" not in seen.arrays:
        return "the judge gives no features"
    if "features" not in reference:
        return "the reference holds no images"
    found = min(len(seen.arrays["features"]), len(reference["features"]))
    what = metric or f"{NEIGHBOURS} neighbours"
    if found < fewest:
        return (
            f"{what} need{'s' * bool(metric)} at least {fewest:,} samples and reference images,"
            f" found {found:,}"
        )
    return None


def _share(inside: np.ndarray) -> MetricEstimate:
    hits = int(inside.sum())
    return MetricEstimate(
        hits / len(inside),
        wilson_interval(hits, len(inside)),
        "Wilson, radii fixed",
        inside.astype(np.int8),
    )


def _radius_warnings(
    metric: str, radii: np.ndarray, rows: np.ndarray, whose: str, profile: Profile
) -> tuple[str, ...]:
    """Warnings of balls (N,) of radius 0, apart by cause: rows that are repeated, and different
    rows whose distance rounds to 0.
    """
    empty = radii == 0
    if not empty.any():
        return ()
    repeated = int((repeat_counts(rows)[empty] > NEIGHBOURS).sum())
    rounded = int(empty.sum()) - repeated
    around = f"{metric}: zero radius around {{:,}} of {len(radii):,} {whose}"
    warnings: tuple[str, ...] = ()
    if repeated:
        warnings += (f"{around.format(repeated)}, each repeated {NEIGHBOURS} times or more",)
    if rounded:
        warnings += (
            (
                f"{around.format(rounded)}, whose features differ: {profile.distance_dtype} rounds"
                " their distances to 0"
            ),
        )
    return warnings
