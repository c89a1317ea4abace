"""T2I-CompBench(++): eight categories, each scored by what BLIP-VQA, UniDet, DPT and CLIP saw.

A category's value is the mean over its images. The rules stand in `rules/compbench_*.py`, their
oddities by id in
`evaluators/rules/compbench_quirks.py`. Where an official script would stop, the image has no score:
it is counted as unread, and
the metric is
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

METRICS = {  # of each category
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
NO_ANNOTATION_TEXT = "no answer of the {} judge"
COSINE_FLOOR = (
    0.387  # of 3-in-1, in units of the cosine: 212 of 300 prompts count it half, 30 a third
)
PUBLISHED_COMPLEX_RANGE = "0.077 to 0.108"  # what arXiv 2510.10489 prints for Complex in Table 5


def first_and_last_noun(facts: Metadata) -> tuple[str, ...]:
    """The two objects of a spatial prompt: its first and its last noun."""
    nouns = facts["nouns"]
    return (nouns[0], nouns[-1]) if nouns else ()


def spatial_objects(facts: Metadata) -> tuple[str, ...]:
    """The objects whose place in the image counts, none where no place does."""
    if facts["category"] == "spatial":
        return first_and_last_noun(facts)
    if facts["category"] == "complex" and any(
        "spatial" in COMPLEX_PARTS.get(which or "", ()) for which in facts["kinds"].values()
    ):
        return tuple(facts["objects"])
    return ()


def vqa_query(facts: Metadata, seen: Annotations) -> VqaQuery | None:
    """Each noun chunk as a question."""
    chunks = facts.get("chunks", ())[:MAX_CHUNKS]
    return VqaQuery(questions=tuple(f"{chunk}?" for chunk in chunks)) if chunks else None


def detection_2d_query(facts: Metadata, seen: Annotations) -> DetectionQuery | None:
    """The two objects of a 2D relation."""
    nouns = spatial_objects(facts)
    return (
        DetectionQuery(names=tuple(dict.fromkeys(detector_nouns(nouns))))
        if len(nouns) == 2
        else None
    )


def detection_query(facts: Metadata, seen: Annotations) -> DetectionQuery | None:
    """The objects of a 3D or a numeracy prompt."""
    if facts["category"] == "3d_spatial":
        names = detector_nouns(first_and_last_noun(facts))
    elif facts["category"] == "numeracy":
        names = parse_object_counts(facts["text"], facts["known"], "corrected").names
    else:
        return None
    return DetectionQuery(names=tuple(dict.fromkeys(names))) if names else None


def depth_query(facts: Metadata, seen: Annotations) -> DepthQuery | None:
    """The places of the two objects of a 3D relation, where both were found."""
    sighting = seen.get("detector")
    if (
        facts["category"] != "3d_spatial"
        or not isinstance(sighting, DetectionAnnotation)
        or not facts["nouns"]
    ):
        return None
    boxes = depth_boxes(first_and_last_noun(facts), sighting)
    return DepthQuery(boxes=tuple(boxes)) if boxes else None


def similarity_query(facts: Metadata, seen: Annotations) -> SimilarityQuery | None:
    """The prompt; of a complex one with an action, its text without adjectives."""
    if facts["category"] == "non_spatial":
        return SimilarityQuery(texts=(facts["text"],))
    if facts["category"] == "complex" and any(
        "action" in COMPLEX_PARTS.get(which or "", ()) for which in facts["kinds"].values()
    ):
        return SimilarityQuery(texts=(facts["no_adj"],))
    return None


def apply_attribute_rule(facts: Metadata, seen: Annotations, rules: Rules) -> RuleOutcome:
    """The product of BLIP's answers."""
    if not facts["chunks"]:
        return attribute_score((), rules)
    answers = seen.get("vqa")
    if not isinstance(answers, VqaAnnotation):
        return RuleOutcome(None, NO_ANNOTATION_TEXT.format("vqa"))
    shares = [
        answer.yes_probability for answer in answers.answers if answer.yes_probability is not None
    ]
    if len(shares) < len(answers.answers):
        return RuleOutcome(
            None,
            f"an answer without a share of yes ({answers.answers[0].text[:40]!r}); the rule"
            " multiplies shares",
        )
    return attribute_score(shares, rules)


def apply_2d_rule(facts: Metadata, seen: Annotations, rules: Rules) -> RuleOutcome:
    """Presence and place of two objects."""
    nouns = spatial_objects(facts)
    sighting = seen.get("detector-2d")
    if len(nouns) != 2:
        return score_2d(
            facts["text"], nouns, DetectionAnnotation(size=(1, 1), detections=()), rules
        )
    if not isinstance(sighting, DetectionAnnotation):
        return RuleOutcome(None, NO_ANNOTATION_TEXT.format("detector-2d"))
    return score_2d(facts["text"], nouns, sighting, rules)


