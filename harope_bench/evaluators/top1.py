"""Top-1 and top-5 accuracy of a classifier: how often its first answer, or one of its first five,
is the picture's label.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harope_bench.core.errors import ShapeError
from harope_bench.core.schema import Measurement, Metric
from harope_bench.evaluators.base import EvaluatorOutput, FeatureEvaluator, Features
from harope_bench.statistics.significance import wilson_interval

PERCENT = 100
METRICS = (
    Metric(name="top1", title="Top-1 accuracy", direction="higher", unit="percent", decimals=2),
    Metric(name="top5", title="Top-5 accuracy", direction="higher", unit="percent", decimals=2),
)
TOP_K = {"top1": 1, "top5": 5}


class Top1Evaluator(FeatureEvaluator):
    """Accuracy over all pictures that could be read; a tie of logits goes to the lower class."""

    version = 1
    profile = "single-crop"
    rules = ("official",)
    parity = (
        "a count of equal integers; tests/evaluators/test_top1.py holds it to sklearn's"
        " top_k_accuracy_score and to Wilson's formula"
    )
    metrics = METRICS

    def score(self, seen: Features, reference: Mapping[str, np.ndarray]) -> EvaluatorOutput:
        """Both accuracies in percent with Wilson intervals; a picture that failed counts for
        neither and is counted.

        Args:
            seen: labels (N,) and array `ranked` (N, K) integer classes, the most likely first, K at
                most 5.
            reference: not used; the labels are what the answers are held to.

        Returns:
            Per sample `top1` and `top5` (N,) int8: 100 where the label is among the first answers,
            else 0.

        Raises:
            ShapeError: labels or `ranked` are missing or do not fit together.
        """
        ranked, labels = _check_predictions(seen)
        rows = {name: _hits(ranked, labels, depth) for name, depth in TOP_K.items()}
        measurements = tuple(
            _measurement(metric.name, rows[metric.name], seen.failed) for metric in METRICS
        )
        total = len(labels) + seen.failed
        told = (
            f"top1: {seen.failed:,} of {total:,} pictures failed; accuracy is over the other"
            f" {len(labels):,}"
        )
        return EvaluatorOutput(
            measurements, {"indices": seen.indices, **rows}, (told,) if seen.failed else ()
        )


def _check_predictions(seen: Features) -> tuple[np.ndarray, np.ndarray]:
    ranked = seen.arrays.get("ranked")
    if (
        ranked is None
        or seen.labels is None
        or ranked.ndim != 2
        or not len(ranked) == len(seen.labels) == len(seen.indices)
    ):
        found = None if ranked is None else ranked.shape
        raise ShapeError(
            f"top1 needs a label and ranked classes of each of {len(seen.indices)} pictures, found"
            f" {found}; read them again"
        )
    return ranked, seen.labels


def _hits(ranked: np.ndarray, labels: np.ndarray, depth: int) -> np.ndarray:
    """100 where the label is among the first `depth` answers, else 0; (N,) int8."""
    return (PERCENT * (ranked[:, :depth] == labels[:, None]).any(1)).astype(np.int8)


def _measurement(metric: str, rows: np.ndarray, failed: int) -> Measurement:
    counts = {"n_asked": len(rows) + failed, "n_scored": len(rows), "n_failed": failed}
    if not len(rows):
        return Measurement(
            metric=metric, name=metric, value=None, reason="no picture could be read", **counts
        )
    hits = int((rows > 0).sum())
    error = wilson_interval(hits, len(rows))
    return Measurement(
        metric=metric,
        name=metric,
        value=PERCENT * hits / len(rows),
        se=PERCENT * error.se,
        low=min(
            PERCENT * error.low, PERCENT * hits / len(rows)
        ),  # at 0 and at 100% the bound is the value, up to rounding
        high=max(PERCENT * error.high, PERCENT * hits / len(rows)),
        interval="Wilson",
        **counts,
    )


PLUGIN = Top1Evaluator()
