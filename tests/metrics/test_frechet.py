"""The Frechet distance: what it means, and that it is exact where covariances are singular."""

from __future__ import annotations

import math

import numpy as np
import pytest
from clouds import cloud, make_features, reference_of, value_of, with_dead_columns

from harope_bench.core.errors import ShapeError
from harope_bench.evaluators.fidelity import PLUGIN
from harope_bench.metrics.frechet import covariance_root, frechet_distance
from harope_bench.metrics.moments import Gaussian, Moments


def test_equal_sets_are_at_distance_zero() -> None:
    features = cloud(2, 600, 12)
    score = PLUGIN.evaluate(make_features(features), reference_of(features))
    assert abs(value_of(score, "fid")) < 1e-11  # rounding of the traces, of size D * eps
    assert value_of(score, "precision") == value_of(score, "recall") == 1.0


def test_moving_every_image_adds_the_squared_step() -> None:
    features, reference = cloud(3, 500, 8).astype(np.float64), reference_of(cloud(4, 800, 8))
    near_frechet_distance = frechet_distance(
        Moments.from_rows(features).to_gaussian(), Gaussian(reference["mu"], reference["sigma"])
    )
    step = np.arange(8) * 10.0
    moved_gaussian = Moments.from_rows(features + step).to_gaussian()
    still_mean = moved_gaussian.mean - reference["mu"] - step
    expected = (
        near_frechet_distance + step @ step + 2 * step @ still_mean
    )  # |a + b|^2 = |a|^2 + |b|^2 + 2 ab
    assert frechet_distance(
        moved_gaussian, Gaussian(reference["mu"], reference["sigma"])
    ) == pytest.approx(expected, rel=1e-12)


def test_known_gaussians_have_the_known_distance() -> None:
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(6, 6)))[0]
    a, b = np.array([1.0, 2, 3, 4, 5, 0.01]), np.array([4.0, 1, 3, 0.5, 0.02, 7])
    generated_gaussian, real = (
        Gaussian(mean, turn * variances @ turn.T)
        for mean, variances in ((np.zeros(6), a), (np.full(6, 0.5), b))
    )
    assert frechet_distance(generated_gaussian, real) == pytest.approx(
        6 * 0.25 + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2), rel=1e-13
    )


def exact_trace(left: np.ndarray, right: np.ndarray) -> float:
    """tr sqrt(S1 S2) of two feature sets as a nuclear norm: no eigenvalue is rooted, so it is exact
    where ranks are short.
    """
    a, b = (x.astype(np.float64) - x.astype(np.float64).mean(axis=0) for x in (left, right))
    return float(
        np.linalg.svd(a @ b.T, compute_uv=False).sum() / math.sqrt((len(a) - 1) * (len(b) - 1))
    )


def exact_frechet(left: np.ndarray, right: np.ndarray) -> float:
    generated_gaussian, real = (
        Moments.from_rows(left).to_gaussian(),
        Moments.from_rows(right).to_gaussian(),
    )
    return float(
        np.sum((generated_gaussian.mean - real.mean) ** 2)
        + np.trace(generated_gaussian.covariance + real.covariance)
        - 2 * exact_trace(left, right)
    )


def with_repeated_columns(features: np.ndarray) -> np.ndarray:
    return np.concatenate([features, features[:, :5] * 2], axis=1)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (cloud(8, 300, 24), cloud(9, 20, 24)),  # singular reference
        (cloud(8, 20, 24), cloud(9, 300, 24)),  # N < D
        (cloud(8, 24, 24), cloud(9, 300, 24)),  # N = D
        (cloud(8, 20, 24), cloud(9, 15, 24)),  # both singular
        (cloud(8, 20, 24), cloud(8, 20, 24)),  # N < D and equal
        (with_dead_columns(cloud(8, 300, 24)), cloud(9, 300, 24)),
        (cloud(8, 300, 24), with_dead_columns(cloud(9, 300, 24))),
        (with_dead_columns(cloud(8, 300, 24)), with_dead_columns(cloud(9, 300, 24))),
        (with_repeated_columns(cloud(8, 300, 24)), with_repeated_columns(cloud(9, 300, 24))),
        (np.ones((300, 24), dtype=np.float32), cloud(9, 300, 24)),  # constant images
    ],
    ids=[
        "reference",
        "few",
        "edge",
        "both",
        "equal",
        "dead",
        "dead-reference",
        "dead-both",
        "repeated",
        "constant",
    ],
)
def test_singular_covariances_keep_the_exact_distance(left: np.ndarray, right: np.ndarray) -> None:
    value = value_of(PLUGIN.evaluate(make_features(left), reference_of(right, images=False)), "fid")
    # A zero eigenvalue comes out as about 1e-16 of the largest and is rooted to 1e-8; at most 25 of
    # them here.
    assert value == pytest.approx(exact_frechet(left, right), abs=1e-6)


def test_the_support_keeps_rounding_out_of_the_trace() -> None:
    few_cloud, cloud_result = cloud(8, 40, 200), cloud(9, 1000, 200)
    generated_gaussian, real = (
        Moments.from_rows(few_cloud).to_gaussian(),
        Moments.from_rows(cloud_result).to_gaussian(),
    )
    product = (
        generated_gaussian.covariance @ real.covariance
    )  # torch-fidelity's way: 161 rounded zeros are rooted
    library_total = np.sqrt(np.linalg.eigvals(product).astype(complex)).real.sum()
    wrong_total = (
        np.sum((generated_gaussian.mean - real.mean) ** 2)
        + np.trace(generated_gaussian.covariance + real.covariance)
        - 2 * library_total
    )
    assert covariance_root(generated_gaussian.covariance).shape == (200, 39)
    assert (
        abs(frechet_distance(generated_gaussian, real) - exact_frechet(few_cloud, cloud_result))
        < 1e-10
        < 1e-7
        < abs(wrong_total - exact_frechet(few_cloud, cloud_result))
    )


def test_a_pivot_at_rounding_level_is_not_trusted() -> None:
    basis = np.random.default_rng(10).normal(size=(8, 6))
    covariance = basis @ basis.T + 1e-15 * np.eye(8)
    assert covariance_root(covariance).shape == (8, 6)
    np.testing.assert_allclose(
        covariance_root(covariance) @ covariance_root(covariance).T, covariance, atol=1e-13
    )
    assert covariance_root(covariance + 0.01 * np.eye(8)).shape == (8, 8)


def test_different_widths_have_no_distance() -> None:
    with pytest.raises(ShapeError, match="widths 3 and 4"):
        frechet_distance(Gaussian(np.zeros(3), np.eye(3)), Gaussian(np.zeros(4), np.eye(4)))
