"""Frechet distance, Inception Score and nearest neighbours against slow, obvious references;
memory-mapped and at their edges.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from harope_bench.core.errors import TooFewImagesError
from harope_bench.metrics import distances, neighbours
from harope_bench.metrics.distances import error_bound, scale_rows, squared_pair_distances
from harope_bench.metrics.frechet import covariance_root, covariance_root_of_rows, frechet_distance
from harope_bench.metrics.inception_score import inception_score, shuffled_inception_score
from harope_bench.metrics.moments import Gaussian, Moments
from harope_bench.metrics.neighbours import Balls, neighbour_balls, squared_radii


def cloud(seed: int, rows: int, width: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(rows, width)) * scale + shift).astype(
        np.float32
    )


# ---- Frechet distance
# -------------------------------------------------------------------------------------------


def by_sqrtm(generated_gaussian: Gaussian, real: Gaussian) -> float:
    root = scipy.linalg.sqrtm(generated_gaussian.covariance @ real.covariance).real
    return float(
        np.sum((generated_gaussian.mean - real.mean) ** 2)
        + np.trace(generated_gaussian.covariance + real.covariance - 2 * root)
    )


@pytest.mark.parametrize("width", [1, 5, 512, 513, 600])
def test_triangular_products_equal_sqrtm_at_every_strip(width: int) -> None:
    mix = np.random.default_rng(1).normal(size=(width, width)) / math.sqrt(width) + np.eye(width)
    generated_gaussian, real = (
        Moments.from_rows(
            cloud(seed, 3 * width + 5, width, 0.1 * seed) @ mix.astype(np.float32)
        ).to_gaussian()
        for seed in (2, 3)
    )
    assert covariance_root(generated_gaussian.covariance).shape == (width, width)
    assert frechet_distance(generated_gaussian, real) == pytest.approx(
        by_sqrtm(generated_gaussian, real), rel=1e-9
    )
    values, vectors = np.linalg.eigh(
        generated_gaussian.covariance
    )  # a full root takes the other product
    assert frechet_distance(generated_gaussian, real, vectors * np.sqrt(values)) == pytest.approx(
        frechet_distance(generated_gaussian, real), rel=1e-11
    )


def on_axes(
    width: int, generated_items: list[int], real: list[int]
) -> tuple[Gaussian, Gaussian, float]:
    """Two Gaussians whose covariances share a turned basis and have variance 1, 2, ... on the named
    axes only; their exact distance.
    """
    turn = np.linalg.qr(np.random.default_rng(4).normal(size=(width, width)))[0]
    a, b = np.zeros(width), np.zeros(width)
    a[generated_items], b[real] = (
        np.arange(1, len(generated_items) + 1),
        np.arange(1, len(real) + 1) * 0.5,
    )
    exact_value = float(np.sum((np.sqrt(a) - np.sqrt(b)) ** 2))
    return (
        Gaussian(np.zeros(width), turn * a @ turn.T),
        Gaussian(np.zeros(width), turn * b @ turn.T),
        exact_value,
    )


@pytest.mark.parametrize(
    ("generated_value", "real"),
    [
        (range(60), range(20)),
        (range(20), range(60)),
        (range(30), range(20)),
        (range(20), range(30)),
        (range(10, 60), range(30)),
    ],
    ids=["real-short", "drawn-short", "both-short", "both-short-turned", "overlap"],
)
def test_short_ranks_keep_the_exact_distance(generated_value: range, real: range) -> None:
    left, right, exact_on_axis = on_axes(60, list(generated_value), list(real))
    # Where one range lies within the other no zero is rooted; an overlap leaves some: 20 roots of
    # about 1e-14.
    assert frechet_distance(left, right) == pytest.approx(
        exact_on_axis, rel=1e-12, abs=2e-6 if generated_value == range(10, 60) else 0
    )


def test_the_covariance_of_lower_rank_leaves_rounded_zeros_out() -> None:
    left, right, exact_on_axis = on_axes(60, list(range(60)), list(range(20)))
    noise = np.linalg.eigvalsh(
        covariance_root(left.covariance).T @ right.covariance @ covariance_root(left.covariance)
    )[:40]
    assert np.sqrt(np.clip(noise, 0, None)).sum() > 1e-8  # what the other root would add
    assert abs(frechet_distance(left, right) - exact_on_axis) < 1e-11


def test_few_rows_are_a_root_of_their_covariance() -> None:
    generated_cloud, real = (
        cloud(9, 30, 60, 5.0),
        Moments.from_rows(cloud(6, 400, 60)).to_gaussian(),
    )
    gaussian, root = (
        Moments.from_rows(generated_cloud).to_gaussian(),
        covariance_root_of_rows(generated_cloud),
    )
    assert root.shape == (60, 29)
    np.testing.assert_allclose(root @ root.T, gaussian.covariance, atol=1e-12)
    assert frechet_distance(gaussian, real, root) == pytest.approx(
        frechet_distance(gaussian, real), rel=1e-11
    )


# ---- Inception Score
# --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "splits"), [(1000, 10), (1003, 10), (57, 4), (10, 10)])
def test_shuffled_is_equals_torch_fidelity(rows: int, splits: int) -> None:
    logits = cloud(7, rows, 30, scale=3.0)
    library_isc_features = isc_features_to_metric(torch.from_numpy(logits), splits=splits)
    package_value = shuffled_inception_score(logits, splits)
    assert package_value.mean == pytest.approx(
        library_isc_features["inception_score_mean"], rel=1e-12
    )
    assert package_value.std == pytest.approx(
        library_isc_features["inception_score_std"], rel=1e-9, abs=1e-12
    )
    assert len(package_value.scores) == splits


def test_adms_float32_score_is_the_float64_one_to_its_digits() -> None:
    logits = cloud(8, 3000, 1008, scale=3.0)
    scores = []
    for part in np.split(logits, [1000, 2000]):
        p = np.exp(part - part.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        kl = (p * (np.log(p) - np.log(p.mean(axis=0, keepdims=True)))).sum(axis=1).mean()
        scores.append(np.exp(kl))
    assert scores[0].dtype == np.float32
    assert inception_score(logits, 1000).value == pytest.approx(float(np.mean(scores)), rel=2e-6)


def test_underflowing_classes_are_no_nan() -> None:
    sure_values = np.where(np.eye(10)[np.arange(400) % 10] > 0, 0.0, -1e6)
    assert shuffled_inception_score(sure_values, splits=1).mean == pytest.approx(10.0, rel=1e-14)
    with pytest.raises(TooFewImagesError, match="10 splits needs at least 10 images, found 9"):
        shuffled_inception_score(sure_values[:9])


# ---- nearest neighbours
# -----------------------------------------------------------------------------------------


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Float64 sums of squared differences, row by row."""
    return np.array(
        [((b.astype(np.float64) - row) ** 2).sum(axis=1) for row in a.astype(np.float64)]
    )


