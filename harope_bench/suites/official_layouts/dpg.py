"""DPG-Bench's pictures: one an item, `partiprompts97.png`, which is one image, two side by side, or
a grid of 2 x 2, row by row.

The official scorer is told the side of a tile and how many of them to judge (`--pic-num`, by
default the first alone), whatever the
picture's size: beyond its edge it judges black. Here the side or the number of tiles must be stated
where a picture's form leaves it open,
as a square does, every picture must have as many tiles, and one that is no whole number of tiles is
refused.

Source: TencentQQGYLab/ELLA 3c228f1d, dpg_bench/compute_dpg_bench.py `compute_dpg_one_sample`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import OptionError, SampleError
from harope_bench.core.storage import convert_os_errors
from harope_bench.data.folder_writer import write_folder
from harope_bench.data.image_folder import IMAGE_SUFFIXES, RESERVED_FOLDERS, sort_naturally
from harope_bench.data.image_io import open_image, read_image_bytes
from harope_bench.data.sample_set import SampleSet
from harope_bench.suites.base import PromptSuite
from harope_bench.suites.dpg_bench import official_hashes
from harope_bench.suites.official_layouts.base import (
    WriteReport,
    copies_warnings,
    make_sample_set,
    shorten_list,
)

IS_TILED = True
SUITE = "dpg-bench"
SUITES = (SUITE,)
METADATA_KEY = "dpg"
GRID_SHAPES = {1: (1, 1), 2: (2, 1), 4: (2, 2)}  # tiles across and down, by their number

TileBox = tuple[int, int, int, int]


class Grids(NamedTuple):
    """The picture of each item, and names of what else lies there."""

    by_item: dict[str, Path]
    unread_names: list[str]


def item_of_file(path: Path | str) -> str:
    """The item that a picture is of: its file name up to the first dot, as the script reads it."""
    return str(path).replace("\\", "/").rpartition("/")[2].split(".")[0]


def is_layout(folder: Path) -> bool:
    """Whether pictures in it are named as DPG-Bench's items are, at least one not by a mere
    number.
    """
    with convert_os_errors(folder):
        found = {
            item_of_file(path) for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES
        }
    return any(not item.isdigit() for item in found & official_hashes().keys())


def open_layout(
    folder: Path, suite: PromptSuite, side: int | None = None, tiles: int | None = None
) -> SampleSet:
    """Return the tiles of every item, as many of each as the pictures have.

    Args:
        side: Of a tile in pixels. tiles: How many a picture has, 1, 2 or 4. At most one of them is
            needed.

    Raises:
        OptionError: The form of the pictures leaves open how many tiles they have, and neither is
            stated.
        SampleError: No picture of the suite, two of one item, no whole number of tiles, or
            different numbers of them.
    """
    prompts = suite.count // suite.copies
    items = [str(suite.case(prompt).metadata[METADATA_KEY]["item"]) for prompt in range(prompts)]
    grids = _grids(folder, set(items))
    pictures = {item: tile_boxes(path, side, tiles) for item, path in grids.by_item.items()}
    cuts = {item: found for item, found in pictures.items() if found}
    copies = _common_tile_count(folder, grids, cuts)

    files: dict[int, Path] = {}
    boxes: dict[int, TileBox] = {}
    failed: dict[int, str] = {}
    for prompt, item in enumerate(items):
        path = grids.by_item.get(item)
        for copy in range(copies):
            index = copy * prompts + prompt
            if path is not None and item in cuts:
                files[index] = path
                boxes[index] = cuts[item][copy]
            else:
                failed[index] = (
                    f"{path.name} is not a readable picture" if path else f"no picture of {item}"
                )
    return make_sample_set(
        folder, suite, files, failed, _warnings(grids, boxes, copies, suite), boxes
    )


def _common_tile_count(folder: Path, grids: Grids, cuts: Mapping[str, list[TileBox]]) -> int:
    """Return how many tiles every picture has, 1 where none can be read; SampleError where they
    differ.
    """
    numbers = {len(boxes): grids.by_item[item].name for item, boxes in cuts.items()}
    if len(numbers) > 1:
        shown = ", ".join(f"{name} has {number}" for number, name in sorted(numbers.items()))
        raise SampleError(
            f"{folder} has pictures of different numbers of tiles ({shown}); score them from two"
            " folders"
        )
    return next(iter(numbers), 1)


def _warnings(
    grids: Grids, boxes: Mapping[int, TileBox], copies: int, suite: PromptSuite
) -> tuple[str, ...]:
    found = [f"images: not read: {shorten_list(grids.unread_names)}"] if grids.unread_names else []
    sizes = sorted({(box[2] - box[0], box[3] - box[1]) for box in boxes.values()})
    shown = shorten_list([f"{width}x{height}" for width, height in sizes])
    form = "one image" if copies == 1 else f"{'x'.join(map(str, GRID_SHAPES[copies]))} images"
    found.append(f"grids: each picture is {form} of {shown} pixels")
    return (*found, *copies_warnings(copies, suite.copies, "item"))


def tile_boxes(path: Path, side: int | None = None, tiles: int | None = None) -> list[TileBox]:
    """Return the boxes of a picture's tiles, row by row; none where the picture cannot be read.

    Raises:
        OptionError: The picture's form leaves open how many tiles it has.
        SampleError: No whole number of square tiles in one of the forms 1 x 1, 2 x 1, 2 x 2, or not
            as many as stated.
    """
    try:
        with open_image(read_image_bytes(path), str(path)) as picture:
            width, height = picture.size
    except SampleError:
        return []
    if tiles == 1 and side is None:
        return [(0, 0, width, height)]

    side = side or _tile_side(path, width, height, tiles)
    across = width // side
    down = height // side
    is_whole = (across * side, down * side) == (width, height) and (
        across,
        down,
    ) in GRID_SHAPES.values()
    if not is_whole or tiles not in (None, across * down):
        wanted = f"{tiles} of them" if tiles else "1, 2 or 2x2 of them"
        raise SampleError(
            f"{path} is {width}x{height}, wanted square tiles of {side} pixels, {wanted} (beyond"
            " its edge the official script judges black); give --resolution the side of a tile, or"
            " make the picture again"
        )
    return [
        (x * side, y * side, (x + 1) * side, (y + 1) * side)
        for y in range(down)
        for x in range(across)
    ]


def _tile_side(path: Path, width: int, height: int, tiles: int | None) -> int:
    """Return the side of a tile from the number of tiles, or from a form that only two tiles
    have.
    """
    if tiles is not None:
        return max(width // GRID_SHAPES[tiles][0], 1)
    if width == 2 * height:
        return height
    if width == height and width % 2 == 1:
        return width  # no grid of four has an odd side
    if width == height:
        raise OptionError(
            f"{path} is {width}x{height}: one image, or 2x2 of them? give --tiles 1 (or"
            f" --resolution {width}) for one image a picture, --tiles 4 (or --resolution"
            f" {width // 2}) for a grid of four"
        )
    raise OptionError(
        f"{path} is {width}x{height}, no grid of square images; give --tiles 1 if it is one image"
    )


def write_images(samples: SampleSet, suite: PromptSuite, folder: Path) -> WriteReport:
    """Write a picture an item as PNG, of one image, two side by side or a grid of four, as many as
    the items have.

    An item that lacks an image is left out whole, since its place would be judged as black.

    Raises:
        SampleError: Something lies there, or no item has as many images as a picture would join.
    """
    prompts = suite.count // suite.copies
    known = set(samples.indices)
    copies = _tiles_needed(known, prompts, suite.copies)
    joining: dict[str, list[int]] = {}
    absent = []
    for prompt in range(prompts):
        indices = [copy * prompts + prompt for copy in range(copies)]
        item = str(suite.case(prompt).metadata[METADATA_KEY]["item"])
        if not known >= set(indices):
            absent.append(item)
            continue
        joining[f"{item}.png"] = indices
    if not joining:
        raise SampleError(
            f"{samples.path}: no item has the {copies} images that a picture would join (1, 2 or 4"
            f" of each); give --count {max(copies // 2, 1) * prompts} or fewer, or generate the"
            " missing images"
        )
    write_folder(
        folder,
        list(joining),
        lambda names: (join_tiles(list(_images(samples, joining[name]))) for name in names),
    )
    warnings = (
        [
            f"{len(absent):,} items without all their {copies} images were left out:"
            f" {shorten_list(absent)}"
        ]
        if absent
        else []
    )
    if copies < suite.copies:
        warnings.append(
            f"{copies} of {suite.copies} images of each item; the official script needs --pic-num"
            f" {copies}"
        )
    warnings.append(f"read it back with --tiles {copies}")
    return WriteReport(copies * len(joining), tuple(warnings))


def _tiles_needed(known: set[int], prompts: int, most: int) -> int:
    """Return the smallest number of tiles that holds every copy there is."""
    needed = 1 + max(known) // prompts
    return next((number for number in GRID_SHAPES if number >= needed), most)


def join_tiles(images: list[np.ndarray]) -> np.ndarray:
    """Return 1, 2 or 4 images (H, W, 3) as one picture: side by side, then the lower row."""
    rows = [np.concatenate(images[k : k + 2], axis=1) for k in range(0, len(images), 2)]
    return np.concatenate(rows)


def _images(samples: SampleSet, indices: list[int]) -> Iterator[np.ndarray]:
    for batch in samples.batches(indices, len(indices)):
        yield from batch.images


def _grids(folder: Path, items: set[str]) -> Grids:
    of_item: dict[str, Path] = {}
    left = []
    with convert_os_errors(folder):
        found = sort_naturally(
            path
            for path in folder.iterdir()
            if path.name not in RESERVED_FOLDERS and not path.name.startswith(".")
        )
    for path in found:
        item = item_of_file(path)
        if path.is_dir() or path.suffix.lower() not in IMAGE_SUFFIXES or item not in items:
            left.append(path.name)
        elif item in of_item:
            raise SampleError(
                f"{folder} has {of_item[item].name} and {path.name} for one item; remove one of"
                " them"
            )
        else:
            of_item[item] = path
    return Grids(of_item, left)
