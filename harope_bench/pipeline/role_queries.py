"""The queries of the roles of an evaluator, and which two roles can share decoded images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harope_bench.core.annotations import Annotation
from harope_bench.core.errors import WeightsError
from harope_bench.evaluators.base import AnnotatorRole, Metadata
from harope_bench.judges.base import JudgeChoice, judge_record
from harope_bench.pipeline.annotation_folder import (
    ImageQuery,
    StoredAnnotation,
    check_folder_hashes,
    has_annotations_in_parts,
    query_key,
    read_annotations,
    read_judge_record,
)
from harope_bench.pipeline.annotation_worker import NextRole


class ImagesSoFar(NamedTuple):
    """What is known of the images before a role has its turn, each by sample index.

    Attributes:
        metadata: What the evaluator reads of the prompts.
        annotations: Annotations of earlier roles, by role.
        failures: Why an image failed.
        hashes: Hex sha256 of the images.
    """

    metadata: Mapping[int, Metadata]
    annotations: Mapping[int, Mapping[str, Annotation]]
    failures: Mapping[int, str]
    hashes: Mapping[int, str]


def make_queries(annotator_role: AnnotatorRole, images: ImagesSoFar) -> list[ImageQuery]:
    """Return the queries of one role; skip failed images and images that need no query.

    Args:
        annotator_role: A kind of query (`role`), and how the evaluator makes it.
    """
    queries = []
    for position, (i, metadata) in enumerate(images.metadata.items()):
        if i in images.failures:
            continue
        query = annotator_role.make_query(metadata, images.annotations[i])
        if query is not None:
            key = query_key(annotator_role.role, images.hashes[i], query)
            queries.append(ImageQuery(position, i, images.hashes[i], query, key))
    return queries


def select_incomplete(
    queries: Sequence[ImageQuery], stored_annotations: Mapping[str, StoredAnnotation]
) -> list[ImageQuery]:
    """Return the queries whose annotation is missing or failed."""
    return [
        query
        for query in queries
        if query.key not in stored_annotations or stored_annotations[query.key].annotation is None
    ]


def find_next_role(
    annotator_roles: Sequence[AnnotatorRole],
    position: int,
    judges: Mapping[str, JudgeChoice],
    out: Path,
    queries: Sequence[ImageQuery],
    images: ImagesSoFar,
) -> NextRole | None:
    """Return the role after one at a position if its queries can be answered in the same turn.

    Each image is then decoded once for both. The files of both judges get the lines, in the order,
    that they get when each role has its own turn. Both judges are in memory at once, so neither may
    be a model of the user, of any size.

    Args:
        judges: Judges by role.
        out: Parent of the judges' folders.
        queries: The queries of the role at the position.
    """
    role = annotator_roles[position].role
    if not queries or position + 1 == len(annotator_roles):
        return None
    next_role = annotator_roles[position + 1]
    if next_role.role not in judges:
        return None
    judge_choice = judges[next_role.role]
    folder = out / judges[role].folder_name
    next_folder = out / judge_choice.folder_name
    if not (_has_known_size(judges[role]) and _has_known_size(judge_choice)):
        return None
    if folder == next_folder:
        return None
    if has_annotations_in_parts(folder) or has_annotations_in_parts(next_folder):
        return None
    if not _is_same_judge(judge_choice, next_folder):
        return None

    # Each image that the next role may query is queried by this one.
    queried_indices = {query.sample_index for query in queries}
    may_be_queried = {
        i
        for i, metadata in images.metadata.items()
        if i not in images.failures and next_role.is_needed(metadata)
    }
    if not may_be_queried <= queried_indices:
        return None
    if _lacks_annotations(next_role, next_folder, role, folder, queries, images):
        return None
    return NextRole(
        next_role.role,
        judge_choice,
        judge_choice.annotator,
        next_role.make_query,
        next_folder,
        dict(images.metadata),
        {i: dict(annotations) for i, annotations in images.annotations.items()},
    )


def _has_known_size(judge_choice: JudgeChoice) -> bool:
    """Return whether a judge runs in this Python with weights of its own."""
    judge = judge_choice.judge
    return judge.runner is None and judge_choice.model is None


def _is_same_judge(judge_choice: JudgeChoice, folder: Path) -> bool:
    """Return whether a judge's folder is new or of the installed judge.

    Raises:
        StorageError: A file of the folder was altered.
    """
    check_folder_hashes(folder)
    try:
        record = judge_record(judge_choice.name, judge_choice.model)
    except WeightsError:
        return False
    return read_judge_record(folder) in (None, record)


def _lacks_annotations(
    next_role: AnnotatorRole,
    next_folder: Path,
    role: str,
    folder: Path,
    queries: Sequence[ImageQuery],
    images: ImagesSoFar,
) -> bool:
    """Return whether the next role lacks an annotation of an image that `role` has annotated."""
    stored_annotations = read_annotations(folder, role, queries)
    annotations = {
        query.sample_index: {**images.annotations[query.sample_index], role: annotation}
        for query in queries
        if query.key in stored_annotations
        and (annotation := stored_annotations[query.key].annotation) is not None
    }
    metadata = {i: images.metadata[i] for i in images.metadata if i in annotations}
    next_queries = make_queries(
        next_role, images._replace(metadata=metadata, annotations=annotations)
    )
    stored_next = read_annotations(next_folder, next_role.role, next_queries)
    return bool(select_incomplete(next_queries, stored_next))
