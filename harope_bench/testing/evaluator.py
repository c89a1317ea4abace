"""The contract of an evaluator of features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harope_bench.testing.annotator import check_annotation_evaluator
from harope_bench.testing.contract_violations import PLAIN_NAME_PATTERN, ContractViolations
from harope_bench.testing.contributions import (
    find_constant_contributions,
    find_contribution_errors,
)
from harope_bench.testing.synthetic_inputs import default_features, default_reference

if TYPE_CHECKING:
    import numpy as np

    from harope_bench.core.schema import Measurement
    from harope_bench.evaluators.base import (
        AnnotatedImage,
        Evaluator,
        EvaluatorOutput,
        FeatureEvaluator,
        Features,
    )


def check_evaluator(
    name: str | Evaluator,
    features: Features | None = None,
    reference: Mapping[str, np.ndarray] | None = None,
    annotated_images: Sequence[AnnotatedImage] | None = None,
) -> int:
    """Check an evaluator of either kind against the contract of evaluators/base.py.

    Args:
        name: a registered evaluator, or the plug-in itself.
        features, reference: of an evaluator of features; see `check_feature_evaluator`.
        annotated_images: of an evaluator of annotations; see `check_annotation_evaluator`.

    Returns:
        The number of checks.

    Raises:
        AssertionError: The evaluator violates the contract; every violation is listed.
    """
    from harope_bench.evaluators.base import AnnotationEvaluator, FeatureEvaluator, load_evaluator

    plugin = load_evaluator(name) if isinstance(name, str) else name
    if isinstance(plugin, AnnotationEvaluator):
        return check_annotation_evaluator(
            name if isinstance(name, str) else plugin, annotated_images
        )
    assert isinstance(plugin, FeatureEvaluator), (
        f"evaluator {name} is derived from neither FeatureEvaluator nor AnnotationEvaluator"
    )
    return check_feature_evaluator(name if isinstance(name, str) else plugin, features, reference)


def check_feature_evaluator(
    name: str | FeatureEvaluator,
    features: Features | None = None,
    reference: Mapping[str, np.ndarray] | None = None,
) -> int:
    """Check an evaluator of features on synthetic features.

    Args:
        name: a registered evaluator, or the plug-in itself.
        features: enough rows that every metric has a value; by default random ones.
        reference: the arrays that it compares with; by default random ones.

    Returns:
        The number of checks.

    Raises:
        AssertionError: The evaluator violates the contract; every violation is listed.
    """
    from harope_bench.evaluators.base import load_feature_evaluator

    plugin = load_feature_evaluator(name) if isinstance(name, str) else name
    violations = ContractViolations(
        f"evaluator {name if isinstance(name, str) else type(name).__qualname__}"
    )
    contract = _FeatureEvaluatorContract(
        plugin,
        default_features(plugin) if features is None else features,
        default_reference(plugin) if reference is None else reference,
        violations,
    )
    return violations.run_checks(
        [
            contract.check_required_members,
            contract.check_every_metric,
            contract.check_contributions,
            contract.check_failure_counts,
            contract.check_reasons_for_missing_values,
            contract.check_determinism,
        ]
    )


class _FeatureEvaluatorContract:
    """The contract of one evaluator of features, one method for each requirement."""

    def __init__(
        self,
        plugin: FeatureEvaluator,
        features: Features,
        reference: Mapping[str, np.ndarray],
        violations: ContractViolations,
    ):
        self.plugin = plugin
        self.features = features
        self.reference = reference
        self.expect = violations.expect
        self.add_violation = violations.add_violation

    def evaluate(self, features: Features) -> EvaluatorOutput:
        """Return the evaluator's output for these features; a missing array is an OptionError."""
        from harope_bench.evaluators.base import NamedArrays

        arrays = NamedArrays(
            features.arrays,
            "it",
            "check_evaluator",
            "pass features with this array to check_evaluator, or declare it in `arrays`",
        )
        return self.plugin.evaluate(features._replace(arrays=arrays), self.reference)

    def first_rows(self, n: int) -> Features:
        """Return the features of the first n samples."""
        features = self.features
        return features._replace(
            indices=features.indices[:n],
            labels=None if features.labels is None else features.labels[:n],
            arrays={name: array[:n] for name, array in features.arrays.items()},
            failed=0,
            cached_moments=None,
        )

    def check_required_members(self) -> None:
        """Check version, profile, parity claim, and names of metrics."""
        expect = self.expect
        plugin = self.plugin
        expect(
            isinstance(plugin.version, int) and plugin.version >= 1,
            f"version is {plugin.version!r}, wanted an integer from 1",
        )
        expect(
            isinstance(plugin.profile, str) and plugin.profile.strip(),
            "declares no profile",
        )
        expect(
            isinstance(plugin.parity, str) and plugin.parity.strip(),
            "declares no parity; state what it was compared with, or that there is nothing",
        )
        expect(plugin.metrics, "declares no metric")
        names = [metric.name for metric in plugin.metrics]
        expect(len(set(names)) == len(names), f"metric names repeat: {names}")
        for metric in plugin.metrics:
            expect(
                PLAIN_NAME_PATTERN.fullmatch(metric.name),
                f"metric name {metric.name!r} is not plain",
            )
            expect(metric.decimals >= 0, f"metric {metric.name} has {metric.decimals} decimals")

    def check_every_metric(self) -> None:
        """Check the measurements on all rows; each declared metric must have a value."""
        row_count = len(self.features.indices)
        output = self.evaluate(self.features)
        self._check_output("on all rows", output, row_count, self.features.failed)
        for m in output.measurements:
            self.expect(
                m.value is not None, f"{m.metric} has no value on {row_count} good rows: {m.reason}"
            )

    def _check_output(
        self, call_text: str, output: EvaluatorOutput, row_count: int, failed_count: int
    ) -> None:
        """Check measurements and per-sample arrays of one call.

        Args:
            call_text: the call, as a message begins.
        """
        declared_names = [m.name for m in self.plugin.metrics]
        measured_names = [m.metric for m in output.measurements]
        self.expect(
            sorted(declared_names) == sorted(measured_names),
            f"{call_text} it measures {measured_names}, declares {declared_names}",
        )
        for measurement in output.measurements:
            label = f"{call_text} {measurement.name}"
            self.expect(
                PLAIN_NAME_PATTERN.fullmatch(measurement.name),
                f"{call_text} measurement name {measurement.name!r} is not plain",
            )
            self._check_counts(label, measurement, row_count, failed_count)
            self._check_value(label, measurement)
        self._check_per_sample(call_text, output, row_count)

    def _check_counts(
        self, label: str, measurement: Measurement, row_count: int, failed_count: int
    ) -> None:
        """Check the numbers of asked, scored, failed and abstained samples."""
        asked_count = measurement.n_asked
        self.expect(
            asked_count == row_count + failed_count,
            f"{label} says {asked_count} asked, there were {row_count} rows and {failed_count}"
            " failed",
        )
        self.expect(
            asked_count == measurement.n_scored + measurement.n_failed + measurement.n_abstained,
            f"{label}: asked is not scored + failed + abstained",
        )
        self.expect(
            measurement.n_failed >= failed_count,
            f"{label} says {measurement.n_failed} failed, there were {failed_count}",
        )

    def _check_value(self, label: str, measurement: Measurement) -> None:
        """Check that the value is finite or has a reason, and that its interval is valid."""
        value = measurement.value
        low = measurement.low
        high = measurement.high
        numbers = [x for x in (value, measurement.se, low, high) if x is not None]
        self.expect(
            all(map(math.isfinite, numbers)), f"{label} has a number that is not finite: {numbers}"
        )
        self.expect(
            value is not None or (measurement.reason or "").strip(),
            f"{label} is None without a reason",
        )
        if value is None or low is None or high is None:
            return

        self.expect(
            low <= value <= high, f"{label}: {value} is outside its interval {low} to {high}"
        )
        self.expect(
            low < high,
            f"{label}: an interval of width 0 claims certainty; give no interval, and a warning",
        )
        self.expect(measurement.interval, f"{label} has an interval without a name")
        bounds = {m.name: m.bounds for m in self.plugin.metrics}.get(measurement.metric)
        lower_bound, upper_bound = bounds or (-math.inf, math.inf)
        self.expect(
            lower_bound <= low and high <= upper_bound,
            f"{label}: {low} to {high} leaves {lower_bound} to {upper_bound}, the range of its"
            " unit",
        )

    def _check_per_sample(self, call_text: str, output: EvaluatorOutput, row_count: int) -> None:
        """Check names, lengths and values of the per-sample arrays."""
        import numpy as np

        declared_names = [m.name for m in self.plugin.metrics]
        suffixed_names = [f"{name}_{end}" for name in declared_names for end in ("halves", "tasks")]
        allowed_names = {*declared_names, *suffixed_names, "indices", "prompts"}
        # Some arrays, such as recall's, have a row for each reference image.
        reference_lengths = (len(array) for array in self.reference.values() if array.ndim)
        allowed_lengths = {row_count, *reference_lengths}
        for name, values in output.per_sample.items():
            self.expect(
                name in allowed_names,
                f"{call_text} per_sample has {name!r}, which is no declared metric",
            )
            self.expect(
                name.endswith("_halves") or len(values) in allowed_lengths,
                f"{call_text} per_sample of {name} has {len(values)} rows for {row_count} samples",
            )
            # With prompts, NaN marks samples that the metric excludes.
            is_excluded = np.zeros(len(values), dtype=bool)
            if "prompts" in output.per_sample:
                is_excluded = np.isnan(values)
            self.expect(
                np.isfinite(values[~is_excluded]).all(),
                f"{call_text} per_sample of {name} is not finite",
            )

    def check_contributions(self) -> None:
        """Check that the contributions of samples have the metric as their mean, and differ."""
        row_count = len(self.features.indices)
        output = self.evaluate(self.features)
        output_of_some = self.evaluate(self.first_rows(row_count * 2 // 3))
        for message in (
            *find_contribution_errors(output, row_count),
            *find_constant_contributions(output, output_of_some, row_count),
        ):
            self.add_violation(message)

    def check_failure_counts(self) -> None:
        """Check that failed images are counted and change no value."""
        row_count = len(self.features.indices)
        failed_count = self.features.failed + 3
        output = self.evaluate(self.features)
        failing_output = self.evaluate(self.features._replace(failed=failed_count))
        self._check_output("with three more failures", failing_output, row_count, failed_count)
        values = {m.metric: m.value for m in output.measurements}
        for m in failing_output.measurements:
            expected = values.get(m.metric)
            self.expect(
                m.value == expected,
                f"{m.metric} is {m.value} with three failures, {expected} without: a failure must"
                " not be scored",
            )

    def check_reasons_for_missing_values(self) -> None:
        """Check that zero, one and two rows give None with a reason where there is no value."""
        for n in (0, 1, 2):
            self._check_output(f"on {n} rows", self.evaluate(self.first_rows(n)), n, 0)
        for m in self.evaluate(self.first_rows(0)).measurements:
            self.expect(
                m.value is None,
                f"{m.metric} is {m.value} on no images at all, wanted None with a reason",
            )

    def check_determinism(self) -> None:
        """Check that equal features give equal results, and that inputs do not change."""
        import numpy as np

        inputs = {
            **{f"features {k}": v for k, v in self.features.arrays.items()},
            **{f"reference {k}": v for k, v in self.reference.items()},
        }
        copies = {name: array.copy() for name, array in inputs.items()}
        output_a = self.evaluate(self.features)
        output_b = self.evaluate(self.features)
        self.expect(
            output_a.measurements == output_b.measurements,
            "gives another result at the second call",
        )
        for name, array in inputs.items():
            self.expect(np.array_equal(array, copies[name]), f"changes its input {name}")
