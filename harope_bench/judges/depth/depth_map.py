"""T2I-CompBench's steps from a depth map to the depth of boxes.

The map is scaled to 8 bits and resized to the frame of the detector, and the mean inside each box
is its depth.

Source: Karine-Huang/T2I-CompBench:UniDet_eval/3D_spatial_eval.py, experts/model_bank_3d.py,
experts/obj_detection/generate_dataset_3d.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from harope_bench.core.annotations import Box, BoxDepth, DepthAnnotation
from harope_bench.judges.base import LoadedAnnotator, NamedCheck

if TYPE_CHECKING:
    from torch import Tensor

# shorter and longer side of the detector's image
FRAME_SHORT_SIDE = 479
FRAME_LONG_SIDE = 480
# In pixels. A corner that was converted to image pixels and back must not be rounded down to the
# integer below the one it was.
CORNER_TOLERANCE = 1e-4
STEPS = (
    "inverse depth to 0..1 by its least and largest, bilinear (corners aligned) to the image, 8"
    " bits rounded down, PIL bilinear to shorter side 479 and longer at most 480; boxes from image"
    " pixels to that frame, corners rounded down"
)


def to_8_bit_image(inverse_depth: Tensor, height: int, width: int) -> Image.Image:
    """Return a map (h, w) as the 8-bit image (height, width) that the benchmark stores.

    The lowest value becomes 0 and the highest 255; a flat map becomes 0.
    """
    import torch
    from torch import nn

    low = inverse_depth.min()
    high = inverse_depth.max()
    fractions = torch.zeros_like(inverse_depth)
    if high > low:
        fractions = (inverse_depth - low) / (high - low)
    at_image_size = nn.functional.interpolate(
        fractions[None, None].float(), size=(height, width), mode="bilinear", align_corners=True
    )  # (1, 1, height, width)
    # rounded down, as Pillow converts floats to 8 bits
    return Image.fromarray((255 * at_image_size[0, 0]).cpu().numpy().astype(np.uint8))


def resize_to_frame(depth_image: Image.Image) -> np.ndarray:
    """Return an 8-bit image at the size of the detector's frame, (h, w) uint8."""
    from torchvision.transforms.functional import resize  # type: ignore[import-untyped]

    return np.asarray(resize(depth_image, FRAME_SHORT_SIDE, max_size=FRAME_LONG_SIDE))


def depths_of_boxes(
    inverse_depth: Tensor, size: tuple[int, int], boxes: Sequence[Box]
) -> DepthAnnotation:
    """Return the mean inverse depth, 0 to 255, in each box and in the box with x and y exchanged.

    Args:
        inverse_depth: (h, w), larger is nearer. size: (height, width) of the image. boxes: in
            pixels of the image.

    Raises:
        ArithmeticError: The map is not finite.
    """
    import torch

    if not torch.isfinite(inverse_depth).all():
        raise ArithmeticError("the depth map is not finite")
    frame = resize_to_frame(to_8_bit_image(inverse_depth, *size))
    scale = (frame.shape[1] / size[1], frame.shape[0] / size[0])
    return DepthAnnotation(depths=tuple(_box_depth(frame, box, scale) for box in boxes))


def _box_depth(frame: np.ndarray, box: Box, scale: tuple[float, float]) -> BoxDepth:
    """Return the depth of one box; `scale` is from image pixels to frame pixels in x and y."""
    x0, y0, x1, y1 = (
        max(int(corner * scale[i % 2] + CORNER_TOLERANCE), 0) for i, corner in enumerate(box)
    )
    return BoxDepth(
        mean=_patch_mean(frame[y0:y1, x0:x1]), transposed_mean=_patch_mean(frame[x0:x1, y0:y1])
    )


def _patch_mean(patch: np.ndarray) -> float | None:
    """Return the mean of a patch, None for one without pixels."""
    return float(patch.mean(dtype=np.float64)) if patch.size else None


def check_depth_direction(judge: LoadedAnnotator) -> str | None:
    """Return what is wrong with the depths in a map that increases to the right, or None.

    A box at the right must be near, and that box with x and y exchanged must not.
    """
    import torch

    ramp = torch.arange(480.0).expand(480, 480)
    right_box = (32, 0, 64, 32)
    top_box = (0, 0, 64, 8)
    right, top = depths_of_boxes(ramp, (64, 64), (right_box, top_box)).depths

    is_near = (right.mean or 0.0) > 160
    is_far_transposed = (right.transposed_mean or 0.0) < 96
    is_middle = abs((top.mean or 0.0) - 127.5) < 2
    is_at_left_transposed = (top.transposed_mean or 0.0) < 20
    if is_near and is_far_transposed and is_middle and is_at_left_transposed:
        return None
    values = [right.mean, right.transposed_mean, top.mean, top.transposed_mean]
    return f"a map that grows to the right gives {values}"


STACK_CHECKS = (NamedCheck("a map that grows to the right is nearer there", check_depth_direction),)
