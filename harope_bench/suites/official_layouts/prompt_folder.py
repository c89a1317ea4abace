"""Open the images of a suite of prompts, wherever they lie, at the suite's indices; never by a
guess.
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
    """What a user states of the images in a folder.

    order: How files in the order of their names count: `copy-major` is one image of each prompt,
    then the next ones.
    pattern, file_list: Which image is of which prompt. side, tiles: Of a picture that joins several
    images.
    """

    order: Literal["copy-major", "prompt-major"] | None = None
    pattern: str | None = None
    file_list: Path | None = None
    side: int | None = None
    tiles: int | None = None

    @property
    def stated_options(self) -> list[str]:
        """The options that are given, as they are written on the command line."""
        values = vars(self)
        spelled = {
            name: "resolution" if name == "side" else name.replace("_", "-") for name in values
        }
        return [f"--{spelled[name]}" for name, value in values.items() if value is not None]

    @property
    def prompt_options(self) -> list[str]:
        """Those of them that say which image is of which prompt."""
        return [
            option for option in self.stated_options if option not in ("--resolution", "--tiles")
        ]


def open_prompt_images(
    target: Path,
    suite_name: str,
    suite: PromptSuite,
    count: int | None = None,
    form: PromptFolderOptions | None = None,
) -> SampleSet:
    """Return the images of a run, a folder or an npz at the indices of a suite, or the first
    `count` samples.

    A run and a folder that `convert` wrote record their order, an official layout is recognised.
    For any other folder
    the form must state it.

    Raises:
        OptionError: The order is not stated, or an option means nothing to this target.
        SampleError: No image of the suite, or more images than it has.
    """
    form = form or PromptFolderOptions()
    if len(form.prompt_options) > 1:
        raise OptionError(
            f"{' and '.join(form.prompt_options)} state the same thing; give one of them"
        )
    if (target / PLAN_FILE).exists():
        _reject(form.stated_options, f"{target} is a run folder, which records its order")
        return _check_count(open_samples(target, count), suite_name, suite)
    if not target.is_dir():
        return limit_samples(_open_npz(target, suite_name, suite, form), count)
    return limit_samples(_open_folder(target, suite_name, suite, form), count)


def _reject(options: Sequence[str], why: str) -> None:
    if options:
        raise OptionError(f"{why}; leave {' and '.join(options)} out")


def _check_count(samples: SampleSet, suite_name: str, suite: PromptSuite) -> SampleSet:
    if samples.indices and samples.indices[-1] >= suite.count:
        raise SampleError(
            f"{samples.path} holds {len(samples.indices):,} images, {suite_name} asks for"
            f" {suite.count:,}; give the suite they were drawn for"
        )
    return samples


def _open_npz(
    path: Path, suite_name: str, suite: PromptSuite, form: PromptFolderOptions
) -> SampleSet:
    samples = _check_count(open_samples(path), suite_name, suite)
    if form.order == "copy-major" and form.stated_options == ["--order"]:
        told = f"images: {len(samples.indices):,} rows, read copy-major as stated"
        return replace(samples, warnings=(*samples.warnings, told))
    raise OptionError(
        f"{path} does not say which row is of which prompt of {suite_name}; give --order copy-major"
        " if rows are one image of each prompt, then the next ones; else convert it --to png and"
        " state the order of the files"
    )


def _open_folder(
    folder: Path, suite_name: str, suite: PromptSuite, form: PromptFolderOptions
) -> SampleSet:
    check_finished(folder)
    if form.prompt_options:
        tiled = [option for option in form.stated_options if option not in form.prompt_options]
        _reject(tiled, f"{form.prompt_options[0]} reads files of one image each")
        return _open_by_options(folder, suite_name, suite, form)
    if has_image_record(folder):
        _reject(form.stated_options, f"{folder} has a record of its images ({FILE_LIST})")
        return open_recorded_images(folder, suite, suite_name)

    known = find_layout(folder, suite_name) or _tiled_layout(suite_name, form)
    if known is not None:
        if not known.IS_TILED:
            _reject(form.stated_options, f"{folder} holds files of one image each")
        return known.open_layout(folder, suite, form.side, form.tiles)
    if not list_images(folder).files and not images_below(folder):
        return open_samples(folder)  # raises: no image there
    raise OptionError(
        f"{folder} does not say which image is of which prompt of {suite_name} (no known layout);"
        f" {ORDER_ADVICE}"
    )


def _tiled_layout(suite_name: str, form: PromptFolderOptions) -> Layout | None:
    """Return the suite's layout of joined pictures where the user states how many are joined, even
    if no name shows it.
    """
    if not form.stated_options:
        return None
    fitting = (load_layout(name) for name in module_names())
    return next(
        (found for found in fitting if suite_name in suites_of_layout(found) and found.IS_TILED),
        None,
    )


def is_tiled(suite_name: str) -> bool:
    """Return whether a suite has a layout that joins several images in a picture."""
    return any(
        suite_name in suites_of_layout(found) and found.IS_TILED
        for found in map(load_layout, module_names())
    )


def _open_by_options(
    folder: Path, suite_name: str, suite: PromptSuite, form: PromptFolderOptions
) -> SampleSet:
    keys = ImageKeys(suite, suite_name)
    if (
        form.file_list is not None
        and form.file_list.resolve() == (folder / FILE_LIST).resolve()
        and has_image_record(folder)
    ):
        return open_recorded_images(folder, suite, suite_name)
    if form.order is not None:
        return _open_ordered(folder, keys, form.order)
    if form.pattern is not None:
        how = f"--pattern {form.pattern!r}"
        placed = assign_by_pattern(folder, form.pattern, keys)
    else:
        assert form.file_list is not None
        how = f"--file-list {form.file_list.name}"
        placed = assign_by_list(folder, form.file_list, keys)
    return _complete_sample_set(folder, keys, placed, how)


# ------------------------------------------------------------------------------- by pattern and
# list


def assign_by_pattern(folder: Path, pattern: str, keys: ImageKeys) -> Placement:
    """Return the index of each image whose path in the folder matches the pattern.

    Raises:
        OptionError: The pattern is none, or numbers do not fit the suite. SampleError: Two files
            are of one image, or
            none is of the suite.
    """
    expression = compile_pattern(pattern)
    files: dict[int, Path] = {}
    others: list[str] = []
    reasons: list[str] = []
    for path in images_below(folder):
        name = path.relative_to(folder).as_posix()
        match = expression.fullmatch(name)
        if match is None:
            others.append(name)
            continue
        index = _index_of(keys, match, name, reasons)
        if index is None:
            others.append(name)
        elif index in files:
            raise SampleError(
                f"{folder} has {files[index].name} and {path.name} for one"
                f" image{_copy_hint(expression)}"
            )
        else:
            files[index] = path
    if not files:
        why = reasons[0] if reasons else f"{shorten_list(others) or 'no image'} does not match"
        raise SampleError(
            f"--pattern {pattern!r} finds no image of {keys.suite_name} in {folder}: {why}; correct"
            " the pattern"
        )
    _check_from_zero(expression, files, keys)
    return Placement(files, {}, others)


def _index_of(keys: ImageKeys, match: re.Match[str], name: str, reasons: list[str]) -> int | None:
    """Return the index that a path states, None for a text that the suite does not have; a number
    out of range is an error.
    """
    stated = {
        key: value if key in TEXT_KEYS else int(value) for key, value in match.groupdict().items()
    }
    try:
        return keys.index(stated)
    except UnknownPromptError as error:
        reasons.append(f"{name}: {error}")
        return None
    except OptionError as error:
        raise OptionError(f"{name}: {error}; rename the files or give --file-list") from error


def _copy_hint(expression: re.Pattern[str]) -> str:
    if {"copy", "index"} & expression.groupindex.keys():
        return "; keep one of them"
    return "; keep one of them, or add {copy} to the pattern"


def _check_from_zero(expression: re.Pattern[str], files: dict[int, Path], keys: ImageKeys) -> None:
    """Raise OptionError where numbers begin at 1: every image would count for its neighbour's
    prompt or copy.
    """
    stated = set(expression.groupindex)
    lowest = {
        "index": min(files),
        "prompt_index": min(index % keys.prompt_count for index in files),
        "copy": min(index // keys.prompt_count for index in files),
    }
    told_by_text = bool(set(TEXT_KEYS) & stated)  # a text agrees with the number of its prompt
    for name in ("copy",) if told_by_text else ("copy", "index", "prompt_index"):
        if name in stated and lowest[name] == 1:
            raise OptionError(
                f"the lowest {name} in the file names is 1, numbers count from 0; if the names"
                f" count from 1 rename them, if {name} 0 is lost give --file-list"
            )


def _complete_sample_set(folder: Path, keys: ImageKeys, placed: Placement, how: str) -> SampleSet:
    """Return a set in which every image that should be there and is not has a reason.

    Expected are as many copies of every prompt of the suite as the fullest prompt has.
    """
    if not placed.files:
        raise SampleError(f"{how}: none of the listed images is in {folder}; correct the list")
    known = {*placed.files, *placed.failed}
    copies = 1 + max(known) // keys.prompt_count
    failed = dict(placed.failed)
    for index in range(copies * keys.prompt_count):
        if index not in known:
            copy, prompt = divmod(index, keys.prompt_count)
            failed[index] = f"no image of prompt {prompt}, copy {copy}"
    warnings = [f"images: placed by {how}, {copies} of {keys.suite.copies} images of each prompt"]
    warnings += (
        [f"images: not read: {shorten_list(placed.unlisted_names)}"]
        if placed.unlisted_names
        else []
    )
    warnings += format_warnings(list(placed.files.values()))
    return make_sample_set(folder, keys.suite, placed.files, failed, tuple(warnings))


# ----------------------------------------------------------------------------------------- by order


def _open_ordered(folder: Path, keys: ImageKeys, order: str) -> SampleSet:
    """Return the images of a folder counted copy-major (index = number) or prompt-major, by number
    where names hold one.
    """
    found = list_images(folder)
    if not found.files:
        return open_samples(folder)  # raises: no image there
    numbers = running_numbers(found.files)
    positions = (
        _by_number(found.files, numbers, folder)
        if numbers is not None
        else dict(enumerate(sort_naturally(found.files)))
    )
    length = 1 + max(positions)
    if length > keys.suite.count:
        raise SampleError(
            f"{folder} holds images up to number {length - 1:,}, {keys.suite_name} asks for"
            f" {keys.suite.count:,} (numbers count from 0); give the suite they were made for, or"
            " --file-list"
        )
    copies, rest = divmod(length, keys.prompt_count)
    if rest and (order == "prompt-major" or numbers is None):
        raise OptionError(
            f"{folder} holds {length:,} images, no whole number of copies of the"
            f" {keys.prompt_count:,} prompts of {keys.suite_name}, so --order cannot tell which are"
            f" missing; give {PATTERN_EXAMPLE} or --file-list FILE"
        )

    def index(position: int) -> int:
        return (
            position
            if order == "copy-major"
            else position % copies * keys.prompt_count + position // copies
        )

    files = {index(position): path for position, path in positions.items()}
    failed = {index(k): f"no image of number {k}" for k in range(length) if k not in positions}
    told = f"images: {order} as stated, {len(files):,} of the suite's {keys.suite.count:,}"
    if order == "prompt-major":
        told += f", {copies} of each prompt"
    return make_sample_set(folder, keys.suite, files, failed, (*found.warnings, told))


def running_numbers(files: Sequence[Path]) -> list[int] | None:
    """Return the number of each file where names differ in one number alone, None where they do
    not.

    >>> running_numbers([Path("img_2.png"), Path("img_10.png")])
    [2, 10]
    >>> running_numbers([Path("0_1.png"), Path("1_0.png")]) is None
    True
    """
    parts = [DIGITS_PATTERN.split(path.stem) for path in files]
    if len({len(part) for part in parts}) > 1 or len({tuple(part[::2]) for part in parts}) > 1:
        return None
    columns = list(zip(*(map(int, part[1::2]) for part in parts), strict=True))
    if len(columns) == 1 or not columns:
        return list(columns[0]) if columns else None
    varying = [column for column in columns if len(set(column)) > 1]
    return list(varying[0]) if len(varying) == 1 else None


def _by_number(files: Sequence[Path], numbers: Sequence[int], folder: Path) -> dict[int, Path]:
    placed: dict[int, Path] = {}
    for number, path in zip(numbers, files, strict=True):
        if number in placed:
            raise SampleError(
                f"{folder} has {placed[number].name} and {path.name} of one number; keep one of"
                " each"
            )
        placed[number] = path
    if min(placed) == 1:
        raise OptionError(
            f"{folder} has no image 0, its numbers begin at 1 and indices count from 0; if the"
            " names count from 1 rename them, if image 0 is lost give --file-list"
        )
    return placed
