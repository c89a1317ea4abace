"""Sample sets: what is read, what is refused, and the layouts both ways."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harope_bench import adm
from harope_bench.errors import SampleError
from harope_bench.samples import Run, decode, encode, inside, open_samples, parse_indices, spans, to_adm, to_png


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path, images: np.ndarray) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(place / f"{i:06d}.png")
    return place


def read(path: Path) -> np.ndarray:
    samples = open_samples(path)
    return np.concatenate([b.images for b in samples.batches(samples.indices, 3)])


def test_folder_to_npz_and_back_loses_nothing(folder: Path, images: np.ndarray, tmp_path: Path) -> None:
    to_adm(open_samples(folder), tmp_path / "a.npz")
    assert np.array_equal(np.load(tmp_path / "a.npz")["arr_0"], images)  # what ADM's own reader sees
    to_png(open_samples(tmp_path / "a.npz"), tmp_path / "back")
    assert [p.name for p in sorted((tmp_path / "back").iterdir())][:2] == ["000000.png", "000001.png"]
    assert np.array_equal(read(tmp_path / "back"), images)


def test_npz_written_by_numpy_is_read_with_its_labels(images: np.ndarray, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "b.npz", arr_0=images, arr_1=np.arange(7))
    samples = open_samples(tmp_path / "b.npz")
    assert samples.labels == {i: i for i in range(7)}
    assert np.array_equal(read(tmp_path / "b.npz"), images)


def test_npz_of_equal_images_has_equal_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        to_adm(open_samples(folder), tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_some_indices_of_an_npz_are_the_right_ones(images: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", arr_0=images)
    samples = open_samples(tmp_path / "c.npz")
    found = list(samples.batches([1, 5, 6], 2))
    assert [i for b in found for i in b.indices] == [1, 5, 6]
    assert np.array_equal(np.concatenate([b.images for b in found]), images[[1, 5, 6]])


def test_sample_npz_with_statistics_is_refused(images: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", arr_0=images, mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(SampleError, match="carries mu"):
        open_samples(tmp_path / "d.npz")


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"other": np.zeros(3)}, "no arr_0"),
        ({"arr_0": np.zeros((2, 4, 4, 3), np.float32)}, "wanted uint8"),
        ({"arr_0": np.zeros((2, 4, 4), np.uint8)}, "wanted uint8"),
        ({"arr_0": np.array([{}], dtype=object)}, "not a readable npz"),
    ],
)
def test_npz_of_another_kind_is_named(arrays: dict, complaint: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", **arrays)
    with pytest.raises(SampleError, match=complaint):
        open_samples(tmp_path / "e.npz")


def test_truncated_npz_names_the_image_it_breaks_at(images: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("arr_0.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": images.shape})
        member.write(images[:4].tobytes())
    with pytest.raises(SampleError, match="from image 3 on"):
        list(adm.rows(path, 3))
    (tmp_path / "g.npz").write_bytes(path.read_bytes()[:100])
    with pytest.raises(SampleError, match="not a readable npz"):
        open_samples(tmp_path / "g.npz")


def test_corrupt_png_is_named_with_its_index(folder: Path) -> None:
    whole = (folder / "000003.png").read_bytes()
    (folder / "000003.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SampleError, match=r"image 3 .*000003\.png"):
        read(folder)


def test_sizes_do_not_mix(folder: Path) -> None:
    Image.new("RGB", (9, 9)).save(folder / "000004.png")
    with pytest.raises(SampleError, match="image 4 .* is 9x9, image 3 is 5x6"):
        read(folder)


def test_alpha_is_not_guessed_and_grey_becomes_rgb(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(SampleError, match="mode RGBA"):
        decode((tmp_path / "a.png").read_bytes(), "a.png")
    Image.new("L", (4, 4), 7).save(tmp_path / "l.png")
    assert (decode((tmp_path / "l.png").read_bytes(), "l.png") == 7).all()


def test_lossy_folder_is_warned_of(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    assert "lossy" in open_samples(tmp_path).warnings[0]


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="holds no images"):
        open_samples(tmp_path)
    with pytest.raises(SampleError, match="no run folder"):
        open_samples(tmp_path / "absent")


def test_a_record_cannot_point_out_of_its_folder(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="points outside"):
        inside(tmp_path, "../../etc/passwd", 3)


def test_png_bytes_are_lossless(images: np.ndarray) -> None:
    assert np.array_equal(decode(encode(images[0]), "x"), images[0])


def test_index_ranges_read_and_write() -> None:
    assert parse_indices("0-2,7,5-6") == [0, 1, 2, 5, 6, 7]
    assert spans([7, 5, 6, 0, 1]) == [(0, 1), (5, 7)]
    for bad in ("", "a", "3-1", "-2", "1-", "1--2", "0.5"):
        with pytest.raises(ValueError, match="no index range"):
            parse_indices(bad)


def test_asked_indices_add_up_over_calls(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.ask([0, 1, 2])
    run.ask([1, 2])
    assert len((tmp_path / "requests.jsonl").read_text().splitlines()) == 1  # nothing new, nothing written
    run.ask(range(2, 6))
    assert run.asked() == set(range(6))
