"""What evaluators of prompts share: marks of images to measurements with errors clustered by
prompt, under both sets of rules.
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
    "its error is not known; an interval over prompts needs two of each task that do not all score"
    " alike"
)


class Counted(NamedTuple):
    """Images of a metric: asked and failed."""

    asked: int
    failed: int


class PromptEvaluator(AnnotationEvaluator):
    """Base of the evaluators of prompts; a subclass gives the facts of an AnnotationEvaluator and
    `mark`.

    macro: metrics that are the unweighted mean over tasks of the named metrics, each of which is
    one task's.
    """

    rules = ("official", "corrected")
    macro_metrics: Mapping[str, tuple[str, ...]] = {}

    def task(self, facts: Metadata) -> str:
        """Return the stratum of a prompt, known before any image of it is seen."""
        raise MissingMemberError(self, "task")

    def score_sample(self, facts: Metadata, seen: Annotations, rules: str) -> SampleScore:
        """Return what the rules say of one image."""
        raise MissingMemberError(self, "mark")

    def finalize_scores(
        self, sights: Sequence[AnnotatedImage], marks: Sequence[SampleScore | None], rules: str
    ) -> Sequence[SampleScore | None]:
        """Marks of all images once all are known: for rules that look beyond one image. None: the
        image does not count.
        """
        return marks

    def notes(
        self, sights: Sequence[AnnotatedImage], marks: Sequence[SampleScore | None], rules: str
    ) -> tuple[str, ...]:
        """Ceilings, floors and quirks that a reader must see beside these scores."""
        return ()

    def evaluate(
        self, sights: Sequence[AnnotatedImage], rules: str, lenient: bool
    ) -> EvaluatorOutput:
        """Every metric, its rows, and each metric to which the other rules give another value.

        per_sample: indices, prompts (N,), METRIC_tasks (N,) of macro metrics, and each metric (N,)
        with NaN where an image does not count;
        METRIC_total and METRIC_weight (N,) where images weigh differently.
        """
        marks = self._score_samples(sights, rules)
        others = self._score_samples(sights, OTHER_RULES[rules])
        tasks = np.array([self.task(s.metadata) for s in sights])
        arrays: dict[str, np.ndarray] = {
            "indices": np.array([s.index for s in sights], dtype=np.int64),
            "prompts": np.array([s.prompt_index for s in sights], dtype=np.int64),
        }
        numbers = np.unique(tasks, return_inverse=True)[1].astype(np.int64)
        arrays |= {f"{name}_tasks": numbers for name in self.macro_metrics}
        measurements = []
        warnings = list(self.notes(sights, marks, rules))
        differences: list[RuleDifference] = []
        for metric in self.metrics:
            rows = self._contributions(metric.name, sights, marks)
            arrays[metric.name] = rows
            arrays |= self._sums(metric.name, marks)
            measurements.append(self._measure(metric, sights, marks, rows, arrays, lenient))
            warnings += _unknown_error_warning(measurements[-1])
            by_rules = {
                rules: rows,
                OTHER_RULES[rules]: self._contributions(metric.name, sights, others),
            }
            differences += _rule_differences(
                metric, by_rules, self._macro_tasks(metric.name, tasks)
            )
        unread = sum(m.n_unread for m in marks if m)
        if unread:
            warnings.append(f"answers: {unread:,} that no rule can read")
        told = tuple(
            _sample_score_json(s, m, o, rules)
            for s, m, o in zip(sights, marks, others, strict=True)
        )
        return EvaluatorOutput(
            tuple(measurements), arrays, tuple(warnings), told, tuple(differences)
        )

    def _score_samples(
        self, sights: Sequence[AnnotatedImage], rules: str
    ) -> Sequence[SampleScore | None]:
        settled = self.finalize_scores(
            sights,
            [
                None if s.failure else self.score_sample(s.metadata, s.annotations, rules)
                for s in sights
            ],
            rules,
        )
        return [None if s.failure else mark for s, mark in zip(sights, settled, strict=True)]

    def _metric_score(self, metric: str, mark: SampleScore | None) -> WeightedScore | None:
        """What an image adds to a metric; of a macro metric, what it adds to its own task's."""
        if mark is None:
            return None
        names = self.macro_metrics.get(metric, (metric,))
        return next((mark.scores[name] for name in names if name in mark.scores), None)

    def _contributions(
        self, metric: str, sights: Sequence[AnnotatedImage], marks: Sequence[SampleScore | None]
    ) -> np.ndarray:
        """First-order contributions (N,) whose mean, for a macro metric the mean of whose task
        means, is the value.
        """
        return contributions(*self._totals_and_weights(metric, marks))

    def _totals_and_weights(
        self, metric: str, marks: Sequence[SampleScore | None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what each image adds to a metric, (N,) each; NaN where it does not count."""
        parts = [self._metric_score(metric, mark) for mark in marks]
        totals = np.array([math.nan if p is None else p.total for p in parts])
        weights = np.array([math.nan if p is None else p.weight for p in parts])
        return totals, weights

    def _sums(self, metric: str, marks: Sequence[SampleScore | None]) -> dict[str, np.ndarray]:
        """Return totals and weights of a metric whose images weigh differently; the others'
        contributions are their totals.
        """
        totals, weights = self._totals_and_weights(metric, marks)
        if (weights[np.isfinite(weights)] == 1).all():
            return {}
        return {f"{metric}_total": totals, f"{metric}_weight": weights}

    def _macro_tasks(self, metric: str, tasks: np.ndarray) -> np.ndarray | None:
        return tasks if metric in self.macro_metrics else None

    def _measure(
        self,
        metric: Metric,
        sights: Sequence[AnnotatedImage],
        marks: Sequence[SampleScore | None],
        rows: np.ndarray,
        arrays: Mapping[str, np.ndarray],
        lenient: bool,
    ) -> Measurement:
        name = metric.name
        wanted = self.macro_metrics.get(metric.name, (metric.name,))
        own = [set(wanted) & set(self.metrics_of_prompt(s.metadata)) for s in sights]
        asked = sum(bool(o) for o in own)
        failed = sum(bool(o) and s.failure is not None for o, s in zip(own, sights, strict=True))
        scored = int(np.isfinite(rows).sum())
        unread = sum(m.n_unread for o, m in zip(own, marks, strict=True) if o and m)
        missing = [part for part in wanted if not any(part in o for o in own)]
        counts = {
            "n_asked": asked,
            "n_scored": scored,
            "n_failed": failed,
            "n_abstained": asked - scored - failed,
        }
        reason = _missing_value_reason(
            name, asked, failed, unread, missing if len(wanted) > 1 else [], lenient
        )
        if reason is None and not scored:
            reason = "no image counts for it"
        if reason is not None:
            return Measurement(metric=name, name=name, value=None, reason=reason, **counts)
        keep = np.isfinite(rows)
        tasks = arrays[f"{name}_tasks"][keep] if name in self.macro_metrics else None
        value, found, kind = clustered_value(
            rows[keep], arrays["prompts"][keep], tasks, metric.bounds
        )
        if found is None:
            return Measurement(metric=name, name=name, value=value, **counts)
        # prompts with fewer images pull the mean over prompts aside
        low = min(found.low, value)
        high = max(found.high, value)
        return Measurement(
            metric=name,
            name=name,
            value=value,
            se=found.se,
            low=low,
            high=high,
            interval=kind,
            **counts,
        )


def contributions(totals: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """R + (total - R weight) / mean weight of each image, R the ratio of the sums: they have R as
    their mean; NaN stays.
    """
    if not np.isfinite(totals).any() or np.nanmax(weights) == 0:
        return np.full(len(totals), math.nan)
    if (weights[np.isfinite(weights)] == 1).all():
        return totals
    ratio = np.nansum(totals) / np.nansum(weights)
    return np.asarray(ratio + (totals - ratio * weights) / np.nanmean(weights))


def mean_of_tasks(rows: np.ndarray, tasks: np.ndarray | None) -> float:
    """The mean over images, or of the tasks' means where tasks are given."""
    return (
        float(rows.mean())
        if tasks is None
        else float(np.mean([rows[tasks == t].mean() for t in np.unique(tasks)]))
    )


def clustered_value(
    rows: np.ndarray,
    prompts: np.ndarray,
    tasks: np.ndarray | None,
    bounds: tuple[float, float] | None,
) -> tuple[float, Interval | None, str | None]:
    """Return the value over images, its interval for new prompts, and what that interval is called.

    A metric with bounds has the score interval, another one Student's t. There is no interval where
    a
    task has one prompt, nor where all prompts score alike between the bounds: no spread was seen.
    """
    value = mean_of_tasks(rows, tasks)
    means = prompt_means(rows, prompts, tasks)
    try:
        if bounds is not None:
            return value, score_interval(means, bounds), SCORE_INTERVAL
        interval = clustered_mean(means).new_prompts_interval
    except TooFewImagesError:
        return value, None, None
    has_spread = interval.se > RELATIVE_TOLERANCE * np.abs(means.means).max()
    return value, interval if has_spread else None, T_INTERVAL


def _unknown_error_warning(found: Measurement) -> list[str]:
    """A line where a value stands without error."""
    if found.value is None or found.se is not None:
        return []
    return [f"{found.name}: {UNKNOWN_ERROR_TEXT}"]


def _missing_value_reason(
    metric: str, asked: int, failed: int, unread: int, missing: Sequence[str], lenient: bool
) -> str | None:
    if not asked:
        return "no prompt of this kind was asked for"
    if lenient:
        return None
    if missing:
        return f"no prompt of {', '.join(missing)} was asked for; --allow-missing averages the rest"
    if failed:
        return (
            f"{failed:,} of {asked:,} images have no answer; judge them again, or --allow-missing"
            " scores the rest"
        )
    return (
        f"{unread:,} answers cannot be read; --allow-missing leaves it to the rules what they"
        " count as"
        if unread
        else None
    )


def _rule_differences(
    metric: Metric, by_rules: Mapping[str, np.ndarray], tasks: np.ndarray | None
) -> list[RuleDifference]:
    """Return both values where the two sets of rules give different ones; by_rules: contributions
    (N,) under each set.
    """

    def value(rows: np.ndarray) -> float | None:
        counts = np.isfinite(rows)
        return (
            mean_of_tasks(rows[counts], None if tasks is None else tasks[counts])
            if counts.any()
            else None
        )

    official = value(by_rules["official"])
    corrected = value(by_rules["corrected"])
    if official == corrected:
        return []
    if (
        official is not None
        and corrected is not None
        and math.isclose(official, corrected, rel_tol=1e-12, abs_tol=1e-12)
    ):
        return []
    return [
        RuleDifference(
            metric=metric.name, official=official, corrected=corrected, decimals=metric.decimals + 1
        )
    ]


def _sample_score_json(
    sight: AnnotatedImage, mark: SampleScore | None, other: SampleScore | None, rules: str
) -> dict[str, object]:
    """One image as a row for people: verdict, reason, evidence, and the other rules' verdict where
    it differs.
    """
    row: dict[str, object] = {
        "index": sight.index,
        "prompt": sight.prompt_index,
        "copy": sight.copy,
        "text": sight.prompt,
    }
    if mark is None:
        return row | {
            "verdict": "failed" if sight.failure else "left out",
            "reason": sight.failure or "the rules leave it out",
        }
    row |= {
        "task": mark.task,
        "reason": mark.reason,
        "scores": {name: _score_value(part) for name, part in mark.scores.items()},
    }
    if not mark.scores:
        row["verdict"] = "unread"
    if mark.evidence:
        row["evidence"] = dict(mark.evidence)
    if other is not None and other.scores != mark.scores:
        row["other_rules"] = {
            "rules": OTHER_RULES[rules],
            "reason": other.reason,
            "scores": {n: _score_value(p) for n, p in other.scores.items()},
        }
    return row


def _score_value(part: WeightedScore) -> float:
    return part.total / part.weight if part.weight else part.total
