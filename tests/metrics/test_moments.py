"""Mean and covariance of rows: streamed, merged, stored, and far from zero."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clouds import cloud
from hypothesis import given, settings
from hypothesis import strategies as st

from harope_bench.core.array_archive import load_arrays, write_arrays
from harope_bench.core.errors import ShapeError, TooFewImagesError
from harope_bench.metrics.moments import Moments


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_shards_merge_to_the_whole(sizes: list[int], block: int) -> None:
    rows = cloud(0, sum(sizes) + 2, 3, shift=5.0)
    shards = np.split(rows, np.cumsum(sizes))
    merged_rows = Moments.from_rows(shards[0])
    for shard in shards[1:]:
        merged_rows = merged_rows.merge(Moments.from_rows(shard, block))
    whole_rows = Moments.from_rows(rows)
    assert merged_rows.count == whole_rows.count
    np.testing.assert_allclose(merged_rows.mean, whole_rows.mean, rtol=1e-13)
    np.testing.assert_allclose(
        merged_rows.scatter, whole_rows.scatter, rtol=1e-11, atol=1e-12
    )  # atol: off-diagonals may be near 0


def test_moments_equal_numpy_and_survive_a_mean_far_from_zero() -> None:
    rows = cloud(1, 700, 5) + np.float32(4096.0)
    mean, covariance = Moments.from_rows(rows, block_size=64).to_gaussian()
    exact_values = np.cov(rows.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(mean, rows.astype(np.float64).mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(covariance, exact_values, rtol=1e-11)
    wrong_matrix = (
        (rows.T @ rows / 700 - np.outer(rows.mean(axis=0), rows.mean(axis=0))) * 700 / 699
    )  # float32 and no centring
    assert np.abs(wrong_matrix - exact_values).max() > 0.1


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(TooFewImagesError, match="at least 2 images, found 1"):
        Moments.from_rows(np.zeros((1, 4), dtype=np.float32)).to_gaussian()
    with pytest.raises(ShapeError):
        Moments.from_rows(np.zeros((3, 4))).merge(Moments.from_rows(np.zeros((3, 5))))


@pytest.mark.parametrize("shift", [0.0, 300.0])
def test_moments_equal_numpy(shift: float, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", cloud(0, 1500, 40, shift))
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    mean, covariance = Moments.from_rows(rows, block_size=256).to_gaussian()
    np.testing.assert_allclose(
        mean, np.mean(rows.astype(np.float64), axis=0), rtol=1e-12, atol=1e-10
    )
    np.testing.assert_allclose(covariance, np.cov(rows, rowvar=False, ddof=1), rtol=0, atol=1e-10)


def test_shards_travel_through_files_bit_by_bit(tmp_path: Path) -> None:
    shards = [Moments.from_rows(cloud(seed, 100 + seed, 7, 5.0)) for seed in range(3)]
    for i, shard in enumerate(shards):
        write_arrays(tmp_path / f"{i}.npz", shard.to_arrays())
    back = [Moments.from_arrays(load_arrays(tmp_path / f"{i}.npz")) for i in range(3)]
    for package_back, library_shard in zip(back, shards, strict=True):
        assert package_back.count == library_shard.count
        np.testing.assert_array_equal(package_back.mean, library_shard.mean)
        np.testing.assert_array_equal(package_back.scatter, library_shard.scatter)
    whole_rows = Moments.from_rows(
        np.concatenate([cloud(seed, 100 + seed, 7, 5.0) for seed in range(3)])
    )
    np.testing.assert_allclose(
        back[0].merge(back[1]).merge(back[2]).scatter, whole_rows.scatter, rtol=1e-11, atol=1e-11
    )


def test_moments_that_do_not_fit_are_refused() -> None:
    arrays = Moments.from_rows(cloud(0, 10, 3)).to_arrays()
    with pytest.raises(ShapeError, match="make the file again"):
        Moments.from_arrays({**arrays, "scatter": np.zeros((3, 4))})
