"""Results of prompts, scored again from the images for `verify`.

Annotators that run in another Python are not asked again. Their stored annotations are used, and
the finding says so.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harope_bench.core import registry
from harope_bench.core.array_archive import load_arrays
from harope_bench.core.json_lines import read_lines_by_field
from harope_bench.core.schema import JudgeRecord, Result
from harope_bench.core.storage import convert_os_errors
from harope_bench.data.array_checks import NUMBER_KINDS
from harope_bench.data.result_paths import arrays_path, sample_scores_path
from harope_bench.data.run_folder import ANNOTATIONS_FOLDER
from harope_bench.judges.base import load_judge
from harope_bench.pipeline.differing_fields import differing_fields
from harope_bench.pipeline.evaluate import folder_options_of
from harope_bench.pipeline.evaluate_prompts import (
    OFFICIAL_RUN,
    PromptScoring,
    evaluate_prompts,
    scores_annotations,
)
from harope_bench.pipeline.external_annotator import ANNOTATIONS_FILE, JUDGE_FILE
from harope_bench.pipeline.extract_features import read_record

# Fields of a result that may differ when it is scored again: who scored it, where its images were,
# and the names of the result and its files.
EXEMPT_FIELDS = ("provenance", "source", "target", "label", "arrays_file", "sample_scores_file")


class RescoredResult(NamedTuple):
    """Differences of a result of prompts from the same work done again.

    judged_count: images that were annotated again.
    trusted_judges: annotators whose stored annotations were used.
    """

    differences: list[str]
    judged_count: int
    trusted_judges: tuple[str, ...]


def is_prompt_result(stored_result: Result) -> bool:
    """Return whether a result is of prompts, scored by an installed evaluator."""
    return (
        stored_result.judge != OFFICIAL_RUN
        and stored_result.evaluator in registry.list_entries("evaluators")
        and scores_annotations(stored_result.evaluator)
    )


def rescore_result(
    folder: Path, path: Path, stored_result: Result, scratch: Path, images: Path | None = None
) -> RescoredResult:
    """Score a run again into `scratch` with the judges of the stored result, and compare.

    Args:
        folder: the run folder.
        path: the stored result.
        images: where the images are; None for the run folder itself.

    Raises:
        BenchError: A judge is not installed, or images are not the recorded ones.
    """
    # Copy the annotations of judges that run in another Python.
    records = stored_result.judges
    external_judges = tuple(sorted({r.name for r in records.values() if _is_external(r)}))
    for name in external_judges:
        with convert_os_errors(scratch):
            shutil.copytree(
                folder / ANNOTATIONS_FOLDER / name,
                scratch / ANNOTATIONS_FOLDER / name,
                dirs_exist_ok=True,
            )

    # Annotate with the other judges and score again.
    source = stored_result.source
    judge = ",".join(f"{role}={_judge_option(r)}" for role, r in sorted(records.items()))
    scoring = PromptScoring(
        _suite_of(stored_result),
        stored_result.rules,
        judge or None,
        needs_all_judges=False,
        is_lenient=stored_result.is_lenient,
        folder_options=folder_options_of(source, folder, images),
    )
    count = source.count if source else None
    evaluators = [stored_result.evaluator]
    (rescored_result,) = evaluate_prompts(images or folder, scratch, scoring, evaluators, count)

    differences = [
        *field_differences(stored_result, rescored_result.result),
        *file_name_differences(stored_result, path),
        *file_differences(path, rescored_result.path),
        *_annotation_differences(folder / ANNOTATIONS_FOLDER, scratch / ANNOTATIONS_FOLDER),
    ]
    is_annotated_again = len(external_judges) < len(records) or not records
    judged_count = rescored_result.result.measurements[0].n_asked if is_annotated_again else 0
    return RescoredResult(differences, judged_count, external_judges)


def _suite_of(result: Result) -> str:
    """Return the suite of a result's plan, or else of its images."""
    if result.plan is not None:
        return result.plan.suite
    return result.source.suite if result.source is not None else ""


def field_differences(stored_result: Result, rescored_result: Result) -> list[str]:
    """Return a line for each field in which a result differs from the same work done again."""
    return [
        f"{name} is {_shorten_text(difference.stored)}, should be"
        f" {_shorten_text(difference.expected)}"
        for name, difference in differing_fields(stored_result, rescored_result).items()
        if name not in EXEMPT_FIELDS
    ]


