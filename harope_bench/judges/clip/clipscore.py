"""Judge clipscore: the unscaled cosine of image and text by OpenAI's CLIP ViT-B/32.

It is the similarity judge of T2I-CompBench. The published script runs the network in float16 on a
GPU and in float32 without one; here it is float32 everywhere. The judge was tested with random
weights only, because the published weights were not available.

Source: Karine-Huang/T2I-CompBench:CLIPScore_eval/CLIP_similarity.py.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from harope_bench.core.annotations import Annotation, Query, SimilarityAnnotation, SimilarityQuery
from harope_bench.core.errors import OptionError
from harope_bench.judges.base import AnnotationCheck, NamedCheck
from harope_bench.judges.clip.clip_network import STACK_CHECKS, ClipAnnotator, LoadedClip
from harope_bench.judges.weights.asset_files import WeightsSource


class LoadedClipScore(LoadedClip):
    """CLIP with its weights."""

    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        """Return the cosine of the image with each text of the query."""
        if role != "similarity" or not isinstance(query, SimilarityQuery):
            raise OptionError(
                f"judge clipscore has the role similarity, wanted {role}; choose another judge"
            )
        image_embedding = self.towers.images([Image.fromarray(image)])  # (1, D)
        cosines = image_embedding @ self.towers.texts(query.texts).T  # (1, N)
        return SimilarityAnnotation(cosines=tuple(cosines[0].double().tolist()))


class ClipScore(ClipAnnotator):
    """The plug-in."""

    title = "OpenAI's CLIP ViT-B/32"
    model = "ViT-B-32-quickgelu"
    preprocessing = (
        "shorter side to 224, PIL bicubic with antialias, middle square; CLIP's mean and deviation;"
        " QuickGELU; float32"
    )
    roles = ("similarity",)
    source = WeightsSource("clipscore", "HAROPE_BENCH_CLIP_B32")

    def open(self, device: str = "cpu") -> LoadedClipScore:
        """Load the weights; the errors are those of `load_towers`."""
        return LoadedClipScore(self.load_towers(device, is_half_precision=False))

    def self_checks(self) -> tuple[NamedCheck | AnnotationCheck, ...]:
        """Return checks for any weights, and a check of a red image for the published weights.

        The check of the red image was never run with the published weights.
        """
        image = np.zeros((224, 224, 3), dtype=np.uint8)
        image[..., 0] = 220
        query = SimilarityQuery(texts=("a red image", "a blue image"))

        def is_correct(annotation: Annotation) -> bool:
            return (
                isinstance(annotation, SimilarityAnnotation)
                and annotation.cosines[0] > annotation.cosines[1]
            )

        red_check = AnnotationCheck(
            "red is nearer to red than to blue", "similarity", image, query, is_correct
        )
        return (*STACK_CHECKS, *self.checks_of_published(red_check))


PLUGIN = ClipScore()