def slow_balls(generated_values: np.ndarray, real: np.ndarray, k: int = 3) -> Balls:
    radii = []
    for rows in (generated_values, real):
        own_squared_distances = squared_distances(rows, rows)
        np.fill_diagonal(own_squared_distances, np.inf)
        radii.append(np.sort(own_squared_distances, axis=1)[:, k - 1])
    between_squared_distances = squared_distances(generated_values, real)
    return Balls(
        (between_squared_distances <= radii[1]).any(axis=1),
        (between_squared_distances <= radii[0][:, None]).any(axis=0),
        *radii,
    )


def check_balls(generated_values: np.ndarray, real: np.ndarray, block: int, k: int = 3) -> None:
    package_neighbour_balls, slow_value = (
        neighbour_balls(generated_values, real, k, block),
        slow_balls(generated_values, real, k),
    )
    np.testing.assert_array_equal(
        package_neighbour_balls.generated_inside, slow_value.generated_inside
    )
    np.testing.assert_array_equal(package_neighbour_balls.real_inside, slow_value.real_inside)
    np.testing.assert_allclose(
        package_neighbour_balls.generated_radii, slow_value.generated_radii, rtol=1e-12
    )  # the order of 64-bit sums
    np.testing.assert_allclose(
        package_neighbour_balls.real_radii, slow_value.real_radii, rtol=1e-12
    )


