"""Lists of files: a user's list of images, and the record that `convert` writes with images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from harope_bench.core.errors import OptionError, SampleError
from harope_bench.core.formats import add_format_version, strip_format_version
from harope_bench.core.index_ranges import INDEX_DIGITS, parse_whole_number
from harope_bench.core.json_file import parse_json
from harope_bench.core.json_lines import read_lines
from harope_bench.core.record_base import validation_summary
from harope_bench.core.regular_file import is_file
from harope_bench.core.schema import SampleRecord
from harope_bench.core.storage import sha256_file
from harope_bench.core.text_file import read_text
from harope_bench.data.folder_writer import write_folder, write_or_compare_text
from harope_bench.data.image_folder import FILE_LIST, images_below
from harope_bench.data.sample_set import SampleSet, check_not_source, path_inside
from harope_bench.suites.base import PromptSuite
from harope_bench.suites.official_layouts.base import WriteReport, make_sample_set, shorten_list
from harope_bench.suites.official_layouts.image_keys import KEYS, PROMPT_KEYS, ImageKeys

FILE_COLUMN = "file"
SEPARATORS = {".csv": ",", ".tsv": "\t"}
# Description of the columns, for messages.
COLUMNS = (
    "file and index, or file, one of prompt_index, prompt, id, and copy where a prompt has several"
    " images"
)


class ListRow(NamedTuple):
    """A line of a list: its number, the file name in it, and the keys of the image."""

    line: int
    file: str
    keys: dict[str, str | int]


class Placement(NamedTuple):
    """The assignment of files to indices.

    files: file of each index. failed: reason of each index without a file.
    unlisted_names: names of the images without an index.
    """

    files: dict[int, Path]
    failed: dict[int, str]
    unlisted_names: list[str]


# ------------------------------------------------------------------------------ lists of users


def assign_by_list(folder: Path, path: Path, keys: ImageKeys) -> Placement:
    """Return the assignment of a folder's images by the list at `path`.

    Raises:
        OptionError: The list is missing, a column or value is invalid, or an image or an index is
            listed twice.
    """
    files: dict[int, Path] = {}
    failed: dict[int, str] = {}
    listed_images: set[str] = set()
    for row in read_rows(path):
        image = _resolve_listed_file(folder, row, path)
        index = _index_of_row(keys, row, path)
        if index in files or index in failed or str(image) in listed_images:
            raise OptionError(
                f"{path} line {row.line} lists an image or a file again; keep one line for each"
                " image"
            )
        listed_images.add(str(image))
        if is_file(image):
            files[index] = image
        else:
            failed[index] = f"{row.file} is listed and missing"
    unlisted_names = [
        image.relative_to(folder).as_posix()
        for image in images_below(folder)
        if str(image.resolve()) not in listed_images
    ]
    return Placement(files, failed, unlisted_names)


def read_rows(path: Path) -> Iterator[ListRow]:
    """Yield the lines of a .csv, .tsv or .jsonl file.

    Raises:
        OptionError: The file is missing or empty, or a line is invalid.
    """
    if not path.is_file():
        raise OptionError(
            f"--file-list {path} does not exist; give a .csv, .tsv or .jsonl with {COLUMNS}"
        )
    rows = list(_json_rows(path) if path.suffix.lower() == ".jsonl" else _table_rows(path))
    if not rows:
        raise OptionError(f"{path} lists no image; give {COLUMNS}")
    for line, values in rows:
        cells = {
            str(name).strip(): _parse_cell(value)
            for name, value in values.items()
            if value not in (None, "")
        }
        file = cells.get(FILE_COLUMN)
        key_names = [name for name in KEYS if name in cells]
        if not isinstance(file, str) or not set(key_names) & set(PROMPT_KEYS):
            raise OptionError(
                f"{path} line {line} has {', '.join(cells) or 'nothing'}, wanted {COLUMNS}"
            )
        yield ListRow(line, file, {name: cells[name] for name in key_names})


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Yield number and object of each line of a .jsonl file that is not blank."""
    for line, text in enumerate(read_text(path).split("\n"), 1):
        if not text.strip():
            continue
        try:
            row = parse_json(text)
        except ValueError as error:
            raise OptionError(f"{path} line {line} is not JSON; correct the line") from error
        if not isinstance(row, dict):
            raise OptionError(
                f'{path} line {line} is no JSON object; write {{"file": ..., "index": ...}}'
            )
        yield line, row


def _table_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Yield line number and cells by column of each row of a .csv or .tsv file."""
    separator = SEPARATORS.get(path.suffix.lower())
    if separator is None:
        raise OptionError(
            f"--file-list {path} is no .csv, .tsv or .jsonl; give it the suffix of its format"
        )
    table = csv.DictReader(io.StringIO(read_text(path)), delimiter=separator)
    try:
        for row in table:
            if None in row:
                raise OptionError(
                    f"{path} line {table.line_num} has more cells than the first line has columns"
                )
            yield table.line_num, row
    except csv.Error as error:
        raise OptionError(
            f"{path} line {table.line_num + 1} is not readable ({error}); correct the file"
        ) from error


def _parse_cell(value: object) -> str | int:
    """Return an integer unchanged and any other value as stripped text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return str(value).strip()


