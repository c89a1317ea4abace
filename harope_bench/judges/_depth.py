"""What T2I-CompBench makes of a depth map: 8 bits of its range, the detector's frame, means in boxes.

Source: Karine-Huang/T2I-CompBench:UniDet_eval/3D_spatial_eval.py, experts/model_bank_3d.py, experts/obj_detection/generate_dataset_3d.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from harope_bench.judges.base import Trial
from harope_bench.perceptions import Answer, Box, Boxes, Depth, Depths

FRAME, LONGEST = 479, 480  # shorter and longer side of the detector's picture
SLACK = 1e-4  # of a pixel: a corner that went to image pixels and back must not fall below the whole number it was
STEPS = (
    "inverse depth to 0..1 by its least and largest, bilinear (corners aligned) to the image, 8 bits rounded down, PIL bilinear to shorter "
    "side 479 and longer at most 480; boxes from image pixels to that frame, corners rounded down"
)


def kept(nearness: Tensor, height: int, width: int) -> Image.Image:
    """A map (h, w) as the 8-bit picture that the benchmark stores, of the image's size; a flat map is black."""
    low, high = nearness.min(), nearness.max()
    shares = (nearness - low) / (high - low) if high > low else torch.zeros_like(nearness)
    grown = nn.functional.interpolate(shares[None, None].float(), size=(height, width), mode="bilinear", align_corners=True)
    return Image.fromarray((255 * grown[0, 0]).cpu().numpy().astype(np.uint8))  # rounded down, as pillow turns floats to 8 bits


def framed(picture: Image.Image) -> np.ndarray:
    """The picture (h, w) uint8 in the detector's frame."""
    from torchvision.transforms.functional import resize  # type: ignore[import-untyped]

    return np.asarray(resize(picture, FRAME, max_size=LONGEST))


def depths(nearness: Tensor, size: tuple[int, int], boxes: Sequence[Box]) -> Depths:
    """Mean nearness, 0 to 255, in each box of an image of (height, width), and in the box with x and y exchanged.

    Args:
        nearness: (h, w), larger is nearer. boxes: in image pixels.
    """
    if not torch.isfinite(nearness).all():
        raise ArithmeticError("the depth map is not finite")
    frame = framed(kept(nearness, *size))
    scale = (frame.shape[1] / size[1], frame.shape[0] / size[0])
    return Depths(depths=tuple(_depth(frame, box, scale) for box in boxes))


def _depth(frame: np.ndarray, box: Box, scale: tuple[float, float]) -> Depth:
    corners = [max(int(corner * scale[i % 2] + SLACK), 0) for i, corner in enumerate(box)]
    x0, y0, x1, y1 = corners
    return Depth(mean=_mean(frame[y0:y1, x0:x1]), transposed=_mean(frame[x0:x1, y0:y1]))


def _mean(patch: np.ndarray) -> float | None:
    return float(patch.mean(dtype=np.float64)) if patch.size else None


def trial() -> Trial:
    """The front of a tiled floor is nearer than its back."""

    def right(answer: Answer) -> bool:
        means = [d.mean or 0.0 for d in answer.depths] if isinstance(answer, Depths) else [0.0, 0.0]
        return means[0] > means[1]

    ask = Boxes(boxes=((96, 330, 288, 384), (96, 150, 288, 200)))
    return Trial("the front of a floor is nearer than its back", "depth", floor(384), ask, right)


def floor(side: int) -> np.ndarray:
    """A picture (side, side, 3) uint8 of a tiled floor that runs to a horizon at a third of its height, under a pale sky."""
    y, x = np.mgrid[:side, :side].astype(float)
    far = 1 / np.maximum(y - side / 3, 1e-3)  # distance along the floor
    tiles = (np.floor(320 * side / 384 * far) + np.floor((x - side / 2) * far * 4)) % 2
    grey = np.where(y > side / 3, 90 + 110 * tiles, 225)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)
