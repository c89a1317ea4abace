"""Evaluator geneval: fraction of images that show what the prompt asks for, by task.

The rule is evaluators/rules/geneval.py. It reads a detector's detections and, if a prompt names
colours, the colours of the detections with the highest scores.

Source: djghosh13/geneval af4902f2, evaluation/evaluate_images.py and summary_scores.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from harope_bench.core.annotations import (
    ColourAnnotation,
    ColourObject,
    ColourQuery,
    Detection,
    DetectionAnnotation,
    DetectionQuery,
    Query,
)
from harope_bench.core.errors import ShapeError
from harope_bench.core.schema import Metric
from harope_bench.evaluators.base import (
    AnnotatedImage,
    Annotations,
    AnnotatorRole,
    Metadata,
    SampleScore,
    WeightedScore,
)
from harope_bench.evaluators.prompt_scores import PromptEvaluator
from harope_bench.evaluators.rules import geneval as rule

TITLES = {
    "single_object": "Single object",
    "two_object": "Two objects",
    "counting": "Counting",
    "colors": "Colors",
    "position": "Position",
    "color_attr": "Attribute binding",
    "overall": "Overall (mean of the six tasks)",
    "images_correct": "Correct images",
    "prompts_correct": "Prompts with a correct image",
}
CORRECT_REASON = "as expected"  # the reason of a correct image
MAX_LISTED = 5  # indices that a note lists


class OfficialVerdict(NamedTuple):
    """The verdict of the official script on an image, from its results file."""

    is_correct: bool
    reason: str


def detection_query(metadata: Metadata, annotations: Annotations) -> Query | None:
    """Return the query for the classes that the prompt names."""
    return DetectionQuery(names=rule.PromptSpec.model_validate(metadata).names)


def colour_query(metadata: Metadata, annotations: Annotations) -> Query | None:
    """Return the query for the detections whose colour counts.

    None if the prompt names no colour or too few objects are detected.
    """
    detections = _detections(annotations)
    prompt_spec = rule.PromptSpec.model_validate(metadata)
    objects = []
    for index in rule.colour_query_indices(prompt_spec, detections):
        detection = detections[index]
        objects.append(ColourObject(name=detection.label, box=detection.box, mask=detection.mask))
    return ColourQuery(objects=tuple(objects), candidates=rule.COLOURS) if objects else None


def needs_colour(metadata: Metadata) -> bool:
    """Return whether a prompt asks for an object of a colour."""
    prompt_spec = rule.PromptSpec.model_validate(metadata)
    return any(clause.color is not None for clause in prompt_spec.include)


def _detections(annotations: Annotations) -> tuple[Detection, ...]:
    """Return the detections of an image.

    Raises:
        ShapeError: The detector has not annotated the image.
    """
    annotation = annotations.get("detector")
    if not isinstance(annotation, DetectionAnnotation):
        raise ShapeError("an image has no annotation of the detector; annotate the images again")
    return annotation.detections


class GenEvalEvaluator(PromptEvaluator):
    """Evaluator of six tasks, their mean, and the two fractions of the official summary.

    Args:
        official_verdicts: verdicts of the official script by sample index, from an imported
            results file. Under the official rules they replace those of the rule.
    """

    version = 3
    title = "GenEval"
    profile = "geneval"
    parity = (
        "the rule equals a slow one written from the script's description, on thousands of random"
        " scenes and on every edge case (tests/evaluators/test_geneval.py); results files of the"
        " script are reproduced to the last digit; each judge states its own parity"
    )
    metrics = tuple(
        # With more images a prompt is more likely to have a correct one.
        Metric(
            name=name,
            title=title,
            direction="higher",
            unit="fraction",
            decimals=3,
            needs_equal_copies=name == "prompts_correct",
        )
        for name, title in TITLES.items()
    )
    metadata_key = "geneval"
    annotator_roles = (
        AnnotatorRole("detector", detection_query),
        AnnotatorRole("colours", colour_query, needs_colour),
    )
    macro_metrics = {"overall": rule.TASKS}

    def __init__(self, official_verdicts: Mapping[int, OfficialVerdict] | None = None):
        self.official_verdicts = official_verdicts or {}

    def task(self, metadata: Metadata) -> str:
        """Return the prompt's tag."""
        return str(metadata["tag"])

    def metrics_of_prompt(self, metadata: Metadata) -> tuple[str, ...]:
        """Return the prompt's task and the two fractions."""
        return (self.task(metadata), "images_correct", "prompts_correct")

    def score_sample(self, metadata: Metadata, annotations: Annotations, rules: str) -> SampleScore:
        """Return 1 for a correct image, else 0, with the detections and colours as evidence."""
        prompt_spec = rule.PromptSpec.model_validate(metadata)
        detections = _detections(annotations)
        colour_indices = rule.colour_query_indices(prompt_spec, detections)
        colours = _detected_colours(colour_indices, annotations)
        verdict = rule.evaluate_image(prompt_spec, detections, colours, rules)
        return SampleScore(
            prompt_spec.tag,
            _image_scores(prompt_spec.tag, verdict.is_correct),
            "; ".join(verdict.reasons) or CORRECT_REASON,
            evidence=_evidence(prompt_spec, detections, colours, verdict),
        )

    def finalize_scores(
        self,
        annotated_images: Sequence[AnnotatedImage],
        sample_scores: Sequence[SampleScore | None],
        rules: str,
    ) -> Sequence[SampleScore | None]:
        """Return the scores with imported verdicts and with the score of the image's prompt.

        A prompt scores 1 if any of its images is correct.
        """
        if rules == "official":
            sample_scores = [
                _with_official_verdict(score, self.official_verdicts.get(image.index))
                for image, score in zip(annotated_images, sample_scores, strict=True)
            ]

        image_scores: dict[int, list[float]] = defaultdict(list)  # by prompt index
        for image, score in zip(annotated_images, sample_scores, strict=True):
            if score is not None:
                image_scores[image.prompt_index].append(score.scores["images_correct"].total)
        max_images = max(map(len, image_scores.values()), default=1)
        return [
            _with_prompt_score(score, image_scores[image.prompt_index], max_images)
            for image, score in zip(annotated_images, sample_scores, strict=True)
        ]

    def notes(
        self,
        annotated_images: Sequence[AnnotatedImage],
        sample_scores: Sequence[SampleScore | None],
        rules: str,
    ) -> tuple[str, ...]:
        """Return notes on unknown tasks and on the agreement with imported verdicts."""
        tasks = {self.task(image.metadata) for image in annotated_images}
        unknown_tasks = sorted(tasks - set(rule.TASKS))
        notes: tuple[str, ...] = ()
        if unknown_tasks:
            notes = (
                (
                    f"tasks: {', '.join(unknown_tasks)} are none of GenEval's six and count only in"
                    " images_correct and prompts_correct"
                ),
            )
        return notes + self._agreement_note(annotated_images)

    def _agreement_note(self, annotated_images: Sequence[AnnotatedImage]) -> tuple[str, ...]:
        """Return how many imported verdicts the rule reproduces; empty without imported ones."""
        imported_images = [
            image
            for image in annotated_images
            if image.index in self.official_verdicts and image.failure is None
        ]
        if not imported_images:
            return ()

        differing_indices = []
        for image in imported_images:
            score = self.score_sample(image.metadata, image.annotations, "official")
            if _is_correct(score) != self.official_verdicts[image.index].is_correct:
                differing_indices.append(image.index)
        exceptions = ""
        if differing_indices:
            index_list = ", ".join(map(str, differing_indices[:MAX_LISTED]))
            exceptions = f"; not on {index_list}{' ...' * (len(differing_indices) > MAX_LISTED)}"
        n_agreeing = len(imported_images) - len(differing_indices)
        return (
            (
                "verdicts: those of the official script; the rule on its boxes and reasons agrees"
                f" on {n_agreeing:,} of {len(imported_images):,}{exceptions}"
            ),
        )


