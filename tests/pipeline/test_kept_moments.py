"""Moments kept beside their rows: the bits of a straight sum, whatever was killed, grew, was
altered or was damaged on the way.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from harope_bench.core.array_archive import load_arrays, write_arrays
from harope_bench.data import feature_rows
from harope_bench.metrics import moments as summing
from harope_bench.metrics.moments import BLOCK_ROWS, Moments
from harope_bench.pipeline import moments_cache
from harope_bench.pipeline.extract_features import SHARD_SIZE
from harope_bench.pipeline.moments_cache import BLOCKS_PER_WRITE, ShardHashes

WIDTH, COUNT = 5, 5 * BLOCK_ROWS + 1234  # 6 shards of sums, the last not whole


@pytest.fixture(scope="module")
def cloud() -> np.ndarray:
    mix = np.random.default_rng(0).normal(size=(WIDTH, WIDTH))
    return (np.random.default_rng(1).normal(size=(COUNT, WIDTH)) @ mix + 300.0).astype(np.float32)


@pytest.fixture
def file(cloud: np.ndarray, tmp_path: Path) -> Path:
    return write(tmp_path / "features.npy", cloud)


def write(path: Path, values: np.ndarray) -> Path:
    feature_rows.reserve_rows(path, len(values), values[0])
    feature_rows.write_rows(path, 0, values)
    return path


def shards(file: Path, count: int) -> ShardHashes:
    digests = [
        feature_rows.rows_sha256(file, start, min(start + SHARD_SIZE, count))
        for start in range(0, count, SHARD_SIZE)
    ]
    return ShardHashes([str(digest) for digest in digests], SHARD_SIZE)


def sum_moments(file: Path, count: int = COUNT) -> Moments:
    return moments_cache.sum_cached_moments(
        file.with_name("features.moments.npz"),
        feature_rows.map_rows(file, count),
        shards(file, count),
    )


def equal_moments(a: Moments, b: Moments) -> bool:
    return a.count == b.count and all(
        x.tobytes() == y.tobytes() for x, y in ((a.mean, b.mean), (a.scatter, b.scatter))
    )


@contextmanager
def block_sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Sizes of the blocks that are summed anew."""
    records, original_function = [], Moments._from_block.__func__  # type: ignore[attr-defined]

    def of_block(cls: type[Moments], block: np.ndarray) -> Moments:
        records.append(len(block))
        return original_function(cls, block)  # type: ignore[no-any-return]

    with monkeypatch.context() as watched_context:
        watched_context.setattr(summing.Moments, "_from_block", classmethod(of_block))
        yield records


def test_a_block_is_made_of_whole_shards() -> None:
    assert BLOCK_ROWS % SHARD_SIZE == 0


def test_kept_moments_have_the_bits_of_a_straight_sum_and_the_digits_of_two_passes(
    file: Path, cloud: np.ndarray
) -> None:
    for _ in range(2):  # summed, then read
        moments = sum_moments(file)
        assert equal_moments(moments, Moments.from_rows(cloud))
    exact_cloud = cloud.astype(np.float64)
    centred_mean_value = exact_cloud - exact_cloud.mean(axis=0)
    covariance = centred_mean_value.T @ centred_mean_value / (COUNT - 1)
    deviations = np.sqrt(np.diag(covariance))
    assert np.abs(moments.mean / exact_cloud.mean(axis=0) - 1).max() < 1e-12
    assert (
        np.abs(
            (moments.to_gaussian().covariance - covariance) / np.outer(deviations, deviations)
        ).max()
        < 1e-12
    )
    single_matrix = cloud.T @ cloud / COUNT - np.outer(
        cloud.mean(axis=0), cloud.mean(axis=0)
    )  # the sums of float32 that this would not survive
    assert np.abs((single_matrix - covariance) / np.outer(deviations, deviations)).max() > 1e-4


