"""T2I-CompBench's form with prompts of our own: 300 of each category, and judges' answers made by
hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harope_bench.core.annotations import (
    Annotation,
    BoxDepth,
    DepthAnnotation,
    Detection,
    DetectionAnnotation,
    SimilarityAnnotation,
    VqaAnnotation,
    VqaAnswer,
)
from harope_bench.evaluators.base import AnnotatedImage
from harope_bench.suites.compbench_suite import CATEGORIES, METADATA_KEY, CompBenchSuite

LETTERS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa")


def words(k: int) -> str:
    return " ".join(LETTERS[int(digit)] for digit in f"{k:03d}")


def prompt_metadata(category: str, result_count: int) -> dict[str, Any]:
    """A prompt that no other category has, and what the rules need to know of it."""
    text = {
        "color": f"a red cup and a blue dog {words(result_count)}",
        "shape": f"a round cup and a square dog {words(result_count)}",
        "texture": f"a woollen cup and a plastic dog {words(result_count)}",
        "spatial": f"a cup on the left of a dog {words(result_count)}",
        "3d_spatial": f"a cup in front of a dog {words(result_count)}",
        "numeracy": f"two cups {words(result_count)}",
        "non_spatial": f"A dog drinks from a cup {words(result_count)}.",
        "complex": f"The red cup is near the blue dog {words(result_count)}.",
    }[category]
    known_fields: dict[str, Any] = {"category": category, "place": result_count, "text": text}
    if category in ("color", "shape", "texture", "complex"):
        known_fields["chunks"] = ["a cup", "a dog"]
    if category in ("spatial", "3d_spatial"):
        known_fields["nouns"] = ["cup", "dog"]
    if category == "numeracy":
        known_fields["known"] = [["cup", "cups"], ["dog", "dogs"]]
    if category == "complex":
        kind = ("spatial", "action", "both")[result_count % 3]
        known_fields |= {
            "objects": ["cup", "dog"],
            "no_adj": text,
            "kinds": {"official": kind, "corrected": kind},
        }
    return known_fields


class Toy(CompBenchSuite):
    """The suite with these prompts."""

    def __init__(self, *categories: str):
        super().__init__("toy T2I-CompBench", categories or CATEGORIES)
        rows = {
            category: [prompt_metadata(category, folder) for folder in range(300)]
            for category in self.categories
        }
        self.rows = {
            category: tuple((row["text"], row) for row in row_result)
            for category, row_result in rows.items()
        }

    @property
    def _cases_by_category(self) -> Mapping[str, tuple[tuple[str, Mapping[str, Any]], ...]]:
        return self.rows

    def prompts_source(self) -> tuple[str, str]:
        return "toy", "0" * 64


def sighting(*items: tuple[str, float, float, float], side: float = 40) -> DetectionAnnotation:
    """Things by label, score and centre, in an image of the frame's own size."""
    boxes = (
        (label, score, (x - side / 2, y - side / 2, x + side / 2, y + side / 2))
        for label, score, x, y in items
    )
    return DetectionAnnotation(
        size=(479, 479),
        detections=tuple(Detection(label=name, score=score, box=box) for name, score, box in boxes),
    )


def correct_annotations(category: str) -> dict[str, Annotation]:
    """What judges say of an image that is right."""
    answers: dict[str, Annotation] = {
        "vqa": VqaAnnotation(
            answers=(
                VqaAnswer(text="yes", yes_probability=0.9),
                VqaAnswer(text="yes", yes_probability=0.8),
            )
        ),
        "detector-2d": sighting(("cup", 0.9, 100, 200), ("dog", 0.8, 300, 200)),
        "detector": sighting(("cup", 0.9, 100, 200), ("dog", 0.8, 120, 200)),
        "depth": DepthAnnotation(
            depths=(BoxDepth(mean=9, transposed_mean=9), BoxDepth(mean=5, transposed_mean=5))
        ),
        "similarity": SimilarityAnnotation(cosines=(0.3,)),
    }
    roles = {
        "spatial": ("detector-2d",),
        "3d_spatial": ("detector", "depth"),
        "numeracy": ("detector",),
        "non_spatial": ("similarity",),
    }
    expected = roles.get(
        category, ("vqa",) if category != "complex" else ("vqa", "detector-2d", "similarity")
    )
    return {role: answers[role] for role in expected}


def sights(
    *categories: str, prompts: int = 4, copies: int = 2, **changes: Mapping[str, Annotation]
) -> list[AnnotatedImage]:
    """Images of the first prompts of each category, answered as `good` says but for the changes."""
    records = []
    for category in categories or CATEGORIES:
        for folder in range(prompts):
            for copy in range(copies):
                known_prompt_metadata = prompt_metadata(category, folder)
                number = CATEGORIES.index(category) * 300 + folder
                fields = {**correct_annotations(category), **changes.get(category, {})}
                records.append(
                    AnnotatedImage(
                        copy * 2400 + number,
                        number,
                        copy,
                        known_prompt_metadata["text"],
                        known_prompt_metadata,
                        fields,
                    )
                )
    return records


__all__ = [
    "METADATA_KEY",
    "Toy",
    "correct_annotations",
    "prompt_metadata",
    "sighting",
    "sights",
    "words",
]
