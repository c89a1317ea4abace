"""Base class of the evaluators of prompts: from scores of images to measurements.

Prompts are clusters in all intervals. Every metric is computed under both sets of rules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import MissingMemberError, TooFewImagesError
from harope_bench.core.schema import Measurement, Metric, RuleDifference
from harope_bench.evaluators.base import (
    AnnotatedImage,
    AnnotationEvaluator,
    Annotations,
    EvaluatorOutput,
    Metadata,
    SampleScore,
    WeightedScore,
)
from harope_bench.statistics.intervals.clusters import (
    RELATIVE_TOLERANCE,
    clustered_mean,
    prompt_means,
    score_interval,
)
from harope_bench.statistics.significance import Interval

OTHER_RULES = {"official": "corrected", "corrected": "official"}
SCORE_INTERVAL = "Wilson score, prompts as clusters"
T_INTERVAL = "Student's t, prompts as clusters"
UNKNOWN_ERROR_TEXT = (
    "its error is not known; an interval over prompts needs two prompts of each task that do not"
    " all score alike"
)


class MetricCounts(NamedTuple):
    """Numbers of images behind a metric.

    Attributes:
        n_requested: images whose prompt counts for the metric.
        n_scored: images with a score.
        n_failed: images without annotations.
        n_unread: annotations that no rule can interpret.
        missing_tasks: of a macro metric, the tasks of which no prompt was requested.
    """

    n_requested: int
    n_scored: int
    n_failed: int
    n_unread: int
    missing_tasks: tuple[str, ...]


class PromptEvaluator(AnnotationEvaluator):
    """Base class of the evaluators of prompts.

    A subclass declares the attributes of an AnnotationEvaluator and defines `task` and
    `score_sample`.
    """

    rules = ("official", "corrected")
    # Metrics that are the unweighted mean of the named metrics, each the metric of one task.
    macro_metrics: Mapping[str, tuple[str, ...]] = {}

    def task(self, metadata: Metadata) -> str:
        """Return the stratum of a prompt, which does not depend on any image."""
        raise MissingMemberError(self, "task")

    def score_sample(self, metadata: Metadata, annotations: Annotations, rules: str) -> SampleScore:
        """Return the score of one image under a set of rules."""
        raise MissingMemberError(self, "score_sample")

    def finalize_scores(
        self,
        annotated_images: Sequence[AnnotatedImage],
        sample_scores: Sequence[SampleScore | None],
        rules: str,
    ) -> Sequence[SampleScore | None]:
        """Return the final scores of all images, in the same order.

        A subclass overrides this for rules in which the score of an image depends on other images.
        By default the scores are returned unchanged. In the input and in the output, None stands
        for an image that is excluded from the metrics.
        """
        return sample_scores

    def notes(
        self,
        annotated_images: Sequence[AnnotatedImage],
        sample_scores: Sequence[SampleScore | None],
        rules: str,
    ) -> tuple[str, ...]:
        """Return sentences on ceilings, floors and quirks that a reader of the scores must know."""
        return ()

    def evaluate(
        self, annotated_images: Sequence[AnnotatedImage], rules: str, is_lenient: bool
    ) -> EvaluatorOutput:
        """Return every metric, and each metric to which the other set of rules gives another value.

        Returns:
            per_sample holds `indices` (N,), `prompts` (N,), `METRIC_tasks` (N,) of macro metrics,
            and each metric (N,) with NaN for images that do not count. Where images have unequal
            weights it also holds `METRIC_total` and `METRIC_weight` (N,).
        """
        sample_scores = self._score_samples(annotated_images, rules)
        other_scores = self._score_samples(annotated_images, OTHER_RULES[rules])
        arrays = self._pairing_arrays(annotated_images)

        # Value, interval and difference between the rules of each metric
        measurements = []
        warnings = list(self.notes(annotated_images, sample_scores, rules))
        differences: list[RuleDifference] = []
        for metric in self.metrics:
            values = self._contributions(metric.name, sample_scores)
            arrays[metric.name] = values
            arrays |= self._sums(metric.name, sample_scores)
            measurement = self._measure(metric, annotated_images, sample_scores, arrays, is_lenient)
            measurements.append(measurement)
            warnings += _unknown_error_warning(measurement)
            values_by_rules = {
                rules: values,
                OTHER_RULES[rules]: self._contributions(metric.name, other_scores),
            }
            differences += _rule_differences(
                metric, values_by_rules, arrays.get(f"{metric.name}_tasks")
            )

        n_unread = sum(score.n_unread for score in sample_scores if score)
        if n_unread:
            warnings.append(f"annotations: {n_unread:,} cannot be read by the rules")
        rows = tuple(
            _sample_score_json(image, score, other_score, rules)
            for image, score, other_score in zip(
                annotated_images, sample_scores, other_scores, strict=True
            )
        )
        return EvaluatorOutput(
            tuple(measurements), arrays, tuple(warnings), rows, tuple(differences)
        )

    def _pairing_arrays(self, annotated_images: Sequence[AnnotatedImage]) -> dict[str, np.ndarray]:
        """Return the arrays (N,) by which the samples of two runs are paired.

        Tasks are numbered in the order of their sorted names.
        """
        arrays = {
            "indices": np.array([image.index for image in annotated_images], dtype=np.int64),
            "prompts": np.array([image.prompt_index for image in annotated_images], dtype=np.int64),
        }
        tasks = np.array([self.task(image.metadata) for image in annotated_images])
        task_numbers = np.unique(tasks, return_inverse=True)[1].astype(np.int64)
        return arrays | {f"{name}_tasks": task_numbers for name in self.macro_metrics}

    def _score_samples(
        self, annotated_images: Sequence[AnnotatedImage], rules: str
    ) -> Sequence[SampleScore | None]:
        """Return the final score of each image, None for failed and excluded ones."""
        first_scores = [
            None if image.failure else self.score_sample(image.metadata, image.annotations, rules)
            for image in annotated_images
        ]
        final_scores = self.finalize_scores(annotated_images, first_scores, rules)
        return [
            None if image.failure else score
            for image, score in zip(annotated_images, final_scores, strict=True)
        ]

    def _metric_score(self, metric: str, sample_score: SampleScore | None) -> WeightedScore | None:
        """Return the score of an image in a metric; in a macro metric, the score in its task's."""
        if sample_score is None:
            return None
        for name in self.macro_metrics.get(metric, (metric,)):
            if name in sample_score.scores:
                return sample_score.scores[name]
        return None

    def _contributions(
        self, metric: str, sample_scores: Sequence[SampleScore | None]
    ) -> np.ndarray:
        """Return the first-order contributions (N,), whose mean is the metric.

        The mean of the tasks' means is a macro metric.
        """
        return contributions(*self._totals_and_weights(metric, sample_scores))

    def _totals_and_weights(
        self, metric: str, sample_scores: Sequence[SampleScore | None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return total and weight of each image in a metric, (N,) each; NaN if it is excluded."""
        weighted_scores = [self._metric_score(metric, score) for score in sample_scores]
        totals = np.array([math.nan if s is None else s.total for s in weighted_scores])
        weights = np.array([math.nan if s is None else s.weight for s in weighted_scores])
        return totals, weights

    def _sums(
        self, metric: str, sample_scores: Sequence[SampleScore | None]
    ) -> dict[str, np.ndarray]:
        """Return the arrays of totals and weights of a metric whose images have unequal weights.

        With equal weights the contributions are the totals, and the result is empty.
        """
        totals, weights = self._totals_and_weights(metric, sample_scores)
        if (weights[np.isfinite(weights)] == 1).all():
            return {}
        return {f"{metric}_total": totals, f"{metric}_weight": weights}

    def _count_images(
        self,
        metric: str,
        annotated_images: Sequence[AnnotatedImage],
        sample_scores: Sequence[SampleScore | None],
        values: np.ndarray,
    ) -> MetricCounts:
        """Return how many images were requested, scored, failed and unread for a metric."""
        names = self.macro_metrics.get(metric, (metric,))
        names_of_images = [
            set(names) & set(self.metrics_of_prompt(image.metadata)) for image in annotated_images
        ]
        missing_tasks = [
            name for name in names if not any(name in image for image in names_of_images)
        ]

        n_requested = 0
        n_failed = 0
        n_unread = 0
        for image_names, image, score in zip(
            names_of_images, annotated_images, sample_scores, strict=True
        ):
            if not image_names:
                continue
            n_requested += 1
            n_failed += image.failure is not None
            n_unread += score.n_unread if score else 0
        return MetricCounts(
            n_requested,
            int(np.isfinite(values).sum()),
            n_failed,
            n_unread,
            tuple(missing_tasks) if len(names) > 1 else (),
        )

    def _measure(
        self,
        metric: Metric,
        annotated_images: Sequence[AnnotatedImage],
        sample_scores: Sequence[SampleScore | None],
        arrays: Mapping[str, np.ndarray],
        is_lenient: bool,
    ) -> Measurement:
        """Return the measurement of a metric, None with a reason if it cannot be computed."""
        name = metric.name
        values = arrays[name]
        counts = self._count_images(name, annotated_images, sample_scores, values)
        count_fields = {
            "n_asked": counts.n_requested,
            "n_scored": counts.n_scored,
            "n_failed": counts.n_failed,
            "n_abstained": counts.n_requested - counts.n_scored - counts.n_failed,
        }
        reason = _missing_value_reason(counts, is_lenient)
        if reason is not None:
            return Measurement(metric=name, name=name, value=None, reason=reason, **count_fields)

        is_counted = np.isfinite(values)
        tasks = arrays[f"{name}_tasks"][is_counted] if name in self.macro_metrics else None
        value, interval, interval_name = clustered_value(
            values[is_counted], arrays["prompts"][is_counted], tasks, metric.bounds
        )
        if interval is None:
            return Measurement(metric=name, name=name, value=value, **count_fields)

        # The interval is around the mean over prompts, which unequal numbers of images move away
        # from the mean over images.
        low = min(interval.low, value)
        high = max(interval.high, value)
        return Measurement(
            metric=name,
            name=name,
            value=value,
            se=interval.se,
            low=low,
            high=high,
            interval=interval_name,
            **count_fields,
        )


def contributions(totals: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the first-order contributions of images (N,) to a ratio of sums; NaN stays NaN.

    With R = sum(total) / sum(weight) an image contributes R + (total - R weight) / mean(weight).
    The mean of the contributions is R.
    """
    if not np.isfinite(totals).any() or np.nanmax(weights) == 0:
        return np.full(len(totals), math.nan)
    if (weights[np.isfinite(weights)] == 1).all():
        return totals
    ratio = np.nansum(totals) / np.nansum(weights)
    return np.asarray(ratio + (totals - ratio * weights) / np.nanmean(weights))


def mean_of_tasks(values: np.ndarray, tasks: np.ndarray | None) -> float:
    """Return the mean of the tasks' means of values (N,); without tasks, the mean of the values."""
    if tasks is None:
        return float(values.mean())
    task_means = [values[tasks == task].mean() for task in np.unique(tasks)]
    return float(np.mean(task_means))


def clustered_value(
    values: np.ndarray,
    prompts: np.ndarray,
    tasks: np.ndarray | None,
    bounds: tuple[float, float] | None,
) -> tuple[float, Interval | None, str | None]:
    """Return the mean over images, its interval for new prompts, and the interval's name.

    A metric with bounds gets the score interval, another one Student's t. There is no interval if
    a task has one prompt, or if all prompts score alike between the bounds, because neither shows
    a variance.
    """
    value = mean_of_tasks(values, tasks)
    means = prompt_means(values, prompts, tasks)
    try:
        if bounds is not None:
            return value, score_interval(means, bounds), SCORE_INTERVAL
        interval = clustered_mean(means).new_prompts_interval
    except TooFewImagesError:
        return value, None, None
    has_variance = interval.se > RELATIVE_TOLERANCE * np.abs(means.means).max()
    return value, interval if has_variance else None, T_INTERVAL


def _unknown_error_warning(measurement: Measurement) -> list[str]:
    """Return a warning if the measurement has a value without a standard error."""
    if measurement.value is None or measurement.se is not None:
        return []
    return [f"{measurement.name}: {UNKNOWN_ERROR_TEXT}"]


def _missing_value_reason(counts: MetricCounts, is_lenient: bool) -> str | None:
    """Return why a metric has no value; None if it has one."""
    if not counts.n_requested:
        return "no prompt of this kind was requested"
    if not is_lenient and counts.missing_tasks:
        return (
            f"no prompt of {', '.join(counts.missing_tasks)} was requested; --allow-missing"
            " averages the rest"
        )
    if not is_lenient and counts.n_failed:
        return (
            f"{counts.n_failed:,} of {counts.n_requested:,} images have no annotations; annotate"
            " them again, or --allow-missing scores the rest"
        )
    if not is_lenient and counts.n_unread:
        return (
            f"{counts.n_unread:,} annotations cannot be read by the rules; --allow-missing lets the"
            " rules decide what they count as"
        )
    if not counts.n_scored:
        return "no image counts for it"
    return None


def _rule_differences(
    metric: Metric, values_by_rules: Mapping[str, np.ndarray], tasks: np.ndarray | None
) -> list[RuleDifference]:
    """Return the metric's values under both sets of rules if they differ, else an empty list.

    Args:
        metric: the metric.
        values_by_rules: contributions (N,) under each set of rules.
        tasks: task of each image, (N,), of a macro metric; else None.
    """
    official_value = _finite_mean(values_by_rules["official"], tasks)
    corrected_value = _finite_mean(values_by_rules["corrected"], tasks)
    if official_value is None or corrected_value is None:
        is_equal = official_value is corrected_value
    else:
        # a relative difference below 1e-12 is rounding of sums
        is_equal = math.isclose(official_value, corrected_value, rel_tol=1e-12, abs_tol=1e-12)
    if is_equal:
        return []
    return [
        RuleDifference(
            metric=metric.name,
            official=official_value,
            corrected=corrected_value,
            decimals=metric.decimals + 1,
        )
    ]


def _finite_mean(values: np.ndarray, tasks: np.ndarray | None) -> float | None:
    """Return the mean, over tasks if there are any, of the finite values; None without values."""
    is_counted = np.isfinite(values)
    if not is_counted.any():
        return None
    return mean_of_tasks(values[is_counted], None if tasks is None else tasks[is_counted])


def _sample_score_json(
    image: AnnotatedImage,
    sample_score: SampleScore | None,
    other_score: SampleScore | None,
    rules: str,
) -> dict[str, object]:
    """Return the score of an image as JSON values: scores, reason and evidence.

    The score under the other set of rules is included if it differs.
    """
    row: dict[str, object] = {
        "index": image.index,
        "prompt_index": image.prompt_index,
        "copy": image.copy,
        "prompt": image.prompt,
    }
    if sample_score is None:
        return row | {
            "verdict": "failed" if image.failure else "excluded",
            "reason": image.failure or "the rules exclude it",
        }

    row |= {
        "task": sample_score.task,
        "reason": sample_score.reason,
        "scores": _score_values(sample_score),
    }
    if not sample_score.scores:
        row["verdict"] = "unread"
    if sample_score.evidence:
        row["evidence"] = dict(sample_score.evidence)
    if other_score is not None and other_score.scores != sample_score.scores:
        row["other_rules"] = {
            "rules": OTHER_RULES[rules],
            "reason": other_score.reason,
            "scores": _score_values(other_score),
        }
    return row


def _score_values(sample_score: SampleScore) -> dict[str, float]:
    """Return the score of an image in each metric, total divided by weight."""
    return {
        name: score.total / score.weight if score.weight else score.total
        for name, score in sample_score.scores.items()
    }
