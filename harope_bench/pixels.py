"""One image: file bytes to pixels and back, and the crop that references are made with."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from harope_bench.errors import SampleError


class Decoded(NamedTuple):
    """An image (H, W, 3) uint8 and the mode of its file: RGB, L (grey), P (palette) or 1."""

    image: np.ndarray
    mode: str


def encode(image: np.ndarray) -> bytes:
    """PNG bytes of an image (H, W, 3) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def decode(data: bytes, what: str) -> Decoded:
    """Image (H, W, 3) uint8 from file bytes; SampleError names `what` if they are damaged, or carry alpha, CMYK, 16 bits or frames."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            mode = image.mode + " with transparency" * ("transparency" in image.info) + ", 16 bits" * _deep(data)
            if mode not in ("RGB", "L", "P", "1"):
                raise SampleError(f"{what} has mode {mode}, wanted RGB of 8 bits; convert it first, alpha and CMYK are not guessed")
            if (frames := getattr(image, "n_frames", 1)) > 1:
                raise SampleError(f"{what} has {frames} frames, wanted one picture; save the frame that is meant")
            return Decoded(np.asarray(image.convert("RGB")), mode)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SampleError(f"{what} is not a readable image ({error}); draw or copy it again") from error


def cut(whole: Decoded, box: tuple[int, int, int, int] | None, what: str) -> Decoded:
    """The part (x0, y0, x1, y1) of an image, all of it where None; SampleError names `what` if it does not reach so far."""
    if box is None:
        return whole
    x0, y0, x1, y1 = box
    height, width = whole.image.shape[:2]
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise SampleError(f"{what} is part {box} of a picture, which is {width}x{height}; it changed, open the folder again")
    return whole._replace(image=whole.image[y0:y1, x0:x1])


def _deep(data: bytes) -> bool:
    """Whether a PNG has 16 bits a channel (the bit depth of its IHDR), which pillow would cut to 8 in silence."""
    return data.startswith(b"\x89PNG") and data[24:25] == b"\x10"


def centre_crop(image: np.ndarray, side: int) -> np.ndarray:
    """The middle square of an image (H, W, 3) uint8 at `side` pixels, as ADM prepares ImageNet.

    Halved by box filters while the shorter side is at least twice as long, then bicubic to it, then cut.

    Source: openai/guided-diffusion:guided_diffusion/image_datasets.py, `center_crop_arr`.
    """
    picture = Image.fromarray(image)
    while min(picture.size) >= 2 * side:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = side / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return np.asarray(picture)[top : top + side, left : left + side]
