"""GenEval's folders: `00017/metadata.jsonl` and `00017/samples/00002.png`, one folder a prompt.

The official scorer takes any folder whose name is all digits (its readme says four, its generator
writes five), believes the
metadata that lies in it, and takes every file whose name begins like `1.png`. Here the metadata
decides too, and what is missing or
left over is told.

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
SUITES = (SUITE, "shapes")  # whose cases hold GenEval's metadata
IS_TILED = False
METADATA_FILE = "metadata.jsonl"
SAMPLES_FOLDER = "samples"
IMAGE = re.compile(r"[0-9]+\.png")


class PromptFolders(NamedTuple):
    """Folder of each prompt's number, and what is told of the others."""

    by_prompt: dict[int, Path]
    warnings: tuple[str, ...]


def is_layout(folder: Path) -> bool:
    """Whether some folder of digits in it has metadata."""
    return any((place / METADATA_FILE).is_file() for place in _digit_folders(folder))


def open_layout(
    folder: Path, suite: PromptSuite, side: int | None = None, tiles: int | None = None
) -> SampleSet:
    """Return the images of every prompt of the suite, as many copies as the fullest folder has.

    side and tiles are of other layouts; here images are files of their own.

    Raises:
        SampleError: No image of the suite, or two folders of one prompt.
    """
    folders = _match_folders(folder, suite)
    files: dict[int, Path] = {}
    failed: dict[int, str] = {}
    prompts = suite.count // suite.copies
    found = {
        prompt: _assign_images(place, suite.copies) for prompt, place in folders.by_prompt.items()
    }
    left = [name for prompt in sorted(found) for name in found[prompt][1]]
    copies = max((1 + copy for images, _ in found.values() for copy in images), default=0)
    for prompt in range(prompts):
        place = folders.by_prompt.get(prompt)
        images, _ = found.get(prompt, ({}, []))
        for copy in range(copies):
            if copy in images:
                files[copy * prompts + prompt] = images[copy]
            else:
                failed[copy * prompts + prompt] = (
                    f"no image {copy} in {place.name}" if place else "no folder of this prompt"
                )
    told = (f"images: not read: {shorten_list(left)}",) if left else ()
    return make_sample_set(
        folder,
        suite,
        files,
        failed,
        (*folders.warnings, *told, *copies_warnings(copies, suite.copies)),
    )


def write_images(samples: SampleSet, suite: PromptSuite, folder: Path) -> WriteReport:
    """Folders as the official generator names them, images as PNG; the official scorer does not
    notice the failed samples left out.
    """
    cases = {index: suite.case(index) for index in samples.indices}
    names = {
        f"{case.prompt_index:05d}/{SAMPLES_FOLDER}/{case.copy:05d}.png": index
        for index, case in cases.items()
    }
    texts = {
        f"{case.prompt_index:05d}/{METADATA_FILE}": json.dumps(case.metadata[METADATA_KEY]) + "\n"
        for case in cases.values()
    }
    write_folder(folder, list(names), image_reader(samples, names), texts)
    absent = suite.count - len(samples.indices)
    told = (
        (
            (
                f"{absent:,} of {suite.count:,} images are not there; the official scorer does not"
                " notice"
            ),
        )
        if absent
        else ()
    )
    return WriteReport(len(samples.indices), told)


def _digit_folders(folder: Path) -> list[Path]:
    with convert_os_errors(folder):
        found = [
            path
            for path in folder.iterdir()
            if path.is_dir() and path.name.isascii() and path.name.isdigit()
        ]
    return sorted(found, key=lambda path: (int(path.name), path.name))


def _match_folders(folder: Path, suite: PromptSuite) -> PromptFolders:
    known = PromptIndex(suite)
    of_prompt: dict[int, Path] = {}
    foreign: list[tuple[str, str]] = []
    moved = []
    numbered = _digit_folders(folder)
    for place in numbered:
        try:
            prompt = known.find(_read_metadata(place), int(place.name))
        except UnknownMetadataError as error:
            foreign.append((place.name, str(error)))
            continue
        if prompt in of_prompt:
            raise SampleError(
                f"{folder} has {of_prompt[prompt].name} and {place.name} for one prompt; remove one"
                " of them"
            )
        of_prompt[prompt] = place
        if int(place.name) != prompt:
            moved.append(place.name)
    others = sorted(
        p.name
        for p in folder.iterdir()
        if p not in numbered and p.name not in RESERVED_FOLDERS and not p.name.startswith(".")
    )
    warnings = []
    if foreign:
        warnings.append(
            f"folders: no prompt of this suite in {shorten_list([name for name, _ in foreign])};"
            " not read"
        )
        warnings.append(f"folders: why: {shorten_reasons(foreign)}")
    if moved:
        warnings.append(
            f"folders: the number is not the prompt's in {shorten_list(moved)}; {METADATA_FILE}"
            " decides, as officially"
        )
    if others:
        warnings.append(f"folders: not read: {shorten_list(others)}")
    return PromptFolders(of_prompt, tuple(warnings))


def _read_metadata(place: Path) -> Metadata:
    """Return the metadata of a folder; UnknownPromptError where there are none that can be read."""
    if not (place / METADATA_FILE).is_file():
        raise UnknownMetadataError(f"it has no {METADATA_FILE}")
    try:
        return read_metadata_line(read_text(place / METADATA_FILE))
    except StorageError as error:
        raise UnknownMetadataError(f"its {METADATA_FILE} cannot be read") from error


def _assign_images(place: Path, copies: int) -> tuple[dict[int, Path], list[str]]:
    """Image of each copy, by its number where every number is a copy's, else by order; and names of
    files left over.
    """
    folder = place / SAMPLES_FOLDER
    if not folder.is_dir():
        return {}, []
    with convert_os_errors(folder):
        files = sorted(path for path in folder.iterdir() if path.is_file())
    images = sorted(
        (p for p in files if IMAGE.fullmatch(p.name)), key=lambda p: (int(p.stem), p.name)
    )
    numbers = [int(p.stem) for p in images]
    by_number = len(set(numbers)) == len(numbers) and all(n < copies for n in numbers)
    chosen = {
        n if by_number else k: p
        for k, (n, p) in enumerate(zip(numbers, images, strict=True))
        if k < copies
    }
    return chosen, [
        f"{place.name}/{SAMPLES_FOLDER}/{p.name}" for p in files if p not in chosen.values()
    ]
