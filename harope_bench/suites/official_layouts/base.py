"""What a layout module offers, and which layout a folder has.

A layout is how another program keeps the images of a suite of prompts in a folder. Its module has `SUITE`, the suite's name; `SUITES`,
all suites whose images it holds; `TILED`, whether a picture joins several images;
`recognise(folder)`, whether a folder has this form; `open_layout(folder, suite)`, the images as a set whose indices are the suite's,
with a reason for each that is not there; `write(samples, suite, folder)`, the other way.

A reader of finished runs knows the results file of an official script. Its module has `READS`, the suite's name; `recognise(path)`;
`imported(path, suite, lenient, rules)`, the score.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from harope_bench.core.errors import OptionError, SampleError, UnknownName
from harope_bench.data.image_io import misnamed
from harope_bench.data.sample_set import SampleSet, check_not_source
from harope_bench.evaluators.base import Score
from harope_bench.suites.base import PromptSuite, load_prompt_suite


class Written(NamedTuple):
    """How many images were written, and what a user must know of those that were not."""

    images: int
    warnings: tuple[str, ...]


class Layout(Protocol):
    """A layout's module."""

    SUITE: str
    SUITES: tuple[str, ...]
    TILED: bool

    def recognise(self, folder: Path) -> bool:
        """Whether the folder has this form."""

    def open_layout(self, folder: Path, suite: PromptSuite, side: int | None = None, tiles: int | None = None) -> SampleSet:
        """Return as many images of each prompt as the folder holds, a missing one failed with a reason; warn of the rest.

        side: of an image in pixels, tiles: images in a picture; of layouts that join several.
        """

    def write(self, samples: SampleSet, suite: PromptSuite, folder: Path) -> Written:
        """Write the images in this form; an existing folder must be empty or hold a part of them."""


class Reader(Protocol):
    """The module of a reader of finished runs."""

    READS: str

    def recognise(self, path: Path) -> bool:
        """Whether the file is such a results file."""

    def imported(self, path: Path, suite: PromptSuite, lenient: bool = False, rules: str = "official") -> Score:
        """Its measurements; a metric with a missing image is None unless `lenient`."""


def names(mark: str = "SUITE") -> list[str]:
    """The layouts (or with `READS` the readers), by file name."""
    found = [file for file in sorted(Path(__file__).parent.glob("*.py")) if f"\n{mark} = ".encode() in file.read_bytes()]
    return [file.stem for file in found]


def reader(path: Path) -> Reader | None:
    """What reads this file as the results of an official script, or None."""
    modules: list[Reader] = [importlib.import_module(f"harope_bench.suites.official_layouts.{name}") for name in names("READS")]
    return next((module for module in modules if module.recognise(path)), None)


def layout(name: str) -> Layout:
    """A layout's module; UnknownName offers the nearest."""
    if name not in names():
        raise UnknownName("layout", name, names())
    module: Layout = importlib.import_module(f"harope_bench.suites.official_layouts.{name}")
    return module


def suites(found: Layout) -> tuple[str, ...]:
    """The suites whose images a layout holds."""
    return found.SUITES


def recognised(folder: Path, suite_name: str | None = None) -> Layout | None:
    """The layout that a folder has (of this suite, where one is named), or None."""
    known = (layout(name) for name in names()) if folder.is_dir() else ()
    return next((one for one in known if (suite_name is None or suite_name in suites(one)) and one.recognise(folder)), None)


def gathered(
    folder: Path,
    suite: PromptSuite,
    files: Mapping[int, Path],
    failed: dict[int, str],
    warnings: tuple[str, ...],
    boxes: Mapping[int, tuple[int, int, int, int]] | None = None,
) -> SampleSet:
    """The set of a folder; SampleError where it holds none of the suite's images, with what the warnings say of the others."""
    if not files:
        why = f" ({'; '.join(warnings)})" if warnings else ""
        raise SampleError(f"{folder} holds no image of {suite.title}{why}; check the folder's form and the suite")
    asked = len(files) + len(failed)
    if line := misnamed(dict.fromkeys(files.values())):  # a grid of several images is one file
        warnings += (f"images: {line}",)
    return SampleSet(folder.name, folder, None, asked, failed, sorted(files), dict(files), {}, {}, warnings, boxes=boxes)


def written(samples: SampleSet, name: str, folder: Path, suite_name: str | None = None) -> Written:
    """Write a set in the layout of that name; OptionError where the set, or the suite that is named, is another."""
    into = layout(name)
    check_not_source(samples, folder)
    suite_name = samples.plan.suite if samples.plan is not None else suite_name or into.SUITE
    if suite_name not in suites(into):
        raise OptionError(f"{samples.path} was drawn for suite {suite_name}, the layout {name} is of {into.SUITE}; choose another --to")
    return into.write(samples, load_prompt_suite(suite_name), folder)


def fewer(copies: int, expected: int, what: str = "prompt") -> tuple[str, ...]:
    """Return a warning where there are fewer images of each prompt than the suite asks for."""
    return () if copies == expected else (f"images: {copies} of {expected} of each {what}, as many as there are",)


def few(things: list[str], most: int = 3) -> str:
    """The first of a list in words."""
    return ", ".join(things[:most]) + (f" and {len(things) - most:,} more" if len(things) > most else "")
