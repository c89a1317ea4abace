"""KID and CMMD: what they mean, whom they agree with, how sure they are."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from harope_bench.core.errors import ShapeError, TooFewImagesError
from harope_bench.metrics.kernel_distance import cmmd, kid, kid_subsets


def cloud(seed: int, rows: int, width: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(rows, width)) + shift).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def slow_kid(x: np.ndarray, y: np.ndarray) -> float:
    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a.astype(np.float64) @ b.astype(np.float64) / len(a) + 1) ** 3)

    within = [
        np.mean([kernel(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j])
        for s in (x, y)
    ]
    return float(within[0] + within[1] - 2 * np.mean([kernel(a, b) for a in x for b in y]))


def slow_cmmd(x: np.ndarray, y: np.ndarray) -> float:
    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(
            np.exp(
                -((a.astype(np.float64)[:, None] - b.astype(np.float64)) ** 2).sum(axis=2) / 200
            ).mean()
        )

    return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


@pytest.mark.parametrize("block", [1, 7, 16, 100])
def test_both_equal_plain_loops_at_any_block_size(block: int) -> None:
    x, y = cloud(0, 31, 6, 0.4), cloud(1, 23, 6)
    assert kid(x, y, block).value == pytest.approx(slow_kid(x, y), rel=1e-12)
    assert cmmd(unit(x), unit(y), block).value == pytest.approx(
        slow_cmmd(unit(x), unit(y)), rel=1e-9
    )


def test_equal_distributions_are_near_zero_and_a_shift_is_not() -> None:
    far_kid, near_kid = (kid(cloud(2, 600, 8, shift), cloud(3, 600, 8)) for shift in (0.5, 0.0))
    assert abs(near_kid.value) < 3 * near_kid.se < far_kid.value / 5
    assert cmmd(unit(cloud(4, 200, 8)), unit(cloud(4, 200, 8))).value == pytest.approx(
        0.0, abs=1e-10
    )  # V-statistic of equal sets


def test_subsets_equal_torch_fidelity() -> None:
    x, y = cloud(5, 300, 16, 0.3), cloud(6, 250, 16)
    library_kid_features = kid_features_to_metric(
        torch.from_numpy(x),
        torch.from_numpy(y),
        kid_subsets=20,
        kid_subset_size=100,
        kid_kernel="poly",
        kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None,
        kid_kernel_poly_coef0=1.0,
        rng_seed=2020,
        verbose=False,
    )
    package_kid_subsets = kid_subsets(x, y, subsets=20, size=100)
    assert package_kid_subsets.mean == pytest.approx(
        library_kid_features["kernel_inception_distance_mean"], abs=1e-6
    )  # float32 kernels of order 1 there
    assert package_kid_subsets.std == pytest.approx(
        library_kid_features["kernel_inception_distance_std"], abs=1e-6
    )
    other_seed = kid_subsets(x, y, subsets=20, size=100, seed=2021)
    assert (
        abs(other_seed.mean - package_kid_subsets.mean) > 1e-5
    )  # so the tolerance above tells seeds apart


def test_one_subset_of_everything_is_the_full_statistic() -> None:
    x, y = cloud(7, 60, 5, 0.2), cloud(8, 60, 5)
    assert kid_subsets(x, y, subsets=1, size=60).mean == pytest.approx(kid(x, y).value, rel=1e-12)


def test_contributions_are_the_exact_jackknife() -> None:
    x, y = cloud(9, 12, 4, 0.3), cloud(10, 9, 4)
    for statistic, rows, second in ((kid, x, y), (cmmd, unit(x), unit(y))):
        statistic_result = statistic(rows, second)
        without = np.array([statistic(np.delete(rows, i, axis=0), second).value for i in range(12)])
        np.testing.assert_allclose(
            statistic_result.generated_contributions,
            11 * (without.mean() - without),
            rtol=1e-8,
            atol=1e-9,
        )
        without = np.array([statistic(rows, np.delete(second, i, axis=0)).value for i in range(9)])
        np.testing.assert_allclose(
            statistic_result.real_contributions,
            8 * (without.mean() - without),
            rtol=1e-8,
            atol=1e-9,
        )


@pytest.mark.parametrize(("shift", "widest"), [(0.3, 1.14), (0.0, 1.6)])
@pytest.mark.parametrize("statistic", [kid, cmmd])
def test_the_error_is_the_spread_of_replicates(
    statistic: object, shift: float, widest: float
) -> None:
    rng, values, errors = np.random.default_rng(11), [], []
    for _ in range(400):
        x, y = rng.normal(size=(120, 5)) + shift, rng.normal(size=(100, 5))
        statistic_result = statistic(*((unit(x), unit(y)) if statistic is cmmd else (x, y)))  # type: ignore[operator]
        values.append(statistic_result.value)
        errors.append(statistic_result.se)
    # 400 replicates know their sd to 3.5%; where the sets agree second order rules and the
    # jackknife is up to sqrt 2 too wide.
    assert 0.86 < np.mean(errors) / np.std(values, ddof=1) < widest


def test_the_spread_over_subsets_is_no_standard_error() -> None:
    x, y = cloud(12, 2000, 6, 0.2), cloud(13, 2000, 6)
    assert kid_subsets(x, y, subsets=30, size=200).std > 2 * kid(x, y).se


def test_a_fixed_reference_brings_no_error_of_its_own() -> None:
    kid_result = kid(cloud(14, 300, 4, 0.3), cloud(15, 50, 4))
    assert 0 < kid_result.standard_error_fixed_reference < kid_result.se
    assert kid_result.standard_error_fixed_reference == pytest.approx(
        kid_result.generated_contributions.std(ddof=1) / np.sqrt(300)
    )


def test_memory_stays_far_below_a_kernel_matrix() -> None:
    x, y = cloud(16, 4000, 8), cloud(17, 3000, 8)
    tracemalloc.start()
    try:
        kid(x, y, block_size=256)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4000 * 3000 * 8 / 20


def test_sets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="widths 2 and 3"):
        kid(np.zeros((9, 2)), np.zeros((9, 3)))
    with pytest.raises(TooFewImagesError, match="at least 3 images in both sets, found 2"):
        cmmd(np.zeros((9, 2)), np.zeros((2, 2)))
    with pytest.raises(
        TooFewImagesError, match="needs at least 1,000 images in both sets, found 40"
    ):
        kid_subsets(np.zeros((40, 2)), np.zeros((2000, 2)))
