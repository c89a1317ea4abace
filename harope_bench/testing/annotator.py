"""Contracts of an annotator and of an evaluator of annotations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from harope_bench.core.errors import MissingAssetError
from harope_bench.core.schema import JUDGE_CLASSES
from harope_bench.testing.contract_violations import PLAIN_NAME_PATTERN, ContractViolations
from harope_bench.testing.contributions import find_contribution_errors
from harope_bench.testing.feature_extractor import check_self_checks, check_weights_hash
from harope_bench.testing.synthetic_inputs import default_annotated_images

if TYPE_CHECKING:
    import numpy as np

    from harope_bench.core.annotations import Query
    from harope_bench.core.schema import Measurement
    from harope_bench.evaluators.base import AnnotatedImage, AnnotationEvaluator, EvaluatorOutput
    from harope_bench.judges.base import Annotator, LoadedAnnotator


def default_queries() -> dict[str, Query]:
    """Return a query for each role."""
    from harope_bench.core import annotations

    box = (0.0, 0.0, 20.0, 20.0)
    return {
        "detector": annotations.DetectionQuery(names=("circle", "square")),
        # a second detector, for the 2D relations of T2I-CompBench
        "detector-2d": annotations.DetectionQuery(names=("circle", "square")),
        "colours": annotations.ColourQuery(
            objects=(annotations.ColourObject(name="circle", box=box),), candidates=("red", "green")
        ),
        "vqa": annotations.VqaQuery(questions=("is there a circle?", "is the square red?")),
        "depth": annotations.DepthQuery(boxes=(box, (4.0, 4.0, 12.0, 9.0))),
        "similarity": annotations.SimilarityQuery(texts=("a circle", "a red square")),
    }


def check_annotator(
    name: str | Annotator,
    images: Sequence[np.ndarray] | None = None,
    queries: Mapping[str, Query] | None = None,
    device: str = "cpu",
) -> int:
    """Check an annotator against the contract of judges/base.py.

    Args:
        name: a registered judge, or the plug-in itself, bound to its model where it needs one.
        images: at least two of (H, W, 3) uint8; by default random ones of 32 x 40.
        queries: by role, instead of `default_queries`.

    Returns:
        The number of checks.

    Raises:
        AssertionError: The annotator violates the contract; every violation is listed.
        UncheckedContractError: Its weights are missing; what needs none was checked.
    """
    import numpy as np

    from harope_bench.core.errors import OptionError
    from harope_bench.judges.base import Annotator, load_judge

    plugin = load_judge(name) if isinstance(name, str) else name
    if not isinstance(plugin, Annotator):
        raise OptionError(f"judge {name} extracts features; use check_feature_extractor")
    rng = np.random.default_rng(0)
    test_images = images or [rng.integers(0, 256, (32, 40, 3), dtype=np.uint8) for _ in range(2)]
    violations = ContractViolations(
        f"judge {name if isinstance(name, str) else type(name).__qualname__}"
    )
    test_queries = {**default_queries(), **(queries or {})}
    contract = _AnnotatorContract(plugin, device, test_images, test_queries, violations)
    if isinstance(name, str) and plugin.needs_model:
        contract.missing_model = f"judge {name} runs a model that you provide"
    return violations.run_checks(
        [
            contract.check_required_members,
            contract.check_recorded_weights,
            contract.check_judge_self_checks,
            contract.check_annotations,
            contract.check_determinism,
        ]
    )


class _AnnotatorContract:
    """The contract of one annotator, one method for each requirement."""

    def __init__(
        self,
        plugin: Annotator,
        device: str,
        images: Sequence[np.ndarray],
        queries: Mapping[str, Query],
        violations: ContractViolations,
    ):
        self.plugin = plugin
        self.device = device
        self.missing_model = ""  # what is missing of a judge that is bound to no model
        self.images = images
        self.queries = queries
        self.expect = violations.expect

    @cached_property
    def annotator(self) -> LoadedAnnotator:
        """Return the annotator with its weights; raise WeightsError where they are missing."""
        if self.missing_model:
            raise MissingAssetError(self.missing_model, advice="check it as NAME:FOLDER")
        return self.plugin.open(self.device)

    def check_required_members(self) -> None:
        """Check version, class, preprocessing and roles."""
        from harope_bench.core.annotations import QUERY_TYPES

        expect = self.expect
        plugin = self.plugin
        expect(
            isinstance(plugin.version, int) and plugin.version >= 1,
            f"version is {plugin.version!r}, wanted an integer from 1",
        )
        expect(
            plugin.judge_class in JUDGE_CLASSES,
            f"judge_class is {plugin.judge_class!r}, wanted one of {', '.join(JUDGE_CLASSES)}",
        )
        expect(
            isinstance(plugin.preprocessing, str) and plugin.preprocessing.strip(),
            "does not describe its preprocessing",
        )
        expect(
            isinstance(plugin.roles, tuple) and plugin.roles,
            f"roles is {plugin.roles!r}, wanted a tuple of names",
        )
        for role in plugin.roles:
            expect(role in QUERY_TYPES, f"role {role!r} is none of {', '.join(QUERY_TYPES)}")
        expect(
            plugin.runner is None or plugin.runner.is_file(),
            f"runner {plugin.runner} is missing",
        )

    def check_recorded_weights(self) -> None:
        """Check that the hash of the loaded weights is the recorded one."""
        check_weights_hash(self.plugin, self.annotator, self.expect)

    def check_judge_self_checks(self) -> None:
        """Check what `open_judge` checks before every use."""
        check_self_checks(self.plugin, self.annotator, self.expect)

    def check_annotations(self) -> None:
        """Check each role's annotation: its type, its completeness, and a round trip through JSON.

        The image must not change.
        """
        from harope_bench.core.annotations import ANNOTATION_TYPES, is_complete_annotation

        image = self.images[0]
        for role in self.plugin.roles:
            image_copy = image.copy()
            annotation = self.annotator.annotate(role, image, self.queries[role])
            self.expect((image_copy == image).all(), f"{role} changes its input image")
            self.expect(
                isinstance(annotation, ANNOTATION_TYPES[role]),
                f"{role} returns {type(annotation).__name__}, wanted"
                f" {ANNOTATION_TYPES[role].__name__}",
            )
            self.expect(
                is_complete_annotation(self.queries[role], annotation),
                f"{role} returns an annotation of another number of items than the query has",
            )
            reloaded_annotation = ANNOTATION_TYPES[role].model_validate_json(annotation.to_json())
            self.expect(
                reloaded_annotation == annotation,
                f"{role} returns an annotation that changes in JSON",
            )
            outputs = self.annotator.run_network(role, image.copy(), self.queries[role])
            self.expect(
                self.annotator.finish_annotation(outputs) == annotation,
                f"{role} returns another annotation in two steps (run_network, finish_annotation)",
            )

    def check_determinism(self) -> None:
        """Check that an image gets equal annotations before and after another image."""
        for role in self.plugin.roles:
            query = self.queries[role]
            annotation = self.annotator.annotate(role, self.images[0], query)
            self.annotator.annotate(role, self.images[1], query)
            self.expect(
                self.annotator.annotate(role, self.images[0], query) == annotation,
                f"{role} returns another annotation at the second call",
            )


def check_annotation_evaluator(
    name: str | AnnotationEvaluator, annotated_images: Sequence[AnnotatedImage] | None = None
) -> int:
    """Check an evaluator of annotations against the contract of evaluators/base.py.

    Args:
        name: a registered evaluator, or the plug-in itself.
        annotated_images: images of every task, of at least two prompts each, without failures. By
            default images of a registered suite's prompts, with random annotations.

    Returns:
        The number of checks.

    Raises:
        UncheckedContractError: No suite whose prompts are here has the metadata that it reads.
        AssertionError: The evaluator violates the contract; every violation is listed.
    """
    from harope_bench.evaluators.base import load_annotation_evaluator

    plugin = load_annotation_evaluator(name) if isinstance(name, str) else name
    violations = ContractViolations(
        f"evaluator {name if isinstance(name, str) else type(name).__qualname__}"
    )
    contract = _AnnotationEvaluatorContract(plugin, annotated_images, violations)
    return violations.run_checks(
        [
            contract.check_required_members,
            contract.check_every_metric,
            contract.check_failures_are_counted_unscored,
            contract.check_determinism,
        ]
    )


class _AnnotationEvaluatorContract:
    """The contract of one evaluator of annotations, one method for each requirement."""

    def __init__(
        self,
        plugin: AnnotationEvaluator,
        annotated_images: Sequence[AnnotatedImage] | None,
        violations: ContractViolations,
    ):
        self.plugin = plugin
        self.given_images = annotated_images
        self.expect = violations.expect
        self.add_violation = violations.add_violation

    @cached_property
    def annotated_images(self) -> Sequence[AnnotatedImage]:
        """Return the given images, or random ones of a registered suite."""
        return self.given_images or default_annotated_images(self.plugin)

    def required_metrics(self) -> set[str]:
        """Return the metrics that must have a value on the images.

        Images that the author gives must cover every metric, random images those of their prompts.
        """
        if self.given_images:
            return {metric.name for metric in self.plugin.metrics}
        return {
            name
            for image in self.annotated_images
            for name in self.plugin.metrics_of_prompt(image.metadata)
        }

    def check_required_members(self) -> None:
        """Check version, profile, parity, rules, metadata key, roles, and names of metrics."""
        from harope_bench.core.annotations import QUERY_TYPES

        expect = self.expect
        plugin = self.plugin
        expect(
            isinstance(plugin.version, int) and plugin.version >= 1,
            f"version is {plugin.version!r}, wanted an integer from 1",
        )
        for member, text in (
            ("profile", plugin.profile),
            ("parity", plugin.parity),
        ):
            expect(isinstance(text, str) and text.strip(), f"declares no {member}")
        key = getattr(plugin, "metadata_key", "")  # getattr: a plug-in may lack it
        expect(
            key is None or (isinstance(key, str) and key.strip()),
            "declares no metadata_key; None reads the prompt alone",
        )
        expect(
            set(plugin.rules) <= {"official", "corrected"} and plugin.rules,
            f"rules are {plugin.rules}, wanted official or corrected",
        )
        names = [metric.name for metric in plugin.metrics]
        expect(
            names and len(set(names)) == len(names), f"metric names are missing or repeat: {names}"
        )
        for metric in names:
            expect(PLAIN_NAME_PATTERN.fullmatch(metric), f"metric name {metric!r} is not plain")
        for annotator_role in plugin.annotator_roles:
            expect(
                annotator_role.role in QUERY_TYPES,
                f"needs role {annotator_role.role!r}, which is none of {', '.join(QUERY_TYPES)}",
            )

    def check_every_metric(self) -> None:
        """Check the measurements, per-sample arrays and sample scores under each set of rules."""
        for rules in self.plugin.rules:
            is_lenient = not self.given_images
            output: EvaluatorOutput = self.plugin.evaluate(self.annotated_images, rules, is_lenient)
            measured_metrics = [m.metric for m in output.measurements]
            declared_metrics = [m.name for m in self.plugin.metrics]
            self.expect(
                sorted(measured_metrics) == sorted(declared_metrics),
                f"under {rules} rules it measures {measured_metrics}, declares {declared_metrics}",
            )
            for measurement in output.measurements:
                is_required = measurement.metric in self.required_metrics()
                self._check_measurement(measurement, rules, is_required)
            self._check_rows(output, rules)

    def _check_measurement(self, measurement: Measurement, rules: str, is_required: bool) -> None:
        """Check that a value is there, finite, and inside its interval."""
        metric = measurement.metric
        value = measurement.value
        low = measurement.low
        high = measurement.high
        self.expect(
            value is not None or not is_required,
            f"{metric} has no value under {rules} rules on good images: {measurement.reason}",
        )
        numbers = [x for x in (value, measurement.se, low, high) if x is not None]
        self.expect(
            all(map(math.isfinite, numbers)),
            f"{metric} has a number that is not finite: {numbers}",
        )
        if value is not None and low is not None and high is not None:
            self.expect(
                low <= value <= high,
                f"{metric}: {value} is outside its interval {low} to {high}",
            )

    def _check_rows(self, output: EvaluatorOutput, rules: str) -> None:
        """Check that per-sample arrays and sample scores have a row for each image."""
        import numpy as np

        image_count = len(self.annotated_images)
        for key, rows in output.per_sample.items():
            self.expect(
                len(np.asarray(rows)) == image_count,
                f"{key} has {len(rows)} rows for {image_count} images",
            )
        for message in find_contribution_errors(output, image_count):
            self.add_violation(message)
        self.expect(
            len(output.sample_scores) == image_count,
            f"has {len(output.sample_scores)} sample scores for {image_count} images",
        )
        self.expect(
            all(str(row.get("reason", "")).strip() for row in output.sample_scores),
            f"under {rules} rules an image has no reason",
        )

    def check_failures_are_counted_unscored(self) -> None:
        """Check that a failed image is counted and never scored as 0.

        Metrics of its prompt are None unless the evaluator is lenient.
        """
        failed_image = replace(self.annotated_images[0], failure="no answer", annotations={})
        images = [failed_image, *self.annotated_images[1:]]
        rules = self.plugin.rules[0]
        strict_measurements = {
            m.metric: m for m in self.plugin.evaluate(images, rules, is_lenient=False).measurements
        }
        for metric in set(self.plugin.metrics_of_prompt(failed_image.metadata)):
            measurement = strict_measurements[metric]
            self.expect(
                measurement.value is None and measurement.n_failed >= 1,
                f"{metric} is {measurement.value} with {measurement.n_failed} failed, wanted None"
                " and the failure counted",
            )
        for m in self.plugin.evaluate(images, rules, is_lenient=True).measurements:
            self.expect(
                m.n_asked == m.n_scored + m.n_failed + m.n_abstained,
                f"{m.metric}: asked is not scored + failed + abstained",
            )

    def check_determinism(self) -> None:
        """Check that equal annotations give equal results."""
        output_a, output_b = (
            self.plugin.evaluate(self.annotated_images, self.plugin.rules[0], is_lenient=False)
            for _ in range(2)
        )
        self.expect(
            output_a.measurements == output_b.measurements
            and output_a.sample_scores == output_b.sample_scores,
            "gives another result at the second call",
        )
