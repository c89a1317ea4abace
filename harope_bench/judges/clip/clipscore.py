"""Judge clipscore: the cosine of image and text by OpenAI's CLIP ViT-B/32, unscaled, as
T2I-CompBench takes it.

The published script runs the network in float16 on a GPU and in float32 without one; here it is
float32 everywhere. Run here with random
weights only: what the real ones answer was not seen.

Source: Karine-Huang/T2I-CompBench:CLIPScore_eval/CLIP_similarity.py.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from harope_bench.core.annotations import Annotation, Query, SimilarityAnnotation, SimilarityQuery
from harope_bench.core.errors import OptionError
from harope_bench.judges.base import AnnotationCheck, NamedCheck
from harope_bench.judges.clip.clip_network import STACK, ClipAnnotator, LoadedClip
from harope_bench.judges.weights.asset_files import WeightsSource


class LoadedClipScore(LoadedClip):
    """The network with weights."""

    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        """The cosine of the image with each text."""
        if role != "similarity" or not isinstance(query, SimilarityQuery):
            raise OptionError(
                f"clipscore compares an image with texts, it is no {role}; ask another judge"
            )
        cosines = (
            self.towers.images([Image.fromarray(image)]) @ self.towers.texts(query.texts).T
        )  # (1, N)
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
        """Loads the weights strictly, hash checked first; WeightsError where they are missing,
        altered, or the activation is another.
        """
        return LoadedClipScore(self.load_towers(device, half=False))

    def self_checks(self) -> tuple[NamedCheck | AnnotationCheck, ...]:
        """The stack, whatever the weights; with the published ones also a red picture's name, which
        was not yet seen with them.
        """
        image = np.zeros((224, 224, 3), dtype=np.uint8)
        image[..., 0] = 220

        def right(answer: Annotation) -> bool:
            return (
                isinstance(answer, SimilarityAnnotation) and answer.cosines[0] > answer.cosines[1]
            )

        ask = SimilarityQuery(texts=("a red picture", "a blue picture"))
        return (
            *STACK,
            *self.checks_of_published(
                AnnotationCheck(
                    "red is nearer to red than to blue", "similarity", image, ask, right
                )
            ),
        )


PLUGIN = ClipScore()
