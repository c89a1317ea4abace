"""What a person states about a leaderboard and its runs: title, labels, authors, addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from harope_bench.core.errors import StorageError, UnknownNameError
from harope_bench.core.record_base import Record, validation_summary
from harope_bench.core.toml_file import read_toml
from harope_bench.data.result_store import StoredResult
from harope_bench.leaderboards.entries import Entries, find_runs
from harope_bench.reports.runs import ReportedRun, read_runs

LineText = Annotated[str, Field(min_length=1, max_length=300)]
WebAddress = Annotated[str, Field(max_length=300, pattern=r"^https?://[^\s\"<>]+$")]


class RunMetadata(Record):
    """What is stated about a run."""

    label: LineText | None = None
    authors: LineText | None = None
    url: WebAddress | None = None
    date: LineText | None = None
    note: LineText | None = None


class LeaderboardMetadata(Record):
    """What is stated about a leaderboard. `runs` is by the name of a run, as in `--add`."""

    title: LineText = "Leaderboard"
    description: LineText | None = None
    url: WebAddress | None = None
    runs: dict[str, RunMetadata] = {}


@dataclass(frozen=True)
class RunDescription:
    """How a run is called on the pages. is_own: whether the user added it by `--add`."""

    label: str
    is_own: bool = False
    metadata: RunMetadata = field(default_factory=RunMetadata)


NO_METADATA = LeaderboardMetadata()


def read_metadata(path: Path) -> LeaderboardMetadata:
    """Return the metadata of a TOML file.

    Raises:
        BenchError: the file cannot be read as TOML.
        StorageError: a field is unknown or wrong.
    """
    try:
        return LeaderboardMetadata.model_validate(read_toml(path))
    except ValidationError as error:
        fields = ", ".join(LeaderboardMetadata.model_fields)
        raise StorageError(
            f"{path} is no metadata of a leaderboard ({validation_summary(error)}); it has"
            f" {fields}, and each run {', '.join(RunMetadata.model_fields)}"
        ) from error


def read_added_runs(runs: Sequence[ReportedRun], entries: Entries) -> list[ReportedRun]:
    """Return the runs of `--add` that are in a folder outside of the leaderboard's.

    Raises:
        UnknownNameError: a name is neither that of a run nor a folder.
        StorageError: a run has the name of another one.
    """
    added_runs: list[ReportedRun] = []
    names = {run.id for run in runs}
    for addition in entries.additions:
        if _find_runs(addition.name, runs, entries):
            continue
        for run in read_runs(Path(addition.name)):
            if run.id in names:
                raise StorageError(
                    f"two runs are called {run.id}, one of them in {addition.name}; rename its"
                    " folder"
                )
            names.add(run.id)
            added_runs.append(run)
    return added_runs


def describe_runs(
    runs: Sequence[ReportedRun], entries: Entries, metadata: LeaderboardMetadata
) -> dict[str, RunDescription]:
    """Return the description of each run by its id.

    Raises:
        UnknownNameError: a name of the metadata is that of no run.
    """
    metadata_by_id = {
        run.id: fields
        for name, fields in metadata.runs.items()
        for run in _find_runs(name, runs, entries)
    }
    added_labels = {
        run.id: addition.label
        for addition in entries.additions
        for run in _find_runs(addition.name, runs, entries)
    }
    descriptions = {}
    for run in runs:
        fields = metadata_by_id.get(run.id, RunMetadata())
        label = added_labels.get(run.id) or fields.label or run.id
        descriptions[run.id] = RunDescription(label, run.id in added_labels, fields)
    return descriptions


def _find_runs(name: str, runs: Sequence[ReportedRun], entries: Entries) -> list[ReportedRun]:
    """Return the runs of a name; none where it is a folder with other runs.

    Raises:
        UnknownNameError: the name is neither that of a run nor a folder.
    """
    results: list[StoredResult] = [stored_result for run in runs for stored_result in run.results]
    try:
        paths = {
            stored_result.path for stored_result in find_runs(name, results, entries.runs_folder)
        }
    except UnknownNameError:
        folder = Path(name)
        if not folder.is_dir():
            raise
        return [run for run in runs if run.folder.resolve().is_relative_to(folder.resolve())]
    return [
        run for run in runs if any(stored_result.path in paths for stored_result in run.results)
    ]
