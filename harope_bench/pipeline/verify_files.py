"""Files of a run against what vouches for them, without any network: hashes, rows, labels and prompts."""

from __future__ import annotations

from pathlib import Path

from harope_bench.core import checksums
from harope_bench.core.array_archive import load_arrays
from harope_bench.core.checksums import SUMS
from harope_bench.core.errors import BenchError, PlanMismatch, StorageError
from harope_bench.core.schema import Plan, Request, SampleRecord
from harope_bench.data import feature_rows
from harope_bench.data.result_paths import ROWS, arrays_path, rows_path
from harope_bench.data.run_folder import OBSERVATIONS, PLAN, RECORDS, REQUESTS, RESULTS, Run
from harope_bench.data.sample_set import SampleSet, open_samples
from harope_bench.pipeline.extract_features import read_record
from harope_bench.pipeline.verify_findings import Findings, Status, status_of
from harope_bench.suites.base import load_suite

SHARDS = "[0-9][0-9][0-9][0-9][0-9].json"
RESULT_FILES = ("*.json", "*.npz", f"*{ROWS}")
VOUCHED_FILES = ("*.json", "*.jsonl", "*.npz")  # of observations
SHOWN = 5  # of many alike, in a message


def check_sums(folder: Path, findings: Findings) -> None:
    """Compare every file of a run folder that has a recorded hash, and tell which files have none."""
    homes = [folder, folder / RESULTS, *sorted(path.parent for path in (folder / OBSERVATIONS).glob(f"*/{SUMS}"))]
    homes += [folder / OBSERVATIONS] if (folder / OBSERVATIONS / SUMS).is_file() else []
    for home in homes:
        check_folder(home, findings, may_be_gone=OBSERVATIONS in home.relative_to(folder).parts)
    if (folder / RESULTS).is_dir():
        check_listed(folder / RESULTS, findings)


def check_folder(home: Path, findings: Findings, may_be_gone: bool = False) -> None:
    """Compare the files of one folder with its SHA256SUMS.

    Args:
        may_be_gone: A file that is gone is no fault, because eval makes it again.
    """
    if not checksums.has_sums(home):
        return
    try:
        sums = checksums.read_sums(home)
    except BenchError as error:
        findings.add(status_of(error, False), home / SUMS, str(error))
        return
    states = {name: checksums.state(home, name) for name in sums}
    unlisted = sorted({path.name for pattern in VOUCHED_FILES for path in home.glob(pattern)} - sums.keys())
    if may_be_gone and unlisted and "missing" in states.values():  # a name in the list was altered: it vouches for nothing now
        findings.add("altered", home / SUMS, f"{home / SUMS}: names files that are gone, and not {', '.join(unlisted[:SHOWN])}")
    for name, state in states.items():
        if state == "altered":
            findings.add("altered", home / name, f"{home / name}: its sha256 is not the one in {SUMS}")
        elif state == "missing" and not may_be_gone:
            findings.add("altered", home / name, f"{home / name}: is gone, {SUMS} has its sha256")
    good = sum(state == "same" for state in states.values())
    findings.add("ok", home / SUMS, f"{home / SUMS}: {good:,} of {len(sums):,} files have the recorded sha256")


def check_listed(results: Path, findings: Findings) -> None:
    """Tell of files of results that no SHA256SUMS vouches for."""
    try:
        sums = checksums.read_sums(results)
    except BenchError:
        return  # told by `check_folder`
    names = sorted({path.name for pattern in RESULT_FILES for path in results.glob(pattern)} - sums.keys())
    if names:
        findings.add(
            "could-not-check",
            results,
            f"{results}: no sha256 of {', '.join(names[:SHOWN])}{' and more' * (len(names) > SHOWN)} is recorded, so who made "
            "them and when is not vouched for; run eval again",
        )


def is_vouched(path: Path) -> bool:
    """Return whether a result and what lies beside it have the recorded hashes."""
    beside = [file for file in (arrays_path(path), rows_path(path)) if file.is_file()]
    return checksums.has_sums(path.parent) and all(checksums.intact(file.parent, file.name) for file in (path, *beside))


