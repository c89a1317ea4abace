"""Scores of single images for the gallery: score, reason, detections, and prompts won and lost."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import ConfigDict, Field, ValidationError

from harope_bench.core import checksums, registry
from harope_bench.core.annotations import Box, DetectionAnnotation
from harope_bench.core.errors import BenchError, StorageError
from harope_bench.core.json_file import parse_json
from harope_bench.core.json_lines import read_lines
from harope_bench.core.record_base import Record
from harope_bench.core.schema import Result
from harope_bench.core.storage import read_if_present
from harope_bench.data.result_paths import run_folder_of, sample_scores_path
from harope_bench.data.result_store import ALTERED_ADVICE, StoredResult
from harope_bench.data.run_folder import ANNOTATIONS_FOLDER
from harope_bench.evaluators.base import load_evaluator

# pipeline/external_annotator.py names and pipeline/annotation_folder.py writes files of these names
ANNOTATIONS_FILE = "annotations.jsonl"
JUDGE_FILE = "judge.json"

RIGHT = "right"
WRONG = "wrong"
PARTLY = "partly right"
UNSCORED = "no score"
TOLERANCE = 1e-9  # scores that differ by less are equal
MIN_DETECTION_SCORE = 0.1  # weaker detections are not drawn
DEFAULT_THRESHOLD = 0.3
MAX_BOXES = 12  # of one image
MAX_ANSWERS = 12  # of one image
MAX_REASON_LENGTH = 600  # characters
NO_TASK = "no task"


class DrawnBox(NamedTuple):
    """A detection as the page shows it; `is_counted`: its score reaches the threshold."""

    label: str
    score: float
    box: Box
    is_counted: bool


@dataclass(frozen=True)
class ScoredImage:
    """The score of one image with its reason and what supports it.

    Attributes:
        value: Score from 0 (worst possible) to 1 (best possible); None without a score.
        score_text: The score as the evaluator gives it.
        detections: Detections that the evaluator lists.
        threshold: The least score of a detection that counts.
        answers: Questions answered against the prompt, in words.
    """

    index: int
    prompt_index: int
    copy: int
    prompt: str
    task: str
    value: float | None
    score_text: str
    reason: str
    detections: tuple[DrawnBox, ...]
    threshold: float
    answers: tuple[str, ...]

    @property
    def is_wrong(self) -> bool:
        """Return whether the score is below half of the best one."""
        return self.value is not None and self.value < 0.5 - TOLERANCE

    @property
    def verdict(self) -> str:
        """Return the verdict in words."""
        if self.value is None:
            return UNSCORED
        if self.value >= 1 - TOLERANCE:
            return RIGHT
        return WRONG if self.is_wrong else PARTLY


@dataclass(frozen=True)
class TaskOutcome:
    """On how many prompts of a task a run scores better than, equal to or worse than the first.

    outcomes: (better, equal, worse) of each further run.
    """

    task: str
    n_prompts: int
    outcomes: tuple[tuple[int, int, int], ...]


class _ScoreRow(Record):
    """One line of sample scores; fields of other versions are ignored."""

    model_config = ConfigDict(extra="ignore")
    index: int = Field(ge=0)
    prompt_index: int = 0
    copy_number: int = Field(default=0, alias="copy")
    prompt: str = ""
    task: str = NO_TASK
    reason: str = ""
    scores: dict[str, float] = {}
    evidence: dict[str, object] = {}


class _EvidenceBox(Record):
    """A detection in the evidence of a score."""

    model_config = ConfigDict(extra="ignore")
    score: float
    box: Box
    colour: str = ""


class _EvidenceClass(Record):
    """What a clause of a prompt expects."""

    model_config = ConfigDict(extra="ignore")
    name: str = Field(alias="class")


class _EvidenceClause(Record):
    """A clause of a prompt, with its detections."""

    model_config = ConfigDict(extra="ignore")
    expected: _EvidenceClass
    detections: tuple[_EvidenceBox, ...] = ()


class _EvidenceAnswer(Record):
    """A question that scored 0, with its answer."""

    model_config = ConfigDict(extra="ignore")
    question: str
    answer: str


class _Evidence(Record):
    """The parts of an evidence that the gallery shows."""

    model_config = ConfigDict(extra="ignore")
    threshold: float = DEFAULT_THRESHOLD
    clauses: tuple[_EvidenceClause, ...] = ()
    zero_questions: tuple[_EvidenceAnswer, ...] = ()


def read_scores(stored_result: StoredResult) -> dict[int, ScoredImage]:
    """Return the scores of a result's images by index; empty if it has none of single images.

    Raises:
        StorageError: The file was altered or has a line that is no row of scores.
    """
    path = sample_scores_path(stored_result.path)
    checksums.check_recorded_hash(path, ALTERED_ADVICE)
    bounds = _metric_bounds(stored_result.result)
    metric_order = [m.metric for m in stored_result.result.measurements]
    scores: dict[int, ScoredImage] = {}
    for number, line in enumerate(read_lines(path), 1):
        try:
            row = _ScoreRow.model_validate(line)
        except ValidationError as error:
            raise StorageError(
                f"{path} line {number} is not a row of sample scores (scores by metric, finite"
                " numbers); run eval --rescore"
            ) from error
        scores[row.index] = _scored_image(row, metric_order, bounds)
    return scores


def _metric_bounds(result: Result) -> dict[str, tuple[float, float]]:
    """Return the bounds of the evaluator's metrics; empty if it is not installed."""
    if result.evaluator not in registry.list_entries("evaluators"):
        return {}
    try:
        metrics = load_evaluator(result.evaluator).metrics
    except BenchError:
        return {}
    return {metric.name: metric.bounds for metric in metrics if metric.bounds is not None}


