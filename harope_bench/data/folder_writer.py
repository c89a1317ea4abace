"""Writing of image folders, so that an interrupted conversion resumes.

Files that are already in the folder must be equal to those that would be written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from harope_bench.core.errors import SampleError
from harope_bench.core.part_files import remove_stale_parts
from harope_bench.core.storage import (
    convert_os_errors,
    make_folder,
    read_if_present,
    write_bytes,
    write_text,
)
from harope_bench.data.image_folder import UNFINISHED_MARKER
from harope_bench.data.image_io import decode_image, encode_png

# A function from file names to images (H, W, 3) uint8, in the order of the names.
ImageReader = Callable[[list[str]], Iterator[np.ndarray]]
SHOWN_FILES = 3  # files in a message
UNFINISHED_TEXT = (
    "harope-bench convert has not written all of this folder; run the same convert again\n"
)


def write_folder(
    folder: Path,
    names: Sequence[str],
    read_images: ImageReader,
    texts: Mapping[str, str] | None = None,
    later_files: Sequence[str] = (),
) -> None:
    """Write images as PNG files, and text files, into a folder. Equal existing files stay.

    While files are missing, the folder contains UNFINISHED_MARKER and readers reject it.

    Args:
        names: Paths of the image files relative to the folder, each once.
        read_images: Called with some of the names; yields their images.
        texts: Contents of text files, by name.
        later_files: Names of files that may exist and that the caller writes afterwards, by
            `write_or_compare_text`.

    Raises:
        SampleError: The folder contains other files, or files with other content. Nothing is
            written then.
    """
    texts = texts or {}

    # Everything that exists must be a file of this conversion with the same content.
    existing_names = _files_below(folder)
    allowed_names = {*names, *texts, *later_files, UNFINISHED_MARKER}
    if foreign_names := sorted(existing_names - allowed_names):
        n_further = len(foreign_names) - SHOWN_FILES
        further_text = f" and {n_further:,} more" if n_further > 0 else ""
        raise SampleError(
            f"{folder} is not an empty folder: {', '.join(foreign_names[:SHOWN_FILES])}"
            f"{further_text} is no file of this conversion; choose another place"
        )
    existing_images = [name for name in names if name in existing_names]
    _check_existing_files(folder, existing_images, read_images, texts)

    make_folder(folder)
    missing_images = [name for name in names if name not in existing_names]
    if missing_images or texts.keys() - existing_names:
        write_text(folder / UNFINISHED_MARKER, UNFINISHED_TEXT)
    for name, text in texts.items():
        write_or_compare_text(folder / name, text)
    for name, image in zip(missing_images, read_images(missing_images), strict=True):
        write_bytes(folder / name, encode_png(image))
    with convert_os_errors(folder):
        (folder / UNFINISHED_MARKER).unlink(missing_ok=True)

    # A process that was killed beside this one may have left parts of files that are there now.
    for subfolder in {(folder / name).parent for name in (*names, *texts)}:
        remove_stale_parts(subfolder)


def write_or_compare_text(path: Path, text: str) -> None:
    """Write a text file unless it exists; raise SampleError if it exists with another content."""
    data = read_if_present(path)
    if data is None:
        write_text(path, text)
    elif data != text.encode():
        raise _other_content_error(path)


def _files_below(folder: Path) -> set[str]:
    """Return the relative paths of all files below a folder, without temporary parts.

    Raises:
        SampleError: The path is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise SampleError(f"{folder} is not an empty folder; choose another place")
    relative_paths: set[str] = set()
    with convert_os_errors(folder):
        for parent, _, names in os.walk(folder):
            for name in names:
                is_part = name.startswith(".") and name.endswith(".part")
                if not is_part:
                    relative_paths.add(Path(parent, name).relative_to(folder).as_posix())
    return relative_paths


def _check_existing_files(
    folder: Path, image_names: list[str], read_images: ImageReader, texts: Mapping[str, str]
) -> None:
    """Raise SampleError if an existing file has another content than would be written."""
    for name, text in texts.items():
        data = read_if_present(folder / name)
        if data is not None and data != text.encode():
            raise _other_content_error(folder / name)
    for name, image in zip(image_names, read_images(image_names), strict=True):
        data = read_if_present(folder / name)
        if data is None or not np.array_equal(decode_image(data, str(folder / name)).image, image):
            raise _other_content_error(folder / name)


def _other_content_error(path: Path) -> SampleError:
    return SampleError(
        f"{path} holds something else than this conversion writes there; choose another place"
    )
