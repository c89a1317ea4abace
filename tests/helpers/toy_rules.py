"""The source of a package of plug-ins that no suite names: evaluators of both kinds, an annotator
and a suite without reference.
"""

from __future__ import annotations

ENTRIES = {
    "evaluators": {
        "my-rule": "RULE",
        "my-prompts": "PROMPTS_ALONE",
        "my-metadata": "METADATA",
        "my-nobody": "NOBODY",
    },
    "judges": {"my-eye": "EYE"},
    "suites": {"my-suite": "SUITE", "my-lost-suite": "LOST_SUITE"},
    "recipes": {"my-recipe": "RECIPE", "my-bad-recipe": "BAD_RECIPE"},
}

SOURCE = '''
import os
from pathlib import Path

import numpy as np

from harope_bench.core.annotations import (
    Detection,
    DetectionAnnotation,
    DetectionQuery,
    VqaAnnotation,
    VqaAnswer,
    VqaQuery,
)
from harope_bench.core.conditioning import Conditioning
from harope_bench.core.schema import Measurement, Metric, Request
from harope_bench.core.storage import sha256_file
from harope_bench.evaluators.base import (
    AnnotatorRole,
    EvaluatorOutput,
    FeatureEvaluator,
    SampleScore,
    WeightedScore,
)
from harope_bench.evaluators.prompt_scores import PromptEvaluator
from harope_bench.judges.base import Annotator, LoadedAnnotator
from harope_bench.suites.base import LabelSuite, ReferenceFile


class FirstFeature(FeatureEvaluator):
    """The mean of the first feature."""

    version = 1
    profile = "mine"
    parity = "none: a toy"
    metrics = (
        Metric(name="first", title="First feature", direction="higher", unit="none", decimals=3),
    )

    def evaluate(self, features, reference):
        rows = features.arrays["features"][:, 0].astype(np.float64)
        n = len(rows)
        value = float(rows.mean()) if n else None
        se = float(rows.std(ddof=1) / n**0.5) if n > 1 else None
        measurement = Measurement(
            metric="first",
            name="first",
            value=value,
            se=se,
            low=None if se is None else value - 2 * se,
            high=None if se is None else value + 2 * se,
            interval=None if se is None else "normal",
            n_asked=n + features.failed,
            n_scored=n,
            n_failed=features.failed,
            reason=None if n else "no images",
        )
        return EvaluatorOutput((measurement,), {"first": rows}, ())


class PromptAlone(PromptEvaluator):
    """Whether the detector finds anything; it asks a question where it does not."""

    version = 1
    profile = "mine"
    parity = "none: a toy"
    metadata_key = None
    metrics = (
        Metric(name="hits", title="Hits", direction="higher", unit="fraction", decimals=3),
    )
    annotator_roles = (
        AnnotatorRole("detector", lambda metadata, annotations: DetectionQuery(names=("light",))),
        AnnotatorRole(
            "vqa",
            lambda metadata, annotations: (
                None
                if annotations["detector"].detections
                else VqaQuery(questions=("is it dark?",))
            ),
        ),
    )

    def task(self, metadata):
        return "all"

    def metrics_of_prompt(self, metadata):
        return ("hits",)

    def score_sample(self, metadata, annotations, rules):
        n = len(annotations["detector"].detections)
        text = metadata.get("prompt", "no prompt")
        return SampleScore("all", {"hits": WeightedScore(float(n > 0))}, f"{n} found for {text}")


class WithMetadata(PromptAlone):
    """Reads metadata that suite shapes has."""

    metadata_key = "dpg"


class Nobody(PromptAlone):
    """Reads metadata that no suite has."""

    metadata_key = "nobody"


class LoadedEye(LoadedAnnotator):
    def annotate(self, role, image, query):
        if role == "vqa":
            return VqaAnnotation(answers=tuple(VqaAnswer(text="yes") for _ in query.questions))
        light = Detection(label="light", score=0.9, box=(0.0, 0.0, 2.0, 2.0))
        size = (image.shape[1], image.shape[0])
        return DetectionAnnotation(size=size, detections=(light,) if image.mean() > 100 else ())


class Eye(Annotator):
    """Finds a light where the mean is above 100."""

    version = 1
    judge_class = "micro"
    preprocessing = "mean of pixels"
    roles = ("detector", "vqa")

    def weights_sha256(self):
        return "7" * 64

    def open(self, device):
        loaded = LoadedEye()
        loaded.weights_sha256 = "7" * 64
        return loaded


class MySuite(LabelSuite):
    """Labels without a reference."""

    version = 1
    title = "my labels"
    count = 40
    resolution = 28
    requested_conditioning = Conditioning("labels", 10)
    judges = {"fidelity": "digits-net"}
    evaluators = ("fidelity",)

    def requests(self, indices, settings=None):
        return [Request(index=i, label=i % 10) for i in indices]


class MyLostSuite(MySuite):
    """Its reference is a file that is not there."""

    def reference(self, judge):
        path = Path(os.environ["MY_REFERENCE"])
        return ReferenceFile("mine", path, sha256_file(path), "0" * 64)


RULE = FirstFeature()
PROMPTS_ALONE = PromptAlone()
METADATA = WithMetadata()
NOBODY = Nobody()
EYE = Eye()
SUITE = MySuite()
LOST_SUITE = MyLostSuite()
RECIPE = {
    "kind": "denoiser",
    "name": "my-recipe",
    "suite": "digits",
    "backbone": "dit",
    "sampler": "flow",
    "draw_steps": 2,
    "guidance": 1.5,
    "label_drop": 0.1,
    "ema": 0.9,
    "config": {
        "hidden": 16,
        "depth": 1,
        "heads": 2,
        "patch": 7,
        "size": 28,
        "channels": 1,
        "classes": 10,
    },
    "schedule": {
        "steps": 4,
        "batch": 4,
        "lr": 0.01,
        "warmup": 2,
        "clip": 1.0,
        "seed": 3,
        "snapshot": 4,
    },
}
BAD_RECIPE = {**RECIPE, "name": "my-bad-recipe", "guidance": "much"}
'''