def _image_scores(tag: str, is_correct: bool) -> dict[str, WeightedScore]:
    """Return the scores of one image in its task and in the fraction of correct images."""
    score = WeightedScore(float(is_correct))
    return {tag: score, "images_correct": score}


def _is_correct(sample_score: SampleScore) -> bool:
    return sample_score.scores["images_correct"].total == 1


def _with_official_verdict(
    sample_score: SampleScore | None, official_verdict: OfficialVerdict | None
) -> SampleScore | None:
    """Return the score with the official verdict, if there is one, in place of the rule's."""
    if sample_score is None or official_verdict is None:
        return sample_score
    return replace(
        sample_score,
        scores=_image_scores(sample_score.task, official_verdict.is_correct),
        reason=official_verdict.reason or CORRECT_REASON,
        evidence={**sample_score.evidence, "rule_reason": sample_score.reason},
    )


def _with_prompt_score(
    sample_score: SampleScore | None, image_scores: Sequence[float], max_images: int
) -> SampleScore | None:
    """Return the score with the image's part of its prompt's score.

    The weights give every prompt the same weight, whatever its number of images.

    Args:
        sample_score: score of one image.
        image_scores: scores of all images of its prompt.
        max_images: the largest number of images of any prompt.
    """
    if sample_score is None:
        return None
    weight = max_images / len(image_scores)
    prompt_score = WeightedScore(weight * max(image_scores), weight)
    return replace(sample_score, scores={**sample_score.scores, "prompts_correct": prompt_score})


def _detected_colours(indices: Sequence[int], annotations: Annotations) -> dict[int, str]:
    """Return the colour of each queried detection, by its index.

    Raises:
        ShapeError: The annotation has another number of colours.
    """
    annotation = annotations.get("colours")
    probabilities: Sequence[Sequence[float]] = ()
    if isinstance(annotation, ColourAnnotation):
        probabilities = annotation.probabilities
    if len(probabilities) != len(indices):
        raise ShapeError(
            f"the colours of {len(indices)} objects were queried, the annotation has"
            f" {len(probabilities)}; annotate the images again"
        )
    return {
        index: rule.likeliest_colour(colour_probabilities)
        for index, colour_probabilities in zip(indices, probabilities, strict=True)
    }


def _evidence(
    prompt_spec: rule.PromptSpec,
    detections: Sequence[Detection],
    colours: Mapping[int, str],
    verdict: rule.ImageVerdict,
) -> dict[str, object]:
    """Return the detections that each clause was checked for, as JSON values.

    If a clause has too few of them, the highest score of its class is included.
    """
    clauses = []
    for clause, clause_result in zip(prompt_spec.include, verdict.clauses, strict=True):
        row: dict[str, object] = {
            "expected": clause.model_dump(by_alias=True, exclude_none=True),
            "is_met": clause_result.failure is None,
            "detections": [
                _detection_json(detections[index], colours.get(index))
                for index in clause_result.detections
            ],
        }
        class_scores = [d.score for d in detections if d.label == clause.name]
        if len(clause_result.detections) < clause.count and class_scores:
            row["best_score_of_class"] = max(class_scores)
        clauses.append(row)
    return {"threshold": rule.detection_threshold(prompt_spec.tag), "clauses": clauses}


def _detection_json(detection: Detection, colour: str | None) -> dict[str, object]:
    """Return score, box and colour of a detection as JSON values."""
    row: dict[str, object] = {"score": detection.score, "box": list(detection.box)}
    if colour:
        row["colour"] = colour
    return row


PLUGIN = GenEvalEvaluator()
