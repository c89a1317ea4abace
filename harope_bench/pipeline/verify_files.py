"""Checks of a run's files that need no network: hashes, rows, labels and prompts."""

from __future__ import annotations

from pathlib import Path

from harope_bench.core import checksums
from harope_bench.core.array_archive import load_arrays
from harope_bench.core.checksums import CHECKSUMS_FILE
from harope_bench.core.errors import BenchError, PlanMismatchError, StorageError
from harope_bench.core.schema import Plan, Request, SampleRecord
from harope_bench.data import feature_rows
from harope_bench.data.result_paths import SAMPLE_SCORES_SUFFIX, arrays_path, sample_scores_path
from harope_bench.data.run_claim import PARTS_FOLDER, part_folders
from harope_bench.data.run_folder import (
    FEATURES_FOLDER,
    JUDGE_OUTPUT_FOLDERS,
    PLAN_FILE,
    RECORDS_FILE,
    REQUESTS_FILE,
    RESULTS_FOLDER,
    RunFolder,
)
from harope_bench.data.sample_set import SampleSet, open_samples
from harope_bench.pipeline.extract_features import read_record
from harope_bench.pipeline.verify_findings import Findings, Status, status_of
from harope_bench.suites.base import load_suite

SHARDS = "[0-9][0-9][0-9][0-9][0-9].json"
RESULT_FILES = ("*.json", "*.npz", f"*{SAMPLE_SCORES_SUFFIX}")
LISTED_FILES = ("*.json", "*.jsonl", "*.npz")  # files of features that SHA256SUMS must list
MAX_SHOWN = 5  # names in one message


def check_sums(folder: Path, findings: Findings) -> None:
    """Compare every file of a run folder with its recorded hash, and report files without one."""
    check_folder(folder, findings)
    check_folder(folder / RESULTS_FOLDER, findings)
    for output_folder in (folder / name for name in JUDGE_OUTPUT_FOLDERS):
        judge_folders = sorted(path.parent for path in output_folder.glob(f"*/{CHECKSUMS_FILE}"))
        for judge_folder in [*judge_folders, output_folder]:
            check_folder(judge_folder, findings, can_be_missing=True)
    if part_folders(folder):
        findings.add(
            "could-not-check",
            folder / PARTS_FOLDER,
            f"{folder / PARTS_FOLDER}: shards have left work whose hashes are recorded later; run"
            " generate or eval without --shard",
        )
    if (folder / RESULTS_FOLDER).is_dir():
        check_unlisted_files(folder / RESULTS_FOLDER, findings)


def check_folder(folder: Path, findings: Findings, can_be_missing: bool = False) -> None:
    """Compare the files of one folder with its SHA256SUMS.

    Args:
        can_be_missing: Missing files are not reported, because eval makes them again.
    """
    sums_path = folder / CHECKSUMS_FILE
    if not checksums.has_checksums(folder):
        return
    try:
        sums = checksums.read_checksums(folder)
    except BenchError as error:
        findings.add(status_of(error, is_intact=False), sums_path, str(error))
        return

    # If listed files are missing and others are unlisted, names in the list were altered.
    states = {name: checksums.file_state(folder, name) for name in sums}
    file_names = {path.name for pattern in LISTED_FILES for path in folder.glob(pattern)}
    unlisted_names = sorted(file_names - sums.keys())
    if can_be_missing and unlisted_names and "missing" in states.values():
        findings.add(
            "altered",
            sums_path,
            f"{sums_path}: lists files that are missing, but not"
            f" {', '.join(unlisted_names[:MAX_SHOWN])}",
        )

    for name, state in states.items():
        path = folder / name
        if state == "altered":
            findings.add("altered", path, f"{path}: its sha256 is not the one in {CHECKSUMS_FILE}")
        elif state == "missing" and not can_be_missing:
            findings.add("altered", path, f"{path}: is missing, {CHECKSUMS_FILE} has its sha256")
    same_count = sum(state == "same" for state in states.values())
    findings.add(
        "ok",
        sums_path,
        f"{sums_path}: {same_count:,} of {len(sums):,} files have the recorded sha256",
    )


def check_unlisted_files(results: Path, findings: Findings) -> None:
    """Report files of a results folder that SHA256SUMS does not list."""
    try:
        sums = checksums.read_checksums(results)
    except BenchError:
        return  # `check_folder` reports it
    names = sorted(
        {path.name for pattern in RESULT_FILES for path in results.glob(pattern)} - sums.keys()
    )
    if names:
        name_text = ", ".join(names[:MAX_SHOWN]) + " and more" * (len(names) > MAX_SHOWN)
        findings.add(
            "could-not-check",
            results,
            f"{results}: no sha256 of {name_text} is recorded, so their origin cannot be checked;"
            " run eval again",
        )


def has_recorded_hashes(path: Path) -> bool:
    """Return whether a result, its arrays and its sample scores have the recorded hashes."""
    companions = [file for file in (arrays_path(path), sample_scores_path(path)) if file.is_file()]
    return checksums.has_checksums(path.parent) and all(
        checksums.is_intact(file.parent, file.name) for file in (path, *companions)
    )


