"""Rows on disk: filled in pieces, kept when they grow, never trusted without their hash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harope_bench import rows
from harope_bench.errors import ShapeError, StorageError

ROWS = np.arange(60, dtype=np.float32).reshape(12, 5)


def filled(path: Path, count: int = 12) -> Path:
    rows.reserve(path, count, ROWS[0])
    rows.put(path, 0, ROWS[:8])
    rows.put(path, 8, ROWS[8:count])
    return path


def test_pieces_make_the_file_that_numpy_writes(tmp_path: Path) -> None:
    path = filled(tmp_path / "deep" / "a.npy")
    np.save(tmp_path / "b.npy", ROWS)
    assert path.read_bytes() == (tmp_path / "b.npy").read_bytes()
    view = rows.view(path, 12)
    assert np.array_equal(view, ROWS) and not view.flags.writeable
    assert isinstance(view.base, np.memmap) and type(view) is np.ndarray


def test_a_file_grows_and_keeps_its_rows_and_never_shrinks(tmp_path: Path) -> None:
    path = filled(tmp_path / "a.npy")
    before = rows.digest(path, 0, 12)
    mapped = rows.view(path, 12)
    rows.reserve(path, 200_000, ROWS[0])
    assert np.array_equal(mapped, ROWS) and rows.digest(path, 0, 12) == before
    rows.reserve(path, 3, ROWS[0])
    assert rows.view(path, 200_000).shape == (200_000, 5)
    assert rows.view(path, 12).tolist() == ROWS.tolist()


@pytest.mark.parametrize("row", [np.zeros(4, np.float32), np.zeros(5, np.float64), np.zeros((5, 1), np.float32)])
def test_rows_of_another_kind_begin_a_new_file(tmp_path: Path, row: np.ndarray) -> None:
    path = filled(tmp_path / "a.npy")
    old = rows.digest(path, 0, 12)
    rows.reserve(path, 12, row)
    assert rows.view(path, 12).shape == (12, *row.shape) and not rows.view(path, 12).any()
    assert rows.digest(path, 0, 12) != old


def test_the_digest_sees_one_bit_and_a_missing_byte(tmp_path: Path) -> None:
    path = filled(tmp_path / "a.npy")
    whole, part = rows.digest(path, 0, 12), rows.digest(path, 3, 7)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert rows.digest(path, 0, 12) != whole and rows.digest(path, 3, 7) == part
    path.write_bytes(data[:-1])
    assert rows.digest(path, 0, 12) is None and rows.digest(path, 3, 7) == part
    with pytest.raises(StorageError, match="does not hold 12 rows"):
        rows.view(path, 12)
    rows.reserve(path, 12, ROWS[0])  # a file that a full disk cut short is made whole again
    assert rows.view(path, 12).shape == (12, 5)


def test_the_same_bytes_of_another_shape_have_another_digest(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    np.save(tmp_path / "b.npy", ROWS.reshape(12, 1, 5))
    assert rows.digest(tmp_path / "a.npy", 0, 12) != rows.digest(tmp_path / "b.npy", 0, 12)


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04 something", b"\x93NUMPY\x01\x00\x10\x00{'descr': '|O'}  \n", b"\x93NUMPY\x01\x00v\x00{"]
)
def test_what_is_no_file_of_rows_is_begun_anew(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    assert rows.header(path) is None and rows.digest(path, 0, 1) is None
    filled(path)
    assert np.array_equal(rows.view(path, 12), ROWS)


def test_rows_that_were_not_reserved_are_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "a.npy")
    for first, part in ((10, ROWS[:3]), (0, ROWS[:, :4]), (0, ROWS.astype(np.float64))):
        with pytest.raises(ShapeError, match="reserve them first"):
            rows.put(path, first, part)
    with pytest.raises(ShapeError):
        rows.put(tmp_path / "none.npy", 0, ROWS)
