"""From samples to annotations: an annotator answers a query about each image.

A judge's folder holds three files. judge.json is the record of the judge. annotations.jsonl has
one line for each query: `key`, `index`, and `annotation` or `error`. queries.jsonl has the queries
for a judge that runs in another Python.

The key is the sha256 of role, image and query. So a stored annotation is reused after an
interruption, in a longer run, and by another evaluator.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from pydantic import ValidationError

from harope_bench.core import checksums
from harope_bench.core.annotations import (
    ANNOTATION_TYPES,
    Annotation,
    Query,
    is_complete_annotation,
)
from harope_bench.core.errors import (
    BenchError,
    DiskError,
    JudgeError,
    MissingAssetError,
    OptionError,
    PendingAnswersError,
    PlanMismatchError,
    SampleError,
    StorageError,
)
from harope_bench.core.formats import parse_versioned_json, versioned_json_text
from harope_bench.core.json_file import JsonObject
from harope_bench.core.json_lines import (
    append_line,
    drop_partial_line,
    read_lines,
    read_lines_by_field,
)
from harope_bench.core.progress import Progress
from harope_bench.core.record_base import validation_summary
from harope_bench.core.schema import JudgeRecord
from harope_bench.core.storage import (
    convert_os_errors,
    first_line,
    make_folder,
    read_if_present,
    sha256_file,
    write_bytes,
    write_text,
)
from harope_bench.core.threaded_work import map_in_threads
from harope_bench.data.image_io import encode_png
from harope_bench.data.run_claim import part_folders, remove_empty_parts
from harope_bench.data.sample_set import SampleSet
from harope_bench.evaluators.base import AnnotatedImage, AnnotatorRole, Metadata
from harope_bench.judges.base import (
    Annotator,
    JudgeChoice,
    LoadedAnnotator,
    judge_record,
    load_judge,
    open_judge,
)
from harope_bench.pipeline import external_annotator
from harope_bench.pipeline.workers import Task, current_executor, is_memory_error, run_units
from harope_bench.suites.base import PromptCase

ANNOTATIONS_FILE = "annotations.jsonl"
QUERIES_FILE = "queries.jsonl"
JUDGE_FILE = "judge.json"
HASHED_FILES = (ANNOTATIONS_FILE, QUERIES_FILE, JUDGE_FILE)

# After so many failures and no success, the judge and not the image is the cause.
MAX_FIRST_FAILURES = 5

# Queries that another process answers in one go; a script in another Python loads its weights for
# each part.
QUERIES_PER_PART = 32
EXTERNAL_QUERIES_PER_PART = 250
IMAGES_AHEAD = 8  # decoded images that wait for the judge, 100 MB at 2,048 pixels

# Errors of one image. Others, such as MemoryError, end the run.
IMAGE_ERRORS = (
    ArithmeticError,
    BenchError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class AnnotatorOptions:
    """How annotators run.

    Attributes:
        is_rescored: Only stored annotations are used; no judge is loaded.
        python: Python interpreter that runs an external judge.
        runner_options: Options of the external judge's script, by name.
    """

    device: str = "cpu"
    is_rescored: bool = False
    python: Path | None = None
    runner_options: Mapping[str, str] = field(default_factory=dict)


class ImageQuery(NamedTuple):
    """One query about one image.

    Attributes:
        position: Position of the image among those that the evaluator scores.
        sample_index: Index of the image in the sample set.
        key: The query's key in annotations.jsonl.
    """

    position: int
    sample_index: int
    image_sha256: str
    query: Query
    key: str


class StoredAnnotation(NamedTuple):
    """An annotation, or the error that replaces it."""

    annotation: Annotation | None
    error: str | None


# -------------------------------------------------------------------------------- choice of judges


def parse_judges(
    text: str | None, default_judges: Mapping[str, str], roles: Sequence[str] | None = None
) -> dict[str, JudgeChoice]:
    """Return the judge of each role.

    Args:
        text: `--judge`: comma-separated `ROLE=NAME` or `ROLE=NAME:MODEL`, or NAME alone if there
            is one role. None selects the default judges.
        default_judges: The suite's judges by role.
        roles: Roles that the text may name; None for those of the default judges.

    Raises:
        OptionError: A role does not exist, or a judge does not have its role.
    """
    known_roles = tuple(default_judges) if roles is None else tuple(roles)
    judges = {role: _parse_judge(name) for role, name in default_judges.items()}
    for part in text.split(",") if text else ():
        role, equals, name = part.strip().partition("=")
        if not equals:
            name = role
            role = known_roles[0] if len(known_roles) == 1 else ""
        if role not in known_roles or not name:
            forms = ", ".join(f"{known_role}=NAME" for known_role in known_roles)
            raise OptionError(f"--judge {part!r} names no role; write one of {forms}")
        judges[role] = _parse_judge(name)
    for role, judge_choice in judges.items():
        _check_role(role, judge_choice)
    return judges


def _parse_judge(text: str) -> JudgeChoice:
    """Return the judge NAME or NAME:MODEL."""
    name, colon, model = text.partition(":")
    return JudgeChoice(name, model if colon else None)


def _check_role(role: str, judge_choice: JudgeChoice) -> None:
    """Raise OptionError if a judge does not have a role."""
    roles = load_judge(judge_choice.name).roles
    if role not in roles:
        raise OptionError(
            f"judge {judge_choice.name} does not have role {role}; its roles:"
            f" {', '.join(roles) or 'none, it extracts features'}"
        )


# ------------------------------------------------------------------------------ images and queries


def annotate_samples(
    samples: SampleSet,
    cases: Mapping[int, PromptCase],
    metadata_key: str | None,
    annotator_roles: Sequence[AnnotatorRole],
    judges: Mapping[str, JudgeChoice],
    out: Path,
    annotator_options: AnnotatorOptions,
) -> tuple[list[AnnotatedImage], dict[str, JudgeRecord]]:
    """Annotate every image whose prompt has metadata of an evaluator.

    The roles are processed in order, because a query may depend on the annotations of an earlier
    role.

    Args:
        cases: Prompt cases by sample index, also of failed samples.
        metadata_key: Key of the evaluator's metadata in a case; None: the prompt alone.
        judges: Judges by role.
        out: Parent of the judges' folders.

    Returns:
        The images with their annotations, in ascending order, and the judges' records by role.

    Raises:
        SampleError: With `is_rescored`, an annotation is missing.
        JudgeError: The judge fails on every image.
        PlanMismatchError: The folder holds annotations of another judge.
    """
    all_indices = sorted({*samples.indices, *samples.failed})
    metadata_by_index = {
        i: metadata
        for i in all_indices
        if (metadata := cases[i].metadata_for(metadata_key)) is not None
    }
    indices = list(metadata_by_index)
    annotations: dict[int, dict[str, Annotation]] = {i: {} for i in indices}
    failures = {i: reason for i, reason in samples.failed.items() if i in annotations}
    hashes = dict(zip(samples.indices, samples.hashes, strict=True))
    records: dict[str, JudgeRecord] = {}

    for annotator_role in annotator_roles:
        role = annotator_role.role
        queries = list(
            _make_queries(annotator_role, metadata_by_index, annotations, failures, hashes)
        )
        if not queries and role not in judges:
            continue  # no prompt of this suite needs the role, so the suite names no judge for it
        judge_choice = judges[role]
        folder = out / judge_choice.folder_name
        stored_annotations, record = _annotate_role(
            samples, judge_choice, role, queries, folder, annotator_options
        )
        if record is not None:
            records[role] = record

        # An image without one annotation fails, and later roles skip it.
        for query in queries:
            annotation, error = stored_annotations[query.key]
            if annotation is None:
                failures[query.sample_index] = f"{judge_choice.name}: {error}"
            else:
                annotations[query.sample_index][role] = annotation

    images = [
        _annotated_image(i, cases[i], metadata, annotations[i], failures.get(i))
        for i, metadata in metadata_by_index.items()
    ]
    return images, records


def _annotated_image(
    index: int,
    case: PromptCase,
    metadata: Metadata,
    annotations: dict[str, Annotation],
    failure: str | None,
) -> AnnotatedImage:
    return AnnotatedImage(
        index, case.prompt_index, case.copy, case.prompt, metadata, annotations, failure
    )


def _make_queries(
    annotator_role: AnnotatorRole,
    metadata_by_index: Mapping[int, Metadata],
    annotations: Mapping[int, Mapping[str, Annotation]],
    failures: Mapping[int, str],
    hashes: Mapping[int, str],
) -> Iterator[ImageQuery]:
    """Yield the queries of one role; skip failed images and images that need no query.

    Args:
        annotator_role: A kind of query (`role`), and how the evaluator makes it.
        metadata_by_index: What the evaluator reads of each prompt, by sample index.
        annotations: Annotations of earlier roles, by sample index and role.
        failures, hashes: Reasons of failures and sha256 of images, by sample index.
    """
    for position, (i, metadata) in enumerate(metadata_by_index.items()):
        if i in failures:
            continue
        query = annotator_role.make_query(metadata, annotations[i])
        if query is not None:
            key = query_key(annotator_role.role, hashes[i], query)
            yield ImageQuery(position, i, hashes[i], query, key)


def query_key(role: str, image_sha256: str, query: Query) -> str:
    """Return the key of a query in annotations.jsonl: the hex sha256 of role, image and query."""
    return hashlib.sha256(f"{role}\n{image_sha256}\n{query.to_json()}".encode()).hexdigest()


def _annotate_role(
    samples: SampleSet,
    judge_choice: JudgeChoice,
    role: str,
    queries: Sequence[ImageQuery],
    folder: Path,
    annotator_options: AnnotatorOptions,
) -> tuple[dict[str, StoredAnnotation], JudgeRecord | None]:
    """Return the annotations of one role by key, and the judge's record; None without a query.

    Stored annotations are reused. Missing and failed ones are made, unless the run is rescored.
    """
    _check_recorded_hashes(folder)
    if not queries:
        return {}, None
    read_judge_record(folder)  # raises an error for a folder of another format version
    stored_annotations = read_annotations(folder, role, queries)

    if annotator_options.is_rescored:
        _check_all_stored(queries, stored_annotations, judge_choice, folder)
    else:
        incomplete_queries = _incomplete_queries(queries, stored_annotations)
        if incomplete_queries:
            has_stored_annotation = any(a.annotation for a in stored_annotations.values())
            _annotate_queries(
                samples,
                judge_choice,
                role,
                incomplete_queries,
                folder,
                annotator_options,
                has_stored_annotation,
            )
            stored_annotations = read_annotations(folder, role, queries)
        else:
            _check_same_judge(judge_choice, folder)
        _record_hashes(folder, has_written=bool(incomplete_queries))

    record = read_judge_record(folder)
    if record is not None and record.name != judge_choice.name:
        raise PlanMismatchError(
            f"{folder / JUDGE_FILE} is of judge {record.name}, not of {judge_choice.name}; copy the"
            f" annotations of {judge_choice.name} there"
        )
    return stored_annotations, record


def _incomplete_queries(
    queries: Sequence[ImageQuery], stored_annotations: Mapping[str, StoredAnnotation]
) -> list[ImageQuery]:
    """Return the queries whose annotation is missing or failed."""
    return [
        query
        for query in queries
        if query.key not in stored_annotations or stored_annotations[query.key].annotation is None
    ]


def _check_all_stored(
    queries: Sequence[ImageQuery],
    stored_annotations: Mapping[str, StoredAnnotation],
    judge_choice: JudgeChoice,
    folder: Path,
) -> None:
    """Raise SampleError if the folder has neither an annotation nor an error for a query."""
    n_missing = sum(query.key not in stored_annotations for query in queries)
    if n_missing:
        raise SampleError(
            f"{folder} lacks annotations of {judge_choice.name} for {n_missing:,} images; run eval"
            " without --rescore once"
        )


def _annotate_queries(
    samples: SampleSet,
    judge_choice: JudgeChoice,
    role: str,
    queries: Sequence[ImageQuery],
    folder: Path,
    annotator_options: AnnotatorOptions,
    has_stored_annotation: bool,
) -> None:
    """Have a judge answer queries, in this process or in another Python."""
    annotator_plugin = judge_choice.annotator
    # Another Python may write the files; `_record_hashes` records them afterwards.
    checksums.drop_hashes(folder, HASHED_FILES)
    if annotator_plugin.runner is not None:
        _annotate_externally(
            samples, judge_choice, annotator_plugin.runner, role, queries, folder, annotator_options
        )
        return
    claim_judge_folder(folder, judge_record(judge_choice.name, judge_choice.model))
    _annotate_in_this_process(
        samples,
        judge_choice,
        annotator_plugin,
        role,
        queries,
        folder,
        annotator_options.device,
        has_stored_annotation,
    )


# ------------------------------------------------------------------------------ the judge's folder


def _check_recorded_hashes(folder: Path) -> None:
    """Raise StorageError if the annotations or the judge's record differ from their hash."""
    if not folder.is_dir():
        return
    for name in (ANNOTATIONS_FILE, JUDGE_FILE):
        if not _is_altered(folder, name):
            continue
        # Another process may have written an annotation, but not its hash yet: look again, locked.
        with suppress(DiskError), _folder_lock(folder):
            if not _is_altered(folder, name):
                continue
        raise StorageError(
            f"{folder / name} differs from its hash in {checksums.CHECKSUMS_FILE}; restore the"
            " file, or delete the folder to annotate again"
        )


