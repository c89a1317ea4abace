"""Annotation with judges of this Python, in this process or in workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from harope_bench.core.errors import BenchError, JudgeError
from harope_bench.core.json_file import JsonObject
from harope_bench.core.progress import Progress
from harope_bench.core.storage import first_line
from harope_bench.core.threaded_work import map_in_threads
from harope_bench.data.sample_set import SampleSet
from harope_bench.judges.base import Annotator, JudgeChoice, LoadedAnnotator, open_judge
from harope_bench.pipeline.annotation_folder import (
    ImageQuery,
    append_annotation,
    append_lines,
    lines_of_parts,
)
from harope_bench.pipeline.workers import Task, run_units

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


def annotate_in_workers(
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
    part_lines = lines_of_parts(folder, role, queries)
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
            append_lines(folder, queries[n_passed:k], part_lines)
            n_passed = max(n_passed, k)
            append_annotation(folder, line)
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
        append_lines(folder, queries[n_passed:], part_lines)


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
        line["error"] = f"{type(error).__name__}: {first_line(error)}"
    return line
