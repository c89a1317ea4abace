"""T2I-CompBench's folders: `CATEGORY/samples/PROMPT_000123.png`, one folder a category, the number
counting 10 x prompt + copy through it.

The official scripts read the prompt back out of the file name (what stands before the first `_`),
and so does this reader. The number
tells the copy: it counts through the category, ten or fewer of each prompt, or anew for each
prompt, or there is none. Files whose number
fits nothing of this, and what is missing or left over, are told. A run of the suite is written back
in the official form; a prompt that
could not stand in a file name is refused, so that no prompt chooses a path.

Source: Karine-Huang/T2I-CompBench 1b709499, GORS_finetune/inference_eval.py and
BLIPvqa_eval/BLIP_vqa.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harope_bench.core.errors import OptionError, SampleError
from harope_bench.core.storage import convert_os_errors
from harope_bench.data.folder_writer import write_folder
from harope_bench.data.image_folder import IMAGE_SUFFIXES, sort_naturally
from harope_bench.data.sample_set import SampleSet, image_reader
from harope_bench.suites.base import PromptSuite
from harope_bench.suites.compbench_suite import CATEGORIES, COPIES, METADATA_KEY, CompBenchSuite
from harope_bench.suites.official_layouts.base import (
    WriteReport,
    copies_warnings,
    make_sample_set,
    shorten_list,
)

SUITE = "t2i-compbench"
SUITES = (SUITE, "t2i-compbench-table5")
IS_TILED = False
SAMPLES_FOLDER = "samples"
FILE_NAME = re.compile(r"(?P<text>[^_]+?)(?:_(?P<number>[0-9]{1,9}))?")
MAX_NAME_BYTES = 240  # bytes of a file name, of the 255 that file systems take


class NamedImage(NamedTuple):
    """An image file by its name: prompt, number (None where the name has none) and place."""

    prompt: str
    number: int | None
    path: Path


class Numbering(NamedTuple):
    """One way in which numbers may count: the copy of (place of the prompt, number), None where
    that number fits no copy.
    """

    name: str
    copy: Callable[[int, int], int | None]


class CategoryFiles(NamedTuple):
    """Files of a category by (place of the prompt, copy), how their numbers count, and names of
    files that are not read.
    """

    files: Mapping[tuple[int, int], Path]
    numbering: str
    unread_names: list[str]


def _numbered_through_category(copies: int) -> Numbering:
    def copy(place: int, number: int) -> int | None:
        return number % copies if number // copies == place else None

    return Numbering(f"{copies} of each prompt through the category", copy)


def _numbered_per_prompt(place: int, number: int) -> int | None:
    return number if number < COPIES else None


def _numbered_per_prompt_from_1(place: int, number: int) -> int | None:
    return number - 1 if 1 <= number <= COPIES else None


NUMBERINGS = (
    _numbered_through_category(COPIES),
    Numbering("anew for each prompt", _numbered_per_prompt),
    Numbering("anew for each prompt, from 1", _numbered_per_prompt_from_1),
    *map(_numbered_through_category, range(1, COPIES)),
)


def is_layout(folder: Path) -> bool:
    """Return whether the folder is one category's or holds categories' folders.

    Where the folder's name tells no category, a file must have a number and begin with several
    words.
    """
    return any(
        name is not None or (" " in image.prompt and image.number is not None)
        for name, place in _image_folders(folder)
        for image in _list_images(place)[0]
    )


def open_layout(
    folder: Path, suite: PromptSuite, side: int | None = None, tiles: int | None = None
) -> SampleSet:
    """Return the images of the categories that are here, as many copies as the fullest prompt of a
    category has.

    Categories without a folder are not asked for. side and tiles are of other layouts.

    Raises:
        OptionError: the suite is another benchmark's. SampleError: no image of the suite, or a
            category that cannot be told.
    """
    own = _check_suite(suite, folder)
    files: dict[int, Path] = {}
    failed: dict[int, str] = {}
    warnings: list[str] = []
    here: list[str] = []
    for name, place in _image_folders(folder):
        found, left = _list_images(place)
        category = name or _infer_category(found, own, place)
        if category not in own.categories:
            warnings.append(f"folders: {place.parent.name} is no category of this suite; not read")
            continue
        if category in here:
            warnings.append(
                f"folders: {place.parent.name} is a second folder of {category}; not read"
            )
            continue
        here.append(category)
        reading = _assign_images(found, left, own.category_prompts(category))
        warnings += _collect_images(category, reading, own, files, failed)
    if gone := [category for category in own.categories if category not in here]:
        warnings.append(f"folders: no images of {', '.join(gone)}")
    return make_sample_set(folder, suite, files, failed, tuple(warnings))


def write_images(samples: SampleSet, suite: PromptSuite, folder: Path) -> WriteReport:
    """The images by category under their official names, as PNG. Failed samples are left out.

    Raises:
        SampleError: something lies there, or a prompt cannot stand in a file name.
    """
    own = _check_suite(suite, folder)
    places = {index: _category_and_name(own, index) for index in samples.indices}
    names = {
        f"{category}/{SAMPLES_FOLDER}/{name}": index for index, (category, name) in places.items()
    }
    write_folder(folder, list(names), image_reader(samples, names))
    wanted = COPIES * sum(
        len(own.category_prompts(category))
        for category in {category for category, _ in places.values()}
    )
    short = wanted - len(samples.indices)
    told = (
        (
            (
                f"{short:,} of {wanted:,} images are not there; the official 3-in-1 needs ten of"
                " each prompt"
            ),
        )
        if short
        else ()
    )
    return WriteReport(len(samples.indices), told)


def _check_suite(suite: PromptSuite, folder: Path) -> CompBenchSuite:
    if not isinstance(suite, CompBenchSuite):
        raise OptionError(
            f"{folder} is for T2I-CompBench's layout, {suite.title} is another suite; give"
            f" {' or '.join(SUITES)}"
        )
    return suite


def file_name(text: str, number: int) -> str:
    """The official name of an image; SampleError where the prompt cannot stand in one file name.

    >>> file_name("a cup", 12)
    'a cup_000012.png'
    """
    name = f"{text}_{number:06d}.png"
    bad = sorted({c for c in text if c in "/\\_" or not c.isprintable()})
    if (
        not text
        or bad
        or text != text.strip()
        or text.startswith(".")
        or len(name.encode()) > MAX_NAME_BYTES
    ):
        why = (
            f"holds {bad[0]!r}"
            if bad
            else "is empty, too long, or begins or ends as no file name should"
        )
        raise SampleError(
            f"prompt {text[:60]!r} cannot stand in a file name: it {why}; choose another layout"
        )
    return name


def _category_and_name(suite: CompBenchSuite, index: int) -> tuple[str, str]:
    """Category and file name of an index."""
    case = suite.case(index)
    facts = case.metadata[METADATA_KEY]
    return facts["category"], file_name(case.prompt, COPIES * facts["place"] + case.copy)


def _image_folders(folder: Path) -> list[tuple[str | None, Path]]:
    """Folders of images with the category that a folder's name tells."""
    if (folder / SAMPLES_FOLDER).is_dir():
        return [(_category_of_name(folder.resolve().name), folder / SAMPLES_FOLDER)]
    if not folder.is_dir():
        return []
    with convert_os_errors(folder):
        children = sorted(path for path in folder.iterdir() if path.is_dir())
    return [
        (_category_of_name(path.name), path / SAMPLES_FOLDER)
        for path in children
        if _category_of_name(path.name) and (path / SAMPLES_FOLDER).is_dir()
    ]


