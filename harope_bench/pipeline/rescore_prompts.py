"""Results of prompts, marked again from the images: for `verify`. Judges that run elsewhere cannot
be asked again here; that is said.
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
from harope_bench.data.result_paths import arrays_path, sample_scores_path
from harope_bench.data.run_folder import ANNOTATIONS_FOLDER
from harope_bench.judges.base import load_judge
from harope_bench.pipeline.annotate import ANNOTATIONS_FILE, JUDGE_FILE, AnnotatorOptions
from harope_bench.pipeline.differing_fields import differing_fields
from harope_bench.pipeline.evaluate import folder_options_of
from harope_bench.pipeline.evaluate_prompts import (
    OFFICIAL_RUN,
    PromptScoring,
    evaluate_prompts,
    scores_annotations,
)
from harope_bench.pipeline.extract_features import read_record

# Of a result, what need not come out the same: who scored it, where its images lay, and what it and
# its files are called.
EXEMPT_FIELDS = ("provenance", "source", "target", "label", "per_sample", "rows")


class RescoredResult(NamedTuple):
    """What is wrong in a result, how many images were judged again, and the judges whose stored
    answers had to be believed.
    """

    differences: list[str]
    judged_count: int
    trusted_judges: tuple[str, ...]


def is_prompt_result(stored: Result) -> bool:
    """Whether a result is one of prompts."""
    known = registry.list_entries("evaluators")
    return (
        stored.judge != OFFICIAL_RUN
        and stored.evaluator in known
        and scores_annotations(stored.evaluator)
    )


def rescore_result(
    folder: Path, path: Path, stored: Result, room: Path, images: Path | None = None
) -> RescoredResult:
    """Marks the run again into `room`, with the judges that the result names, and compares.

    Args:
        images: where the images lie, the run folder itself if None.

    Raises:
        BenchError: a judge that is not here, or images that are not the recorded ones.
    """
    source = stored.source
    suite = (
        stored.plan.suite if stored.plan is not None else source.suite if source is not None else ""
    )
    believed = tuple(
        sorted({record.name for record in stored.judges.values() if _is_external(record)})
    )
    for name in believed:
        with convert_os_errors(room):
            shutil.copytree(
                folder / ANNOTATIONS_FOLDER / name, room / ANNOTATIONS_FOLDER / name, dirs_exist_ok=True
            )
    judge = ",".join(
        f"{role}={_judge_option(record)}" for role, record in sorted(stored.judges.items())
    )
    asked = PromptScoring(
        suite,
        stored.rules,
        judge or None,
        stored.is_lenient,
        AnnotatorOptions(),
        folder_options_of(source, folder, images),
    )
    (again,) = evaluate_prompts(
        images or folder, room, asked, [stored.evaluator], source.count if source else None
    )
    wrong = [*field_differences(stored, again.result), *file_name_differences(stored, path)]
    judged = (
        again.result.measurements[0].n_asked
        if len(believed) < len(stored.judges) or not stored.judges
        else 0
    )
    wrong += file_differences(path, again.path)
    wrong += _annotation_differences(folder / ANNOTATIONS_FOLDER, room / ANNOTATIONS_FOLDER)
    return RescoredResult(wrong, judged, believed)


def field_differences(stored: Result, again: Result) -> list[str]:
    """Return a line for each field in which a result differs from the same work done again."""
    return [
        f"{name} is {_shorten_text(difference.stored)}, should be"
        f" {_shorten_text(difference.expected)}"
        for name, difference in differing_fields(stored, again).items()
        if name not in EXEMPT_FIELDS
    ]


def file_name_differences(stored: Result, path: Path) -> list[str]:
    """Return a line for each file that a result does not name by its own name."""
    names = {
        "per_sample": (stored.arrays_file, arrays_path(path).name),
        "rows": (stored.sample_scores_file, sample_scores_path(path).name),
    }
    return [
        f"{field} is {_shorten_text(name)}, should be {own_name}"
        for field, (name, own_name) in names.items()
        if name not in (None, own_name)
    ]


def file_differences(path: Path, again: Path) -> list[str]:
    """Return a line for each array, and for verdicts, that are not those of the same work done
    again.
    """
    lines = _array_differences(arrays_path(path), arrays_path(again))
    return lines + (
        _sample_score_differences(sample_scores_path(path), sample_scores_path(again))
        if sample_scores_path(again).is_file()
        else []
    )


def _is_external(record: JudgeRecord) -> bool:
    return load_judge(record.name).runner is not None


def _judge_option(record: JudgeRecord) -> str:
    """A judge as --judge takes it."""
    return record.name + (f":{record.model}" if record.model else "")


def _shorten_text(value: object) -> str:
    text = str(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def _array_differences(stored: Path, again: Path) -> list[str]:
    if not stored.is_file():
        return [f"{stored.name} beside it is gone; run eval --rescore"]
    one = load_arrays(stored)
    two = load_arrays(again)
    if one.keys() != two.keys():
        return [f"{stored.name} holds {sorted(one)}, should hold {sorted(two)}"]
    return [
        f"{stored.name}: {name} differs"
        for name in one
        if not np.array_equal(one[name], two[name], equal_nan=True)
    ]


def _sample_score_differences(stored: Path, again: Path) -> list[str]:
    """Images whose row of verdict and reason is another one now."""
    if not stored.is_file():
        return [f"{stored.name} beside it is gone; run eval --rescore"]
    one, two = (read_lines_by_field(path, "index", int) for path in (stored, again))
    other = sorted(index for index in {*one, *two} if one.get(index) != two.get(index))
    return (
        [f"{stored.name}: verdicts on {len(other):,} images differ, first on image {other[0]}"]
        if other
        else []
    )


def _annotation_differences(stored: Path, again: Path) -> list[str]:
    """Judges whose kept answers are not what they say now; one that is gone is no fault, eval asks
    again.
    """
    wrong = []
    for path in sorted(again.glob(f"*/{ANNOTATIONS_FILE}")):
        kept, now = (
            read_lines_by_field(place / path.parent.name / ANNOTATIONS_FILE, "key", str)
            for place in (stored, again)
        )
        other = [now[key].get("index") for key in now if key in kept and kept[key] != now[key]]
        wrong += (
            [
                f"{stored.name}/{path.parent.name}/{ANNOTATIONS_FILE}: {len(other):,} answers"
                f" differ, first on image {other[0]}"
            ]
            if other
            else []
        )
        wrong += _judge_differences(
            stored / path.parent.name / JUDGE_FILE, path.parent / JUDGE_FILE
        )
    return wrong


def _judge_differences(stored: Path, again: Path) -> list[str]:
    """Return a line where the record of who answered is not that of the judge that answers now."""
    if not stored.is_file() or not again.is_file() or read_record(stored) == read_record(again):
        return []
    return [f"{stored.parent.name}/{JUDGE_FILE}: is not the record of the judge that answers now"]
