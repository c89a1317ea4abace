"""Results of T2I-CompBench's official scripts: `vqa_result.json` of each category, and of 3-in-1.

A file is a list of `{"question_id", "answer"}`. The ids of the detectors are the numbers in file
names, 10 * prompt index + copy. The ids of BLIP and CLIP count the files in the folder. If one of
these is missing, an answer cannot be assigned to an image, and the category has no score here.

A note beside each value has the mean as the script prints it, to the last digit, and says whether
the script's own summary agrees.

Source: Karine-Huang/T2I-CompBench 1b709499, the scripts named in RESULT_FOLDERS.
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
from harope_bench.evaluators.rules.compbench_aggregates import (
    COMPLEX_PARTS,
    join_by_position,
    three_in_one,
)
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
# Folders in which the script of each category writes its file.
RESULT_FOLDERS: Mapping[str, Sequence[str]] = {
    "color": (BLIP_FOLDER,),  # BLIPvqa_eval/BLIP_vqa.py
    "shape": (BLIP_FOLDER,),
    "texture": (BLIP_FOLDER,),
    "spatial": SPATIAL_2D_FOLDERS,  # UniDet_eval/2D_spatial_eval.py
    "3d_spatial": SPATIAL_3D_FOLDERS,  # UniDet_eval/3D_spatial_eval.py
    "numeracy": (NUMERACY_FOLDER,),  # UniDet_eval/numeracy_eval.py
    "non_spatial": (CLIP_FOLDER,),  # CLIPScore_eval/CLIP_similarity.py
    "complex": (THREE_IN_ONE_FOLDER,),  # 3_in_1_eval/3_in_1.py
}
# Folders of the three files that 3-in-1 joins.
THREE_IN_ONE_PARTS: Mapping[str, Sequence[str]] = {
    "attribute": (BLIP_FOLDER,),
    "spatial": SPATIAL_2D_FOLDERS,
    "action": (CLIP_FOLDER,),
}
# Categories whose ids are the numbers in file names.
NUMBERED_CATEGORIES = ("spatial", "3d_spatial", "numeracy")
SUMMARIES = (
    "blip_vqa_score.txt",
    "avg_score.txt",
    "avg_result.txt",
    "score.txt",
    "score_avg.txt",
    "vqa_score.txt",
)


class AnswerLine(Record):
    """The answer for one image; BLIP's are text of 4 decimals. Other fields are ignored."""

    model_config = ConfigDict(extra="ignore")
    question_id: int
    answer: float


ANSWER_LINES = TypeAdapter(list[AnswerLine])


class CategoryAnswers(NamedTuple):
    """The answers of a category.

    values: by number. failure: reason why other images have none. notes: warnings for the result.
    """

    values: dict[int, float]
    failure: str
    notes: tuple[str, ...]


def is_results_file(path: Path) -> bool:
    """Return whether a file has a script's answers, or a folder has such files and no images."""
    if path.is_file():
        return path.suffix == ".json" and _looks_like_answers(path) and _category(path) is not None
    return (
        path.is_dir()
        and not any(path.glob("samples"))
        and not any(path.glob("*/samples"))
        and bool(_category_folders(path))
    )