def file_name_differences(stored_result: Result, path: Path) -> list[str]:
    """Return a line for each recorded file name that does not follow from the result's path."""
    names = {
        "arrays_file": (stored_result.arrays_file, arrays_path(path).name),
        "sample_scores_file": (stored_result.sample_scores_file, sample_scores_path(path).name),
    }
    return [
        f"{field} is {_shorten_text(recorded_name)}, should be {expected_name}"
        for field, (recorded_name, expected_name) in names.items()
        if recorded_name not in (None, expected_name)
    ]


def file_differences(path: Path, rescored_path: Path) -> list[str]:
    """Return a line for each array, and for sample scores, that differ from the rescored result."""
    lines = _array_differences(arrays_path(path), arrays_path(rescored_path))
    if sample_scores_path(rescored_path).is_file():
        lines += _sample_score_differences(
            sample_scores_path(path), sample_scores_path(rescored_path)
        )
    return lines


def _is_external(record: JudgeRecord) -> bool:
    return load_judge(record.name).runner is not None


def _judge_option(record: JudgeRecord) -> str:
    """Return a judge as the option --judge takes it: NAME or NAME:MODEL."""
    return record.name + (f":{record.model}" if record.model else "")


def _shorten_text(value: object) -> str:
    text = str(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def _array_differences(stored_path: Path, rescored_path: Path) -> list[str]:
    if not stored_path.is_file():
        return [f"{stored_path.name} beside it is missing; run eval --rescore"]
    stored_arrays = load_arrays(stored_path)
    new_arrays = load_arrays(rescored_path)
    if stored_arrays.keys() != new_arrays.keys():
        return [
            f"{stored_path.name} holds {sorted(stored_arrays)}, should hold {sorted(new_arrays)}"
        ]
    return [
        f"{stored_path.name}: {name} differs"
        for name, values in stored_arrays.items()
        if not _has_equal_values(values, new_arrays[name])
    ]


def _has_equal_values(stored_array: np.ndarray, new_array: np.ndarray) -> bool:
    """Return whether two arrays are equal; a NaN equals a NaN, and dtypes of numbers may differ."""
    kinds = {stored_array.dtype.kind, new_array.dtype.kind}
    # NumPy compares neither structures with numbers nor texts with NaN.
    if len(kinds) > 1 and not kinds <= {*NUMBER_KINDS}:
        return False
    return np.array_equal(stored_array, new_array, equal_nan=kinds == {"f"})


def _sample_score_differences(stored_path: Path, rescored_path: Path) -> list[str]:
    """Return a line with the count of images whose sample score differs."""
    if not stored_path.is_file():
        return [f"{stored_path.name} beside it is missing; run eval --rescore"]
    stored_rows = read_lines_by_field(stored_path, "index", int)
    new_rows = read_lines_by_field(rescored_path, "index", int)
    indices = sorted(
        index
        for index in {*stored_rows, *new_rows}
        if stored_rows.get(index) != new_rows.get(index)
    )
    if not indices:
        return []
    return [
        f"{stored_path.name}: sample scores of {len(indices):,} images differ, first of image"
        f" {indices[0]}"
    ]


def _annotation_differences(stored_folder: Path, rescored_folder: Path) -> list[str]:
    """Return a line for each annotator whose stored annotations or record differ.

    Missing annotations are not reported, because eval annotates again.
    """
    lines = []
    for path in sorted(rescored_folder.glob(f"*/{ANNOTATIONS_FILE}")):
        judge = path.parent.name
        stored_lines = read_lines_by_field(stored_folder / judge / ANNOTATIONS_FILE, "key", str)
        rescored_lines = read_lines_by_field(path, "key", str)
        indices = [
            rescored_lines[key].get("index")
            for key in rescored_lines
            if key in stored_lines and stored_lines[key] != rescored_lines[key]
        ]
        if indices:
            lines.append(
                f"{stored_folder.name}/{judge}/{ANNOTATIONS_FILE}: {len(indices):,} annotations"
                f" differ, first of image {indices[0]}"
            )
        lines += _judge_differences(stored_folder / judge / JUDGE_FILE, path.parent / JUDGE_FILE)
    return lines


def _judge_differences(stored_path: Path, rescored_path: Path) -> list[str]:
    """Return a line where the stored judge record is not that of the installed judge."""
    if not stored_path.is_file() or not rescored_path.is_file():
        return []
    if read_record(stored_path) == read_record(rescored_path):
        return []
    return [f"{stored_path.parent.name}/{JUDGE_FILE}: is not the record of the installed judge"]
