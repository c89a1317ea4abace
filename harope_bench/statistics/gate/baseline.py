"""Baselines of the gate: a small JSON file, with per-sample contributions in .npz files beside it.

The contributions let later runs be paired with the baseline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from harope_bench.core.array_archive import write_arrays
from harope_bench.core.errors import FormatError, OptionError, StorageError
from harope_bench.core.formats import FORMAT_KEY
from harope_bench.core.json_file import parse_json
from harope_bench.core.provenance import make_provenance, utc_now
from harope_bench.core.record_base import FileRecord, validation_summary
from harope_bench.core.regular_file import JSON_BYTES, read_regular
from harope_bench.core.schema import Provenance, Result
from harope_bench.core.state_dicts import check_sha256
from harope_bench.core.storage import (
    convert_os_errors,
    make_folder,
    read_if_present,
    sha256_bytes,
    sha256_file,
    write_text,
)
from harope_bench.data.result_store import StoredResult, read_arrays, recorded_arrays_path
from harope_bench.statistics import compare
from harope_bench.statistics.compare import ComparedRuns


class Baseline(FileRecord):
    """The results of a run that was accepted as baseline.

    `reason` says why it was accepted. `replaces_sha256` is the hash of the baseline that it
    replaced. `contribution_files` maps the name of each file of contributions to its sha256.
    `digest` is the hash of all other fields, which reveals edited numbers.
    """

    kind = "baseline"

    reason: str
    replaces_sha256: str | None
    results: tuple[Result, ...]
    contribution_files: dict[str, str]
    provenance: Provenance
    digest: str


def digest_of(fields: Mapping[str, object]) -> str:
    """Return the hex sha256 of all fields of a baseline's JSON, except `digest`.

    The layout of the file does not matter, because git may change line ends.
    """
    hashed_fields = {name: value for name, value in fields.items() if name != "digest"}
    return sha256_bytes(json.dumps(hashed_fields, sort_keys=True).encode())


def load_baseline_or_runs(path: Path) -> ComparedRuns:
    """Load a baseline file, or a run folder (see `compare.load_compared_runs`).

    Raises:
        StorageError: The file is no baseline, or a field was edited.
        WeightsError: A file of contributions is not the recorded one.
        FormatError: The file has the format of another version of this package.
    """
    if path.suffix == ".json" and not path.exists():
        raise StorageError(f"baseline file {path} does not exist; {_baseline_advice(path)}")
    if not path.is_file():
        return compare.load_compared_runs(path)
    baseline = _read_baseline(path)
    run = tuple(StoredResult(result, path) for result in baseline.results)
    for stored_result in run:
        arrays_file = stored_result.result.arrays_file
        if arrays_file is not None:
            recorded_sha256 = baseline.contribution_files.get(arrays_file, "")
            check_sha256(recorded_arrays_path(stored_result), recorded_sha256)
    if not run:
        raise StorageError(f"{path} holds no result; write it again from an evaluated run")
    return ComparedRuns(path, (run,))


def _baseline_advice(path: Path) -> str:
    return f"write it from a run folder: harope-bench gate {path} RUN --update --reason TEXT"


def _read_baseline(path: Path) -> Baseline:
    """Return the baseline of a file, after checking its digest."""
    with convert_os_errors(path):
        data = read_regular(path, JSON_BYTES)
    advice = _baseline_advice(Path("NEW.json"))
    try:
        fields = parse_json(data)
        # A file of another kind would fail with a message about its format.
        if not isinstance(fields, dict) or not fields.keys() >= {"results", "reason"}:
            raise StorageError(f"{path} is no baseline (it lacks results or reason); {advice}")
        baseline = Baseline.from_json(data, path)
    except ValidationError as error:
        raise StorageError(
            f"{path} is no baseline ({validation_summary(error)}); {advice}"
        ) from error
    except ValueError as error:
        raise StorageError(f"{path} is no baseline (it is not JSON); {advice}") from error

    digest = digest_of(fields)
    if baseline.digest != digest:
        raise StorageError(
            f"{path} was edited after it was written: its fields have digest {digest[:12]}...,"
            f" recorded is {baseline.digest[:12]}...; restore the recorded file, or {advice}"
        )
    return baseline


def write_baseline(path: Path, run: Path, reason: str) -> str:
    """Write the baseline of an evaluated run, and return what was written as text.

    Raises:
        OptionError: The reason is empty, the path does not end in .json, or there are several runs.
        StorageError: The existing file is no baseline.
    """
    reason = reason.strip()
    if not reason:
        raise OptionError("a baseline needs a --reason that a reader understands")
    if path.suffix != ".json" or path.is_dir():
        raise OptionError(
            f"a baseline is written to a .json file, not to {path}; give a name that ends in .json"
        )
    previous_data = read_if_present(path)
    if previous_data is not None and not _is_baseline(previous_data):
        raise StorageError(f"{path} is no baseline and would be lost; choose another file")
    side = compare.load_compared_runs(run)
    if len(side.runs) > 1:
        raise OptionError(
            f"{run} holds {len(side.runs)} runs, a baseline is one; give that run's folder"
        )

    # The files of contributions come first, because the baseline records their hashes.
    make_folder(path.parent)
    results = tuple(_portable_result(path, stored_result) for stored_result in side.runs[0])
    contribution_files = {
        result.arrays_file: sha256_file(path.parent / result.arrays_file)
        for result in results
        if result.arrays_file
    }
    if previous_data is not None and _is_up_to_date(
        path, previous_data, reason, results, contribution_files
    ):
        return f"{path} is up to date: {reason}"

    replaces_sha256 = sha256_bytes(previous_data) if previous_data is not None else None
    baseline_without_digest = Baseline(
        reason=reason,
        replaces_sha256=replaces_sha256,
        results=results,
        contribution_files=contribution_files,
        provenance=make_provenance(utc_now(), "cpu"),
        digest="",
    )
    digest = digest_of(parse_json(baseline_without_digest.to_json()))
    baseline = baseline_without_digest.model_copy(update={"digest": digest})
    write_text(path, baseline.to_json(indent=1) + "\n")
    n_numbers = sum(len(result.measurements) for result in results)
    status = "replaced" if replaces_sha256 else "new"
    return f"{n_numbers} numbers of {side.title}, {status}: {reason}"


def _is_baseline(data: bytes) -> bool:
    """Return whether bytes are a baseline of any format version."""
    try:
        fields = parse_json(data)
    except ValueError:
        return False
    return isinstance(fields, dict) and {FORMAT_KEY, "results", "reason"} <= fields.keys()


def _is_up_to_date(
    path: Path,
    data: bytes,
    reason: str,
    results: tuple[Result, ...],
    contribution_files: dict[str, str],
) -> bool:
    """Return whether a baseline's bytes already hold these results with this reason.

    A baseline of another format version is never up to date.
    """
    try:
        stored_baseline = Baseline.from_json(data, path)
    except (FormatError, StorageError, ValueError):
        return False
    if stored_baseline.digest != digest_of(parse_json(data)):
        return False
    return (
        stored_baseline.reason == reason
        and stored_baseline.results == results
        and stored_baseline.contribution_files == contribution_files
    )


def _portable_result(path: Path, stored_result: StoredResult) -> Result:
    """Return a result without paths of this machine, and copy its contributions beside `path`."""
    result = stored_result.result
    arrays_file = None
    if result.arrays_file is not None and recorded_arrays_path(stored_result).is_file():
        arrays_file = f"{path.stem}.{stored_result.path.stem}.npz"
        write_arrays(path.parent / arrays_file, read_arrays(stored_result), compress=True)

    plan = result.plan
    if plan is not None:
        weights = Path(plan.checkpoint.weights).name
        checkpoint = plan.checkpoint.model_copy(update={"weights": weights})
        plan = plan.model_copy(update={"checkpoint": checkpoint})
    return result.model_copy(update={"arrays_file": arrays_file, "plan": plan, "source": None})
