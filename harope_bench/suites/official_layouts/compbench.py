"""T2I-CompBench's folders: `CATEGORY/samples/PROMPT_000123.png`, one folder for each category.

The official scripts read the prompt from the file name (the text before the first `_`), and this
reader does too. The number in the name determines the copy. Officially it is 10 * prompt index +
copy within the category. Other numberings are accepted: fewer than ten copies, numbers that start
again for each prompt, or no number. Files that fit no numbering, missing images and additional
files give warnings.

A run of the suite is written in the official form. A prompt that cannot be part of a file name is
rejected, so that no prompt chooses a path.

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
MAX_NAME_BYTES = 240  # of the 255 bytes of a file name that file systems allow

PromptCopy = tuple[int, int]  # index of the prompt in its category, and copy


class NamedImage(NamedTuple):
    """An image file, with the prompt and the number (None without one) in its name."""

    prompt: str
    number: int | None
    path: Path


class Numbering(NamedTuple):
    """A meaning of the numbers in file names.

    copy: returns the copy for the index of a prompt and a number, None where the number fits none.
    """

    name: str
    copy: Callable[[int, int], int | None]


class CategoryFiles(NamedTuple):
    """The files of a category by prompt and copy.

    numbering: name of the numbering, for warnings. unread_names: names of the other files.
    """

    files: Mapping[PromptCopy, Path]
    numbering: str
    unread_names: list[str]


def _numbered_through_category(copies: int) -> Numbering:
    """Return the numbering with number = copies * prompt index + copy."""

    def copy(prompt_index: int, number: int) -> int | None:
        return number % copies if number // copies == prompt_index else None

    return Numbering(f"{copies} of each prompt through the category", copy)


def _numbered_per_prompt(prompt_index: int, number: int) -> int | None:
    """Return the copy where numbers start at 0 for each prompt."""
    return number if number < COPIES else None


def _numbered_per_prompt_from_1(prompt_index: int, number: int) -> int | None:
    """Return the copy where numbers start at 1 for each prompt."""
    return number - 1 if 1 <= number <= COPIES else None


NUMBERINGS = (
    _numbered_through_category(COPIES),
    Numbering("anew for each prompt", _numbered_per_prompt),
    Numbering("anew for each prompt, from 1", _numbered_per_prompt_from_1),
    *map(_numbered_through_category, range(1, COPIES)),
)


def is_layout(folder: Path) -> bool:
    """Return whether the folder is the folder of a category or has folders of categories.

    Where the folder's name is no category, a file name must have a number and several words.
    """
    return any(
        category is not None or (" " in image.prompt and image.number is not None)
        for category, image_folder in _image_folders(folder)
        for image in _list_images(image_folder)[0]
    )


def is_unmistakable(folder: Path) -> bool:
    """Return whether a folder has the name of a category; file names alone may mean anything."""
    return any(category is not None for category, _ in _image_folders(folder))


def open_layout(
    folder: Path, suite: PromptSuite, side: int | None = None, tiles: int | None = None
) -> SampleSet:
    """Return the images of the categories in the folder at the indices of the suite.

    Each prompt of a category has as many copies as the prompt with most images. Categories without
    a folder are not part of the set.

    Args:
        side, tiles: of other layouts.

    Raises:
        OptionError: The suite belongs to another benchmark.
        SampleError: There is no image of the suite, or the category of a folder is unclear.
    """
    compbench_suite = _require_compbench_suite(suite, folder)
    files: dict[int, Path] = {}
    failed: dict[int, str] = {}
    warnings: list[str] = []
    read_categories: list[str] = []
    for folder_category, image_folder in _image_folders(folder):
        images, unread_names = _list_images(image_folder)
        category = folder_category or _infer_category(images, compbench_suite, image_folder)
        folder_name = image_folder.parent.name
        if category not in compbench_suite.categories:
            warnings.append(f"folders: {folder_name} is no category of this suite; not read")
            continue
        if category in read_categories:
            warnings.append(f"folders: {folder_name} is a second folder of {category}; not read")
            continue
        read_categories.append(category)
        prompts = compbench_suite.category_prompts(category)
        category_files = _assign_images(images, unread_names, prompts)
        warnings += _collect_images(category, category_files, compbench_suite, files, failed)

    missing_categories = [
        category for category in compbench_suite.categories if category not in read_categories
    ]
    if missing_categories:
        warnings.append(f"folders: no images of {', '.join(missing_categories)}")
    return make_sample_set(folder, suite, files, failed, tuple(warnings))


def write_images(samples: SampleSet, suite: PromptSuite, folder: Path) -> WriteReport:
    """Write the images by category under their official names, as PNG, without failed samples.

    Raises:
        SampleError: The folder has other files, or a prompt cannot be part of a file name.
    """
    compbench_suite = _require_compbench_suite(suite, folder)
    categories = set()
    index_of_name = {}
    for index in samples.indices:
        category, name = _category_and_name(compbench_suite, index)
        categories.add(category)
        index_of_name[f"{category}/{SAMPLES_FOLDER}/{name}"] = index
    write_folder(folder, list(index_of_name), image_reader(samples, index_of_name))

    n_prompts = sum(len(compbench_suite.category_prompts(category)) for category in categories)
    n_expected = COPIES * n_prompts
    n_missing = n_expected - len(samples.indices)
    warnings: tuple[str, ...] = ()
    if n_missing:
        warnings = (
            f"{n_missing:,} of {n_expected:,} images are missing; the official 3-in-1 needs ten of"
            " each prompt",
        )
    return WriteReport(len(samples.indices), warnings)


def _require_compbench_suite(suite: PromptSuite, folder: Path) -> CompBenchSuite:
    """Return the suite; raise OptionError if it is none of T2I-CompBench."""
    if not isinstance(suite, CompBenchSuite):
        raise OptionError(
            f"{folder} is for T2I-CompBench's layout, {suite.title} is another suite; give"
            f" {' or '.join(SUITES)}"
        )
    return suite


def file_name(prompt: str, number: int) -> str:
    """Return the official name of an image.

    Raises:
        SampleError: The prompt cannot be part of a file name.

    >>> file_name("a cup", 12)
    'a cup_000012.png'
    """
    name = f"{prompt}_{number:06d}.png"
    forbidden_characters = sorted({c for c in prompt if c in "/\\_" or not c.isprintable()})
    is_stripped = prompt == prompt.strip() and not prompt.startswith(".")
    has_valid_length = bool(prompt) and len(name.encode()) <= MAX_NAME_BYTES
    if forbidden_characters or not is_stripped or not has_valid_length:
        reason = "is empty, too long, or begins or ends as no file name should"
        if forbidden_characters:
            reason = f"has {forbidden_characters[0]!r}"
        raise SampleError(
            f"prompt {prompt[:60]!r} cannot be part of a file name: it {reason}; choose another"
            " layout"
        )
    return name


def _category_and_name(suite: CompBenchSuite, index: int) -> tuple[str, str]:
    """Return category and file name of the image at an index."""
    case = suite.case(index)
    metadata = case.metadata[METADATA_KEY]
    number = COPIES * metadata["place"] + case.copy
    return metadata["category"], file_name(case.prompt, number)


def _image_folders(folder: Path) -> list[tuple[str | None, Path]]:
    """Return the folders of images, each with the category in its name, None if unclear."""
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
    """Return the category `X` of a name `X` or `X_val`, None for other names."""
    category = name.removesuffix("_val")
    return category if category in CATEGORIES else None


def _list_images(folder: Path) -> tuple[list[NamedImage], list[str]]:
    """Return the images with valid names in the order of numbers, and the names of other files."""
    with convert_os_errors(folder):
        files = sort_naturally(
            path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
        )
    images = []
    unread_names = []
    for path in files:
        is_image = path.suffix.lower() in IMAGE_SUFFIXES
        match = FILE_NAME.fullmatch(path.stem) if is_image else None
        if match:
            images.append(NamedImage(match["text"], _number(match), path))
        else:
            unread_names.append(path.name)
    images.sort(key=lambda image: (image.number or 0, image.path.name))
    return images, unread_names


def _number(match: re.Match[str]) -> int | None:
    """Return the number in a matched file name, None without one."""
    return None if match["number"] is None else int(match["number"])


def _infer_category(images: Iterable[NamedImage], suite: CompBenchSuite, folder: Path) -> str:
    """Return the category that has most of these prompts; raise SampleError if it is unclear."""
    prompt_sets = {category: set(suite.category_prompts(category)) for category in suite.categories}
    prompt_counts: Counter[str] = Counter()
    for image in images:
        prompt_counts.update(
            category for category, prompts in prompt_sets.items() if image.prompt in prompts
        )
    top_categories = prompt_counts.most_common(2)
    has_tie = len(top_categories) == 2 and top_categories[0][1] == top_categories[1][1]
    if not top_categories or has_tie:
        description = "prompts of no category"
        if has_tie:
            description = f"prompts of {top_categories[0][0]} and {top_categories[1][0]} alike"
        raise SampleError(
            f"{folder} has {description}; name its folder {', '.join(suite.categories)}"
        )
    return top_categories[0][0]


def _assign_images(
    images: Sequence[NamedImage], unread_names: Sequence[str], prompts: Sequence[str]
) -> CategoryFiles:
    """Return the files by prompt and copy.

    The numbering is the one that most files fit, and of equal ones that with the fewest gaps. If
    fewer than half of the files fit, copies are in the order of their numbers.
    """
    known_prompts = {image.prompt for image in images} & set(prompts)
    indices_by_prompt: dict[str, list[int]] = {prompt: [] for prompt in known_prompts}
    for index, prompt in enumerate(prompts):
        if prompt in known_prompts:
            indices_by_prompt[prompt].append(index)
    suite_images = [image for image in images if image.prompt in known_prompts]
    foreign_names = [image.path.name for image in images if image.prompt not in known_prompts]

    candidates = [
        _assign_by_numbering(suite_images, indices_by_prompt, numbering) for numbering in NUMBERINGS
    ]
    best = max(candidates, key=lambda candidate: (len(candidate.files), -_copy_count(candidate)))
    if suite_images and 2 * len(best.files) < len(suite_images):
        best = _assign_by_order(suite_images, indices_by_prompt)
    return best._replace(unread_names=[*unread_names, *foreign_names, *best.unread_names])


def _assign_by_numbering(
    images: Iterable[NamedImage],
    indices_by_prompt: Mapping[str, Sequence[int]],
    numbering: Numbering,
) -> CategoryFiles:
    """Return the files whose number fits the numbering; one without a number is the first copy."""
    files: dict[PromptCopy, Path] = {}
    unread_names = []
    for image in images:
        prompt_copy = _fitting_prompt_copy(image, indices_by_prompt[image.prompt], numbering)
        if prompt_copy is None or prompt_copy in files:
            unread_names.append(image.path.name)
        else:
            files[prompt_copy] = image.path
    return CategoryFiles(files, numbering.name, unread_names)


def _fitting_prompt_copy(
    image: NamedImage, prompt_indices: Sequence[int], numbering: Numbering
) -> PromptCopy | None:
    """Return the first prompt, of those with the image's text, and copy that its number fits."""
    for prompt_index in prompt_indices:
        copy = 0 if image.number is None else numbering.copy(prompt_index, image.number)
        if copy is not None:
            return prompt_index, copy
    return None


