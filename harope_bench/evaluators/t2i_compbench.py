"""Evaluator t2i-compbench: the eight categories of T2I-CompBench(++).

BLIP-VQA, UniDet, DPT and CLIP annotate the images. A category's value is the mean over its images.
The rules are evaluators/rules/compbench_*.py, and compbench_quirks.py lists their oddities by id.
Where an official script would crash, the image has no score: it counts as unread, and the metric is
None unless the run is scored leniently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from harope_bench.core.annotations import (
    DepthAnnotation,
    DepthQuery,
    DetectionAnnotation,
    DetectionQuery,
    SimilarityAnnotation,
    SimilarityQuery,
    VqaAnnotation,
    VqaQuery,
)
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
from harope_bench.evaluators.rules.compbench_aggregates import (
    COMPLEX_PARTS,
    MAX_CHUNKS,
    attribute_score,
    three_in_one,
)
from harope_bench.evaluators.rules.compbench_numeracy import parse_object_counts, score_numeracy
from harope_bench.evaluators.rules.compbench_quirks import CORRECTIONS, QUIRKS, RuleOutcome, Rules
from harope_bench.evaluators.rules.compbench_spatial import (
    UNIDET_MISSING_NOUNS,
    depth_boxes,
    detector_nouns,
    score_2d,
    score_3d,
)

METRICS = {  # metric of each category
    "color": "color",
    "shape": "shape",
    "texture": "texture",
    "spatial": "spatial_2d",
    "3d_spatial": "spatial_3d",
    "numeracy": "numeracy",
    "non_spatial": "non_spatial",
    "complex": "complex",
}
ATTRIBUTES = ("color", "shape", "texture")
NO_ANNOTATION_TEXT = "no annotation of the {} annotator"
# What the 3-in-1 score owes to the cosine, as a factor of the cosine: 212 of 300 prompts count it
# by half, 30 by a third.
COSINE_FLOOR = 0.387
PUBLISHED_COMPLEX_RANGE = "0.077 to 0.108"  # Complex in Table 5 of arXiv 2510.10489


def first_and_last_noun(metadata: Metadata) -> tuple[str, ...]:
    """Return the two objects of a spatial prompt, its first and its last noun."""
    nouns = metadata["nouns"]
    return (nouns[0], nouns[-1]) if nouns else ()


def _has_complex_part(metadata: Metadata, part: str) -> bool:
    """Return whether a complex prompt has a part under either set of rules."""
    if metadata["category"] != "complex":
        return False
    return any(part in COMPLEX_PARTS.get(kind or "", ()) for kind in metadata["kinds"].values())


def spatial_objects(metadata: Metadata) -> tuple[str, ...]:
    """Return the objects whose position in the image counts; empty if none does."""
    if metadata["category"] == "spatial":
        return first_and_last_noun(metadata)
    if _has_complex_part(metadata, "spatial"):
        return tuple(metadata["objects"])
    return ()


def vqa_query(metadata: Metadata, annotations: Annotations) -> VqaQuery | None:
    """Return the query with one question per noun chunk."""
    chunks = metadata.get("chunks", ())[:MAX_CHUNKS]
    return VqaQuery(questions=tuple(f"{chunk}?" for chunk in chunks)) if chunks else None


def detection_2d_query(metadata: Metadata, annotations: Annotations) -> DetectionQuery | None:
    """Return the query for the two objects of a 2D relation."""
    nouns = spatial_objects(metadata)
    if len(nouns) != 2:
        return None
    return DetectionQuery(names=tuple(dict.fromkeys(detector_nouns(nouns))))


def detection_query(metadata: Metadata, annotations: Annotations) -> DetectionQuery | None:
    """Return the query for the objects of a 3D or a numeracy prompt."""
    names: tuple[str, ...] = ()
    if metadata["category"] == "3d_spatial":
        names = detector_nouns(first_and_last_noun(metadata))
    elif metadata["category"] == "numeracy":
        names = parse_object_counts(metadata["text"], metadata["known"], "corrected").names
    return DetectionQuery(names=tuple(dict.fromkeys(names))) if names else None


def depth_query(metadata: Metadata, annotations: Annotations) -> DepthQuery | None:
    """Return the query for the boxes of the two objects of a 3D relation, if both are detected."""
    detections = annotations.get("detector")
    if (
        metadata["category"] != "3d_spatial"
        or not isinstance(detections, DetectionAnnotation)
        or not metadata["nouns"]
    ):
        return None
    boxes = depth_boxes(first_and_last_noun(metadata), detections)
    return DepthQuery(boxes=tuple(boxes)) if boxes else None


def similarity_query(metadata: Metadata, annotations: Annotations) -> SimilarityQuery | None:
    """Return the query with the prompt; of a complex prompt, its text without adjectives.

    A complex prompt without an action has none.
    """
    if metadata["category"] == "non_spatial":
        return SimilarityQuery(texts=(metadata["text"],))
    if _has_complex_part(metadata, "action"):
        return SimilarityQuery(texts=(metadata["no_adj"],))
    return None


def score_attribute_annotations(
    metadata: Metadata, annotations: Annotations, rules: Rules
) -> RuleOutcome:
    """Return the product of BLIP's probabilities of yes."""
    if not metadata["chunks"]:
        return attribute_score(yes_probabilities=(), rules=rules)
    annotation = annotations.get("vqa")
    if not isinstance(annotation, VqaAnnotation):
        return RuleOutcome(None, NO_ANNOTATION_TEXT.format("vqa"))

    probabilities = [
        answer.yes_probability
        for answer in annotation.answers
        if answer.yes_probability is not None
    ]
    if len(probabilities) < len(annotation.answers):
        return RuleOutcome(
            None,
            f"an answer has no probability of yes ({annotation.answers[0].text[:40]!r}); the rule"
            " multiplies probabilities",
        )
    return attribute_score(probabilities, rules)


