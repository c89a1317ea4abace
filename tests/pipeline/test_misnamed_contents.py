"""Archives with one name twice, and images of another format than their names say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harope_bench.core.array_archive import load_arrays
from harope_bench.core.errors import SampleError, StorageError
from harope_bench.data import adm_npz
from harope_bench.data.image_folder import list_images
from harope_bench.data.image_io import encode_png
from harope_bench.pipeline.evaluate import FeatureScoring, evaluate


def write_repeated_name(path: Path, names: tuple[str, str]) -> Path:
    """Write an npz with two members that numpy calls by one name."""
    import warnings
    import zipfile

    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        for k, name in enumerate(names):
            with archive.open(zipfile.ZipInfo(name), "w") as member:
                np.lib.format.write_array(member, np.full((2, 4, 4, 3), k, np.uint8))
    return path


@pytest.mark.parametrize("names", [("arr_0.npy", "arr_0.npy"), ("arr_0.npy", "arr_0")])
def test_an_npz_with_one_name_twice_is_rejected_by_every_reader(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    path = write_repeated_name(tmp_path / "x.npz", names)
    for read in (
        adm_npz.array_names,
        adm_npz.images_shape,
        lambda file: list(adm_npz.read_batches(file, 2)),
        adm_npz.read_labels,
    ):
        with pytest.raises(SampleError, match="arr_0 twice"):
            read(path)
    with pytest.raises(StorageError, match="arr_0 twice"):
        load_arrays(path)


@pytest.mark.parametrize(
    ("form", "lossy"), [("JPEG", True), ("WEBP", True), ("TIFF", False), ("BMP", False)]
)
def test_bytes_of_another_format_than_the_name_says_are_told(
    tmp_path: Path, form: str, lossy: bool
) -> None:
    from PIL import Image

    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        (tmp_path / f"{i}.png").write_bytes(encode_png(image))
    Image.fromarray(images[1]).save(tmp_path / "1.png", format=form)
    warnings = list_images(tmp_path).warnings
    assert f"images: 1 of 3 hold another format than their names say (1.png is {form})" in warnings
    assert lossy == ("1 of 3 images have a lossy format, which changes FID" in warnings)


def test_an_exact_suite_rejects_bytes_of_another_format_than_the_name_says(tmp_path: Path) -> None:
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "0.png", format="JPEG")
    with pytest.raises(
        SampleError, match=r"0\.png is JPEG\); imagenet-256 is scored on lossless images"
    ):
        evaluate(tmp_path, tmp_path / "out", FeatureScoring("imagenet-256", judge="digits-net"))
    assert not (tmp_path / "out").exists()
