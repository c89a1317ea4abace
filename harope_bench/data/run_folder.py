"""Run folders: the plan that a folder is tied to, and the samples that were asked for and generated
under it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import BaseFileLock, FileLock
from pydantic import ValidationError

from harope_bench.core import checksums
from harope_bench.core.errors import PlanMismatchError, SampleError, StorageError
from harope_bench.core.index_ranges import IndexRanges, parse_ranges
from harope_bench.core.json_lines import append_line, drop_partial_line, read_lines
from harope_bench.core.part_files import remove_stale_parts
from harope_bench.core.record_base import validation_summary
from harope_bench.core.regular_file import LINES_BYTES, is_file
from harope_bench.core.schema import Plan, Request, SampleRecord
from harope_bench.core.storage import (
    make_folder,
    read_if_present,
    sha256_bytes,
    write_atomically,
    write_text,
)
from harope_bench.data.image_io import encode_png

PLAN_FILE = "plan.json"
RECORDS_FILE = "samples.jsonl"
REQUESTS_FILE = "requests.jsonl"
IMAGES_FOLDER = "images"
LOCK_FILE = ".lock"
# Folders that `eval` writes beside the images.
RESULTS_FOLDER = "results"
FEATURES_FOLDER = "features"
ANNOTATIONS_FOLDER = "annotations"
PREDICTIONS_FOLDER = "predictions"
FORWARDS_FOLDER = "forwards"
JUDGE_OUTPUT_FOLDERS = (FEATURES_FOLDER, ANNOTATIONS_FOLDER, PREDICTIONS_FOLDER, FORWARDS_FOLDER)


def plan_differences(wanted: Plan, found: Plan) -> list[str]:
    """The fields in which two plans differ, as `settings.steps 32 here, 50 asked`."""

    def flat(value: object, name: str = "") -> dict[str, object]:
        if not isinstance(value, dict):
            return {name: value}
        return {
            k: v
            for key, inner in value.items()
            for k, v in flat(inner, f"{name}.{key}".strip(".")).items()
        }

    a = flat(wanted.digest_fields())
    b = flat(found.digest_fields())

    def shown(value: object) -> object:
        return "not set" if value is None else value

    return [
        f"{k} is {shown(b.get(k))} there, {shown(a.get(k))} asked"
        for k in sorted(a.keys() | b.keys())
        if a.get(k) != b.get(k)
    ]


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds, or will hold, the samples of one plan.

    is_checked: Plan and records must be the recorded ones, or AlteredFileError. `verify` alone
    reads others, to say what is wrong.
    """

    folder: Path
    is_checked: bool = True

    @property
    def plan(self) -> Plan | None:
        """The folder's plan, or None before there is one.

        Raises:
            PlanMismatch: it is not readable. FormatError: another version of this package wrote it.
            AlteredFileError: it is not the recorded one.
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
        if self.is_checked:
            checksums.check_recorded_hash(path, "bring that one back, or choose another --out")

    def tie_to_plan(self, plan: Plan) -> None:
        """Makes the folder this plan's; PlanMismatch names every differing field if it is
        another's.
        """
        make_folder(self.folder / IMAGES_FOLDER)
        with self.lock():
            found = self.plan
            if found is None:
                text = plan.to_json(indent=1) + "\n"
                checksums.record_hashes(
                    self.folder, {PLAN_FILE: sha256_bytes(text.encode())}
                )  # first: a kill leaves no plan unvouched
                write_text(self.folder / PLAN_FILE, text)
            elif found.digest != plan.digest:
                raise PlanMismatchError(
                    f"{self.folder} holds another plan: {'; '.join(plan_differences(plan, found))};"
                    " choose another --out"
                )
            elif not checksums.has_checksums(self.folder):  # of a version before them
                checksums.record_file_hashes(self.folder, [PLAN_FILE])
            for name in (RECORDS_FILE, REQUESTS_FILE):
                drop_partial_line(self.folder / name)
            remove_stale_parts(self.folder / IMAGES_FOLDER)

    def lock(self) -> BaseFileLock:
        """A lock that several processes on one folder take in turn, for a moment each."""
        return FileLock(self.folder / LOCK_FILE)

    def read_records(self) -> dict[int, SampleRecord]:
        """Records by index; the last one counts. SampleError names a line that is no record."""
        self._check_hash(self.folder / RECORDS_FILE)
        found: dict[int, SampleRecord] = {}
        for number, line in enumerate(read_lines(self.folder / RECORDS_FILE), 1):
            try:
                record = SampleRecord.model_validate(line)
            except ValidationError as error:
                raise SampleError(
                    f"{self.folder / RECORDS_FILE} line {number} is no record"
                    f" ({validation_summary(error)}); delete the line"
                ) from error
            found[record.index] = record
        return found

    def record_request(self, indices: Sequence[int]) -> None:
        """Notes that these indices were asked for, so that missing ones can be told from unasked
        ones.
        """
        with self.lock():
            wanted = IndexRanges.from_indices(indices)
            if wanted.difference(self.requested_indices()):
                self._reopen_records()
                append_line(self.folder / REQUESTS_FILE, f'{{"indices": "{wanted}"}}')

    def requested_indices(self) -> IndexRanges:
        """Return every index ever asked for in this folder; SampleError names a line that says no
        indices.
        """
        runs: list[tuple[int, int]] = []
        for number, line in enumerate(read_lines(self.folder / REQUESTS_FILE), 1):
            try:
                runs += parse_ranges(line["indices"]).ranges
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise SampleError(
                    f"{self.folder / REQUESTS_FILE} line {number} says no indices; delete the line"
                ) from error
        return IndexRanges(runs)

    def missing_indices(self, indices: Iterable[int]) -> IndexRanges:
        """Return the indices without a record, or whose image is gone."""
        wanted = IndexRanges.from_indices(indices)
        records = self.read_records()
        return wanted.difference(
            [i for i, record in records.items() if i in wanted and self._is_finished(record)]
        )

    def _is_finished(self, record: SampleRecord) -> bool:
        return record.status == "failed" or (
            record.file is not None and is_file(self.folder / record.file)
        )

    def add_sample(self, request: Request, image: np.ndarray | None, reason: str | None) -> None:
        """Image first, then its line: a line always has its image. A fault is a failed sample
        without one.
        """
        facts: dict[str, str | None] = {"status": "failed", "reason": reason}
        if image is not None:
            data = encode_png(image)
            name = f"{IMAGES_FOLDER}/{request.index:06d}.png"
            facts = {"status": "ok", "file": name, "sha256": sha256_bytes(data)}
            with write_atomically(self.folder / name, sync=False) as file:
                file.write(data)
        record = SampleRecord.model_validate({**request.model_dump(), **facts})
        with self.lock():
            self._reopen_records()
            append_line(self.folder / RECORDS_FILE, record.to_json())

    def _reopen_records(self) -> None:
        """Drop the hash of the records before lines are added; `settle` vouches for the whole
        again.

        Raises:
            AlteredFileError: They are not the recorded ones, and would be vouched for together with
                the new lines.
        """
        if self.is_final:
            self._check_hash(self.folder / RECORDS_FILE)
            checksums.drop_hashes(self.folder, [RECORDS_FILE])

    @property
    def is_final(self) -> bool:
        """Whether the records are whole, in order and vouched for."""
        return RECORDS_FILE in checksums.read_checksums(self.folder)

    def finalize_records(self) -> None:
        """Rewrites the records in index order, so that interrupted and straight runs end in equal
        bytes.

        Once nothing is missing their hash is recorded: another process may still be adding lines
        before that.
        """
        with self.lock():
            records = self.read_records()
            text = "".join(records[i].to_json() + "\n" for i in sorted(records))
            if text.encode() != (read_if_present(self.folder / RECORDS_FILE, LINES_BYTES) or b""):
                self._reopen_records()
                write_text(self.folder / RECORDS_FILE, text)
            if not self.requested_indices().difference(records):
                checksums.record_hashes(self.folder, {RECORDS_FILE: sha256_bytes(text.encode())})