def _is_altered(folder: Path, name: str) -> bool:
    return checksums.has_checksums(folder) and checksums.file_state(folder, name) == "altered"


def _record_hashes(folder: Path, has_written: bool) -> None:
    """Record the hashes of the folder's files.

    A hash that is recorded already is kept, unless this process has written the files.
    """
    with _folder_lock(folder):
        recorded_hashes = {} if has_written else checksums.read_checksums(folder)
        unrecorded_files = [
            name
            for name in HASHED_FILES
            if name not in recorded_hashes and (folder / name).is_file()
        ]
        checksums.record_file_hashes(folder, unrecorded_files)


def _append_annotation(folder: Path, line: Mapping[str, object]) -> None:
    """Append a line to the annotations.

    A hash of the file that another process has recorded meanwhile is dropped first.
    """
    with _folder_lock(folder):
        if ANNOTATIONS_FILE in checksums.read_checksums(folder):
            checksums.drop_hashes(folder, [ANNOTATIONS_FILE])
        append_line(folder / ANNOTATIONS_FILE, json.dumps(line, sort_keys=True, allow_nan=False))


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Lock a judge's folder, so that nothing is appended between hashing and recording the hash."""
    with convert_os_errors(folder), FileLock(make_folder(folder) / f".{JUDGE_FILE}.lock"):
        yield


