"""Results on disk: how they are built, written and read, and whether they are still current.

A result is RUN/results/NAME.json. Beside it lie NAME.npz, its per-sample arrays, and, where it has verdicts on single images,
NAME.rows.jsonl; SHA256SUMS vouches for all. No other module builds a Result or writes into a folder of results.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from pydantic import ValidationError

from harope_bench.core import checksums
from harope_bench.core.array_archive import load_arrays, write_arrays
from harope_bench.core.array_file import ARRAYS_BYTES
from harope_bench.core.errors import PlanMismatch, SampleError, StorageError
from harope_bench.core.record_base import check_label, fault
from harope_bench.core.regular_file import JSON_BYTES, read_regular
from harope_bench.core.schema import (
    ErrorRate,
    JudgeRecord,
    Measurement,
    Plan,
    Provenance,
    Result,
    ResultWarning,
    RuleDifference,
    Source,
    warnings_of,
)
from harope_bench.core.storage import (
    disk,
    first_line,
    make_folder,
    read_if_present,
    sha256_bytes,
    stamp_of,
    write_text,
)
from harope_bench.data.array_checks import check_sample_arrays
from harope_bench.data.result_paths import arrays_path, result_paths, result_paths_below, rows_path
from harope_bench.data.sample_set import SampleSet

ADVICE = "bring that one back, or run eval again"  # about a file that is not the recorded one
NO_SAMPLES = sha256_bytes(b"")  # of a result that looked at no image


class StoredResult(NamedTuple):
    """A result and the file it was read from (its per-sample arrays lie beside it)."""

    result: Result
    path: Path


class Scored(NamedTuple):
    """A result, its file, and whether this call had to work for it."""

    result: Result
    path: Path
    fresh: bool


# ------------------------------------------------------------------------------------------------ building


class Rule(Protocol):
    """What a result records of its evaluator; an evaluator is one."""

    version: int
    profile: str
    parity: str


class Score(Protocol):
    """What a result records of an evaluator's answer; `evaluators.base.Score` is one."""

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """Return the numbers."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what a reader must know of the numbers, in words."""

    @property
    def rule_differences(self) -> tuple[RuleDifference, ...]:
        """Return the metrics to which the other set of rules gives another value."""


class Subject(NamedTuple):
    """What a result is of: images (or none) of a plan, or of a suite where there is no plan.

    resolution: side of the images in pixels where they are square. source: where they lie if not in the run folder.
    """

    target: str
    samples_sha256: str
    plan: Plan | None = None
    suite: str | None = None
    resolution: int | None = None
    source: Source | None = None


class Method(NamedTuple):
    """How a subject was measured: evaluator, rules, judges and reference.

    judges: by role, where several looked; `judge` then stands for them together. answers_sha256: of what annotators answered.
    """

    evaluator: str
    rule: Rule
    judge: JudgeRecord
    reference: str
    reference_sha256: str
    rules: Literal["official", "corrected"] = "official"
    judges: Mapping[str, JudgeRecord] = {}
    answers_sha256: str | None = None
    is_lenient: bool = False


def build_result(
    path: Path,
    subject: Subject,
    method: Method,
    score: Score,
    provenance: Provenance,
    warnings: Sequence[ResultWarning] = (),
    judge_errors: Mapping[str, tuple[ErrorRate, ...]] | None = None,
    scale: Literal["micro", "paper"] | None = None,
    has_arrays: bool = True,
    has_rows: bool = False,
) -> Result:
    """Return the result that belongs at a path.

    Args:
        warnings: What must be said of images, judges and reference; the score's own warnings follow.
        judge_errors: How often judges were wrong on known cases, by name.
        scale: That of the judge if None.
        has_arrays, has_rows: Whether there are per-sample arrays, and verdicts on single images, to write beside it.
    """
    return Result(
        evaluator=method.evaluator,
        version=method.rule.version,
        profile=method.rule.profile,
        rules=method.rules,
        parity=method.rule.parity,
        scale=scale or ("micro" if method.judge.judge_class == "micro" else "paper"),
        target=subject.target,
        suite=subject.suite,
        resolution=subject.resolution,
        plan=subject.plan,
        plan_digest=_plan_digest(subject),
        samples_sha256=subject.samples_sha256,
        judge=method.judge,
        judges=dict(method.judges),
        judge_errors=dict(judge_errors or {}),
        answers_sha256=method.answers_sha256,
        reference=method.reference,
        reference_sha256=method.reference_sha256,
        measurements=score.measurements,
        is_lenient=method.is_lenient,
        rule_differences=score.rule_differences,
        warnings=(*warnings, *warnings_of("evaluator", score.warnings)),
        per_sample=arrays_path(path).name if has_arrays else None,
        rows=rows_path(path).name if has_rows else None,
        source=subject.source,
        provenance=provenance,
    )


