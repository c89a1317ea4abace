"""DPG-Bench's grids: one picture an item, `partiprompts97.png`, whose 2 x 2 tiles are the copies, row by row.

The official scorer is told the side of a tile and cuts there, whatever the picture's size: beyond its edge it judges black. Here the
side is half the width unless it is given, and a picture that is no whole number of such tiles is refused.

Source: TencentQQGYLab/ELLA 3c228f1d, dpg_bench/compute_dpg_bench.py `compute_dpg_one_sample`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from harope_bench.errors import SampleError
from harope_bench.folders import OURS, SUFFIXES
from harope_bench.layouts.base import Written, empty, few, gathered
from harope_bench.pixels import encode
from harope_bench.samples import SampleSet
from harope_bench.store import disk, write_bytes
from harope_bench.suites.base import PromptSuite
from harope_bench.suites.dpg_bench import official_hashes

TILED = True
SUITE = "dpg-bench"
FORM = "dpg"
SHAPES = ((1, 1), (2, 1), (2, 2))  # tiles across and down

Cut = tuple[int, int, int, int]


class Grids(NamedTuple):
    """The picture of each item, and names of what else lies there."""

    of_item: dict[str, Path]
    left: list[str]


def item_of(path: Path | str) -> str:
    """The item that a picture is of: its file name up to the first dot, as the script reads it."""
    return str(path).replace("\\", "/").rpartition("/")[2].split(".")[0]


def recognise(folder: Path) -> bool:
    """Whether pictures in it are named as DPG-Bench's items are, at least one not by a mere number."""
    with disk(folder):
        found = {item_of(path) for path in folder.iterdir() if path.suffix.lower() in SUFFIXES}
    return any(not item.isdigit() for item in found & official_hashes().keys())


def open_layout(folder: Path, suite: PromptSuite, side: int | None = None) -> SampleSet:
    """The tiles of every item.

    Args:
        side: of a tile in pixels; half of each picture's width if None.

    Raises:
        SampleError: no picture of the suite, two of one item, or one that is no whole number of tiles.
    """
    prompts = suite.count // suite.copies
    items = [str(suite.case(prompt).facts[FORM]["item"]) for prompt in range(prompts)]
    grids = _grids(folder, set(items))
    files: dict[int, Path] = {}
    boxes: dict[int, Cut] = {}
    failed: dict[int, str] = {}
    for prompt, item in enumerate(items):
        path = grids.of_item.get(item)
        cuts = tiles(path, side) if path else []
        for copy in range(suite.copies):
            index = copy * prompts + prompt
            if path and copy < len(cuts):
                files[index], boxes[index] = path, cuts[copy]
            else:
                failed[index] = _why(path, cuts, suite.copies) if path else f"no picture of {item}"
    told = [f"images: not read: {few(grids.left)}"] if grids.left else []
    if side is None and boxes:
        halves = sorted({box[2] - box[0] for box in boxes.values()})
        told.append(f"grids: each picture was cut into 2x2 images of {few([str(half) for half in halves])} pixels, half its width")
    return gathered(folder, suite, files, failed, tuple(told), boxes)


def _why(path: Path, cuts: list[Cut], copies: int) -> str:
    return f"{path.name} has {len(cuts)} of {copies} tiles" if cuts else f"{path.name} is not a readable picture"


def tiles(path: Path, side: int | None = None) -> list[Cut]:
    """Boxes of a picture's tiles, row by row; none where the picture cannot be read.

    Raises:
        SampleError: no whole number of tiles in one of the forms 1 x 1, 2 x 1, 2 x 2.
    """
    try:
        with Image.open(path) as picture:
            width, height = picture.size
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return []
    side = side or width // 2
    across, down = (width // side, height // side) if side else (0, 0)
    if (across * side, down * side) != (width, height) or (across, down) not in SHAPES:
        raise SampleError(
            f"{path} is {width}x{height}, wanted 2x2 tiles of {side} pixels (beyond its edge the official script judges black);"
            " give the side of a tile, or make the grid again"
        )
    return [(x * side, y * side, (x + 1) * side, (y + 1) * side) for y in range(down) for x in range(across)]


def write(samples: SampleSet, suite: PromptSuite, folder: Path) -> Written:
    """A 2 x 2 grid an item as PNG. An item that lacks an image is left out whole, since its place would be judged as black."""
    empty(folder)
    prompts, held, left = suite.count // suite.copies, set(samples.indices), []
    images = 0
    for prompt in range(prompts):
        indices = [copy * prompts + prompt for copy in range(suite.copies)]
        item = str(suite.case(prompt).facts[FORM]["item"])
        if not held >= set(indices):
            left.append(item)
            continue
        write_bytes(folder / f"{item}.png", encode(joined(list(_images(samples, indices)))))
        images += len(indices)
    told = (f"{len(left):,} items without all their {suite.copies} images were left out: {few(left)}",) if left else ()
    return Written(images, told)


def joined(images: list[np.ndarray]) -> np.ndarray:
    """Four images (H, W, 3) as one (2H, 2W, 3): top left, top right, bottom left, bottom right."""
    return np.concatenate([np.concatenate(images[:2], axis=1), np.concatenate(images[2:], axis=1)])


def _images(samples: SampleSet, indices: list[int]) -> Iterator[np.ndarray]:
    for batch in samples.batches(indices, len(indices)):
        yield from batch.images


def _grids(folder: Path, items: set[str]) -> Grids:
    of_item: dict[str, Path] = {}
    left = []
    with disk(folder):
        found = sorted(path for path in folder.iterdir() if path.name not in OURS and not path.name.startswith("."))
    for path in found:
        item = item_of(path)
        if path.is_dir() or path.suffix.lower() not in SUFFIXES or item not in items:
            left.append(path.name)
        elif item in of_item:
            raise SampleError(f"{folder} has {of_item[item].name} and {path.name} for one item; remove one of them")
        else:
            of_item[item] = path
    return Grids(of_item, left)
