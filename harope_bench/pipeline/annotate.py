"""From samples to annotations: an annotator answers a query about each image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from harope_bench.core import checksums
from harope_bench.core.annotations import Annotation
from harope_bench.core.errors import PlanMismatchError, SampleError
from harope_bench.core.schema import JudgeRecord
from harope_bench.data.sample_set import SampleSet
from harope_bench.evaluators.base import AnnotatedImage, AnnotatorRole, Metadata
from harope_bench.judges.base import JudgeChoice, judge_record
from harope_bench.pipeline.annotate_externally import annotate_externally
from harope_bench.pipeline.annotation_folder import (
    HASHED_FILES,
    ImageQuery,
    StoredAnnotation,
    check_folder_hashes,
    check_same_judge,
    claim_judge_folder,
    read_annotations,
    read_annotations_elsewhere,
    read_judge_record,
    record_folder_hashes,
)
from harope_bench.pipeline.annotation_worker import NextRole, RoleQueries, annotate_in_workers
from harope_bench.pipeline.annotator_choice import AnnotatorOptions
from harope_bench.pipeline.external_annotator import JUDGE_FILE
from harope_bench.pipeline.role_queries import (
    ImagesSoFar,
    find_next_role,
    make_queries,
    select_incomplete,
)
from harope_bench.suites.base import PromptCase


def annotate_samples(
    samples: SampleSet,
    cases: Mapping[int, PromptCase],
    metadata_key: str | None,
    annotator_roles: Sequence[AnnotatorRole],
    judges: Mapping[str, JudgeChoice],
    out: Path,
    annotator_options: AnnotatorOptions,
    other_folders: Sequence[Path] = (),
) -> tuple[list[AnnotatedImage], dict[str, JudgeRecord]]:
    """Annotate every image whose prompt has metadata of an evaluator.

    The roles are processed in order, because a query may depend on the annotations of an earlier
    role.

    Args:
        cases: Prompt cases by sample index, also of failed samples.
        metadata_key: Key of the evaluator's metadata in a case; None: the prompt alone.
        judges: Judges by role.
        out: Parent of the judges' folders.
        other_folders: Further such parents, whose annotations are used and stay where they are.

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

    for position, annotator_role in enumerate(annotator_roles):
        role = annotator_role.role
        state = ImagesSoFar(metadata_by_index, annotations, failures, hashes)
        queries = make_queries(annotator_role, state)
        if not queries and role not in judges:
            continue  # no prompt of this suite needs the role, so the suite names no judge for it
        judge_choice = judges[role]
        folder = out / judge_choice.folder_name
        find_next = partial(find_next_role, annotator_roles, position, judges, out, queries, state)
        stored_annotations, record = _annotate_role(
            samples,
            judge_choice,
            role,
            queries,
            folder,
            annotator_options,
            find_next,
            [path / judge_choice.folder_name for path in other_folders],
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


def _annotate_role(
    samples: SampleSet,
    judge_choice: JudgeChoice,
    role: str,
    queries: Sequence[ImageQuery],
    folder: Path,
    annotator_options: AnnotatorOptions,
    find_next: Callable[[], NextRole | None],
    other_folders: Sequence[Path],
) -> tuple[dict[str, StoredAnnotation], JudgeRecord | None]:
    """Return the annotations of one role by key, and the judge's record; None without a query.

    Stored annotations are reused. Missing and failed ones are made, unless the run is rescored.

    Args:
        find_next: Returns the role whose queries are answered with the same decoded images.
        other_folders: Further folders of this judge.
    """
    check_folder_hashes(folder)
    if not queries:
        return {}, None
    read_judge_record(folder)  # raises an error for a folder of another format version
    other_annotations = _annotations_elsewhere(other_folders, judge_choice, role, queries)
    stored_annotations = read_annotations(folder, role, queries) | other_annotations

    if annotator_options.is_rescored:
        _check_all_stored(queries, stored_annotations, judge_choice, folder)
    else:
        incomplete_queries = select_incomplete(queries, stored_annotations)
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
                find_next(),
            )
            stored_annotations = read_annotations(folder, role, queries) | other_annotations
        elif not other_annotations:
            check_same_judge(judge_choice, folder)
        if incomplete_queries or not other_annotations:
            record_folder_hashes(folder, has_written=bool(incomplete_queries))

    record = read_judge_record(folder)
    if record is not None and record.name != judge_choice.name:
        raise PlanMismatchError(
            f"{folder / JUDGE_FILE} is of judge {record.name}, not of {judge_choice.name}; copy the"
            f" annotations of {judge_choice.name} there"
        )
    return stored_annotations, record


def _annotations_elsewhere(
    folders: Sequence[Path], judge_choice: JudgeChoice, role: str, queries: Sequence[ImageQuery]
) -> dict[str, StoredAnnotation]:
    """Return what a judge has annotated in other folders; see `read_annotations_elsewhere`."""
    if not folders:
        return {}
    is_external = judge_choice.annotator.runner is not None
    record = None if is_external else judge_record(judge_choice.name, judge_choice.model)
    return read_annotations_elsewhere(folders, record, role, queries)


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
    next_role: NextRole | None,
) -> None:
    """Have a judge answer queries, in this process or in another Python."""
    annotator_plugin = judge_choice.annotator
    # Another Python may write the files; `record_folder_hashes` records them afterwards.
    checksums.drop_hashes(folder, HASHED_FILES)
    if annotator_plugin.runner is not None:
        annotate_externally(
            samples, judge_choice, annotator_plugin.runner, role, queries, folder, annotator_options
        )
        return
    claim_judge_folder(folder, judge_record(judge_choice.name, judge_choice.model))
    role_queries = RoleQueries(
        role, judge_choice, annotator_plugin, folder, queries, has_stored_annotation
    )
    annotate_in_workers(samples, role_queries, annotator_options.device, next_role)
