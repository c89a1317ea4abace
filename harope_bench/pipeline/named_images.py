"""Copies of a run's images under the names that another program wants, by a pattern."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from harope_bench.core.errors import OptionError, SampleError
from harope_bench.core.regular_file import MAX_IMAGE_BYTES
from harope_bench.core.storage import (
    convert_os_errors,
    read_if_present,
    sha256_bytes,
    write_bytes,
)
from harope_bench.data.image_io import read_image_bytes
from harope_bench.data.run_folder import RunFolder
from harope_bench.suites.base import PromptSuite, load_prompt_suite
from harope_bench.suites.official_layouts.file_pattern import NamePattern

NAMED_FOLDER = "named"


class NamedImages(NamedTuple):
    """The folder of the copies, and how many of them it has."""

    folder: Path
    image_count: int


def image_names(pattern: str, suite_name: str, indices: Sequence[int]) -> dict[int, str]:
    """Return the name of each image by its index.

    Raises:
        OptionError: The suite has no prompts, the pattern is invalid, two images have one name, or
            a prompt cannot be a file name.
    """
    suite = load_prompt_suite(suite_name)
    name_pattern = NamePattern(pattern)
    names: dict[int, str] = {}
    index_by_name: dict[str, int] = {}
    for index in indices:
        name = name_pattern.name(_keys(suite, index))
        # Some file systems do not tell upper from lower case.
        other_index = index_by_name.setdefault(name.casefold(), index)
        if other_index != index:
            raise OptionError(
                f"--pattern {pattern!r} names samples {other_index} and {index} {name[:80]!r}; add"
                " {copy} or {index}"
            )
        names[index] = name
    return names


def _keys(suite: PromptSuite, index: int) -> dict[str, str | int]:
    """Return the value of each placeholder for a sample."""
    case = suite.case(index)
    keys: dict[str, str | int] = {
        "index": index,
        "prompt_index": case.prompt_index,
        "copy": case.copy,
        "prompt": case.prompt,
    }
    item = case.item_id
    return keys if item is None else {**keys, "id": item}


def copy_named_images(folder: Path, names: dict[int, str]) -> NamedImages:
    """Copy the images of a run under these names into its folder `named`; equal copies stay.

    Args:
        folder: The run folder.
        names: Names of images by their index.

    Raises:
        SampleError: An image is altered, or another file has a name.
    """
    records = RunFolder(folder).read_records()
    count = 0
    for index, name in names.items():
        record = records.get(index)
        if record is None or record.file is None:
            continue  # a failed sample, whose record has the reason
        data = read_image_bytes(folder / record.file)
        if sha256_bytes(data) != record.sha256:
            raise SampleError(f"image {folder / record.file} was altered; generate it again")
        _write_copy(folder / NAMED_FOLDER / name, data)
        count += 1
    return NamedImages(folder / NAMED_FOLDER, count)


def _write_copy(path: Path, data: bytes) -> None:
    """Write a copy unless it exists; raise SampleError if a file of another content does."""
    with convert_os_errors(path):
        existing_data = read_if_present(path, MAX_IMAGE_BYTES)
        if existing_data is None:
            write_bytes(path, data)
        elif existing_data != data:
            raise SampleError(f"{path} holds another image; remove it or choose another --pattern")
