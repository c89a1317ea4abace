"""FID, sFID, IS, precision and recall: whom they agree with, and the evaluator that gives them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from clouds import (
    cloud,
    find_measurement,
    make_features,
    peaked_logits,
    reference_of,
    slow_covered,
    slow_radii,
    value_of,
    with_dead_columns,
)
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from harope_bench.core.errors import SampleError, ShapeError
from harope_bench.evaluators.base import Features
from harope_bench.evaluators.fidelity import PLUGIN
from harope_bench.metrics.frechet import frechet_distance
from harope_bench.metrics.inception_score import inception_score
from harope_bench.metrics.moments import Gaussian, Moments
from harope_bench.metrics.neighbours import neighbour_balls, squared_radii


def slow_frechet(generated_gaussian: Gaussian, real: Gaussian) -> float:
    product = scipy.linalg.sqrtm(generated_gaussian.covariance @ real.covariance).real
    return float(
        np.sum((generated_gaussian.mean - real.mean) ** 2)
        + np.trace(generated_gaussian.covariance + real.covariance - 2 * product)
    )


def slow_inception_score(logits: np.ndarray, block: int) -> float:
    scores = []
    for start in range(0, len(logits), block):
        p = np.array(
            [
                np.exp(row - row.max()) / np.exp(row - row.max()).sum()
                for row in logits[start : start + block].astype(np.float64)
            ]
        )
        marginal, total = p.mean(axis=0), 0.0
        for row in p:
            total += sum(a * math.log(a / b) for a, b in zip(row, marginal, strict=True) if a > 0)
        scores.append(math.exp(total / len(p)))
    return sum(scores) / len(scores)


@pytest.mark.parametrize(
    ("rows", "width", "shift"), [(400, 16, 0.3), (3000, 64, 0.0), (900, 48, 10.0)]
)
def test_frechet_equals_sqrtm_and_torch_fidelity(rows: int, width: int, shift: float) -> None:
    generated_gaussian, real = (
        Moments.from_rows(cloud(6, rows, width, shift, 0.8)).to_gaussian(),
        Moments.from_rows(cloud(7, 2000, width)).to_gaussian(),
    )
    package_frechet_distance = frechet_distance(generated_gaussian, real)
    library_fid_statistics = fid_statistics_to_metric(
        *({"mu": g.mean, "sigma": g.covariance} for g in (generated_gaussian, real)), False
    )
    # Full-rank covariances: all three traces are good to about D * eps.
    assert package_frechet_distance == pytest.approx(
        slow_frechet(generated_gaussian, real), rel=1e-9
    )
    assert package_frechet_distance == pytest.approx(
        library_fid_statistics["frechet_inception_distance"], rel=1e-9
    )


@pytest.mark.parametrize(("rows", "block"), [(120, 50), (100, 50), (51, 50), (30, 50)])
def test_is_equals_a_plain_loop(rows: int, block: int) -> None:
    logits = (np.random.default_rng(20).normal(size=(rows, 7)) * 3).astype(np.float32)
    assert inception_score(logits, block).value == pytest.approx(
        slow_inception_score(logits, block), rel=1e-13
    )


def test_is_equals_torch_fidelity_in_the_same_blocks() -> None:
    logits = (np.random.default_rng(21).normal(size=(1000, 40)) * 4).astype(np.float32)
    library_isc_features = isc_features_to_metric(torch.from_numpy(logits), splits=5, shuffle=False)
    package_inception_score = inception_score(logits, block_size=200)
    assert package_inception_score.value == pytest.approx(
        library_isc_features["inception_score_mean"], rel=1e-12
    )  # both float64
    assert package_inception_score.blocks.std() == pytest.approx(
        library_isc_features["inception_score_std"], rel=1e-9
    )


@pytest.mark.parametrize("lattice", [False, True], ids=["continuous", "ties"])
@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_balls_equal_full_matrices_at_any_block_size(block: int, lattice: bool) -> None:
    a, b = cloud(32, 150, 5), cloud(33, 90, 5, shift=0.7)
    if lattice:
        a, b = (
            np.rint(a * 2) + 1000,
            np.rint(b * 2) + 1000,
        )  # many equal distances, and copies, far from zero
    radii = squared_radii(b, block_size=block)
    # Whole numbers stay whole after the centre is taken off, so their distances are exact; rounding
    # of squares otherwise.
    np.testing.assert_allclose(radii, slow_radii(b), rtol=0 if lattice else 1e-12)
    neighbour_balls_result = neighbour_balls(a, b, block_size=block)
    np.testing.assert_array_equal(neighbour_balls_result.real_radii, radii)
    np.testing.assert_array_equal(neighbour_balls_result.generated_inside, slow_covered(a, b))
    np.testing.assert_array_equal(neighbour_balls_result.real_inside, slow_covered(b, a))


@pytest.mark.parametrize(("generated_count", "real", "width"), [(500, 300, 32), (300, 700, 16)])
def test_precision_and_recall_equal_torch_fidelity(
    generated_count: int, real: int, width: int
) -> None:
    a, b = cloud(34, generated_count, width, shift=0.3), cloud(35, real, width)
    library_prc_features = prc_features_to_metric(
        *map(torch.from_numpy, (a, b)),
        prc_neighborhood=3,
        prc_batch_size=200,
        save_cpu_ram=False,
        verbose=False,
    )
    score = PLUGIN.evaluate(make_features(a), reference_of(b))
    # Shares of the same counts; torch-fidelity averages them in float32.
    assert value_of(score, "precision") == pytest.approx(
        library_prc_features["precision"], abs=1e-7
    )
    assert value_of(score, "recall") == pytest.approx(library_prc_features["recall"], abs=1e-7)
    assert score.per_sample["precision"].shape == (generated_count,) and score.per_sample[
        "recall"
    ].shape == (real,)
    np.testing.assert_array_equal(score.per_sample["recall"], slow_covered(b, a))


def test_ordinary_images_raise_no_warning() -> None:
    labels = np.arange(500) % 10
    score = PLUGIN.evaluate(
        make_features(
            cloud(70, 500, 16), spatial=cloud(71, 500, 20), logits=peaked_logits(labels, 10)
        ),
        reference_of(cloud(72, 600, 16)),
    )
    assert score.warnings == ()
    sorted_results = PLUGIN.evaluate(
        make_features(cloud(70, 500, 16), logits=peaked_logits(np.sort(labels), 10)), {}
    )
    assert sorted_results.warnings == ()  # one block: its order is nothing to it


def test_every_metric_is_measured_or_has_a_reason() -> None:
    features = cloud(49, 40, 4)
    score = PLUGIN.evaluate(make_features(features), {})
    assert [m.metric for m in score.measurements] == [m.name for m in PLUGIN.metrics]
    assert {m.metric: m.reason for m in score.measurements} == {
        "fid": "the reference holds no mu and sigma",
        "sfid": "the judge gives no spatial",
        "is": "the judge gives no logits",
        "precision": "the reference holds no images",
        "recall": "the reference holds no images",
    }
    score = PLUGIN.evaluate(make_features(features, spatial=features), {})
    assert find_measurement(score, "sfid").reason == "the reference holds no mu_s and sigma_s"
    blind = PLUGIN.evaluate(Features(np.arange(40), None, {}), reference_of(features))
    assert {m.reason for m in blind.measurements if m.metric != "is"} == {
        "the judge gives no features",
        "the judge gives no spatial",
    }


@pytest.mark.parametrize("scored", [0, 1])
def test_without_images_nothing_is_measured(scored: int) -> None:
    arrays = {"features": cloud(50, scored, 4), "logits": cloud(50, scored, 3)}
    score = PLUGIN.evaluate(
        Features(np.arange(scored), None, arrays, failed=7), reference_of(cloud(51, 50, 4))
    )
    assert all(
        m.value is None and m.reason and m.n_asked == 7 + scored and m.n_failed == 7
        for m in score.measurements
    )
    assert find_measurement(score, "fid").reason == f"fid needs at least 2 images, found {scored}"


def test_names_tell_the_number_of_images_scored() -> None:
    reference = {"mu": np.zeros(1), "sigma": np.eye(1), "mu_s": np.zeros(1), "sigma_s": np.eye(1)}
    for scored, fid, sfid in (
        (50_000, "fid-50k", "sfid-50k"),
        (49_999, "fid-49999", "sfid-49999"),
        (500, "fid-500", "sfid-500"),
    ):
        rows = cloud(52, scored, 1)
        score = PLUGIN.evaluate(
            make_features(rows, spatial=rows, failed=50_000 - scored), reference
        )
        assert [
            find_measurement(score, m).name for m in ("fid", "sfid", "is", "precision", "recall")
        ] == [
            fid,
            sfid,
            "is",
            "precision",
            "recall",
        ]
        assert (
            find_measurement(score, "fid").n_asked == 50_000
            and find_measurement(score, "fid").n_scored == scored
        )
        message = (
            f"fidelity: {50_000 - scored:,} of 50,000 images failed; every number is over the other"
            f" {scored:,}"
        )
        assert (message in score.warnings) == (scored < 50_000)


def test_sfid_is_fid_of_the_spatial_features() -> None:
    features, spatial, real = cloud(53, 300, 4), cloud(54, 300, 9), cloud(55, 400, 9)
    mean, covariance = Moments.from_rows(real).to_gaussian()
    score = PLUGIN.evaluate(
        make_features(features, spatial=spatial), {"mu_s": mean, "sigma_s": covariance}
    )
    other_results = PLUGIN.evaluate(make_features(spatial), {"mu": mean, "sigma": covariance})
    assert value_of(score, "sfid") == value_of(other_results, "fid")
    np.testing.assert_array_equal(score.per_sample["sfid"], other_results.per_sample["fid"])


@pytest.mark.parametrize("bad_value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("array", ["features", "spatial", "logits"])
def test_a_value_that_is_not_finite_names_its_image(array: str, bad_value: float) -> None:
    arrays = {name: cloud(59, 20, 4) for name in ("features", "spatial", "logits")}
    arrays[array][7, 2] = arrays[array][9, 0] = bad_value
    with pytest.raises(
        SampleError,
        match=f"{array} of the samples are not finite, first at index 107; delete the features",
    ):
        PLUGIN.evaluate(Features(np.arange(100, 120), None, arrays), {})


def test_a_broken_reference_is_named() -> None:
    features, reference = cloud(60, 30, 4), reference_of(cloud(61, 30, 4))
    with pytest.raises(SampleError, match="moments of features are not finite"):
        PLUGIN.evaluate(make_features(features), reference | {"mu": np.full(4, np.nan)})
    holed_reference = reference["features"].copy()
    holed_reference[3, 1] = np.nan
    with pytest.raises(
        SampleError, match="features of the reference are not finite, first at index 3"
    ):
        PLUGIN.evaluate(make_features(features), reference | {"features": holed_reference})


def test_arrays_that_do_not_fit_are_named() -> None:
    features, reference = cloud(62, 30, 4), reference_of(cloud(63, 30, 4))
    with pytest.raises(ShapeError, match="features have width 5"):
        PLUGIN.evaluate(make_features(cloud(62, 30, 5)), reference)
    with pytest.raises(ShapeError, match="width 5, the reference's 4"):
        PLUGIN.evaluate(make_features(cloud(62, 30, 5)), {"features": reference["features"]})
    with pytest.raises(
        ShapeError, match=r"logits of the samples have shape \(29, 4\), expected \(30, width\)"
    ):
        PLUGIN.evaluate(make_features(features, logits=features[:29]), reference)


def test_constant_images_and_dead_columns_are_warned_of() -> None:
    reference = reference_of(cloud(64, 200, 6))
    constant = PLUGIN.evaluate(make_features(np.full((50, 6), 0.1, dtype=np.float32)), reference)
    assert "fid: constant features, those of every sample are the same" in constant.warnings
    assert value_of(constant, "precision") in (0.0, 1.0)
    dead_results = PLUGIN.evaluate(make_features(with_dead_columns(cloud(65, 50, 6))), reference)
    assert (
        "fid: zero variance in 2 of 6 columns that vary in the reference" in dead_results.warnings
    )
    results = PLUGIN.evaluate(
        make_features(with_dead_columns(cloud(65, 50, 6))),
        reference_of(with_dead_columns(cloud(64, 200, 6))),
    )
    assert not any(w.startswith("fid: zero variance") for w in results.warnings)


def test_nothing_that_comes_out_is_infinite_or_missing() -> None:
    wild_cloud = (cloud(66, 60, 5) * np.float32(1e37)).astype(np.float32)
    score = PLUGIN.evaluate(
        make_features(wild_cloud, spatial=wild_cloud, logits=wild_cloud),
        reference_of(cloud(67, 60, 5)),
    )
    assert all(np.isfinite(rows).all() for rows in score.per_sample.values())
    assert all(m.value is not None for m in score.measurements if m.metric != "sfid")
