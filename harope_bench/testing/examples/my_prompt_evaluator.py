"""Evaluator my-prompt-evaluator: how often a judge sees the object that the prompt names."""

from __future__ import annotations

from harope_bench.core.annotations import Query, VqaAnnotation, VqaQuery
from harope_bench.core.schema import Metric
from harope_bench.evaluators.base import (
    Annotations,
    AnnotatorRole,
    Metadata,
    SampleScore,
    WeightedScore,
)
from harope_bench.evaluators.prompt_scores import PromptEvaluator

METRIC = "object-seen"


def names_colour(metadata: Metadata) -> bool:
    """Return whether a prompt is about one object with a colour."""
    return metadata["tag"] == "colors"


def make_question(metadata: Metadata, annotations: Annotations) -> Query | None:
    """Return the query for an image: one question, or None where the prompt names no colour."""
    if not names_colour(metadata):
        return None
    clause = metadata["include"][0]
    return VqaQuery(questions=(f"a {clause['color']} {clause['class']}?",))


class MyPromptEvaluator(PromptEvaluator):
    """The fraction of images for which the answer is yes. The base class adds intervals."""

    version = 1  # raise it where a value or an interval changes
    profile = "object-seen"  # the published program that is reproduced, or a name of your own
    parity = "none: the rule is its own definition"
    metrics = (
        Metric(name=METRIC, title="Object seen", direction="higher", unit="fraction", decimals=3),
    )
    metadata_key = "geneval"  # the suite's metadata that is read; other prompts are skipped
    annotator_roles = (AnnotatorRole("vqa", make_question, names_colour),)

    def task(self, metadata: Metadata) -> str:
        """Return the stratum of a prompt."""
        return str(metadata["tag"])

    def metrics_of_prompt(self, metadata: Metadata) -> tuple[str, ...]:
        """Return the metrics for which an image of this prompt counts."""
        return (METRIC,) if names_colour(metadata) else ()

    def score_sample(self, metadata: Metadata, annotations: Annotations, rules: str) -> SampleScore:
        """Return the score of one image and the reason for it."""
        annotation = annotations.get("vqa")
        if not isinstance(annotation, VqaAnnotation):
            return SampleScore(self.task(metadata), {}, "the prompt names no colour")
        text = annotation.answers[0].text
        score = WeightedScore(float(text == "yes"))
        # Every image has a reason. An answer without text is counted as unread.
        return SampleScore(
            self.task(metadata), {METRIC: score}, f"answer {text!r}", n_unread=int(not text)
        )


PLUGIN = MyPromptEvaluator()