def score_2d_annotations(metadata: Metadata, annotations: Annotations, rules: Rules) -> RuleOutcome:
    """Return the score of presence and position of two objects."""
    nouns = spatial_objects(metadata)
    detections = annotations.get("detector-2d")
    if len(nouns) != 2:  # such an image has no query, so the rule gets an empty annotation
        detections = DetectionAnnotation(size=(1, 1), detections=())
    if not isinstance(detections, DetectionAnnotation):
        return RuleOutcome(None, NO_ANNOTATION_TEXT.format("detector-2d"))
    return score_2d(metadata["text"], nouns, detections, rules)


def score_3d_annotations(metadata: Metadata, annotations: Annotations, rules: Rules) -> RuleOutcome:
    """Return the score of presence and depth of two objects."""
    detections = annotations.get("detector")
    depth = annotations.get("depth")
    if not metadata["nouns"]:
        return RuleOutcome(
            None, "no noun was read in the prompt (the official script crashes: IndexError)"
        )
    if not isinstance(detections, DetectionAnnotation):
        return RuleOutcome(None, NO_ANNOTATION_TEXT.format("detector"))
    depths = depth.depths if isinstance(depth, DepthAnnotation) else ()
    return score_3d(metadata["text"], first_and_last_noun(metadata), detections, depths, rules)


def score_numeracy_annotations(
    metadata: Metadata, annotations: Annotations, rules: Rules
) -> RuleOutcome:
    """Return the score of presence and number of objects."""
    detections = annotations.get("detector")
    if not isinstance(detections, DetectionAnnotation):
        expected = parse_object_counts(metadata["text"], metadata["known"], rules)
        return RuleOutcome(None, expected.failure or NO_ANNOTATION_TEXT.format("detector"))
    return score_numeracy(metadata["text"], metadata["known"], detections, rules)


