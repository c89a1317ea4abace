"""Files of a run against what vouches for them, without any network: hashes, rows, labels and
prompts.
"""

from __future__ import annotations

from pathlib import Path

from harope_bench.core import checksums
from harope_bench.core.array_archive import load_arrays
from harope_bench.core.checksums import CHECKSUMS_FILE
from harope_bench.core.errors import BenchError, PlanMismatchError, StorageError
from harope_bench.core.schema import Plan, Request, SampleRecord
from harope_bench.data import feature_rows
from harope_bench.data.result_paths import SAMPLE_SCORES_SUFFIX, arrays_path, sample_scores_path
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
VOUCHED_FILES = ("*.json", "*.jsonl", "*.npz")  # of judges
MAX_SHOWN = 5  # of many alike, in a message


def check_sums(folder: Path, findings: Findings) -> None:
    """Compare every file of a run folder that has a recorded hash, and tell which files have
    none.
    """
    check_folder(folder, findings)
    check_folder(folder / RESULTS_FOLDER, findings)
    for output_folder in (folder / name for name in JUDGE_OUTPUT_FOLDERS):
        judge_folders = sorted(path.parent for path in output_folder.glob(f"*/{CHECKSUMS_FILE}"))
        for judge_folder in [*judge_folders, output_folder]:
            check_folder(judge_folder, findings, may_be_gone=True)
    if (folder / RESULTS_FOLDER).is_dir():
        check_listed(folder / RESULTS_FOLDER, findings)


def check_folder(home: Path, findings: Findings, may_be_gone: bool = False) -> None:
    """Compare the files of one folder with its SHA256SUMS.

    Args:
        may_be_gone: A file that is gone is no fault, because eval makes it again.
    """
    if not checksums.has_checksums(home):
        return
    try:
        sums = checksums.read_checksums(home)
    except BenchError as error:
        findings.add(status_of(error, False), home / CHECKSUMS_FILE, str(error))
        return
    states = {name: checksums.file_state(home, name) for name in sums}
    unlisted = sorted(
        {path.name for pattern in VOUCHED_FILES for path in home.glob(pattern)} - sums.keys()
    )
    if (
        may_be_gone and unlisted and "missing" in states.values()
    ):  # a name in the list was altered: it vouches for nothing now
        findings.add(
            "altered",
            home / CHECKSUMS_FILE,
            f"{home / CHECKSUMS_FILE}: names files that are gone, and not"
            f" {', '.join(unlisted[:MAX_SHOWN])}",
        )
    for name, state in states.items():
        if state == "altered":
            findings.add(
                "altered",
                home / name,
                f"{home / name}: its sha256 is not the one in {CHECKSUMS_FILE}",
            )
        elif state == "missing" and not may_be_gone:
            findings.add(
                "altered", home / name, f"{home / name}: is gone, {CHECKSUMS_FILE} has its sha256"
            )
    good = sum(state == "same" for state in states.values())
    findings.add(
        "ok",
        home / CHECKSUMS_FILE,
        f"{home / CHECKSUMS_FILE}: {good:,} of {len(sums):,} files have the recorded sha256",
    )


def check_listed(results: Path, findings: Findings) -> None:
    """Tell of files of results that no SHA256SUMS vouches for."""
    try:
        sums = checksums.read_checksums(results)
    except BenchError:
        return  # told by `check_folder`
    names = sorted(
        {path.name for pattern in RESULT_FILES for path in results.glob(pattern)} - sums.keys()
    )
    if names:
        findings.add(
            "could-not-check",
            results,
            f"{results}: no sha256 of"
            f" {', '.join(names[:MAX_SHOWN])}{' and more' * (len(names) > MAX_SHOWN)} is recorded,"
            " so who made them and when is not vouched for; run eval again",
        )


def has_recorded_hashes(path: Path) -> bool:
    """Return whether a result and what lies beside it have the recorded hashes."""
    beside = [file for file in (arrays_path(path), sample_scores_path(path)) if file.is_file()]
    return checksums.has_checksums(path.parent) and all(
        checksums.is_intact(file.parent, file.name) for file in (path, *beside)
    )


