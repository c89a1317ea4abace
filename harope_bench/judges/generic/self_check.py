"""Checks of the stack that runs a judge: they hold for any weights, since what the published ones see could not be recorded here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from harope_bench.core.annotations import Answer, Answered, Answers, Names, Questions, Sighting, decode_mask
from harope_bench.judges.base import LoadedAnnotator
from harope_bench.judges.generic.instance_detection import CLASSES, Prepared, box_of

SIDE = 64  # pixels of the images that are shown


def own_boxes(opened: LoadedAnnotator) -> str | None:
    """Coarse noise: whatever is found in it lies inside, the surest first, and each box is its mask's own with far edges exclusive."""
    image = np.random.default_rng(0).integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    return None if consistent(opened.see("detector", image, Names())) else "boxes in an image of noise are not their masks' own"


def consistent(answer: Answer) -> bool:
    """Whether what was found in that image agrees with itself."""
    if not isinstance(answer, Sighting) or answer.size != (SIDE, SIDE):
        return False
    scores = [d.score for d in answer.found]
    inside = all(0 <= d.box[0] <= d.box[2] <= SIDE and 0 <= d.box[1] <= d.box[3] <= SIDE for d in answer.found)
    own = all(box_of(decode_mask(d.mask)) == d.box for d in answer.found if d.mask is not None)
    return inside and own and scores == sorted(scores, reverse=True)


def red_image() -> np.ndarray:
    """Pure red, (64, 64, 3) uint8."""
    image = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    image[..., 0] = 255
    return image


def red_comes_first(tensor: Tensor) -> str | None:
    """Whether a red image (1, 3, H, W), as prepared, is brightest in its first plane and dark in the others."""
    top, left = tensor.shape[-2] // 2, tensor.shape[-1] // 2
    red, green, blue = tensor[0, :, top, left].tolist()
    return (
        None if red > 0 > max(green, blue) else f"a red image reaches the network as ({red:.2f}, {green:.2f}, {blue:.2f}), wanted red first"
    )


def answers_beside_and_alone(opened: LoadedAnnotator, questions: Sequence[str], number: int, side: int) -> tuple[Answered, Answered]:
    """Return the answers to question `number`: asked together with the other questions, and asked alone.

    Args:
        side: Of the image of noise that is asked about, in pixels.
    """
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    together = opened.see("vqa", image, Questions(questions=tuple(questions)))
    alone = opened.see("vqa", image, Questions(questions=(questions[number],)))
    assert isinstance(together, Answers) and isinstance(alone, Answers)  # a judge of vqa gives these
    return together.answers[number], alone.answers[0]


def box_is_exclusive(instances: Callable[[Tensor, Tensor, Prepared], Sighting]) -> str | None:
    """Whether logits of one rectangle become its label, its box with far edges one past the last pixel, and its mask."""
    classes, masks = torch.full((2, len(CLASSES) + 1), -10.0), torch.full((2, 8, 8), -10.0)
    classes[0, 3], classes[1, -1], masks[0, 2:5, 1:7] = 10.0, 10.0, 10.0  # rows 8 to 19, columns 4 to 27 of 32
    found = instances(classes, masks, Prepared(torch.zeros(1, 3, 32, 32), (32, 32), (32, 32))).found
    told = [(d.label, d.box, d.mask is not None) for d in found]
    wanted = [(CLASSES[3], (4.0, 8.0, 28.0, 20.0), True)]
    return None if told == wanted else f"a rectangle is told as {told}, wanted {wanted}"