def apply_3d_rule(facts: Metadata, seen: Annotations, rules: Rules) -> RuleOutcome:
    """Presence and depth of two objects."""
    sighting = seen.get("detector")
    depths = seen.get("depth")
    if not facts["nouns"]:
        return RuleOutcome(
            None, "no noun was read in the prompt (the official script stops: IndexError)"
        )
    if not isinstance(sighting, DetectionAnnotation):
        return RuleOutcome(None, NO_ANNOTATION_TEXT.format("detector"))
    return score_3d(
        facts["text"],
        first_and_last_noun(facts),
        sighting,
        depths.depths if isinstance(depths, DepthAnnotation) else (),
        rules,
    )


def apply_numeracy_rule(facts: Metadata, seen: Annotations, rules: Rules) -> RuleOutcome:
    """Presence and number of objects."""
    sighting = seen.get("detector")
    if not isinstance(sighting, DetectionAnnotation):
        asked = parse_object_counts(facts["text"], facts["known"], rules)
        return RuleOutcome(None, asked.failure or NO_ANNOTATION_TEXT.format("detector"))
    return score_numeracy(facts["text"], facts["known"], sighting, rules)


def apply_similarity_rule(facts: Metadata, seen: Annotations, rules: Rules) -> RuleOutcome:
    """CLIP's cosine."""
    cosines = seen.get("similarity")
    if not isinstance(cosines, SimilarityAnnotation) or not cosines.cosines:
        return RuleOutcome(None, NO_ANNOTATION_TEXT.format("similarity"))
    return RuleOutcome(cosines.cosines[0], f"cosine {cosines.cosines[0]:.4f}")


CATEGORY_RULES: Mapping[str, Callable[[Metadata, Annotations, Rules], RuleOutcome]] = {
    **dict.fromkeys(ATTRIBUTES, apply_attribute_rule),
    "spatial": apply_2d_rule,
    "3d_spatial": apply_3d_rule,
    "numeracy": apply_numeracy_rule,
    "non_spatial": apply_similarity_rule,
}
PART_RULES = {
    "attribute": apply_attribute_rule,
    "spatial": apply_2d_rule,
    "action": apply_similarity_rule,
}


class T2ICompBenchEvaluator(PromptEvaluator):
    """See the module.

    verdicts: what a finished official run says of each index, in place of the rules
    (suites/official_layouts/compbench_results.py);
    told: what must be
    said of that run.
    """

    version = 3
    profile = "t2i-compbench"
    parity = (
        "rules restated from Karine-Huang/T2I-CompBench 1b709499: position, the search for objects"
        " and numeracy equal plain restatements of its scripts on random scenes, each quirk has a"
        " case under both sets of rules (tests/evaluators/test_compbench_rules.py); result files of"
        " its scripts are read to the last digit; nouns and noun chunks are those of en_core_web_sm"
        " 3.6.0, official is 3.5.0, not compared; no answer of the official networks was here"
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
        AnnotatorRole("vqa", vqa_query, lambda facts: vqa_query(facts, {}) is not None),
        AnnotatorRole(
            "detector-2d",
            detection_2d_query,
            lambda facts: detection_2d_query(facts, {}) is not None,
        ),
        AnnotatorRole(
            "detector", detection_query, lambda facts: detection_query(facts, {}) is not None
        ),
        AnnotatorRole("depth", depth_query, lambda facts: facts["category"] == "3d_spatial"),
        AnnotatorRole(
            "similarity", similarity_query, lambda facts: similarity_query(facts, {}) is not None
        ),
    )

    def __init__(
        self, verdicts: Mapping[int, RuleOutcome] | None = None, told: tuple[str, ...] = ()
    ):
        self.verdicts = verdicts
        self.told = told

    def task(self, facts: Metadata) -> str:
        """The category."""
        return str(facts["category"])

    def metrics_of_prompt(self, facts: Metadata) -> tuple[str, ...]:
        """A category's images count for its metric alone."""
        return (METRICS[facts["category"]],)

    def score_sample(self, facts: Metadata, seen: Annotations, rules: Rules) -> SampleScore:
        """What the rules say of one image; unknown where its script would stop or a judge was not
        asked.
        """
        category = facts["category"]
        if category == "complex":
            return self._complex(facts, seen, rules)
        return _sample_score(category, CATEGORY_RULES[category](facts, seen, rules))

    def _complex(self, facts: Metadata, seen: Annotations, rules: Rules) -> SampleScore:
        which = facts["kinds"][rules]
        found = {
            name: PART_RULES[name](facts, seen, rules)
            for name in COMPLEX_PARTS.get(which or "", ())
        }
        told = {
            name: {"score": verdict.value, "reason": verdict.reason}
            for name, verdict in found.items()
        }
        unanswered = [
            name
            for name, verdict in found.items()
            if verdict.value is None and not _can_be_excluded(name, facts, rules)
        ]
        if unanswered:
            return _sample_score(
                "complex",
                RuleOutcome(None, f"{unanswered[0]}: {found[unanswered[0]].reason}"),
                told | {"kind": which},
            )
        verdict = three_in_one(which, {name: part.value for name, part in found.items()})
        return _sample_score(
            "complex", verdict, told | {"kind": which, "floor": _floor(which, found)}
        )

    def finalize_scores(
        self, sights: Sequence[AnnotatedImage], marks: Sequence[SampleScore | None], rules: Rules
    ) -> Sequence[SampleScore | None]:
        """The marks; of a finished official run, its own."""
        if self.verdicts is None:
            return marks
        return [
            (
                _sample_score(s.metadata["category"], self.verdicts[s.index])
                if s.index in self.verdicts
                else None
            )
            for s in sights
        ]

    def notes(
        self, sights: Sequence[AnnotatedImage], marks: Sequence[SampleScore | None], rules: Rules
    ) -> tuple[str, ...]:
        """The rules' quirks by id, and ceilings and floors of this run's own prompts."""
        if self.verdicts is not None:
            return self.told
        return (
            _rules_note(rules),
            *_detector_ceiling_note(sights, rules),
            *_presence_note(marks),
            *_complex_floor_note(marks),
        )


