"""Suite imagenet-val: the 50,000 validation images of ImageNet-1k, for classifiers.

The user provides the images with --images FOLDER or HAROPE_BENCH_IMAGENET_VAL; this package never
fetches them. Two layouts are read:
- one folder for each class, named by its wnid; their sorted order numbers the classes
  (torchvision's ImageFolder);
- all ILSVRC2012_val_*.JPEG in one folder with val.txt, lines "name index" with the index in the
  same order (the list of caffe's get_ilsvrc_aux.sh).
ILSVRC2012_validation_ground_truth.txt is rejected, because its ids are in another order.
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
from harope_bench.core.index_ranges import parse_whole_number
from harope_bench.core.regular_file import MAX_IMAGE_BYTES, is_file, read_regular
from harope_bench.core.storage import convert_os_errors
from harope_bench.core.text_file import read_text
from harope_bench.suites.base import ClassificationSuite
from harope_bench.suites.real_images import decode_and_crop

FOLDER_VARIABLE = "HAROPE_BENCH_IMAGENET_VAL"
LIST_FILE = "val.txt"
WNID = re.compile(r"n\d{8}")
SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp")
IMAGES_PER_CLASS = 50

LabelledPath = tuple[Path, int]  # an image file and its class


@dataclass(frozen=True)
class FileImages:
    """Images in files, in the order of their names, which is the same in both layouts."""

    paths: list[Path]
    labels: list[int]
    is_complete: bool

    @property
    def names(self) -> list[str]:
        """Return the file names without folders, which are equal in both layouts."""
        return [path.name for path in self.paths]

    def read_bytes(self, index: int) -> bytes:
        """Return the bytes of a file; raise SampleError where it cannot be read."""
        path = self.paths[index]
        try:
            return read_regular(path, MAX_IMAGE_BYTES)
        except OSError as error:
            raise SampleError(f"{path.name} cannot be read ({error.strerror})") from error
        except StorageError as error:
            raise SampleError(
                f"{path.name} is no regular file of at most {MAX_IMAGE_BYTES >> 20} MiB"
            ) from error

    def decode(self, index: int, data: bytes, side: int, crop_ratio: float) -> np.ndarray:
        """Return the image in these bytes, resized and cropped to (side, side, 3) uint8.

        Raises:
            SampleError: The bytes are damaged.
        """
        return decode_and_crop(data, self.paths[index].name, side, crop_ratio)


class ImageNetValSuite(ClassificationSuite):
    """The single-crop protocol: shorter side resized to resolution / crop_ratio, centre crop.

    The resize is bicubic. The paper's recipe has ratio 1.
    """

    version = 1
    title = "ImageNet-1k validation images to be classified, 224 x 224"
    count = 50_000
    classes = 1000
    requested_conditioning = Conditioning("images", 1000)
    resolution = 224
    crop_ratio = 1.0
    judges: dict[str, str] = {}
    evaluators = ("top1",)

    def real_images(self, folder: Path | None, labels: Path | None) -> FileImages:
        """Return the images of a folder in either layout, without decoding them.

        Args:
            folder: by default the one of HAROPE_BENCH_IMAGENET_VAL.
            labels: list of names and classes; by default val.txt in the folder.

        Raises:
            OptionError: No folder is given, it is missing or empty, or its class folders or the
                lines of the list are invalid.
        """
        folder = self._require_folder(folder)
        with convert_os_errors(folder):
            entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
        subfolders = [p for p in entries if p.is_dir()]
        if subfolders and labels is None:
            labelled_paths = self._read_class_folders(folder, subfolders)
        else:
            labelled_paths = self._read_label_list(folder, labels or folder / LIST_FILE)

        labelled_paths.sort(key=lambda pair: (pair[0].name, pair[1]))
        class_counts = np.bincount([label for _, label in labelled_paths], minlength=self.classes)
        return FileImages(
            paths=[path for path, _ in labelled_paths],
            labels=[label for _, label in labelled_paths],
            is_complete=bool((class_counts == IMAGES_PER_CLASS).all()),
        )

    def _require_folder(self, folder: Path | None) -> Path:
        """Return the given folder or the environment variable's; raise OptionError without one."""
        if folder is None and os.environ.get(FOLDER_VARIABLE):
            folder = Path(os.environ[FOLDER_VARIABLE])
        if folder is None:
            raise OptionError(
                "imagenet-val needs your own copy of the images, none was given; give --images"
                f" FOLDER or set {FOLDER_VARIABLE}"
            )
        if not folder.is_dir():
            raise OptionError(
                f"{folder} is no folder; give --images the folder of the 50,000 validation images"
            )
        return folder

    def _read_class_folders(self, folder: Path, subfolders: list[Path]) -> list[LabelledPath]:
        """Return the images of the class folders; raise OptionError for invalid class folders."""
        invalid_names = [p.name for p in subfolders if not WNID.fullmatch(p.name)]
        if invalid_names:
            raise OptionError(
                f"{folder} has the folder {invalid_names[0]}, wanted only wnids (n01440764, ...);"
                " give the folder that contains the class folders"
            )
        if len(subfolders) != self.classes:
            raise OptionError(
                f"{folder} has {len(subfolders):,} class folders, wanted {self.classes:,}; add the"
                " missing ones, empty ones too"
            )
        with convert_os_errors(folder):
            labelled_paths = [
                (path, label)
                for label, class_folder in enumerate(subfolders)
                for path in class_folder.iterdir()
                if path.suffix.lower() in SUFFIXES
            ]
        if not labelled_paths:
            raise OptionError(
                f"the class folders of {folder} have no images ({', '.join(SUFFIXES)}); check"
                " --images"
            )
        return labelled_paths

    def _read_label_list(self, folder: Path, path: Path) -> list[LabelledPath]:
        """Return the images of a list of names and classes; raise OptionError if it is invalid."""
        if not path.is_file():
            raise OptionError(
                f"{folder} has no class folders and {path.name} is missing; add caffe's"
                f" {LIST_FILE} (lines 'name index') or give --ground-truth"
            )
        lines = read_text(path).split("\n")
        labelled_names = [
            self._parse_line(path, line_number, line)
            for line_number, line in enumerate(lines, 1)
            if line.strip()
        ]
        if not labelled_names:
            raise OptionError(f"{path} has no line; wanted lines 'name index'")

        name_counts = Counter(name for name, _ in labelled_names)
        repeated_names = [name for name, count in name_counts.items() if count > 1]
        if repeated_names:
            raise OptionError(
                f"{path} lists {repeated_names[0]} more than once; keep one line for each image"
            )
        labelled_paths = [(folder / name, label) for name, label in labelled_names]
        if not any(is_file(image) for image, _ in labelled_paths):
            raise OptionError(
                f"{folder} has none of the {len(labelled_paths):,} images that {path.name} lists;"
                " check --images"
            )
        return labelled_paths

    def _parse_line(self, path: Path, line_number: int, line: str) -> tuple[str, int]:
        """Return file name and class on a line of the list; raise OptionError if it has neither."""
        name, _, index_text = line.strip().partition(" ")
        label = parse_whole_number(index_text.strip())
        if name.isdecimal() and not index_text:
            raise OptionError(
                f"{path} line {line_number} is only a number;"
                " ILSVRC2012_validation_ground_truth.txt counts classes in another order, give"
                f" caffe's {LIST_FILE} with lines 'name index'"
            )
        if label is None or label >= self.classes or Path(name).name != name:
            raise OptionError(
                f"{path} line {line_number} is {line.strip()[:60]!r}, wanted 'name index' with an"
                f" index below {self.classes:,}"
            )
        return name, label


PLUGIN = ImageNetValSuite()
