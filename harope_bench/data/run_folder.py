"""Run folders: the plan that a folder is tied to, and the samples that were asked for and generated under it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import BaseFileLock, FileLock
from pydantic import ValidationError

from harope_bench.core import checksums
from harope_bench.core.errors import PlanMismatch, SampleError, StorageError
from harope_bench.core.index_ranges import IndexRanges, parse_ranges
from harope_bench.core.json_lines import append_line, mend_lines, read_lines
from harope_bench.core.part_files import sweep
from harope_bench.core.record_base import fault
from harope_bench.core.regular_file import LINES_BYTES, is_file
from harope_bench.core.schema import Plan, Request, SampleRecord
from harope_bench.core.storage import (
    make_folder,
    read_if_present,
    sha256_bytes,
    write_text,
    writing,
)
from harope_bench.data.image_io import encode

PLAN, RECORDS, REQUESTS, IMAGES, LOCK = "plan.json", "samples.jsonl", "requests.jsonl", "images", ".lock"
RESULTS, OBSERVATIONS = "results", "observations"  # what `eval` puts beside the images


def differing(wanted: Plan, found: Plan) -> list[str]:
    """The fields in which two plans differ, as `settings.steps 32 here, 50 asked`."""

    def flat(value: object, name: str = "") -> dict[str, object]:
        if not isinstance(value, dict):
            return {name: value}
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{name}.{key}".strip(".")).items()}

    a, b = flat(wanted.deciding()), flat(found.deciding())

    def shown(value: object) -> object:
        return "not set" if value is None else value

    return [f"{k} is {shown(b.get(k))} there, {shown(a.get(k))} asked" for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]


@dataclass(frozen=True)
class Run:
    """A folder that holds, or will hold, the samples of one plan.

    is_checked: Plan and records must be the recorded ones, or AlteredFileError. `verify` alone reads others, to say what is wrong.
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
        path = self.folder / PLAN
        self._check(path)
        data = read_if_present(path)
        if data is None:
            return None
        try:
            return Plan.from_json(data, path)
        except (StorageError, ValueError) as error:
            raise PlanMismatch(f"{path} is not a plan this version reads; choose another --out") from error

    def _check(self, path: Path) -> None:
        if self.is_checked:
            checksums.check_recorded(path, "bring that one back, or choose another --out")

    def claim(self, plan: Plan) -> None:
        """Makes the folder this plan's; PlanMismatch names every differing field if it is another's."""
        make_folder(self.folder / IMAGES)
        with self.alone():
            found = self.plan
            if found is None:
                text = plan.to_json(indent=1) + "\n"
                checksums.record(self.folder, {PLAN: sha256_bytes(text.encode())})  # first: a kill leaves no plan unvouched
                write_text(self.folder / PLAN, text)
            elif found.digest != plan.digest:
                raise PlanMismatch(f"{self.folder} holds another plan: {'; '.join(differing(plan, found))}; choose another --out")
            elif not checksums.has_sums(self.folder):  # of a version before them
                checksums.record_files(self.folder, [PLAN])
            for name in (RECORDS, REQUESTS):
                mend_lines(self.folder / name)
            sweep(self.folder / IMAGES)

    def alone(self) -> BaseFileLock:
        """A lock that several processes on one folder take in turn, for a moment each."""
        return FileLock(self.folder / LOCK)

    def records(self) -> dict[int, SampleRecord]:
        """Records by index; the last one counts. SampleError names a line that is no record."""
        self._check(self.folder / RECORDS)
        found: dict[int, SampleRecord] = {}
        for number, line in enumerate(read_lines(self.folder / RECORDS), 1):
            try:
                record = SampleRecord.model_validate(line)
            except ValidationError as error:
                raise SampleError(f"{self.folder / RECORDS} line {number} is no record ({fault(error)}); delete the line") from error
            found[record.index] = record
        return found

    def ask(self, indices: Sequence[int]) -> None:
        """Notes that these indices were asked for, so that missing ones can be told from unasked ones."""
        with self.alone():
            wanted = IndexRanges.of(indices)
            if wanted.without(self.asked()):
                self._unsettle()
                append_line(self.folder / REQUESTS, f'{{"indices": "{wanted}"}}')

    def asked(self) -> IndexRanges:
        """Return every index ever asked for in this folder; SampleError names a line that says no indices."""
        runs: list[tuple[int, int]] = []
        for number, line in enumerate(read_lines(self.folder / REQUESTS), 1):
            try:
                runs += parse_ranges(line["indices"]).runs
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise SampleError(f"{self.folder / REQUESTS} line {number} says no indices; delete the line") from error
        return IndexRanges(runs)

    def missing(self, indices: Iterable[int]) -> IndexRanges:
        """Return the indices without a record, or whose image is gone."""
        wanted, records = IndexRanges.of(indices), self.records()
        return wanted.without([i for i, record in records.items() if i in wanted and self._kept(record)])

    def _kept(self, record: SampleRecord) -> bool:
        return record.status == "failed" or (record.file is not None and is_file(self.folder / record.file))

    def add(self, request: Request, image: np.ndarray | None, reason: str | None) -> None:
        """Image first, then its line: a line always has its image. A fault is a failed sample without one."""
        facts: dict[str, str | None] = {"status": "failed", "reason": reason}
        if image is not None:
            data, name = encode(image), f"{IMAGES}/{request.index:06d}.png"
            facts = {"status": "ok", "file": name, "sha256": sha256_bytes(data)}
            with writing(self.folder / name, sync=False) as file:
                file.write(data)
        record = SampleRecord.model_validate({**request.model_dump(), **facts})
        with self.alone():
            self._unsettle()
            append_line(self.folder / RECORDS, record.to_json())

    def _unsettle(self) -> None:
        """Drop the hash of the records before lines are added; `settle` vouches for the whole again.

        Raises:
            AlteredFileError: They are not the recorded ones, and would be vouched for together with the new lines.
        """
        if self.is_settled:
            self._check(self.folder / RECORDS)
            checksums.drop(self.folder, [RECORDS])

    @property
    def is_settled(self) -> bool:
        """Whether the records are whole, in order and vouched for."""
        return RECORDS in checksums.read_sums(self.folder)

    def settle(self) -> None:
        """Rewrites the records in index order, so that interrupted and straight runs end in equal bytes.

        Once nothing is missing their hash is recorded: another process may still be adding lines before that.
        """
        with self.alone():
            records = self.records()
            text = "".join(records[i].to_json() + "\n" for i in sorted(records))
            if text.encode() != (read_if_present(self.folder / RECORDS, LINES_BYTES) or b""):
                self._unsettle()
                write_text(self.folder / RECORDS, text)
            if not self.asked().without(records):
                checksums.record(self.folder, {RECORDS: sha256_bytes(text.encode())})