def score_similarity_annotations(
    metadata: Metadata, annotations: Annotations, rules: Rules
) -> RuleOutcome:
    """Return CLIP's cosine of image and text, or None as the value without an annotation."""
    annotation = annotations.get("similarity")
    if not isinstance(annotation, SimilarityAnnotation) or not annotation.cosines:
        return RuleOutcome(None, NO_ANNOTATION_TEXT.format("similarity"))
    return RuleOutcome(annotation.cosines[0], f"cosine {annotation.cosines[0]:.4f}")


# All rules take the same parameters; a rule ignores those that it does not need.
CATEGORY_RULES: Mapping[str, Callable[[Metadata, Annotations, Rules], RuleOutcome]] = {
    **dict.fromkeys(ATTRIBUTES, score_attribute_annotations),
    "spatial": score_2d_annotations,
    "3d_spatial": score_3d_annotations,
    "numeracy": score_numeracy_annotations,
    "non_spatial": score_similarity_annotations,
}
PART_RULES = {  # rules of the parts of a complex prompt
    "attribute": score_attribute_annotations,
    "spatial": score_2d_annotations,
    "action": score_similarity_annotations,
}


class T2ICompBenchEvaluator(PromptEvaluator):
    """Evaluator of the eight categories.

    Args:
        official_outcomes: outcomes of a finished official run by sample index, which replace those
            of the rules (suites/official_layouts/compbench_results.py).
        official_notes: notes on that run.
    """

    version = 3
    title = "T2I-CompBench"
    profile = "t2i-compbench"
    parity = (
        "rules restated from Karine-Huang/T2I-CompBench 1b709499: position, the search for objects"
        " and numeracy equal plain restatements of its scripts on random scenes, each quirk has a"
        " test case under both sets of rules (tests/evaluators/test_compbench_rules.py); result"
        " files of its scripts are read to the last digit; nouns and noun chunks are those of"
        " en_core_web_sm 3.6.0, the official version 3.5.0 was not compared; no annotation of the"
        " official networks was available"
    )
    metrics = (
        Metric(
            name="color", title="Color (BLIP-VQA)", direction="higher", unit="score0-1", decimals=4
        ),
        Metric(
            name="shape", title="Shape (BLIP-VQA)", direction="higher", unit="score0-1", decimals=4
        ),
        Metric(
            name="texture",
            title="Texture (BLIP-VQA)",
            direction="higher",
            unit="score0-1",
            decimals=4,
        ),
        Metric(
            name="spatial_2d",
            title="2D-Spatial (UniDet)",
            direction="higher",
            unit="score0-1",
            decimals=4,
        ),
        Metric(
            name="spatial_3d",
            title="3D-Spatial (UniDet, DPT)",
            direction="higher",
            unit="score0-1",
            decimals=4,
        ),
        Metric(
            name="numeracy",
            title="Numeracy (UniDet)",
            direction="higher",
            unit="score0-1",
            decimals=4,
        ),
        Metric(
            name="non_spatial",
            title="Non-Spatial (CLIP)",
            direction="higher",
            unit="clip-cosine",
            decimals=4,
        ),
        Metric(
            name="complex",
            title="Complex (3-in-1)",
            direction="higher",
            unit="score0-1",
            decimals=4,
        ),
    )
    metadata_key = "compbench"
    annotator_roles = (
        AnnotatorRole(
            "vqa", vqa_query, lambda metadata: vqa_query(metadata, annotations={}) is not None
        ),
        AnnotatorRole(
            "detector-2d",
            detection_2d_query,
            lambda metadata: detection_2d_query(metadata, annotations={}) is not None,
        ),
        AnnotatorRole(
            "detector",
            detection_query,
            lambda metadata: detection_query(metadata, annotations={}) is not None,
        ),
        AnnotatorRole("depth", depth_query, lambda metadata: metadata["category"] == "3d_spatial"),
        AnnotatorRole(
            "similarity",
            similarity_query,
            lambda metadata: similarity_query(metadata, annotations={}) is not None,
        ),
    )

    def __init__(
        self,
        official_outcomes: Mapping[int, RuleOutcome] | None = None,
        official_notes: tuple[str, ...] = (),
    ):
        self.official_outcomes = official_outcomes
        self.official_notes = official_notes

    def task(self, metadata: Metadata) -> str:
        """Return the prompt's category."""
        return str(metadata["category"])

    def metrics_of_prompt(self, metadata: Metadata) -> tuple[str, ...]:
        """Return the metric of the prompt's category."""
        return (METRICS[metadata["category"]],)

    def score_sample(
        self, metadata: Metadata, annotations: Annotations, rules: Rules
    ) -> SampleScore:
        """Return the score of one image.

        It is unread if the official script would crash or an annotation is missing.
        """
        category = metadata["category"]
        if category == "complex":
            return self._score_complex(metadata, annotations, rules)
        return _sample_score(category, CATEGORY_RULES[category](metadata, annotations, rules))

    def _score_complex(
        self, metadata: Metadata, annotations: Annotations, rules: Rules
    ) -> SampleScore:
        """Return the 3-in-1 score of an image of a complex prompt."""
        kind = metadata["kinds"][rules]
        outcomes = {
            part: PART_RULES[part](metadata, annotations, rules)
            for part in COMPLEX_PARTS.get(kind or "", ())
        }
        evidence: dict[str, object] = {
            part: {"score": outcome.value, "reason": outcome.reason}
            for part, outcome in outcomes.items()
        }
        evidence["kind"] = kind

        missing_parts = [
            part
            for part, outcome in outcomes.items()
            if outcome.value is None and not _can_be_excluded(part, metadata, rules)
        ]
        if missing_parts:
            part = missing_parts[0]
            return _sample_score(
                "complex", RuleOutcome(None, f"{part}: {outcomes[part].reason}"), evidence
            )
        evidence["floor"] = _cosine_floor(kind, outcomes)
        mean_outcome = three_in_one(
            kind, {part: outcome.value for part, outcome in outcomes.items()}
        )
        return _sample_score("complex", mean_outcome, evidence)

    def finalize_scores(
        self,
        annotated_images: Sequence[AnnotatedImage],
        sample_scores: Sequence[SampleScore | None],
        rules: Rules,
    ) -> Sequence[SampleScore | None]:
        """Return the scores; those of a finished official run if one was imported."""
        if self.official_outcomes is None:
            return sample_scores
        imported_scores: list[SampleScore | None] = []
        for image in annotated_images:
            outcome = self.official_outcomes.get(image.index)
            category = image.metadata["category"]
            imported_scores.append(_sample_score(category, outcome) if outcome else None)
        return imported_scores

    def notes(
        self,
        annotated_images: Sequence[AnnotatedImage],
        sample_scores: Sequence[SampleScore | None],
        rules: Rules,
    ) -> tuple[str, ...]:
        """Return the quirks of the rules by id, and ceilings and floors for this run's prompts."""
        if self.official_outcomes is not None:
            return self.official_notes
        return (
            _rules_note(rules),
            *_detector_ceiling_note(annotated_images, rules),
            *_presence_note(sample_scores),
            *_complex_floor_note(sample_scores),
        )


