"""Synthetic inputs of evaluators: features, references, and images with random annotations."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from harope_bench.core.annotations import Annotation, Query
    from harope_bench.evaluators.base import (
        AnnotatedImage,
        AnnotationEvaluator,
        FeatureEvaluator,
        Features,
    )
    from harope_bench.suites.base import PromptSuite

N_ROWS = 60
N_REFERENCE_ROWS = 80
N_CLASSES = 10
WIDTHS = {"features": 8, "spatial": 6, "logits": N_CLASSES}  # of the arrays that judges extract
N_FORWARDS = 20  # rows of an evaluator of the network
IMAGES_PER_PROMPT = 2
MAX_PROMPTS = 80
IMAGE_SIDE = 64


def default_features(evaluator: FeatureEvaluator) -> Features:
    """Return random features: those of the shipped judges, and the arrays that are declared."""
    import numpy as np

    from harope_bench.evaluators.base import Features

    rng = np.random.default_rng(0)
    if evaluator.subject == "network":
        # Counts are equal in all forwards, times differ.
        arrays = {name: np.full(N_FORWARDS, 8.0) for name in evaluator.arrays}
        if "seconds" in arrays:
            arrays["seconds"] = np.linspace(0.1, 0.2, N_FORWARDS)
        texts = {name: np.array(["not measured"] * N_FORWARDS) for name in evaluator.text_arrays}
        return Features(np.arange(N_FORWARDS), None, {**arrays, **texts})

    widths = {**dict.fromkeys(evaluator.arrays, WIDTHS["features"]), **WIDTHS}
    rows = {
        name: (2 * rng.normal(size=(N_ROWS, width))).astype(np.float32)
        for name, width in widths.items()
    }
    rankings = np.stack([rng.permutation(N_CLASSES)[:5] for _ in range(N_ROWS)])
    labels = np.arange(N_ROWS) % N_CLASSES
    return Features(np.arange(N_ROWS), labels, {**rows, "ranked_classes": rankings}, failed=2)


def default_reference(evaluator: FeatureEvaluator) -> dict[str, np.ndarray]:
    """Return the statistics and features of random real images, under the names of ADM's files."""
    import numpy as np

    if evaluator.subject == "network":
        return {}
    rng = np.random.default_rng(1)
    reference = {}
    for name, suffix in (("features", ""), ("spatial", "_s")):
        rows = (2 * rng.normal(size=(N_REFERENCE_ROWS, WIDTHS[name]))).astype(np.float32)
        reference[f"mu{suffix}"] = rows.astype(np.float64).mean(0)
        reference[f"sigma{suffix}"] = np.cov(rows.astype(np.float64), rowvar=False)
        if name == "features":
            reference["features"] = rows
    return reference


def default_annotated_images(evaluator: AnnotationEvaluator) -> list[AnnotatedImage]:
    """Return images of a registered suite's prompts, with random annotations.

    It is the first suite whose prompts are here and have the metadata that the evaluator reads.

    Raises:
        MissingAssetError: No suite has such prompts here.
    """
    import numpy as np

    from harope_bench.evaluators.base import AnnotatedImage

    rng = np.random.default_rng(0)
    images: list[AnnotatedImage] = []
    for suite in _prompt_suites():
        n_prompts = suite.count // suite.copies
        cases = (suite.case(prompt_index) for prompt_index in range(n_prompts))
        readable_cases = (
            (case, metadata)
            for case in cases
            if (metadata := case.metadata_for(evaluator.metadata_key)) is not None
        )
        for case, metadata in islice(readable_cases, MAX_PROMPTS):
            for copy in range(IMAGES_PER_PROMPT):
                annotations: dict[str, Annotation] = {}
                for annotator_role in evaluator.annotator_roles:
                    query = annotator_role.make_query(metadata, annotations)
                    if query is not None:
                        annotations[annotator_role.role] = random_annotation(query, rng)
                image = AnnotatedImage(
                    copy * n_prompts + case.prompt_index,
                    case.prompt_index,
                    copy,
                    case.prompt,
                    metadata,
                    annotations,
                )
                images.append(image)
        if images:
            return sorted(images, key=lambda image: image.index)
    from harope_bench.core.errors import MissingAssetError

    raise MissingAssetError(
        f"no suite whose prompts are here has metadata {evaluator.metadata_key!r}",
        advice="pass annotated_images to check_evaluator, or fetch the prompts of its suite",
    )


def _prompt_suites() -> Iterator[PromptSuite]:
    """Yield the registered suites of prompts whose prompts are here."""
    from harope_bench.core import registry
    from harope_bench.core.errors import BenchError
    from harope_bench.suites.base import PromptSuite, load_suite

    for name in registry.list_names("suites"):
        try:
            suite = load_suite(name)
            if isinstance(suite, PromptSuite):
                suite.prompts_source()
                suite.case(0)
        except BenchError:
            continue
        if isinstance(suite, PromptSuite):
            yield suite


def random_annotation(query: Query, rng: np.random.Generator) -> Annotation:
    """Return a complete annotation of a query: yes or no, boxes, probabilities, depths, cosines."""
    from harope_bench.core import annotations

    match query:
        case annotations.DetectionQuery():
            detections = [
                annotations.Detection(label=name, score=0.9, box=_random_box(rng))
                for name in query.names or ("circle",)
                if rng.random() < 0.7
            ]
            return annotations.DetectionAnnotation(
                size=(IMAGE_SIDE, IMAGE_SIDE), detections=tuple(detections)
            )
        case annotations.ColourQuery():
            rows = [rng.dirichlet([1.0] * len(query.candidates)) for _ in query.objects]
            return annotations.ColourAnnotation(
                probabilities=tuple(tuple(float(p) for p in row) for row in rows)
            )
        case annotations.VqaQuery():
            probabilities = [float(rng.random()) for _ in query.questions]
            return annotations.VqaAnnotation(
                answers=tuple(
                    annotations.VqaAnswer(text="yes" if p > 0.5 else "no", yes_probability=p)
                    for p in probabilities
                )
            )
        case annotations.DepthQuery():
            return annotations.DepthAnnotation(
                depths=tuple(
                    annotations.BoxDepth(
                        mean=float(255 * rng.random()), transposed_mean=float(255 * rng.random())
                    )
                    for _ in query.boxes
                )
            )
        case annotations.SimilarityQuery():
            return annotations.SimilarityAnnotation(
                cosines=tuple(float(2 * rng.random() - 1) for _ in query.texts)
            )


def _random_box(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Return a box of at least 8 x 8 pixels."""
    x, y = rng.integers(0, IMAGE_SIDE // 2, 2)
    width, height = rng.integers(8, IMAGE_SIDE // 2, 2)
    return (float(x), float(y), float(x + width), float(y + height))
