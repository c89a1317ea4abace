"""Results on disk: building, writing, reading, and the check that a result is still current.

A result is RUN/results/NAME.json. Beside it are NAME.npz with per-sample arrays and, for evaluators
that score single images, NAME.sample_scores.jsonl. SHA256SUMS contains the hashes of all of them.
No other module builds a Result or writes into a folder of results.
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
from harope_bench.core.record_base import validate_user_label, validation_summary
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

ALTERED_ADVICE = "bring that one back, or run eval again"  # for a file with another hash
NO_SAMPLES_SHA256 = sha256_bytes(b"")  # samples_sha256 of a result without images


class StoredResult(NamedTuple):
    """A result and the file from which it was read."""

    result: Result
    path: Path


class EvaluatedResult(NamedTuple):
    """A result, its file, and whether this call computed it or found it up to date."""

    result: Result
    path: Path
    is_new: bool


# ------------------------------------------------------------------------------------------------
# building


class EvaluatorProtocol(Protocol):
    """The members of an evaluator that a result records."""

    version: int
    profile: str
    parity: str


class EvaluatorOutputProtocol(Protocol):
    """The members of an evaluator's output that a result records (`evaluators.base`)."""

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """Return the measurements."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return warnings about the measurements."""

    @property
    def rule_differences(self) -> tuple[RuleDifference, ...]:
        """Return the metrics whose value differs under the other set of rules."""


class ResultSubject(NamedTuple):
    """The images that a result is about, generated under a plan or for a suite without a plan.

    Attributes:
        target: Path of the run folder or of the images.
        samples_sha256: Digest of the sample set (`sample_set_digest`).
        resolution: Side of the images in pixels; None if they are not square.
        source: Location of the images if they are not in the run folder.
    """

    target: str
    samples_sha256: str
    plan: Plan | None = None
    suite: str | None = None
    resolution: int | None = None
    source: ImageSource | None = None


class ResultMethod(NamedTuple):
    """How the images were measured: evaluator, rules, judges and reference.

    Attributes:
        evaluator: Name of the evaluator.
        evaluator_object: The evaluator itself.
        judge: The judge, or one record that summarises all of `judges`.
        reference, reference_sha256: Name and hash of the reference.
        judges: By role, if the evaluator uses several.
        annotations_sha256: Hash of the annotations that were scored.
        is_lenient: Whether images, answers or whole tasks may be missing.
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
    evaluator_output: EvaluatorOutputProtocol,
    provenance: Provenance,
    warnings: Sequence[ResultWarning] = (),
    judge_error_rates: Mapping[str, tuple[ErrorRate, ...]] | None = None,
    scale: Literal["micro", "paper"] | None = None,
    has_arrays: bool = True,
    has_sample_scores: bool = False,
) -> Result:
    """Return the Result that will be written to a path.

    Args:
        path: The result file, which need not exist yet.
        subject, method: The images, and how they were measured.
        evaluator_output: Measurements and warnings of the evaluator.
        provenance: When and how the result was computed.
        warnings: Warnings about images, judges and reference. Those of the evaluator follow them.
        judge_error_rates: Error rates of judges on images with known ground truth, by judge.
        scale: Micro scale or paper scale; None takes that of the judge.
        has_arrays, has_sample_scores: Which files will be written beside the result.
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
        measurements=evaluator_output.measurements,
        is_lenient=method.is_lenient,
        rule_differences=evaluator_output.rule_differences,
        warnings=(*warnings, *make_warnings("evaluator", evaluator_output.warnings)),
        arrays_file=arrays_path(path).name if has_arrays else None,
        sample_scores_file=sample_scores_path(path).name if has_sample_scores else None,
        source=subject.source,
        provenance=provenance,
    )


def _plan_digest(subject: ResultSubject) -> str | None:
    return subject.plan.digest if subject.plan is not None else None


def sample_set_digest(samples: SampleSet) -> str:
    """Return the hex sha256 of indices, image hashes and failures of a sample set."""
    indexed_hashes = list(zip(samples.indices, samples.hashes, strict=True))
    contents = (indexed_hashes, sorted(samples.failed.items()))
    return hashlib.sha256(repr(contents).encode()).hexdigest()


