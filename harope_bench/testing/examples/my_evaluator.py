"""Evaluator my-evaluator: distance of the mean feature from that of the reference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harope_bench.core.schema import Measurement, Metric
from harope_bench.evaluators.base import EvaluatorOutput, FeatureEvaluator, Features
from harope_bench.statistics.significance import normal_interval, standard_error

METRIC = "mean-distance"


class MyEvaluator(FeatureEvaluator):
    """|m - mu|, with the mean m of the images' features and the mean mu of the reference's.

    It reads the array `features`, which most feature extractors give, and `mu`, which every
    reference has.
    """

    version = 1  # raise it where a value or an interval changes
    profile = "mean-distance"  # the published program that is reproduced, or a name of your own
    parity = "none: the formula is its own definition"
    metrics = (
        Metric(name=METRIC, title="Mean distance", direction="lower", unit="none", decimals=3),
    )

    def evaluate(self, features: Features, reference: Mapping[str, np.ndarray]) -> EvaluatorOutput:
        """Return the distance, with the contribution of every image for paired tests."""
        rows = features.arrays["features"].astype(np.float64)  # (N, D)
        n_images = len(rows)
        counts = {"n_asked": n_images + features.failed, "n_failed": features.failed}
        name = f"{METRIC}-{n_images}"
        if n_images < 2:
            reason = f"{n_images} images could be read, wanted 2 or more"
            measurement = Measurement(
                metric=METRIC, name=name, value=None, reason=reason, n_scored=n_images, **counts
            )
            return EvaluatorOutput((measurement,), {"indices": features.indices}, ())

        # The first-order contribution of image i: d + u (x_i - m), with u the direction of m - mu.
        mean = rows.mean(0)  # (D,)
        distance = float(np.linalg.norm(mean - reference["mu"]))
        direction = (mean - reference["mu"]) / max(distance, 1e-12)  # (D,)
        contributions = distance + (rows - mean) @ direction  # (N,), with the mean d

        interval = normal_interval(distance, standard_error(contributions))
        measurement = Measurement(
            metric=METRIC,
            name=name,
            value=distance,
            se=interval.se,
            low=interval.low,
            high=interval.high,
            interval="normal, first order",
            n_scored=n_images,
            **counts,
        )
        per_sample = {"indices": features.indices, METRIC: contributions}
        return EvaluatorOutput((measurement,), per_sample, ())


PLUGIN = MyEvaluator()
