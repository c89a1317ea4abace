"""Suite imagenet-val: the 50,000 validation pictures of ImageNet-1k, to be named by a classifier.

They are the user's own and never brought by this package: --images FOLDER, or
HAROPE_BENCH_IMAGENET_VAL. Two layouts are read:
a folder for each class named by its wnid, whose sorted order numbers the classes (torchvision's
ImageFolder); or all
ILSVRC2012_val_*.JPEG in one folder with val.txt, lines "name index" with the index of that same
order (the list of
caffe's get_ilsvrc_aux.sh). ILSVRC2012_validation_ground_truth.txt is refused: its ids are in
another order.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harope_bench.core.conditioning import Conditioning
from harope_bench.core.errors import OptionError, SampleError, StorageError
from harope_bench.core.index_ranges import whole_number
from harope_bench.core.regular_file import IMAGE_BYTES, is_file, read_regular
from harope_bench.core.storage import convert_os_errors
from harope_bench.core.text_file import read_text
from harope_bench.suites.base import ClassificationSuite
from harope_bench.suites.real_images import decode_and_crop

FOLDER_VARIABLE = "HAROPE_BENCH_IMAGENET_VAL"
LIST_FILE = "val.txt"
WNID = re.compile(r"n\d{8}")
SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp")
IMAGES_PER_CLASS = 50  # pictures of a class


@dataclass(frozen=True)
class FileImages:
    """Pictures in files, in the order of their names; that order is the same in both layouts."""

    paths: list[Path]
    labels: list[int]
    is_complete: bool

    @property
    def names(self) -> list[str]:
        """File names without folders, so that both layouts are known as the same pictures."""
        return [path.name for path in self.paths]

    def data(self, index: int) -> bytes:
        """The file's bytes; SampleError where it cannot be read."""
        path = self.paths[index]
        try:
            return read_regular(path, IMAGE_BYTES)
        except OSError as error:
            raise SampleError(f"{path.name} cannot be read ({error.strerror})") from error
        except StorageError as error:
            raise SampleError(
                f"{path.name} is no regular file of at most {IMAGE_BYTES >> 20} MiB"
            ) from error

    def look(self, index: int, data: bytes, side: int, crop_ratio: float) -> np.ndarray:
        """The picture as (side, side, 3) uint8; SampleError where it is damaged."""
        return decode_and_crop(data, self.names[index], side, crop_ratio)


class ImageNetValSuite(ClassificationSuite):
    """Standard single-crop protocol: shorter side to resolution / crop_ratio, bicubic, centre crop;
    the paper's recipe has ratio 1.
    """

    version = 1
    title = "ImageNet-1k validation pictures to be named, 224 x 224"
    count = 50_000
    classes = 1000
    asks = Conditioning("pictures", 1000)
    resolution = 224
    crop_ratio = 1.0
    judges: dict[str, str] = {}
    evaluators = ("top1",)

    def pictures(self, place: Path | None, labels: Path | None) -> FileImages:
        """The pictures of a folder of either layout; nothing is decoded yet.

        Raises:
            OptionError: no folder named, none there, an empty one, or classes or lines that do not
                fit.
        """
        folder = place or (
            Path(os.environ[FOLDER_VARIABLE]) if os.environ.get(FOLDER_VARIABLE) else None
        )
        if folder is None:
            raise OptionError(
                "imagenet-val needs your own copy of the pictures, none was named; give --images"
                f" FOLDER or set {FOLDER_VARIABLE}"
            )
        if not folder.is_dir():
            raise OptionError(
                f"{folder} is no folder; give --images the folder of the 50,000 validation pictures"
            )
        with convert_os_errors(folder):
            inside = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
        below = [p for p in inside if p.is_dir()]
        pairs = (
            self._read_class_folders(folder, below)
            if below and labels is None
            else self._read_label_list(folder, labels or folder / LIST_FILE)
        )
        pairs.sort(key=lambda pair: (pair[0].name, pair[1]))
        counts = np.bincount([label for _, label in pairs], minlength=self.classes)
        return FileImages(
            [p for p, _ in pairs],
            [label for _, label in pairs],
            bool((counts == IMAGES_PER_CLASS).all()),
        )

    def _read_class_folders(self, folder: Path, below: list[Path]) -> list[tuple[Path, int]]:
        if other := [p.name for p in below if not WNID.fullmatch(p.name)]:
            raise OptionError(
                f"{folder} holds the folder {other[0]}, wanted wnids alone (n01440764, ...); give"
                " the folder above the classes"
            )
        if len(below) != self.classes:
            raise OptionError(
                f"{folder} holds {len(below):,} class folders, wanted {self.classes:,}; complete"
                " it, empty ones too"
            )
        with convert_os_errors(folder):
            pairs = [
                (p, label)
                for label, kind in enumerate(below)
                for p in kind.iterdir()
                if p.suffix.lower() in SUFFIXES
            ]
        if not pairs:
            raise OptionError(
                f"the class folders of {folder} hold no pictures ({', '.join(SUFFIXES)}); check"
                " --images"
            )
        return pairs

    def _read_label_list(self, folder: Path, path: Path) -> list[tuple[Path, int]]:
        if not path.is_file():
            raise OptionError(
                f"{folder} holds no class folders and {path.name} is not there; bring caffe's"
                f" {LIST_FILE} (lines 'name index') or give --ground-truth"
            )
        lines = read_text(path).split("\n")
        pairs = [
            (folder / name, label)
            for name, label in (
                self._parse_line(path, n, line) for n, line in enumerate(lines, 1) if line.strip()
            )
        ]
        if not pairs:
            raise OptionError(f"{path} holds no line; wanted lines 'name index'")
        if repeated := [
            name for name, times in Counter(p.name for p, _ in pairs).items() if times > 1
        ]:
            raise OptionError(f"{path} lists {repeated[0]} more than once; keep one line a picture")
        if not any(is_file(p) for p, _ in pairs):
            raise OptionError(
                f"{folder} holds none of the {len(pairs):,} pictures that {path.name} lists; check"
                " --images"
            )
        return pairs

    def _parse_line(self, path: Path, number: int, line: str) -> tuple[str, int]:
        name, _, text = line.strip().partition(" ")
        label = whole_number(text.strip())
        if name.isdecimal() and not text:
            raise OptionError(
                f"{path} line {number} is a bare number; ILSVRC2012_validation_ground_truth.txt"
                f" counts classes in another order, give caffe's {LIST_FILE} with lines 'name"
                " index'"
            )
        if label is None or label >= self.classes or Path(name).name != name:
            raise OptionError(
                f"{path} line {number} is {line.strip()[:60]!r}, wanted 'name index' with an index"
                f" below {self.classes:,}"
            )
        return name, label


PLUGIN = ImageNetValSuite()
