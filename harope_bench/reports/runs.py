"""Run folders as they lie on disk: plan, samples, results. Folders without a plan are runs too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from harope_bench.core.checksums import check_recorded_hash
from harope_bench.core.errors import StorageError
from harope_bench.core.json_lines import read_lines
from harope_bench.core.record_base import validation_summary
from harope_bench.core.schema import Plan, SampleRecord
from harope_bench.core.storage import first_line, read_if_present
from harope_bench.data.image_folder import sort_naturally
from harope_bench.data.result_paths import run_folder_of
from harope_bench.data.result_store import StoredResult, read_results
from harope_bench.data.run_folder import PLAN_FILE, RECORDS_FILE


@dataclass(frozen=True)
class ReportedRun:
    """One folder with a plan, results, or both."""

    folder: Path
    id: str
    plan: Plan | None
    samples: tuple[SampleRecord, ...]
    results: tuple[StoredResult, ...]

    @property
    def title(self) -> str:
        """What was run: the checkpoint's name, or the target that was scored."""
        if self.plan is not None:
            return self.plan.checkpoint.name
        return self.results[0].result.target if self.results else self.id

    def image_path(self, record: SampleRecord) -> Path | None:
        """Path of a sample's image if there is one inside this folder; a record cannot point out of
        it.
        """
        if record.status != "ok" or record.file is None:
            return None
        path = (self.folder / record.file).resolve()
        return path if path.is_relative_to(self.folder.resolve()) else None


def read_runs(runs: Path) -> list[ReportedRun]:
    """All runs under a folder, in the order of their paths.

    Raises:
        StorageError: the folder is not there, or a file of a run is broken; the file is named.
    """
    found = read_results(runs)
    folders = {path.parent for path in runs.glob(f"**/{PLAN_FILE}")} | {
        run_folder_of(item.path) for item in found
    }
    return [_read_run(runs, folder, found) for folder in sorted(folders)]


def _read_run(runs: Path, folder: Path, results: Sequence[StoredResult]) -> ReportedRun:
    own = tuple(item for item in results if run_folder_of(item.path) == folder)
    plan = _read_plan(folder / PLAN_FILE) or next(
        (item.result.plan for item in own if item.result.plan), None
    )
    name = folder.relative_to(runs).as_posix()
    return ReportedRun(
        folder, runs.resolve().name if name == "." else name, plan, _read_samples(folder), own
    )


def _read_plan(path: Path) -> Plan | None:
    check_recorded_hash(path, "restore it or move the run away")
    data = read_if_present(path)
    if data is None:
        return None
    try:
        return Plan.from_json(data, path)
    except ValueError as error:
        why = validation_summary(error) if isinstance(error, ValidationError) else first_line(error)
        raise StorageError(
            f"{path} is not a plan ({why}); restore it or move the run away"
        ) from error


def _read_samples(folder: Path) -> tuple[SampleRecord, ...]:
    """By index; the last line of an index counts. Without a list, the folder's PNG files in
    order.
    """
    path = folder / RECORDS_FILE
    check_recorded_hash(path, "restore it or move the run away")
    try:
        records = {
            record.index: record for record in map(SampleRecord.model_validate, read_lines(path))
        }
    except ValidationError as error:
        raise StorageError(
            f"{path} holds a line that is not a sample ({validation_summary(error)}); delete the"
            " line"
        ) from error
    if records or path.exists():
        return tuple(records[index] for index in sorted(records))
    pictures = sort_naturally(folder.glob("images/*.png")) or sort_naturally(folder.glob("*.png"))
    return tuple(
        SampleRecord(index=i, file=picture.relative_to(folder).as_posix())
        for i, picture in enumerate(pictures)
    )
