"""Annotation with judges of this Python, in this process or in workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harope_bench.core.annotations import Annotation, Query
from harope_bench.core.device import free_memory
from harope_bench.core.errors import BenchError, JudgeError
from harope_bench.core.json_file import JsonObject
from harope_bench.core.progress import Progress
from harope_bench.core.storage import first_line
from harope_bench.core.threaded_work import map_in_threads, thread_count
from harope_bench.data.sample_set import SampleSet
from harope_bench.evaluators.base import Annotations, Metadata
from harope_bench.judges.base import (
    Annotator,
    JudgeChoice,
    LoadedAnnotator,
    judge_record,
    open_judge,
)
from harope_bench.pipeline.annotation_folder import (
    ImageQuery,
    append_annotation,
    append_lines,
    claim_judge_folder,
    lines_of_parts,
    parse_annotation,
    query_key,
    read_keys,
)
from harope_bench.pipeline.workers import Task, is_memory_error, run_units

# After so many failures and no success, the judge and not the image is the cause.
MAX_FIRST_FAILURES = 5
QUERIES_PER_PART = 32  # that another process answers in one go
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


class RoleQueries(NamedTuple):
    """The queries of one role, and the judge that answers them.

    Attributes:
        plugin: The judge, whose weights are loaded where it annotates.
        folder: The judge's folder, to which the annotations are appended.
        has_stored_annotation: The folder has an annotation of this judge already.
    """

    role: str
    judge_choice: JudgeChoice
    plugin: Annotator
    folder: Path
    queries: Sequence[ImageQuery]
    has_stored_annotation: bool


class NextRole(NamedTuple):
    """The role that is asked of the same images next, while they are decoded.

    Attributes:
        plugin: The judge, whose weights are loaded where it annotates.
        make_query: Returns the query for an image from the metadata of its prompt and the
            annotations so far; None if there is nothing to annotate.
        folder: The judge's folder.
        metadata, annotations: Of each image, by sample index; without the role before.
    """

    role: str
    judge_choice: JudgeChoice
    plugin: Annotator
    make_query: Callable[[Metadata, Annotations], Query | None]
    folder: Path
    metadata: dict[int, Metadata]
    annotations: dict[int, dict[str, Annotation]]


class AnnotationUnit(NamedTuple):
    """One query for a worker, and what the query of the next role is made from."""

    query: ImageQuery
    metadata: Metadata
    annotations: Annotations


class UnitLines(NamedTuple):
    """The lines for annotations.jsonl of a query, and of the next role's query if there is one."""

    line: JsonObject
    next_line: JsonObject | None


def annotate_in_workers(
    samples: SampleSet, role_queries: RoleQueries, device: str, next_role: NextRole | None = None
) -> None:
    """Annotate with this Python, here or in workers; write each annotation when it is there.

    Annotations of parts (`eval --shard`) are taken instead. If this process annotates, the lines
    are in the order of the queries.

    Args:
        next_role: The role whose queries are answered with the images that are decoded for this
            one. Its annotations are written too; those that fail are left to its own turn.

    Raises:
        JudgeError: The judge fails on each of the first `MAX_FIRST_FAILURES` images.
    """
    judge_choice = role_queries.judge_choice
    folder = role_queries.folder
    queries = role_queries.queries
    part_lines = lines_of_parts(folder, role_queries.role, queries)
    new_positions = [k for k, query in enumerate(queries) if query.key not in part_lines]
    has_succeeded = role_queries.has_stored_annotation or bool(part_lines)
    n_failures = 0
    n_passed = 0  # queries before which all lines of parts are written
    next_lines = _NextLines(next_role)
    title = f"annotate {judge_choice.name} on {device}"
    with Progress(title, len(queries), "image", initial=len(part_lines)) as progress:
        for k, lines in _lines_of_workers(samples, role_queries, new_positions, device, next_role):
            # The next role's line comes first: an interruption between the two does not change the
            # order of its file.
            next_lines.append(lines.next_line)
            append_lines(folder, queries[n_passed:k], part_lines)
            n_passed = max(n_passed, k)
            append_annotation(folder, lines.line)
            progress.advance()
            if "error" not in lines.line:
                has_succeeded = True
                continue
            n_failures += 1
            if n_failures == MAX_FIRST_FAILURES and not has_succeeded:
                raise JudgeError(
                    f"{judge_choice.name} failed on each of its first {MAX_FIRST_FAILURES} images"
                    f" ({lines.line['error']}); fix the cause and run again"
                )
        append_lines(folder, queries[n_passed:], part_lines)


