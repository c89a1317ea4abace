"""A baseline in one small JSON, with the per-sample contributions in an .npz beside it so that a later run still makes pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from harope_bench.core.errors import OptionError, StorageError
from harope_bench.core.json_file import parse_json
from harope_bench.core.provenance import now, provenance
from harope_bench.core.regular_file import JSON_BYTES, read_regular
from harope_bench.core.schema import Provenance, Record, Result, fault
from harope_bench.core.storage import check_hash, disk, make_folder, read_if_present, sha256_bytes, sha256_file, write_arrays, write_text
from harope_bench.statistics import compare
from harope_bench.statistics.compare import Side
from harope_bench.statistics.pairing import Found, arrays_of, beside


class Baseline(Record):
    """What was measured, who signed it off and why, and the hash of each file of contributions.

    replaces: sha256 of the baseline that stood here before. digest: of all other fields, so that a number that is edited is noticed.
    """

    format: Literal[2] = 2
    reason: str
    replaces: str | None
    results: tuple[Result, ...]
    rows: dict[str, str]
    provenance: Provenance
    digest: str


def digest_of(facts: Mapping[str, Any]) -> str:
    """Return the hex sha256 of all fields but `digest` as they stand in the file.

    How the file is laid out does not matter, because git may change line ends.
    """
    signed = {name: value for name, value in facts.items() if name != "digest"}
    return sha256_bytes(json.dumps(signed, sort_keys=True).encode())


def open_side(path: Path) -> Side:
    """A baseline.json, or a run folder (see `compare.open_side`).

    Raises:
        StorageError: not a baseline, or a field is not what was signed off. WeightsError: its contributions are not the recorded ones.
    """
    if not path.is_file():
        return compare.open_side(path)
    with disk(path):
        data = read_regular(path, JSON_BYTES)
    advice = f"write one: harope-bench gate {path} RUN --update --reason ..."
    try:
        facts = parse_json(data)
        found = Baseline.model_validate_json(json.dumps(facts))  # one reading of keys that stand twice
    except ValidationError as error:
        raise StorageError(f"{path} is no baseline ({fault(error)}); {advice}") from error
    except ValueError as error:
        raise StorageError(f"{path} is no baseline (it is not JSON); {advice}") from error
    if found.digest != digest_of(facts):
        raise StorageError(
            f"{path} was edited after it was written: its fields have digest {digest_of(facts)[:12]}..., recorded is "
            f"{found.digest[:12]}...; bring the written one back, or {advice}"
        )
    run = tuple(Found(result, path) for result in found.results)
    for item in run:
        if item.result.per_sample is not None:
            check_hash(beside(item), found.rows.get(item.result.per_sample, ""))
    if not run:
        raise StorageError(f"{path} holds no result; write it again from a run that was scored")
    return Side(path, (run,))


def write(path: Path, run: Path, reason: str) -> str:
    """Writes the baseline of a scored run and says in words what it holds.

    Raises:
        OptionError: no reason, no .json, or more than one run. StorageError: something that is no baseline stands there.
    """
    if not reason.strip():
        raise OptionError("a baseline needs a --reason that a reader understands")
    if path.suffix != ".json" or path.is_dir():
        raise OptionError(f"a baseline is written to a .json file, not to {path}")
    data = read_if_present(path)
    if data is not None and not _is_baseline(data):
        raise StorageError(f"{path} is no baseline and would be lost; give another file")
    side = compare.open_side(run)
    if len(side.runs) > 1:
        raise OptionError(f"{run} holds {len(side.runs)} runs, a baseline is one; give that run's folder")
    make_folder(path.parent)
    results = tuple(_kept(path, found) for found in side.runs[0])
    rows = {r.per_sample: sha256_file(path.parent / r.per_sample) for r in results if r.per_sample}
    before = sha256_bytes(data) if data is not None else None
    if data is not None and _is_same(data, reason.strip(), results, rows):
        return f"{path} is up to date: {reason.strip()}"
    made = Baseline(reason=reason.strip(), replaces=before, results=results, rows=rows, provenance=provenance(now(), "cpu"), digest="")
    facts = made.model_dump(mode="json")
    facts["digest"] = digest_of(facts)
    write_text(path, json.dumps(facts, sort_keys=True, allow_nan=False, indent=1) + "\n")
    return f"{sum(len(r.measurements) for r in results)} numbers of {side.title}, {'replaced' if before else 'new'}: {reason.strip()}"


def _is_baseline(data: bytes) -> bool:
    """Return whether bytes are a baseline of any format."""
    try:
        found = parse_json(data)
    except ValueError:
        return False
    return isinstance(found, dict) and {"format", "results", "reason"} <= found.keys()


def _is_same(data: bytes, reason: str, results: tuple[Result, ...], rows: dict[str, str]) -> bool:
    """Return whether a baseline's bytes say these results for this reason already."""
    try:
        stored = Baseline.model_validate_json(data)
    except ValidationError:
        return False
    if stored.digest != digest_of(parse_json(data)):
        return False
    return (stored.reason, stored.results, stored.rows) == (reason, results, rows)


def _kept(path: Path, found: Found) -> Result:
    """The result with its contributions copied beside the baseline and no path of this machine in it."""
    result, name = found.result, None
    if result.per_sample is not None and beside(found).is_file():
        name = f"{path.stem}.{found.path.stem}.npz"
        write_arrays(path.parent / name, arrays_of(found), compress=True)
    plan = result.plan
    if plan is not None:
        bare = plan.checkpoint.model_copy(update={"weights": Path(plan.checkpoint.weights).name})
        plan = plan.model_copy(update={"checkpoint": bare})
    return result.model_copy(update={"per_sample": name, "plan": plan, "source": None})
