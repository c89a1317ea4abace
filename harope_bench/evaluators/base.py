"""Contracts of the evaluators: rules on what judges saw, plain numpy, no network."""

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


class Features(NamedTuple):
    """What one judge saw of one sample set, in index order.

    indices (N,) int64; labels (N,) int64 or None; arrays of N rows each by name; failed counts
    asked
    images that could not be judged, so that asked = N + failed. kept_moments gives `moments` of an
    array by name where they are kept
    beside it; a copy with other arrays must leave it out.
    """

    indices: np.ndarray
    labels: np.ndarray | None
    arrays: Mapping[str, np.ndarray]
    failed: int = 0
    cached_moments: Callable[[str], Moments] | None = None

    def moments(self, name: str) -> Moments:
        """Count, mean and scatter of an array's rows, float64; the same bits whether they are kept
        somewhere or not.
        """
        return (
            Moments.from_rows(self.arrays[name])
            if self.cached_moments is None
            else self.cached_moments(name)
        )


class EvaluatorOutput(NamedTuple):
    """Measurements, first-order contributions by metric (for paired tests), and named warnings.

    per_sample may also hold `METRIC_halves` (H,), the metric on random halves of the samples, whose
    standard deviation is its error
    (the same halves in every run of as many samples), where a metric's own rows are not the
    samples'; and, for scores of prompts,
    `prompts` (N,) integers: prompts are then clusters, and a row of NaN is a sample that does not
    count for that metric. `METRIC_tasks`
    (N,) integers stand with a metric that is the mean of its tasks' means, METRIC_total and
    METRIC_weight (N,) with one that is a ratio of
    sums whose weights differ.
    rows: of each image, as JSON values, the verdict and the reason in words. rule_differences:
    metrics to which the other set of rules
    gives another value; `warnings` do not repeat them.
    """

    measurements: tuple[Measurement, ...]
    per_sample: Mapping[str, np.ndarray]
    warnings: tuple[str, ...]
    sample_scores: tuple[Mapping[str, object], ...] = ()
    rule_differences: tuple[RuleDifference, ...] = ()


class Evaluator(EvaluatorContract):
    """Base class of all evaluators. A plug-in is derived from FeatureEvaluator or
    AnnotationEvaluator.
    """

    profile: str  # the published program whose formulas it follows
    parity: str  # against what it is held, in words
    rules: tuple[str, ...] = ("official",)  # sets of rules that it knows: official, corrected
    profiles_with_own_judge: tuple[str, ...] = ()  # profiles that need a judge of their own
    subject: Literal["images", "network"] = "images"  # what its rows are of
    arrays: tuple[str, ...] = ()  # of one that looks at networks: the arrays of numbers it reads
    text_arrays: tuple[str, ...] = ()  # and its arrays of texts

    @property
    def profiles(self) -> tuple[str, ...]:
        """Return the profiles that it knows, its own among them; a plug-in may state them as an
        attribute.
        """
        return (self.profile,)

    def with_profile(self, profile: str) -> Self:
        """Return the evaluator in another profile of `profiles`; OptionError for any other."""
        if profile != self.profile:
            raise OptionError(
                f"the evaluator has profile {self.profile}, not {profile}; leave --profile out"
            )
        return self


class FeatureEvaluator(Evaluator):
    """Base class of evaluators on the arrays of one judge."""

    def evaluate(self, seen: Features, reference: Mapping[str, np.ndarray]) -> EvaluatorOutput:
        """Return the measurements; a metric that cannot be had is None with a reason."""
        raise MissingMemberError(self, "score")


# What a suite says of a prompt to an evaluator: JSON values, which the evaluator validates as it
# reads them
Metadata = Mapping[str, Any]
Annotations = Mapping[str, Annotation]  # answers so far, by role


class AnnotatorRole(NamedTuple):
    """What an evaluator has a judge look for. ask(facts, answers so far) is None where there is
    nothing to ask of that image.

    needs: Whether the judge may be asked about an image of these facts at all, before anything is
    answered.
    """

    role: str
    make_query: Callable[[Metadata, Annotations], Query | None]
    is_needed: Callable[[Metadata], bool] = lambda facts: True


class WeightedScore(NamedTuple):
    """What an image adds to a metric: the value is the sum of all `total` over the sum of all
    `weight`.
    """

    total: float
    weight: float = 1.0


@dataclass(frozen=True)
class SampleScore:
    """What a rule says of one image.

    task: the stratum it belongs to. parts: by metric, for those metrics that it counts for. reason:
    in words, for a reader.
    unknown: answers that no rule can read, which are counted and never guessed. evidence: JSON
    values that show why.
    """

    task: str
    scores: Mapping[str, WeightedScore]
    reason: str
    n_unread: int = 0
    evidence: Metadata = field(default_factory=dict)


@dataclass(frozen=True)
class AnnotatedImage:
    """One image of a run: its prompt's number and facts, which copy, and what the judges answered,
    or why there is no answer.
    """

    index: int
    prompt_index: int
    copy: int
    prompt: str
    metadata: Metadata
    annotations: Annotations
    failure: str | None = None


class AnnotationEvaluator(Evaluator):
    """Base class of evaluators on annotations; evaluators/prompt_scores.py has what those that
    score prompts share.
    """

    metadata_key: str  # the key of a case's facts that it reads; a case without it is not evaluated
    annotator_roles: tuple[AnnotatorRole, ...]  # what judges are asked, in order

    def metrics_of_prompt(self, facts: Metadata) -> tuple[str, ...]:
        """Return the metrics, macro ones aside, that an image of this prompt counts for."""
        raise MissingMemberError(self, "counts_for")

    def evaluate(
        self, sights: Sequence[AnnotatedImage], rules: str, lenient: bool
    ) -> EvaluatorOutput:
        """Return the measurements under these rules; a metric with a failed or unread image is None
        unless `lenient`.
        """
        raise MissingMemberError(self, "assess")


def load_evaluator(name: str) -> Evaluator:
    """Return the evaluator of that name.

    Raises:
        UnknownName: No such evaluator. PluginError: It is not derived from Evaluator. BenchError:
            It does not load.
    """
    return registry.load_plugin("evaluators", name, Evaluator)


def load_feature_evaluator(name: str) -> FeatureEvaluator:
    """Return the evaluator on features of that name; errors as `load_evaluator`, and OptionError
    for another kind.
    """
    message = (
        f"evaluator {name} scores annotations of prompts, not features; choose an evaluator on"
        " features"
    )
    return registry.require_kind(load_evaluator(name), FeatureEvaluator, message)


def load_annotation_evaluator(name: str) -> AnnotationEvaluator:
    """Return the evaluator on annotations of that name; errors as `load_evaluator`, and OptionError
    for another kind.
    """
    message = (
        f"evaluator {name} scores features, not annotations of prompts; choose an evaluator of"
        " prompts"
    )
    return registry.require_kind(load_evaluator(name), AnnotationEvaluator, message)
