"""Run folders as a report reads them: plan, samples and results.

A folder with results but without a plan is a run too.
"""

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
    """One folder with a plan, results, or both. `id` is its path below the folder of all runs."""

    folder: Path
    id: str
    plan: Plan | None
    samples: tuple[SampleRecord, ...]
    results: tuple[StoredResult, ...]

    @property
    def title(self) -> str:
        """Return the name of the checkpoint, or of the target that was evaluated."""
        if self.plan is not None:
            return self.plan.checkpoint.name
        return self.results[0].result.target if self.results else self.id

    def image_path(self, record: SampleRecord) -> Path | None:
        """Return the path of a sample's image, None without a file inside this folder.

        A record cannot lead out of the folder.
        """
        if record.status != "ok" or record.file is None:
            return None
        path = (self.folder / record.file).resolve()
        return path if path.is_relative_to(self.folder.resolve()) else None


def read_runs(runs: Path) -> list[ReportedRun]:
    """Return all runs under a folder, sorted by path.

    Raises:
        StorageError: the folder is missing, or a file of a run is invalid. The message names it.
    """
    results = read_results(runs)
    folders = {path.parent for path in runs.glob(f"**/{PLAN_FILE}")} | {
        run_folder_of(stored_result.path) for stored_result in results
    }
    return [_read_run(runs, folder, results) for folder in sorted(folders)]


def _read_run(runs: Path, folder: Path, results: Sequence[StoredResult]) -> ReportedRun:
    """Return the run of a folder; without plan.json the plan of one of its results is taken."""
    run_results = tuple(
        stored_result for stored_result in results if run_folder_of(stored_result.path) == folder
    )
    plan = _read_plan(folder / PLAN_FILE) or next(
        (stored_result.result.plan for stored_result in run_results if stored_result.result.plan),
        None,
    )
    run_id = folder.relative_to(runs).as_posix()
    return ReportedRun(
        folder,
        runs.resolve().name if run_id == "." else run_id,
        plan,
        _read_samples(folder),
        run_results,
    )


def _read_plan(path: Path) -> Plan | None:
    """Return the plan of a file, None if the file is missing.

    Raises:
        StorageError: the file was changed or is not a plan.
    """
    check_recorded_hash(path, "restore it or move the run away")
    data = read_if_present(path)
    if data is None:
        return None
    try:
        return Plan.from_json(data, path)
    except ValueError as error:
        reason = first_line(error)
        if isinstance(error, ValidationError):
            reason = validation_summary(error)
        raise StorageError(
            f"{path} is not a plan ({reason}); restore it or move the run away"
        ) from error


def _read_samples(folder: Path) -> tuple[SampleRecord, ...]:
    """Return the samples of a run by index; the last record of an index counts.

    Without records, the PNG files of the folder in natural order.
    """
    path = folder / RECORDS_FILE
    check_recorded_hash(path, "restore it or move the run away")
    try:
        records = {
            record.index: record for record in map(SampleRecord.model_validate, read_lines(path))
        }
    except ValidationError as error:
        raise StorageError(
            f"{path} has a line that is not a sample ({validation_summary(error)}); delete the line"
        ) from error
    if records or path.exists():
        return tuple(records[index] for index in sorted(records))
    image_paths = sort_naturally(folder.glob("images/*.png")) or sort_naturally(
        folder.glob("*.png")
    )
    return tuple(
        SampleRecord(index=i, file=image_path.relative_to(folder).as_posix())
        for i, image_path in enumerate(image_paths)
    )
