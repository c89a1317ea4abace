"""The contracts of witnesses and of evaluators of prompts catch what breaks them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from toy_prompts import PROMPTS, ToyEye, ToyRule

from harope_bench import testing
from harope_bench.core.annotations import Detection, DetectionAnnotation, VqaAnnotation, VqaAnswer
from harope_bench.evaluators.base import AnnotatedImage, EvaluatorOutput, SampleScore, WeightedScore

FOUND_DETECTION_ANNOTATION = DetectionAnnotation(
    size=(8, 8), detections=(Detection(label="light", score=0.9, box=(0, 0, 2, 2)),)
)


def sights() -> list[AnnotatedImage]:
    answers = {
        "detector": FOUND_DETECTION_ANNOTATION,
        "vqa": VqaAnnotation(answers=(VqaAnswer(text="yes"),)),
    }
    return [
        AnnotatedImage(i, i % 4, i // 4, PROMPTS[i % 4][1], {"task": PROMPTS[i % 4][0]}, answers)
        for i in range(8)
    ]


def altered_plugin(base: type, **members: Any) -> Any:
    return type("Liar", (base,), members)()


def test_honest_ones_pass() -> None:
    testing.check_annotator(ToyEye())
    testing.check_annotation_evaluator(ToyRule(), sights())


def count(self: Any, role: str, image: np.ndarray, query: Any) -> DetectionAnnotation:
    self.asked.append(role)
    return DetectionAnnotation(
        size=(8, 8), detections=FOUND_DETECTION_ANNOTATION.detections * (len(self.asked) % 3)
    )


def darken_image(self: Any, role: str, image: np.ndarray, query: Any) -> DetectionAnnotation:
    image[0] = 0
    return FOUND_DETECTION_ANNOTATION


@pytest.mark.parametrize(
    ("liar", "message"),
    [
        (altered_plugin(ToyEye, version=0), "version is 0"),
        (altered_plugin(ToyEye, judge_class="real"), "judge_class is 'real'"),
        (altered_plugin(ToyEye, roles=("detector", "nose")), "role 'nose' is none of"),
        (
            altered_plugin(
                ToyEye,
                roles=("detector",),
                annotate=lambda self, role, image, query: VqaAnnotation(answers=()),
            ),
            "wanted DetectionAnnotation",
        ),
        (
            altered_plugin(
                ToyEye,
                roles=("vqa",),
                annotate=lambda self, role, image, query: VqaAnnotation(answers=()),
            ),
            "another number of items",
        ),
        (
            altered_plugin(ToyEye, roles=("detector",), annotate=count),
            "returns another annotation at the second call",
        ),
        (
            altered_plugin(ToyEye, roles=("detector",), annotate=darken_image),
            "changes its input image",
        ),
        (altered_plugin(ToyEye, weights_sha256=lambda self: "88" * 32), "records weights 8888"),
    ],
)
def test_a_witness_that_breaks_its_contract_is_caught(liar: Any, message: str) -> None:
    with pytest.raises(AssertionError) as excinfo:
        testing.check_annotator(liar)
    assert message in str(excinfo.value)


def with_shifted_contributions(
    self: Any, images: Sequence[AnnotatedImage], rules: str, is_lenient: bool
) -> EvaluatorOutput:
    output = ToyRule.evaluate(self, images, rules, is_lenient)
    metric = self.metrics[0].name
    arrays = {**output.per_sample, metric: output.per_sample[metric] + 1}
    return output._replace(per_sample=arrays)


@pytest.mark.parametrize(
    ("liar", "message"),
    [
        (altered_plugin(ToyRule, evaluate=with_shifted_contributions), "has the mean 2, its value"),
        (altered_plugin(ToyRule, parity=" "), "declares no parity"),
        (altered_plugin(ToyRule, rules=("mine",)), "wanted official or corrected"),
        (altered_plugin(ToyRule, metrics=ToyRule.metrics * 2), "repeat"),
        (
            altered_plugin(
                ToyRule,
                score_sample=lambda self, fields, records, rules: SampleScore(
                    fields["task"], {fields["task"]: WeightedScore(1.0)}, " "
                ),
            ),
            "has no reason",
        ),
        (
            altered_plugin(
                ToyRule,
                score_sample=lambda self, fields, records, rules: SampleScore(
                    fields["task"], {}, "none"
                ),
            ),
            "has no value",
        ),
    ],
)
def test_an_evaluator_that_breaks_its_contract_is_caught(liar: Any, message: str) -> None:
    with pytest.raises(AssertionError) as excinfo:
        testing.check_annotation_evaluator(liar, sights())
    assert message in str(excinfo.value)
