"""Precision and recall: what they mean, ties, copies, block sizes and memory."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from clouds import (
    cloud,
    find_measurement,
    full_distances,
    make_features,
    reference_of,
    slow_radii,
    value_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from harope_bench.core.errors import ShapeError
from harope_bench.evaluators.fidelity import PLUGIN
from harope_bench.metrics.neighbours import neighbour_balls, squared_radii


def test_a_collapsed_generator_is_precise_and_recalls_little() -> None:
    real = cloud(28, 600, 8)
    collapsed_real = real[0] + cloud(29, 600, 8, scale=0.01)
    score = PLUGIN.evaluate(make_features(collapsed_real), reference_of(real))
    assert value_of(score, "precision") > 0.95 and value_of(score, "recall") < 0.05
    swapped_results = PLUGIN.evaluate(make_features(real), reference_of(collapsed_real))
    assert (
        value_of(swapped_results, "precision") < 0.05 and value_of(swapped_results, "recall") > 0.95
    )


def test_noise_far_away_has_neither() -> None:
    score = PLUGIN.evaluate(
        make_features(cloud(30, 300, 8, shift=100.0)), reference_of(cloud(31, 300, 8))
    )
    assert value_of(score, "precision") == value_of(score, "recall") == 0.0


@given(st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_order_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = cloud(36, 80, 4), cloud(37, 60, 4)
    p, q = rng.permutation(80), rng.permutation(60)
    plain_neighbour_balls, shuffled_neighbour_balls = (
        neighbour_balls(a, b, block_size=16),
        neighbour_balls(a[p], b[q], block_size=16),
    )
    np.testing.assert_array_equal(
        plain_neighbour_balls.generated_inside[p], shuffled_neighbour_balls.generated_inside
    )
    np.testing.assert_array_equal(
        plain_neighbour_balls.real_inside[q], shuffled_neighbour_balls.real_inside
    )


@pytest.mark.parametrize("shift", [0.0, 3.3, 4096.0])
def test_copies_are_at_distance_exactly_zero(shift: float) -> None:
    base = cloud(38, 50, 200, shift)
    rows = np.concatenate([base, base, base, base])[np.random.default_rng(39).permutation(200)]
    assert (squared_radii(rows, block_size=32) == 0.0).all()
    plain_rows = rows.astype(np.float64)
    norms = (plain_rows**2).sum(axis=1)
    unsnapped_norm = norms[:, None] + norms - 2 * plain_rows @ plain_rows.T
    copies = full_distances(rows, rows) == 0.0
    assert np.abs(unsnapped_norm[copies]).max() > 0.0  # without the floor copies are at a distance
    assert squared_radii(base).min() > 0.0


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    rows = cloud(68, 120, 100, shift=4096.0, scale=0.05)
    np.testing.assert_allclose(squared_radii(rows), slow_radii(rows), rtol=1e-11)
    plain_rows = rows.astype(np.float64)
    uncentred_total = (
        (plain_rows**2).sum(axis=1)[:, None]
        + (plain_rows**2).sum(axis=1)
        - 2 * plain_rows @ plain_rows.T
    )
    np.fill_diagonal(uncentred_total, np.inf)
    assert np.abs(np.sort(uncentred_total, axis=1)[:, 2] / slow_radii(rows) - 1).max() > 1e-8


def test_three_copies_leave_a_radius_and_four_do_not() -> None:
    base = cloud(40, 40, 6)
    assert (squared_radii(np.concatenate([base] * 3)) > 0).all()
    assert (squared_radii(np.concatenate([base] * 4)) == 0).all()


def test_copied_images_are_warned_of_with_their_number() -> None:
    base, real = cloud(41, 60, 6), cloud(42, 200, 6)
    score = PLUGIN.evaluate(
        make_features(np.concatenate([base[:10]] * 4 + [base[10:]])), reference_of(real)
    )
    assert (
        "recall: zero radius around 40 of 90 samples, each repeated 3 times or more"
        in score.warnings
    )
    assert (
        "fidelity: duplicates in features, 30 of 90 samples repeat those of another one exactly"
        in score.warnings
    )
    score = PLUGIN.evaluate(make_features(base), reference_of(np.concatenate([real] * 4)))
    assert any(
        w.startswith("precision: zero radius around 800 of 800 reference images")
        for w in score.warnings
    )
    assert value_of(score, "precision") == 0.0


def test_memory_stays_far_below_the_full_matrix() -> None:
    a, b = cloud(43, 6000, 64), cloud(44, 6000, 64)
    tracemalloc.start()
    try:
        inside = neighbour_balls(a, b).generated_inside
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0 < inside.mean() < 1
    assert peak < 6000 * 6000 * 8 / 5  # a full float64 matrix is 288 MB


def test_too_few_rows_have_no_third_neighbour() -> None:
    with pytest.raises(ShapeError, match="more than 3 rows, found 3"):
        squared_radii(np.zeros((3, 2)))
    with pytest.raises(ShapeError, match="widths 2 and 3"):
        neighbour_balls(np.zeros((4, 2)), np.zeros((4, 3)))
    score = PLUGIN.evaluate(make_features(cloud(45, 3, 2)), reference_of(cloud(46, 50, 2)))
    for metric in ("precision", "recall"):
        assert find_measurement(score, metric).value is None
        assert (
            find_measurement(score, metric).reason
            == "3 neighbours need at least 4 samples and reference images, found 3"
        )


def test_wilson_error_of_a_share() -> None:
    a, b = cloud(47, 400, 6, shift=0.5), cloud(48, 300, 6)
    precision = find_measurement(PLUGIN.evaluate(make_features(a), reference_of(b)), "precision")
    assert (
        precision.value is not None
        and precision.se is not None
        and precision.low is not None
        and precision.high is not None
    )
    assert precision.se == pytest.approx(math.sqrt(precision.value * (1 - precision.value) / 400))
    assert 0 <= precision.low < precision.value < precision.high <= 1
    assert precision.interval == "Wilson, radii fixed"
