"""What T2I-CompBench's official scripts wrote of a finished run: `vqa_result.json` of each
category, and the three of 3-in-1.

A file is a list of `{"question_id", "answer"}`. The detectors' ids are the numbers of file names,
10 x prompt + copy; BLIP's and CLIP's
count the files that were there, so with a file missing nobody can tell whose answer is whose, and
the category has no score here.
Beside each value stands the mean as the script prints it, to the last digit, and whether the
script's own summary says the same.

Source: Karine-Huang/T2I-CompBench 1b709499, the scripts named in FILES.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from harope_bench.core.errors import OptionError, StorageError
from harope_bench.core.json_file import parse_json
from harope_bench.core.record_base import Record, validation_summary
from harope_bench.core.regular_file import open_regular
from harope_bench.core.storage import convert_os_errors
from harope_bench.core.text_file import detect_charset, read_text
from harope_bench.evaluators.base import AnnotatedImage, EvaluatorOutput
from harope_bench.evaluators.rules.compbench_aggregates import COMPLEX_PARTS as NEEDED
from harope_bench.evaluators.rules.compbench_aggregates import join_by_position, three_in_one
from harope_bench.evaluators.rules.compbench_quirks import RuleOutcome, Rules
from harope_bench.evaluators.t2i_compbench import T2ICompBenchEvaluator
from harope_bench.suites.base import PromptSuite
from harope_bench.suites.compbench_suite import (
    CATEGORIES,
    COPIES,
    METADATA_KEY,
    PROMPTS_PER_CATEGORY,
    CompBenchSuite,
)

RESULTS_OF = "t2i-compbench"
RESULT_FILE = "vqa_result.json"
IMAGES_PER_CATEGORY = PROMPTS_PER_CATEGORY * COPIES
BLIP_FOLDER = "annotation_blip"
CLIP_FOLDER = "annotation_clip"
NUMERACY_FOLDER = "annotation_num"
THREE_IN_ONE_FOLDER = "annotation_3_in_1"
SPATIAL_2D_FOLDERS = (
    "labels/annotation_obj_detection_2d",
    "annotation_obj_detection_2d",
    "annotation_obj_detection",
    "labels/annotation_obj_detection",
)
SPATIAL_3D_FOLDERS = ("labels/annotation_obj_detection_3d", "annotation_obj_detection_3d")
RESULT_FOLDERS: Mapping[
    str, Sequence[str]
] = {  # folders in which each category's script leaves its file
    "color": (BLIP_FOLDER,),  # BLIPvqa_eval/BLIP_vqa.py
    "shape": (BLIP_FOLDER,),
    "texture": (BLIP_FOLDER,),
    "spatial": SPATIAL_2D_FOLDERS,  # UniDet_eval/2D_spatial_eval.py
    "3d_spatial": SPATIAL_3D_FOLDERS,  # UniDet_eval/3D_spatial_eval.py
    "numeracy": (NUMERACY_FOLDER,),  # UniDet_eval/numeracy_eval.py
    "non_spatial": (CLIP_FOLDER,),  # CLIPScore_eval/CLIP_similarity.py
    "complex": (THREE_IN_ONE_FOLDER,),  # 3_in_1_eval/3_in_1.py
}
THREE_IN_ONE_PARTS: Mapping[str, Sequence[str]] = {
    "attribute": (BLIP_FOLDER,),
    "spatial": SPATIAL_2D_FOLDERS,
    "action": (CLIP_FOLDER,),
}  # that 3-in-1 joins
NUMBERED_CATEGORIES = (
    "spatial",
    "3d_spatial",
    "numeracy",
)  # whose ids are the numbers of file names
SUMMARIES = (
    "blip_vqa_score.txt",
    "avg_score.txt",
    "avg_result.txt",
    "score.txt",
    "score_avg.txt",
    "vqa_score.txt",
)


class AnswerLine(Record):
    """One answer; BLIP's are text of 4 decimals. Other fields are ignored."""

    model_config = ConfigDict(extra="ignore")
    question_id: int
    answer: float


ANSWER_LINES = TypeAdapter(list[AnswerLine])


class CategoryAnswers(NamedTuple):
    """Answers of a category by number, why there are none for the others, and what must be said of
    them.
    """

    values: dict[int, float]
    failure: str
    notes: tuple[str, ...]


def is_results_file(path: Path) -> bool:
    """Whether a file is one script's answers, or a folder holds such files and no images."""
    if path.is_file():
        return path.suffix == ".json" and _looks_like_answers(path) and _category(path) is not None
    return (
        path.is_dir()
        and not any(path.glob("samples"))
        and not any(path.glob("*/samples"))
        and bool(_category_folders(path))
    )


