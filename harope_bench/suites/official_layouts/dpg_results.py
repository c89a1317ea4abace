"""Results of DPG-Bench's official script, to the last printed digit.

The script writes two files. `X.txt` has a line for each item (path, score of each tile, mean) and a
summary. `X_detail.txt` has a line for each question (path, box of the tile, question, answer). The
score comes from the first file alone. The second has every answer, so the rule of
harope-bench scores the answers again. That gives categories and the corrected rules, and shows
whether both scores of each image agree.

Source: TencentQQGYLab/ELLA 3c228f1d, dpg_bench/compute_dpg_bench.py.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harope_bench.core.annotations import Annotation, VqaAnnotation, VqaAnswer
from harope_bench.core.errors import StorageError
from harope_bench.core.regular_file import open_regular
from harope_bench.core.text_file import detect_charset, read_text
from harope_bench.evaluators.base import AnnotatedImage, EvaluatorOutput
from harope_bench.evaluators.dpg_bench import DpgBenchEvaluator
from harope_bench.evaluators.rules import dpg as rule
from harope_bench.suites.base import PromptSuite
from harope_bench.suites.official_layouts.base import copies_warnings
from harope_bench.suites.official_layouts.dpg import METADATA_KEY, item_of_file

RESULTS_OF = "dpg-bench"
DETAIL_SUFFIX = "_detail.txt"
NUMBER = r"[0-9][0-9.e+-]*"
SCORE_LINE = re.compile(
    rf"(?P<path>.*?\.[A-Za-z]\w*), (?P<scores>{NUMBER}(?:, {NUMBER}){{0,3}}), (?P<mean>{NUMBER})"
)
ANSWER_LINE = re.compile(r"(?P<path>.*?), \((?P<x>\d+), (?P<y>\d+), \d+, \d+\), (?P<text>.*)")
SUMMARY_LINE = re.compile(rf"DPG-Bench score: (?P<score>{NUMBER})")
HEAD_LINES = 20  # number of first lines, one of which must be the script's
SUM_TOLERANCE = 1e-9  # relative difference of sums of equal terms in another order


class DpgScores(NamedTuple):
    """The scores of each item's tiles in their order, and the summary's score, None without one."""

    tile_scores: dict[str, list[float]]
    printed_score: float | None


def is_results_file(path: Path) -> bool:
    """Return whether a file is one of the script's two.

    Any of its first lines may show it, because the file may start with log messages.
    """
    if path.suffix != ".txt" or not path.is_file():
        return False
    with open_regular(path) as file:
        start = file.read(1 << 16)
    lines = start.decode(detect_charset(start), errors="replace").split("\n")[:HEAD_LINES]
    expression = ANSWER_LINE if path.name.endswith(DETAIL_SUFFIX) else SCORE_LINE
    return any(expression.fullmatch(line.rstrip()) for line in lines)


def import_scores(
    path: Path, suite: PromptSuite, is_lenient: bool = False, rules: str = "official"
) -> EvaluatorOutput:
    """Return the measurements of a finished run.

    Args:
        path: either of the two files; the other is read if it is in the same folder.
        suite: dpg-bench, which has the items.
        is_lenient: score the images with results, as the script does; otherwise a metric with a
            missing image is None.

    Raises:
        StorageError: The file is another one, the results are missing, or an item is unknown or
            has two lines.
    """
    scores_path, detail_path = _paths_of_run(path)
    scores = read_scores(scores_path)
    answer_lines = _read_answers(detail_path) if detail_path.is_file() else {}
    prompts = suite.count // suite.copies
    items = [
        rule.DpgItem.model_validate(suite.case(prompt).metadata[METADATA_KEY])
        for prompt in range(prompts)
    ]
    unknown_items = sorted(scores.tile_scores.keys() - {item.item for item in items})
    if unknown_items:
        raise StorageError(
            f"{scores_path}: {unknown_items[0]} is no item of DPG-Bench's; score a file of the"
            " official prompts"
        )

    copies = max(map(len, scores.tile_scores.values()))
    annotated_images = [
        _annotated_image(index, suite, items[index % prompts], scores, answer_lines)
        for index in range(copies * prompts)
    ]
    evaluator = DpgBenchEvaluator(_scores_by_index(items, scores, prompts))
    output = evaluator.evaluate(annotated_images, rules, is_lenient)
    warnings = (
        *copies_warnings(copies, suite.copies, "item"),
        *output.warnings,
        *_check_summary(scores),
    )
    return output._replace(warnings=warnings)


def _paths_of_run(path: Path) -> tuple[Path, Path]:
    """Return the paths of the script's two files, scores and answers, from either of them."""
    stem = path.with_suffix("")
    if path.name.endswith(DETAIL_SUFFIX):
        stem = path.with_name(path.name.removesuffix(DETAIL_SUFFIX))
    return stem.with_name(stem.name + ".txt"), stem.with_name(stem.name + DETAIL_SUFFIX)


