"""Write a folder of images so that a killed run goes on: what stands there already must be a part of what is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from harope_bench.core.errors import SampleError
from harope_bench.core.storage import disk, make_folder, read_if_present, write_bytes, write_text
from harope_bench.data.image_folder import UNFINISHED
from harope_bench.data.image_io import decode, encode

Pictures = Callable[[list[str]], Iterator[np.ndarray]]  # names to images (H, W, 3) uint8, in the order of the names
OTHERS = 3  # files that an error names
NOTE = "harope-bench convert has not written all of this folder; run the same convert again\n"


def write_folder(
    folder: Path, names: Sequence[str], pictures: Pictures, texts: Mapping[str, str] | None = None, later: Sequence[str] = ()
) -> None:
    """Write each image as PNG under its name, and the texts, below a folder; files that are there and right are kept.

    Until all of them are there the folder holds UNFINISHED, and no reader takes it for a set.

    Args:
        names: Of image files, relative to the folder, each once. pictures: Is asked for some of them.
        texts: Contents of further files by name. later: Names of files that may be there and that the caller writes, by `write_same`.

    Raises:
        SampleError: The folder holds a file that is not one of these, or one of them with another content. Nothing is written then.
    """
    texts = texts or {}
    present = _files_below(folder)
    if others := sorted(present - set(names) - set(texts) - {*later, UNFINISHED}):
        more = f" and {len(others) - OTHERS:,} more" if len(others) > OTHERS else ""
        raise SampleError(
            f"{folder} is not an empty folder: {', '.join(others[:OTHERS])}{more} is no file of this conversion; choose another place"
        )
    _check_present(folder, [name for name in names if name in present], pictures, texts)

    make_folder(folder)
    missing = [name for name in names if name not in present]
    if missing or texts.keys() - present:
        write_text(folder / UNFINISHED, NOTE)
    for name, text in texts.items():
        write_same(folder / name, text)
    for name, image in zip(missing, pictures(missing), strict=True):
        write_bytes(folder / name, encode(image))
    with disk(folder):
        (folder / UNFINISHED).unlink(missing_ok=True)


def write_same(path: Path, text: str) -> None:
    """Write a text, which a file there must hold already; SampleError where it holds another."""
    data = read_if_present(path)
    if data is None:
        write_text(path, text)
    elif data != text.encode():
        raise _other(path)


def _files_below(folder: Path) -> set[str]:
    """Return the files below a folder by relative name, without the parts that a kill left; SampleError where it is a file."""
    if folder.exists() and not folder.is_dir():
        raise SampleError(f"{folder} is not an empty folder; choose another place")
    present: set[str] = set()
    with disk(folder):
        for place, _, names in os.walk(folder):
            paths = [Path(place, name) for name in names if not (name.startswith(".") and name.endswith(".part"))]
            present.update(path.relative_to(folder).as_posix() for path in paths)
    return present


def _check_present(folder: Path, names: list[str], pictures: Pictures, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        if (data := read_if_present(folder / name)) is not None and data != text.encode():
            raise _other(folder / name)
    for name, image in zip(names, pictures(names), strict=True):
        data = read_if_present(folder / name)
        if data is None or not np.array_equal(decode(data, str(folder / name)).image, image):
            raise _other(folder / name)


def _other(path: Path) -> SampleError:
    return SampleError(f"{path} holds something else than this conversion writes there; choose another place")
