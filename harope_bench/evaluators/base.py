"""Contracts of the evaluators: rules on features or annotations, plain numpy, no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from harope_bench.core import registry
from harope_bench.core.annotations import Annotation, Query
from harope_bench.core.errors import MissingMemberError, OptionError
from harope_bench.core.plugin_contracts import EvaluatorContract
from harope_bench.core.schema import Measurement, RuleDifference
from harope_bench.metrics.moments import Moments


class NamedArrays(dict[str, np.ndarray]):
    """Arrays by name, of which a missing one is an error that names its reader and its source."""

    def __init__(self, arrays: Mapping[str, np.ndarray], reader: str, source: str, advice: str):
        """Copy the names of the arrays.

        Args:
            reader: who reads the arrays, such as "evaluator fidelity".
            source: who gives the arrays, such as "judge digits-net".
            advice: what to do where an array is missing.
        """
        super().__init__(arrays)
        self.reader = reader
        self.source = source
        self.advice = advice

    def __missing__(self, name: str) -> np.ndarray:
        """Raise OptionError."""
        raise OptionError(
            f"{self.reader} reads array {name}, {self.source} gives {', '.join(self)};"
            f" {self.advice}"
        )


class Features(NamedTuple):
    """The arrays that one feature extractor computed for a sample set, in index order.

    Attributes:
        indices: sample indices, (N,) int64.
        labels: class labels, (N,) int64, or None.
        arrays: arrays of N rows each, by name.
        failed: number of images that the extractor could not read; N + failed were requested.
        cached_moments: reads the moments of an array by its name from a cache. A copy with other
            arrays must set it to None.
    """

    indices: np.ndarray
    labels: np.ndarray | None
    arrays: Mapping[str, np.ndarray]
    failed: int = 0
    cached_moments: Callable[[str], Moments] | None = None

    def moments(self, name: str) -> Moments:
        """Return count, mean and scatter matrix of an array's rows, float64.

        Cached and computed moments are equal to the bit.
        """
        rows = self.arrays[name]
        if self.cached_moments is not None:
            return self.cached_moments(name)
        return Moments.from_rows(rows)

    def for_evaluator(self, evaluator: str, judge: str) -> Features:
        """Return equal features of which a missing array is an error that names both plug-ins."""
        advice = "choose another judge (see list judges -v)"
        arrays = NamedArrays(self.arrays, f"evaluator {evaluator}", f"judge {judge}", advice)
        return self._replace(arrays=arrays)


class EvaluatorOutput(NamedTuple):
    """Measurements, values per sample for paired tests, and warnings.

    Attributes:
        measurements: one per metric, in the evaluator's order.
        per_sample: arrays by name.
            `indices` (N,) int64 holds the sample indices.
            `METRIC` holds the first-order contributions to a metric, (N,); NaN excludes a sample.
            `METRIC_halves` (H,) holds the metric on random halves of the samples, where the
            contributions are not those of samples. Runs of equal N share the halves. Their
            standard deviation is the metric's standard error.
            `prompts` (N,) integers hold the prompt indices; prompts are then clusters.
            `METRIC_tasks` (N,) integers accompany a metric that averages the means of tasks.
            `METRIC_total` and `METRIC_weight` (N,) accompany a ratio of sums with unequal weights.
        warnings: sentences for the reader of the results.
        sample_scores: per image, JSON values with its scores and the reason for them.
        rule_differences: the metrics to which the other set of rules gives another value;
            `warnings` does not repeat them.
    """

    measurements: tuple[Measurement, ...]
    per_sample: Mapping[str, np.ndarray]
    warnings: tuple[str, ...]
    sample_scores: tuple[Mapping[str, object], ...] = ()
    rule_differences: tuple[RuleDifference, ...] = ()


class Evaluator(EvaluatorContract):
    """Base class of all evaluators.

    A plug-in is derived from FeatureEvaluator or AnnotationEvaluator.
    """

    profile: str  # published program that the evaluator reproduces
    parity: str  # what the implementation was compared with, as text
    rules: tuple[str, ...] = ("official",)  # supported sets of rules: official, corrected
    profiles_with_own_judge: tuple[str, ...] = ()  # profiles that need a judge of their own
    subject: Literal["images", "network"] = "images"  # what a row of the arrays describes
    # Names of the numeric arrays it reads. Needed for subject "network"; for images they tell the
    # contract which arrays to make besides those of the shipped judges.
    arrays: tuple[str, ...] = ()
    text_arrays: tuple[str, ...] = ()  # subject "network": names of the string arrays it reads

    @property
    def profiles(self) -> tuple[str, ...]:
        """Return the supported profiles, including the evaluator's own.

        A plug-in may declare them as a class attribute instead.
        """
        return (self.profile,)

    def with_profile(self, profile: str) -> Self:
        """Return the evaluator under another of its profiles.

        Raises:
            OptionError: The evaluator does not support the profile.
        """
        if profile != self.profile:
            raise OptionError(
                f"the evaluator has profile {self.profile} only, not {profile!r}; leave --profile"
                " out"
            )
        return self


class FeatureEvaluator(Evaluator):
    """Base class of evaluators that read the arrays of one feature extractor."""

    def evaluate(self, features: Features, reference: Mapping[str, np.ndarray]) -> EvaluatorOutput:
        """Return the measurements. A metric that cannot be computed is None with a reason."""
        raise MissingMemberError(self, "evaluate")


# What a suite states about a prompt: JSON values. The evaluator validates them as it reads them.
Metadata = Mapping[str, Any]
Annotations = Mapping[str, Annotation]  # annotations of one image so far, by annotator role


class AnnotatorRole(NamedTuple):
    """A role that an annotator fills for an evaluator, and the query that it gets per image.

    Attributes:
        role: kind of query that the annotator answers, such as "detector".
        make_query: returns the query for an image from the prompt's metadata and the annotations
            of earlier roles; None if the role has nothing to annotate in this image.
        is_needed: returns, from the metadata alone, whether an image may need a query of this role.
    """

    role: str
    make_query: Callable[[Metadata, Annotations], Query | None]
    is_needed: Callable[[Metadata], bool] = lambda metadata: True


class WeightedScore(NamedTuple):
    """The contribution of one image to a metric.

    The metric is the sum of all `total` divided by the sum of all `weight`.
    """

    total: float
    weight: float = 1.0


@dataclass(frozen=True)
class SampleScore:
    """The score of one image under a rule.

    Attributes:
        task: stratum of the prompt.
        scores: weighted scores, by each metric for which the image counts.
        reason: explanation of the scores, as text.
        n_unread: number of annotations that no rule can interpret.
        evidence: JSON values that support the scores.
    """

    task: str
    scores: Mapping[str, WeightedScore]
    reason: str
    n_unread: int = 0
    evidence: Metadata = field(default_factory=dict)


@dataclass(frozen=True)
class AnnotatedImage:
    """One image of a run with its prompt and its annotations.

    Attributes:
        index: sample index.
        prompt_index: index of the prompt in the suite.
        copy: number of the image among those of its prompt, from 0.
        prompt: text of the prompt.
        metadata: what the suite states about the prompt.
        annotations: annotations by role.
        failure: why the image has no annotations; None if it has them.
    """

    index: int
    prompt_index: int
    copy: int
    prompt: str
    metadata: Metadata
    annotations: Annotations
    failure: str | None = None


class AnnotationEvaluator(Evaluator):
    """Base class of evaluators that read annotations.

    evaluators/prompt_scores.py holds what evaluators of prompts share.
    """

    # Key of a request's metadata that it reads; requests without it are skipped. None: it reads the
    # prompt alone, its metadata is {"prompt": text}, and it scores every suite of prompts.
    metadata_key: str | None
    annotator_roles: tuple[AnnotatorRole, ...]  # in the order of their queries

    def metrics_of_prompt(self, metadata: Metadata) -> tuple[str, ...]:
        """Return the metrics, except macro metrics, for which an image of this prompt counts."""
        raise MissingMemberError(self, "metrics_of_prompt")

    def evaluate(
        self, annotated_images: Sequence[AnnotatedImage], rules: str, is_lenient: bool
    ) -> EvaluatorOutput:
        """Return the measurements under a set of rules.

        A metric with failed images or unread annotations is None, unless `is_lenient`.
        """
        raise MissingMemberError(self, "evaluate")


def load_evaluator(name: str) -> Evaluator:
    """Return the evaluator of that name.

    Raises:
        UnknownNameError: No evaluator has this name.
        PluginError: The plug-in is not derived from Evaluator.
        BenchError: The plug-in cannot be imported.
    """
    return registry.load_plugin("evaluators", name, Evaluator)


def load_feature_evaluator(name: str) -> FeatureEvaluator:
    """Return the evaluator of features of that name.

    Raises:
        OptionError: The evaluator is of another kind.
        UnknownNameError, PluginError, BenchError: See `load_evaluator`.
    """
    message = (
        f"evaluator {name} scores annotations of prompts, not features; choose an evaluator of"
        " features"
    )
    return registry.require_kind(load_evaluator(name), FeatureEvaluator, message)


def load_annotation_evaluator(name: str) -> AnnotationEvaluator:
    """Return the evaluator of annotations of that name.

    Raises:
        OptionError: The evaluator is of another kind.
        UnknownNameError, PluginError, BenchError: See `load_evaluator`.
    """
    message = (
        f"evaluator {name} scores features, not annotations of prompts; choose an evaluator of"
        " prompts"
    )
    return registry.require_kind(load_evaluator(name), AnnotationEvaluator, message)
