"""Recall of random halves against scoring each half, and what the evaluator makes of it."""

from __future__ import annotations

from pathlib import Path

import fake_runs
import numpy as np
import pytest

from harope_bench.core.errors import TooFewImagesError
from harope_bench.core.schema import Measurement
from harope_bench.data.result_store import StoredResult, read_result
from harope_bench.evaluators.base import Features
from harope_bench.evaluators.fidelity import PLUGIN
from harope_bench.evaluators.fidelity_estimates import RANDOM_HALVES
from harope_bench.metrics import random_halves
from harope_bench.metrics.neighbours import neighbour_balls
from harope_bench.metrics.random_halves import half_recalls, random_half_indices
from harope_bench.statistics.pairing import compare_results, pair_contributions


def slow_recalls(generated_values: np.ndarray, real: np.ndarray, splits: int) -> np.ndarray:
    """Return the recall of each half, scored as if it were all there is."""
    sides = random_half_indices(len(generated_values), splits)
    halves = [
        generated_values[sides[:, split] == side] for side in (0, 1) for split in range(splits)
    ]
    return np.array([neighbour_balls(half, real).real_inside.mean() for half in halves])


@pytest.mark.parametrize(
    ("samples", "references", "width"), [(40, 300, 3), (201, 500, 6), (9, 50, 2), (8, 20, 5)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_halves_equal_scoring_each_half(
    samples: int, references: int, width: int, dtype: type
) -> None:
    rng = np.random.default_rng(samples)
    generated_value, real = (
        0.8 * rng.normal(size=(samples, width)).astype(dtype),
        rng.normal(size=(references, width)).astype(dtype),
    )
    np.testing.assert_array_equal(
        half_recalls(generated_value, real, splits=6), slow_recalls(generated_value, real, 6)
    )


def test_halves_of_copies_equal_scoring_each_half() -> None:
    rng = np.random.default_rng(0)
    generated_values, real = (
        np.repeat(rng.normal(size=(12, 2)), 3, axis=0),
        rng.normal(size=(99, 2)),
    )
    np.testing.assert_array_equal(
        half_recalls(generated_values, real, splits=6), slow_recalls(generated_values, real, 6)
    )


def test_halves_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where so many pairs are near that products take the place of differences: outliers with
    wide balls.
    """
    rng = np.random.default_rng(1)
    generated_standard_t, real = (
        rng.standard_t(1.5, (150, 8)).astype(np.float32),
        rng.standard_t(1.5, (400, 8)).astype(np.float32),
    )
    whole_half_recalls = half_recalls(generated_standard_t, real, splits=6)
    np.testing.assert_array_equal(whole_half_recalls, slow_recalls(generated_standard_t, real, 6))
    monkeypatch.setattr(random_halves, "BLOCK_ROWS", 37)
    monkeypatch.setattr(random_halves, "COVERED_PAIR_BLOCK", 50)
    np.testing.assert_array_equal(
        half_recalls(generated_standard_t, real, splits=6), whole_half_recalls
    )


def test_splits_are_halves_and_depend_on_the_number_alone() -> None:
    sides = random_half_indices(11)
    assert [(sides == side).sum(axis=0).tolist() for side in (0, 1, -1)] == [
        [5] * 64,
        [5] * 64,
        [1] * 64,
    ]
    np.testing.assert_array_equal(sides, random_half_indices(11))
    assert len({column.tobytes() for column in sides.T}) > 50


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(
        TooFewImagesError,
        match="half of 7 samples has no 3-th neighbour, wanted at least 8 samples",
    ):
        half_recalls(np.zeros((7, 2)), np.zeros((9, 2)))


def recall(
    generated_values: np.ndarray, real: np.ndarray
) -> tuple[Measurement, dict[str, np.ndarray]]:
    score = PLUGIN.evaluate(
        Features(np.arange(len(generated_values)), None, {"features": generated_values}),
        {"features": real},
    )
    return next(m for m in score.measurements if m.metric == "recall"), dict(score.per_sample)


def test_the_evaluator_gives_recall_the_error_of_its_samples() -> None:
    rng = np.random.default_rng(4)
    real, generated_value = rng.normal(size=(500, 2)), 0.7 * rng.normal(size=(40, 2))
    recall_result, rows = recall(generated_value, real)
    assert recall_result.interval == RANDOM_HALVES and rows["recall"].shape == (500,)
    assert recall_result.se == pytest.approx(half_recalls(generated_value, real).std(ddof=1))
    np.testing.assert_array_equal(rows["recall_halves"], half_recalls(generated_value, real))


def test_where_halves_are_alike_the_references_error_stands() -> None:
    rng = np.random.default_rng(5)
    recall_result, rows = recall(rng.normal(size=(60, 2)), 100 + rng.normal(size=(50, 2)))
    assert (
        recall_result.interval == "Wilson, radii fixed"
        and "recall_halves" not in rows
        and (recall_result.se or 0) > 0
    )


def scored_run(
    folder: Path, encoding: str, generated_values: np.ndarray, real: np.ndarray
) -> StoredResult:
    """Return a result of recall and precision with its rows beside it, as `evaluate` leaves it."""
    score = PLUGIN.evaluate(
        Features(np.arange(len(generated_values)), None, {"features": generated_values}),
        {"features": real},
    )
    plan = fake_runs.plan(fake_runs.checkpoint(f"digits-{encoding}", encoding))
    measurements = [m for m in score.measurements if m.metric in ("recall", "precision")]
    path = fake_runs.write_result(
        folder, fake_runs.result(plan, measurements), dict(score.per_sample)
    )
    return StoredResult(read_result(path), path)


def test_recalls_of_two_models_are_paired_by_halves(tmp_path: Path) -> None:
    """Shared latents: the difference is surer than that of strangers, and a model does not differ
    from itself.
    """
    rng = np.random.default_rng(6)
    real, latents = rng.normal(size=(400, 4)), rng.normal(size=(120, 4))
    first_scored_run, two = (
        scored_run(tmp_path / name, name, scale * latents, real)
        for name, scale in (("ape", 0.8), ("harope", 0.84))
    )
    results = compare_results("recall", "higher", first_scored_run, two)
    halves = half_recalls(0.84 * latents, real) - half_recalls(0.8 * latents, real)
    errors = [item.result.find_measurement("recall").se for item in (first_scored_run, two)]  # type: ignore[union-attr]
    assert (
        results.is_paired
        and results.wins is None
        and results.se == pytest.approx(halves.std(ddof=1))
    )
    assert results.se < 0.6 * np.hypot(*errors)
    assert compare_results("recall", "higher", first_scored_run, first_scored_run).delta == 0
    rows = pair_contributions("recall", first_scored_run, two)
    assert (
        not rows.has_sample_rows
        and pair_contributions("precision", first_scored_run, two).has_sample_rows
    )


def test_a_recall_without_halves_is_not_paired_by_reference_images(tmp_path: Path) -> None:
    """20 images cover all of 400 references or none; that is no evidence from 400 pairs."""
    rng = np.random.default_rng(8)
    real, latents = rng.normal(size=(400, 4)), rng.normal(size=(20, 4))
    outside, distant, inside = (
        scored_run(tmp_path / name, name, values, real)
        for name, values in (("ape", 100 + latents), ("learned", 50 + latents), ("harope", latents))
    )
    difference = compare_results("recall", "higher", outside, inside)
    errors = [run.result.find_measurement("recall").se for run in (outside, inside)]  # type: ignore[union-attr]
    assert difference.reason == "unpaired: one run has no random halves"
    assert (difference.is_paired, difference.wins, difference.test) == (False, None, "normal")
    assert difference.se == pytest.approx(np.hypot(*errors))

    difference = compare_results("recall", "higher", outside, distant)
    assert (difference.verdict, difference.delta) == ("not resolved", 0)
    assert difference.reason == "unpaired: neither run has random halves"
    assert difference.low is not None and difference.low < 0


def test_an_interval_of_a_bounded_metric_ends_at_the_largest_difference(tmp_path: Path) -> None:
    plan = fake_runs.plan(fake_runs.checkpoint("digits-harope", "harope"))
    measurements = [fake_runs.measurement("recall", v, 0.4, 200) for v in (0.005, 0.995)]
    runs = []
    for name, measurement in zip("ab", measurements, strict=True):
        result = fake_runs.result(plan, [measurement], evaluator="fidelity")
        path = fake_runs.write_result(tmp_path / name, result, {}, "fidelity")
        runs.append(StoredResult(read_result(path), path))
    difference = compare_results("recall", "higher", *runs)
    assert (difference.delta, difference.high) == (pytest.approx(0.99), 1.0)
    assert difference.low == pytest.approx(0.99 - 1.96 * 0.4 * np.sqrt(2), abs=1e-3)