def _check_same_judge(judge_choice: JudgeChoice, folder: Path) -> None:
    """Raise PlanMismatchError if the installed judge differs from the one that annotated.

    An external judge, and one whose weights are missing, cannot be compared.
    """
    if judge_choice.judge.runner is not None:
        return
    try:
        record = judge_record(judge_choice.name, judge_choice.model)
    except MissingAssetError:
        return
    claim_judge_folder(folder, record)


def read_judge_record(folder: Path) -> JudgeRecord | None:
    """Return the record of the judge whose annotations a folder holds; None for a new folder.

    Raises:
        PlanMismatchError: The record cannot be read.
        FormatError: Another version of this package wrote it.
    """
    path = folder / JUDGE_FILE
    data = read_if_present(path)
    if data is None:
        return None
    try:
        return JudgeRecord.model_validate(parse_versioned_json("annotations", data, path))
    except (StorageError, ValueError) as error:
        if isinstance(error, ValidationError):
            reason = validation_summary(error)
        else:
            reason = first_line(error)
        raise PlanMismatchError(
            f"{path} is not the record of a judge ({reason}); delete {folder} and run eval again"
        ) from error


def claim_judge_folder(folder: Path, record: JudgeRecord) -> None:
    """Write the judge's record to a new folder, or compare it with the record there.

    Raises:
        PlanMismatchError: The folder is of another judge; names the first field that differs.
    """
    stored_record = read_judge_record(folder) or _write_judge_record(folder, record)
    if stored_record != record:
        stored_fields = stored_record.model_dump()
        fields = record.model_dump()
        name = next(name for name in fields if stored_fields[name] != fields[name])
        raise PlanMismatchError(
            f"{folder} has annotations of another judge: {name} is {stored_fields[name]!s:.40}"
            f" there and {fields[name]!s:.40} now; delete the folder or give another --out"
        )
    drop_partial_line(folder / ANNOTATIONS_FILE)


