"""The folder of an annotator: its record, its annotations, and their hashes.

A folder holds three files. judge.json is the record of the judge. annotations.jsonl has one line
for each query: `key`, `index`, and `annotation` or `error`. queries.jsonl has the queries for a
judge that runs in another Python.

The key is the sha256 of role, image and query. So a stored annotation is reused after an
interruption, in a longer run, and by another evaluator.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

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
    DiskError,
    MissingAssetError,
    PlanMismatchError,
    StorageError,
)
from harope_bench.core.formats import parse_versioned_json, versioned_json_text
from harope_bench.core.json_file import JsonObject
from harope_bench.core.json_lines import append_line, drop_partial_line, read_lines
from harope_bench.core.record_base import validation_summary
from harope_bench.core.schema import JudgeRecord
from harope_bench.core.storage import (
    convert_os_errors,
    first_line,
    make_folder,
    read_if_present,
    write_text,
)
from harope_bench.data.run_claim import folders_in_parts, remove_empty_parts
from harope_bench.judges.base import JudgeChoice, judge_record
from harope_bench.pipeline.external_annotator import ANNOTATIONS_FILE, JUDGE_FILE, QUERIES_FILE

HASHED_FILES = (ANNOTATIONS_FILE, QUERIES_FILE, JUDGE_FILE)


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


def query_key(role: str, image_sha256: str, query: Query) -> str:
    """Return the key of a query in annotations.jsonl: the hex sha256 of role, image and query."""
    return hashlib.sha256(f"{role}\n{image_sha256}\n{query.to_json()}".encode()).hexdigest()


def check_folder_hashes(folder: Path) -> None:
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


def record_folder_hashes(folder: Path, has_written: bool) -> None:
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


def append_annotation(folder: Path, line: Mapping[str, object]) -> None:
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


def check_same_judge(judge_choice: JudgeChoice, folder: Path) -> None:
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
        advice = "delete the folder or give another --out"
        raise _other_judge_error(folder, stored_record, record, advice)
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
            stored_annotations[key] = parse_annotation(
                role, queries_by_key[key], line["annotation"]
            )
        elif key not in stored_annotations or stored_annotations[key].annotation is None:
            error = str(line.get("error", "no annotation"))
            stored_annotations[key] = StoredAnnotation(annotation=None, error=error)
    return stored_annotations


def read_keys(folder: Path) -> set[str]:
    """Return the keys of all queries that have an annotation or an error."""
    keys = (line.get("key") for line in read_lines(folder / ANNOTATIONS_FILE))
    return {key for key in keys if isinstance(key, str)}


def parse_annotation(role: str, query: Query, value: object) -> StoredAnnotation:
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


def lines_of_parts(folder: Path, role: str, queries: Sequence[ImageQuery]) -> dict[str, JsonObject]:
    """Return the lines with an annotation that parts of the run have written, by key.

    Raises:
        PlanMismatchError: A part has annotations of another judge.
        StorageError: They differ from their recorded hash.
    """
    lines: dict[str, JsonObject] = {}
    for part_folder in _judge_folders_in_parts(folder):
        stored_annotations = read_annotations(part_folder, role, queries)
        for line in _annotated_lines(part_folder):
            stored_annotation = stored_annotations.get(str(line.get("key")))
            if stored_annotation is not None and stored_annotation.annotation is not None:
                lines[str(line["key"])] = line
    return lines


def has_annotations_in_parts(folder: Path) -> bool:
    """Return whether a part of the run has a folder of a judge.

    Args:
        folder: The judge's folder in the whole run: RUN/annotations/JUDGE.
    """
    return bool(folders_in_parts(folder.parent.parent, *folder.parts[-2:]))


def _annotated_lines(folder: Path) -> Iterator[JsonObject]:
    """Yield the lines of a folder that have an annotation and can be written again.

    JSON has no NaN. A query whose line has one is asked again.
    """
    for line in read_lines(folder / ANNOTATIONS_FILE):
        if "annotation" in line and "key" in line:
            with suppress(ValueError):
                json.dumps(line, allow_nan=False)
                yield line


def _judge_folders_in_parts(folder: Path) -> list[Path]:
    """Return the folders of a judge in the parts of a run, after a check of record and hashes.

    Args:
        folder: The judge's folder in the whole run: RUN/annotations/JUDGE.
    """
    judge_folders = []
    for part_folder in folders_in_parts(folder.parent.parent, *folder.parts[-2:]):
        record = read_judge_record(part_folder)
        if record is None:
            continue
        check_folder_hashes(part_folder)
        run_record = read_judge_record(folder) or _write_judge_record(folder, record)
        if record != run_record:
            raise _other_judge_error(part_folder, record, run_record, "delete that folder")
        judge_folders.append(part_folder)
    return judge_folders


def _other_judge_error(
    folder: Path, stored_record: JudgeRecord, record: JudgeRecord, advice: str
) -> PlanMismatchError:
    """Return the error that a folder is of another judge; it names the first field that differs."""
    stored_fields = stored_record.model_dump()
    fields = record.model_dump()
    name = next(name for name in fields if stored_fields[name] != fields[name])
    return PlanMismatchError(
        f"{folder} has annotations of another judge: {name} is {stored_fields[name]!s:.40} there"
        f" and {fields[name]!s:.40} now",
        advice=advice,
    )


def take_annotations_of_parts(out: Path, judges: Iterable[JudgeChoice]) -> None:
    """Take all annotations of parts into the run, and remove them from the parts.

    These may answer queries of evaluators or images that this call does not score.

    Args:
        out: Parent of the judges' folders: RUN/annotations.
    """
    for name in dict.fromkeys(judge_choice.folder_name for judge_choice in judges):
        folder = out / name
        part_folders = _judge_folders_in_parts(folder)
        lines = {
            str(line["key"]): line
            for part_folder in part_folders
            for line in _annotated_lines(part_folder)
        }
        stored_lines = read_lines(folder / ANNOTATIONS_FILE)
        known_keys = {line.get("key") for line in stored_lines if "annotation" in line}
        new_lines = [line for key, line in lines.items() if key not in known_keys]
        for line in new_lines:
            append_annotation(folder, line)
        if new_lines:
            record_folder_hashes(folder, has_written=True)
        # Also those without a record of the judge: their queries are answered now.
        for part_folder in folders_in_parts(folder.parent.parent, *folder.parts[-2:]):
            shutil.rmtree(part_folder, ignore_errors=True)
    remove_empty_parts(out.parent)


def read_annotations_elsewhere(
    folders: Iterable[Path], record: JudgeRecord | None, role: str, queries: Sequence[ImageQuery]
) -> dict[str, StoredAnnotation]:
    """Return what the same judge has annotated in other folders, by key, without errors.

    Args:
        record: Of the judge; None for one in another Python, whose record is not known before.
    """
    annotations: dict[str, StoredAnnotation] = {}
    for folder in folders:
        stored_record = read_judge_record(folder)
        if stored_record is None or record not in (None, stored_record):
            continue
        check_folder_hashes(folder)
        annotations |= {
            key: stored_annotation
            for key, stored_annotation in read_annotations(folder, role, queries).items()
            if stored_annotation.annotation is not None
        }
    return annotations


def append_lines(
    folder: Path, queries: Sequence[ImageQuery], lines: Mapping[str, JsonObject]
) -> None:
    """Append the lines of those queries that have one."""
    for query in queries:
        if query.key in lines:
            append_annotation(folder, lines[query.key])
