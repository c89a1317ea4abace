"""Image quality against a reference of real images: FID, sFID, Inception Score, precision, recall,
KID and their kin, with their errors.

A profile says which published program's formulas are followed. Profiles share what a judge saw,
never a column of a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np

from harope_bench.core.errors import OptionError
from harope_bench.core.schema import Measurement
from harope_bench.evaluators.base import EvaluatorOutput, FeatureEvaluator, Features
from harope_bench.evaluators.fidelity_checks import check_arrays
from harope_bench.evaluators.fidelity_findings import (
    MetricEstimate,
    frechet_finding,
    inception_finding,
    kernel_finding,
    neighbour_findings,
    shuffled_inception_finding,
    without_empty_interval,
)
from harope_bench.evaluators.fidelity_profiles import FRECHET_KEYS, METRICS, PROFILES
from harope_bench.metrics.row_checks import repeat_counts

OFFICIAL_COUNT = 50_000


class FidelityEvaluator(FeatureEvaluator):
    """Image quality against a reference of real images, in one profile."""

    version = 3
    rules = ("official",)  # each program's; no corrected form is defined
    profiles = tuple(PROFILES)
    profiles_with_own_judge = ("clean", "fd-dinov2", "cmmd")  # these need a judge of their own

    def __init__(self, profile: str = "adm-exact"):
        if profile not in PROFILES:
            raise OptionError(
                f"fidelity has profiles {', '.join(PROFILES)}, not {profile}; choose one of these"
            )
        self.profile = profile
        self.profile_spec = PROFILES[profile]
        self.parity = self.profile_spec.parity
        self.metrics = tuple(METRICS[name] for name in self.profile_spec.metrics)

    def with_profile(self, profile: str) -> Self:
        """The same evaluator in another profile."""
        return type(self)(profile)

    def evaluate(self, seen: Features, reference: Mapping[str, np.ndarray]) -> EvaluatorOutput:
        """The profile's metrics; one that cannot be had is None with a reason.

        Args:
            seen: arrays `features` (N, D), `spatial` (N, S) and `logits` (N, C) without bias, each
                optional, memory-mapped or not.
            reference: `mu` (D,), `sigma` (D, D), `mu_s` (S,), `sigma_s` (S, S) and `features` (M,
                D) of real images, each optional.

        Returns:
            Measurements named by the number of images scored; per sample `indices` (N,) int64,
            centred influence values `fid`,
            `sfid`, `is`, `kid` (N,) float64, indicators `precision` (N,) and `recall` (M,) int8,
            and `recall_halves` (H,) float64,
            recall of random halves of the samples by exact distances; their standard deviation is
            its error. The error of FID and
            sFID is the spread of the value at this N; its finite-N bias is in the value.

        Raises:
            ShapeError: arrays do not fit together. SampleError: a value that is not finite, with
                the index of its image.
            InvalidMomentsError: the reference holds no mean and covariance.
        """
        check_arrays(seen, reference)
        findings = self._estimates(seen, reference)
        rows = {
            name: found.contributions
            for name, found in findings.items()
            if found.contributions is not None
        }
        rows |= {
            f"{name}_halves": found.halves
            for name, found in findings.items()
            if found.halves is not None
        }
        warnings = _warnings(seen) + tuple(w for found in findings.values() for w in found.warnings)
        measurements = tuple(_measurement(name, found, seen) for name, found in findings.items())
        return EvaluatorOutput(measurements, {"indices": seen.indices, **rows}, warnings)

    def _estimates(
        self, seen: Features, reference: Mapping[str, np.ndarray]
    ) -> dict[str, MetricEstimate]:
        findings: dict[str, MetricEstimate] = {}
        for name in self.profile_spec.metrics:
            if name in FRECHET_KEYS:
                findings[name] = frechet_finding(name, seen, reference)
            elif name == "is":
                findings[name] = (
                    shuffled_inception_finding(seen)
                    if self.profile_spec.has_shuffled_splits
                    else inception_finding(seen)
                )
            elif name == "precision":  # one sweep gives both
                findings |= neighbour_findings(seen, reference, self.profile_spec)
            elif name != "recall":
                findings[name] = kernel_finding(name, seen, reference)
        return {name: without_empty_interval(name, found) for name, found in findings.items()}


def _measurement(metric: str, found: MetricEstimate, seen: Features) -> Measurement:
    scored = len(seen.indices)
    error = found.interval
    return Measurement(
        metric=metric,
        name=_measurement_name(metric, scored),
        value=found.value,
        se=error.se if error else None,
        low=error.low if error else None,
        high=error.high if error else None,
        interval=found.interval_name if error else None,
        n_asked=scored + seen.failed,
        n_scored=scored,
        n_failed=seen.failed,
        reason=found.reason,
    )


def _measurement_name(metric: str, scored: int) -> str:
    """fid-50k at exactly 50,000 images, else fid-N; the others do not depend on N by name."""
    if metric not in FRECHET_KEYS:
        return metric
    return f"{metric}-50k" if scored == OFFICIAL_COUNT else f"{metric}-{scored}"


def _warnings(seen: Features) -> tuple[str, ...]:
    warnings: tuple[str, ...] = ()
    scored = len(seen.indices)
    if seen.failed:
        warnings += (
            (
                f"fidelity: {seen.failed:,} of {scored + seen.failed:,} images failed; every number"
                f" is over the other {scored:,}"
            ),
        )
    if "features" in seen.arrays:
        copies = scored - round(float((1 / repeat_counts(seen.arrays["features"])).sum()))
        if copies:
            warnings += (
                (
                    f"fidelity: duplicates in features, {copies:,} of {scored:,} samples repeat"
                    " those of another one exactly"
                ),
            )
    return warnings


PLUGIN = FidelityEvaluator()
