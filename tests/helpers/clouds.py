"""Made-up features and logits, what an evaluator says of them, and balls by full distance
matrices.
"""

from __future__ import annotations

import math

import numpy as np

from harope_bench.core.schema import Measurement
from harope_bench.evaluators.base import EvaluatorOutput, Features
from harope_bench.metrics.moments import Moments


def cloud(seed: int, rows: int, width: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """Correlated Gaussian rows (rows, width) float32 whose mixing is the same for every seed."""
    mix = np.random.default_rng(99).normal(size=(width, width)) / math.sqrt(width) + np.eye(width)
    return (np.random.default_rng(seed).normal(size=(rows, width)) @ mix * scale + shift).astype(
        np.float32
    )


def make_features(features: np.ndarray, *, failed: int = 0, **arrays: np.ndarray) -> Features:
    return Features(np.arange(len(features)), None, {"features": features, **arrays}, failed)


def reference_of(features: np.ndarray, *, images: bool = True) -> dict[str, np.ndarray]:
    mean, covariance = Moments.from_rows(features).to_gaussian()
    return {"mu": mean, "sigma": covariance} | ({"features": features} if images else {})


def find_measurement(score: EvaluatorOutput, metric: str) -> Measurement:
    return next(m for m in score.measurements if m.metric == metric)


def value_of(score: EvaluatorOutput, metric: str) -> float:
    value = find_measurement(score, metric).value
    assert value is not None
    return value


def full_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    steps: np.ndarray = a.astype(np.float64)[:, None, :] - b.astype(np.float64)[None, :, :]
    return np.asarray((steps**2).sum(axis=2))


def slow_radii(rows: np.ndarray, k: int = 3) -> np.ndarray:
    distances = full_distances(rows, rows)
    return np.array([sorted(np.delete(distances[i], i))[k - 1] for i in range(len(rows))])


def slow_covered(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.asarray((full_distances(points, centres) <= slow_radii(centres)).any(axis=1))


def with_dead_columns(features: np.ndarray) -> np.ndarray:
    features = features.copy()
    features[:, ::3] = 0.25
    return features


def peaked_logits(labels: np.ndarray, classes: int, seed: int = 0, peak: float = 6.0) -> np.ndarray:
    """Logits that mostly point at the label."""
    logits = np.random.default_rng(seed).normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += peak
    return logits.astype(np.float32)
