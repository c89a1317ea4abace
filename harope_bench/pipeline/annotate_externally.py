"""Annotation by a script in another Python, which reads queries.jsonl and writes annotations."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from harope_bench.core.errors import JudgeError, PendingAnswersError, SampleError
from harope_bench.core.json_file import JsonObject
from harope_bench.core.json_lines import drop_partial_line, read_lines_by_field
from harope_bench.core.progress import Progress
from harope_bench.core.schema import JudgeRecord
from harope_bench.core.storage import first_line, sha256_file, write_bytes, write_text
from harope_bench.data.image_io import encode_png
from harope_bench.data.sample_set import SampleSet
from harope_bench.judges.base import JudgeChoice
from harope_bench.pipeline import external_annotator
from harope_bench.pipeline.annotation_folder import (
    ImageQuery,
    append_annotation,
    append_lines,
    claim_judge_folder,
    lines_of_parts,
    read_judge_record,
)
from harope_bench.pipeline.annotator_choice import AnnotatorOptions
from harope_bench.pipeline.external_annotator import ANNOTATIONS_FILE, JUDGE_FILE, QUERIES_FILE
from harope_bench.pipeline.workers import Task, current_executor, run_units

# Queries that a script answers in one go; it loads its weights for each part.
EXTERNAL_QUERIES_PER_PART = 250


def annotate_externally(
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
    part_lines = lines_of_parts(folder, role, queries)
    append_lines(folder, queries, part_lines)
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
        claimed_record = None
        for _, (line, record) in run_units(task, units, names, EXTERNAL_QUERIES_PER_PART):
            if record != claimed_record:
                claim_judge_folder(folder, record)
                claimed_record = record
            append_annotation(folder, line)
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
            try:
                external_annotator.run_annotator(
                    self._python, self._runner, folder, self._runner_options
                )
            except JudgeError as error:
                # This folder is temporary, and an error carries no results.
                advice = f"its part of {len(lines)} queries is lost, run eval again"
                raise JudgeError(error.detail, advice=advice) from error
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
            append_annotation(folder, error_line)
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