def _rules_note(rules: Rules) -> str:
    """Return which quirks a set of rules keeps and which it corrects."""
    kept_quirks = [
        name
        for name, quirk in QUIRKS.items()
        if quirk.location == "rule" and (rules == "official" or name not in CORRECTIONS)
    ]
    corrections = f"; corrected are {', '.join(CORRECTIONS)}" if rules == "corrected" else ""
    return f"rules: the {rules} rules keep {', '.join(kept_quirks)}{corrections}"


def _sample_score(
    category: str, outcome: RuleOutcome, evidence: Mapping[str, object] | None = None
) -> SampleScore:
    """Return the score of an image from the outcome of its category's rule."""
    evidence_json = dict(evidence or {})
    if outcome.presence:
        evidence_json["presence"] = outcome.presence
    if outcome.value is None:
        return SampleScore(
            category, scores={}, reason=outcome.reason, n_unread=1, evidence=evidence_json
        )
    scores = {METRICS[category]: WeightedScore(outcome.value)}
    return SampleScore(category, scores, outcome.reason, 0, evidence_json)


def _can_be_excluded(part: str, metadata: Metadata, rules: Rules) -> bool:
    """Return whether the corrected rules exclude a part of a complex prompt.

    They do if its objects or noun chunks could not be read in the prompt.
    """
    if rules != "corrected":
        return False
    if part == "spatial":
        return len(metadata["objects"]) != 2
    return part == "attribute" and not metadata["chunks"]


