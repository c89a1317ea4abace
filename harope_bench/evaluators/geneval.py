"""Evaluator geneval: share of images that show what the prompt asks for, by task, and the mean of
the six tasks.

The rule is evaluators/rules/geneval.py; it reads a detector's things and, where a prompt names
colours, what colour
the surest of them have.
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


class OfficialVerdict(NamedTuple):
    """What the official script said of an image, read from its results file."""

    is_correct: bool
    reason: str


def detection_query(facts: Metadata, seen: Annotations) -> Query | None:
    """The classes that the prompt names."""
    return DetectionQuery(names=rule.PromptSpec.model_validate(facts).names)


def colour_query(facts: Metadata, seen: Annotations) -> Query | None:
    """The things whose colour counts; None where the prompt names no colour or too few things were
    found.
    """
    found = _detections(seen)
    places = rule.colour_query_indices(rule.PromptSpec.model_validate(facts), found)
    objects = tuple(
        ColourObject(name=found[p].label, box=found[p].box, mask=found[p].mask) for p in places
    )
    return ColourQuery(objects=objects, candidates=rule.COLOURS) if objects else None


def needs_colour(facts: Metadata) -> bool:
    """Return whether a prompt asks for a thing of a colour."""
    return any(clause.color is not None for clause in rule.PromptSpec.model_validate(facts).include)


def _detections(seen: Annotations) -> tuple[Detection, ...]:
    sighting = seen.get("detector")
    if not isinstance(sighting, DetectionAnnotation):
        raise ShapeError("no detector's answer to judge by; have the images judged again")
    return sighting.detections


class GenEvalEvaluator(PromptEvaluator):
    """Six tasks, their mean, and the two shares that the official summary prints.

    verdicts: the official script's own, by index, in place of the rule's under the official rules
    (an imported results file).
    """

    version = 3
    profile = "geneval"
    parity = (
        "the rule equals a slow one written from the script's description, on thousands of random"
        " scenes and on every edge case (tests/evaluators/test_geneval.py); finished runs of the"
        " script are read back to the digit; judges' parity is the judges' own"
    )
    metrics = tuple(
        # a prompt is the more likely to have a correct image the more images it has
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

    def __init__(self, verdicts: Mapping[int, OfficialVerdict] | None = None):
        self.verdicts = verdicts or {}

    def task(self, facts: Metadata) -> str:
        """The prompt's tag."""
        return str(facts["tag"])

    def metrics_of_prompt(self, facts: Metadata) -> tuple[str, ...]:
        """Its task and the two shares."""
        return (self.task(facts), "images_correct", "prompts_correct")

    def score_sample(self, facts: Metadata, seen: Annotations, rules: str) -> SampleScore:
        """Right or wrong, with the things and colours that decided it."""
        wanted = rule.PromptSpec.model_validate(facts)
        found = _detections(seen)
        colours = _detected_colours(rule.colour_query_indices(wanted, found), seen)
        verdict = rule.evaluate_image(wanted, found, colours, rules)
        reason = "; ".join(verdict.reasons) or "as asked"
        return SampleScore(
            wanted.tag,
            _parts(wanted.tag, verdict.is_correct),
            reason,
            evidence=_evidence(wanted, found, colours, verdict),
        )

    def finalize_scores(
        self, sights: Sequence[AnnotatedImage], marks: Sequence[SampleScore | None], rules: str
    ) -> Sequence[SampleScore | None]:
        """Marks with the official script's verdicts where they were imported, and whether any image
        of the prompt is right.
        """
        if rules == "official":
            marks = [
                _with_official_verdict(mark, self.verdicts.get(sight.index))
                for sight, mark in zip(sights, marks, strict=True)
            ]
        of_prompt: dict[int, list[float]] = defaultdict(list)
        for sight, mark in zip(sights, marks, strict=True):
            if mark is not None:
                of_prompt[sight.prompt_index].append(mark.scores["images_correct"].total)
        most = max(map(len, of_prompt.values()), default=1)
        return [
            _with_prompt_score(mark, of_prompt[sight.prompt_index], most)
            for sight, mark in zip(sights, marks, strict=True)
        ]

    def notes(
        self, sights: Sequence[AnnotatedImage], marks: Sequence[SampleScore | None], rules: str
    ) -> tuple[str, ...]:
        """Tasks that are none of the six, and how far the rule says what an imported file says."""
        unknown = sorted({self.task(s.metadata) for s in sights} - set(rule.TASKS))
        told = (
            (
                (
                    f"tasks: {', '.join(unknown)} are none of GenEval's six and stand in no score"
                    " but the shares"
                ),
            )
            if unknown
            else ()
        )
        return told + self._agreement(sights)

    def _agreement(self, sights: Sequence[AnnotatedImage]) -> tuple[str, ...]:
        held = [s for s in sights if s.index in self.verdicts and s.failure is None]
        if not held:
            return ()
        other = [
            s.index
            for s in held
            if _is_correct(self.score_sample(s.metadata, s.annotations, "official"))
            != self.verdicts[s.index].is_correct
        ]
        where = (
            f"; not on {', '.join(map(str, other[:5]))}{' ...' * (len(other) > 5)}" if other else ""
        )
        same = f"{len(held) - len(other):,} of {len(held):,}"
        return (
            (
                "verdicts: the official script's; the rule read from its boxes and reasons agrees"
                f" on {same}{where}"
            ),
        )