def read_scores(path: Path) -> DpgScores:
    """Return scores and summary.

    Raises:
        StorageError: The file is missing, or it has no score or an item twice.
    """
    if not path.is_file():
        raise StorageError(
            f"{path} does not exist; give the script's results file, in whose folder its"
            f" {DETAIL_SUFFIX} may be"
        )
    tile_scores: dict[str, list[float]] = {}
    printed_score = None
    for line in _read_lines(path):
        score_match = SCORE_LINE.fullmatch(line)
        summary_match = SUMMARY_LINE.fullmatch(line)
        if score_match:
            item = item_of_file(score_match["path"])
            if item in tile_scores:
                raise StorageError(
                    f"{path} scores {item} twice; remove the lines of one of the runs"
                )
            tile_scores[item] = _numbers(score_match["scores"], path, line)
        elif summary_match:
            printed_score = _numbers(summary_match["score"], path, line)[0]
    if not tile_scores:
        raise StorageError(f"{path} has no score of DPG-Bench's script; give its results file")
    return DpgScores(tile_scores, printed_score)


def _numbers(text: str, path: Path, line: str) -> list[float]:
    """Return the numbers that commas separate in a text; raise StorageError for an invalid one."""
    try:
        return [float(number) for number in text.split(", ")]
    except ValueError as error:
        raise StorageError(
            f"{path}: {line[:80]!r} has no numbers; give the script's own file"
        ) from error


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a file without blanks at their ends."""
    return [line.rstrip() for line in read_text(path).split("\n")]


def _read_answers(path: Path) -> dict[tuple[str, int], list[str]]:
    """Return, by item and tile, the text after the box in each line: question, comma, answer."""
    answer_lines: dict[tuple[str, int], list[str]] = defaultdict(list)
    for line in _read_lines(path):
        match = ANSWER_LINE.fullmatch(line)
        if match:
            tile = 2 * (match["y"] != "0") + (match["x"] != "0")
            answer_lines[item_of_file(match["path"]), tile].append(match["text"])
    return answer_lines


def _annotated_image(
    index: int,
    suite: PromptSuite,
    item: rule.DpgItem,
    scores: DpgScores,
    answer_lines: Mapping[tuple[str, int], Sequence[str]],
) -> AnnotatedImage:
    """Return the image at an index with the script's answers, or with the reason of its failure."""
    case = suite.case(index)
    tile_scores = scores.tile_scores.get(item.item)
    annotations: dict[str, Annotation] = {}
    failure = None
    if tile_scores is None and not rule.can_crash_official_script(item):
        failure = f"{item.item} is not in the results"
    elif tile_scores is not None and case.copy >= len(tile_scores):
        failure = f"the results have {len(tile_scores)} tiles of it, of other items more"
    else:
        image_lines: Sequence[str] = ()
        if tile_scores is not None:
            image_lines = answer_lines.get((item.item, case.copy), ())
        texts = _match_answers([question.question for question in item.questions], image_lines)
        answers = tuple(VqaAnswer(text=text) for text in texts)
        annotations["vqa"] = VqaAnnotation(answers=answers)
    metadata = case.metadata[METADATA_KEY]
    return AnnotatedImage(
        index, case.prompt_index, case.copy, case.prompt, metadata, annotations, failure
    )


def _match_answers(questions: Sequence[str], answer_lines: Sequence[str]) -> list[str]:
    """Return the answer to each question, empty where the script has none.

    A question may contain commas, so the longest question that starts a line is the line's.
    """
    answers = dict.fromkeys(questions, "")
    for line in answer_lines:
        candidates = [question for question in answers if line.startswith(f"{question}, ")]
        if candidates:
            question = max(candidates, key=len)
            answers[question] = line[len(question) + 2 :]
    return [answers[question] for question in questions]


def _scores_by_index(
    items: Sequence[rule.DpgItem], scores: DpgScores, prompts: int
) -> dict[int, float]:
    """Return the score of each image by its index in the suite."""
    return {
        copy * prompts + prompt_index: score
        for prompt_index, item in enumerate(items)
        for copy, score in enumerate(scores.tile_scores.get(item.item, []))
    }


def _check_summary(scores: DpgScores) -> tuple[str, ...]:
    """Return a warning where the summary is missing or is not the mean of the lines above it."""
    if scores.printed_score is None:
        return ("summary: the file has none, so the run may not be finished",)
    item_means = [sum(tiles) / len(tiles) for tiles in scores.tile_scores.values()]
    mean = 100 * sum(item_means) / len(item_means)
    if abs(mean - scores.printed_score) <= SUM_TOLERANCE * 100:
        return ()
    warning = (
        f"summary: it prints {scores.printed_score:.4f}, its {len(item_means):,} lines have a mean"
        f" of {mean:.4f}"
    )
    return (warning,)
