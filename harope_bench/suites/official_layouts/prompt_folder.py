"""Opening of the images of a suite of prompts, at the suite's indices.

The assignment of images to prompts is recorded, comes from a known layout, or is given by the user.
It is never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harope_bench.core.errors import OptionError, SampleError
from harope_bench.data.image_folder import (
    DIGITS_PATTERN,
    FILE_LIST,
    check_finished,
    format_warnings,
    images_below,
    list_images,
    sort_naturally,
)
from harope_bench.data.run_folder import PLAN_FILE
from harope_bench.data.sample_set import SampleSet, limit_samples, open_samples
from harope_bench.suites.base import PromptSuite
from harope_bench.suites.official_layouts.base import (
    Layout,
    find_layout,
    load_layout,
    make_sample_set,
    module_names,
    shorten_list,
    suites_of_layout,
)
from harope_bench.suites.official_layouts.file_list import (
    Placement,
    assign_by_list,
    has_image_record,
    open_recorded_images,
)
from harope_bench.suites.official_layouts.file_pattern import compile_pattern
from harope_bench.suites.official_layouts.image_keys import TEXT_KEYS, ImageKeys, UnknownPromptError

PATTERN_EXAMPLE = "--pattern '{prompt_index}_{copy}.png'"
ORDER_ADVICE = f"give --order copy-major or prompt-major, {PATTERN_EXAMPLE}, or --file-list FILE"


@dataclass(frozen=True)
class PromptFolderOptions:
    """The user's options for the images in a folder.

    order: order of the files by name. `copy-major`: one image of each prompt, then the next ones.
        `prompt-major`: all images of the first prompt, then those of the second.
    pattern, file_list: which image belongs to which prompt.
    side, tiles: side of an image and number of images in a file that joins several.
    """

    order: Literal["copy-major", "prompt-major"] | None = None
    pattern: str | None = None
    file_list: Path | None = None
    side: int | None = None
    tiles: int | None = None

    @property
    def stated_options(self) -> list[str]:
        """Return the given options, as on the command line."""
        option_names = {name: f"--{name.replace('_', '-')}" for name in vars(self)}
        option_names["side"] = "--resolution"
        return [option_names[name] for name, value in vars(self).items() if value is not None]

    @property
    def prompt_options(self) -> list[str]:
        """Return the given options that assign images to prompts."""
        return [
            option for option in self.stated_options if option not in ("--resolution", "--tiles")
        ]


def open_prompt_images(
    target: Path,
    suite_name: str,
    suite: PromptSuite,
    count: int | None = None,
    folder_options: PromptFolderOptions | None = None,
) -> SampleSet:
    """Return the images of a run, a folder or an npz at the indices of a suite.

    A run, and a folder that `convert` wrote, record the order of images. An official layout is
    detected. For any other folder the options must define the order.

    Args:
        count: return only the first `count` samples.

    Raises:
        OptionError: The order is not given, or an option does not apply to this target.
        SampleError: There is no image of the suite, or more images than it has.
    """
    folder_options = folder_options or PromptFolderOptions()
    if len(folder_options.prompt_options) > 1:
        raise OptionError(
            f"{' and '.join(folder_options.prompt_options)} both assign images to prompts; give one"
            " of them"
        )
    if (target / PLAN_FILE).exists():
        _reject(folder_options.stated_options, f"{target} is a run folder, which records its order")
        return _require_at_most_count(open_samples(target, count), suite_name, suite)
    if not target.is_dir():
        return limit_samples(_open_npz(target, suite_name, suite, folder_options), count)
    return limit_samples(_open_folder(target, suite_name, suite, folder_options), count)


def _reject(options: Sequence[str], reason: str) -> None:
    """Raise OptionError if any option is given."""
    if options:
        raise OptionError(f"{reason}; leave {' and '.join(options)} out")


def _require_at_most_count(samples: SampleSet, suite_name: str, suite: PromptSuite) -> SampleSet:
    """Return the samples; raise SampleError for more images than the suite has."""
    if samples.indices and samples.indices[-1] >= suite.count:
        raise SampleError(
            f"{samples.path} has {len(samples.indices):,} images, {suite_name} has"
            f" {suite.count:,}; give the suite they were generated for"
        )
    return samples


def _open_npz(
    path: Path, suite_name: str, suite: PromptSuite, folder_options: PromptFolderOptions
) -> SampleSet:
    """Return the images of an npz; raise OptionError unless --order copy-major is given."""
    samples = _require_at_most_count(open_samples(path), suite_name, suite)
    has_order_only = folder_options.stated_options == ["--order"]
    if folder_options.order == "copy-major" and has_order_only:
        warning = f"images: {len(samples.indices):,} rows, read copy-major as stated"
        return replace(samples, warnings=(*samples.warnings, warning))
    raise OptionError(
        f"{path} does not say which row is of which prompt of {suite_name}; give --order copy-major"
        " if rows are one image of each prompt, then the next ones; else convert it --to png and"
        " give the order of the files"
    )


def _open_folder(
    folder: Path, suite_name: str, suite: PromptSuite, folder_options: PromptFolderOptions
) -> SampleSet:
    """Return the images of a folder by the options, its record or its layout, in this order."""
    check_finished(folder)
    stated_options = folder_options.stated_options
    prompt_options = folder_options.prompt_options
    if prompt_options:
        tile_options = [option for option in stated_options if option not in prompt_options]
        _reject(tile_options, f"{prompt_options[0]} reads files of one image each")
        return _open_by_options(folder, suite_name, suite, folder_options)
    if has_image_record(folder):
        _reject(stated_options, f"{folder} has a record of its images ({FILE_LIST})")
        return open_recorded_images(folder, suite, suite_name)

    layout = find_layout(folder, suite_name)
    if layout is None and stated_options:
        layout = _tiled_layout(suite_name)
    if layout is not None:
        if not layout.IS_TILED:
            _reject(stated_options, f"{folder} has files of one image each")
        return layout.open_layout(folder, suite, folder_options.side, folder_options.tiles)
    if not list_images(folder).files and not images_below(folder):
        return open_samples(folder)  # raises: there is no image
    raise OptionError(
        f"{folder} does not say which image is of which prompt of {suite_name} (no known layout);"
        f" {ORDER_ADVICE}"
    )


def _tiled_layout(suite_name: str) -> Layout | None:
    """Return the suite's layout whose files join several images, None without one."""
    for layout in map(load_layout, module_names()):
        if layout.IS_TILED and suite_name in suites_of_layout(layout):
            return layout
    return None


