"""Results of DPG-Bench's official script, to the same number as it prints.

It writes two files: `X.txt` with a line an item (path, score of each tile, mean) and a summary,
`X_detail.txt` with a line a question
(path, box of the tile, question, answer). The score is read from the first alone. With the second,
which holds every answer, our rule
scores again: categories, the corrected rules, and whether both say the same of each image.

Source: TencentQQGYLab/ELLA 3c228f1d, dpg_bench/compute_dpg_bench.py.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harope_bench.core.annotations import VqaAnnotation, VqaAnswer
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
ANSWER_LINE = re.compile(r"(?P<path>.*?), \((?P<x>\d+), (?P<y>\d+), \d+, \d+\), (?P<told>.*)")
SUMMARY_LINE = re.compile(rf"DPG-Bench score: (?P<score>{NUMBER})")
HEAD_LINES = 20  # lines among which one of the script must be
SUM_TOLERANCE = 1e-9  # of 100: sums of the same terms in another order


class DpgScores(NamedTuple):
    """Scores of each item's tiles, in order, and the score that the summary prints, if it does."""

    tile_scores: dict[str, list[float]]
    printed_score: float | None


def is_results_file(path: Path) -> bool:
    """Whether a file is one of the script's two, by any of its first lines: a log may begin with
    others.
    """
    if path.suffix != ".txt" or not path.is_file():
        return False
    with open_regular(path) as file:
        start = file.read(1 << 16)
    lines = start.decode(detect_charset(start), errors="replace").split("\n")[:HEAD_LINES]
    form = ANSWER_LINE if path.name.endswith(DETAIL_SUFFIX) else SCORE_LINE
    return any(form.fullmatch(line.rstrip()) for line in lines)


def import_scores(
    path: Path, suite: PromptSuite, lenient: bool = False, rules: str = "official"
) -> EvaluatorOutput:
    """The measurements of a finished run.

    Args:
        path: either of the two files; the other is read where it lies beside it. suite: dpg-bench,
            which knows the items. lenient: score
            what is there, as the script does; else a metric with a missing image is None.

    Raises:
        StorageError: not such a file, no results beside the answers, an item that the suite does
            not know or that stands twice.
    """
    stem = (
        path.with_name(path.name.removesuffix(DETAIL_SUFFIX))
        if path.name.endswith(DETAIL_SUFFIX)
        else path.with_suffix("")
    )
    scores_path = stem.with_name(stem.name + ".txt")
    detail_path = stem.with_name(stem.name + DETAIL_SUFFIX)
    found = read_scores(scores_path)
    answers = _read_answers(detail_path) if detail_path.is_file() else {}
    prompts = suite.count // suite.copies
    items = [
        rule.DpgItem.model_validate(suite.case(prompt).metadata[METADATA_KEY])
        for prompt in range(prompts)
    ]
    if foreign := sorted(found.tile_scores.keys() - {item.item for item in items}):
        raise StorageError(
            f"{scores_path}: {foreign[0]} is no item of DPG-Bench's; score a file of the official"
            " prompts"
        )
    copies = max(map(len, found.tile_scores.values()))
    sights = [
        _annotated_image(index, suite, items[index % prompts], found, answers)
        for index in range(copies * prompts)
    ]
    score = DpgBenchEvaluator(_scores_by_index(items, found, prompts)).assess(
        sights, rules, lenient
    )
    return score._replace(
        warnings=(
            *copies_warnings(copies, suite.copies, "item"),
            *score.warnings,
            *_check_summary(found),
        )
    )


