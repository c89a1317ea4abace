"""ADM's float16 distances: primitives against numpy's float16, radii and balls against a
whole-matrix imitation.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harope_bench.core.errors import ShapeError
from harope_bench.metrics.float16_neighbours import (
    RowNorms,
    block_distances,
    block_products,
    fits_float16,
    float16_balls,
    float16_radii,
    round_to_float16,
)
from harope_bench.metrics.neighbours import neighbour_balls


def cloud(seed: int, rows: int, width: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(rows, width)) * scale + shift).astype(
        np.float32
    )


def adm_block(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """One distance block as the evaluator writes it, with numpy's float16 in place of
    TensorFlow's.
    """
    with np.errstate(all="ignore"):
        u, v = left.astype(np.float16), right.astype(np.float16)
        norms = [np.square(x).astype(np.float32).sum(axis=1).astype(np.float16) for x in (u, v)]
        product = (u.astype(np.float32) @ v.astype(np.float32).T).astype(np.float16)
        values = np.maximum(
            norms[0][:, None] - np.float16(2) * product + norms[1][None], np.float16(0)
        )
    if np.isfinite(values).all():
        return values.astype(np.float32)
    norms32 = [np.square(x).sum(axis=1) for x in (left, right)]
    return np.maximum(norms32[0][:, None] - 2 * (left @ right.T) + norms32[1], 0)


def adm_distances(left: np.ndarray, right: np.ndarray, block: int) -> np.ndarray:
    return np.block(
        [
            [
                adm_block(left[i : i + block], right[j : j + block])
                for j in range(0, len(right), block)
            ]
            for i in range(0, len(left), block)
        ]
    )


def adm_radii(rows: np.ndarray, block: int) -> np.ndarray:
    return np.asarray(np.partition(adm_distances(rows, rows, block), 3, axis=1)[:, 3])


def adm_inside(
    generated_values: np.ndarray, real: np.ndarray, block: int
) -> tuple[np.ndarray, np.ndarray]:
    between_adm_distances = adm_distances(real, generated_values, block)
    return (between_adm_distances <= adm_radii(real, block)[:, None]).any(axis=0), (
        between_adm_distances <= adm_radii(generated_values, block)
    ).any(axis=1)


def norms_of_all_rows(rows: np.ndarray) -> tuple[RowNorms, slice]:
    return RowNorms.from_rows(rows), slice(0, len(rows))


def fits(left: np.ndarray, right: np.ndarray) -> bool:
    return fits_float16(*norms_of_all_rows(left), *norms_of_all_rows(right), block_size=16)


def half_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return block_distances(
            *block_products(*norms_of_all_rows(left), *norms_of_all_rows(right), True), True
        )


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_rounding_on_bits_is_numpys_float16(values: list[float]) -> None:
    inputs = np.array([values], dtype=np.float32)
    with np.errstate(over="ignore"):
        exact_value = inputs.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(round_to_float16(inputs.copy()), exact_value)


def test_every_edge_of_float16_rounds_as_numpy_does() -> None:
    all_halves = np.arange(0, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between_all_halves = (all_halves[:-1] + all_halves[1:]) / 2  # ties
    edges = np.concatenate(
        [
            all_halves,
            between_all_halves,
            np.nextafter(between_all_halves, np.float32(0)),
            np.nextafter(between_all_halves, np.float32(1e9)),
        ]
    )
    edges = np.concatenate([edges, -edges, [65519.996, 65520.0, 1e6]]).astype(np.float32)[None]
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(
            round_to_float16(edges.copy()), edges.astype(np.float16).astype(np.float32)
        )


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.0, 10.0), (4.0, 0.5), (1e-3, 0.0)])
def test_a_block_equals_numpys_float16(scale: float, shift: float) -> None:
    left, right = cloud(0, 70, 48, scale, shift), cloud(1, 50, 48, scale, shift)
    assert fits(left, right)
    np.testing.assert_array_equal(half_distances(left, right), adm_block(left, right))


@pytest.mark.parametrize(
    ("scale", "shift"),
    [(1.0, 0.0), (1.0, 10.0), (100.0, 0.0), (22.0, 0.0), (12.0, 10.0)],
    ids=["plain", "offset", "overflow", "some-overflow", "offset-overflow"],
)
@pytest.mark.parametrize(
    ("wide_count", "narrow_count"), [(1000, 64), (100, 50), (90, 30), (64, 64)]
)
def test_balls_equal_whole_matrices(
    scale: float, shift: float, wide_count: int, narrow_count: int
) -> None:
    generated_cloud, real = cloud(2, 260, 32, scale, shift), cloud(3, 150, 32, scale, shift)
    generated_cloud[200:] *= 0.3  # blocks differ in size, so that some fit float16 and some do not
    float16_balls_result = float16_balls(
        generated_cloud, real, adm_block_size=wide_count, block_size=narrow_count
    )
    np.testing.assert_array_equal(
        float16_radii(generated_cloud, adm_block_size=wide_count, block_size=narrow_count),
        float16_balls_result.generated_radii,
    )
    # The product's last bit depends on the block's shape, which moves a float16 rounding now and
    # then; float32 blocks differ by it.
    assert np.isclose(
        float16_balls_result.generated_radii,
        adm_radii(generated_cloud, wide_count),
        rtol=2e-3,
        atol=0,
    ).all()
    assert (
        np.isclose(
            float16_balls_result.generated_radii, adm_radii(generated_cloud, wide_count), rtol=1e-5
        )
    ).mean() > 0.97
    for package_generated_inside, library_adm_inside in zip(
        (float16_balls_result.generated_inside, float16_balls_result.real_inside),
        adm_inside(generated_cloud, real, wide_count),
        strict=True,
    ):
        assert (package_generated_inside != library_adm_inside).mean() < 0.02


def test_overflow_decides_a_block_and_not_the_set() -> None:
    small_cloud, large_cloud = cloud(4, 40, 32), cloud(5, 40, 32, scale=60.0)
    assert fits(small_cloud, small_cloud)
    assert not fits(large_cloud, large_cloud)
    middle = cloud(
        6, 40, 32, scale=28.0
    )  # beyond the quick bound, within float16 nearly everywhere
    assert fits(middle, middle) == bool(np.isfinite(half_distances(middle, middle)).all())


def test_float16_raises_both_scores_where_the_mean_is_far_from_zero() -> None:
    """The known direction of the effect: coarse distances tie, and a tie counts as inside."""
    generated_cloud, real = cloud(7, 900, 64, 1.0, 10.0), cloud(8, 700, 64, 1.0, 10.1)
    half, exact_neighbour_balls = (
        float16_balls(generated_cloud, real),
        neighbour_balls(generated_cloud, real),
    )
    assert half.generated_inside.mean() > exact_neighbour_balls.generated_inside.mean() + 0.02
    assert half.real_inside.mean() > exact_neighbour_balls.real_inside.mean() + 0.02


def test_overflowing_features_are_scored_in_float32() -> None:
    generated_cloud, real = cloud(9, 300, 64, 100.0), cloud(10, 200, 64, 100.0)
    half, exact_neighbour_balls = (
        float16_balls(generated_cloud, real),
        neighbour_balls(generated_cloud, real),
    )
    np.testing.assert_array_equal(half.generated_inside, exact_neighbour_balls.generated_inside)
    np.testing.assert_allclose(half.real_radii, exact_neighbour_balls.real_radii, rtol=1e-4)


def test_unequal_sets_count_whole() -> None:
    generated_cloud, real = cloud(11, 500, 16), cloud(12, 100, 16)
    float16_balls_result = float16_balls(generated_cloud, real)
    assert float16_balls_result.generated_inside.shape == (
        500,
    ) and float16_balls_result.real_inside.shape == (100,)
    fewer = float16_balls(generated_cloud[:100], real)
    assert (
        fewer.real_inside.mean() != float16_balls_result.real_inside.mean()
    )  # recall leans on the number of samples


def test_sets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="widths 2 and 3"):
        float16_balls(np.zeros((9, 2)), np.zeros((9, 3)))
    with pytest.raises(ShapeError, match="more than 3 rows, found 3"):
        float16_radii(np.zeros((3, 2)))
