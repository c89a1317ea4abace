"""The distance of attention by a plain sum over pairs, which the fast one is held to."""

from __future__ import annotations

import math

import numpy as np


def slow_distance(q: np.ndarray, k: np.ndarray, values: np.ndarray) -> float:
    """Return the mean attention distance of one head of one image, every pair by itself."""
    total = 0.0
    for i in range(len(q)):
        scores = [math.exp(float(q[i] @ k[j]) / math.sqrt(q.shape[1])) for j in range(len(k))]
        far_values = [math.dist(values[i], values[j]) for j in range(len(k))]
        total += sum(s * f for s, f in zip(scores, far_values, strict=True)) / sum(scores)
    return total / len(q)