def cluster(seed: int, rows: int, width: int, deviation: float) -> np.ndarray:
    """Half of the rows in a tight cluster far from the mean: float32 products cannot tell them
    apart.
    """
    cloud_result = cloud(seed, rows, width)
    cloud_result[: rows // 2] = 3.0 + cloud_result[: rows // 2] * np.float32(deviation)
    return cloud_result


CASES = {
    "plain": (cloud(10, 230, 24, 0.2), cloud(11, 170, 24)),
    "wide": (cloud(12, 150, 2048), cloud(13, 120, 2048, scale=1.1)),
    "offset": (cloud(14, 200, 24, 1000.0), cloud(15, 150, 24, 1000.2)),
    "cluster": (cluster(16, 300, 64, 1e-4), cluster(17, 250, 64, 1e-4)),
    "lattice": (np.rint(cloud(18, 200, 3, scale=2.0)), np.rint(cloud(19, 150, 3, scale=2.0))),
    "outlier": (
        np.concatenate([cloud(20, 150, 16), cloud(21, 1, 16, scale=1e6)]),
        cloud(22, 130, 16),
    ),
    "large": (cloud(23, 150, 16, scale=1e30), cloud(24, 130, 16, scale=1e30)),
    "small": (cloud(25, 150, 16, scale=1e-30), cloud(26, 130, 16, scale=1e-30)),
    "float64": (
        cloud(27, 150, 16).astype(np.float64) / 3,
        cloud(28, 130, 16).astype(np.float64) / 3,
    ),
    "float16": (cloud(29, 150, 16).astype(np.float16), cloud(30, 130, 16).astype(np.float16)),
    "few": (cloud(31, 4, 5), cloud(32, 5, 5)),
    "shared": (cloud(33, 200, 12), cloud(33, 260, 12)),  # 200 images stand in both sets
    "equal": (np.ones((50, 6), dtype=np.float32), np.ones((40, 6), dtype=np.float32)),
}


@pytest.mark.parametrize("block", [3, 50, 128, 2048])
@pytest.mark.parametrize("case", CASES)
def test_balls_are_those_of_float64_differences(case: str, block: int) -> None:
    check_balls(*CASES[case], block)


@given(
    st.integers(0, 2**31),
    st.integers(1, 5),
    st.integers(2, 40),
    st.sampled_from([0.0, 1e-5, 1e-3, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_balls_are_exact_for_any_spread_and_k(
    seed: int, k: int, block: int, deviation: float
) -> None:
    rng = np.random.default_rng(seed)
    generated_cluster, real = (
        cluster(int(rng.integers(2**31)), int(rng.integers(2 * k + 2, 90)), 8, deviation)
        for _ in range(2)
    )
    check_balls(generated_cluster, real, block, k)


def test_float32_alone_would_be_wrong_where_it_is_settled() -> None:
    """The cluster's neighbours are below float32's resolution: its own answer differs, so the check
    above is one.
    """
    rows = CASES["cluster"][0]
    norms = (rows**2).sum(axis=1)
    plain_norm = norms[:, None] + norms - 2 * rows @ rows.T
    np.fill_diagonal(plain_norm, np.inf)
    wrong_value, right = np.sort(plain_norm, axis=1)[:, 2], slow_balls(rows, rows).generated_radii
    assert np.abs(wrong_value[:150] / right[:150] - 1).max() > 0.5
    np.testing.assert_allclose(squared_radii(rows), right, rtol=1e-12)


@pytest.mark.parametrize(
    "case", ["plain", "wide", "offset", "cluster", "outlier", "large", "small", "float64"]
)
def test_screened_distances_are_within_their_bound(case: str) -> None:
    left, right = scale_rows(*CASES[case])
    exact_squared_distances = squared_distances(*CASES[case]) * left.scale**2
    for sharp_flag in (False, True):
        a, b = (left.in_float64(), right.in_float64()) if sharp_flag else (left, right)
        distances = a.distances(slice(0, len(a.rows)), b, slice(0, len(b.rows)))
        assert distances.dtype == (np.float64 if sharp_flag else np.float32)
        assert np.abs(distances - exact_squared_distances).max() <= error_bound(a, b)


def test_most_distances_are_decided_by_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    generated_cloud, real, counted_records = cloud(34, 1200, 64, 0.1), cloud(35, 1000, 64), []

    def counting(left: np.ndarray, right: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        counted_records.append(len(i))
        return squared_pair_distances(left, right, i, j)

    monkeypatch.setattr(neighbours, "squared_pair_distances", counting)
    neighbour_balls(generated_cloud, real, block_size=256)
    # At least each radius once; of 3.6 million distances hardly any more.
    assert 2200 <= sum(counted_records) < 3000


def test_precision_and_recall_equal_torch_fidelity_in_both_its_ways() -> None:
    generated_cloud, real = cloud(36, 700, 48, 0.1), cloud(37, 500, 48)
    neighbour_balls_result = neighbour_balls(generated_cloud, real, block_size=200)
    for save_ram in (False, True):
        library_prc_features = prc_features_to_metric(
            *map(torch.from_numpy, (generated_cloud, real)),
            prc_neighborhood=3,
            prc_batch_size=150,
            save_cpu_ram=save_ram,
            verbose=False,
        )
        assert neighbour_balls_result.generated_inside.mean() == pytest.approx(
            library_prc_features["precision"], abs=1e-6
        )
        assert neighbour_balls_result.real_inside.mean() == pytest.approx(
            library_prc_features["recall"], abs=1e-6
        )


def test_mapped_files_give_the_same_bits(tmp_path: Path) -> None:
    generated_value, real = CASES["plain"]
    for name, rows in (("drawn", generated_value), ("real", real)):
        np.save(tmp_path / f"{name}.npy", rows)
    maps = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("drawn", "real")]
    for package_neighbour_ball, library_neighbour_ball in zip(
        neighbour_balls(*maps, block_size=64),
        neighbour_balls(generated_value, real, block_size=64),
        strict=True,
    ):
        np.testing.assert_array_equal(package_neighbour_ball, library_neighbour_ball)


def test_pairs_do_not_depend_on_their_order_or_company() -> None:
    a, b = CASES["wide"]
    i, j = np.repeat(np.arange(40), 30), np.tile(np.arange(30), 40)
    whole_squared_pair_distances = squared_pair_distances(a, b, i, j)
    np.testing.assert_array_equal(whole_squared_pair_distances, squared_pair_distances(b, a, j, i))
    np.testing.assert_array_equal(
        whole_squared_pair_distances[7:900:11],
        squared_pair_distances(a, b, i[7:900:11], j[7:900:11]),
    )
    assert (squared_pair_distances(a, a, i, i) == 0).all()
    assert len(i) > distances.PAIR_BLOCK