def is_tiled(suite_name: str) -> bool:
    """Return whether a suite has a layout whose files join several images."""
    return _tiled_layout(suite_name) is not None


def _open_by_options(
    folder: Path, suite_name: str, suite: PromptSuite, folder_options: PromptFolderOptions
) -> SampleSet:
    """Return the images of a folder by --order, --pattern or --file-list."""
    keys = ImageKeys(suite, suite_name)
    file_list = folder_options.file_list
    is_record = file_list is not None and file_list.resolve() == (folder / FILE_LIST).resolve()
    if is_record and has_image_record(folder):
        return open_recorded_images(folder, suite, suite_name)
    if folder_options.order is not None:
        return _open_ordered(folder, keys, folder_options.order)
    if folder_options.pattern is not None:
        placement = assign_by_pattern(folder, folder_options.pattern, keys)
        return _complete_sample_set(
            folder, keys, placement, f"--pattern {folder_options.pattern!r}"
        )
    assert file_list is not None
    placement = assign_by_list(folder, file_list, keys)
    return _complete_sample_set(folder, keys, placement, f"--file-list {file_list.name}")


# ---------------------------------------------------------------------------- by pattern and list


def assign_by_pattern(folder: Path, pattern: str, keys: ImageKeys) -> Placement:
    """Return the assignment of the images whose path in the folder matches the pattern.

    Raises:
        OptionError: The pattern is invalid, or numbers do not fit the suite.
        SampleError: Two files belong to one image, or there is no image of the suite.
    """
    expression = compile_pattern(pattern)
    files: dict[int, Path] = {}
    unlisted_names: list[str] = []
    reasons: list[str] = []
    for path in images_below(folder):
        name = path.relative_to(folder).as_posix()
        match = expression.fullmatch(name)
        index = None if match is None else _index_of(keys, match, name, reasons)
        if index is None:
            unlisted_names.append(name)
        elif index in files:
            raise SampleError(
                f"{folder} has {files[index].name} and {path.name} for one"
                f" image{_copy_hint(expression)}"
            )
        else:
            files[index] = path
    if not files:
        reason = f"{shorten_list(unlisted_names) or 'no image'} does not match"
        if reasons:
            reason = reasons[0]
        raise SampleError(
            f"--pattern {pattern!r} finds no image of {keys.suite_name} in {folder}: {reason};"
            " correct the pattern"
        )
    _check_from_zero(expression, files, keys)
    return Placement(files, failed={}, unlisted_names=unlisted_names)