def _assign_by_order(
    images: Iterable[NamedImage], indices_by_prompt: Mapping[str, Sequence[int]]
) -> CategoryFiles:
    """Return the files of each prompt in the order of their numbers, which fit no numbering."""
    files: dict[PromptCopy, Path] = {}
    copy_counts: Counter[int] = Counter()
    unread_names = []
    for image in images:
        prompt_index = indices_by_prompt[image.prompt][0]
        if copy_counts[prompt_index] >= COPIES:
            unread_names.append(image.path.name)
            continue
        files[prompt_index, copy_counts[prompt_index]] = image.path
        copy_counts[prompt_index] += 1
    numbering = "in no known way, so copies are in the order of their numbers"
    return CategoryFiles(files, numbering, unread_names)


def _copy_count(category_files: CategoryFiles) -> int:
    """Return the number of copies that the highest copy requires."""
    return max((1 + copy for _, copy in category_files.files), default=0)


def _collect_images(
    category: str,
    category_files: CategoryFiles,
    suite: CompBenchSuite,
    files: dict[int, Path],
    failed: dict[int, str],
) -> list[str]:
    """Add a category's images to `files` and its missing ones to `failed`; return warnings."""
    copies = _copy_count(category_files)
    for prompt_index in range(len(suite.category_prompts(category))):
        for copy in range(copies):
            index = suite.index_of(category, prompt_index, copy)
            if (prompt_index, copy) in category_files.files:
                files[index] = category_files.files[prompt_index, copy]
            else:
                failed[index] = f"no image {COPIES * prompt_index + copy:06d} in {category}"

    warnings = list(copies_warnings(copies, COPIES, f"prompt of {category}"))
    if category_files.numbering != NUMBERINGS[0].name:
        warnings.append(f"images: numbers of {category} count {category_files.numbering}")
    if category_files.unread_names:
        warnings.append(
            f"images: not read in {category}, not named as an image of its prompt or there twice:"
            f" {shorten_list(category_files.unread_names)}"
        )
    return warnings
