"""DPG-Bench's image files: one for each item, `partiprompts97.png`.

A file is one image, two images side by side, or a grid of 2 x 2 images, row by row.

The official scorer is given the side of a tile and the number of tiles to judge (`--pic-num`, by
default only the first), whatever the size of the file. Beyond the edge of the file it judges black.
Here the side or the number of tiles must be given where the size of a file is ambiguous, as for a
square. All files must have equally many tiles, and a file without a whole number of tiles is
rejected.

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
GRID_SHAPES = {1: (1, 1), 2: (2, 1), 4: (2, 2)}  # columns and rows of tiles, by their number

TileBox = tuple[int, int, int, int]  # left, top, right, bottom


class Grids(NamedTuple):
    """The image file of each item, and the names of all other files in the folder."""

    by_item: dict[str, Path]
    unread_names: list[str]


def item_of_file(path: Path | str) -> str:
    """Return the item of an image file: its name up to the first dot, as the script reads it."""
    return str(path).replace("\\", "/").rpartition("/")[2].split(".")[0]


def is_layout(folder: Path) -> bool:
    """Return whether image files are named like items, at least one of them not only a number."""
    with convert_os_errors(folder):
        items = {
            item_of_file(path) for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES
        }
    return any(not item.isdigit() for item in items & official_hashes().keys())


def is_unmistakable(folder: Path) -> bool:
    """Return whether the folder has this layout, which other images do not have by chance."""
    return is_layout(folder)


def open_layout(
    folder: Path, suite: PromptSuite, side: int | None = None, tiles: int | None = None
) -> SampleSet:
    """Return the tiles of every item at the indices of the suite.

    Args:
        side: side of a tile in pixels. tiles: number of tiles in a file, 1, 2 or 4. At most one of
            both is needed.

    Raises:
        OptionError: The size of a file is ambiguous, and neither is given.
        SampleError: No image of the suite, two files of one item, no whole number of tiles, or
            different numbers of tiles.
    """
    prompts = suite.count // suite.copies
    items = [str(suite.case(prompt).metadata[METADATA_KEY]["item"]) for prompt in range(prompts)]
    grids = _grids(folder, set(items))
    boxes_by_item = {}
    for item, path in grids.by_item.items():
        item_boxes = tile_boxes(path, side, tiles)
        if item_boxes:
            boxes_by_item[item] = item_boxes
    copies = _common_tile_count(folder, grids, boxes_by_item)

    files: dict[int, Path] = {}
    boxes: dict[int, TileBox] = {}
    failed: dict[int, str] = {}
    for prompt_index, item in enumerate(items):
        item_file = grids.by_item.get(item)
        for copy in range(copies):
            index = copy * prompts + prompt_index
            if item_file is None:
                failed[index] = f"no image file of {item}"
            elif item not in boxes_by_item:
                failed[index] = f"{item_file.name} is not a readable image"
            else:
                files[index] = item_file
                boxes[index] = boxes_by_item[item][copy]
    warnings = _warnings(grids, boxes, copies, suite)
    return make_sample_set(folder, suite, files, failed, warnings, boxes)


def _common_tile_count(
    folder: Path, grids: Grids, boxes_by_item: Mapping[str, list[TileBox]]
) -> int:
    """Return the number of tiles of every file, 1 if no file is readable.

    Raises:
        SampleError: The numbers differ.
    """
    name_by_count = {len(boxes): grids.by_item[item].name for item, boxes in boxes_by_item.items()}
    if len(name_by_count) > 1:
        counts = ", ".join(f"{name} has {count}" for count, name in sorted(name_by_count.items()))
        raise SampleError(
            f"{folder} has files with different numbers of tiles ({counts}); score them from two"
            " folders"
        )
    return next(iter(name_by_count), 1)


def _warnings(
    grids: Grids, boxes: Mapping[int, TileBox], copies: int, suite: PromptSuite
) -> tuple[str, ...]:
    """Return the warnings about unread files, the grid of the files and missing copies."""
    warnings = []
    if grids.unread_names:
        warnings.append(f"images: not read: {shorten_list(grids.unread_names)}")
    sizes = sorted({(box[2] - box[0], box[3] - box[1]) for box in boxes.values()})
    sizes_text = shorten_list([f"{width}x{height}" for width, height in sizes])
    grid = "one image" if copies == 1 else f"{'x'.join(map(str, GRID_SHAPES[copies]))} images"
    warnings.append(f"grids: each file is {grid} of {sizes_text} pixels")
    return (*warnings, *copies_warnings(copies, suite.copies, "item"))


def tile_boxes(path: Path, side: int | None = None, tiles: int | None = None) -> list[TileBox]:
    """Return the boxes of a file's tiles, row by row; none if the file cannot be read.

    A tile has `side` pixels a side.

    Raises:
        OptionError: The size of the file is ambiguous.
        SampleError: There is no whole number of square tiles in one of the grids 1 x 1, 2 x 1,
            2 x 2, or another number than given.
    """
    try:
        with open_image(read_image_bytes(path), str(path)) as image:
            width, height = image.size
    except SampleError:
        return []
    if tiles == 1 and side is None:
        return [(0, 0, width, height)]

    side = side or _tile_side(path, width, height, tiles)
    columns = width // side
    rows = height // side
    fills_image = (columns * side, rows * side) == (width, height)
    is_known_grid = (columns, rows) in GRID_SHAPES.values()
    if not fills_image or not is_known_grid or tiles not in (None, columns * rows):
        expected = f"{tiles} of them" if tiles else "1, 2 or 2x2 of them"
        raise SampleError(
            f"{path} is {width}x{height}, wanted square tiles of {side} pixels, {expected} (beyond"
            " its edge the official script judges black); give --resolution the side of a tile, or"
            " make the file again"
        )
    return [
        (column * side, row * side, (column + 1) * side, (row + 1) * side)
        for row in range(rows)
        for column in range(columns)
    ]


def _tile_side(path: Path, width: int, height: int, tiles: int | None) -> int:
    """Return the side of a tile, from the number of tiles or from an unambiguous size.

    Raises:
        OptionError: The size is ambiguous, or that of no grid of squares.
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
            f" --resolution {width}) for one image in each file, --tiles 4 (or --resolution"
            f" {width // 2}) for a grid of four"
        )
    raise OptionError(
        f"{path} is {width}x{height}, no grid of square images; give --tiles 1 if it is one image"
    )