def _write_judge_record(folder: Path, record: JudgeRecord) -> JudgeRecord:
    """Write a judge's record unless another process has; return the record in the folder."""
    with _folder_lock(folder):
        stored_record = read_judge_record(folder)
        if stored_record is not None:
            return stored_record
        text = versioned_json_text("annotations", record.model_dump(mode="json"))
        write_text(folder / JUDGE_FILE, text)
        return record


def read_annotations(
    folder: Path, role: str, queries: Sequence[ImageQuery]
) -> dict[str, StoredAnnotation]:
    """Return the stored annotations of these queries, by key.

    Of several lines with one key, an annotation precedes an error, and a later line an earlier
    one. An annotation that does not match its query becomes an error.
    """
    queries_by_key = {query.key: query.query for query in queries}
    stored_annotations: dict[str, StoredAnnotation] = {}
    for line in read_lines(folder / ANNOTATIONS_FILE):
        key = line.get("key")
        if not isinstance(key, str) or key not in queries_by_key:
            continue
        if "annotation" in line:
            stored_annotations[key] = _parse_annotation(
                role, queries_by_key[key], line["annotation"]
            )
        elif key not in stored_annotations or stored_annotations[key].annotation is None:
            error = str(line.get("error", "no annotation"))
            stored_annotations[key] = StoredAnnotation(annotation=None, error=error)
    return stored_annotations


