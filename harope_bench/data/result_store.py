"""Results on disk: how they are built, written and read, and whether they are still current.

A result is RUN/results/NAME.json. Beside it lie NAME.npz, its per-sample arrays, and, where it has
verdicts on single images,
NAME.rows.jsonl; SHA256SUMS vouches for all. No other module builds a Result or writes into a folder
of results.
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
from harope_bench.core.errors import PlanMismatchError, SampleError, StorageError
from harope_bench.core.record_base import check_label, validation_summary
from harope_bench.core.regular_file import JSON_BYTES, read_regular
from harope_bench.core.schema import (
    ErrorRate,
    ImageSource,
    JudgeRecord,
    Measurement,
    Plan,
    Provenance,
    Result,
    ResultWarning,
    RuleDifference,
    make_warnings,
)
from harope_bench.core.storage import (
    convert_os_errors,
    file_stamp,
    first_line,
    make_folder,
    read_if_present,
    sha256_bytes,
    write_text,
)
from harope_bench.data.array_checks import check_sample_arrays
from harope_bench.data.result_paths import (
    arrays_path,
    result_paths,
    result_paths_below,
    sample_scores_path,
)
from harope_bench.data.sample_set import SampleSet

ALTERED_ADVICE = (  # about a file that is not the recorded one
    "bring that one back, or run eval again"
)
NO_SAMPLES_SHA256 = sha256_bytes(b"")  # of a result that looked at no image


class StoredResult(NamedTuple):
    """A result and the file it was read from (its per-sample arrays lie beside it)."""

    result: Result
    path: Path


class EvaluatedResult(NamedTuple):
    """A result, its file, and whether this call had to work for it."""

    result: Result
    path: Path
    is_new: bool


# ------------------------------------------------------------------------------------------------
# building


class EvaluatorProtocol(Protocol):
    """What a result records of its evaluator; an evaluator is one."""

    version: int
    profile: str
    parity: str


class EvaluatorOutputProtocol(Protocol):
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


class ResultSubject(NamedTuple):
    """What a result is of: images (or none) of a plan, or of a suite where there is no plan.

    resolution: side of the images in pixels where they are square. source: where they lie if not in
    the run folder.
    """

    target: str
    samples_sha256: str
    plan: Plan | None = None
    suite: str | None = None
    resolution: int | None = None
    source: ImageSource | None = None


class ResultMethod(NamedTuple):
    """How a subject was measured: evaluator, rules, judges and reference.

    judges: by role, where several looked; `judge` then stands for them together. answers_sha256: of
    what annotators answered.
    """

    evaluator: str
    evaluator_object: EvaluatorProtocol
    judge: JudgeRecord
    reference: str
    reference_sha256: str
    rules: Literal["official", "corrected"] = "official"
    judges: Mapping[str, JudgeRecord] = {}
    annotations_sha256: str | None = None
    is_lenient: bool = False


def build_result(
    path: Path,
    subject: ResultSubject,
    method: ResultMethod,
    score: EvaluatorOutputProtocol,
    provenance: Provenance,
    warnings: Sequence[ResultWarning] = (),
    judge_error_rates: Mapping[str, tuple[ErrorRate, ...]] | None = None,
    scale: Literal["micro", "paper"] | None = None,
    has_arrays: bool = True,
    has_sample_scores: bool = False,
) -> Result:
    """Return the result that belongs at a path.

    Args:
        warnings: What must be said of images, judges and reference; the score's own warnings
            follow.
        judge_errors: How often judges were wrong on known cases, by name.
        scale: That of the judge if None.
        has_arrays, has_rows: Whether there are per-sample arrays, and verdicts on single images, to
            write beside it.
    """
    return Result(
        evaluator=method.evaluator,
        version=method.evaluator_object.version,
        profile=method.evaluator_object.profile,
        rules=method.rules,
        parity=method.evaluator_object.parity,
        scale=scale or ("micro" if method.judge.judge_class == "micro" else "paper"),
        target=subject.target,
        suite=subject.suite,
        resolution=subject.resolution,
        plan=subject.plan,
        plan_digest=_plan_digest(subject),
        samples_sha256=subject.samples_sha256,
        judge=method.judge,
        judges=dict(method.judges),
        judge_error_rates=dict(judge_error_rates or {}),
        annotations_sha256=method.annotations_sha256,
        reference=method.reference,
        reference_sha256=method.reference_sha256,
        measurements=score.measurements,
        is_lenient=method.is_lenient,
        rule_differences=score.rule_differences,
        warnings=(*warnings, *make_warnings("evaluator", score.warnings)),
        arrays_file=arrays_path(path).name if has_arrays else None,
        sample_scores_file=sample_scores_path(path).name if has_sample_scores else None,
        source=subject.source,
        provenance=provenance,
    )


def _plan_digest(subject: ResultSubject) -> str | None:
    return subject.plan.digest if subject.plan is not None else None


def sample_set_digest(samples: SampleSet) -> str:
    """Return the hex sha256 of indices, image hashes and failures: two equal sets have one
    digest.
    """
    rows = list(zip(samples.indices, samples.hashes, strict=True))
    return hashlib.sha256(repr((rows, sorted(samples.failed.items()))).encode()).hexdigest()


def make_subject(
    samples: SampleSet, suite: str, source: ImageSource | None = None
) -> ResultSubject:
    """Return the images of a set, evaluated for a suite, as the subject of a result; SampleError
    where one of them is altered.
    """
    return ResultSubject(
        samples.name, sample_set_digest(samples), samples.plan, suite, _image_side(samples), source
    )


def _image_side(samples: SampleSet) -> int | None:
    """Return the side of a set's images in pixels; None where they are not square, or the first is
    not readable.
    """
    if samples.plan is not None:
        return samples.plan.settings.resolution
    try:
        height, width, _ = samples.shape
    except (SampleError, IndexError):  # the first image is damaged, or there is none
        return None
    return height if height == width else None


# -------------------------------------------------------------------------------------------------
# reading


def read_result(path: Path, is_checked: bool = True) -> Result:
    """Return the result in a file.

    Args:
        is_checked: The file must be the recorded one. `verify` alone reads others, to say what is
            wrong.

    Raises:
        StorageError: It is not there or not a result; names the file and the field.
        AlteredFileError: It is not the one that was recorded.
        FormatError: Another version of this package wrote it.
    """
    if is_checked:
        checksums.check_recorded_hash(path, ALTERED_ADVICE)
    with convert_os_errors(path):
        data = read_regular(path, JSON_BYTES)
    return _parse_result(data, path)


def find_result(path: Path) -> Result | None:
    """Return the result in a file, None where there is none or it is damaged; errors of another
    version as `read_result`.
    """
    data = read_if_present(path)
    try:
        return None if data is None else _parse_result(data, path)
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
        checksums.check_recorded_hash(path, ALTERED_ADVICE)
    files = [
        (path, data) for path in paths if (data := read_if_present(path)) is not None
    ]  # one may be cleared meanwhile
    return [StoredResult(_parse_result(data, path), path) for path, data in files]


def _parse_result(data: bytes, path: Path) -> Result:
    try:
        return Result.from_json(data, path)
    except ValidationError as error:
        raise StorageError(
            f"{path} is not a result ({validation_summary(error)}); delete it and evaluate again"
        ) from error
    except ValueError as error:
        raise StorageError(
            f"{path} is not a result (it is not JSON: {first_line(error)}); delete it and evaluate"
            " again"
        ) from error


def recorded_arrays_path(item: StoredResult) -> Path:
    """Return where the arrays lie that a result names: a plain file name beside it, never a path of
    its choosing.
    """
    name = item.result.arrays_file or ""
    if Path(name).name != name:
        raise StorageError(
            f"{item.path} names per-sample values outside its folder ({name}); evaluate the run"
            " again"
        )
    return item.path.parent / name


def read_arrays(item: StoredResult) -> dict[str, np.ndarray]:
    """Return the per-sample arrays of a result; they are read once as long as the file does not
    change.

    Raises:
        StorageError: They are gone, or not what an evaluator writes.
        AlteredFileError: They are not the ones that were recorded.
    """
    path = recorded_arrays_path(item)
    arrays = _read_arrays(path, file_stamp(path) or (0, 0))  # where it is gone, reading it says so
    check_sample_arrays(
        path, arrays, [measurement.metric for measurement in item.result.measurements]
    )
    return arrays


@lru_cache(maxsize=32)
def _read_arrays(path: Path, stamp: tuple[int, int]) -> dict[str, np.ndarray]:
    checksums.check_recorded_hash(path, ALTERED_ADVICE, ARRAYS_BYTES)
    return load_arrays(path)


# -------------------------------------------------------------------------------------------------
# current


def find_current_result(path: Path, subject: ResultSubject, method: ResultMethod) -> Result | None:
    """Return the result at a path if it is of exactly this work, and it and its arrays are as they
    were written; None otherwise.
    """
    if not is_unaltered(path):
        return None
    stored = find_result(path)
    if stored is None or (stored.arrays_file is not None and not is_unaltered(arrays_path(path))):
        return None
    return stored if _matches_work(stored, subject, method) else None


def is_unaltered(path: Path) -> bool:
    """Return whether a file is there and is the one whose hash its folder records."""
    return checksums.has_checksums(path.parent) and checksums.is_intact(path.parent, path.name)


def _matches_work(stored: Result, subject: ResultSubject, method: ResultMethod) -> bool:
    """Return whether a result is of this subject by this method."""
    decisive: list[tuple[object, object]] = [
        (stored.evaluator, method.evaluator),
        (stored.version, method.evaluator_object.version),
        (stored.profile, method.evaluator_object.profile),
        (stored.rules, method.rules),
        (stored.target, subject.target),
        (stored.samples_sha256, subject.samples_sha256),
        (stored.plan_digest, _plan_digest(subject)),
        (stored.judge, method.judge),
        (stored.judges, method.judges),
        (stored.annotations_sha256, method.annotations_sha256),
        (stored.reference_sha256, method.reference_sha256),
        (stored.is_lenient, method.is_lenient),
    ]
    if subject.plan is None:  # images without a plan have no other record of it
        decisive += [(stored.suite, subject.suite), (stored.resolution, subject.resolution)]
    return all(recorded == expected for recorded, expected in decisive)


def check_results_belong(folder: Path, samples: SampleSet) -> None:
    """Raise PlanMismatch if a run folder holds a result of other images, whose observations would
    be lost.

    A run that grew is the same work.
    """
    digest = sample_set_digest(samples)
    for path in result_paths(folder):
        stored = find_result(path)
        if stored is None or stored.samples_sha256 in (digest, NO_SAMPLES_SHA256):
            continue
        if samples.plan is None or stored.plan_digest != samples.plan.digest:
            raise PlanMismatchError(
                f"{path} is of other images ({stored.target}), asked for {samples.name}; choose"
                " another --out"
            )


# -------------------------------------------------------------------------------------------------
# writing


def result_text(result: Result) -> str:
    """Return the text of a result's file."""
    return result.to_json(indent=1) + "\n"


