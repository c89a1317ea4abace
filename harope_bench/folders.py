"""A folder of images: which files are read, in what order, and what is left unread."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from harope_bench.pixels import file_formats, misnamed

SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".webp")
OURS = ("results", "observations")  # what scoring puts beside images


class Listing(NamedTuple):
    """Image files in order, and what a result must say of the folder."""

    files: list[Path]
    warnings: tuple[str, ...]


def listing(folder: Path) -> Listing:
    """The images of a folder; hidden names are passed over, everything else that is not read is told."""
    seen = [path for path in folder.iterdir() if not path.name.startswith(".")]
    folders = [path for path in seen if path.is_dir() and path.name not in OURS]
    files = [path for path in seen if not path.is_dir()]
    images = in_order(path for path in files if path.suffix.lower() in SUFFIXES)
    lossy = sum(file.is_lossy for file in file_formats(images))
    warnings: tuple[str, ...] = (f"{lossy:,} of {len(images):,} images are of a lossy format, which moves FID",) if lossy else ()
    if line := misnamed(images):
        warnings += (f"images: {line}",)
    return Listing(images, (*warnings, *_unread([path for path in files if path.suffix.lower() not in SUFFIXES], folders)))


def in_order(paths: Iterable[Path]) -> list[Path]:
    """By name; by number where every stem is one, so that 10.png comes after 9.png."""
    found = list(paths)
    numbers = all(path.stem.isascii() and path.stem.isdigit() for path in found)
    return sorted(found, key=lambda path: (int(path.stem) if numbers else 0, path.name))


def _unread(files: list[Path], folders: list[Path]) -> tuple[str, ...]:
    kinds = ", ".join(sorted({path.suffix.lower() or "no suffix" for path in files}))
    parts = [f"{len(files):,} other file{'s' * (len(files) > 1)} ({kinds})"] if files else []
    parts += [f"{len(folders):,} folder{'s' * (len(folders) > 1)}"] if folders else []
    return (f"images: {' and '.join(parts)} beside the images not read",) if parts else ()
