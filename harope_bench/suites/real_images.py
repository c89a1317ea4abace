"""Real images with labels: resized and cropped to one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from harope_bench.data.image_io import open_image


def resize_and_crop(image: Image.Image, side: int, crop_ratio: float) -> np.ndarray:
    """Return the centre crop (side, side, 3) uint8 of the resized image.

    The shorter side is resized to side / crop_ratio with pillow's bicubic filter. Grey and CMYK
    become RGB. Rounding is that of torchvision's Resize and CenterCrop on pillow images.
    """
    rgb = image.convert("RGB")
    shorter_side = int(side / crop_ratio)
    width, height = rgb.size
    if width <= height:
        size = (shorter_side, int(shorter_side * height / width))
    else:
        size = (int(shorter_side * width / height), shorter_side)
    if rgb.size != size:
        rgb = rgb.resize(size, Image.Resampling.BICUBIC)

    left = round((size[0] - side) / 2.0)
    top = round((size[1] - side) / 2.0)
    return np.asarray(rgb.crop((left, top, left + side, top + side)))


def decode_and_crop(data: bytes, image_name: str, side: int, crop_ratio: float) -> np.ndarray:
    """Return the image in these bytes, resized and cropped to (side, side, 3) uint8.

    Raises:
        SampleError: The bytes are damaged; the message has the name of the image.
    """
    with open_image(data, image_name) as image:
        return resize_and_crop(image, side, crop_ratio)


@dataclass(frozen=True)
class ArrayImages:
    """Grey images in memory, (N, H, W) uint8, with labels (N,)."""

    images: np.ndarray
    labels: Sequence[int]
    is_complete: bool = True  # whether these are all images that the suite defines

    @property
    def names(self) -> list[str]:
        """Return the name of each image, which is its index in five digits."""
        return [f"{i:05d}" for i in range(len(self.labels))]

    def read_bytes(self, index: int) -> bytes:
        """Return the bytes of an image, which identify it."""
        return self.images[index].tobytes()

    def decode(self, index: int, data: bytes, side: int, crop_ratio: float) -> np.ndarray:
        """Return the image, resized and cropped to (side, side, 3) uint8."""
        return resize_and_crop(Image.fromarray(self.images[index]), side, crop_ratio)
