"""Rows on disk: filled in pieces, kept when they grow, never trusted without their hash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harope_bench.core.errors import ShapeError, StorageError
from harope_bench.data import feature_rows

ROWS = np.arange(60, dtype=np.float32).reshape(12, 5)


def write_feature_rows(path: Path, count: int = 12) -> Path:
    feature_rows.reserve_rows(path, count, ROWS[0])
    feature_rows.write_rows(path, 0, ROWS[:8])
    feature_rows.write_rows(path, 8, ROWS[8:count])
    return path


def test_pieces_make_the_file_that_numpy_writes(tmp_path: Path) -> None:
    path = write_feature_rows(tmp_path / "deep" / "a.npy")
    np.save(tmp_path / "b.npy", ROWS)
    assert path.read_bytes() == (tmp_path / "b.npy").read_bytes()
    view = feature_rows.map_rows(path, 12)
    assert np.array_equal(view, ROWS) and not view.flags.writeable
    assert isinstance(view.base, np.memmap) and type(view) is np.ndarray


def test_a_file_grows_and_keeps_its_rows_and_never_shrinks(tmp_path: Path) -> None:
    path = write_feature_rows(tmp_path / "a.npy")
    before = feature_rows.rows_sha256(path, 0, 12)
    mapped_map_rows = feature_rows.map_rows(path, 12)
    feature_rows.reserve_rows(path, 200_000, ROWS[0])
    assert np.array_equal(mapped_map_rows, ROWS) and feature_rows.rows_sha256(path, 0, 12) == before
    feature_rows.reserve_rows(path, 3, ROWS[0])
    assert feature_rows.map_rows(path, 200_000).shape == (200_000, 5)
    assert feature_rows.map_rows(path, 12).tolist() == ROWS.tolist()


@pytest.mark.parametrize(
    "row", [np.zeros(4, np.float32), np.zeros(5, np.float64), np.zeros((5, 1), np.float32)]
)
def test_rows_of_another_kind_begin_a_new_file(tmp_path: Path, row: np.ndarray) -> None:
    path = write_feature_rows(tmp_path / "a.npy")
    old_rows_sha256 = feature_rows.rows_sha256(path, 0, 12)
    feature_rows.reserve_rows(path, 12, row)
    assert (
        feature_rows.map_rows(path, 12).shape == (12, *row.shape)
        and not feature_rows.map_rows(path, 12).any()
    )
    assert feature_rows.rows_sha256(path, 0, 12) != old_rows_sha256


def test_the_digest_sees_one_bit_and_a_missing_byte(tmp_path: Path) -> None:
    path = write_feature_rows(tmp_path / "a.npy")
    whole_rows_sha256, part = (
        feature_rows.rows_sha256(path, 0, 12),
        feature_rows.rows_sha256(path, 3, 7),
    )
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert (
        feature_rows.rows_sha256(path, 0, 12) != whole_rows_sha256
        and feature_rows.rows_sha256(path, 3, 7) == part
    )
    path.write_bytes(data[:-1])
    assert (
        feature_rows.rows_sha256(path, 0, 12) is None
        and feature_rows.rows_sha256(path, 3, 7) == part
    )
    with pytest.raises(StorageError, match="does not hold 12 rows"):
        feature_rows.map_rows(path, 12)
    feature_rows.reserve_rows(
        path, 12, ROWS[0]
    )  # a file that a full disk cut short is made whole again
    assert feature_rows.map_rows(path, 12).shape == (12, 5)


def test_the_same_bytes_of_another_shape_have_another_digest(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    np.save(tmp_path / "b.npy", ROWS.reshape(12, 1, 5))
    assert feature_rows.rows_sha256(tmp_path / "a.npy", 0, 12) != feature_rows.rows_sha256(
        tmp_path / "b.npy", 0, 12
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 something",
        b"\x93NUMPY\x01\x00\x10\x00{'descr': '|O'}  \n",
        b"\x93NUMPY\x01\x00v\x00{",
    ],
)
def test_what_is_no_file_of_rows_is_begun_anew(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    assert (
        feature_rows.read_rows_header(path) is None and feature_rows.rows_sha256(path, 0, 1) is None
    )
    write_feature_rows(path)
    assert np.array_equal(feature_rows.map_rows(path, 12), ROWS)


def test_rows_that_were_not_reserved_are_refused(tmp_path: Path) -> None:
    path = write_feature_rows(tmp_path / "a.npy")
    for first_count, part in ((10, ROWS[:3]), (0, ROWS[:, :4]), (0, ROWS.astype(np.float64))):
        with pytest.raises(ShapeError, match="reserve them first"):
            feature_rows.write_rows(path, first_count, part)
    with pytest.raises(ShapeError):
        feature_rows.write_rows(tmp_path / "none.npy", 0, ROWS)