def _category_of_name(name: str) -> str | None:
    category = name.removesuffix("_val")
    return category if category in CATEGORIES else None


def _list_images(place: Path) -> tuple[list[NamedImage], list[str]]:
    """Return the images that are named as they should be, in order of number, and names of files
    that are not.
    """
    with convert_os_errors(place):
        files = sort_naturally(
            path for path in place.iterdir() if path.is_file() and not path.name.startswith(".")
        )
    matched = [
        (path, FILE_NAME.fullmatch(path.stem) if path.suffix.lower() in IMAGE_SUFFIXES else None)
        for path in files
    ]
    images = [NamedImage(match["text"], _number(match), path) for path, match in matched if match]
    images.sort(key=lambda image: (image.number or 0, image.path.name))
    return images, [path.name for path, match in matched if not match]


def _number(match: re.Match[str]) -> int | None:
    return None if match["number"] is None else int(match["number"])


def _infer_category(images: Iterable[NamedImage], suite: CompBenchSuite, place: Path) -> str:
    """Return the category that has most of these prompts; SampleError where it cannot be told."""
    known = {category: set(suite.category_prompts(category)) for category in suite.categories}
    hits: Counter[str] = Counter()
    for image in images:
        hits.update(category for category, texts in known.items() if image.prompt in texts)
    best = hits.most_common(2)
    if not best or (len(best) == 2 and best[0][1] == best[1][1]):
        why = (
            "prompts of no category"
            if not best
            else f"prompts of {best[0][0]} and {best[1][0]} alike"
        )
        raise SampleError(f"{place} holds {why}; name its folder {', '.join(suite.categories)}")
    return best[0][0]