def import_scores(
    path: Path, suite: PromptSuite, is_lenient: bool = False, rules: Rules = "official"
) -> EvaluatorOutput:
    """Return the measurements of a finished run.

    Args:
        path: a `vqa_result.json` in a folder named like its category, such a folder, or a folder
            of them.
        is_lenient: score the images with answers; otherwise a metric with a missing image is None.
        rules: with "corrected", 3-in-1 is joined by number instead of position. The other files are
            used unchanged.

    Raises:
        OptionError: The suite belongs to another benchmark.
        StorageError: There is no such file, or it has other contents.
    """
    if not isinstance(suite, CompBenchSuite):
        raise OptionError(
            f"{path} is of T2I-CompBench, {suite.title} is another suite; give its --suite"
        )
    answers_by_category = _read_categories(path, suite, rules)
    if not answers_by_category:
        raise StorageError(
            f"{path} has no {RESULT_FILE} below a folder named {', '.join(suite.categories)}; name"
            " the folders like this"
        )

    annotated_images: list[AnnotatedImage] = []
    verdicts: dict[int, RuleOutcome] = {}
    for category, answers in answers_by_category.items():
        for number in range(IMAGES_PER_CATEGORY):
            index = suite.index_of(category, number // COPIES, number % COPIES)
            value = answers.values.get(number)
            failure = None if value is not None else answers.failure
            annotated_images.append(_image_without_annotations(suite, index, failure))
            if value is not None:
                verdicts[index] = RuleOutcome(value, "as the official script says")

    annotated_images.sort(key=lambda image: image.index)
    notes = tuple(note for answers in answers_by_category.values() for note in answers.notes)
    evaluator = T2ICompBenchEvaluator(verdicts, notes)
    return evaluator.evaluate(annotated_images, rules, is_lenient)


def _image_without_annotations(
    suite: CompBenchSuite, index: int, failure: str | None
) -> AnnotatedImage:
    """Return the image at an index without annotations, because the verdicts replace them."""
    case = suite.case(index)
    metadata = case.metadata[METADATA_KEY]
    return AnnotatedImage(
        index=index,
        prompt_index=case.prompt_index,
        copy=case.copy,
        prompt=case.prompt,
        metadata=metadata,
        annotations={},
        failure=failure,
    )


def mean_answer(category: str, answers: Sequence[float]) -> float:
    """Return the mean as the category's script computes it, to the last bit.

    The script of 3D relations uses numpy; the others add one answer after another. Python's `sum`
    is more exact since 3.12, so its result would differ.
    """
    if category == "3d_spatial":
        return float(np.mean(answers))
    return reduce(operator.add, answers, 0.0) / len(answers)


def _category_folders(path: Path) -> dict[str, Path]:
    """Return the folder of each category that has answers, or the file itself."""
    if path.is_file():
        category = _category(path)
        return {} if category is None else {category: path}
    candidates = [
        path,
        *(path / name for category in CATEGORIES for name in (category, f"{category}_val")),
    ]
    folders = {
        _category_of_name(folder.resolve().name): folder for folder in candidates if folder.is_dir()
    }
    return {
        category: folder
        for category, folder in folders.items()
        if category is not None and _has_answers(category, folder)
    }


def _has_answers(category: str, folder: Path) -> bool:
    """Return whether a folder has the answers of a category, or the parts of 3-in-1."""
    if _find_result_file(folder, RESULT_FOLDERS[category]) is not None:
        return True
    return category == "complex" and _has_three_in_one_parts(folder)


def _has_three_in_one_parts(folder: Path) -> bool:
    """Return whether a folder has all files that 3-in-1 joins."""
    return all(_find_result_file(folder, names) for names in THREE_IN_ONE_PARTS.values())


def _find_result_file(folder: Path, subfolder_names: Sequence[str]) -> Path | None:
    """Return the result file in the first of the subfolders that has one, None without one."""
    for name in subfolder_names:
        file = folder / name / RESULT_FILE
        if file.is_file():
            return file
    return None


def _category(file: Path) -> str | None:
    """Return the category in the file's name or in the name of its nearest folder, None if none."""
    names = [file.stem, *(parent.name for parent in file.resolve().parents)]
    return next((category for category in map(_category_of_name, names) if category), None)


def _category_of_name(name: str) -> str | None:
    """Return the category `X` of a name `X` or `X_val`, None for other names."""
    category = name.removesuffix("_val")
    return category if category in CATEGORIES else None


def _looks_like_answers(path: Path) -> bool:
    """Return whether the start of a file is that of a list of answers."""
    with convert_os_errors(path), open_regular(path) as file:
        start = file.read(1 << 16)
    text = start.decode(detect_charset(start), errors="replace")
    return text.lstrip().startswith("[") and '"question_id"' in text and '"answer"' in text


def _read_categories(path: Path, suite: CompBenchSuite, rules: Rules) -> dict[str, CategoryAnswers]:
    """Return the answers of each category of the suite that has some."""
    answers_by_category = {}
    for category, entry in _category_folders(path).items():
        if category not in suite.categories:
            continue
        file = entry if entry.is_file() else _find_result_file(entry, RESULT_FOLDERS[category])
        if category == "complex" and entry.is_dir() and _has_three_in_one_parts(entry):
            answers_by_category[category] = _read_three_in_one(entry, suite, rules, file)
        elif file is not None:
            answers_by_category[category] = _read_category(category, file)
    return answers_by_category


def _read_category(category: str, file: Path) -> CategoryAnswers:
    """Return the answers in the file of a category, with the script's mean as a note."""
    lines = _read_answers(file)
    answers = [line.answer for line in lines]
    mean_note = (
        f"{category}: the script's mean of {len(lines):,} answers is"
        f" {mean_answer(category, answers)!r}"
    )
    notes = (mean_note, *_check_summary(category, file, answers))
    if category in NUMBERED_CATEGORIES:
        values = {line.question_id: line.answer for line in lines}
        return CategoryAnswers(values, "no answer in the script's file", notes)
    values, failure = _answers_by_count(lines, file)
    return CategoryAnswers(values, failure, notes)


def _answers_by_count(lines: Sequence[AnswerLine], file: Path) -> tuple[dict[int, float], str]:
    """Return the answers by number where ids count files, or none and a reason if one lacks."""
    if len(lines) == IMAGES_PER_CATEGORY:
        return {line.question_id: line.answer for line in lines}, ""
    reason = (
        f"{file.parent.name} has {len(lines):,} answers for {IMAGES_PER_CATEGORY:,} images and its"
        " ids count files, so the image of an answer is not known"
    )
    return {}, reason


def _check_summary(category: str, file: Path, answers: Sequence[float]) -> tuple[str, ...]:
    """Return a note where the summary in the file's folder is not the mean of the answers."""
    candidates = [file.with_name(name) for name in SUMMARIES]
    summary_file = next((path for path in candidates if path.is_file()), None)
    if summary_file is None:
        return ()
    numbers = re.findall(r"[0-9.]+(?:e-?[0-9]+)?", read_text(summary_file))
    if numbers and numbers[-1] == repr(mean_answer(category, answers)):
        return ()
    note = (
        f"{category}: {summary_file.name} says {numbers[-1] if numbers else 'no number'}, which is"
        f" not the mean of {RESULT_FILE}"
    )
    return (note,)


def _read_three_in_one(
    folder: Path, suite: CompBenchSuite, rules: Rules, official_file: Path | None
) -> CategoryAnswers:
    """Return the 3-in-1 scores, which join the answers of three files: THREE_IN_ONE_PARTS.

    The official rules join them by position, as the official script does. The corrected rules join
    them by question id. A file that is missing leaves its part without answers.

    Args:
        official_file: the script's own result, whose agreement becomes a note.
    """
    lines_by_part = {}
    for name, subfolder_names in THREE_IN_ONE_PARTS.items():
        file = _find_result_file(folder, subfolder_names)
        if file is not None:
            lines_by_part[name] = _read_answers(file)
    # The parts that each prompt is scored by; the two sets of rules read them differently.
    prompt_kinds = [
        suite.case(suite.index_of("complex", k, 0)).metadata[METADATA_KEY]["kinds"][rules]
        for k in range(PROMPTS_PER_CATEGORY)
    ]
    if rules == "official":
        answers = _join_by_position(lines_by_part, prompt_kinds)
    else:
        answers = _join_by_question_id(lines_by_part, prompt_kinds, folder)
    if official_file is None or not answers.values:
        return answers

    official_answers = {line.question_id: line.answer for line in _read_answers(official_file)}
    n_equal = sum(official_answers.get(number) == value for number, value in answers.values.items())
    agreement_note = (
        f"complex: {THREE_IN_ONE_FOLDER} agrees on {n_equal:,} of {len(answers.values):,} images"
    )
    return answers._replace(notes=(*answers.notes, agreement_note))


def _join_by_position(
    lines_by_part: Mapping[str, Sequence[AnswerLine]], prompt_kinds: Sequence[str]
) -> CategoryAnswers:
    """Return 3-in-1 of answers joined by position; none and a reason where the script stops.

    Args:
        prompt_kinds: key of COMPLEX_PARTS for each prompt, which names the parts that count.
    """
    try:
        answers = {name: [line.answer for line in part] for name, part in lines_by_part.items()}
        values = join_by_position(prompt_kinds, answers)
    except ValueError as error:
        counts = ", ".join(f"{name} {len(part):,}" for name, part in lines_by_part.items())
        reason = (
            f"the official 3-in-1 stops ({error}); answers: {counts}, wanted"
            f" {IMAGES_PER_CATEGORY:,} of each"
        )
        return CategoryAnswers(values={}, failure=reason, notes=())

    notes = [
        f"complex: the script's mean of {len(values):,} answers is"
        f" {mean_answer('complex', values)!r}"
    ]
    incomplete_parts = [
        name for name, part in lines_by_part.items() if len(part) != IMAGES_PER_CATEGORY
    ]
    if incomplete_parts:
        notes.append(
            f"complex: {', '.join(incomplete_parts)} lacks answers, so the script joins other"
            " images' answers from there on; see --rules corrected"
        )
    return CategoryAnswers(dict(enumerate(values)), failure="", notes=tuple(notes))


def _join_by_question_id(
    lines_by_part: Mapping[str, Sequence[AnswerLine]],
    prompt_kinds: Sequence[str | None],
    folder: Path,
) -> CategoryAnswers:
    """Return 3-in-1 of answers joined by question id, for the images that have all needed parts.

    Args:
        prompt_kinds: key of COMPLEX_PARTS for each prompt, which names the parts that count; None
            if it is not known.
    """
    parts: dict[str, dict[int, float]] = {
        "spatial": {line.question_id: line.answer for line in lines_by_part["spatial"]}
    }
    reasons = []
    for name in ("attribute", "action"):
        file = folder / THREE_IN_ONE_PARTS[name][0] / RESULT_FILE
        parts[name], reason = _answers_by_count(lines_by_part[name], file)
        if reason:
            reasons.append(reason)

    values = {}
    for number in range(IMAGES_PER_CATEGORY):
        kind = prompt_kinds[number // COPIES]
        image_parts = {name: answers.get(number) for name, answers in parts.items()}
        verdict = three_in_one(kind, image_parts)
        needed_parts = COMPLEX_PARTS[kind or "both"]
        has_all_parts = all(image_parts[name] is not None for name in needed_parts)
        if verdict.value is not None and has_all_parts:
            values[number] = verdict.value
    return CategoryAnswers(values, "; ".join(reasons) or "a part of 3-in-1 has no answer", notes=())


def _read_answers(path: Path) -> list[AnswerLine]:
    """Return the answers of a file in its order.

    Raises:
        StorageError: The file has other contents, an id twice, or an id beyond the images.
    """
    try:
        lines = ANSWER_LINES.validate_python(parse_json(read_text(path)))
    except ValidationError as error:
        raise StorageError(
            f"{path} is no list of question_id and answer ({validation_summary(error)}); give the"
            " script's own file"
        ) from error
    except ValueError as error:
        raise StorageError(f"{path} is not JSON; give the script's own file") from error
    ids = [line.question_id for line in lines]
    if not ids or len(set(ids)) < len(ids) or min(ids) < 0 or max(ids) >= IMAGES_PER_CATEGORY:
        raise StorageError(
            f"{path} has {len(ids):,} answers with ids that repeat or are not 0 to"
            f" {IMAGES_PER_CATEGORY - 1:,}; give the script's own file"
        )
    return lines