def _parse_annotation(role: str, query: Query, value: object) -> StoredAnnotation:
    """Return a stored value as an annotation; an error if it is invalid or incomplete."""
    try:
        annotation = ANNOTATION_TYPES[role].model_validate(value)
    except ValidationError as error:
        return StoredAnnotation(
            annotation=None, error=f"its annotation is invalid ({validation_summary(error)})"
        )
    if not is_complete_annotation(query, annotation):
        return StoredAnnotation(
            annotation=None, error="its annotation does not answer every part of the query"
        )
    return StoredAnnotation(annotation, error=None)


# --------------------------------------------------------------------------------------- annotation


def _annotate_in_this_process(
    samples: SampleSet,
    judge_choice: JudgeChoice,
    annotator_plugin: Annotator,
    role: str,
    queries: Sequence[ImageQuery],
    folder: Path,
    device: str,
    has_stored_annotation: bool,
) -> None:
    """Annotate with this Python, here or in workers; write each annotation when it is there.

    Annotations of parts (`eval --shard`) are taken instead. If this process annotates, the lines
    are in the order of the queries.

    Args:
        annotator_plugin: The annotator, whose weights are loaded where it annotates.
        folder: The judge's folder, to which the annotations are appended.
        has_stored_annotation: The folder has an annotation of this judge already.

    Raises:
        JudgeError: The judge fails on each of the first `MAX_FIRST_FAILURES` images.
    """
    part_lines = _lines_of_parts(folder, role, queries)
    new_positions = [k for k, query in enumerate(queries) if query.key not in part_lines]
    has_succeeded = has_stored_annotation or bool(part_lines)
    n_failures = 0
    n_passed = 0  # queries before which all lines of parts are written
    config = {
        "judge_choice": judge_choice,
        "annotator_plugin": annotator_plugin,
        "role": role,
        "samples": samples,
        "device": device,
    }
    title = f"annotate {judge_choice.name} on {device}"
    with Progress(title, len(queries), "image", initial=len(part_lines)) as progress:
        for k, line in _lines_of_workers(Task("annotate", config, device), queries, new_positions):
            _append_lines(folder, queries[n_passed:k], part_lines)
            n_passed = max(n_passed, k)
            _append_annotation(folder, line)
            progress.advance()
            if "error" not in line:
                has_succeeded = True
                continue
            n_failures += 1
            if n_failures == MAX_FIRST_FAILURES and not has_succeeded:
                raise JudgeError(
                    f"{judge_choice.name} failed on each of its first {MAX_FIRST_FAILURES} images"
                    f" ({line['error']}); fix the cause and run again"
                )
        _append_lines(folder, queries[n_passed:], part_lines)


