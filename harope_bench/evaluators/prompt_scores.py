"""What evaluators of prompts share: marks of images to measurements with errors clustered by prompt, under both sets of rules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import MissingMemberError, TooFewImages
from harope_bench.core.schema import Measurement, Metric, RuleDifference
from harope_bench.evaluators.base import AnnotationEvaluator, Facts, Mark, Part, Score, Seen, Sight
from harope_bench.statistics.intervals.clusters import SLACK, cluster_score, prompt_means, score_interval
from harope_bench.statistics.significance import Interval

OTHER = {"official": "corrected", "corrected": "official"}
SCORE_INTERVAL = "Wilson score, prompts as clusters"
T_INTERVAL = "Student's t, prompts as clusters"
ALONE = "its error is not known; an interval over prompts needs two of each task that do not all score alike"


class Counted(NamedTuple):
    """Images of a metric: asked and failed."""

    asked: int
    failed: int


class Prompts(AnnotationEvaluator):
    """Base of the evaluators of prompts; a subclass gives the facts of an AnnotationEvaluator and `mark`.

    macro: metrics that are the unweighted mean over tasks of the named metrics, each of which is one task's.
    """

    rules = ("official", "corrected")
    macro: Mapping[str, tuple[str, ...]] = {}

    def task(self, facts: Facts) -> str:
        """Return the stratum of a prompt, known before any image of it is seen."""
        raise MissingMemberError(self, "task")

    def mark(self, facts: Facts, seen: Seen, rules: str) -> Mark:
        """Return what the rules say of one image."""
        raise MissingMemberError(self, "mark")

    def settle(self, sights: Sequence[Sight], marks: Sequence[Mark | None], rules: str) -> Sequence[Mark | None]:
        """Marks of all images once all are known: for rules that look beyond one image. None: the image does not count."""
        return marks

    def notes(self, sights: Sequence[Sight], marks: Sequence[Mark | None], rules: str) -> tuple[str, ...]:
        """Ceilings, floors and quirks that a reader must see beside these scores."""
        return ()

    def assess(self, sights: Sequence[Sight], rules: str, lenient: bool) -> Score:
        """Every metric, its rows, and each metric to which the other rules give another value.

        per_sample: indices, prompts (N,), METRIC_tasks (N,) of macro metrics, and each metric (N,) with NaN where an image does not count;
        METRIC_total and METRIC_weight (N,) where images weigh differently.
        """
        marks, others = self._marks(sights, rules), self._marks(sights, OTHER[rules])
        tasks = np.array([self.task(s.facts) for s in sights])
        arrays: dict[str, np.ndarray] = {
            "indices": np.array([s.index for s in sights], dtype=np.int64),
            "prompts": np.array([s.prompt for s in sights], dtype=np.int64),
        }
        numbers = np.unique(tasks, return_inverse=True)[1].astype(np.int64)
        arrays |= {f"{name}_tasks": numbers for name in self.macro}
        measurements, warnings = [], list(self.notes(sights, marks, rules))
        differences: list[RuleDifference] = []
        for metric in self.metrics:
            rows = self._rows(metric.name, sights, marks)
            arrays[metric.name] = rows
            arrays |= self._sums(metric.name, marks)
            measurements.append(self._measured(metric, sights, marks, rows, arrays, lenient))
            warnings += _without_error(measurements[-1])
            by_rules = {rules: rows, OTHER[rules]: self._rows(metric.name, sights, others)}
            differences += _differing(metric, by_rules, self._macro_tasks(metric.name, tasks))
        unread = sum(m.unknown for m in marks if m)
        if unread:
            warnings.append(f"answers: {unread:,} that no rule can read")
        told = tuple(_told(s, m, o, rules) for s, m, o in zip(sights, marks, others, strict=True))
        return Score(tuple(measurements), arrays, tuple(warnings), told, tuple(differences))

    def _marks(self, sights: Sequence[Sight], rules: str) -> Sequence[Mark | None]:
        settled = self.settle(sights, [None if s.fault else self.mark(s.facts, s.seen, rules) for s in sights], rules)
        return [None if s.fault else mark for s, mark in zip(sights, settled, strict=True)]

    def _parts(self, metric: str, mark: Mark | None) -> Part | None:
        """What an image adds to a metric; of a macro metric, what it adds to its own task's."""
        if mark is None:
            return None
        names = self.macro.get(metric, (metric,))
        return next((mark.parts[name] for name in names if name in mark.parts), None)

    def _rows(self, metric: str, sights: Sequence[Sight], marks: Sequence[Mark | None]) -> np.ndarray:
        """First-order contributions (N,) whose mean, for a macro metric the mean of whose task means, is the value."""
        return contributions(*self._totals_and_weights(metric, marks))

    def _totals_and_weights(self, metric: str, marks: Sequence[Mark | None]) -> tuple[np.ndarray, np.ndarray]:
        """Return what each image adds to a metric, (N,) each; NaN where it does not count."""
        parts = [self._parts(metric, mark) for mark in marks]
        totals = np.array([math.nan if p is None else p.total for p in parts])
        weights = np.array([math.nan if p is None else p.weight for p in parts])
        return totals, weights

    def _sums(self, metric: str, marks: Sequence[Mark | None]) -> dict[str, np.ndarray]:
        """Return totals and weights of a metric whose images weigh differently; the others' contributions are their totals."""
        totals, weights = self._totals_and_weights(metric, marks)
        if (weights[np.isfinite(weights)] == 1).all():
            return {}
        return {f"{metric}_total": totals, f"{metric}_weight": weights}

    def _macro_tasks(self, metric: str, tasks: np.ndarray) -> np.ndarray | None:
        return tasks if metric in self.macro else None

    def _measured(
        self,
        metric: Metric,
        sights: Sequence[Sight],
        marks: Sequence[Mark | None],
        rows: np.ndarray,
        arrays: Mapping[str, np.ndarray],
        lenient: bool,
    ) -> Measurement:
        name, wanted = metric.name, self.macro.get(metric.name, (metric.name,))
        own = [set(wanted) & set(self.counts_for(s.facts)) for s in sights]
        asked = sum(bool(o) for o in own)
        failed = sum(bool(o) and s.fault is not None for o, s in zip(own, sights, strict=True))
        scored = int(np.isfinite(rows).sum())
        unread = sum(m.unknown for o, m in zip(own, marks, strict=True) if o and m)
        missing = [part for part in wanted if not any(part in o for o in own)]
        counts = {"n_asked": asked, "n_scored": scored, "n_failed": failed, "n_abstained": asked - scored - failed}
        reason = _why_not(name, asked, failed, unread, missing if len(wanted) > 1 else [], lenient)
        if reason is None and not scored:
            reason = "no image counts for it"
        if reason is not None:
            return Measurement(metric=name, name=name, value=None, reason=reason, **counts)
        keep = np.isfinite(rows)
        tasks = arrays[f"{name}_tasks"][keep] if name in self.macro else None
        value, found, kind = clustered(rows[keep], arrays["prompts"][keep], tasks, metric.bounds)
        if found is None:
            return Measurement(metric=name, name=name, value=value, **counts)
        low, high = min(found.low, value), max(found.high, value)  # prompts with fewer images pull the mean over prompts aside
        return Measurement(metric=name, name=name, value=value, se=found.se, low=low, high=high, interval=kind, **counts)


