"""A folder of images: which files are read, in what order, and what is left unread."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from harope_bench.core.errors import SampleError
from harope_bench.data.image_io import file_formats, misnamed_files_text
from harope_bench.data.run_folder import JUDGE_OUTPUT_FOLDERS, RESULTS_FOLDER

IMAGE_SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".webp")
RESERVED_FOLDERS = (RESULTS_FOLDER, *JUDGE_OUTPUT_FOLDERS)
FILE_LIST = "file_list.jsonl"  # what converting puts beside images
UNFINISHED_MARKER = ".unfinished"  # stands in a folder as long as convert writes it
DIGITS_PATTERN = re.compile(r"([0-9]+)")
NATURAL_ORDER_WARNING = "images: read in natural order of their names, which are no plain numbers"


class ImageListing(NamedTuple):
    """Image files in order, and what a result must say of the folder."""

    files: list[Path]
    warnings: tuple[str, ...]


def check_finished(folder: Path) -> None:
    """Raise SampleError for a folder that an interrupted conversion left: its images are a part of
    a set and no set.
    """
    if (folder / UNFINISHED_MARKER).exists():
        raise SampleError(
            f"{folder} is unfinished: convert was interrupted; run the same convert again, or"
            f" delete {UNFINISHED_MARKER} there to read this part"
        )


def list_images(folder: Path) -> ImageListing:
    """Return the images of a folder; hidden names are skipped, all else that is not read is a
    warning.
    """
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    folders = [path for path in entries if path.is_dir() and path.name not in RESERVED_FOLDERS]
    files = [path for path in entries if not path.is_dir() and path.name != FILE_LIST]
    images = sort_naturally(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)
    others = [path for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]
    return ImageListing(
        images,
        (
            *format_warnings(images),
            *_file_order_warnings(images),
            *_unread_warnings(others, folders),
        ),
    )


def images_below(folder: Path) -> list[Path]:
    """Return every image of a folder and of the folders in it, in natural order; links to folders
    are not followed.
    """
    images: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=False):
        top = Path(place) == folder
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not (top and name in RESERVED_FOLDERS)
        ]
        paths = [Path(place, name) for name in names if not name.startswith(".")]
        images += [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(
        images, key=lambda path: [natural_key(part) for part in path.relative_to(folder).parts]
    )


def natural_key(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """Return a sort key that compares runs of digits as numbers: img_2.png comes before img_10.png.

    >>> sorted(["a10b2", "a9b10", "a10b1"], key=natural_key)
    ['a9b10', 'a10b1', 'a10b2']
    """
    stem, dot, suffix = name.rpartition(".")
    parts = DIGITS_PATTERN.split(stem if dot else suffix)  # text and digits in turn, text first
    return [_number_key(part) if place % 2 else part for place, part in enumerate(parts)], name


def _number_key(digits: str) -> tuple[int, str]:
    """Return a sort key of digits as a number, of however many; `int` takes 4,300."""
    significant = digits.lstrip("0")
    return len(significant), significant


def sort_naturally(paths: Iterable[Path]) -> list[Path]:
    """Return files of one folder in natural order of their names."""
    return sorted(paths, key=lambda path: natural_key(path.name))


def format_warnings(images: list[Path]) -> tuple[str, ...]:
    """Return warnings where images are of a lossy format, or of another one than their names
    say.
    """
    count = sum(file.is_lossy for file in file_formats(images))
    warnings: tuple[str, ...] = (
        (f"{count:,} of {len(images):,} images are of a lossy format, which moves FID",)
        if count
        else ()
    )
    line = misnamed_files_text(images)
    return (*warnings, f"images: {line}") if line else warnings


def is_number(name: str) -> bool:
    """Return whether a name is digits alone."""
    return name.isascii() and name.isdigit()


def _file_order_warnings(images: list[Path]) -> tuple[str, ...]:
    """Return a warning where the order is not that of plain numbers and there is more than one
    image to order.
    """
    if len(images) < 2 or all(is_number(path.stem) for path in images):
        return ()
    names = [path.name for path in images]
    differs = (
        ""
        if names == sorted(names)
        else ": 10 comes after 9, where an order by letters has it before"
    )
    return (f"{NATURAL_ORDER_WARNING}{differs}",)


def folders_with_images(folder: Path) -> dict[str, int]:
    """Return how many images each folder below holds itself, by its relative name, in natural
    order.
    """
    counts = Counter(path.parent for path in images_below(folder) if path.parent != folder)
    return {path.relative_to(folder).as_posix(): count for path, count in counts.items()}


def nested_folders_text(folder: Path) -> str:
    """Return in words which folders below hold images, the first three of them; empty where none
    does.
    """
    counts = folders_with_images(folder)
    shown = ", ".join(f"{name}/ ({count:,})" for name, count in [*counts.items()][:3])
    return shown + (f" and {len(counts) - 3:,} more" if len(counts) > 3 else "")


def _unread_images_text(folders: list[Path]) -> str:
    """Return how many images the folders hold that are not read."""
    count = sum(len(images_below(path)) for path in folders)
    return f" with {count:,} image{'s' * (count > 1)}" if count else ""


def _unread_warnings(files: list[Path], folders: list[Path]) -> tuple[str, ...]:
    kinds = ", ".join(sorted({path.suffix.lower() or "no suffix" for path in files}))
    parts = [f"{len(files):,} other file{'s' * (len(files) > 1)} ({kinds})"] if files else []
    parts += (
        [f"{len(folders):,} folder{'s' * (len(folders) > 1)}{_unread_images_text(folders)}"]
        if folders
        else []
    )
    return (f"images: {' and '.join(parts)} beside the images not read",) if parts else ()