def _plan_digest(subject: Subject) -> str | None:
    return subject.plan.digest if subject.plan is not None else None


def set_digest(samples: SampleSet) -> str:
    """Return the hex sha256 of indices, image hashes and failures: two equal sets have one digest."""
    rows = list(zip(samples.indices, samples.hashes, strict=True))
    return hashlib.sha256(repr((rows, sorted(samples.failed.items()))).encode()).hexdigest()


def subject_of(samples: SampleSet, suite: str, source: Source | None = None) -> Subject:
    """Return the images of a set, evaluated for a suite, as the subject of a result; SampleError where one of them is altered."""
    return Subject(samples.name, set_digest(samples), samples.plan, suite, _side(samples), source)


def _side(samples: SampleSet) -> int | None:
    """Return the side of a set's images in pixels; None where they are not square, or the first is not readable."""
    if samples.plan is not None:
        return samples.plan.settings.resolution
    try:
        height, width, _ = samples.shape
    except (SampleError, IndexError):  # the first image is damaged, or there is none
        return None
    return height if height == width else None


# ------------------------------------------------------------------------------------------------- reading


def read_result(path: Path, is_checked: bool = True) -> Result:
    """Return the result in a file.

    Args:
        is_checked: The file must be the recorded one. `verify` alone reads others, to say what is wrong.

    Raises:
        StorageError: It is not there or not a result; names the file and the field.
        AlteredFileError: It is not the one that was recorded.
        FormatError: Another version of this package wrote it.
    """
    if is_checked:
        checksums.check_recorded(path, ADVICE)
    with disk(path):
        data = read_regular(path, JSON_BYTES)
    return _parse(data, path)


def find_result(path: Path) -> Result | None:
    """Return the result in a file, None where there is none or it is damaged; errors of another version as `read_result`."""
    data = read_if_present(path)
    try:
        return None if data is None else _parse(data, path)
    except StorageError:
        return None


def read_results(folder: Path) -> list[StoredResult]:
    """Return every result of the run folders at and below a folder, in the order of the paths.

    Raises:
        StorageError: The folder is not there, or a file is not a result; the file is named.
        AlteredFileError: A result is not the one that was recorded.
        FormatError: Another version of this package wrote a file.
    """
    if not folder.is_dir():
        raise StorageError(f"{folder} is not a folder; give the folder that holds the runs")
    paths = result_paths_below(folder)
    for path in paths:
        checksums.check_recorded(path, ADVICE)
    files = [(path, data) for path in paths if (data := read_if_present(path)) is not None]  # one may be cleared meanwhile
    return [StoredResult(_parse(data, path), path) for path, data in files]


def _parse(data: bytes, path: Path) -> Result:
    try:
        return Result.from_json(data, path)
    except ValidationError as error:
        raise StorageError(f"{path} is not a result ({fault(error)}); delete it and evaluate again") from error
    except ValueError as error:
        raise StorageError(f"{path} is not a result (it is not JSON: {first_line(error)}); delete it and evaluate again") from error


def named_arrays_path(item: StoredResult) -> Path:
    """Return where the arrays lie that a result names: a plain file name beside it, never a path of its choosing."""
    name = item.result.per_sample or ""
    if Path(name).name != name:
        raise StorageError(f"{item.path} names per-sample values outside its folder ({name}); evaluate the run again")
    return item.path.parent / name


def read_arrays(item: StoredResult) -> dict[str, np.ndarray]:
    """Return the per-sample arrays of a result; they are read once as long as the file does not change.

    Raises:
        StorageError: They are gone, or not what an evaluator writes.
        AlteredFileError: They are not the ones that were recorded.
    """
    path = named_arrays_path(item)
    arrays = _read_arrays(path, stamp_of(path) or (0, 0))  # where it is gone, reading it says so
    check_sample_arrays(path, arrays, [measurement.metric for measurement in item.result.measurements])
    return arrays


