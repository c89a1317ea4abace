"""T2I-CompBench's folders: `CATEGORY/samples/PROMPT_000123.png`, one folder a category, the number counting 10 x prompt + copy through it.

The official scripts read the prompt back out of the file name (what stands before the first `_`). Here number and text must agree, and
what is missing or left over is told. A run of the suite is written back in the same form; a prompt that could not stand in a file name
is refused, so that no prompt chooses a path.

Source: Karine-Huang/T2I-CompBench 1b709499, GORS_finetune/inference_eval.py and BLIPvqa_eval/BLIP_vqa.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from harope_bench.errors import OptionError, SampleError
from harope_bench.folders import SUFFIXES
from harope_bench.layouts.base import Written, empty, few, gathered
from harope_bench.pixels import encode
from harope_bench.samples import SampleSet
from harope_bench.store import disk, make_folder, write_bytes
from harope_bench.suites._compbench import CATEGORIES, COPIES, FORM, CompBench
from harope_bench.suites.base import PromptSuite

SUITE = "t2i-compbench"
SUITES = (SUITE, "t2i-compbench-table5")
SAMPLES = "samples"
FILE = re.compile(r"(?P<text>[^_]+)_(?P<number>[0-9]{1,9})")
LONGEST = 240  # bytes of a file name, of the 255 that file systems take


class Named(NamedTuple):
    """An image file by its name: prompt, number and place."""

    text: str
    number: int
    path: Path


def recognise(folder: Path) -> bool:
    """Whether the folder is one category's or holds categories' folders; where no name tells, a file must begin with several words."""
    return any(one for name, place in _places(folder) for one in _named(place)[0] if name or " " in one.text)


def open_layout(folder: Path, suite: PromptSuite, side: int | None = None) -> SampleSet:
    """Every image of the categories that are here, or why it is not; categories without a folder are not asked for.

    Raises:
        OptionError: the suite is another benchmark's. SampleError: no image of the suite, or a category that cannot be told.
    """
    own = _own(suite, folder)
    files: dict[int, Path] = {}
    failed: dict[int, str] = {}
    warnings: list[str] = []
    here: list[str] = []
    for name, place in _places(folder):
        found, left = _named(place)
        category = name or _category(found, own, place)
        if category not in own.categories:
            warnings.append(f"folders: {place.parent.name} is no category of this suite; not read")
            continue
        if category in here:
            warnings.append(f"folders: {place.parent.name} is a second folder of {category}; not read")
            continue
        here.append(category)
        warnings += _take(category, found, left, own, files, failed)
    if gone := [category for category in own.categories if category not in here]:
        warnings.append(f"folders: no images of {', '.join(gone)}")
    return gathered(folder, suite, files, failed, tuple(warnings))


def write(samples: SampleSet, suite: PromptSuite, folder: Path) -> Written:
    """The images by category under their official names, as PNG; an existing folder must be empty. Failed samples are left out.

    Raises:
        SampleError: something lies there, or a prompt cannot stand in a file name.
    """
    empty(folder)
    own = _own(suite, folder)
    places = {index: _place(own, index) for index in samples.indices}
    make_folder(folder)
    for batch in samples.batches(samples.indices, 1):
        category, name = places[batch.indices[0]]
        write_bytes(folder / category / SAMPLES / name, encode(batch.images[0]))
    wanted = COPIES * sum(len(own.texts(category)) for category in {category for category, _ in places.values()})
    short = wanted - len(samples.indices)
    told = (f"{short:,} of {wanted:,} images are not there; the official 3-in-1 needs ten of each prompt",) if short else ()
    return Written(len(samples.indices), told)


def _own(suite: PromptSuite, folder: Path) -> CompBench:
    if not isinstance(suite, CompBench):
        raise OptionError(f"{folder} is for T2I-CompBench's layout, {suite.title} is another suite; give {' or '.join(SUITES)}")
    return suite


def file_name(text: str, number: int) -> str:
    """The official name of an image; SampleError where the prompt cannot stand in one file name.

    >>> file_name("a cup", 12)
    'a cup_000012.png'
    """
    name = f"{text}_{number:06d}.png"
    bad = sorted({c for c in text if c in "/\\_" or not c.isprintable()})
    if not text or bad or text != text.strip() or text.startswith(".") or len(name.encode()) > LONGEST:
        why = f"holds {bad[0]!r}" if bad else "is empty, too long, or begins or ends as no file name should"
        raise SampleError(f"prompt {text[:60]!r} cannot stand in a file name: it {why}; choose another layout")
    return name


def _place(suite: CompBench, index: int) -> tuple[str, str]:
    """Category and file name of an index."""
    case = suite.case(index)
    facts = case.facts[FORM]
    return facts["category"], file_name(case.text, COPIES * facts["place"] + case.copy)


def _places(folder: Path) -> list[tuple[str | None, Path]]:
    """Folders of images with the category that a folder's name tells."""
    if (folder / SAMPLES).is_dir():
        return [(_told(folder.resolve().name), folder / SAMPLES)]
    if not folder.is_dir():
        return []
    with disk(folder):
        children = sorted(path for path in folder.iterdir() if path.is_dir())
    return [(_told(path.name), path / SAMPLES) for path in children if _told(path.name) and (path / SAMPLES).is_dir()]


def _told(name: str) -> str | None:
    category = name.removesuffix("_val")
    return category if category in CATEGORIES else None


def _named(place: Path) -> tuple[list[Named], list[str]]:
    """Images that are named as they should be, in order of number, and names of files that are not."""
    with disk(place):
        files = sorted(path for path in place.iterdir() if path.is_file() and not path.name.startswith("."))
    matched = [(path, FILE.fullmatch(path.stem) if path.suffix.lower() in SUFFIXES else None) for path in files]
    found = [Named(match["text"], int(match["number"]), path) for path, match in matched if match]
    return sorted(found, key=lambda one: (one.number, one.path.name)), [path.name for path, match in matched if not match]


def _category(found: Iterable[Named], suite: CompBench, place: Path) -> str:
    """The category whose prompts stand at these numbers; SampleError where it cannot be told."""
    right: Counter[str] = Counter()
    for one in found:
        spot = one.number // COPIES
        right.update(category for category in suite.categories if suite.texts(category)[spot : spot + 1] == (one.text,))
    if not right:
        raise SampleError(f"{place} holds prompts of no category at their numbers; name its folder {', '.join(suite.categories)}")
    return right.most_common(1)[0][0]


def _take(
    category: str, found: Iterable[Named], left: list[str], suite: CompBench, files: dict[int, Path], failed: dict[int, str]
) -> list[str]:
    """Puts a category's images into `files`, what is missing into `failed`; what is told of the others."""
    texts, taken = suite.texts(category), {}
    others = list(left)
    for one in found:
        spot = one.number // COPIES
        if texts[spot : spot + 1] == (one.text,) and one.number not in taken:
            taken[one.number] = one.path
        else:
            others.append(one.path.name)
    for number in range(len(texts) * COPIES):
        index = suite.index(category, number // COPIES, number % COPIES)
        if number in taken:
            files[index] = taken[number]
        else:
            failed[index] = f"no image {number:06d} in {category}"
    if not others:
        return []
    return [f"images: not read in {category}, not named as an image of its prompt or there twice: {few(others)}"]
