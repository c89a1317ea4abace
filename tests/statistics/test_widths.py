"""No interval of width 0, of any metric, whatever the images: it would claim to be certain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from harope_bench.core import registry
from harope_bench.core.schema import Measurement, Metric
from harope_bench.evaluators.base import Features
from harope_bench.evaluators.fidelity import FidelityEvaluator
from harope_bench.evaluators.fidelity_profiles import PROFILES
from harope_bench.evaluators.prompt_scores import PromptEvaluator, clustered_value

EVALUATORS = [
    registry.load_by_name("evaluators", name) for name in registry.list_names("evaluators")
]
PROMPT_METRICS = [
    metric
    for plugin in EVALUATORS
    if isinstance(plugin, PromptEvaluator)
    for metric in plugin.metrics
]


def is_honest(measurement: Measurement, warnings: Iterable[str]) -> bool:
    """Return whether there is an interval of positive width, or none and a reason."""
    if measurement.value is None:
        return bool(measurement.reason)
    if measurement.low is None or measurement.high is None:
        return measurement.se is None and any(
            line.startswith(measurement.metric) for line in warnings
        )
    return measurement.high > measurement.low and (measurement.se or 0) > 0


def feature_sets() -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 4)).astype(np.float32)
    yield from {
        "usual": rows,
        "all equal": np.repeat(rows[:1], 40, axis=0),
        "all zero": np.zeros((40, 4), np.float32),
        "two values": np.repeat(rows[:2], 20, axis=0),
        "one image": rows[:1],
        "two images": rows[:2],
        "two equal images": np.repeat(rows[:1], 2, axis=0),
        "far away": rows + 1000,
        "the reference itself": rng.normal(size=(50, 4)).astype(np.float32),
        "one column": rows * np.array([1, 0, 0, 0], np.float32),
    }.items()


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_fidelity_has_no_interval_without_width(profile: str) -> None:
    sets = dict(feature_sets())
    real = sets["the reference itself"].astype(np.float64)
    moments = {"mu": real.mean(axis=0), "sigma": np.cov(real, rowvar=False)}
    reference = {
        "features": real.astype(np.float32),
        **moments,
        "mu_s": moments["mu"],
        "sigma_s": moments["sigma"],
    }
    for name, rows in sets.items():
        arrays = {"features": rows, "spatial": rows, "logits": rows}
        score = FidelityEvaluator(profile).evaluate(
            Features(np.arange(len(rows)), None, arrays), reference
        )
        for measurement in score.measurements:
            assert is_honest(measurement, score.warnings), (name, measurement)


def test_long_runs_of_equal_logits_have_no_interval_without_width() -> None:
    """From ten blocks of 5,000 on, the error of the Inception Score is the spread of blocks."""
    logits = np.tile(np.array([[2.0, 0.0, 1.0]], np.float32), (50_000, 1))
    score = FidelityEvaluator("adm-exact").evaluate(
        Features(np.arange(len(logits)), None, {"logits": logits}), {}
    )
    (measurement,) = (m for m in score.measurements if m.metric == "is")
    assert is_honest(measurement, score.warnings)


@pytest.mark.parametrize(
    ("pictures", "right"), [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (50, 0), (50, 49), (50, 50)]
)
def test_top1_has_no_interval_without_width(pictures: int, right: int) -> None:
    ranked_values = np.tile(np.arange(5), (pictures, 1))
    labels = np.where(np.arange(pictures) < right, 0, 7)
    features = Features(np.arange(pictures), labels, {"ranked_classes": ranked_values})
    score = registry.load_by_name("evaluators", "top1").evaluate(features, {})
    assert all(is_honest(measurement, score.warnings) for measurement in score.measurements)


def prompt_scores(low: float, high: float) -> Iterator[tuple[str, np.ndarray]]:
    middle = (low + high) / 2
    for prompts in (1, 2, 3, 80):
        for images in (1, 4):
            count = prompts * images
            yield f"all best, {prompts} x {images}", np.full(count, high)
            yield f"all worst, {prompts} x {images}", np.full(count, low)
            yield f"all alike, {prompts} x {images}", np.full(count, middle)
            yield f"one off, {prompts} x {images}", np.append(np.full(count - 1, high), low)
            yield (
                f"one a little off, {prompts} x {images}",
                np.append(np.full(count - 1, high), high - 1e-6 * (high - low)),
            )
            yield (
                f"half and half, {prompts} x {images}",
                np.where(np.arange(count) // images % 2, high, low),
            )


@pytest.mark.parametrize("metric", PROMPT_METRICS, ids=lambda metric: metric.name)
def test_scores_of_prompts_have_no_interval_without_width(metric: Metric) -> None:
    assert metric.bounds is not None  # each has them, so each has the score interval
    for name, rows in prompt_scores(*metric.bounds):
        for strata in (1, 2):
            prompts = np.arange(len(rows)) // (4 if "x 4" in name else 1)
            tasks = prompts % strata if strata > 1 else None
            value, interval, _ = clustered_value(rows, prompts, tasks, metric.bounds)
            fewest = min(
                np.unique(prompts[prompts % strata == task]).size
                for task in np.unique(prompts % strata)
            )
            if fewest < 2 or name.startswith("all alike"):
                assert interval is None, (name, strata)
                continue
            assert interval is not None and interval.se > 0, (name, strata)
            assert metric.bounds[0] <= interval.low < interval.high <= metric.bounds[1], (
                name,
                strata,
            )
            assert (
                interval.low - 1e-12 * abs(value) <= value <= interval.high + 1e-12 * abs(value)
            ), (name, strata)


def test_every_evaluator_is_swept_here() -> None:
    """A new kind of evaluator needs a sweep of its own in this file; a count has no interval at
    all.
    """
    kinds = {
        type(plugin).__name__ for plugin in EVALUATORS if not isinstance(plugin, PromptEvaluator)
    }
    assert kinds == {"FidelityEvaluator", "Top1Evaluator", "CostEvaluator"}