def _rules_note(rules: Rules) -> str:
    kept = [
        name
        for name, quirk in QUIRKS.items()
        if quirk.location == "rule" and (rules == "official" or name not in CORRECTIONS)
    ]
    mended = f"; corrected are {', '.join(CORRECTIONS)}" if rules == "corrected" else ""
    return f"rules: {rules} keep {', '.join(kept)}{mended}"


def _sample_score(
    category: str, verdict: RuleOutcome, evidence: Mapping[str, object] | None = None
) -> SampleScore:
    shown = dict(evidence or {}) | ({"presence": verdict.presence} if verdict.presence else {})
    if verdict.value is None:
        return SampleScore(category, {}, verdict.reason, 1, shown)
    return SampleScore(
        category, {METRICS[category]: WeightedScore(verdict.value)}, verdict.reason, 0, shown
    )


def _can_be_excluded(part: str, facts: Metadata, rules: Rules) -> bool:
    """Parts that the corrected rules leave out rather than guess: objects or chunks were not read
    in the prompt.
    """
    return rules == "corrected" and {
        "spatial": len(facts["objects"]) != 2,
        "attribute": not facts["chunks"],
    }.get(part, False)


def _floor(which: str | None, found: Mapping[str, RuleOutcome]) -> float:
    """What 3-in-1 is with neither attribute nor place right."""
    action = found["action"].value if "action" in found else None
    return (action or 0.0) / len(COMPLEX_PARTS[which or "both"])


def _detector_ceiling_note(sights: Sequence[AnnotatedImage], rules: Rules) -> list[str]:
    """The most that 2D can reach with UniDet's labels; nothing is said of a detector that has found
    what UniDet cannot name.

    Which detector looked is not known here, so the line says whose labels it counts.
    """
    own = [sight for sight in sights if sight.metadata["category"] == "spatial"]
    sightings = [
        sighting
        for sight in own
        if isinstance(sighting := sight.annotations.get("detector-2d"), DetectionAnnotation)
    ]
    found = {detection.label for sighting in sightings for detection in sighting.detections}
    if not own or rules != "official" or found & UNIDET_MISSING_NOUNS:
        return []
    lost = {
        sight.prompt_index
        for sight in own
        if set(detector_nouns(first_and_last_noun(sight.metadata))) & UNIDET_MISSING_NOUNS
    }
    if not lost:
        return []
    prompts = {sight.prompt_index for sight in own}
    share = 1 - len(lost) / len(prompts)
    return [
        f"spatial_2d: UniDet's labels allow at most {share:.3f}, since none equals what {len(lost)}"
        f" of {len(prompts)} prompts name; another detector may allow more or less"
    ]


def _presence_note(marks: Sequence[SampleScore | None]) -> list[str]:
    own = [mark for mark in marks if mark and "spatial_3d" in mark.scores]
    if not own:
        return []
    earned = sum(float(mark.evidence.get("presence", 0.0)) for mark in own) / len(own)
    whole = sum(mark.scores["spatial_3d"].total for mark in own) / len(own)
    return [
        f"spatial_3d: {earned:.3f} of {whole:.3f} is earned by being found, whatever the depth; two"
        " sure objects apart earn about 0.4"
    ]


def _complex_floor_note(marks: Sequence[SampleScore | None]) -> list[str]:
    own = [mark for mark in marks if mark and "complex" in mark.scores]
    if not own:
        return []
    floor = sum(float(mark.evidence["floor"]) for mark in own if "floor" in mark.evidence) / len(
        own
    )
    return [
        f"complex: {floor:.3f} of it is CLIP's cosine alone ({COSINE_FLOOR} times the cosine over"
        f" all 300 prompts); the paper prints {PUBLISHED_COMPLEX_RANGE}, less than its own cosines"
        " give, so the procedure of its column is unknown"
    ]


PLUGIN = T2ICompBenchEvaluator()