class _NextLines:
    """Writes the lines of the next role that its folder does not have."""

    def __init__(self, next_role: NextRole | None) -> None:
        self._next_role = next_role
        self._known_keys = set() if next_role is None else read_keys(next_role.folder)
        self._has_claimed = False

    def append(self, line: JsonObject | None) -> None:
        """Append a line; nothing for None."""
        if line is None or self._next_role is None or line["key"] in self._known_keys:
            return
        if not self._has_claimed:
            judge_choice = self._next_role.judge_choice
            record = judge_record(judge_choice.name, judge_choice.model)
            claim_judge_folder(self._next_role.folder, record)
            self._has_claimed = True
        append_annotation(self._next_role.folder, line)


def _lines_of_workers(
    samples: SampleSet,
    role_queries: RoleQueries,
    positions: Sequence[int],
    device: str,
    next_role: NextRole | None,
) -> Iterator[tuple[int, UnitLines]]:
    """Yield the position and the lines of the queries at these positions."""
    if not positions:
        return
    config: dict[str, Any] = {
        "judge_choice": role_queries.judge_choice,
        "plugin": role_queries.plugin,
        "role": role_queries.role,
        "samples": samples,
        "device": device,
    }
    metadata: dict[int, Metadata] = {}
    annotations: dict[int, dict[str, Annotation]] = {}
    if next_role is not None:
        config["next_role"] = next_role._replace(metadata={}, annotations={})
        metadata = next_role.metadata
        annotations = next_role.annotations
    queries = [role_queries.queries[k] for k in positions]
    units = [
        AnnotationUnit(q, metadata.get(q.sample_index, {}), annotations.get(q.sample_index, {}))
        for q in queries
    ]
    names = [f"image {query.sample_index}" for query in queries]
    task = Task("annotate", config, device)
    for i, lines in run_units(task, units, names, QUERIES_PER_PART):
        yield positions[i], lines


class AnnotationWorker:
    """Annotates images with a judge of this Python; a worker of `run_units`.

    With a next role, each image is decoded once for both.
    """

    def __init__(
        self,
        judge_choice: JudgeChoice,
        plugin: Annotator,
        role: str,
        samples: SampleSet,
        device: str,
        next_role: NextRole | None = None,
    ) -> None:
        """Load the annotators."""
        self._role = role
        self._samples = samples
        self._device = device
        self._next_role = next_role
        self._annotator = open_judge(judge_choice.name, plugin, device)
        self._next_annotator: LoadedAnnotator | None = None
        if next_role is not None:
            self._next_annotator = _open_or_none(next_role, device)

    def results(self, units: Iterable[AnnotationUnit]) -> Iterator[UnitLines]:
        """Yield the lines for annotations.jsonl of each query."""
        all_units = list(units)
        n_done = 0
        if self._next_role is not None and self._next_annotator is not None:
            try:
                for unit_lines in self._results_of_both_roles(
                    all_units, self._next_role, self._next_annotator
                ):
                    n_done += 1
                    yield unit_lines
                return
            except RuntimeError as error:
                if not is_memory_error(error):
                    raise
            # Both networks do not fit at once: the next role waits for its own turn.
            self._next_annotator = None
            free_memory(self._device)

        for annotated_image in self._annotate(all_units[n_done:]):
            assert annotated_image is not None  # every unit has a query of this role
            yield UnitLines(annotated_image.line, None)

    def _annotate(self, units: Sequence[AnnotationUnit]) -> Iterator[AnnotatedImageQuery | None]:
        """Yield the answer of the first role to each query."""
        images = read_images(self._samples, [unit.query for unit in units])
        return annotate_images(self._annotator, self._role, images)

    def _results_of_both_roles(
        self,
        all_units: Sequence[AnnotationUnit],
        next_role: NextRole,
        next_annotator: LoadedAnnotator,
    ) -> Iterator[UnitLines]:
        """Yield the lines of each query and of the next role's query about the same image."""
        annotated_images = self._annotate(all_units)
        lines: deque[JsonObject] = deque()

        def images_for_next_role() -> Iterator[QueriedImage | None]:
            for unit, annotated_image in zip(all_units, annotated_images, strict=True):
                assert annotated_image is not None
                lines.append(annotated_image.line)
                yield self._query_next_role(unit, annotated_image)

        for annotated_image in annotate_images(
            next_annotator, next_role.role, images_for_next_role()
        ):
            next_line = None if annotated_image is None else annotated_image.line
            if next_line is not None and "error" in next_line:
                self._next_annotator = None  # the images from here on are left to its own turn
            yield UnitLines(lines.popleft(), next_line if self._next_annotator else None)

    def _query_next_role(
        self, unit: AnnotationUnit, annotated_image: AnnotatedImageQuery
    ) -> QueriedImage | None:
        """Return an image with its query of the next role; None if it has none."""
        value = annotated_image.line.get("annotation")
        if value is None or self._next_role is None or self._next_annotator is None:
            return None
        annotation = parse_annotation(self._role, unit.query.query, value).annotation
        if annotation is None:
            return None
        annotations = {**unit.annotations, self._role: annotation}
        try:
            query = self._next_role.make_query(unit.metadata, annotations)
        except IMAGE_ERRORS:
            self._next_annotator = None  # the error is raised when the role has its turn
            return None
        if query is None:
            return None
        key = query_key(self._next_role.role, unit.query.image_sha256, query)
        return QueriedImage(unit.query._replace(query=query, key=key), annotated_image.image)

    def pack(self, result: UnitLines) -> UnitLines:
        """Return the lines: they travel as they are."""
        return result


