"""Checks of the stack that runs a judge: they hold for any weights, since what the published ones
see could not be recorded here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

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

SIDE = 64  # pixels of the images that are shown


def check_mask_boxes(opened: LoadedAnnotator) -> str | None:
    """Coarse noise: whatever is found in it lies inside, the surest first, and each box is its
    mask's own with far edges exclusive.
    """
    image = (
        np.random.default_rng(0)
        .integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
        .repeat(8, 0)
        .repeat(8, 1)
    )
    return (
        None
        if is_consistent(opened.annotate("detector", image, DetectionQuery()))
        else "boxes in an image of noise are not their masks' own"
    )


def is_consistent(answer: Annotation) -> bool:
    """Whether what was found in that image agrees with itself."""
    if not isinstance(answer, DetectionAnnotation) or answer.size != (SIDE, SIDE):
        return False
    scores = [d.score for d in answer.detections]
    inside = all(
        0 <= d.box[0] <= d.box[2] <= SIDE and 0 <= d.box[1] <= d.box[3] <= SIDE
        for d in answer.detections
    )
    own = all(
        mask_box(decode_mask(d.mask)) == d.box for d in answer.detections if d.mask is not None
    )
    return inside and own and scores == sorted(scores, reverse=True)


def red_image() -> np.ndarray:
    """Pure red, (64, 64, 3) uint8."""
    image = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    image[..., 0] = 255
    return image


def check_red_first(tensor: Tensor) -> str | None:
    """Whether a red image (1, 3, H, W), as prepared, is brightest in its first plane and dark in
    the others.
    """
    top = tensor.shape[-2] // 2
    left = tensor.shape[-1] // 2
    red, green, blue = tensor[0, :, top, left].tolist()
    return (
        None
        if red > 0 > max(green, blue)
        else (
            f"a red image reaches the network as ({red:.2f}, {green:.2f}, {blue:.2f}), wanted red"
            " first"
        )
    )


def answers_beside_and_alone(
    opened: LoadedAnnotator, questions: Sequence[str], number: int, side: int
) -> tuple[VqaAnswer, VqaAnswer]:
    """Return the answers to question `number`: asked together with the other questions, and asked
    alone.

    Args:
        side: Of the image of noise that is asked about, in pixels.
    """
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    together = opened.annotate("vqa", image, VqaQuery(questions=tuple(questions)))
    alone = opened.annotate("vqa", image, VqaQuery(questions=(questions[number],)))
    assert isinstance(together, VqaAnnotation) and isinstance(
        alone, VqaAnnotation
    )  # a judge of vqa gives these
    return together.answers[number], alone.answers[0]


def check_exclusive_boxes(
    instances: Callable[[Tensor, Tensor, PreparedImage], DetectionAnnotation],
) -> str | None:
    """Whether logits of one rectangle become its label, its box with far edges one past the last
    pixel, and its mask.
    """
    classes = torch.full((2, len(CLASSES) + 1), -10.0)
    masks = torch.full((2, 8, 8), -10.0)
    # rows 8 to 19, columns 4 to 27 of 32
    classes[0, 3] = 10.0
    classes[1, -1] = 10.0
    masks[0, 2:5, 1:7] = 10.0
    found = instances(
        classes, masks, PreparedImage(torch.zeros(1, 3, 32, 32), (32, 32), (32, 32))
    ).detections
    told = [(d.label, d.box, d.mask is not None) for d in found]
    wanted = [(CLASSES[3], (4.0, 8.0, 28.0, 20.0), True)]
    return None if told == wanted else f"a rectangle is told as {told}, wanted {wanted}"