def _assign_images(
    images: Sequence[NamedImage], left: Sequence[str], texts: Sequence[str]
) -> CategoryFiles:
    """Return the files by prompt and copy, under the numbering that most files fit and that leaves
    the fewest gaps.
    """
    known = {image.prompt for image in images} & set(texts)
    places: dict[str, list[int]] = {text: [] for text in known}
    for place, text in enumerate(texts):
        if text in known:
            places[text].append(place)
    prompts = [image for image in images if image.prompt in known]
    foreign = [image.path.name for image in images if image.prompt not in known]

    readings = [_assign_by_numbering(prompts, places, numbering) for numbering in NUMBERINGS]
    fullest = max(readings, key=lambda reading: (len(reading.files), -_copy_count(reading)))
    if prompts and 2 * len(fullest.files) < len(prompts):
        fullest = _assign_by_order(prompts, places)
    return fullest._replace(unread_names=[*left, *foreign, *fullest.unread_names])


def _assign_by_numbering(
    images: Iterable[NamedImage], places: Mapping[str, Sequence[int]], numbering: Numbering
) -> CategoryFiles:
    """Return the files whose number fits; one without a number is the first copy."""
    files: dict[tuple[int, int], Path] = {}
    others = []
    for image in images:
        fitting = (
            (place, _copy_of_image(numbering, place, image)) for place in places[image.prompt]
        )
        spot = next(((place, copy) for place, copy in fitting if copy is not None), None)
        if spot is None or spot in files:
            others.append(image.path.name)
        else:
            files[spot] = image.path
    return CategoryFiles(files, numbering.name, others)


def _copy_of_image(numbering: Numbering, place: int, image: NamedImage) -> int | None:
    return 0 if image.number is None else numbering.copy(place, image.number)


def _assign_by_order(
    images: Iterable[NamedImage], places: Mapping[str, Sequence[int]]
) -> CategoryFiles:
    """Return the files of each prompt in the order of their numbers, which count in no known
    way.
    """
    files: dict[tuple[int, int], Path] = {}
    counts: Counter[int] = Counter()
    others = []
    for image in images:
        place = places[image.prompt][0]
        if counts[place] >= COPIES:
            others.append(image.path.name)
            continue
        files[place, counts[place]] = image.path
        counts[place] += 1
    return CategoryFiles(
        files, "in no known way, so copies are in the order of their numbers", others
    )


def _copy_count(reading: CategoryFiles) -> int:
    return max((1 + copy for _, copy in reading.files), default=0)


def _collect_images(
    category: str,
    reading: CategoryFiles,
    suite: CompBenchSuite,
    files: dict[int, Path],
    failed: dict[int, str],
) -> list[str]:
    """Put a category's images into `files`, what is missing into `failed`; return what must be said
    of them.
    """
    copies = _copy_count(reading)
    for place in range(len(suite.category_prompts(category))):
        for copy in range(copies):
            index = suite.index_of(category, place, copy)
            if (place, copy) in reading.files:
                files[index] = reading.files[place, copy]
            else:
                failed[index] = f"no image {COPIES * place + copy:06d} in {category}"

    warnings = list(copies_warnings(copies, COPIES, f"prompt of {category}"))
    if reading.numbering != NUMBERINGS[0].name:
        warnings.append(f"images: numbers of {category} count {reading.numbering}")
    if reading.unread_names:
        warnings.append(
            f"images: not read in {category}, not named as an image of its prompt or there twice:"
            f" {shorten_list(reading.unread_names)}"
        )
    return warnings