def _cosine_floor(kind: str | None, outcomes: Mapping[str, RuleOutcome]) -> float:
    """Return the 3-in-1 score that the cosine alone gives, without attribute and position.

    Args:
        kind: kind of the complex prompt (`complex_kind`).
        outcomes: outcomes of the rules by part of the prompt.
    """
    cosine = outcomes["action"].value if "action" in outcomes else None
    return (cosine or 0.0) / len(COMPLEX_PARTS[kind or "both"])


def _detector_ceiling_note(annotated_images: Sequence[AnnotatedImage], rules: Rules) -> list[str]:
    """Return a note on the highest 2D score that UniDet's labels allow.

    There is none if a detector found what UniDet has no label for. The evaluator does not know
    which detector was used, so the note names the labels that it counts.
    """
    spatial_images = [
        image for image in annotated_images if image.metadata["category"] == "spatial"
    ]
    detected_labels = set()
    for image in spatial_images:
        annotation = image.annotations.get("detector-2d")
        if isinstance(annotation, DetectionAnnotation):
            detected_labels |= {detection.label for detection in annotation.detections}
    if not spatial_images or rules != "official" or detected_labels & UNIDET_MISSING_NOUNS:
        return []

    unreachable_prompts = {
        image.prompt_index
        for image in spatial_images
        if set(detector_nouns(first_and_last_noun(image.metadata))) & UNIDET_MISSING_NOUNS
    }
    if not unreachable_prompts:
        return []
    prompts = {image.prompt_index for image in spatial_images}
    ceiling = 1 - len(unreachable_prompts) / len(prompts)
    return [
        f"spatial_2d: UniDet's labels allow at most {ceiling:.3f}, since none equals what"
        f" {len(unreachable_prompts)} of {len(prompts)} prompts name; another detector may allow"
        " more or less"
    ]


def _presence_note(sample_scores: Sequence[SampleScore | None]) -> list[str]:
    """Return a note on the part of the 3D score that detected objects earn."""
    scores = [score for score in sample_scores if score and "spatial_3d" in score.scores]
    if not scores:
        return []
    presence = sum(float(s.evidence.get("presence", 0.0)) for s in scores) / len(scores)
    value = sum(s.scores["spatial_3d"].total for s in scores) / len(scores)
    return [
        f"spatial_3d: {presence:.3f} of {value:.3f} is earned by detected objects, whatever their"
        " depth; two separate objects with high scores earn about 0.4"
    ]


def _complex_floor_note(sample_scores: Sequence[SampleScore | None]) -> list[str]:
    """Return a note on the part of the 3-in-1 score that the cosine gives."""
    scores = [score for score in sample_scores if score and "complex" in score.scores]
    if not scores:
        return []
    floors = [float(score.evidence["floor"]) for score in scores if "floor" in score.evidence]
    floor = sum(floors) / len(scores)
    return [
        f"complex: {floor:.3f} of it is CLIP's cosine alone ({COSINE_FLOOR} times the cosine over"
        f" all 300 prompts); the paper prints {PUBLISHED_COMPLEX_RANGE}, less than its own cosines"
        " give, so the procedure of its column is unknown"
    ]


PLUGIN = T2ICompBenchEvaluator()