def open_plan(folder: Path, findings: Findings) -> Plan | None:
    """Return the plan of a run folder; None, and a finding, where it has no readable plan."""
    try:
        return RunFolder(folder, needs_matching_hashes=False).plan
    except PlanMismatchError as error:
        is_intact = checksums.has_checksums(folder) and checksums.is_intact(folder, PLAN_FILE)
        findings.add(status_of(error, is_intact), folder / PLAN_FILE, str(error))
    return None


def open_run(folder: Path, findings: Findings) -> SampleSet | None:
    """Return the images of a run folder; None, and a finding, where they cannot be opened.

    A run that was never finished could not be checked. A run that was finished is altered, because
    something is missing since.
    """
    try:
        samples = open_samples(folder, needs_matching_hashes=False)
        records = RunFolder(folder, needs_matching_hashes=False).read_records()
    except BenchError as error:
        findings.add(_status_of_unfinished(folder, error), folder, str(error))
        return None

    unrequested_indices = sorted(records.keys() - {*samples.indices, *samples.failed})
    if unrequested_indices:
        index_text = ", ".join(map(str, unrequested_indices[:MAX_SHOWN]))
        findings.add(
            "altered",
            folder / REQUESTS_FILE,
            f"{folder / REQUESTS_FILE}: samples {index_text} were generated and not requested",
        )
    return samples


def _status_of_unfinished(folder: Path, error: BenchError) -> Status:
    try:
        was_finished = RunFolder(folder).is_final
    except StorageError:
        was_finished = True
    return status_of(error, is_intact=not was_finished)


def check_requests(samples: SampleSet, plan: Plan, findings: Findings) -> None:
    """Compare label and prompt of every record with the suite's request of its index."""
    path = samples.path / RECORDS_FILE
    records = RunFolder(samples.path, needs_matching_hashes=False).read_records()
    try:
        requests = {
            r.index: r for r in load_suite(plan.suite).requests(sorted(records), plan.settings)
        }
    except BenchError as error:
        findings.add(
            "could-not-check",
            path,
            f"{path}: labels and prompts not compared with suite {plan.suite}: {error}",
        )
        return
    wrong_indices = [
        i for i, record in sorted(records.items()) if not _matches_request(record, requests.get(i))
    ]
    if wrong_indices:
        index_text = ", ".join(map(str, wrong_indices[:MAX_SHOWN]))
        findings.add(
            "altered",
            path,
            f"{path}: label or prompt of samples {index_text} is not what suite {plan.suite}"
            " requests",
        )
    else:
        findings.add(
            "ok", path, f"{len(records):,} labels and prompts compared with suite {plan.suite}"
        )


def _matches_request(record: SampleRecord, request: Request | None) -> bool:
    """Return whether a record has the label and the prompt of a request."""
    return request is not None and (record.label, record.prompt) == (request.label, request.prompt)


def check_rows(folder: Path, findings: Findings) -> None:
    """Compare the rows of every judge with the hashes in their shard records.

    The size of each `.npy` file is compared with its header.
    """
    for judge in sorted(path for path in (folder / FEATURES_FOLDER).glob("*") if path.is_dir()):
        records = [(path, read_record(path)) for path in sorted(judge.glob(SHARDS))]
        for path, record in records:
            names = _changed_rows(judge, record)
            if names is None:
                findings.add("altered", path, f"{path}: is no record of a shard")
            elif names:
                findings.add(
                    "altered", path, f"{path}: {', '.join(names)} are not the rows that it records"
                )
        for path in sorted(judge.glob("*.npy")):
            if not feature_rows.is_complete(path):
                findings.add("altered", path, f"{path}: its size does not match its header")
        if records:
            findings.add(
                "ok", judge, f"{judge}: rows compared with {len(records):,} records of shards"
            )


def _changed_rows(judge: Path, record: dict[str, object]) -> list[str] | None:
    """Return the names of arrays whose rows differ from their recorded hash.

    Returns None where the record has no valid range of rows or no hashes.
    """
    span = record.get("rows")
    hashes = record.get("sha256")
    if not isinstance(hashes, dict) or not (
        isinstance(span, list)
        and len(span) == 2
        and all(isinstance(n, int) for n in span)
        and 0 <= span[0] <= span[1]
    ):
        return None
    return [
        name
        for name, sha256 in sorted(hashes.items())
        if feature_rows.rows_sha256(judge / f"{name}.npy", *span) != sha256
    ]


def check_archives(folder: Path, findings: Findings) -> None:
    """Read every .npz file of judges and classifiers, whose members carry their own checksums."""
    archives = (path for name in JUDGE_OUTPUT_FOLDERS for path in (folder / name).glob("**/*.npz"))
    for path in sorted(archives):
        try:
            load_arrays(path)
        except StorageError as error:
            findings.add(status_of(error, is_intact=False), path, str(error))