def _lines_of_workers(
    task: Task, queries: Sequence[ImageQuery], positions: Sequence[int]
) -> Iterator[tuple[int, JsonObject]]:
    """Yield the position and the line for annotations.jsonl of the queries at these positions."""
    if not positions:
        return
    units = [queries[k] for k in positions]
    names = [f"image {query.sample_index}" for query in units]
    for i, line in run_units(task, units, names, QUERIES_PER_PART):
        yield positions[i], line


class AnnotationWorker:
    """Annotates images with a judge of this Python; a worker of `run_units`."""

    def __init__(
        self,
        judge_choice: JudgeChoice,
        annotator_plugin: Annotator,
        role: str,
        samples: SampleSet,
        device: str,
    ) -> None:
        """Load the annotator."""
        self._role = role
        self._samples = samples
        self._annotator = open_judge(judge_choice.name, annotator_plugin, device)

    def results(self, units: Iterable[ImageQuery]) -> Iterator[JsonObject]:
        """Yield the line for annotations.jsonl of each query."""
        return annotation_lines(self._annotator, self._role, self._samples, list(units))

    def pack(self, result: JsonObject) -> JsonObject:
        """Return the line: it travels as it is."""
        return result


def _lines_of_parts(
    folder: Path, role: str, queries: Sequence[ImageQuery]
) -> dict[str, JsonObject]:
    """Return the lines with an annotation that parts of the run have written, by key.

    Raises:
        PlanMismatchError: A part has annotations of another judge.
    """
    lines: dict[str, JsonObject] = {}
    for part_folder in _folders_in_parts(folder):
        record = read_judge_record(part_folder)
        if record is None:
            continue
        claim_judge_folder(folder, record)
        stored_annotations = read_annotations(part_folder, role, queries)
        for line in read_lines(part_folder / ANNOTATIONS_FILE):
            stored_annotation = stored_annotations.get(str(line.get("key")))
            if stored_annotation is not None and stored_annotation.annotation is not None:
                lines[str(line["key"])] = line
    return lines


def _folders_in_parts(folder: Path) -> list[Path]:
    """Return the folders of a judge in the parts of a run.

    Args:
        folder: The judge's folder in the whole run: RUN/annotations/JUDGE.
    """
    relative_folder = Path(*folder.parts[-2:])
    paths = [path / relative_folder for path in part_folders(folder.parent.parent)]
    return [path for path in paths if path.is_dir()]


