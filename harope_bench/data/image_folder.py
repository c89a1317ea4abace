"""Folders of images: which files are read, in which order, and which are ignored."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from harope_bench.core.errors import SampleError
from harope_bench.data.image_io import file_formats, wrong_suffixes_text
from harope_bench.data.run_folder import JUDGE_OUTPUT_FOLDERS, RESULTS_FOLDER

IMAGE_SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".webp")
RESERVED_FOLDERS = (RESULTS_FOLDER, *JUDGE_OUTPUT_FOLDERS)
FILE_LIST = "file_list.jsonl"  # the list that `convert` writes beside images
UNFINISHED_MARKER = ".unfinished"  # a file in the folder while `convert` is writing it
DIGITS_PATTERN = re.compile(r"([0-9]+)")
NATURAL_ORDER_WARNING = "images: read in natural order of their names, which are no plain numbers"


class ImageListing(NamedTuple):
    """Image files in order, and warnings about the folder for the results."""

    files: list[Path]
    warnings: tuple[str, ...]


def check_finished(folder: Path) -> None:
    """Raise SampleError for a folder that an interrupted conversion left incomplete."""
    if (folder / UNFINISHED_MARKER).exists():
        raise SampleError(
            f"{folder} is unfinished: convert was interrupted; run the same convert again, or"
            f" delete {UNFINISHED_MARKER} there to read this part"
        )


def list_images(folder: Path) -> ImageListing:
    """Return the images of a folder, and a warning about further files that are not hidden."""
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    folders = [path for path in entries if path.is_dir() and path.name not in RESERVED_FOLDERS]
    files = [path for path in entries if not path.is_dir() and path.name != FILE_LIST]
    images = sort_naturally(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)
    ignored_files = [path for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]
    warnings = (
        *format_warnings(images),
        *_file_order_warnings(images),
        *_ignored_entries_warnings(ignored_files, folders),
    )
    return ImageListing(images, warnings)


def images_below(folder: Path) -> list[Path]:
    """Return every image in a folder and its subfolders, in natural order.

    Links to folders are not followed.
    """
    images: list[Path] = []
    for parent, subfolders, names in os.walk(folder, followlinks=False):
        # Assigning to the slice makes os.walk skip the removed subfolders.
        is_top = Path(parent) == folder
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith(".") and not (is_top and name in RESERVED_FOLDERS)
        ]
        paths = [Path(parent, name) for name in names if not name.startswith(".")]
        images += [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(
        images, key=lambda path: [natural_key(part) for part in path.relative_to(folder).parts]
    )


def natural_key(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """Return a sort key that compares groups of digits as numbers: img_2.png precedes img_10.png.

    >>> sorted(["a10b2", "a9b10", "a10b1"], key=natural_key)
    ['a9b10', 'a10b1', 'a10b2']
    """
    stem, dot, suffix = name.rpartition(".")
    parts = DIGITS_PATTERN.split(stem if dot else suffix)  # text, digits, text, digits, ...
    return [_number_key(part) if k % 2 else part for k, part in enumerate(parts)], name


def _number_key(digits: str) -> tuple[int, str]:
    """Return a sort key of digits as a number. `int` accepts at most 4,300 digits."""
    significant = digits.lstrip("0")
    return len(significant), significant


def sort_naturally(paths: Iterable[Path]) -> list[Path]:
    """Return the files of one folder in natural order of their names."""
    return sorted(paths, key=lambda path: natural_key(path.name))


def format_warnings(images: list[Path]) -> tuple[str, ...]:
    """Return warnings about lossy images and about images whose suffix names another format."""
    warnings = []
    n_lossy = sum(file.is_lossy for file in file_formats(images))
    if n_lossy:
        warnings.append(
            f"{n_lossy:,} of {len(images):,} images have a lossy format, which changes FID"
        )
    misnamed_text = wrong_suffixes_text(images)
    if misnamed_text:
        warnings.append(f"images: {misnamed_text}")
    return tuple(warnings)


def is_number(name: str) -> bool:
    """Return whether a name consists of digits only."""
    return name.isascii() and name.isdigit()


def _file_order_warnings(images: list[Path]) -> tuple[str, ...]:
    """Return a warning if the names of several images are not plain numbers."""
    if len(images) < 2 or all(is_number(path.stem) for path in images):
        return ()
    names = [path.name for path in images]
    if names == sorted(names):
        return (NATURAL_ORDER_WARNING,)
    return (f"{NATURAL_ORDER_WARNING}: 10 comes after 9, where an order by letters has it before",)


def folders_with_images(folder: Path) -> dict[str, int]:
    """Return the number of images in each subfolder itself, by relative path, naturally sorted."""
    counts = Counter(path.parent for path in images_below(folder) if path.parent != folder)
    return {path.relative_to(folder).as_posix(): count for path, count in counts.items()}


def nested_folders_text(folder: Path) -> str:
    """Return in words which subfolders contain images, at most three of them; empty without any."""
    counts = folders_with_images(folder)
    text = ", ".join(f"{name}/ ({count:,})" for name, count in [*counts.items()][:3])
    return f"{text} and {len(counts) - 3:,} more" if len(counts) > 3 else text


def _ignored_images_text(folders: list[Path]) -> str:
    """Return in words how many images the subfolders contain; empty without any."""
    count = sum(len(images_below(path)) for path in folders)
    return f" with {count:,} image{'s' * (count > 1)}" if count else ""


def _ignored_entries_warnings(
    ignored_files: list[Path], ignored_folders: list[Path]
) -> tuple[str, ...]:
    """Return one warning about the ignored files and subfolders of a folder; empty without any."""
    parts = []
    if ignored_files:
        suffixes = ", ".join(sorted({path.suffix.lower() or "no suffix" for path in ignored_files}))
        parts.append(
            f"{len(ignored_files):,} other file{'s' * (len(ignored_files) > 1)} ({suffixes})"
        )
    if ignored_folders:
        images_text = _ignored_images_text(ignored_folders)
        parts.append(
            f"{len(ignored_folders):,} folder{'s' * (len(ignored_folders) > 1)}{images_text}"
        )
    if not parts:
        return ()
    return (f"images: ignored {' and '.join(parts)} next to the images",)