def _index_of_row(keys: ImageKeys, row: ListRow, path: Path) -> int:
    """Return the index of a row's image; raise OptionError, with the line, for invalid keys."""
    for name in ("index", "prompt_index", "copy"):
        text = _cell_text(row.keys.get(name, 0))
        if parse_whole_number(text) is None:
            raise OptionError(
                f"{path} line {row.line}: {name} is {text[:20]!r}, wanted a whole number from 0"
            )
    try:
        return keys.index(row.keys)
    except OptionError as error:
        raise OptionError(f"{path} line {row.line}: {error}") from error


def _cell_text(value: str | int) -> str:
    """Return a cell as text; a number with too many digits for `str` becomes a description."""
    if isinstance(value, str):
        return value
    return str(value) if abs(value) < 10**INDEX_DIGITS else "a number without end"


def _resolve_listed_file(folder: Path, row: ListRow, path: Path) -> Path:
    """Return the resolved path of a listed file.

    Backslashes, as Windows writes them, count as slashes unless a file has that very name.

    Raises:
        OptionError: The file is not in the folder.
    """
    name = row.file
    if "\0" in name:
        raise OptionError(f"{path} line {row.line}: the file name has a NUL character; correct it")
    if "\\" in name and not is_file(folder / name):
        name = name.replace("\\", "/")
    image = (folder / name).resolve()
    if not image.is_relative_to(folder.resolve()):
        raise OptionError(
            f"{path} line {row.line}: {name[:80]!r} is not in {folder}; list files of that folder"
        )
    return image


# ------------------------------------------------------------------- the record that convert writes


def has_image_record(folder: Path) -> bool:
    """Return whether the folder has the record of `convert`."""
    return (folder / FILE_LIST).is_file()


def open_recorded_images(folder: Path, suite: PromptSuite, suite_name: str) -> SampleSet:
    """Return exactly the samples in the record of the folder, failed ones with their reasons.

    Raises:
        SampleError: A line is no record, a file is outside the folder, or a prompt differs from the
            suite's.
        FormatError: Another version of this package wrote a line.
    """
    records = _read_records(folder)
    files: dict[int, Path] = {}
    failed: dict[int, str] = {}
    for index, record in sorted(records.items()):
        if index >= suite.count or record.prompt != suite.case(index).prompt:
            raise SampleError(
                f"{folder / FILE_LIST} has another prompt at index {index} than {suite_name}; give"
                " the suite that it was made for"
            )
        image = path_inside(folder, str(record.file), index) if record.status == "ok" else None
        if image is not None and is_file(image):
            files[index] = image
        else:
            failed[index] = record.reason or f"{record.file} is missing"

    recorded_names = {record.file for record in records.values()}
    names = [image.relative_to(folder).as_posix() for image in images_below(folder)]
    unrecorded_names = [name for name in names if name not in recorded_names]
    warnings = [f"images: placed by the record in {FILE_LIST}"]
    if unrecorded_names:
        warnings.append(f"images: not read, not in {FILE_LIST}: {shorten_list(unrecorded_names)}")
    samples = make_sample_set(folder, suite, files, failed, tuple(warnings))
    hashes = {index: str(records[index].sha256) for index in files if records[index].sha256}
    return replace(samples, recorded_hashes=hashes)


def _read_records(folder: Path) -> dict[int, SampleRecord]:
    """Return the records of a folder by index; raise SampleError for invalid or doubled ones."""
    path = folder / FILE_LIST
    records: dict[int, SampleRecord] = {}
    for line_number, line in enumerate(read_lines(path), 1):
        try:
            record = SampleRecord.model_validate(strip_format_version("image-list", line, path))
        except ValidationError as error:
            raise SampleError(
                f"{path} line {line_number} is no record of convert ({validation_summary(error)});"
                f" give it as --file-list {path} if it is yours, or delete it"
            ) from error
        if record.index in records:
            raise SampleError(f"{path} has index {record.index} twice; convert again")
        records[record.index] = record
    return records


def write_recorded_images(samples: SampleSet, suite: PromptSuite, folder: Path) -> WriteReport:
    """Write a set as INDEX.png with a record of every sample.

    The record is written last. A folder that an interruption left incomplete has no record, so it
    is not read as complete.
    """
    check_not_source(samples, folder)
    index_of_name = {f"{index:06d}.png": index for index in samples.indices}
    write_folder(
        folder,
        list(index_of_name),
        lambda names: _images(samples, [index_of_name[name] for name in names]),
        later_files=[FILE_LIST],
    )
    records = []
    for name, index in index_of_name.items():
        prompt = suite.case(index).prompt
        sha256 = sha256_file(folder / name)
        records.append(SampleRecord(index=index, file=name, sha256=sha256, prompt=prompt))
    for index, reason in samples.failed.items():
        prompt = suite.case(index).prompt
        records.append(SampleRecord(index=index, prompt=prompt, status="failed", reason=reason))
    write_or_compare_text(folder / FILE_LIST, _record_lines(records))
    warning = f"{FILE_LIST} has the index of each image; keep it in their folder"
    return WriteReport(len(samples.indices), (warning,))


def _images(samples: SampleSet, indices: list[int]) -> Iterator[np.ndarray]:
    """Yield the image (H, W, 3) uint8 of each index; an npz is read once, from its start."""
    if samples.files is not None:
        yield from (samples.image(index) for index in indices)
    elif indices:
        yield from (batch.images[0] for batch in samples.batches(indices, 1))


def _record_lines(records: Iterable[SampleRecord]) -> str:
    """Return the text of the record file, with one line for each record in the order of indices."""
    lines = (
        add_format_version("image-list", record.model_dump(mode="json"))
        for record in sorted(records, key=lambda record: record.index)
    )
    return "".join(json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in lines)