def remove_annotations_of_parts(out: Path, judges: Iterable[JudgeChoice]) -> None:
    """Remove the annotations of parts, once those of the whole run are written.

    Args:
        out: Parent of the judges' folders: RUN/annotations.
    """
    for judge_choice in judges:
        for path in _folders_in_parts(out / judge_choice.folder_name):
            shutil.rmtree(path, ignore_errors=True)
    remove_empty_parts(out.parent)


def _append_lines(
    folder: Path, queries: Sequence[ImageQuery], lines: Mapping[str, JsonObject]
) -> None:
    """Append the lines of those queries that have one."""
    for query in queries:
        if query.key in lines:
            _append_annotation(folder, lines[query.key])


def annotation_lines(
    loaded_annotator: LoadedAnnotator,
    role: str,
    samples: SampleSet,
    queries: Sequence[ImageQuery],
) -> Iterator[JsonObject]:
    """Yield the line for annotations.jsonl of each query, with an error if its image fails.

    Threads read and decode the next images while the judge annotates. Queries about one image that
    follow each other decode it once. Nothing is written, so any process can annotate a part.
    """
    groups = [(i, list(group)) for i, group in groupby(queries, lambda q: q.sample_index)]
    images = _read_images(samples, [index for index, _ in groups])
    for (_, image_queries), image in zip(groups, images, strict=True):
        for query in image_queries:
            yield _annotation_line(loaded_annotator, role, image, query)


def _read_images(samples: SampleSet, indices: Sequence[int]) -> Iterator[np.ndarray | Exception]:
    """Yield the images (H, W, 3) uint8 of these indices, or the error of one."""

    def read(index: int) -> np.ndarray | Exception:
        try:
            return samples.image(index)
        except IMAGE_ERRORS as error:
            return error

    n_waiting = IMAGES_AHEAD if samples.files is not None else 0
    return map_in_threads(read, indices, n_waiting)


def _annotation_line(
    loaded_annotator: LoadedAnnotator, role: str, image: np.ndarray | Exception, query: ImageQuery
) -> JsonObject:
    """Annotate one image; return the line for annotations.jsonl, with an error if it fails."""
    line: JsonObject = {"key": query.key, "index": query.sample_index}
    try:
        if isinstance(image, Exception):
            raise image
        # A copy, because an annotator may change the image and another query may follow.
        annotation = loaded_annotator.annotate(role, np.array(image), query.query)
        line["annotation"] = annotation.model_dump(mode="json", exclude_none=True)
    except IMAGE_ERRORS as error:
        if is_memory_error(error):
            raise  # of the device, not of the image; the executor names the image
        line["error"] = f"{type(error).__name__}: {first_line(error)}"
    return line


