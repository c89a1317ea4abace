"""Images of the toy benchmark: one colour each, no two the same file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

RED, WHITE, BLACK, THIRTEEN = (255, 0, 0), (255, 255, 255), (0, 0, 0), (13, 13, 13)
# by prompt: bright, bright, red, red; two copies
COLOURS = [WHITE, BLACK, WHITE, RED, WHITE, WHITE, BLACK, WHITE]


def write_toy_images(folder: Path, colours: list[tuple[int, int, int]]) -> Path:
    """Write an image of 8 x 8 of each colour, named by its number; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, colour in enumerate(colours):
        image = np.full((8, 8, 3), colour, dtype=np.uint8)
        image[0, 0, 2] = min(i, 13)  # no two images are the same file
        Image.fromarray(image).save(folder / f"{i:06d}.png")
    return folder