def make_subject(
    samples: SampleSet, suite: str, source: ImageSource | None = None
) -> ResultSubject:
    """Return a sample set that is evaluated for a suite as the subject of a result.

    Raises:
        SampleError: An image cannot be read or does not have its recorded hash.
    """
    return ResultSubject(
        samples.name, sample_set_digest(samples), samples.plan, suite, _image_side(samples), source
    )


def _image_side(samples: SampleSet) -> int | None:
    """Return the side of the images in pixels; None if they are not square or not readable."""
    if samples.plan is not None:
        return samples.plan.settings.resolution
    try:
        height, width, _ = samples.shape
    except (SampleError, IndexError):  # the first image is damaged, or the set is empty
        return None
    return height if height == width else None


# -------------------------------------------------------------------------------------------------
# reading


def read_result(path: Path, needs_matching_hash: bool = True) -> Result:
    """Return the result in a file.

    Args:
        needs_matching_hash: Raise AlteredFileError if the file does not have its recorded hash.
            Only `verify` reads altered files, in order to report them.

    Raises:
        StorageError: The file is missing or not a result. The message names the file and field.
        AlteredFileError: The file does not have its recorded hash.
        FormatError: The file has another format version.
    """
    if needs_matching_hash:
        checksums.check_recorded_hash(path, ALTERED_ADVICE)
    with convert_os_errors(path):
        data = read_regular(path, JSON_BYTES)
    return _parse_result(data, path)


def read_result_or_none(path: Path) -> Result | None:
    """Return the result in a file; None if the file is missing or damaged.

    Raises:
        FormatError: The file has another format version.
    """
    data = read_if_present(path)
    try:
        return None if data is None else _parse_result(data, path)
    except StorageError:
        return None


def read_results(folder: Path) -> list[StoredResult]:
    """Return every result of the run folders at and below a folder, in the order of the paths.

    Raises:
        StorageError: The folder is missing, or a file is not a result.
        AlteredFileError: A file does not have its recorded hash.
        FormatError: A file has another format version.
    """
    if not folder.exists():
        raise StorageError(f"{folder} does not exist; give a run folder or a folder of runs")
    if not folder.is_dir():
        raise StorageError(f"{folder} is a file; give a run folder or a folder of runs")
    paths = result_paths_below(folder)
    for path in paths:
        checksums.check_recorded_hash(path, ALTERED_ADVICE)
    results = []
    for path in paths:
        data = read_if_present(path)
        if data is not None:  # another process may remove a file meanwhile
            results.append(StoredResult(_parse_result(data, path), path))
    return results


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


def recorded_arrays_path(stored_result: StoredResult) -> Path:
    """Return the path of the arrays file that a result records, which is in the same folder.

    Raises:
        StorageError: The recorded name leads out of the folder.
    """
    name = stored_result.result.arrays_file or ""
    if Path(name).name != name:
        raise StorageError(
            f"{stored_result.path} names per-sample values outside its folder ({name}); evaluate"
            " the run again"
        )
    return stored_result.path.parent / name


def read_arrays(stored_result: StoredResult) -> dict[str, np.ndarray]:
    """Return the per-sample arrays of a result. They are cached until the file changes.

    Raises:
        StorageError: The file is missing, or the arrays do not have the expected dtype or shape.
        AlteredFileError: The file does not have its recorded hash.
    """
    path = recorded_arrays_path(stored_result)
    stamp = file_stamp(path) or (0, 0)  # reading a missing file raises the error below
    arrays = _read_arrays(path, stamp)
    metrics = [measurement.metric for measurement in stored_result.result.measurements]
    check_sample_arrays(path, arrays, metrics)
    return arrays


