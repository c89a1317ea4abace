"""GenEval's folders: `00017/metadata.jsonl` and `00017/samples/00002.png`, one for each prompt.

The official scorer takes any folder whose name has only digits (its readme says four, its generator
writes five), uses the metadata in it, and takes every file whose name starts like `1.png`. Here the
metadata decides the prompt too. Missing images and additional files give warnings.

Source: djghosh13/geneval af4902f2, evaluation/evaluate_images.py `main`,
generation/diffusers_generate.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from harope_bench.core.errors import SampleError, StorageError
from harope_bench.core.storage import convert_os_errors
from harope_bench.core.text_file import read_text
from harope_bench.data.folder_writer import write_folder
from harope_bench.data.image_folder import RESERVED_FOLDERS
from harope_bench.data.sample_set import SampleSet, image_reader
from harope_bench.evaluators.base import Metadata
from harope_bench.suites.base import PromptSuite
from harope_bench.suites.official_layouts.base import (
    WriteReport,
    copies_warnings,
    make_sample_set,
    shorten_list,
)
from harope_bench.suites.official_layouts.geneval_prompts import (
    METADATA_KEY,
    PromptIndex,
    UnknownMetadataError,
    read_metadata_line,
    shorten_reasons,
)

SUITE = "geneval"
SUITES = (SUITE, "shapes")  # the suites whose cases have GenEval's metadata
IS_TILED = False
METADATA_FILE = "metadata.jsonl"
SAMPLES_FOLDER = "samples"
IMAGE = re.compile(r"[0-9]+\.png")


class PromptFolders(NamedTuple):
    """The folder of each prompt by its index, and warnings about other folders and files."""

    by_prompt: dict[int, Path]
    warnings: tuple[str, ...]


def is_layout(folder: Path) -> bool:
    """Return whether a folder inside has a name of digits and metadata."""
    return any((child / METADATA_FILE).is_file() for child in _digit_folders(folder))


def is_unmistakable(folder: Path) -> bool:
    """Return whether the folder has this layout, which other images do not have by chance."""
    return is_layout(folder)


def open_layout(
    folder: Path, suite: PromptSuite, side: int | None = None, tiles: int | None = None
) -> SampleSet:
    """Return the images of every prompt at the indices of the suite.

    Each prompt has as many copies as the folder with most images.

    Args:
        side, tiles: of other layouts; here each file is one image.

    Raises:
        SampleError: There is no image of the suite, or a prompt has two folders.
    """
    folders = _match_folders(folder, suite)
    images: dict[tuple[int, int], Path] = {}  # by prompt index and copy
    unread_names: list[str] = []
    for prompt_index, prompt_folder in sorted(folders.by_prompt.items()):
        images_by_copy, other_names = _assign_images(prompt_folder, suite.copies)
        images |= {(prompt_index, copy): path for copy, path in images_by_copy.items()}
        unread_names += other_names

    files: dict[int, Path] = {}
    failed: dict[int, str] = {}
    prompts = suite.count // suite.copies
    copies = max((1 + copy for _, copy in images), default=0)
    for prompt_index in range(prompts):
        for copy in range(copies):
            index = copy * prompts + prompt_index
            if (prompt_index, copy) in images:
                files[index] = images[prompt_index, copy]
            elif prompt_index in folders.by_prompt:
                failed[index] = f"no image {copy} in {folders.by_prompt[prompt_index].name}"
            else:
                failed[index] = "no folder of this prompt"

    warnings = list(folders.warnings)
    if unread_names:
        warnings.append(f"images: not read: {shorten_list(unread_names)}")
    warnings += copies_warnings(copies, suite.copies)
    return make_sample_set(folder, suite, files, failed, tuple(warnings))


def write_images(samples: SampleSet, suite: PromptSuite, folder: Path) -> WriteReport:
    """Write folders with the official generator's names, images as PNG, without failed samples.

    The official scorer does not notice that samples are missing, so the report warns.
    """
    cases = {index: suite.case(index) for index in samples.indices}
    index_of_name = {
        f"{case.prompt_index:05d}/{SAMPLES_FOLDER}/{case.copy:05d}.png": index
        for index, case in cases.items()
    }
    metadata_texts = {
        f"{case.prompt_index:05d}/{METADATA_FILE}": json.dumps(case.metadata[METADATA_KEY]) + "\n"
        for case in cases.values()
    }
    write_folder(folder, list(index_of_name), image_reader(samples, index_of_name), metadata_texts)

    n_missing = suite.count - len(samples.indices)
    warnings: tuple[str, ...] = ()
    if n_missing:
        warnings = (
            f"{n_missing:,} of {suite.count:,} images are missing; the official scorer does not"
            " notice",
        )
    return WriteReport(len(samples.indices), warnings)


def _digit_folders(folder: Path) -> list[Path]:
    """Return the folders inside whose names have only digits, in the order of their numbers."""
    with convert_os_errors(folder):
        digit_folders = [
            path
            for path in folder.iterdir()
            if path.is_dir() and path.name.isascii() and path.name.isdigit()
        ]
    return sorted(digit_folders, key=lambda path: (int(path.name), path.name))


def _match_folders(folder: Path, suite: PromptSuite) -> PromptFolders:
    """Return the folder of each prompt, found by its metadata.

    Raises:
        SampleError: A prompt has two folders.
    """
    suite_prompts = PromptIndex(suite)
    by_prompt: dict[int, Path] = {}
    unmatched_folders: list[tuple[str, str]] = []  # name of a folder and reason
    renumbered_names = []
    digit_folders = _digit_folders(folder)
    for prompt_folder in digit_folders:
        try:
            metadata = _read_metadata(prompt_folder)
            prompt_index = suite_prompts.find(metadata, int(prompt_folder.name))
        except UnknownMetadataError as error:
            unmatched_folders.append((prompt_folder.name, str(error)))
            continue
        if prompt_index in by_prompt:
            raise SampleError(
                f"{folder} has {by_prompt[prompt_index].name} and {prompt_folder.name} for one"
                " prompt; remove one of them"
            )
        by_prompt[prompt_index] = prompt_folder
        if int(prompt_folder.name) != prompt_index:
            renumbered_names.append(prompt_folder.name)

    other_names = sorted(
        path.name
        for path in folder.iterdir()
        if path not in digit_folders
        and path.name not in RESERVED_FOLDERS
        and not path.name.startswith(".")
    )
    return PromptFolders(
        by_prompt, _folder_warnings(unmatched_folders, renumbered_names, other_names)
    )


def _folder_warnings(
    unmatched_folders: list[tuple[str, str]], renumbered_names: list[str], other_names: list[str]
) -> tuple[str, ...]:
    """Return the warnings about folders without prompt, with another number, and other files."""
    warnings = []
    if unmatched_folders:
        names = shorten_list([name for name, _ in unmatched_folders])
        warnings.append(f"folders: no prompt of this suite in {names}; not read")
        warnings.append(f"folders: why: {shorten_reasons(unmatched_folders)}")
    if renumbered_names:
        warnings.append(
            f"folders: the number is not the prompt's in {shorten_list(renumbered_names)};"
            f" {METADATA_FILE} decides, as officially"
        )
    if other_names:
        warnings.append(f"folders: not read: {shorten_list(other_names)}")
    return tuple(warnings)


def _read_metadata(folder: Path) -> Metadata:
    """Return the metadata in a folder; raise UnknownMetadataError where it cannot be read."""
    if not (folder / METADATA_FILE).is_file():
        raise UnknownMetadataError(f"it has no {METADATA_FILE}")
    try:
        return read_metadata_line(read_text(folder / METADATA_FILE))
    except StorageError as error:
        raise UnknownMetadataError(f"its {METADATA_FILE} cannot be read") from error


def _assign_images(prompt_folder: Path, copies: int) -> tuple[dict[int, Path], list[str]]:
    """Return the image of each copy, and the names of all other files.

    The number in a file name is the copy if all numbers are valid copies. Otherwise copies are in
    the order of the numbers.
    """
    folder = prompt_folder / SAMPLES_FOLDER
    if not folder.is_dir():
        return {}, []
    with convert_os_errors(folder):
        files = sorted(path for path in folder.iterdir() if path.is_file())
    images = sorted(
        (path for path in files if IMAGE.fullmatch(path.name)),
        key=lambda path: (int(path.stem), path.name),
    )
    numbers = [int(path.stem) for path in images]
    has_copy_numbers = len(set(numbers)) == len(numbers) and all(n < copies for n in numbers)
    if has_copy_numbers:
        by_copy = dict(zip(numbers, images, strict=True))
    else:
        by_copy = dict(enumerate(images[:copies]))
    assigned_paths = set(by_copy.values())
    other_names = [
        f"{prompt_folder.name}/{SAMPLES_FOLDER}/{path.name}"
        for path in files
        if path not in assigned_paths
    ]
    return by_copy, other_names
