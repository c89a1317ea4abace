"""Evaluator top1: top-1 and top-5 accuracy of a classifier."""

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
    """Accuracy over all images that could be read; of equal logits the lower class ranks first."""

    version = 1
    profile = "single-crop"
    rules = ("official",)
    parity = (
        "a count of equal integers; tests/evaluators/test_top1.py compares it with sklearn's"
        " top_k_accuracy_score and with Wilson's formula"
    )
    metrics = METRICS

    def evaluate(self, features: Features, reference: Mapping[str, np.ndarray]) -> EvaluatorOutput:
        """Return both accuracies in percent with Wilson intervals.

        Failed images are counted, but are in neither accuracy.

        Args:
            features: labels (N,) and array `ranked_classes` (N, K) of integers, the likeliest
                class first, K at most 5.
            reference: not read; the predictions are compared with the labels.

        Returns:
            Per sample `top1` and `top5` (N,) int8: 100 if the label is among the first K classes,
            else 0.

        Raises:
            ShapeError: Labels or `ranked_classes` are missing, or their shapes do not fit.
        """
        ranked_classes, labels = _validate_predictions(features)
        hits = {name: _hits(ranked_classes, labels, k) for name, k in TOP_K.items()}
        measurements = tuple(
            _measurement(metric.name, hits[metric.name], features.failed) for metric in METRICS
        )

        warnings: tuple[str, ...] = ()
        if features.failed:
            n_requested = len(labels) + features.failed
            warnings = (
                (
                    f"top1: {features.failed:,} of {n_requested:,} images failed; accuracy is over"
                    f" the other {len(labels):,}"
                ),
            )
        return EvaluatorOutput(measurements, {"indices": features.indices, **hits}, warnings)


def _validate_predictions(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Return ranked classes (N, K) and labels (N,).

    Raises:
        ShapeError: One of them is missing, or their shapes do not fit.
    """
    ranked_classes = features.arrays.get("ranked_classes")
    labels = features.labels
    if (
        ranked_classes is None
        or labels is None
        or ranked_classes.ndim != 2
        or not len(ranked_classes) == len(labels) == len(features.indices)
    ):
        shape = None if ranked_classes is None else ranked_classes.shape
        raise ShapeError(
            f"top1 needs a label and ranked classes of each of {len(features.indices)} images,"
            f" found {shape}; classify them again"
        )
    return ranked_classes, labels


def _hits(ranked_classes: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Return 100 for each label among the first k classes, else 0; (N,) int8."""
    is_hit = (ranked_classes[:, :k] == labels[:, None]).any(1)  # (N,)
    return (PERCENT * is_hit).astype(np.int8)


def _measurement(metric: str, hits: np.ndarray, failed: int) -> Measurement:
    """Return an accuracy in percent from hits (N,) of 0 or 100, with its Wilson interval."""
    counts = {"n_asked": len(hits) + failed, "n_scored": len(hits), "n_failed": failed}
    if not len(hits):
        return Measurement(
            metric=metric, name=metric, value=None, reason="no image could be read", **counts
        )
    n_hits = int((hits > 0).sum())
    value = PERCENT * n_hits / len(hits)
    interval = wilson_interval(n_hits, len(hits))

    # At 0 and at 100% the bound equals the value, up to rounding.
    low = min(PERCENT * interval.low, value)
    high = max(PERCENT * interval.high, value)
    return Measurement(
        metric=metric,
        name=metric,
        value=value,
        se=PERCENT * interval.se,
        low=low,
        high=high,
        interval="Wilson",
        **counts,
    )


PLUGIN = Top1Evaluator()
