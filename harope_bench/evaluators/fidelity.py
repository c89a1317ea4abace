"""Evaluator fidelity: FID, sFID, Inception Score, precision, recall, KID and related metrics.

Generated images are compared with a reference of real images. Every metric has a standard error.
A profile names the published program that is reproduced. Profiles share the features of a
judge, but their numbers never share a column of a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np

from harope_bench.core.errors import OptionError
from harope_bench.core.schema import Measurement, Metric
from harope_bench.evaluators.base import EvaluatorOutput, FeatureEvaluator, Features
from harope_bench.evaluators.fidelity_checks import check_arrays
from harope_bench.evaluators.fidelity_estimates import (
    MetricEstimate,
    frechet_estimate,
    inception_score_estimate,
    kernel_estimate,
    precision_and_recall,
    shuffled_inception_score_estimate,
    without_empty_interval,
)
from harope_bench.evaluators.fidelity_profiles import FRECHET_KEYS, METRICS, PROFILES
from harope_bench.metrics.row_checks import repeat_counts

OFFICIAL_COUNT = 50_000  # number of images at which a Frechet distance is named fid-50k


class FidelityEvaluator(FeatureEvaluator):
    """Fidelity of generated images to a reference of real images, under one profile."""

    version = 3
    rules = ("official",)  # each program's own; no corrected rules are defined
    profiles = tuple(PROFILES)
    profiles_with_own_judge = ("clean", "fd-dinov2", "cmmd")

    def __init__(self, profile: str = "adm-exact"):
        if profile not in PROFILES:
            raise OptionError(
                f"evaluator fidelity has no profile {profile!r}; choose one of"
                f" {', '.join(PROFILES)}"
            )
        self.profile = profile
        self.profile_spec = PROFILES[profile]
        self.parity = self.profile_spec.parity
        self.metrics = self.profile_metrics(profile)

    def with_profile(self, profile: str) -> Self:
        """Return the evaluator under another profile."""
        return type(self)(profile)

    def profile_metrics(self, profile: str) -> tuple[Metric, ...]:
        """Return the metrics under a profile, those of this one for an unknown profile."""
        spec = PROFILES.get(profile, self.profile_spec)
        return tuple(METRICS[name] for name in spec.metrics)

    def evaluate(self, features: Features, reference: Mapping[str, np.ndarray]) -> EvaluatorOutput:
        """Return the profile's metrics. A metric that cannot be computed is None with a reason.

        Args:
            features: arrays `features` (N, D), `spatial` (N, S) and `logits` (N, C) without bias,
                each optional, memory-mapped or not.
            reference: `mu` (D,), `sigma` (D, D), `mu_s` (S,), `sigma_s` (S, S) and `features`
                (M, D) of real images, each optional.

        Returns:
            Measurements, named by the number of scored images if the metric depends on it.
            Per sample: `indices` (N,) int64, centred influence values `fid`, `sfid`, `is` and
            `kid` (N,) float64, indicators `precision` (N,) and `recall` (M,) int8, and
            `recall_halves` (H,) float64, the recall of random halves of the samples by exact
            distances, whose standard deviation is the standard error of recall.
            The standard error of FID and sFID is the standard deviation of the value at this N.
            Their finite-N bias remains in the value.

        Raises:
            ShapeError: The shapes of two arrays do not fit.
            SampleError: A value is not finite. The message names the index of its image.
            InvalidMomentsError: The reference's arrays are no mean and covariance.
        """
        check_arrays(features, reference)
        estimates = self._estimates(features, reference)

        per_sample = {"indices": features.indices}
        for name, estimate in estimates.items():
            if estimate.contributions is not None:
                per_sample[name] = estimate.contributions
        for name, estimate in estimates.items():
            if estimate.halves is not None:
                per_sample[f"{name}_halves"] = estimate.halves

        warnings = [*_warnings(features)]
        for estimate in estimates.values():
            warnings += estimate.warnings
        measurements = tuple(
            _measurement(name, estimate, features) for name, estimate in estimates.items()
        )
        return EvaluatorOutput(measurements, per_sample, tuple(warnings))

    def _estimates(
        self, features: Features, reference: Mapping[str, np.ndarray]
    ) -> dict[str, MetricEstimate]:
        """Return the estimate of each metric of the profile, in the profile's order."""
        estimates: dict[str, MetricEstimate] = {}
        for name in self.profile_spec.metrics:
            if name in FRECHET_KEYS:
                estimates[name] = frechet_estimate(name, features, reference)
            elif name == "is" and self.profile_spec.has_shuffled_splits:
                estimates[name] = shuffled_inception_score_estimate(features)
            elif name == "is":
                estimates[name] = inception_score_estimate(features)
            elif name == "precision":  # one pass over the distances gives precision and recall
                estimates |= precision_and_recall(features, reference, self.profile_spec)
            elif name != "recall":
                estimates[name] = kernel_estimate(name, features, reference)
        return {
            name: without_empty_interval(name, estimate) for name, estimate in estimates.items()
        }


def _measurement(metric: str, estimate: MetricEstimate, features: Features) -> Measurement:
    """Return the measurement of an estimate with the numbers of images behind it."""
    n_scored = len(features.indices)
    interval = estimate.interval
    return Measurement(
        metric=metric,
        name=_measurement_name(metric, n_scored),
        value=estimate.value,
        se=interval.se if interval else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        interval=estimate.interval_name if interval else None,
        n_asked=n_scored + features.failed,
        n_scored=n_scored,
        n_failed=features.failed,
        reason=estimate.reason,
    )


def _measurement_name(metric: str, n_scored: int) -> str:
    """Return fid-50k for exactly 50,000 images, else fid-N; other metrics keep their name."""
    if metric not in FRECHET_KEYS:
        return metric
    return f"{metric}-50k" if n_scored == OFFICIAL_COUNT else f"{metric}-{n_scored}"


def _warnings(features: Features) -> tuple[str, ...]:
    """Return warnings about failed images and about samples with equal features."""
    warnings: tuple[str, ...] = ()
    n_scored = len(features.indices)
    if features.failed:
        warnings += (
            (
                f"fidelity: {features.failed:,} of {n_scored + features.failed:,} images failed;"
                f" every number is over the other {n_scored:,}"
            ),
        )

    if "features" in features.arrays:
        # 1 / count summed over all rows is the number of distinct rows
        n_distinct = round(float((1 / repeat_counts(features.arrays["features"])).sum()))
        n_duplicates = n_scored - n_distinct
        if n_duplicates:
            warnings += (
                (
                    f"fidelity: duplicates in features, {n_duplicates:,} of {n_scored:,} samples"
                    " repeat those of another one exactly"
                ),
            )
    return warnings


PLUGIN = FidelityEvaluator()
