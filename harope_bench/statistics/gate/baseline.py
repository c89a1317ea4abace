"""A baseline in one small JSON, with the per-sample contributions in an .npz beside it so that a
later run still makes pairs.
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
    """What was measured, who signed it off and why, and the hash of each file of contributions.

    replaces: sha256 of the baseline that stood here before. digest: of all other fields, so that a
    number that is edited is noticed.
    """

    kind = "baseline"

    reason: str
    replaces_sha256: str | None
    results: tuple[Result, ...]
    contribution_files: dict[str, str]
    provenance: Provenance
    digest: str


def digest_of(facts: Mapping[str, object]) -> str:
    """Return the hex sha256 of all fields but `digest` as they stand in the file.

    How the file is laid out does not matter, because git may change line ends.
    """
    signed = {name: value for name, value in facts.items() if name != "digest"}
    return sha256_bytes(json.dumps(signed, sort_keys=True).encode())


def load_baseline_or_runs(path: Path) -> ComparedRuns:
    """A baseline.json, or a run folder (see `compare.open_side`).

    Raises:
        StorageError: not a baseline, or a field is not what was signed off. WeightsError: its
            contributions are not the recorded ones.
        FormatError: another version of this package wrote it.
    """
    if not path.is_file():
        return compare.load_compared_runs(path)
    with convert_os_errors(path):
        data = read_regular(path, JSON_BYTES)
    advice = f"write one: harope-bench gate {path} RUN --update --reason ..."
    try:
        facts = parse_json(data)
        if not isinstance(facts, dict) or not facts.keys() >= {
            "results",
            "reason",
        }:  # a file of another kind has another format
            raise StorageError(f"{path} is no baseline (it lacks results or reason); {advice}")
        found = Baseline.from_json(data, path)
    except ValidationError as error:
        raise StorageError(
            f"{path} is no baseline ({validation_summary(error)}); {advice}"
        ) from error
    except ValueError as error:
        raise StorageError(f"{path} is no baseline (it is not JSON); {advice}") from error
    if found.digest != digest_of(facts):
        raise StorageError(
            f"{path} was edited after it was written: its fields have digest"
            f" {digest_of(facts)[:12]}..., recorded is {found.digest[:12]}...; bring the written"
            f" one back, or {advice}"
        )
    run = tuple(StoredResult(result, path) for result in found.results)
    for item in run:
        if item.result.arrays_file is not None:
            check_sha256(
                recorded_arrays_path(item),
                found.contribution_files.get(item.result.arrays_file, ""),
            )
    if not run:
        raise StorageError(f"{path} holds no result; write it again from a run that was scored")
    return ComparedRuns(path, (run,))


def write_baseline(path: Path, run: Path, reason: str) -> str:
    """Writes the baseline of a scored run and says in words what it holds.

    Raises:
        OptionError: no reason, no .json, or more than one run. StorageError: something that is no
            baseline stands there.
    """
    if not reason.strip():
        raise OptionError("a baseline needs a --reason that a reader understands")
    if path.suffix != ".json" or path.is_dir():
        raise OptionError(f"a baseline is written to a .json file, not to {path}")
    data = read_if_present(path)
    if data is not None and not _is_baseline(data):
        raise StorageError(f"{path} is no baseline and would be lost; give another file")
    side = compare.load_compared_runs(run)
    if len(side.runs) > 1:
        raise OptionError(
            f"{run} holds {len(side.runs)} runs, a baseline is one; give that run's folder"
        )
    make_folder(path.parent)
    results = tuple(_portable_result(path, found) for found in side.runs[0])
    rows = {
        r.arrays_file: sha256_file(path.parent / r.arrays_file) for r in results if r.arrays_file
    }
    before = sha256_bytes(data) if data is not None else None
    if data is not None and _is_up_to_date(path, data, reason.strip(), results, rows):
        return f"{path} is up to date: {reason.strip()}"
    made = Baseline(
        reason=reason.strip(),
        replaces_sha256=before,
        results=results,
        contribution_files=rows,
        provenance=make_provenance(utc_now(), "cpu"),
        digest="",
    )
    signed = made.model_copy(update={"digest": digest_of(parse_json(made.to_json()))})
    write_text(path, signed.to_json(indent=1) + "\n")
    return (
        f"{sum(len(r.measurements) for r in results)} numbers of {side.title},"
        f" {'replaced' if before else 'new'}: {reason.strip()}"
    )


def _is_baseline(data: bytes) -> bool:
    """Return whether bytes are a baseline of any format."""
    try:
        found = parse_json(data)
    except ValueError:
        return False
    return isinstance(found, dict) and {FORMAT_KEY, "results", "reason"} <= found.keys()


def _is_up_to_date(
    path: Path, data: bytes, reason: str, results: tuple[Result, ...], rows: dict[str, str]
) -> bool:
    """Return whether a baseline's bytes say these results for this reason already; those of another
    version do not.
    """
    try:
        stored = Baseline.from_json(data, path)
    except (FormatError, StorageError, ValueError):
        return False
    if stored.digest != digest_of(parse_json(data)):
        return False
    return (stored.reason, stored.results, stored.contribution_files) == (reason, results, rows)


def _portable_result(path: Path, found: StoredResult) -> Result:
    """The result with its contributions copied beside the baseline and no path of this machine in
    it.
    """
    result = found.result
    name = None
    if result.arrays_file is not None and recorded_arrays_path(found).is_file():
        name = f"{path.stem}.{found.path.stem}.npz"
        write_arrays(path.parent / name, read_arrays(found), compress=True)
    plan = result.plan
    if plan is not None:
        bare = plan.checkpoint.model_copy(update={"weights": Path(plan.checkpoint.weights).name})
        plan = plan.model_copy(update={"checkpoint": bare})
    return result.model_copy(update={"arrays_file": name, "plan": plan, "source": None})
