"""What T2I-CompBench makes of a depth map: 8 bits of its range, the detector's frame, means in
boxes.

Source: Karine-Huang/T2I-CompBench:UniDet_eval/3D_spatial_eval.py, experts/model_bank_3d.py,
experts/obj_detection/generate_dataset_3d.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from harope_bench.core.annotations import Box, BoxDepth, DepthAnnotation
from harope_bench.judges.base import LoadedAnnotator, NamedCheck

# shorter and longer side of the detector's picture
FRAME_SHORT_SIDE = 479
FRAME_LONG_SIDE = 480
# of a pixel: a corner that went to image pixels and back must not fall below the whole number it
# was
CORNER_TOLERANCE = 1e-4
STEPS = (
    "inverse depth to 0..1 by its least and largest, bilinear (corners aligned) to the image, 8"
    " bits rounded down, PIL bilinear to shorter side 479 and longer at most 480; boxes from image"
    " pixels to that frame, corners rounded down"
)


def to_8_bit_image(nearness: Tensor, height: int, width: int) -> Image.Image:
    """A map (h, w) as the 8-bit picture that the benchmark stores, of the image's size; a flat map
    is black.
    """
    low = nearness.min()
    high = nearness.max()
    shares = (nearness - low) / (high - low) if high > low else torch.zeros_like(nearness)
    grown = nn.functional.interpolate(
        shares[None, None].float(), size=(height, width), mode="bilinear", align_corners=True
    )
    return Image.fromarray(
        (255 * grown[0, 0]).cpu().numpy().astype(np.uint8)
    )  # rounded down, as pillow turns floats to 8 bits


def resize_to_frame(picture: Image.Image) -> np.ndarray:
    """The picture (h, w) uint8 in the detector's frame."""
    from torchvision.transforms.functional import resize  # type: ignore[import-untyped]

    return np.asarray(resize(picture, FRAME_SHORT_SIDE, max_size=FRAME_LONG_SIDE))


def depths_of_boxes(
    nearness: Tensor, size: tuple[int, int], boxes: Sequence[Box]
) -> DepthAnnotation:
    """Mean nearness, 0 to 255, in each box of an image of (height, width), and in the box with x
    and y exchanged.

    Args:
        nearness: (h, w), larger is nearer. boxes: in image pixels.
    """
    if not torch.isfinite(nearness).all():
        raise ArithmeticError("the depth map is not finite")
    frame = resize_to_frame(to_8_bit_image(nearness, *size))
    scale = (frame.shape[1] / size[1], frame.shape[0] / size[0])
    return DepthAnnotation(depths=tuple(_depth(frame, box, scale) for box in boxes))


def _depth(frame: np.ndarray, box: Box, scale: tuple[float, float]) -> BoxDepth:
    corners = [
        max(int(corner * scale[i % 2] + CORNER_TOLERANCE), 0) for i, corner in enumerate(box)
    ]
    x0, y0, x1, y1 = corners
    return BoxDepth(mean=_mean(frame[y0:y1, x0:x1]), transposed_mean=_mean(frame[x0:x1, y0:y1]))


def _mean(patch: np.ndarray) -> float | None:
    return float(patch.mean(dtype=np.float64)) if patch.size else None


def check_depth_direction(opened: LoadedAnnotator) -> str | None:
    """Whether a map that is nearer on the right says so of a box there, and not of that box with
    its axes exchanged.
    """
    right, top = depths_of_boxes(
        torch.arange(480.0).expand(480, 480), (64, 64), ((32, 0, 64, 32), (0, 0, 64, 8))
    ).depths
    told = [right.mean, right.transposed_mean, top.mean, top.transposed_mean]
    near, turned, whole, left = (value or 0.0 for value in told)
    return (
        None
        if near > 160 and turned < 96 and abs(whole - 127.5) < 2 and left < 20
        else f"a map that grows to the right gives {told}"
    )


STACK = (NamedCheck("a map that grows to the right is nearer there", check_depth_direction),)
