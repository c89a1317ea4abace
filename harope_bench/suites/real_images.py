"""Real pictures with labels: read, brought to one size, and never guessed at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from harope_bench.data.image_io import open_image


def resize_and_crop(image: Image.Image, side: int, crop_ratio: float) -> np.ndarray:
    """(side, side, 3) uint8: the shorter side resized to side / crop_ratio by pillow's bicubic
    filter, the middle cut out.

    Grey and CMYK become RGB. Rounding as in torchvision's Resize and CenterCrop on pillow images.
    """
    rgb = image.convert("RGB")
    short = int(side / crop_ratio)
    width, height = rgb.size
    sides = (
        (short, int(short * height / width))
        if width <= height
        else (int(short * width / height), short)
    )
    if rgb.size != sides:
        rgb = rgb.resize(sides, Image.Resampling.BICUBIC)
    left, top = (round((now - side) / 2.0) for now in sides)
    return np.asarray(rgb.crop((left, top, left + side, top + side)))


def decode_and_crop(data: bytes, what: str, side: int, crop_ratio: float) -> np.ndarray:
    """The picture in these bytes, fitted; SampleError names `what` where they are damaged."""
    with open_image(data, what) as image:
        return resize_and_crop(image, side, crop_ratio)


@dataclass(frozen=True)
class ArrayImages:
    """Pictures that lie in memory: images (N, H, W) uint8, labels (N,)."""

    images: np.ndarray
    labels: Sequence[int]
    is_complete: bool = True  # whether these are all of the suite

    @property
    def names(self) -> list[str]:
        """A name of each picture: its place."""
        return [f"{i:05d}" for i in range(len(self.labels))]

    def read_bytes(self, index: int) -> bytes:
        """What the picture is known by."""
        return self.images[index].tobytes()

    def decode(self, index: int, data: bytes, side: int, crop_ratio: float) -> np.ndarray:
        """The picture as (side, side, 3) uint8."""
        return resize_and_crop(Image.fromarray(self.images[index]), side, crop_ratio)
