"""Sample sets: what is read, what is refused, and the layouts both ways."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harope_bench.core.errors import SampleError
from harope_bench.core.index_ranges import consecutive_ranges, parse_indices
from harope_bench.core.schema import Checkpoint, Plan, Request, Settings
from harope_bench.data import adm_npz
from harope_bench.data.image_io import decode_image, encode_png
from harope_bench.data.run_folder import RunFolder, encode_sample
from harope_bench.data.sample_set import (
    SampleSet,
    open_samples,
    path_inside,
    paths_inside,
    write_adm_npz,
    write_png_folder,
)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path, images: np.ndarray) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:06d}.png")
    return folder


def read(path: Path) -> np.ndarray:
    samples = open_samples(path)
    return np.concatenate([b.images for b in samples.batches(samples.indices, 3)])


def test_folder_to_npz_and_back_loses_nothing(
    folder: Path, images: np.ndarray, tmp_path: Path
) -> None:
    write_adm_npz(open_samples(folder), tmp_path / "a.npz")
    assert np.array_equal(
        np.load(tmp_path / "a.npz")["arr_0"], images
    )  # what ADM's own reader sees
    write_png_folder(open_samples(tmp_path / "a.npz"), tmp_path / "back")
    assert [p.name for p in sorted((tmp_path / "back").iterdir())][:2] == [
        "000000.png",
        "000001.png",
    ]
    assert np.array_equal(read(tmp_path / "back"), images)


def test_npz_written_by_numpy_is_read_with_its_labels(images: np.ndarray, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "b.npz", arr_0=images, arr_1=np.arange(7))
    samples = open_samples(tmp_path / "b.npz")
    assert samples.labels == {i: i for i in range(7)}
    assert np.array_equal(read(tmp_path / "b.npz"), images)


def test_npz_of_equal_images_has_equal_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        write_adm_npz(open_samples(folder), tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_some_indices_of_an_npz_are_the_right_ones(images: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", arr_0=images)
    samples = open_samples(tmp_path / "c.npz")
    batches = list(samples.batches([1, 5, 6], 2))
    assert [i for b in batches for i in b.indices] == [1, 5, 6]
    assert np.array_equal(np.concatenate([b.images for b in batches]), images[[1, 5, 6]])


def test_sample_npz_with_statistics_is_refused(images: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", arr_0=images, mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(SampleError, match="contains mu"):
        open_samples(tmp_path / "d.npz")


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"other": np.zeros(3)}, "no arr_0"),
        ({"arr_0": np.zeros((2, 4, 4, 3), np.float32)}, "wanted uint8"),
        ({"arr_0": np.zeros((2, 4, 4), np.float32)}, "wanted uint8"),
        ({"arr_0": np.zeros((4, 4, 3), np.uint8)}, "wanted uint8"),
        ({"arr_0": np.zeros((4, 4), np.uint8)}, "wanted uint8"),
        ({"arr_0": np.array([{}], dtype=object)}, "not a readable npz"),
    ],
)
def test_npz_of_another_kind_is_named(arrays: dict, complaint: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", **arrays)
    with pytest.raises(SampleError, match=complaint):
        open_samples(tmp_path / "e.npz")


def member(images: np.ndarray, shape: tuple[int, ...]) -> bytes:
    """An .npy whose header claims `shape`, whatever it holds."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return file.getvalue() + images.tobytes()


@pytest.mark.parametrize(
    "shape", [(10**15, 6, 5, 3), (8, 6, 5, 3), (6, 6, 5, 3), (-7, 6, 5, 3), (2**63, 2**63, 2, 3)]
)
def test_a_header_that_claims_other_than_the_file_holds_is_refused_at_once(
    shape: tuple[int, ...], images: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "f.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", member(images, shape))
    with pytest.raises(SampleError, match=r"not a readable npz \(arr_0.npy claims"):
        open_samples(path)