def read_scores(path: Path) -> DpgScores:
    """Scores and summary; StorageError where the file is not there, holds no score, or an item
    twice.
    """
    if not path.is_file():
        raise StorageError(
            f"{path} is not there; give the script's results file, beside which its {DETAIL_SUFFIX}"
            " may lie"
        )
    tiles: dict[str, list[float]] = {}
    printed = None
    for line in _read_lines(path):
        if match := SCORE_LINE.fullmatch(line):
            item = item_of_file(match["path"])
            if item in tiles:
                raise StorageError(
                    f"{path} scores {item} twice; remove the lines of one of the runs"
                )
            tiles[item] = _numbers(match["scores"], path, line)
        elif match := SUMMARY_LINE.fullmatch(line):
            (printed,) = _numbers(match["score"], path, line)
    if not tiles:
        raise StorageError(f"{path} holds no score of DPG-Bench's script; give its results file")
    return DpgScores(tiles, printed)


def _numbers(text: str, path: Path, line: str) -> list[float]:
    try:
        return [float(number) for number in text.split(", ")]
    except ValueError as error:
        raise StorageError(
            f"{path}: {line[:80]!r} holds no numbers; give the script's own file"
        ) from error


def _read_lines(path: Path) -> list[str]:
    return [line.rstrip() for line in read_text(path).split("\n")]


def _read_answers(path: Path) -> dict[tuple[str, int], list[str]]:
    """By item and tile, what follows the box in each line: question, comma, answer."""
    found: dict[tuple[str, int], list[str]] = defaultdict(list)
    for line in _read_lines(path):
        if match := ANSWER_LINE.fullmatch(line):
            tile = 2 * (match["y"] != "0") + (match["x"] != "0")
            found[item_of_file(match["path"]), tile].append(match["told"])
    return found


def _annotated_image(
    index: int,
    suite: PromptSuite,
    item: rule.DpgItem,
    found: DpgScores,
    answers: Mapping[tuple[str, int], Sequence[str]],
) -> AnnotatedImage:
    case = suite.case(index)
    held = found.tile_scores.get(item.item)
    if held is None and not rule.can_fail(item):
        return AnnotatedImage(
            index,
            case.prompt_index,
            case.copy,
            case.prompt,
            case.metadata[METADATA_KEY],
            {},
            f"{item.item} is not in the results",
        )
    if held is not None and case.copy >= len(held):
        fault = f"the results have {len(held)} tiles of it, of other items more"
        return AnnotatedImage(
            index, case.prompt_index, case.copy, case.prompt, case.metadata[METADATA_KEY], {}, fault
        )
    told = answers.get((item.item, case.copy), ()) if held is not None else ()
    texts = _match_answers([question.question for question in item.questions], told)
    seen = {"vqa": VqaAnnotation(answers=tuple(VqaAnswer(text=text) for text in texts))}
    return AnnotatedImage(
        index, case.prompt_index, case.copy, case.prompt, case.metadata[METADATA_KEY], seen
    )


def _match_answers(questions: Sequence[str], told: Sequence[str]) -> list[str]:
    """The answer to each question, empty where the script did not ask it; a question may itself
    hold commas.
    """
    known = dict.fromkeys(questions, "")
    for line in told:
        fitting = [question for question in known if line.startswith(f"{question}, ")]
        if fitting:
            longest = max(fitting, key=len)
            known[longest] = line[len(longest) + 2 :]
    return [known[question] for question in questions]


def _scores_by_index(
    items: Sequence[rule.DpgItem], found: DpgScores, prompts: int
) -> dict[int, float]:
    tiles = {prompt: found.tile_scores.get(item.item, []) for prompt, item in enumerate(items)}
    return {
        copy * prompts + prompt: score
        for prompt, scores in tiles.items()
        for copy, score in enumerate(scores)
    }


def _check_summary(found: DpgScores) -> tuple[str, ...]:
    """Whether the summary's score is that of the lines above it."""
    if found.printed_score is None:
        return ("summary: the file has none, so the run may not be finished",)
    means = [sum(scores) / len(scores) for scores in found.tile_scores.values()]
    mean = 100 * sum(means) / len(means)
    if abs(mean - found.printed_score) <= SUM_TOLERANCE * 100:
        return ()
    return (
        (
            f"summary: it prints {found.printed_score:.4f}, its {len(means):,} lines have a mean of"
            f" {mean:.4f}"
        ),
    )