def _scored_image(
    row: _ScoreRow,
    metric_order: Sequence[str],
    bounds: Mapping[str, tuple[float, float]],
) -> ScoredImage:
    """Return a row of sample scores as the gallery shows it."""
    metric = _main_metric(row, metric_order)
    value = None
    score_text = ""
    if metric is not None and math.isfinite(row.scores[metric]):
        score = row.scores[metric]
        low, high = bounds.get(metric, (0.0, 100.0 if score > 1 else 1.0))
        value = min(1.0, max(0.0, (score - low) / (high - low)))
        score_text = f"{score:.4g}"
    evidence = _read_evidence(row)
    return ScoredImage(
        index=row.index,
        prompt_index=row.prompt_index,
        copy=row.copy_number,
        prompt=row.prompt,
        task=row.task,
        value=value,
        score_text=score_text,
        reason=row.reason[:MAX_REASON_LENGTH],
        detections=_evidence_boxes(evidence),
        threshold=evidence.threshold,
        answers=tuple(
            f"{answer.question} {answer.answer or 'no answer'}"
            for answer in evidence.zero_questions[:MAX_ANSWERS]
        ),
    )


def _main_metric(row: _ScoreRow, metric_order: Sequence[str]) -> str | None:
    """Return the metric of the image: that of its task, else the first of the result."""
    for name in (row.task, *metric_order, *sorted(row.scores)):
        if name in row.scores:
            return name
    return None


def _read_evidence(row: _ScoreRow) -> _Evidence:
    """Return what the gallery shows of an evidence; empty if it is of an unknown form."""
    try:
        return _Evidence.model_validate(row.evidence)
    except ValidationError:
        return _Evidence()


def _evidence_boxes(evidence: _Evidence) -> tuple[DrawnBox, ...]:
    """Return the detections in an evidence, each once, by descending score."""
    boxes = {
        DrawnBox(
            f"{detection.colour} {clause.expected.name}".strip(),
            detection.score,
            detection.box,
            detection.score >= evidence.threshold,
        ): None
        for clause in evidence.clauses
        for detection in clause.detections
    }
    return _strongest_boxes(boxes)


def _strongest_boxes(boxes: Iterable[DrawnBox]) -> tuple[DrawnBox, ...]:
    """Return the MAX_BOXES strongest detections whose numbers are finite."""
    finite_boxes = [box for box in boxes if all(map(math.isfinite, (box.score, *box.box)))]
    finite_boxes.sort(key=lambda box: (-box.score, box.label, box.box))
    return tuple(finite_boxes[:MAX_BOXES])


# ---------------------------------------------------------------------------------- detections