def test_a_directory_that_claims_more_than_deflate_can_hold_is_refused(
    images: np.ndarray, tmp_path: Path
) -> None:
    path, data = tmp_path / "f.npz", member(images, (10**9, 1, 1, 3))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", data)
    whole_content = bytearray(path.read_bytes())
    index = whole_content.index(b"PK\x01\x02") + 24  # uncompressed size in the central directory
    struct.pack_into("<L", whole_content, index, 3 * 10**9 + len(data) - images.size)
    path.write_bytes(whole_content)
    with pytest.raises(SampleError, match="claims"):
        open_samples(path)


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (2, 0, 4, 3), (2, 4, 0, 3), (-2, -4, 4, 3)])
def test_an_npz_of_no_images_is_named(shape: tuple[int, ...], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "n.npz", "w") as archive:
        archive.writestr("arr_0.npy", member(np.zeros(abs(math.prod(shape)), np.uint8), shape))
    with pytest.raises(SampleError, match="n.npz holds no images"):
        open_samples(tmp_path / "n.npz")


def patch_headers(path: Path, local_count: int, central: int, value: int) -> None:
    """Writes a 16-bit field of the only member's local and central headers."""
    whole_content = bytearray(path.read_bytes())
    struct.pack_into("<H", whole_content, whole_content.index(b"PK\x03\x04") + local_count, value)
    struct.pack_into("<H", whole_content, whole_content.index(b"PK\x01\x02") + central, value)
    path.write_bytes(whole_content)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ((6, 8, 1), "encrypted"),
        ((8, 10, 99), "compression 99"),
        ((8, 10, zipfile.ZIP_LZMA), "compression 14"),
    ],
)
def test_an_archive_of_another_make_is_named(
    fields: tuple[int, int, int], complaint: str, images: np.ndarray, tmp_path: Path
) -> None:
    np.savez(tmp_path / "o.npz", arr_0=images)
    patch_headers(tmp_path / "o.npz", *fields)
    with pytest.raises(SampleError, match=f"o.npz is not a readable npz .*{complaint}") as excinfo:
        open_samples(tmp_path / "o.npz")
    assert "\n" not in str(excinfo.value)


@pytest.mark.parametrize("fault", [RuntimeError, NotImplementedError, MemoryError, RecursionError])
def test_whatever_breaks_while_reading_names_the_file(
    fault: type[Exception], images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_fault(*_: object, **__: object) -> None:
        raise fault("of a kind")

    path = tmp_path / "w.npz"
    np.savez(path, arr_0=images, arr_1=np.arange(7))
    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "read_array", raise_fault)
        with pytest.raises(SampleError, match=r"w.npz: labels cannot be read \(of a kind\)"):
            adm_npz.read_labels(path)
    monkeypatch.setattr(zipfile.ZipFile, "open", raise_fault)
    with pytest.raises(SampleError, match=r"w.npz is not a readable npz \(of a kind\)"):
        open_samples(path)


@pytest.mark.parametrize(
    "labels",
    [
        np.arange(6),
        np.arange(8),
        np.arange(7).reshape(7, 1),
        np.arange(7.0),
        np.array(3),
        np.array(["a"] * 7),
        np.zeros(7, bool),
    ],
)
def test_labels_are_one_integer_an_image(
    labels: np.ndarray, images: np.ndarray, tmp_path: Path
) -> None:
    np.savez(tmp_path / "l.npz", arr_0=images, arr_1=labels)
    with pytest.raises(SampleError, match=r"l.npz arr_1 is .* wanted integer labels \(7,\)"):
        open_samples(tmp_path / "l.npz")


@pytest.mark.parametrize("label", [-1, 2**31, 2**63 - 1])
def test_a_label_that_is_no_class_is_named(label: int, images: np.ndarray, tmp_path: Path) -> None:
    labels = np.zeros(len(images), dtype=np.int64)
    labels[1] = label
    np.savez(tmp_path / "a.npz", arr_0=images, arr_1=labels)
    with pytest.raises(SampleError, match=f"holds label {label}, wanted 0 to"):
        open_samples(tmp_path / "a.npz")