def contributions(totals: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """R + (total - R weight) / mean weight of each image, R the ratio of the sums: they have R as their mean; NaN stays."""
    if not np.isfinite(totals).any() or np.nanmax(weights) == 0:
        return np.full(len(totals), math.nan)
    if (weights[np.isfinite(weights)] == 1).all():
        return totals
    ratio = np.nansum(totals) / np.nansum(weights)
    return np.asarray(ratio + (totals - ratio * weights) / np.nanmean(weights))


def average(rows: np.ndarray, tasks: np.ndarray | None) -> float:
    """The mean over images, or of the tasks' means where tasks are given."""
    return float(rows.mean()) if tasks is None else float(np.mean([rows[tasks == t].mean() for t in np.unique(tasks)]))


def clustered(
    rows: np.ndarray, prompts: np.ndarray, tasks: np.ndarray | None, bounds: tuple[float, float] | None
) -> tuple[float, Interval | None, str | None]:
    """Return the value over images, its interval for new prompts, and what that interval is called.

    A metric with bounds has the score interval, another one Student's t. There is no interval where a
    task has one prompt, nor where all prompts score alike between the bounds: no spread was seen.
    """
    value, means = average(rows, tasks), prompt_means(rows, prompts, tasks)
    try:
        if bounds is not None:
            return value, score_interval(means, bounds), SCORE_INTERVAL
        interval = cluster_score(means).new_prompts
    except TooFewImages:
        return value, None, None
    has_spread = interval.se > SLACK * np.abs(means.means).max()
    return value, interval if has_spread else None, T_INTERVAL


def _without_error(found: Measurement) -> list[str]:
    """A line where a value stands without error."""
    if found.value is None or found.se is not None:
        return []
    return [f"{found.name}: {ALONE}"]


def _why_not(metric: str, asked: int, failed: int, unread: int, missing: Sequence[str], lenient: bool) -> str | None:
    if not asked:
        return "no prompt of this kind was asked for"
    if lenient:
        return None
    if missing:
        return f"no prompt of {', '.join(missing)} was asked for; --allow-missing averages the rest"
    if failed:
        return f"{failed:,} of {asked:,} images have no answer; judge them again, or --allow-missing scores the rest"
    return f"{unread:,} answers cannot be read; --allow-missing leaves it to the rules what they count as" if unread else None


def _differing(metric: Metric, by_rules: Mapping[str, np.ndarray], tasks: np.ndarray | None) -> list[RuleDifference]:
    """Return both values where the two sets of rules give different ones; by_rules: contributions (N,) under each set."""

    def value(rows: np.ndarray) -> float | None:
        counts = np.isfinite(rows)
        return average(rows[counts], None if tasks is None else tasks[counts]) if counts.any() else None

    official, corrected = value(by_rules["official"]), value(by_rules["corrected"])
    if official == corrected:
        return []
    if official is not None and corrected is not None and math.isclose(official, corrected, rel_tol=1e-12, abs_tol=1e-12):
        return []
    return [RuleDifference(metric=metric.name, official=official, corrected=corrected, decimals=metric.decimals + 1)]


def _told(sight: Sight, mark: Mark | None, other: Mark | None, rules: str) -> dict[str, object]:
    """One image as a row for people: verdict, reason, evidence, and the other rules' verdict where it differs."""
    row: dict[str, object] = {"index": sight.index, "prompt": sight.prompt, "copy": sight.copy, "text": sight.text}
    if mark is None:
        return row | {"verdict": "failed" if sight.fault else "left out", "reason": sight.fault or "the rules leave it out"}
    row |= {"task": mark.task, "reason": mark.reason, "scores": {name: _share(part) for name, part in mark.parts.items()}}
    if not mark.parts:
        row["verdict"] = "unread"
    if mark.evidence:
        row["evidence"] = dict(mark.evidence)
    if other is not None and other.parts != mark.parts:
        row["other_rules"] = {"rules": OTHER[rules], "reason": other.reason, "scores": {n: _share(p) for n, p in other.parts.items()}}
    return row


def _share(part: Part) -> float:
    return part.total / part.weight if part.weight else part.total