def write_images(samples: SampleSet, suite: PromptSuite, folder: Path) -> WriteReport:
    """Write one PNG for each item, with 1, 2 (side by side) or 4 (a grid) images.

    An item that lacks an image is left out, because the script would judge the gap as black.

    Raises:
        SampleError: The folder has other files, or no item has all images of a file.
    """
    prompts = suite.count // suite.copies
    sample_indices = set(samples.indices)
    copies = _tiles_needed(sample_indices, prompts, suite.copies)
    indices_by_name: dict[str, list[int]] = {}
    incomplete_items = []
    for prompt_index in range(prompts):
        indices = [copy * prompts + prompt_index for copy in range(copies)]
        item = str(suite.case(prompt_index).metadata[METADATA_KEY]["item"])
        if sample_indices >= set(indices):
            indices_by_name[f"{item}.png"] = indices
        else:
            incomplete_items.append(item)
    if not indices_by_name:
        raise SampleError(
            f"{samples.path}: no item has the {copies} images that a file would join (1, 2 or 4"
            f" of each); give --count {max(copies // 2, 1) * prompts} or fewer, or generate the"
            " missing images"
        )

    write_folder(
        folder,
        list(indices_by_name),
        lambda names: (join_tiles(list(_images(samples, indices_by_name[name]))) for name in names),
    )
    warnings = []
    if incomplete_items:
        warnings.append(
            f"{len(incomplete_items):,} items without all their {copies} images were left out:"
            f" {shorten_list(incomplete_items)}"
        )
    if copies < suite.copies:
        warnings.append(
            f"{copies} of {suite.copies} images of each item; the official script needs --pic-num"
            f" {copies}"
        )
    warnings.append(f"read it back with --tiles {copies}")
    return WriteReport(copies * len(indices_by_name), tuple(warnings))


def _tiles_needed(indices: set[int], prompts: int, max_copies: int) -> int:
    """Return the smallest number of tiles that has room for every copy in `indices`."""
    needed_copies = 1 + max(indices) // prompts
    return next((number for number in GRID_SHAPES if number >= needed_copies), max_copies)


def join_tiles(images: list[np.ndarray]) -> np.ndarray:
    """Return 1, 2 or 4 images (H, W, 3) as one image: side by side, then the lower row."""
    rows = [np.concatenate(images[k : k + 2], axis=1) for k in range(0, len(images), 2)]
    return np.concatenate(rows)  # (H or 2H, W or 2W, 3)


def _images(samples: SampleSet, indices: list[int]) -> Iterator[np.ndarray]:
    """Yield the images (H, W, 3) uint8 at these indices."""
    for batch in samples.batches(indices, len(indices)):
        yield from batch.images


def _grids(folder: Path, items: set[str]) -> Grids:
    """Return the image files of the items; raise SampleError for two files of one item."""
    by_item: dict[str, Path] = {}
    unread_names = []
    with convert_os_errors(folder):
        paths = sort_naturally(
            path
            for path in folder.iterdir()
            if path.name not in RESERVED_FOLDERS and not path.name.startswith(".")
        )
    for path in paths:
        item = item_of_file(path)
        if path.is_dir() or path.suffix.lower() not in IMAGE_SUFFIXES or item not in items:
            unread_names.append(path.name)
        elif item in by_item:
            raise SampleError(
                f"{folder} has {by_item[item].name} and {path.name} for one item; remove one of"
                " them"
            )
        else:
            by_item[item] = path
    return Grids(by_item, unread_names)