@pytest.mark.parametrize("before", [0, 999, BLOCK_ROWS, 3 * BLOCK_ROWS + 500, COUNT - 1])
def test_more_images_add_only_what_is_missing(
    before: int, file: Path, cloud: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before:
        sum_moments(file, before)
    with block_sizes(monkeypatch) as summed_block_sizes:
        moments = sum_moments(file)
    assert summed_block_sizes == [BLOCK_ROWS] * (5 - before // BLOCK_ROWS) + [
        COUNT - 5 * BLOCK_ROWS
    ]
    assert equal_moments(moments, Moments.from_rows(cloud))


def test_fewer_images_are_summed_on_their_own(file: Path, cloud: np.ndarray) -> None:
    sum_moments(file)
    assert equal_moments(
        sum_moments(file, 2 * BLOCK_ROWS + 7), Moments.from_rows(cloud[: 2 * BLOCK_ROWS + 7])
    )
    assert equal_moments(sum_moments(file, 100), Moments.from_rows(cloud[:100]))
    assert equal_moments(sum_moments(file), Moments.from_rows(cloud))


@pytest.mark.parametrize("row", [0, 2 * BLOCK_ROWS, 5 * BLOCK_ROWS + 3])
def test_one_altered_row_is_noticed(row: int, file: Path, cloud: np.ndarray) -> None:
    sum_moments(file)
    other_cloud = cloud.copy()
    other_cloud[row, 2] += 1.0
    moments = sum_moments(write(file, other_cloud))
    assert equal_moments(moments, Moments.from_rows(other_cloud)) and not equal_moments(
        moments, Moments.from_rows(cloud)
    )


def test_a_damaged_file_is_made_again(file: Path, cloud: np.ndarray) -> None:
    sum_moments(file)
    path = file.with_name("features.moments.npz")
    whole_content = path.read_bytes()
    arrays = load_arrays(path)
    for damage in ("cut", "bit", "pickle", "lacks", "shape", "width"):
        if damage == "cut":
            path.write_bytes(whole_content[: len(whole_content) // 2])
        elif damage == "bit":
            index = whole_content.index(arrays["scatter"].tobytes()) + 11
            path.write_bytes(
                whole_content[:index]
                + bytes([whole_content[index] ^ 1])
                + whole_content[index + 1 :]
            )
        elif damage == "pickle":
            np.savez(path, **{**arrays, "mean": np.array([{}], dtype=object)})
        else:
            changed_fields = {
                "lacks": {},
                "shape": {"scatter": np.zeros((WIDTH, 3))},
                "width": {"mean": np.zeros(2), "scatter": np.zeros((2, 2))},
            }
            write_arrays(
                path,
                {
                    k: v
                    for k, v in {**arrays, **changed_fields[damage]}.items()
                    if damage != "lacks" or k != "rows_sha256"
                },
            )
        assert equal_moments(sum_moments(file), Moments.from_rows(cloud)), damage
        assert path.read_bytes() == whole_content, damage


KILLED_TEXT = """
import os, signal, sys
from pathlib import Path
from harope_bench.pipeline import moments_cache
sys.path.insert(0, sys.argv[2])
import test_kept_moments as here
honest = moments_cache.write_bytes
def write_bytes(path, data):
    honest(path, data)
    os.kill(os.getpid(), signal.SIGKILL)
moments_cache.write_bytes = write_bytes
here.sum_moments(Path(sys.argv[1]))
"""


def test_a_killed_process_loses_no_block_that_was_kept(
    file: Path, cloud: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = str(Path(__file__).parent)
    killed_process = subprocess.run(
        [sys.executable, "-c", KILLED_TEXT, str(file), text],
        env={**os.environ},
        capture_output=True,
        check=False,
    )
    assert killed_process.returncode == -signal.SIGKILL, killed_process.stderr.decode()[-2000:]
    with block_sizes(monkeypatch) as summed_block_sizes:
        moments = sum_moments(file)
    assert summed_block_sizes == [BLOCK_ROWS] * (5 - BLOCKS_PER_WRITE) + [COUNT - 5 * BLOCK_ROWS]
    assert equal_moments(moments, Moments.from_rows(cloud))