def _open_or_none(next_role: NextRole, device: str) -> LoadedAnnotator | None:
    """Return the annotator of the next role with its weights; None where it does not load.

    The error is raised when the role has its turn, after the annotations before it are stored.
    """
    try:
        return open_judge(next_role.judge_choice.name, next_role.plugin, device)
    except BenchError:
        return None
    except RuntimeError as error:
        if not is_memory_error(error):
            raise
        return None  # its turn comes when the judge of the role before has ended


class QueriedImage(NamedTuple):
    """A query and its image (H, W, 3) uint8, or the error of reading it."""

    query: ImageQuery
    image: np.ndarray | Exception


class AnnotatedImageQuery(NamedTuple):
    """An answered query: its image, or the error, and its line for annotations.jsonl."""

    image: np.ndarray | Exception
    line: JsonObject


def annotation_lines(
    loaded_annotator: LoadedAnnotator,
    role: str,
    samples: SampleSet,
    queries: Sequence[ImageQuery],
) -> Iterator[JsonObject]:
    """Yield the line for annotations.jsonl of each query, with an error if its image fails."""
    for annotated_image in annotate_images(loaded_annotator, role, read_images(samples, queries)):
        assert annotated_image is not None
        yield annotated_image.line


def read_images(samples: SampleSet, queries: Sequence[ImageQuery]) -> Iterator[QueriedImage]:
    """Yield the image of each query; threads read and decode the next ones.

    Queries about one image that follow each other decode it once.
    """
    groups = [(i, list(group)) for i, group in groupby(queries, lambda q: q.sample_index)]

    def read(index: int) -> np.ndarray | Exception:
        try:
            return samples.image(index)
        except IMAGE_ERRORS as error:
            return error

    n_waiting = IMAGES_AHEAD if samples.files is not None else 0
    images = map_in_threads(read, [index for index, _ in groups], n_waiting)
    for (_, image_queries), image in zip(groups, images, strict=True):
        for query in image_queries:
            yield QueriedImage(query, image)


def annotate_images(
    loaded_annotator: LoadedAnnotator, role: str, images: Iterable[QueriedImage | None]
) -> Iterator[AnnotatedImageQuery | None]:
    """Yield the answer to each query; None where there is none.

    A thread finishes an annotation while the network works on the next image. Nothing is written,
    so any process can annotate a part.
    """

    def finish(item: tuple[QueriedImage, Any] | None) -> AnnotatedImageQuery | None:
        if item is None:
            return None
        queried_image, outputs = item
        return _finish_query(loaded_annotator, queried_image, outputs)

    all_outputs = (
        None if image is None else (image, _network_outputs(loaded_annotator, role, image))
        for image in images
    )
    # Without a finish of its own an annotation is yielded before the next image is annotated.
    n_waiting = 1 if loaded_annotator.has_own_finish else 0
    return map_in_threads(finish, all_outputs, n_waiting, min(1, thread_count()))


def _network_outputs(
    loaded_annotator: LoadedAnnotator, role: str, queried_image: QueriedImage
) -> Any:
    """Return the outputs of an annotator's network for an image, or the error of that image."""
    if isinstance(queried_image.image, Exception):
        return queried_image.image
    try:
        # A copy, because an annotator may change the image and another query may follow.
        image = np.array(queried_image.image)
        return loaded_annotator.run_network(role, image, queried_image.query.query)
    except IMAGE_ERRORS as error:
        if is_memory_error(error):
            raise  # of the device, not of the image; the executor names the image
        return error


def _finish_query(
    loaded_annotator: LoadedAnnotator, queried_image: QueriedImage, outputs: Any
) -> AnnotatedImageQuery:
    """Return the answer to a query; its line has an error if the image fails."""
    query = queried_image.query
    line: JsonObject = {"key": query.key, "index": query.sample_index}
    try:
        if isinstance(outputs, Exception):
            raise outputs
        annotation = loaded_annotator.finish_annotation(outputs)
        line["annotation"] = annotation.model_dump(mode="json", exclude_none=True)
    except IMAGE_ERRORS as error:
        if is_memory_error(error):
            raise
        line["error"] = f"{type(error).__name__}: {first_line(error)}"
    return AnnotatedImageQuery(queried_image.image, line)