def write_result(
    path: Path, result: Result, arrays: Mapping[str, np.ndarray], sample_scores: str | None = None
) -> Result:
    """Write a result, its per-sample arrays and, where it has them, its rows, and return it;
    SHA256SUMS beside them vouches for all.

    The label of the result that it replaces stays unless it has one.

    Args:
        rows: Text of the file of verdicts that `result.rows` names.
    """
    previous = find_result(path) if result.label is None else None
    if previous is not None and previous.label is not None:
        result = result.model_copy(update={"label": previous.label})
    text = result_text(result)
    names = [path.name]
    make_folder(path.parent)
    with (
        convert_os_errors(path),
        checksums.lock_folder(path.parent),
    ):  # nobody takes files for altered whose hashes are written next
        if result.arrays_file is not None:
            names.append(result.arrays_file)
            write_arrays(
                path.with_name(result.arrays_file),
                {name: np.asarray(array) for name, array in arrays.items()},
            )
        if result.sample_scores_file is not None and sample_scores is not None:
            names.append(result.sample_scores_file)
            write_text(path.with_name(result.sample_scores_file), sample_scores)
        write_text(path, text)
        checksums.record_file_hashes(path.parent, names)
    return result


def set_label(path: Path, result: Result, label: str) -> Result:
    """Return the result with this label, written to its file if it had another; nothing is scored
    again.

    Raises:
        OptionError: The text is no label.
    """
    labelled = result.model_copy(update={"label": check_label(label)})
    if labelled != result:
        with convert_os_errors(path), checksums.lock_folder(path.parent):
            was_recorded = is_unaltered(path)
            write_text(path, result_text(labelled))
            if was_recorded:
                checksums.record_file_hashes(path.parent, [path.name])
    return labelled