def import_scores(
    path: Path, suite: PromptSuite, lenient: bool = False, rules: Rules = "official"
) -> EvaluatorOutput:
    """The measurements of a finished run.

    Args:
        path: a `vqa_result.json` below a folder named as its category, such a folder, or a folder
            of them.
        rules: corrected joins 3-in-1 by number in place of by position; the other files are as they
            are.

    Raises:
        StorageError: no such file, or one that holds something else.
    """
    if not isinstance(suite, CompBenchSuite):
        raise OptionError(
            f"{path} is of T2I-CompBench, {suite.title} is another suite; give its --suite"
        )
    found = _read_categories(path, suite, rules)
    if not found:
        raise StorageError(
            f"{path} holds no {RESULT_FILE} below a folder named {', '.join(suite.categories)};"
            " name the folders so"
        )
    sights: list[AnnotatedImage] = []
    verdicts: dict[int, RuleOutcome] = {}
    for category, told in found.items():
        for number in range(IMAGES_PER_CATEGORY):
            index = suite.index_of(category, number // COPIES, number % COPIES)
            case = suite.case(index)
            value = told.values.get(number)
            sights.append(
                AnnotatedImage(
                    index,
                    case.prompt_index,
                    case.copy,
                    case.prompt,
                    case.metadata[METADATA_KEY],
                    {},
                    None if value is not None else told.failure,
                )
            )
            if value is not None:
                verdicts[index] = RuleOutcome(value, "as the official script says")
    notes = tuple(note for told in found.values() for note in told.notes)
    return T2ICompBenchEvaluator(verdicts, notes).assess(
        sorted(sights, key=lambda sight: sight.index), rules, lenient
    )


def mean_answer(category: str, answers: Sequence[float]) -> float:
    """The mean as that category's script computes it, to the last bit: 3D by numpy, the others by
    adding one after another.

    Python's own `sum` is more exact from 3.12 on, and so another number.
    """
    if category == "3d_spatial":
        return float(np.mean(answers))
    return reduce(operator.add, answers, 0.0) / len(answers)


def _category_folders(path: Path) -> dict[str, Path]:
    """The folder of each category that has answers, or the file itself."""
    if path.is_file():
        category = _category(path)
        return {} if category is None else {category: path}
    places = [
        path,
        *(path / name for category in CATEGORIES for name in (category, f"{category}_val")),
    ]
    told = {
        (_category_of_name(place.resolve().name) or ""): place for place in places if place.is_dir()
    }
    return {
        category: place
        for category, place in told.items()
        if category and _answers_below(category, place)
    }


def _answers_below(category: str, place: Path) -> bool:
    own = _find_result_file(place, RESULT_FOLDERS[category]) is not None
    return own or (
        category == "complex"
        and all(_find_result_file(place, names) for names in THREE_IN_ONE_PARTS.values())
    )


def _find_result_file(place: Path, names: Sequence[str]) -> Path | None:
    return next((file for name in names if (file := place / name / RESULT_FILE).is_file()), None)


def _category(file: Path) -> str | None:
    """The category that the nearest folder above the file is named after; the file's own name may
    be it too.
    """
    names = [file.stem, *(parent.name for parent in file.resolve().parents)]
    return next((told for name in names if (told := _category_of_name(name))), None)


def _category_of_name(name: str) -> str | None:
    category = name.removesuffix("_val")
    return category if category in CATEGORIES else None


def _looks_like_answers(path: Path) -> bool:
    with convert_os_errors(path), open_regular(path) as file:
        start = file.read(1 << 16)
    text = start.decode(detect_charset(start), errors="replace")
    return text.lstrip().startswith("[") and '"question_id"' in text and '"answer"' in text


def _read_categories(path: Path, suite: CompBenchSuite, rules: Rules) -> dict[str, CategoryAnswers]:
    found = {}
    for category, place in _category_folders(path).items():
        if category not in suite.categories:
            continue
        file = place if place.is_file() else _find_result_file(place, RESULT_FOLDERS[category])
        if (
            category == "complex"
            and place.is_dir()
            and all(_find_result_file(place, names) for names in THREE_IN_ONE_PARTS.values())
        ):
            found[category] = _read_three_in_one(place, suite, rules, file)
        elif file is not None:
            found[category] = _read_category(category, file)
    return found


def _read_category(category: str, file: Path) -> CategoryAnswers:
    lines = _read_answers(file)
    answers = [line.answer for line in lines]
    notes = (
        (
            f"{category}: the script's mean of {len(lines):,} answers is"
            f" {mean_answer(category, answers)!r}"
        ),
        *_check_summary(category, file, answers),
    )
    if category in NUMBERED_CATEGORIES:
        return CategoryAnswers(
            {line.question_id: line.answer for line in lines},
            "no answer in the script's file",
            notes,
        )
    values, why = _answers_by_count(lines, file)
    return CategoryAnswers(values, why, notes)


def _answers_by_count(lines: Sequence[AnswerLine], file: Path) -> tuple[dict[int, float], str]:
    """Answers by number where ids count files: all of them or none."""
    if len(lines) == IMAGES_PER_CATEGORY:
        return {line.question_id: line.answer for line in lines}, ""
    return (
        {},
        (
            f"{file.parent.name} has {len(lines):,} answers for {IMAGES_PER_CATEGORY:,} images and"
            " its ids count files, so whose they are is not known"
        ),
    )


def _check_summary(category: str, file: Path, answers: Sequence[float]) -> tuple[str, ...]:
    """Whether the summary beside the file is the mean of its answers."""
    beside = next(
        (file.with_name(name) for name in SUMMARIES if file.with_name(name).is_file()), None
    )
    if beside is None:
        return ()
    numbers = re.findall(r"[0-9.]+(?:e-?[0-9]+)?", read_text(beside))
    same = bool(numbers) and numbers[-1] == repr(mean_answer(category, answers))
    return (
        ()
        if same
        else (
            (
                f"{category}: {beside.name} says {numbers[-1] if numbers else 'no number'}, which"
                f" is not the mean of {RESULT_FILE}"
            ),
        )
    )


def _read_three_in_one(
    place: Path, suite: CompBenchSuite, rules: Rules, written: Path | None
) -> CategoryAnswers:
    """3-in-1 of its three files: by position as the script does it, or by number."""
    lines = {
        name: _read_answers(file)
        for name, names in THREE_IN_ONE_PARTS.items()
        if (file := _find_result_file(place, names))
    }
    kinds = [
        suite.case(suite.index_of("complex", k, 0)).metadata[METADATA_KEY]["kinds"][rules]
        for k in range(PROMPTS_PER_CATEGORY)
    ]
    told = (
        _join_by_position(lines, kinds)
        if rules == "official"
        else _join_by_number(lines, kinds, place)
    )
    if written is None or not told.values:
        return told
    theirs = {line.question_id: line.answer for line in _read_answers(written)}
    same = sum(theirs.get(number) == value for number, value in told.values.items())
    return told._replace(
        notes=(
            *told.notes,
            (
                f"complex: {THREE_IN_ONE_FOLDER} says the same on {same:,} of {len(told.values):,}"
                " images"
            ),
        )
    )


def _join_by_position(
    lines: Mapping[str, Sequence[AnswerLine]], kinds: Sequence[str]
) -> CategoryAnswers:
    try:
        values = join_by_position(
            kinds, {name: [line.answer for line in part] for name, part in lines.items()}
        )
    except ValueError as error:
        counts = ", ".join(f"{name} {len(part):,}" for name, part in lines.items())
        return CategoryAnswers(
            {},
            f"the official 3-in-1 stops ({error}); answers: {counts}, wanted"
            f" {IMAGES_PER_CATEGORY:,} of each",
            (),
        )
    notes = [
        f"complex: the script's mean of {len(values):,} answers is"
        f" {mean_answer('complex', values)!r}"
    ]
    if short := [name for name, part in lines.items() if len(part) != IMAGES_PER_CATEGORY]:
        notes.append(
            f"complex: {', '.join(short)} lacks answers, so the script joins other images' answers"
            " from there on; see --rules corrected"
        )
    return CategoryAnswers(dict(enumerate(values)), "", tuple(notes))


def _join_by_number(
    lines: Mapping[str, Sequence[AnswerLine]], kinds: Sequence[str | None], place: Path
) -> CategoryAnswers:
    parts: dict[str, dict[int, float]] = {
        "spatial": {line.question_id: line.answer for line in lines["spatial"]}
    }
    faults = []
    for name in ("attribute", "action"):
        parts[name], why = _answers_by_count(
            lines[name], place / THREE_IN_ONE_PARTS[name][0] / RESULT_FILE
        )
        faults += [why] if why else []
    values = {}
    for number in range(IMAGES_PER_CATEGORY):
        which = kinds[number // COPIES]
        own = {name: found.get(number) for name, found in parts.items()}
        verdict = three_in_one(which, own)
        if verdict.value is not None and not any(
            own[name] is None for name in NEEDED[which or "both"]
        ):
            values[number] = verdict.value
    return CategoryAnswers(values, "; ".join(faults) or "a part of 3-in-1 has no answer", ())


def _read_answers(path: Path) -> list[AnswerLine]:
    """The answers of a file in its order; StorageError where it holds something else, an id twice
    or one that is no image's.
    """
    try:
        found = ANSWER_LINES.validate_python(parse_json(read_text(path)))
    except ValidationError as error:
        raise StorageError(
            f"{path} is no list of question_id and answer ({validation_summary(error)}); give the"
            " script's own file"
        ) from error
    except ValueError as error:
        raise StorageError(f"{path} is not JSON; give the script's own file") from error
    ids = [line.question_id for line in found]
    if not ids or len(set(ids)) < len(ids) or min(ids) < 0 or max(ids) >= IMAGES_PER_CATEGORY:
        raise StorageError(
            f"{path} has {len(ids):,} answers with ids that repeat or are not 0 to"
            f" {IMAGES_PER_CATEGORY - 1:,}; give the script's own file"
        )
    return found