def open_plan(folder: Path, findings: Findings) -> Plan | None:
    """Return the plan of a run folder; None, and a finding, where it has none that can be read."""
    try:
        return Run(folder, is_checked=False).plan
    except PlanMismatch as error:
        vouched = checksums.has_sums(folder) and checksums.intact(folder, PLAN)
        findings.add(status_of(error, vouched), folder / PLAN, str(error))
    return None


def open_run(folder: Path, findings: Findings) -> SampleSet | None:
    """Return the images of a run folder; None, and a finding, where they cannot be had.

    A run that was never finished could not be checked. One that was finished once has lost something since.
    """
    try:
        samples = open_samples(folder, is_checked=False)
        extra = Run(folder, is_checked=False).records().keys() - {*samples.indices, *samples.failed}
    except BenchError as error:
        findings.add(_status_of_unfinished(folder, error), folder, str(error))
        return None
    if extra:
        few = ", ".join(map(str, sorted(extra)[:SHOWN]))
        findings.add("altered", folder / REQUESTS, f"{folder / REQUESTS}: samples {few} were drawn and not asked for")
    return samples


def _status_of_unfinished(folder: Path, error: BenchError) -> Status:
    try:
        was_finished = Run(folder).is_settled
    except StorageError:
        was_finished = True
    return status_of(error, not was_finished)


def check_requests(samples: SampleSet, plan: Plan, findings: Findings) -> None:
    """Compare label and prompt of every record with what suite, settings and index give."""
    path = samples.path / RECORDS
    records = Run(samples.path, is_checked=False).records()
    try:
        requests = {r.index: r for r in load_suite(plan.suite).requests(sorted(records), plan.settings)}
    except BenchError as error:
        findings.add("could-not-check", path, f"{path}: labels and prompts not compared with suite {plan.suite}: {error}")
        return
    different = [i for i, record in sorted(records.items()) if not _is_request(record, requests.get(i))]
    if different:
        few = ", ".join(map(str, different[:SHOWN]))
        findings.add("altered", path, f"{path}: label or prompt of samples {few} is not what suite {plan.suite} asks for")
    else:
        findings.add("ok", path, f"{len(records):,} labels and prompts compared with suite {plan.suite}")


def _is_request(record: SampleRecord, request: Request | None) -> bool:
    return request is not None and (record.label, record.prompt) == (request.label, request.prompt)


def check_rows(folder: Path, findings: Findings) -> None:
    """Compare the rows of every judge with the records of their shards, and the size of their files with their headers."""
    for judge in sorted(path for path in (folder / OBSERVATIONS).glob("*") if path.is_dir()):
        records = [(path, read_record(path)) for path in sorted(judge.glob(SHARDS))]
        for path, record in records:
            names = _other_rows(judge, record)
            if names is None:
                findings.add("altered", path, f"{path}: is no record of a shard")
            elif names:
                findings.add("altered", path, f"{path}: {', '.join(names)} are not the rows that it records")
        short = [path for path in sorted(judge.glob("*.npy")) if not feature_rows.is_whole(path)]
        for path in short:
            findings.add("altered", path, f"{path}: its header is not of its size")
        if records:
            findings.add("ok", judge, f"{judge}: rows compared with {len(records):,} records of shards")


def _other_rows(judge: Path, record: dict[str, object]) -> list[str] | None:
    """Return the names of arrays whose rows are not the recorded ones; None where the record cannot be read."""
    span, hashes = record.get("rows"), record.get("sha256")
    if not isinstance(hashes, dict) or not (
        isinstance(span, list) and len(span) == 2 and all(isinstance(n, int) for n in span) and 0 <= span[0] <= span[1]
    ):
        return None
    return [name for name, sha256 in sorted(hashes.items()) if feature_rows.digest(judge / f"{name}.npy", *span) != sha256]


def check_archives(folder: Path, findings: Findings) -> None:
    """Read every .npz below observations, whose members carry checks of their own."""
    for path in sorted((folder / OBSERVATIONS).glob("**/*.npz")):
        try:
            load_arrays(path)
        except StorageError as error:
            findings.add(status_of(error, False), path, str(error))
