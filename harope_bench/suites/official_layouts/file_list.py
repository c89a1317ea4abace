"""Lists of files: what a user states of each image, and the record that `convert` writes beside
images of prompts.
"""

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
from harope_bench.core.index_ranges import INDEX_DIGITS, whole_number
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
COLUMNS = (
    "file and index, or file, one of prompt_index, prompt, id, and copy where a prompt has several"
    " images"
)


class ListRow(NamedTuple):
    """A line of a list: the file's name as it stands there, and what is stated of the image."""

    line: int
    file: str
    keys: dict[str, str | int]


class Placement(NamedTuple):
    """The file of each index, why others have none, and the images that nothing was stated of."""

    files: dict[int, Path]
    failed: dict[int, str]
    unlisted_names: list[str]


# ------------------------------------------------------------------------------ lists of users


def assign_by_list(folder: Path, path: Path, keys: ImageKeys) -> Placement:
    """Return where a list puts the images of a folder.

    Raises:
        OptionError: No such list, a column or a value that does not fit, an image or an index that
            stands twice.
    """
    files: dict[int, Path] = {}
    failed: dict[int, str] = {}
    lines: dict[str, int] = {}
    for row in read_rows(path):
        image = _resolve_listed_file(folder, row, path)
        index = _index_of_row(keys, row, path)
        if index in files or index in failed or str(image) in lines:
            raise OptionError(
                f"{path} line {row.line} states an image or a file again; keep one line an image"
            )
        lines[str(image)] = row.line
        if is_file(image):
            files[index] = image
        else:
            failed[index] = f"{row.file} is listed and not there"
    others = [
        p.relative_to(folder).as_posix()
        for p in images_below(folder)
        if str(p.resolve()) not in lines
    ]
    return Placement(files, failed, others)


def read_rows(path: Path) -> Iterator[ListRow]:
    """Return the lines of a .csv, .tsv or .jsonl; OptionError names what does not fit."""
    if not path.is_file():
        raise OptionError(
            f"--file-list {path} is not there; give a .csv, .tsv or .jsonl with {COLUMNS}"
        )
    rows = list(_json_rows(path) if path.suffix.lower() == ".jsonl" else _table_rows(path))
    if not rows:
        raise OptionError(f"{path} lists no image; give {COLUMNS}")
    for line, values in rows:
        row = {
            str(name).strip(): _parse_cell(value)
            for name, value in values.items()
            if value not in (None, "")
        }
        file = row.get(FILE_COLUMN)
        names = [name for name in KEYS if name in row]
        if not isinstance(file, str) or not set(names) & set(PROMPT_KEYS):
            raise OptionError(
                f"{path} line {line} has {', '.join(row) or 'nothing'}, wanted {COLUMNS}"
            )
        yield ListRow(line, file, {name: row[name] for name in names})


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
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
    separator = SEPARATORS.get(path.suffix.lower())
    if separator is None:
        raise OptionError(f"--file-list {path} is no .csv, .tsv or .jsonl; name it by its form")
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
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return str(value).strip()


def _index_of_row(keys: ImageKeys, row: ListRow, path: Path) -> int:
    for name in ("index", "prompt_index", "copy"):
        text = _cell_text(row.keys.get(name, 0))
        if whole_number(text) is None:
            raise OptionError(
                f"{path} line {row.line}: {name} is {text[:20]!r}, wanted a whole number from 0"
            )
    try:
        return keys.index(row.keys)
    except OptionError as error:
        raise OptionError(f"{path} line {row.line}: {error}") from error


def _cell_text(value: str | int) -> str:
    """Return a cell as text; a number of more digits than `int` writes is none."""
    return (
        value
        if isinstance(value, str)
        else str(value)
        if abs(value) < 10**INDEX_DIGITS
        else "a number without end"
    )


def _resolve_listed_file(folder: Path, row: ListRow, path: Path) -> Path:
    """Return the listed file, resolved; OptionError where it is not in the folder.

    A name that Windows wrote has backslashes; they count as slashes where no file has that very
    name.
    """
    name = row.file
    if "\0" in name:
        raise OptionError(
            f"{path} line {row.line}: the file name holds a NUL character; correct it"
        )
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
    """Return whether `convert` wrote which image is of which prompt."""
    return (folder / FILE_LIST).is_file()


def open_recorded_images(folder: Path, suite: PromptSuite, suite_name: str) -> SampleSet:
    """Return exactly the samples that the record beside the images holds, failed ones with their
    reasons.

    Raises:
        SampleError: A line that is no record, a file outside the folder, or a prompt that is not
            the suite's.
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
            failed[index] = record.reason or f"{record.file} is not there"
    listed = {record.file for record in records.values()}
    others = [p.relative_to(folder).as_posix() for p in images_below(folder)]
    others = [name for name in others if name not in listed]
    warnings = [f"images: placed by the record in {FILE_LIST}"]
    warnings += [f"images: not read, not in {FILE_LIST}: {shorten_list(others)}"] if others else []
    samples = make_sample_set(folder, suite, files, failed, tuple(warnings))
    hashes = {index: str(records[index].sha256) for index in files if records[index].sha256}
    return replace(samples, recorded_hashes=hashes)


def _read_records(folder: Path) -> dict[int, SampleRecord]:
    path = folder / FILE_LIST
    records: dict[int, SampleRecord] = {}
    for number, line in enumerate(read_lines(path), 1):
        try:
            record = SampleRecord.model_validate(strip_format_version("image-list", line, path))
        except ValidationError as error:
            raise SampleError(
                f"{path} line {number} is no record of convert ({validation_summary(error)}); give"
                f" it as --file-list {path} if it is yours, or delete it"
            ) from error
        if record.index in records:
            raise SampleError(f"{path} has index {record.index} twice; convert again")
        records[record.index] = record
    return records


def write_recorded_images(samples: SampleSet, suite: PromptSuite, folder: Path) -> WriteReport:
    """Write a set as INDEX.png with a record of every sample.

    The record comes last, so a folder that a kill left has none and is not read as if it were
    whole.
    """
    check_not_source(samples, folder)
    names = {f"{index:06d}.png": index for index in samples.indices}
    write_folder(
        folder,
        list(names),
        lambda chosen: _images(samples, [names[name] for name in chosen]),
        later_files=[FILE_LIST],
    )
    records = []
    for name, index in names.items():
        prompt = suite.case(index).prompt
        records.append(
            SampleRecord(index=index, file=name, sha256=sha256_file(folder / name), prompt=prompt)
        )
    for index, reason in samples.failed.items():
        prompt = suite.case(index).prompt
        records.append(SampleRecord(index=index, prompt=prompt, status="failed", reason=reason))
    write_or_compare_text(folder / FILE_LIST, _record_lines(records))
    return WriteReport(
        len(samples.indices), (f"{FILE_LIST} holds the index of each image; keep it beside them",)
    )


def _images(samples: SampleSet, indices: list[int]) -> Iterator[np.ndarray]:
    """Yield the image (H, W, 3) uint8 of each of these indices; an npz is read once, from its
    start.
    """
    if samples.files is not None:
        yield from (samples.image(index) for index in indices)
    elif indices:
        yield from (batch.images[0] for batch in samples.batches(indices, 1))


def _record_lines(records: Iterable[SampleRecord]) -> str:
    lines = (
        add_format_version("image-list", record.model_dump(mode="json"))
        for record in sorted(records, key=lambda record: record.index)
    )
    return "".join(json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in lines)
