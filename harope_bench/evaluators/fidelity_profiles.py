"""What the profiles of image quality are: their metrics, whose formulas they follow, and how these
are held to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from harope_bench.core.schema import Metric
from harope_bench.metrics.float16_neighbours import float16_balls
from harope_bench.metrics.neighbours import Balls, neighbour_balls

# Of each Frechet distance: the judge's array, and the mean and covariance of the reference.
FRECHET_KEYS: Mapping[str, tuple[str, str, str]] = {
    "fid": ("features", "mu", "sigma"),
    "sfid": ("spatial", "mu_s", "sigma_s"),
    "fd-dinov2": ("features", "mu", "sigma"),
}

METRICS = {
    m.name: m
    for m in (
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
        Metric(name="precision", title="Precision", direction="higher", unit="fraction", decimals=2),
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
    """Which metrics, by which of the formulas that differ between programs, and against whom they
    are held.
    """

    metrics: tuple[str, ...]
    parity: str
    balls: Callable[[np.ndarray, np.ndarray], Balls] = neighbour_balls
    distance_dtype: str = "float64"  # in which distances between rows are computed
    has_shuffled_splits: bool = (
        False  # IS over ten shuffled splits in place of consecutive blocks of 5,000
    )


PARITY_TEXT = (
    "held in tests/evaluators/test_fidelity.py: FID to scipy sqrtm and torch-fidelity 0.4 (1e-9"
    " relative), IS to torch-fidelity in the same blocks (1e-12 relative), precision and recall to"
    " torch-fidelity and to full distance matrices (every image equal)"
)
ADM = ("fid", "sfid", "is", "precision", "recall")
PROFILES = {
    "adm": Profile(
        ADM,
        "formulas of openai/guided-diffusion:evaluations/evaluator.py, which the tests do not run;"
        f" {PARITY_TEXT}, but for the distances, which are ADM's float16 blocks imitated"
        " (tests/metrics/test_metrics_half.py); TensorFlow may round a row's norm one step"
        " otherwise",
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
        "toshas/torch-fidelity 0.4 on the same features, held in tests/evaluators/test_profiles.py:"
        " FID, IS (10 splits shuffled by 2020), KID over 100 subsets of 1,000 (seed 2020),"
        " precision and recall of all against all; `kid` is the full U-statistic that these"
        " estimate",
        has_shuffled_splits=True,
    ),
    "clean": Profile(
        ("fid", "kid"),
        "GaParmar/clean-fid 0.1.35, its distance held in tests/evaluators/test_profiles.py (1e-9"
        " relative); KID is the full U-statistic, where clean-fid's own comes from unseeded"
        " subsets; its resize is that of the judge",
    ),
    "fd-dinov2": Profile(
        ("fd-dinov2",),
        "the distance of layer6ai-labs/dgm-eval, by FID's formula; features are the judge's, not"
        " compared",
    ),
    "cmmd": Profile(
        ("cmmd",),
        "google-research/google-research:cmmd/distance.py in float64; embeddings are the judge's,"
        " not compared",
    ),
}