def read_detections(
    stored_result: StoredResult, scores: Mapping[int, ScoredImage], indices: Collection[int]
) -> dict[int, tuple[DrawnBox, ...]]:
    """Return the stored detections of these images by index.

    Detections below an image's threshold are included but do not count. Annotations that were
    altered or that cannot be read are left out.
    """
    detections: dict[int, tuple[DrawnBox, ...]] = {}
    for folder in sorted((run_folder_of(stored_result.path) / ANNOTATIONS_FOLDER).glob("*")):
        if not _is_detector_folder(folder, stored_result.result):
            continue
        try:
            lines = read_lines(folder / ANNOTATIONS_FILE)
        except BenchError:
            continue
        for line in lines:
            index = line.get("index")
            if isinstance(index, int) and index in indices and index in scores:
                boxes = _annotation_boxes(line.get("annotation"), scores[index].threshold)
                if boxes is not None:
                    detections[index] = boxes
    return detections


def _is_detector_folder(folder: Path, result: Result) -> bool:
    """Return whether a folder has intact annotations of a result's detector."""
    names = {record.name for role, record in result.judges.items() if role.startswith("detector")}
    if not result.judges:  # early results have one judge for all roles
        names = {result.judge.name}
    if not checksums.is_intact(folder, ANNOTATIONS_FILE):
        return False
    try:
        fields = parse_json(read_if_present(folder / JUDGE_FILE) or b"{}")
    except (BenchError, ValueError):
        return False
    return isinstance(fields, dict) and fields.get("name") in names


def _annotation_boxes(value: object, threshold: float) -> tuple[DrawnBox, ...] | None:
    """Return the boxes of a stored annotation; None if it is not one of a detector."""
    if not isinstance(value, dict) or "detections" not in value:
        return None
    try:
        annotation = DetectionAnnotation.model_validate(value)
    except ValidationError:
        return None
    return _strongest_boxes(
        DrawnBox(detection.label, detection.score, detection.box, detection.score >= threshold)
        for detection in annotation.detections
        if detection.score >= min(threshold, MIN_DETECTION_SCORE)
    )


# ------------------------------------------------------------------------------- several runs


def disagreement(images: Sequence[ScoredImage | None]) -> float:
    """Return the largest difference of scores of one request, 0 to 1; 0 with fewer than two."""
    values = [image.value for image in images if image is not None and image.value is not None]
    return max(values) - min(values) if len(values) > 1 else 0.0


def mean_value(images: Sequence[ScoredImage | None]) -> float:
    """Return the mean score of one request; 1 without a score, so that it is sorted last."""
    values = [image.value for image in images if image is not None and image.value is not None]
    return sum(values) / len(values) if values else 1.0


def count_outcomes(runs: Sequence[Mapping[int, ScoredImage]]) -> tuple[TaskOutcome, ...]:
    """Return the outcomes of each task, and of all tasks if there are several.

    A prompt's score is the mean over the images that all runs have a score of.
    """
    prompt_means = _prompt_means(runs)
    tasks = sorted({task for task, _ in prompt_means})
    outcomes = [
        _task_outcome(task, [means for (name, _), means in prompt_means.items() if name == task])
        for task in tasks
    ]
    if len(tasks) > 1:
        outcomes.append(_task_outcome("all tasks", list(prompt_means.values())))
    return tuple(outcomes)


def _prompt_means(
    runs: Sequence[Mapping[int, ScoredImage]],
) -> dict[tuple[str, int], tuple[float, ...]]:
    """Return the mean score of each run by task and prompt."""
    shared_indices = sorted(set.intersection(*(set(run) for run in runs)))
    values_by_prompt: dict[tuple[str, int], list[list[float]]] = {}
    for index in shared_indices:
        values = [run[index].value for run in runs]
        scored_values = [value for value in values if value is not None]
        if len(scored_values) == len(runs):
            key = (runs[0][index].task, runs[0][index].prompt_index)
            values_by_prompt.setdefault(key, []).append(scored_values)
    return {
        key: tuple(sum(column) / len(rows) for column in zip(*rows, strict=True))
        for key, rows in values_by_prompt.items()
    }


def _task_outcome(task: str, prompt_means: Sequence[tuple[float, ...]]) -> TaskOutcome:
    """Return how often each further run is better than, equal to or worse than the first."""
    n_runs = len(prompt_means[0])
    outcomes = []
    for run in range(1, n_runs):
        differences = [means[run] - means[0] for means in prompt_means]
        n_better = sum(difference > TOLERANCE for difference in differences)
        n_worse = sum(difference < -TOLERANCE for difference in differences)
        outcomes.append((n_better, len(differences) - n_better - n_worse, n_worse))
    return TaskOutcome(task, len(prompt_means), tuple(outcomes))