def open_plan(folder: Path, findings: Findings) -> Plan | None:
    """Return the plan of a run folder; None, and a finding, where it has none that can be read."""
    try:
        return RunFolder(folder, is_checked=False).plan
    except PlanMismatchError as error:
        vouched = checksums.has_checksums(folder) and checksums.is_intact(folder, PLAN_FILE)
        findings.add(status_of(error, vouched), folder / PLAN_FILE, str(error))
    return None


def open_run(folder: Path, findings: Findings) -> SampleSet | None:
    """Return the images of a run folder; None, and a finding, where they cannot be had.

    A run that was never finished could not be checked. One that was finished once has lost
    something since.
    """
    try:
        samples = open_samples(folder, is_checked=False)
        extra = RunFolder(folder, is_checked=False).read_records().keys() - {
            *samples.indices,
            *samples.failed,
        }
    except BenchError as error:
        findings.add(_status_of_unfinished(folder, error), folder, str(error))
        return None
    if extra:
        few = ", ".join(map(str, sorted(extra)[:MAX_SHOWN]))
        findings.add(
            "altered",
            folder / REQUESTS_FILE,
            f"{folder / REQUESTS_FILE}: samples {few} were drawn and not asked for",
        )
    return samples


def _status_of_unfinished(folder: Path, error: BenchError) -> Status:
    try:
        was_finished = RunFolder(folder).is_final
    except StorageError:
        was_finished = True
    return status_of(error, not was_finished)


def check_requests(samples: SampleSet, plan: Plan, findings: Findings) -> None:
    """Compare label and prompt of every record with what suite, settings and index give."""
    path = samples.path / RECORDS_FILE
    records = RunFolder(samples.path, is_checked=False).read_records()
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
    different = [
        i for i, record in sorted(records.items()) if not _is_request(record, requests.get(i))
    ]
    if different:
        few = ", ".join(map(str, different[:MAX_SHOWN]))
        findings.add(
            "altered",
            path,
            f"{path}: label or prompt of samples {few} is not what suite {plan.suite} asks for",
        )
    else:
        findings.add(
            "ok", path, f"{len(records):,} labels and prompts compared with suite {plan.suite}"
        )


def _is_request(record: SampleRecord, request: Request | None) -> bool:
    return request is not None and (record.label, record.prompt) == (request.label, request.prompt)


def check_rows(folder: Path, findings: Findings) -> None:
    """Compare the rows of every judge with the records of their shards, and the size of their files
    with their headers.
    """
    for judge in sorted(path for path in (folder / FEATURES_FOLDER).glob("*") if path.is_dir()):
        records = [(path, read_record(path)) for path in sorted(judge.glob(SHARDS))]
        for path, record in records:
            names = _other_rows(judge, record)
            if names is None:
                findings.add("altered", path, f"{path}: is no record of a shard")
            elif names:
                findings.add(
                    "altered", path, f"{path}: {', '.join(names)} are not the rows that it records"
                )
        short = [path for path in sorted(judge.glob("*.npy")) if not feature_rows.is_complete(path)]
        for path in short:
            findings.add("altered", path, f"{path}: its header is not of its size")
        if records:
            findings.add(
                "ok", judge, f"{judge}: rows compared with {len(records):,} records of shards"
            )


def _other_rows(judge: Path, record: dict[str, object]) -> list[str] | None:
    """Return the names of arrays whose rows are not the recorded ones; None where the record cannot
    be read.
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
    """Read every .npz that judges and classifiers wrote; a damaged member raises an error."""
    archives = (path for name in JUDGE_OUTPUT_FOLDERS for path in (folder / name).glob("**/*.npz"))
    for path in sorted(archives):
        try:
            load_arrays(path)
        except StorageError as error:
            findings.add(status_of(error, False), path, str(error))
