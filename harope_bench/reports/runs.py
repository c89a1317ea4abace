"""Run folders as they lie on disk: plan, samples, results. Folders without a plan are runs too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from harope_bench.core.checksums import check_recorded
from harope_bench.core.errors import StorageError
from harope_bench.core.json_lines import read_lines
from harope_bench.core.record_base import fault
from harope_bench.core.schema import Plan, SampleRecord
from harope_bench.core.storage import first_line, read_if_present
from harope_bench.data.image_folder import in_order
from harope_bench.data.result_paths import run_of
from harope_bench.data.result_store import StoredResult, read_results
from harope_bench.data.run_folder import PLAN, RECORDS


@dataclass(frozen=True)
class Run:
    """One folder with a plan, results, or both."""

    folder: Path
    id: str
    plan: Plan | None
    samples: tuple[SampleRecord, ...]
    found: tuple[StoredResult, ...]

    @property
    def title(self) -> str:
        """What was run: the checkpoint's name, or the target that was scored."""
        if self.plan is not None:
            return self.plan.checkpoint.name
        return self.found[0].result.target if self.found else self.id

    def picture(self, record: SampleRecord) -> Path | None:
        """Path of a sample's image if there is one inside this folder; a record cannot point out of it."""
        if record.status != "ok" or record.file is None:
            return None
        path = (self.folder / record.file).resolve()
        return path if path.is_relative_to(self.folder.resolve()) else None


def read_runs(runs: Path) -> list[Run]:
    """All runs under a folder, in the order of their paths.

    Raises:
        StorageError: the folder is not there, or a file of a run is broken; the file is named.
    """
    found = read_results(runs)
    folders = {path.parent for path in runs.glob(f"**/{PLAN}")} | {run_of(item.path) for item in found}
    return [_read(runs, folder, found) for folder in sorted(folders)]


def _read(runs: Path, folder: Path, found: Sequence[StoredResult]) -> Run:
    own = tuple(item for item in found if run_of(item.path) == folder)
    plan = _plan(folder / PLAN) or next((item.result.plan for item in own if item.result.plan), None)
    name = folder.relative_to(runs).as_posix()
    return Run(folder, runs.resolve().name if name == "." else name, plan, _samples(folder), own)


def _plan(path: Path) -> Plan | None:
    check_recorded(path, "restore it or move the run away")
    data = read_if_present(path)
    if data is None:
        return None
    try:
        return Plan.from_json(data, path)
    except ValueError as error:
        why = fault(error) if isinstance(error, ValidationError) else first_line(error)
        raise StorageError(f"{path} is not a plan ({why}); restore it or move the run away") from error


def _samples(folder: Path) -> tuple[SampleRecord, ...]:
    """By index; the last line of an index counts. Without a list, the folder's PNG files in order."""
    path = folder / RECORDS
    check_recorded(path, "restore it or move the run away")
    try:
        records = {record.index: record for record in map(SampleRecord.model_validate, read_lines(path))}
    except ValidationError as error:
        raise StorageError(f"{path} holds a line that is not a sample ({fault(error)}); delete the line") from error
    if records or path.exists():
        return tuple(records[index] for index in sorted(records))
    pictures = in_order(folder.glob("images/*.png")) or in_order(folder.glob("*.png"))
    return tuple(SampleRecord(index=i, file=picture.relative_to(folder).as_posix()) for i, picture in enumerate(pictures))
