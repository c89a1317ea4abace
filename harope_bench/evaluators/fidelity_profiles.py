"""Profiles of the fidelity evaluator: their metrics, the programs they follow, and their parity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from harope_bench.core.schema import Metric
from harope_bench.metrics.float16_neighbours import float16_balls
from harope_bench.metrics.neighbours import Balls, neighbour_balls

# Per Frechet distance: array of the features, and names of the reference's mean and covariance.
FRECHET_KEYS: Mapping[str, tuple[str, str, str]] = {
    "fid": ("features", "mu", "sigma"),
    "sfid": ("spatial", "mu_s", "sigma_s"),
    "fd-dinov2": ("features", "mu", "sigma"),
}

METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            name="fid", title="FID", direction="lower", unit="squared feature distance", decimals=2
        ),
        Metric(
            name="sfid",
            title="sFID",
            direction="lower",
            unit="squared feature distance",
            decimals=2,
        ),
        Metric(
            name="is",
            title="Inception Score",
            direction="higher",
            unit="effective classes",
            decimals=2,
        ),
        Metric(
            name="precision", title="Precision", direction="higher", unit="fraction", decimals=2
        ),
        Metric(name="recall", title="Recall", direction="higher", unit="fraction", decimals=2),
        Metric(
            name="kid",
            title="KID",
            direction="lower",
            unit="squared kernel discrepancy",
            decimals=5,
        ),
        Metric(
            name="kid-subsets",
            title="KID (100 x 1000)",
            direction="lower",
            unit="squared kernel discrepancy",
            decimals=5,
        ),
        Metric(
            name="fd-dinov2",
            title="FD-DINOv2",
            direction="lower",
            unit="squared feature distance",
            decimals=2,
        ),
        Metric(
            name="cmmd",
            title="CMMD",
            direction="lower",
            unit="squared kernel discrepancy x 1,000",
            decimals=3,
        ),
    )
}


class Profile(NamedTuple):
    """The metrics of one published program and the formulas in which it differs from the others.

    Attributes:
        metrics: names of the metrics.
        parity: what the implementation was compared with, as text.
        balls: finds the samples inside balls of reference images, and the reverse.
        distance_dtype: data type in which distances between rows are computed.
        has_shuffled_splits: whether the Inception Score is computed over ten shuffled splits
            instead of consecutive blocks of 5,000 images.
    """

    metrics: tuple[str, ...]
    parity: str
    balls: Callable[[np.ndarray, np.ndarray], Balls] = neighbour_balls
    distance_dtype: str = "float64"
    has_shuffled_splits: bool = False


PARITY_TEXT = (
    "tests/evaluators/test_fidelity.py compares FID with scipy sqrtm and torch-fidelity 0.4 (1e-9"
    " relative), IS with torch-fidelity in the same blocks (1e-12 relative), and precision and"
    " recall with torch-fidelity and with full distance matrices (every image equal)"
)
ADM = ("fid", "sfid", "is", "precision", "recall")
PROFILES = {
    "adm": Profile(
        ADM,
        "formulas of openai/guided-diffusion:evaluations/evaluator.py, which the tests do not run;"
        f" {PARITY_TEXT}, except for the distances, which imitate ADM's float16 blocks"
        " (tests/metrics/test_metrics_half.py); TensorFlow may round the norm of a row differently"
        " in the last digit",
        float16_balls,
        "float16 (float32 where that overflows)",
    ),
    "adm-exact": Profile(
        ADM,
        "formulas of openai/guided-diffusion:evaluations/evaluator.py, which the tests do not run;"
        f" {PARITY_TEXT}; distances are float64, where ADM's float16 gives about 0.001 more"
        " precision and 0.002 more recall",
    ),
    "torch-fidelity": Profile(
        ("fid", "is", "kid-subsets", "kid", "precision", "recall"),
        "toshas/torch-fidelity 0.4 on the same features, compared in"
        " tests/evaluators/test_profiles.py: FID, IS (10 splits shuffled by 2020), KID over 100"
        " subsets of 1,000 (seed 2020), precision and recall over all pairs; `kid` is the full"
        " U-statistic that the subsets estimate",
        has_shuffled_splits=True,
    ),
    "clean": Profile(
        ("fid", "kid"),
        "GaParmar/clean-fid 0.1.35, whose distance is compared in"
        " tests/evaluators/test_profiles.py (1e-9 relative); KID is the full U-statistic, where"
        " clean-fid uses unseeded subsets; the judge does the resizing",
    ),
    "fd-dinov2": Profile(
        ("fd-dinov2",),
        "the distance of layer6ai-labs/dgm-eval, by FID's formula; the judge computes the features,"
        " which are not compared",
    ),
    "cmmd": Profile(
        ("cmmd",),
        "google-research/google-research:cmmd/distance.py in float64; the judge computes the"
        " embeddings, which are not compared",
    ),
}
