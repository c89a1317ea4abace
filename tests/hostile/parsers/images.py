"""Readers of images, of arrays of images and of statistics of images."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from hostile import documents as d
from hostile.parsers.table import Table

from harope_bench.core import checksums, registry, storage, text_file
from harope_bench.core.errors import SampleError
from harope_bench.core.schema import Request
from harope_bench.data import adm_npz, image_io, run_folder
from harope_bench.data.folder_writer import write_folder
from harope_bench.data.sample_set import open_samples
from harope_bench.judges.runners import common
from harope_bench.pipeline import moments_cache, named_images, predictions, reference_stats
from harope_bench.suites import real_images
from harope_bench.suites.imagenet_val import ImageNetValSuite
from harope_bench.suites.official_layouts import dpg

TABLE = Table()
parser = TABLE.add


def read_adm(folder: Path) -> object:
    path = folder / "x.npz"
    images = list(adm_npz.read_batches(path, 2))
    return (
        adm_npz.array_names(path),
        adm_npz.images_shape(path),
        images,
        adm_npz.read_labels(path),
        open_samples(path).labels,
    )


parser("ADM npz", lambda: {"x.npz": d.adm()}, read_adm)
JUDGE = "digits-net"


def read_reference(folder: Path) -> object:
    path = folder / "x.npz"
    return reference_stats.reference_origin(path), reference_stats.open_reference(
        registry.load_by_name("suites", "digits"), JUDGE, path
    )


parser("reference", lambda: {"x.npz": d.moments_reference()}, read_reference)
parser(
    "reference to replace",
    lambda: {"x.npz": d.moments_reference()},
    lambda f: reference_stats._check_target(f / "x.npz", small_set(f), JUDGE, False),
)


def small_set(folder: Path) -> Any:
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images/0.png").write_bytes(d.png())
    return open_samples(folder / "images")


def read_kept_moments(folder: Path) -> object:
    array = np.random.default_rng(0).normal(size=(8, 3))
    checksums.record_file_hashes(folder, ["x.npz"])
    return moments_cache.sum_cached_moments(
        folder / "x.npz", array, moments_cache.ShardHashes([d.HASH], 8)
    ), moments_cache.are_sums_of(folder / "x.npz", array)


parser("kept moments", lambda: {"x.npz": d.kept_moments()}, read_kept_moments)
parser(
    "predictions",
    lambda: {
        "x.npz": d.npz_of(
            "predictions",
            {"key": np.array("k"), "failed": np.array([1]), "reasons": np.array(["x"]), "indices": np.arange(2), "ranked_classes": np.zeros((2, 5)),
             "logits": np.zeros((2, 5))}
        )
    },
    lambda f: predictions.find_shard(f / "x.npz", "k", ()),
)  # fmt: skip


def read_images(folder: Path) -> object:
    samples = open_samples(folder)
    paths = [path for path in sorted(folder.iterdir()) if path.is_file()]
    sheets = [real_images.decode_and_crop(path.read_bytes(), path.name, 8, 0.9) for path in paths]
    return (
        [samples.image(index) for index in samples.indices],
        image_io.file_formats(paths),
        image_io.wrong_suffixes_text(paths),
        [image_io.image_size(path.read_bytes(), path.name) for path in paths],
        sheets,
        cut(folder),
    )


def cut(folder: Path) -> object:
    return [dpg.tile_boxes(path, tiles=1) for path in folder.iterdir()]


for form in ("PNG", "JPEG", "BMP", "WEBP"):
    parser(f"{form} image", lambda form=form: {f"0.{form.lower()}": d.png(8, form)}, read_images)  # type: ignore[misc]
parser(
    "runner's image", lambda: {"x.png": d.png()}, lambda f: (common.load_image(f / "x.png"), common.file_sha256(f / "x.png")),
    errors=(ValueError, OSError, SyntaxError),  # they become the answer's error
)  # fmt: skip


def read_validation(folder: Path) -> object:
    pictures = ImageNetValSuite().real_images(folder, None)
    images = []
    for index in range(len(pictures.labels)):
        with suppress(SampleError):  # `classify` counts the picture as missing and reads the next
            images.append(pictures.decode(index, pictures.read_bytes(index), 8, 1.0))
    return images


parser(
    "validation list",
    lambda: {"val.txt": b"a.png 3\nb.png 5\n", "a.png": d.png(), "b.png": d.png()},
    read_validation,
    "val.txt",
)


def write_again(folder: Path) -> object:
    samples = small_set(folder)
    return write_folder(
        folder / "out",
        ["0.png"],
        lambda names: (samples.image(0) for _ in names),
        {"note.txt": "x\n"},
    )


parser(
    "a folder to go on with", lambda: {"out/0.png": d.png(), "out/note.txt": b"x\n"}, write_again
)


def run_to_name() -> dict[str, bytes]:
    """A run of two images, of which one has its copy already."""
    files = {f"images/{k:06d}.png": d.png(8 + k) for k in range(2)}
    records = [
        {"index": k, "file": name, "sha256": storage.sha256_bytes(data), "prompt": "a cat"}
        for k, (name, data) in enumerate(files.items())
    ]
    return {**files, "samples.jsonl": d.as_lines(*records), "named/0/0.png": d.png()}


parser(
    "images to name",
    run_to_name,
    lambda f: named_images.copy_named_images(f, {0: "0/0.png", 1: "1/0.png"}),
)


def store_samples(folder: Path) -> object:
    samples = open_samples(folder / "images")
    run = run_folder.RunFolder(folder)
    request = Request(index=0, prompt="a cat")
    reason = text_file.read_text(folder / "reason.txt")
    encoded = [
        run_folder.encode_sample(request, samples.image(0)),
        run_folder.encode_sample(request, None, reason or "no image"),
    ]
    return [sample.record.to_json() for sample in encoded], run.read_records()


parser(
    "samples to store",
    lambda: {"images/0.png": d.png(), "reason.txt": b"RuntimeError: no memory"},
    store_samples,
)