def test_a_label_without_sign_does_not_come_out_negative(
    images: np.ndarray, tmp_path: Path
) -> None:
    labels = np.full(len(images), 2**63 + 5, dtype=np.uint64)
    np.savez(tmp_path / "a.npz", arr_0=images, arr_1=labels)
    with pytest.raises(SampleError, match="holds label 9223372036854775813"):
        open_samples(tmp_path / "a.npz")


def test_labels_of_python_objects_are_never_unpickled(images: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "l.npz", arr_0=images, arr_1=np.array([{}] * 7))
    with pytest.raises(SampleError, match="labels cannot be read"):
        open_samples(tmp_path / "l.npz")


@pytest.mark.parametrize("compress", [np.savez, np.savez_compressed])
def test_damaged_npz_names_the_image_it_breaks_at(compress: Any, tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    compress(path, arr_0=np.random.default_rng(0).integers(0, 256, (90, 32, 32, 3), dtype=np.uint8))
    whole_content = bytearray(path.read_bytes())
    whole_content[len(whole_content) // 2] ^= 255
    path.write_bytes(whole_content)
    with pytest.raises(
        SampleError, match=r"from image (39|42|45|87) on"
    ):  # stored members tell only at their end
        list(adm_npz.read_batches(path, 3))
    (tmp_path / "g.npz").write_bytes(whole_content[:100])
    with pytest.raises(SampleError, match="not a readable npz"):
        open_samples(tmp_path / "g.npz")


def test_corrupt_png_is_named_with_its_index(folder: Path) -> None:
    whole_content = (folder / "000003.png").read_bytes()
    (folder / "000003.png").write_bytes(whole_content[: len(whole_content) // 2])
    with pytest.raises(SampleError, match=r"image 3 .*000003\.png"):
        read(folder)


@pytest.mark.parametrize("size", [1, 3, 4, 7])  # 4: the sizes change exactly where a batch begins
def test_sizes_do_not_mix(size: int, folder: Path, tmp_path: Path) -> None:
    for k in range(4, 7):
        Image.new("RGB", (9, 9)).save(folder / f"{k:06d}.png")
    samples = open_samples(folder)
    with pytest.raises(SampleError, match=r"image 4 .* is 9x9, image 0 is 5x6"):
        list(samples.batches(samples.indices, size))
    with pytest.raises(
        SampleError, match=r"image 4 .* is 9x9, image 0 is 5x6"
    ):  # a resumed judge asks for the rest alone
        list(open_samples(folder).batches([4, 5, 6], size))


@pytest.mark.parametrize("convert", [write_adm_npz, write_png_folder])
def test_sizes_do_not_mix_in_a_copy_either(convert: Any, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for k in range(257):  # converters read 256 at a time
        Image.new("RGB", (4, 4) if k < 256 else (5, 5)).save(folder / f"{k:06d}.png")
    with pytest.raises(SampleError, match="image 256 .* is 5x5, image 0 is 4x4"):
        convert(open_samples(folder), tmp_path / "copy.npz")


def test_alpha_is_not_guessed_and_grey_becomes_rgb(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(SampleError, match="mode RGBA"):
        decode_image((tmp_path / "a.png").read_bytes(), "a.png")
    Image.new("L", (4, 4), 7).save(tmp_path / "l.png")
    assert (decode_image((tmp_path / "l.png").read_bytes(), "l.png").image == 7).all()


def png_bytes(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def sixteen_bits() -> bytes:
    """A PNG of 1 x 1 RGB pixels with 16 bits a channel; pillow does not write them, and reads them
    as 8 bits.
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(7)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (png_bytes(Image.new("P", (4, 4)), transparency=0), "mode P with transparency"),
        (png_bytes(Image.new("RGB", (4, 4)), transparency=(0, 0, 0)), "mode RGB with transparency"),
        (png_bytes(Image.new("L", (4, 4)), transparency=0), "mode L with transparency"),
        (png_bytes(Image.new("I;16", (4, 4))), "mode I"),
        (png_bytes(Image.new("LA", (4, 4))), "mode LA"),
        (sixteen_bits(), "mode RGB, 16 bits"),
    ],
)
def test_transparency_and_deep_pixels_are_refused_like_alpha(data: bytes, complaint: str) -> None:
    with pytest.raises(SampleError, match=f"x.png has {complaint}"):
        decode_image(data, "x.png")


def test_a_plain_palette_becomes_rgb() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert (decode_image(png_bytes(image), "p").image == (10, 20, 30)).all()


def run_with_a_failure(folder: Path, images: np.ndarray) -> SampleSet:
    """A run of seven samples whose sample 2 failed."""
    settings = Settings(resolution=6, sampler="flow", steps=1, guidance=1.0, tile=1)
    fields = {
        "name": "c",
        "backbone": "dit",
        "encoding": "ape",
        "weights": "w",
        "sha256": "0" * 64,
        "source": "a test",
    }
    checkpoint = Checkpoint.model_validate(
        {**fields, "sampler": "flow", "steps": 1, "guidance": 1.0}
    )
    run = RunFolder(folder)
    run.tie_to_plan(Plan(checkpoint=checkpoint, suite="digits", suite_version=1, settings=settings))
    run.record_request(range(7))
    for k, image in enumerate(images):
        request = Request(index=k, label=k)
        failed_sample = encode_sample(request, None, "broke")
        run.add_sample(failed_sample if k == 2 else encode_sample(request, image))
    return open_samples(folder)


def test_a_copy_leaves_failed_samples_out_and_can_say_how_many(
    images: np.ndarray, tmp_path: Path
) -> None:
    samples = run_with_a_failure(tmp_path / "run", images)
    assert (samples.n_excluded, samples.n_asked) == (1, 7)
    write_adm_npz(samples, tmp_path / "a.npz")
    write_png_folder(samples, tmp_path / "pngs")
    with np.load(tmp_path / "a.npz") as archive:
        assert np.array_equal(archive["arr_0"], np.delete(images, 2, 0))
        assert archive["arr_1"].tolist() == [0, 1, 3, 4, 5, 6]
    assert np.array_equal(read(tmp_path / "pngs"), np.delete(images, 2, 0))
    assert open_samples(tmp_path / "a.npz").n_excluded == 0


def test_a_copy_goes_into_an_empty_folder_only(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder_result in (folder, tmp_path / "file"):
        with pytest.raises(SampleError, match="is not an empty folder"):
            write_png_folder(open_samples(folder), folder_result)
    assert (tmp_path / "file").read_text() == "mine"


def test_lossy_folder_is_warned_of(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    assert "lossy" in open_samples(tmp_path).warnings[0]


@pytest.mark.parametrize(
    ("names", "first_items"),
    [
        (["0", "1", "2", "9", "10", "11"], ["0", "1", "2", "9"]),
        (["a0", "a1", "a9", "a10"], ["a0", "a1", "a9", "a10"]),
        (["img (2)", "img (3)", "img (10)"], ["img (2)", "img (3)", "img (10)"]),
        (["1b2", "1b10", "2b1", "10b1"], ["1b2", "1b10", "2b1"]),
        (
            ["sample_2", "sample_2x", "sample_10", "sample_100"],
            ["sample_2", "sample_2x", "sample_10"],
        ),
        (["007", "7", "10"], ["007", "7", "10"]),
    ],
)
def test_numbered_images_count_by_number(
    names: list[str], first_items: list[str], tmp_path: Path
) -> None:
    for name in reversed(names):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    samples = open_samples(tmp_path, len(first_items))
    assert (
        samples.files is not None
        and [samples.files[i].stem for i in samples.indices] == first_items
    )


def test_what_is_not_read_of_a_folder_is_told(folder: Path) -> None:
    assert open_samples(folder).warnings == ()
    (folder / ".hidden").write_text("")
    (folder / "results").mkdir()  # what eval puts there itself
    assert open_samples(folder).warnings == ()
    (folder / "more").mkdir()
    for name in ("a.tiff", "b.TIFF", "c.gif"):
        (folder / name).write_bytes(b"")
    assert open_samples(folder).warnings == (
        "images: ignored 3 other files (.gif, .tiff) and 1 folder next to the images",
    )


def test_the_order_is_told_where_names_are_no_plain_numbers(tmp_path: Path) -> None:
    message = "images: read in natural order of their names, which are no plain numbers"
    for location, names, differs in (
        ("a", ["img_2", "img_10"], True),
        ("b", ["img_02", "img_10"], False),
        ("c", ["7b", "12"], True),
    ):
        for name in names:
            (tmp_path / location).mkdir(exist_ok=True)
            Image.new("RGB", (4, 4)).save(tmp_path / location / f"{name}.png")
        (line,) = open_samples(tmp_path / location).warnings
        assert line.startswith(message) and ("10 comes after 9" in line) == differs, location
    (tmp_path / "c" / "7b.png").rename(tmp_path / "c" / "7.png")
    assert open_samples(tmp_path / "c").warnings == ()


def test_moving_pictures_are_refused() -> None:
    frames = [Image.new("RGB", (4, 4), (k, 0, 0)) for k in range(3)]
    with pytest.raises(SampleError, match="x.png has 3 frames, wanted one image"):
        decode_image(png_bytes(frames[0], save_all=True, append_images=frames[1:]), "x.png")


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="holds no images"):
        open_samples(tmp_path)
    with pytest.raises(SampleError, match="absent does not exist; give a run folder"):
        open_samples(tmp_path / "absent")
    (tmp_path / "notes.txt").write_text("no images\n")
    with pytest.raises(SampleError, match="is no run folder, image folder or .npz"):
        open_samples(tmp_path / "notes.txt")


def test_a_record_cannot_point_out_of_its_folder(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="points outside"):
        path_inside(tmp_path, "../../etc/passwd", 3)


def test_many_paths_are_those_of_each_name(tmp_path: Path) -> None:
    """Also where a folder or a file is a link."""
    folder = tmp_path / "run"
    (folder / "images").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (folder / "linked").symlink_to("images")
    (folder / "leaving").symlink_to("../outside")
    (folder / "images/link.png").symlink_to("../plan.json")
    (folder / "images/leaving.png").symlink_to("../../outside/x.png")
    (tmp_path / "outside/back.png").symlink_to("../run/images/0.png")
    inner_names = [
        *("images/0.png", "images/missing.png", "linked/0.png", "images/link.png"),
        *("images/../images/1.png", "2.png", "./3.png", "images/", ".", "images/..", ""),
        *("leaving/back.png", "leaving/back.png/../x.png", "a/b/../c.png"),
    ]
    paths = paths_inside(folder, dict(enumerate(inner_names)))
    assert paths == {i: path_inside(folder, name, i) for i, name in enumerate(inner_names)}
    assert paths[2] == folder / "images/0.png"
    outer_names = [
        *("../x.png", "images/../../x.png", "leaving/x.png", "images/leaving.png", "/etc/passwd"),
        *("images/\0.png", ".."),
    ]
    for name in outer_names:
        with pytest.raises(SampleError) as error_info:
            path_inside(folder, name, 1)
        with pytest.raises(SampleError) as many_error_info:
            paths_inside(folder, {0: "images/0.png", 1: name})
        assert str(many_error_info.value) == str(error_info.value)


def test_png_bytes_are_lossless(images: np.ndarray) -> None:
    assert np.array_equal(decode_image(encode_png(images[0]), "x").image, images[0])


def test_index_ranges_read_and_write() -> None:
    assert parse_indices("0-2,7,5-6") == [0, 1, 2, 5, 6, 7]
    assert consecutive_ranges([7, 5, 6, 0, 1]) == [(0, 1), (5, 7)]
    for bad_text in ("", "a", "3-1", "-2", "1-", "1--2", "0.5"):
        with pytest.raises(ValueError, match="no index range"):
            parse_indices(bad_text)


def test_asked_indices_add_up_over_calls(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.record_request([0, 1, 2])
    run.record_request([1, 2])
    assert (
        len((tmp_path / "requests.jsonl").read_text().splitlines()) == 1
    )  # nothing new, nothing written
    run.record_request(range(2, 6))
    assert run.requested_indices() == list(range(6))