def _annotate_externally(
    samples: SampleSet,
    judge_choice: JudgeChoice,
    runner: Path,
    role: str,
    queries: Sequence[ImageQuery],
    folder: Path,
    annotator_options: AnnotatorOptions,
) -> None:
    """Write the queries and have a script in another Python answer them.

    Args:
        runner: The judge's script.

    Raises:
        PendingAnswersError: No Python interpreter is given; the error names the command to run.
        JudgeError: The script fails or does not write its record.
    """
    drop_partial_line(folder / ANNOTATIONS_FILE)
    part_lines = _lines_of_parts(folder, role, queries)
    _append_lines(folder, queries, part_lines)
    queries = [query for query in queries if query.key not in part_lines]
    lines = _readable_query_lines(samples, role, queries, folder)
    write_text(
        folder / QUERIES_FILE, "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    )
    if not lines:
        return
    if annotator_options.python is None:
        raise PendingAnswersError(
            f"{judge_choice.name} runs in another Python; {len(lines):,} queries are in"
            f" {folder / QUERIES_FILE}: give --judge-python, or run PYTHON {runner} --folder"
            f" {folder} and eval again"
        )

    runner_options = {"device": annotator_options.device, **annotator_options.runner_options}
    if current_executor().n_workers > 1:
        python = annotator_options.python
        _annotate_in_folders(judge_choice, runner, python, runner_options, lines, folder)
        return
    external_annotator.run_annotator(annotator_options.python, runner, folder, runner_options)
    if read_judge_record(folder) is None:
        raise JudgeError(
            f"{runner.name} did not write {folder / JUDGE_FILE}; use the script of this package"
        )


def _annotate_in_folders(
    judge_choice: JudgeChoice,
    runner: Path,
    python: Path,
    runner_options: Mapping[str, str],
    lines: Sequence[JsonObject],
    folder: Path,
) -> None:
    """Have workers run the script, each part in a temporary folder; append what comes back."""
    config = {"runner": runner, "python": python, "runner_options": runner_options}
    task = Task("annotate-externally", config, runner_options["device"])
    units = [{**line, "image": str((folder / line["image"]).resolve())} for line in lines]
    names = [f"image {line['index']}" for line in lines]
    with Progress(f"annotate {judge_choice.name}", len(lines), "image") as progress:
        for _, (line, record) in run_units(task, units, names, EXTERNAL_QUERIES_PER_PART):
            claim_judge_folder(folder, record)
            _append_annotation(folder, line)
            progress.advance()


class ExternalAnnotationWorker:
    """Answers queries with a script in another Python; a worker of `run_units`."""

    def __init__(self, runner: Path, python: Path, runner_options: Mapping[str, str]) -> None:
        """Keep how the script is run."""
        self._runner = runner
        self._python = python
        self._runner_options = runner_options

    def results(self, units: Iterable[JsonObject]) -> Iterator[tuple[JsonObject, JudgeRecord]]:
        """Yield the line of each query for annotations.jsonl, with the judge's record."""
        lines = list(units)
        with TemporaryDirectory(prefix="harope-bench-") as name:
            folder = Path(name)
            text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
            write_text(folder / QUERIES_FILE, text)
            external_annotator.run_annotator(
                self._python, self._runner, folder, self._runner_options
            )
            record = read_judge_record(folder)
            assert record is not None  # `run_annotator` has checked it
            answers = read_lines_by_field(folder / ANNOTATIONS_FILE, "key", str)
            for line in lines:
                yield answers[line["key"]], record

    def pack(self, result: tuple[JsonObject, JudgeRecord]) -> tuple[JsonObject, JudgeRecord]:
        """Return the line and the record: they travel as they are."""
        return result


def _readable_query_lines(
    samples: SampleSet, role: str, queries: Sequence[ImageQuery], folder: Path
) -> list[JsonObject]:
    """Return the lines for queries.jsonl; write an error for each image that cannot be read."""
    lines = []
    for query in queries:
        try:
            lines.append(_query_line(samples, role, query, folder))
        except SampleError as error:
            error_line = {
                "key": query.key,
                "index": query.sample_index,
                "error": first_line(error),
            }
            _append_annotation(folder, error_line)
    return lines


def _query_line(samples: SampleSet, role: str, query: ImageQuery, folder: Path) -> JsonObject:
    """Return a line of queries.jsonl, with the path of the image relative to the folder.

    An image that has no file of its own (from an .npz, cropped, or cut from a tiled file) is
    written below the folder.
    """
    index = query.sample_index
    samples.check_image(index)
    path = samples.files.get(index) if samples.files is not None else None
    is_part_of_file = samples.crop_side is not None or index in (samples.boxes or {})
    if path is None or is_part_of_file:
        path = folder / "images" / f"{index:06d}.png"
        write_bytes(path, encode_png(samples.image(index)))
    return {
        "key": query.key,
        "index": index,
        "role": role,
        "image": os.path.relpath(path.resolve(), folder.resolve()),
        "sha256": sha256_file(path),
        "query": query.query.model_dump(mode="json", exclude_none=True),
    }