def _index_of(keys: ImageKeys, match: re.Match[str], name: str, reasons: list[str]) -> int | None:
    """Return the index of a matched path; for an unknown text return None and add a reason.

    Raises:
        OptionError: A number is out of range.
    """
    path_keys = {
        key: value if key in TEXT_KEYS else int(value) for key, value in match.groupdict().items()
    }
    try:
        return keys.index(path_keys)
    except UnknownPromptError as error:
        reasons.append(f"{name}: {error}")
        return None
    except OptionError as error:
        raise OptionError(f"{name}: {error}; rename the files or give --file-list") from error


def _copy_hint(expression: re.Pattern[str]) -> str:
    """Return the advice for two files of one image, which depends on the placeholders."""
    if {"copy", "index"} & expression.groupindex.keys():
        return "; keep one of them"
    return "; keep one of them, or add {copy} to the pattern"


def _check_from_zero(expression: re.Pattern[str], files: dict[int, Path], keys: ImageKeys) -> None:
    """Raise OptionError where numbers start at 1.

    Each image would count for the neighbouring prompt or copy.
    """
    placeholders = set(expression.groupindex)
    lowest_numbers = {
        "index": min(files),
        "prompt_index": min(index % keys.prompt_count for index in files),
        "copy": min(index // keys.prompt_count for index in files),
    }
    # A text in the pattern confirms the number of its prompt, so only copies are checked.
    has_text = bool(set(TEXT_KEYS) & placeholders)
    checked_names = ("copy",) if has_text else ("copy", "index", "prompt_index")
    for name in checked_names:
        if name in placeholders and lowest_numbers[name] == 1:
            raise OptionError(
                f"the lowest {name} in the file names is 1, numbers count from 0; if the names"
                f" count from 1 rename them, if {name} 0 is lost give --file-list"
            )


def _complete_sample_set(
    folder: Path, keys: ImageKeys, placement: Placement, description: str
) -> SampleSet:
    """Return the sample set of an assignment, with a reason for each missing image.

    Every prompt of the suite should have as many copies as the prompt with most images.

    Args:
        description: the option that made the assignment, for messages.
    """
    if not placement.files:
        raise SampleError(
            f"{description}: none of the listed images is in {folder}; correct the list"
        )
    assigned_indices = {*placement.files, *placement.failed}
    copies = 1 + max(assigned_indices) // keys.prompt_count
    failed = dict(placement.failed)
    for index in range(copies * keys.prompt_count):
        if index not in assigned_indices:
            copy, prompt_index = divmod(index, keys.prompt_count)
            failed[index] = f"no image of prompt {prompt_index}, copy {copy}"

    warnings = [
        f"images: placed by {description}, {copies} of {keys.suite.copies} images of each prompt"
    ]
    if placement.unlisted_names:
        warnings.append(f"images: not read: {shorten_list(placement.unlisted_names)}")
    warnings += format_warnings(list(placement.files.values()))
    return make_sample_set(folder, keys.suite, placement.files, failed, tuple(warnings))


# ----------------------------------------------------------------------------------------- by order


def _open_ordered(folder: Path, keys: ImageKeys, order: str) -> SampleSet:
    """Return the images of a folder in the given order.

    The position of an image is the number in its name if all names have one, else its position in
    natural order. copy-major: index = position. prompt-major: the copies of a prompt are
    neighbours.

    Raises:
        OptionError: The number of images is no multiple of the prompts, and images could be
            missing anywhere.
        SampleError: There are more images than the suite has.
    """
    listing = list_images(folder)
    if not listing.files:
        return open_samples(folder)  # raises: there is no image
    numbers = running_numbers(listing.files)
    if numbers is not None:
        positions = _by_number(listing.files, numbers, folder)
    else:
        positions = dict(enumerate(sort_naturally(listing.files)))

    length = 1 + max(positions)
    if length > keys.suite.count:
        raise SampleError(
            f"{folder} has images numbered up to {length - 1:,}, but {keys.suite_name} has"
            f" {keys.suite.count:,} images (numbered from 0); give the suite they were generated"
            " for, or --file-list"
        )
    copies, remainder = divmod(length, keys.prompt_count)
    if remainder and (order == "prompt-major" or numbers is None):
        raise OptionError(
            f"{folder} has {length:,} images, no whole number of copies of the"
            f" {keys.prompt_count:,} prompts of {keys.suite_name}, so --order cannot determine"
            f" which are missing; give {PATTERN_EXAMPLE} or --file-list FILE"
        )

    def index_at(position: int) -> int:
        if order == "copy-major":
            return position
        prompt_index, copy = divmod(position, copies)
        return copy * keys.prompt_count + prompt_index

    files = {index_at(position): path for position, path in positions.items()}
    failed = {index_at(k): f"no image of number {k}" for k in range(length) if k not in positions}
    warning = f"images: {order} as stated, {len(files):,} of the suite's {keys.suite.count:,}"
    if order == "prompt-major":
        warning += f", {copies} of each prompt"
    return make_sample_set(folder, keys.suite, files, failed, (*listing.warnings, warning))


def running_numbers(files: Sequence[Path]) -> list[int] | None:
    """Return the number in each file name if the names differ in one number only, else None.

    >>> running_numbers([Path("img_2.png"), Path("img_10.png")])
    [2, 10]
    >>> running_numbers([Path("0_1.png"), Path("1_0.png")]) is None
    True
    """
    # Texts and numbers of a name alternate, and the texts of all names must be equal.
    parts = [DIGITS_PATTERN.split(path.stem) for path in files]
    has_equal_lengths = len({len(part) for part in parts}) <= 1
    has_equal_texts = len({tuple(part[::2]) for part in parts}) <= 1
    if not has_equal_lengths or not has_equal_texts:
        return None

    columns = list(zip(*(map(int, part[1::2]) for part in parts), strict=True))
    if len(columns) == 1 or not columns:
        return list(columns[0]) if columns else None
    varying_columns = [column for column in columns if len(set(column)) > 1]
    return list(varying_columns[0]) if len(varying_columns) == 1 else None


def _by_number(files: Sequence[Path], numbers: Sequence[int], folder: Path) -> dict[int, Path]:
    """Return the files by their numbers; raise an error for equal numbers or a start at 1."""
    by_number: dict[int, Path] = {}
    for number, path in zip(numbers, files, strict=True):
        if number in by_number:
            raise SampleError(
                f"{folder} has {by_number[number].name} and {path.name} of one number; keep one of"
                " each"
            )
        by_number[number] = path
    if min(by_number) == 1:
        raise OptionError(
            f"{folder} has no image 0, its numbers start at 1 and indices count from 0; if the"
            " names count from 1 rename them, if image 0 is lost give --file-list"
        )
    return by_number