@lru_cache(maxsize=32)
def _read_arrays(path: Path, stamp: tuple[int, int]) -> dict[str, np.ndarray]:
    checksums.check_recorded(path, ADVICE, ARRAYS_BYTES)
    return load_arrays(path)


# ------------------------------------------------------------------------------------------------- current


def find_current(path: Path, subject: Subject, method: Method) -> Result | None:
    """Return the result at a path if it is of exactly this work, and it and its arrays are as they were written; None otherwise."""
    if not is_as_written(path):
        return None
    stored = find_result(path)
    if stored is None or (stored.per_sample is not None and not is_as_written(arrays_path(path))):
        return None
    return stored if _is_of(stored, subject, method) else None


def is_as_written(path: Path) -> bool:
    """Return whether a file is there and is the one whose hash its folder records."""
    return checksums.has_sums(path.parent) and checksums.intact(path.parent, path.name)


def _is_of(stored: Result, subject: Subject, method: Method) -> bool:
    """Return whether a result is of this subject by this method."""
    decisive: list[tuple[object, object]] = [
        (stored.evaluator, method.evaluator),
        (stored.version, method.rule.version),
        (stored.profile, method.rule.profile),
        (stored.rules, method.rules),
        (stored.target, subject.target),
        (stored.samples_sha256, subject.samples_sha256),
        (stored.plan_digest, _plan_digest(subject)),
        (stored.judge, method.judge),
        (stored.judges, method.judges),
        (stored.answers_sha256, method.answers_sha256),
        (stored.reference_sha256, method.reference_sha256),
        (stored.is_lenient, method.is_lenient),
    ]
    if subject.plan is None:  # images without a plan have no other record of it
        decisive += [(stored.suite, subject.suite), (stored.resolution, subject.resolution)]
    return all(recorded == expected for recorded, expected in decisive)


def claim_results(folder: Path, samples: SampleSet) -> None:
    """Raise PlanMismatch if a run folder holds a result of other images, whose observations would be lost.

    A run that grew is the same work.
    """
    digest = set_digest(samples)
    for path in result_paths(folder):
        stored = find_result(path)
        if stored is None or stored.samples_sha256 in (digest, NO_SAMPLES):
            continue
        if samples.plan is None or stored.plan_digest != samples.plan.digest:
            raise PlanMismatch(f"{path} is of other images ({stored.target}), asked for {samples.name}; choose another --out")


# ------------------------------------------------------------------------------------------------- writing


def result_text(result: Result) -> str:
    """Return the text of a result's file."""
    return result.to_json(indent=1) + "\n"


def write_result(path: Path, result: Result, arrays: Mapping[str, np.ndarray], rows: str | None = None) -> Result:
    """Write a result, its per-sample arrays and, where it has them, its rows, and return it; SHA256SUMS beside them vouches for all.

    The label of the result that it replaces stays unless it has one.

    Args:
        rows: Text of the file of verdicts that `result.rows` names.
    """
    previous = find_result(path) if result.label is None else None
    if previous is not None and previous.label is not None:
        result = result.model_copy(update={"label": previous.label})
    text, names = result_text(result), [path.name]
    make_folder(path.parent)
    with disk(path), checksums.alone(path.parent):  # nobody takes files for altered whose hashes are written next
        if result.per_sample is not None:
            names.append(result.per_sample)
            write_arrays(path.with_name(result.per_sample), {name: np.asarray(array) for name, array in arrays.items()})
        if result.rows is not None and rows is not None:
            names.append(result.rows)
            write_text(path.with_name(result.rows), rows)
        write_text(path, text)
        checksums.record_files(path.parent, names)
    return result


def relabel(path: Path, result: Result, label: str) -> Result:
    """Return the result with this label, written to its file if it had another; nothing is scored again.

    Raises:
        OptionError: The text is no label.
    """
    labelled = result.model_copy(update={"label": check_label(label)})
    if labelled != result:
        with disk(path), checksums.alone(path.parent):
            was_recorded = is_as_written(path)
            write_text(path, result_text(labelled))
            if was_recorded:
                checksums.record_files(path.parent, [path.name])
    return labelled
