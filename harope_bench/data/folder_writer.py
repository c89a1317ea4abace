"""Write a folder of images so that a killed run goes on: what stands there already must be a part
of what is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from harope_bench.core.errors import SampleError
from harope_bench.core.storage import (
    convert_os_errors,
    make_folder,
    read_if_present,
    write_bytes,
    write_text,
)
from harope_bench.data.image_folder import UNFINISHED_MARKER
from harope_bench.data.image_io import decode_image, encode_png

ImageReader = Callable[
    [list[str]], Iterator[np.ndarray]
]  # names to images (H, W, 3) uint8, in the order of the names
SHOWN_FILES = 3  # files that an error names
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
    """Write each image as PNG under its name, and the texts, below a folder; files that are there
    and right are kept.

    Until all of them are there the folder holds UNFINISHED, and no reader takes it for a set.

    Args:
        names: Of image files, relative to the folder, each once. pictures: Is asked for some of
            them.
        texts: Contents of further files by name. later: Names of files that may be there and that
            the caller writes, by `write_same`.

    Raises:
        SampleError: The folder holds a file that is not one of these, or one of them with another
            content. Nothing is written then.
    """
    texts = texts or {}
    present = _files_below(folder)
    if others := sorted(present - set(names) - set(texts) - {*later_files, UNFINISHED_MARKER}):
        more = f" and {len(others) - SHOWN_FILES:,} more" if len(others) > SHOWN_FILES else ""
        raise SampleError(
            f"{folder} is not an empty folder: {', '.join(others[:SHOWN_FILES])}{more} is no file"
            " of this conversion; choose another place"
        )
    _check_present(folder, [name for name in names if name in present], read_images, texts)

    make_folder(folder)
    missing = [name for name in names if name not in present]
    if missing or texts.keys() - present:
        write_text(folder / UNFINISHED_MARKER, UNFINISHED_TEXT)
    for name, text in texts.items():
        write_or_compare_text(folder / name, text)
    for name, image in zip(missing, read_images(missing), strict=True):
        write_bytes(folder / name, encode_png(image))
    with convert_os_errors(folder):
        (folder / UNFINISHED_MARKER).unlink(missing_ok=True)


def write_or_compare_text(path: Path, text: str) -> None:
    """Write a text, which a file there must hold already; SampleError where it holds another."""
    data = read_if_present(path)
    if data is None:
        write_text(path, text)
    elif data != text.encode():
        raise _other_content_error(path)


def _files_below(folder: Path) -> set[str]:
    """Return the files below a folder by relative name, without the parts that a kill left;
    SampleError where it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise SampleError(f"{folder} is not an empty folder; choose another place")
    present: set[str] = set()
    with convert_os_errors(folder):
        for place, _, names in os.walk(folder):
            paths = [
                Path(place, name)
                for name in names
                if not (name.startswith(".") and name.endswith(".part"))
            ]
            present.update(path.relative_to(folder).as_posix() for path in paths)
    return present


def _check_present(
    folder: Path, names: list[str], pictures: ImageReader, texts: Mapping[str, str]
) -> None:
    for name, text in texts.items():
        if (data := read_if_present(folder / name)) is not None and data != text.encode():
            raise _other_content_error(folder / name)
    for name, image in zip(names, pictures(names), strict=True):
        data = read_if_present(folder / name)
        if data is None or not np.array_equal(decode_image(data, str(folder / name)).image, image):
            raise _other_content_error(folder / name)


def _other_content_error(path: Path) -> SampleError:
    return SampleError(
        f"{path} holds something else than this conversion writes there; choose another place"
    )
