"""How sure FID is: its error is the spread of replicates, alone and paired by seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from clouds import cloud, find_measurement, make_features, reference_of, with_dead_columns

from harope_bench.evaluators.fidelity import PLUGIN
from harope_bench.metrics.frechet import frechet_distance, influence_values
from harope_bench.metrics.moments import Gaussian, Moments
from harope_bench.statistics.significance import Z, difference, standard_error

WIDTH, DRAWN_COUNT, REPLICATES = 16, 1000, 400
REAL = Gaussian(np.zeros(WIDTH), np.eye(WIDTH))


def generator(noise: np.ndarray, tilt: float) -> np.ndarray:
    """A skewed, non-Gaussian generator; two tilts share their noise as two checkpoints share their
    seeds.
    """
    mix = np.random.default_rng(11).normal(size=(WIDTH, WIDTH)) * tilt + np.eye(WIDTH)
    return np.asarray(noise @ mix + 0.15 * np.abs(noise) * noise + tilt)


def fid_and_influence(rows: np.ndarray) -> tuple[float, np.ndarray]:
    generated_gaussian = Moments.from_rows(rows).to_gaussian()
    return frechet_distance(generated_gaussian, REAL), influence_values(
        rows, generated_gaussian, REAL
    )


@pytest.fixture(scope="module")
def replicates() -> tuple[np.ndarray, ...]:
    """FID and errors of REPLICATES runs: (a, error of a, a - b, paired error) each
    (REPLICATES,).
    """
    rng, records = np.random.default_rng(12), []
    for _ in range(REPLICATES):
        noise = rng.normal(size=(DRAWN_COUNT, WIDTH))
        (a, rows_a), (b, rows_b) = (
            fid_and_influence(generator(noise, tilt)) for tilt in (0.10, 0.12)
        )
        records.append((a, standard_error(rows_a), a - b, standard_error(rows_a - rows_b)))
    return tuple(np.array(column) for column in zip(*records, strict=True))


def test_the_error_of_fid_is_the_spread_of_replicates(replicates: tuple[np.ndarray, ...]) -> None:
    values, errors, _, _ = replicates
    # The sd of 400 replicates is itself known to 3.5%; four such widths.
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.14)


def test_the_paired_error_is_the_spread_of_paired_replicates(
    replicates: tuple[np.ndarray, ...],
) -> None:
    _, errors, deltas, paired_replicate = replicates
    assert paired_replicate.mean() == pytest.approx(deltas.std(ddof=1), rel=0.14)
    assert paired_replicate.mean() < 0.5 * math.hypot(
        errors.mean(), errors.mean()
    )  # shared seeds are worth having


def test_the_interval_covers_the_mean_at_this_n(replicates: tuple[np.ndarray, ...]) -> None:
    values, errors, deltas, paired_replicate = replicates
    for result, error in ((values, errors), (deltas, paired_replicate)):
        share = (np.abs(result - result.mean()) <= Z * error).mean()
        assert (
            0.91 <= share <= 0.99
        )  # 95% with 400 replicates is known to 1.1 points; four widths below


def test_the_error_is_not_too_small_where_generator_and_reference_agree() -> None:
    """The derivative vanishes there, so first order does not have to hold; it errs on the wide side
    by about sqrt 2.
    """
    rng = np.random.default_rng(13)
    result = [
        (value, standard_error(rows))
        for value, rows in (fid_and_influence(rng.normal(size=(200, WIDTH))) for _ in range(200))
    ]
    values, errors = np.array(result).T
    assert 1.2 < errors.mean() / values.std(ddof=1) < 1.7


def test_influence_is_the_derivative_of_the_distance() -> None:
    """Leaving image i out moves FID by -g_i / (N - 1), to first order, whatever the rank."""
    for rows in (
        cloud(14, 4000, 6).astype(np.float64),
        with_dead_columns(cloud(14, 4000, 6)).astype(np.float64),
    ):
        real = Moments.from_rows(cloud(15, 500, 6, shift=1.0)).to_gaussian()
        generated_gaussian = Moments.from_rows(rows).to_gaussian()
        whole_frechet_distance, contributions = (
            frechet_distance(generated_gaussian, real),
            influence_values(rows, generated_gaussian, real),
        )
        assert abs(contributions.mean()) < 1e-12
        for i in (0, 17, 3999):
            without = frechet_distance(
                Moments.from_rows(np.delete(rows, i, axis=0)).to_gaussian(), real
            )
            # What first order leaves out is 1/N of a contribution, and the correction N - 1 to N -
            # 2 a constant of that size.
            assert (whole_frechet_distance - without) * 3999 == pytest.approx(
                contributions[i], abs=0.03
            )


def test_influence_does_not_depend_on_the_root() -> None:
    rows, real = cloud(16, 300, 10), Moments.from_rows(cloud(17, 300, 10)).to_gaussian()
    generated_gaussian = Moments.from_rows(rows).to_gaussian()
    values, vectors = np.linalg.eigh(generated_gaussian.covariance)
    other_influence_values = influence_values(
        rows, generated_gaussian, real, vectors * np.sqrt(values)
    )
    np.testing.assert_allclose(
        influence_values(rows, generated_gaussian, real),
        other_influence_values,
        rtol=1e-9,
        atol=1e-9,
    )


def test_no_error_is_given_where_images_are_fewer_than_dimensions() -> None:
    score = PLUGIN.evaluate(make_features(cloud(18, 30, 30)), reference_of(cloud(19, 200, 30)))
    fid = find_measurement(score, "fid")
    assert fid.value is not None and fid.se is None and fid.low is None and fid.interval is None
    assert "fid" not in score.per_sample
    assert any(
        w.startswith("fid: N <= D (30 images, 30 dimensions that vary)") for w in score.warnings
    )
    live = with_dead_columns(cloud(18, 30, 30))  # 20 live columns are fewer than 30 images
    assert (
        find_measurement(
            PLUGIN.evaluate(make_features(live), reference_of(cloud(19, 200, 30))), "fid"
        ).se
        is not None
    )


def test_scores_of_two_checkpoints_pair_by_sample() -> None:
    noise, reference = (
        np.random.default_rng(56).normal(size=(800, WIDTH)),
        {"mu": REAL.mean, "sigma": REAL.covariance},
    )
    a, b = (
        PLUGIN.evaluate(make_features(generator(noise, tilt).astype(np.float32)), reference)
        for tilt in (0.10, 0.13)
    )
    np.testing.assert_array_equal(a.per_sample["indices"], np.arange(800))
    paired_difference = difference(
        "lower",
        find_measurement(a, "fid"),
        find_measurement(b, "fid"),
        a.per_sample["fid"],
        b.per_sample["fid"],
    )
    alone_difference = difference("lower", find_measurement(a, "fid"), find_measurement(b, "fid"))
    assert (
        paired_difference.delta == alone_difference.delta
        and paired_difference.se is not None
        and alone_difference.se is not None
    )
    assert paired_difference.se < 0.5 * alone_difference.se and paired_difference.verdict == "worse"
    pair = PLUGIN.evaluate(make_features(cloud(57, 90, 4)), reference_of(cloud(58, 90, 4)))
    drop = difference(
        "higher",
        find_measurement(pair, "recall"),
        find_measurement(pair, "recall"),
        pair.per_sample["recall"] | 1,
        pair.per_sample["recall"],
    )
    assert drop.se == standard_error(
        1.0 - pair.per_sample["recall"]
    )  # 0 - 1 is -1, not 255: the indicators are signed
