"""Self-checks of the software stack of a judge, which hold for any weights.

They need no annotation by the published weights, which were not available to record one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from harope_bench.core.annotations import (
    Annotation,
    DetectionAnnotation,
    DetectionQuery,
    VqaAnnotation,
    VqaAnswer,
    VqaQuery,
    decode_mask,
)
from harope_bench.judges.base import LoadedAnnotator
from harope_bench.judges.generic.instance_detection import CLASSES, PreparedImage, mask_box

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 64  # pixels of the images of the checks


def noise_image(rows: int, columns: int, pixel_size: int) -> np.ndarray:
    """Return seeded noise of rows x columns squares of pixel_size pixels, (H, W, 3) uint8."""
    squares = np.random.default_rng(0).integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    return squares.repeat(pixel_size, 0).repeat(pixel_size, 1)


def check_mask_boxes(detector: LoadedAnnotator) -> str | None:
    """Return what is wrong with the detections in an image of coarse noise, or None."""
    image = noise_image(SIDE // 8, SIDE // 8, pixel_size=8)
    if is_consistent(detector.annotate("detector", image, DetectionQuery())):
        return None
    return "boxes in an image of noise are outside it, not sorted by score, or not their masks'"


def is_consistent(annotation: Annotation) -> bool:
    """Return whether the detections in an image of SIDE x SIDE are consistent.

    Boxes are inside the image, scores descend, and each box is that of its mask, with far edges
    exclusive.
    """
    if not isinstance(annotation, DetectionAnnotation) or annotation.size != (SIDE, SIDE):
        return False
    detections = annotation.detections
    scores = [detection.score for detection in detections]
    is_inside = all(
        0 <= d.box[0] <= d.box[2] <= SIDE and 0 <= d.box[1] <= d.box[3] <= SIDE for d in detections
    )
    has_mask_boxes = all(
        mask_box(decode_mask(d.mask)) == d.box for d in detections if d.mask is not None
    )
    return is_inside and has_mask_boxes and scores == sorted(scores, reverse=True)


def red_image() -> np.ndarray:
    """Return an image of pure red, (64, 64, 3) uint8."""
    image = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    image[..., 0] = 255
    return image


def check_red_first(tensor: Tensor) -> str | None:
    """Return what is wrong with a preprocessed red image (1, 3, H, W), or None.

    Red must be the first channel: bright in the first plane and dark in the others.
    """
    row = tensor.shape[-2] // 2
    column = tensor.shape[-1] // 2
    red, green, blue = tensor[0, :, row, column].tolist()
    if red > 0 > max(green, blue):
        return None
    return (
        f"a red image reaches the network as ({red:.2f}, {green:.2f}, {blue:.2f}), wanted red first"
    )


def answers_batched_and_alone(
    annotator: LoadedAnnotator, questions: Sequence[str], index: int, side: int
) -> tuple[VqaAnswer, VqaAnswer]:
    """Return two answers to questions[index]: from a query of all questions, and of it alone.

    Args:
        side: of the square image of noise that the questions are about, in pixels.
    """
    image = noise_image(side, side, pixel_size=1)
    all_answers = annotator.annotate("vqa", image, VqaQuery(questions=tuple(questions)))
    one_answer = annotator.annotate("vqa", image, VqaQuery(questions=(questions[index],)))
    # an annotator in the role vqa returns this type
    assert isinstance(all_answers, VqaAnnotation)
    assert isinstance(one_answer, VqaAnnotation)
    return all_answers.answers[index], one_answer.answers[0]


def check_exclusive_boxes(
    instances: Callable[[Tensor, Tensor, PreparedImage], DetectionAnnotation],
) -> str | None:
    """Return what is wrong with the detection that logits of one rectangle become, or None.

    Wanted are the label, the box with far edges one past the last pixel, and a mask.
    """
    import torch

    class_logits = torch.full((2, len(CLASSES) + 1), -10.0)
    mask_logits = torch.full((2, 8, 8), -10.0)
    # query 0 is a rectangle of rows 8 to 19 and columns 4 to 27 of 32, query 1 is nothing
    class_logits[0, 3] = 10.0
    class_logits[1, -1] = 10.0
    mask_logits[0, 2:5, 1:7] = 10.0

    prepared_image = PreparedImage(torch.zeros(1, 3, 32, 32), (32, 32), (32, 32))
    detections = instances(class_logits, mask_logits, prepared_image).detections
    summaries = [(d.label, d.box, d.mask is not None) for d in detections]
    expected = [(CLASSES[3], (4.0, 8.0, 28.0, 20.0), True)]
    if summaries == expected:
        return None
    return f"a rectangle is detected as {summaries}, wanted {expected}"