def _parts(tag: str, correct: bool) -> dict[str, WeightedScore]:
    return {tag: WeightedScore(float(correct)), "images_correct": WeightedScore(float(correct))}


def _is_correct(mark: SampleScore) -> bool:
    return mark.scores["images_correct"].total == 1


def _with_official_verdict(
    mark: SampleScore | None, official: OfficialVerdict | None
) -> SampleScore | None:
    if mark is None or official is None:
        return mark
    evidence = {**mark.evidence, "rule": mark.reason}
    return replace(
        mark,
        scores=_parts(mark.task, official.is_correct),
        reason=official.reason or "as asked",
        evidence=evidence,
    )


def _with_prompt_score(
    mark: SampleScore | None, correct: Sequence[float], most: int
) -> SampleScore | None:
    """The image's share in its prompt, so that every prompt weighs the same, however many of its
    images there are.
    """
    if mark is None:
        return None
    weight = most / len(correct)
    return replace(
        mark,
        scores={**mark.scores, "prompts_correct": WeightedScore(weight * max(correct), weight)},
    )


def _detected_colours(places: Sequence[int], seen: Annotations) -> dict[int, str]:
    """The colour of each thing that was asked about, by its place."""
    answer = seen.get("colours")
    shares = answer.probabilities if isinstance(answer, ColourAnnotation) else ()
    if len(shares) != len(places):
        raise ShapeError(
            f"{len(places)} things were to be named a colour, the judge named {len(shares)}; have"
            " the images judged again"
        )
    return {
        place: rule.likeliest_colour(share) for place, share in zip(places, shares, strict=True)
    }


def _evidence(
    wanted: rule.PromptSpec,
    found: Sequence[Detection],
    colours: Mapping[int, str],
    verdict: rule.ImageVerdict,
) -> dict[str, object]:
    """What each clause was asked of, as JSON: boxes, scores, colours, and the surest thing of the
    class where there were too few.
    """
    clauses = []
    for clause, held in zip(wanted.include, verdict.clauses, strict=True):
        things = [_detection_json(found[place], colours.get(place)) for place in held.detections]
        row: dict[str, object] = {
            "wanted": clause.model_dump(by_alias=True, exclude_none=True),
            "held": held.failure is None,
            "things": things,
        }
        below = [thing.score for thing in found if thing.label == clause.name]
        if len(held.detections) < clause.count and below:
            row["surest_of_class"] = max(below)
        clauses.append(row)
    return {"threshold": rule.threshold(wanted.tag), "clauses": clauses}


def _detection_json(thing: Detection, colour: str | None) -> dict[str, object]:
    row: dict[str, object] = {"score": thing.score, "box": list(thing.box)}
    return row | ({"colour": colour} if colour else {})


PLUGIN = GenEvalEvaluator()
