"""A toy benchmark of prompts: a suite of four prompts, a judge that reads pixels, and rules that
ask it twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harope_bench.core import registry
from harope_bench.core.annotations import (
    Annotation,
    Detection,
    DetectionAnnotation,
    DetectionQuery,
    Query,
    VqaAnnotation,
    VqaAnswer,
    VqaQuery,
)
from harope_bench.core.schema import Metric, Request, Settings
from harope_bench.evaluators.base import (
    Annotations,
    AnnotatorRole,
    Metadata,
    SampleScore,
    WeightedScore,
)
from harope_bench.evaluators.prompt_scores import PromptEvaluator
from harope_bench.judges.base import Annotator, LoadedAnnotator
from harope_bench.pipeline.eval_options import EvalOptions
from harope_bench.pipeline.evaluate_target import evaluate_target
from harope_bench.suites.base import PromptCase, PromptSuite
from harope_bench.suites.official_layouts.prompt_folder import PromptFolderOptions

PROMPTS = (
    ("bright", "a bright square"),
    ("bright", "a bright room"),
    ("red", "a red square"),
    ("red", "a red room"),
)


class ToySuite(PromptSuite):
    """Four prompts, two copies."""

    version, title, count, copies, resolution = 1, "toy prompts", 8, 2, 8
    judges: Mapping[str, Mapping[str, str]] = {
        "toy-rule": {"detector": "toy-eye", "vqa": "toy-eye"}
    }
    evaluators = ("toy-rule",)

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        return [Request(index=i, prompt=PROMPTS[i % 4][1]) for i in indices]

    def case(self, index: int) -> PromptCase:
        kind, text = PROMPTS[index % 4]
        return PromptCase(index % 4, index // 4, text, {"toy": {"task": kind}})

    def prompts_source(self) -> tuple[str, str]:
        return "toy prompts", hashlib.sha256(repr(PROMPTS).encode()).hexdigest()


class ToyEye(Annotator):
    """Finds one thing where an image is brighter than 100 in the mean; answers `yes` if its red is
    more than half.
    """

    version, judge_class, preprocessing, roles = 1, "micro", "mean of pixels", ("detector", "vqa")
    asked: list[str] = []
    fail_after: int | None = None
    wordless = False

    def weights_sha256(self) -> str:
        return "7" * 64

    def open(self, device: str) -> LoadedEye:
        return LoadedEye(self)

    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked.append(role)
        if image.max() == 13:
            raise ValueError("an image of thirteen")
        if isinstance(query, VqaQuery):
            text = "perhaps" if self.wordless else "yes" if image[..., 0].mean() > 128 else "no"
            return VqaAnnotation(answers=tuple(VqaAnswer(text=text) for _ in query.questions))
        detections = (
            (Detection(label="light", score=0.9, box=(0, 0, 2, 2)),) if image.mean() > 100 else ()
        )
        return DetectionAnnotation(size=(image.shape[1], image.shape[0]), detections=detections)


class LoadedEye(LoadedAnnotator):
    """The eye, looking."""

    weights_sha256 = "7" * 64

    def __init__(self, eye: ToyEye):
        self.eye = eye

    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        return self.eye.annotate(role, image, query)


class ToyRule(PromptEvaluator):
    """Bright prompts want a light; red ones a light and a yes. Corrected rules do not ask for the
    light.
    """

    version, profile, parity, metadata_key = 1, "toy", "none", "toy"
    metrics = tuple(
        Metric(name=n, title=n, direction="higher", unit="fraction", decimals=3)
        for n in ("bright", "red", "overall")
    )
    macro_metrics = {"overall": ("bright", "red")}
    annotator_roles = (
        AnnotatorRole("detector", lambda fields, records: DetectionQuery()),
        AnnotatorRole(
            "vqa",
            lambda fields, records: (
                VqaQuery(questions=("is it red?",)) if fields["task"] == "red" else None
            ),
        ),
    )

    def task(self, metadata: Metadata) -> str:
        return str(metadata["task"])

    def metrics_of_prompt(self, metadata: Metadata) -> tuple[str, ...]:
        return (self.task(metadata),)

    def score_sample(self, metadata: Metadata, annotations: Annotations, rules: str) -> SampleScore:
        is_true = bool(annotations["detector"].detections)  # type: ignore[union-attr]
        if metadata["task"] == "bright":
            return SampleScore(
                "bright", {"bright": WeightedScore(float(is_true))}, "lit" if is_true else "dark"
            )
        text = annotations["vqa"].answers[0].text  # type: ignore[union-attr]
        right = text == "yes" and (is_true or rules == "corrected")
        return SampleScore(
            "red",
            {"red": WeightedScore(float(right))},
            f"answered {text}",
            n_unread=int(text not in ("yes", "no")),
        )


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ToyEye:
    """Registers the toy things and returns the judge, whose calls can be counted and made to
    fail.
    """
    eye = ToyEye()
    eye.asked = []
    fields: dict[tuple[str, str], Any] = {
        ("suites", "toy"): ToySuite(),
        ("judges", "toy-eye"): eye,
        ("evaluators", "toy-rule"): ToyRule(),
    }
    known_list_entries, loaded_plugin = registry.list_entries, registry.load_by_name

    def entries(kind: str) -> dict[str, registry.RegistryEntry]:
        own_registry_entries = {
            name: registry.RegistryEntry(kind, name, "a test") for k, name in fields if k == kind
        }
        return {**known_list_entries(kind), **own_registry_entries}

    monkeypatch.setattr(registry, "list_entries", entries)
    monkeypatch.setattr(
        registry,
        "load_by_name",
        lambda kind, name: fields.get((kind, name)) or loaded_plugin(kind, name),
    )
    return eye


def annotate_toy_images(images: Path, folder: Path) -> None:
    """Evaluate images of the toy suite into a folder."""
    options = EvalOptions(
        suite="toy", out=folder, folder_options=PromptFolderOptions(order="copy-major")
    )
    evaluate_target(str(images), options)
