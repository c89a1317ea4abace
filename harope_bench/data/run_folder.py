"""Run folders: the plan that a folder is tied to, and its requested and generated samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import BaseFileLock, FileLock
from pydantic import ValidationError

from harope_bench.core import checksums
from harope_bench.core.errors import PlanMismatchError, SampleError, StorageError
from harope_bench.core.index_ranges import IndexRanges, parse_ranges
from harope_bench.core.json_lines import append_line, drop_partial_line, read_lines
from harope_bench.core.part_files import remove_stale_parts
from harope_bench.core.record_base import shorten_text, validation_summary
from harope_bench.core.regular_file import LINES_BYTES, is_file
from harope_bench.core.schema import Plan, Request, SampleRecord
from harope_bench.core.storage import (
    convert_os_errors,
    make_folder,
    read_if_present,
    sha256_bytes,
    write_atomically,
    write_text,
)
from harope_bench.core.text_file import decode_text
from harope_bench.data.image_io import encode_png
from harope_bench.data.run_claim import RunPart, has_live_part, part_folders, remove_empty_parts

PLAN_FILE = "plan.json"
RECORDS_FILE = "samples.jsonl"
REQUESTS_FILE = "requests.jsonl"
WARNINGS_FILE = "warnings.txt"  # a line each; only in runs that have one
IMAGES_FOLDER = "images"
MAX_WARNING = 1000  # characters
LOCK_FILE = ".lock"
# Folders that `eval` writes beside the images.
RESULTS_FOLDER = "results"
FEATURES_FOLDER = "features"
ANNOTATIONS_FOLDER = "annotations"
PREDICTIONS_FOLDER = "predictions"
FORWARDS_FOLDER = "forwards"
JUDGE_OUTPUT_FOLDERS = (FEATURES_FOLDER, ANNOTATIONS_FOLDER, PREDICTIONS_FOLDER, FORWARDS_FOLDER)


def plan_differences(requested_plan: Plan, folder_plan: Plan) -> list[str]:
    """Return the fields in which two plans differ, with both values."""
    requested_fields = _flatten_fields(requested_plan.digest_fields())
    folder_fields = _flatten_fields(folder_plan.digest_fields())
    differences = []
    for name in sorted(requested_fields.keys() | folder_fields.keys()):
        requested_value = requested_fields.get(name)
        folder_value = folder_fields.get(name)
        if requested_value != folder_value:
            differences.append(
                f"{name} is {_value_text(folder_value)} in the folder,"
                f" {_value_text(requested_value)} requested"
            )
    return differences


def _flatten_fields(value: object, name: str = "") -> dict[str, object]:
    """Return the leaves of nested dicts by dotted name, such as `settings.steps`."""
    if not isinstance(value, dict):
        return {name: value}
    leaves: dict[str, object] = {}
    for key, child in value.items():
        leaves.update(_flatten_fields(child, f"{name}.{key}".strip(".")))
    return leaves


def _value_text(value: object) -> object:
    return "not set" if value is None else value


class EncodedSample(NamedTuple):
    """The record of a sample and the bytes of its image file; None if the sample failed."""

    record: SampleRecord
    png: bytes | None


def encode_sample(
    request: Request, image: np.ndarray | None, reason: str | None = None
) -> EncodedSample:
    """Return a sample as it is stored. It needs no folder, so any thread or process can do it.

    Args:
        image: The image (H, W, 3) uint8; None if the sample failed.
        reason: Why the sample failed.
    """
    fields: dict[str, str | None] = {"status": "failed", "reason": reason}
    png = None
    if image is not None:
        png = encode_png(image)
        name = f"{IMAGES_FOLDER}/{request.index:06d}.png"
        fields = {"status": "ok", "file": name, "sha256": sha256_bytes(png)}
    record = SampleRecord.model_validate({**request.model_dump(), **fields})
    return EncodedSample(record, png)


@dataclass(frozen=True)
class RunFolder:
    """A folder for the samples of one plan.

    Attributes:
        needs_matching_hashes: Raise AlteredFileError if plan or records do not have their recorded
            hashes. Only `verify` reads altered files, in order to report them.
        part: The part of the run that this process writes. Its records are in files of its own;
            all records are read. None writes the whole run.
    """

    folder: Path
    needs_matching_hashes: bool = True
    part: RunPart | None = None

    @property
    def _records_folder(self) -> Path:
        """Return the folder of the records that this process writes."""
        return self.folder if self.part is None else self.part.folder(self.folder)

    @property
    def plan(self) -> Plan | None:
        """Return the plan of the folder; None if it has none yet.

        Raises:
            PlanMismatchError: The plan is not readable.
            FormatError: The plan has another format version.
            AlteredFileError: The plan does not have its recorded hash.
        """
        path = self.folder / PLAN_FILE
        self._check_hash(path)
        data = read_if_present(path)
        if data is None:
            return None
        try:
            return Plan.from_json(data, path)
        except (StorageError, ValueError) as error:
            raise PlanMismatchError(
                f"{path} is not a plan this version reads; choose another --out"
            ) from error

    def _check_hash(self, path: Path) -> None:
        if self.needs_matching_hashes:
            checksums.check_recorded_hash(path, "bring that one back, or choose another --out")

    def tie_to_plan(self, plan: Plan) -> None:
        """Write the plan into the folder, or check that the folder already has this plan.

        Files that an interrupted process left incomplete are repaired.

        Raises:
            PlanMismatchError: The folder has another plan. The message names every differing field.
        """
        make_folder(self.folder / IMAGES_FOLDER)
        with self.lock():
            folder_plan = self.plan
            if folder_plan is None:
                text = plan.to_json(indent=1) + "\n"
                # The hash comes first: an interruption then leaves no plan without a hash.
                checksums.record_hashes(self.folder, {PLAN_FILE: sha256_bytes(text.encode())})
                write_text(self.folder / PLAN_FILE, text)
            elif folder_plan.digest != plan.digest:
                differences = plan_differences(plan, folder_plan)
                raise PlanMismatchError(
                    f"{self.folder} holds another plan: {'; '.join(differences)};"
                    " choose another --out"
                )
            elif not checksums.has_checksums(self.folder):  # early versions recorded no hashes
                checksums.record_file_hashes(self.folder, [PLAN_FILE])
            for name in (RECORDS_FILE, REQUESTS_FILE):
                drop_partial_line(self._records_folder / name)
            remove_stale_parts(self.folder / IMAGES_FOLDER)

    def add_warnings(self, texts: Iterable[str]) -> None:
        """Record warnings about the images, for all results of the run; each text once."""
        with self.lock():
            warnings = dict.fromkeys([*self.read_warnings(), *texts])
            text = "".join(f"{text}\n" for text in warnings)
            checksums.record_hashes(self.folder, {WARNINGS_FILE: sha256_bytes(text.encode())})
            write_text(self.folder / WARNINGS_FILE, text)

    def read_warnings(self) -> tuple[str, ...]:
        """Return the recorded warnings about the images.

        Raises:
            StorageError: The file is not text of a reasonable size.
        """
        path = self.folder / WARNINGS_FILE
        self._check_hash(path)
        return tuple(
            shorten_text(line, MAX_WARNING)
            for line in decode_text(read_if_present(path) or b"", path).splitlines()
        )

    def lock(self) -> BaseFileLock:
        """Return the lock that a process holds for a moment while it changes records."""
        return FileLock(self.folder / LOCK_FILE)

    def read_records(self) -> dict[int, SampleRecord]:
        """Return the sample records by index, also those of parts. The last one of an index counts.

        Raises:
            SampleError: A line is not a record.
            AlteredFileError: The file does not have its recorded hash.
        """
        self._check_hash(self.folder / RECORDS_FILE)
        records: dict[int, SampleRecord] = {}
        for path in self._files_of_all_parts(RECORDS_FILE):
            for number, line in enumerate(read_lines(path), 1):
                try:
                    record = SampleRecord.model_validate(line)
                except ValidationError as error:
                    raise SampleError(
                        f"{path} line {number} is no record ({validation_summary(error)}); delete"
                        " the line"
                    ) from error
                records[record.index] = record
        return records

    def _files_of_all_parts(self, name: str) -> list[Path]:
        """Return the paths of a file in the run folder and in the folders of its parts."""
        return [self.folder / name, *(path / name for path in part_folders(self.folder))]

    def record_request(self, indices: Sequence[int]) -> None:
        """Record that samples are requested, unless all of them already were.

        The record distinguishes a missing sample from one that was never requested.
        """
        if self.part is not None:
            path = self._records_folder / REQUESTS_FILE
            requested_indices = IndexRanges.from_indices(indices)
            known_indices = _read_requests(self.folder / REQUESTS_FILE)
            if requested_indices.difference(known_indices).difference(_read_requests(path)):
                append_line(path, f'{{"indices": "{requested_indices}"}}')
            return
        with self.lock():
            requested_indices = IndexRanges.from_indices(indices)
            if requested_indices.difference(self.requested_indices()):
                self._reopen_records()
                append_line(self.folder / REQUESTS_FILE, f'{{"indices": "{requested_indices}"}}')

    def requested_indices(self) -> IndexRanges:
        """Return the indices of all recorded requests.

        Raises:
            SampleError: A line contains no indices.
        """
        paths = self._files_of_all_parts(REQUESTS_FILE)
        return IndexRanges(r for path in paths for r in _read_requests(path).ranges)

    def missing_indices(
        self, indices: Iterable[int], records: Mapping[int, SampleRecord] | None = None
    ) -> IndexRanges:
        """Return those of the indices that have no record, or whose image file is missing.

        Args:
            records: The sample records by index; None reads them.
        """
        records = self.read_records() if records is None else records
        index_ranges = IndexRanges.from_indices(indices)
        finished_indices = [
            index
            for index, record in records.items()
            if index in index_ranges and self._is_finished(record)
        ]
        return index_ranges.difference(finished_indices)

    def _is_finished(self, record: SampleRecord) -> bool:
        """Return whether a sample failed or its image file exists."""
        if record.status == "failed":
            return True
        return record.file is not None and is_file(self.folder / record.file)

    def add_sample(self, sample: EncodedSample) -> None:
        """Write the image of a sample and append its record.

        The image is written first, so that a record always has its image.
        """
        if sample.png is not None:
            path = self.folder / str(sample.record.file)
            with write_atomically(path, sync=False) as file:
                file.write(sample.png)
        if self.part is not None:
            append_line(self._records_folder / RECORDS_FILE, sample.record.to_json())
            return
        with self.lock():
            self._reopen_records()
            append_line(self.folder / RECORDS_FILE, sample.record.to_json())

    def _reopen_records(self) -> None:
        """Drop the hash of the records before lines are appended. `finalize_records` restores it.

        Raises:
            AlteredFileError: The records do not have their recorded hash. The new hash would cover
                up the alteration.
        """
        if self._has_recorded_hash:
            self._check_hash(self.folder / RECORDS_FILE)
            checksums.drop_hashes(self.folder, [RECORDS_FILE])

    @property
    def _has_recorded_hash(self) -> bool:
        return RECORDS_FILE in checksums.read_checksums(self.folder)

    @property
    def is_final(self) -> bool:
        """Return whether the records are complete, sorted, in one file and their hash recorded."""
        return self._has_recorded_hash and not self._part_record_files()

    def _part_record_files(self) -> list[Path]:
        """Return the files of records and requests that parts of the run have written."""
        names = (RECORDS_FILE, REQUESTS_FILE)
        paths = [path / name for path in part_folders(self.folder) for name in names]
        return [path for path in paths if path.exists()]

    def finalize_records(self) -> None:
        """Sort the records by index, and record their hash once no sample is missing.

        The records of parts are taken into the files of the run. Interrupted and uninterrupted
        runs, with any number of parts, then end with equal files. While samples are missing,
        another process may still append records.
        """
        with self.lock():
            self._finalize_locked()

    def take_part_requests(self) -> None:
        """Take the requests of parts into the files of a run without samples."""
        with self.lock():
            self._take_part_requests()
            self._remove_part_records()

    def take_parts(self) -> None:
        """Take the records of parts into the files of the run, if there are any."""
        if self._part_record_files():
            self.finalize_records()

    def finalize_last_part(self) -> None:
        """Finalize the records if no sample is missing and no other process writes a part."""
        with self.lock():
            has_live_parts = has_live_part(self.folder)
            if not has_live_parts and not self.requested_indices().difference(self.read_records()):
                self._finalize_locked()

    def _finalize_locked(self) -> None:
        """Finalize the records while this process holds the lock."""
        self._take_part_requests()
        records = self.read_records()
        text = "".join(records[i].to_json() + "\n" for i in sorted(records))
        if text.encode() != (read_if_present(self.folder / RECORDS_FILE, LINES_BYTES) or b""):
            self._reopen_records()
            write_text(self.folder / RECORDS_FILE, text)
        if not self.requested_indices().difference(records):
            checksums.record_hashes(self.folder, {RECORDS_FILE: sha256_bytes(text.encode())})
        self._remove_part_records()

    def _take_part_requests(self) -> None:
        """Append the requests of parts to those of the run."""
        run_path = self.folder / REQUESTS_FILE
        for path in self._files_of_all_parts(REQUESTS_FILE)[1:]:
            for ranges in _read_request_lines(path):
                if ranges.difference(_read_requests(run_path)):
                    self._reopen_records()
                    append_line(run_path, f'{{"indices": "{ranges}"}}')

    def _remove_part_records(self) -> None:
        """Remove the record files of parts, and the folders of parts that hold nothing else."""
        with convert_os_errors(self.folder):
            for path in self._part_record_files():
                path.unlink(missing_ok=True)
        remove_empty_parts(self.folder)


def _read_requests(path: Path) -> IndexRanges:
    """Return the indices of all requests in a file; none if it does not exist."""
    return IndexRanges(r for ranges in _read_request_lines(path) for r in ranges.ranges)


def _read_request_lines(path: Path) -> list[IndexRanges]:
    """Return the indices of each request in a file.

    Raises:
        SampleError: A line contains no indices.
    """
    requests = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            requests.append(parse_ranges(line["indices"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SampleError(
                f"{path} line {number} contains no indices; delete the line"
            ) from error
    return requests