@lru_cache(maxsize=32)
def _read_arrays(path: Path, stamp: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return the arrays of a file. `stamp`, time and size of the file, is a key of the cache."""
    checksums.check_recorded_hash(path, ALTERED_ADVICE, ARRAYS_BYTES)
    return load_arrays(path)


# -------------------------------------------------------------------------------------------------
# current


def find_current_result(path: Path, subject: ResultSubject, method: ResultMethod) -> Result | None:
    """Return the result at a path if it need not be computed again; else None.

    It must be of the same images, measured by the same method, and its files must be unaltered.
    """
    if not is_unaltered(path):
        return None
    result = read_result_or_none(path)
    if result is None or (result.arrays_file is not None and not is_unaltered(arrays_path(path))):
        return None
    return result if _is_result_of(result, subject, method) else None


def is_unaltered(path: Path) -> bool:
    """Return whether a file exists and has its recorded hash."""
    return checksums.has_checksums(path.parent) and checksums.is_intact(path.parent, path.name)


def _is_result_of(result: Result, subject: ResultSubject, method: ResultMethod) -> bool:
    """Return whether a result is of these images, measured by this method."""
    value_pairs: list[tuple[object, object]] = [
        (result.evaluator, method.evaluator),
        (result.version, method.evaluator_object.version),
        (result.profile, method.evaluator_object.profile),
        (result.rules, method.rules),
        (result.target, subject.target),
        (result.samples_sha256, subject.samples_sha256),
        (result.plan_digest, _plan_digest(subject)),
        (result.judge, method.judge),
        (result.judges, method.judges),
        (result.annotations_sha256, method.annotations_sha256),
        (result.reference_sha256, method.reference_sha256),
        (result.is_lenient, method.is_lenient),
    ]
    if subject.plan is None:  # the plan would contain suite and resolution
        value_pairs.append((result.suite, subject.suite))
        value_pairs.append((result.resolution, subject.resolution))
    return all(recorded_value == expected for recorded_value, expected in value_pairs)


def check_results_belong(folder: Path, samples: SampleSet) -> None:
    """Raise PlanMismatchError if a run folder contains a result of other images.

    Features and annotations of these images would overwrite those that the result was computed
    from. Results of the same plan with fewer or more samples are allowed.
    """
    digest = sample_set_digest(samples)
    for path in result_paths(folder):
        result = read_result_or_none(path)
        if result is None or result.samples_sha256 in (digest, NO_SAMPLES_SHA256):
            continue
        if samples.plan is None or result.plan_digest != samples.plan.digest:
            raise PlanMismatchError(
                f"{path} is the result of other images ({result.target}), asked for"
                f" {samples.name}; choose another --out"
            )


# -------------------------------------------------------------------------------------------------
# writing


def result_text(result: Result) -> str:
    """Return the text of the file of a result."""
    return result.to_json(indent=1) + "\n"


def write_result(
    path: Path, result: Result, arrays: Mapping[str, np.ndarray], sample_scores: str | None = None
) -> Result:
    """Write a result, its per-sample arrays and its sample scores, and record their hashes.

    A result without a label takes the label of the result that it replaces.

    Args:
        arrays: Per-sample arrays, written if `result.arrays_file` is set.
        sample_scores: Text of the file `result.sample_scores_file`.

    Returns:
        The result as it was written.
    """
    old_result = read_result_or_none(path) if result.label is None else None
    if old_result is not None and old_result.label is not None:
        result = result.model_copy(update={"label": old_result.label})
    text = result_text(result)

    # A reader that finds a new file with an old hash waits for the lock and checks again.
    names = [path.name]
    make_folder(path.parent)
    with convert_os_errors(path), checksums.lock_folder(path.parent):
        if result.arrays_file is not None:
            names.append(result.arrays_file)
            numpy_arrays = {name: np.asarray(array) for name, array in arrays.items()}
            write_arrays(path.with_name(result.arrays_file), numpy_arrays)
        if result.sample_scores_file is not None and sample_scores is not None:
            names.append(result.sample_scores_file)
            write_text(path.with_name(result.sample_scores_file), sample_scores)
        write_text(path, text)
        checksums.record_file_hashes(path.parent, names)
    return result


def set_label(path: Path, result: Result, label: str) -> Result:
    """Return the result with a label, and write it to its file if the label is new.

    Raises:
        OptionError: The text is not a valid label.
    """
    new_result = result.model_copy(update={"label": validate_user_label(label)})
    if new_result != result:
        with convert_os_errors(path), checksums.lock_folder(path.parent):
            # An altered file keeps its old hash, so that `verify` still reports it.
            has_recorded_hash = is_unaltered(path)
            write_text(path, result_text(new_result))
            if has_recorded_hash:
                checksums.record_file_hashes(path.parent, [path.name])
    return new_result
