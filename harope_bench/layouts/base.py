"""What a layout module offers, and which layout a folder has.

A layout is how another program keeps the images of a suite of prompts in a folder. Its module has `SUITE`, the suite's name;
`recognise(folder)`, whether a folder has this form; `open_layout(folder, suite)`, the images as a set whose indices are the suite's,
with a reason for each that is not there; `write(samples, suite, folder)`, the other way.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from harope_bench import registry
from harope_bench.errors import OptionError, SampleError, UnknownName
from harope_bench.samples import SampleSet, first
from harope_bench.store import disk
from harope_bench.suites.base import PromptSuite


class Written(NamedTuple):
    """How many images were written, and what a user must know of those that were not."""

    images: int
    warnings: tuple[str, ...]


class Layout(Protocol):
    """A layout's module."""

    SUITE: str

    def recognise(self, folder: Path) -> bool:
        """Whether the folder has this form."""

    def open_layout(self, folder: Path, suite: PromptSuite, side: int | None = None) -> SampleSet:
        """Every image that the suite asks for, here or failed with a reason; what else lies there is told. side: of an image, in pixels."""

    def write(self, samples: SampleSet, suite: PromptSuite, folder: Path) -> Written:
        """The images in this form; an existing folder must be empty."""


def names() -> list[str]:
    """The layouts, by file name."""
    found = [file for file in sorted(Path(__file__).parent.glob("*.py")) if b"\nSUITE = " in file.read_bytes()]
    return [file.stem for file in found]


def layout(name: str) -> Layout:
    """A layout's module; UnknownName offers the nearest."""
    if name not in names():
        raise UnknownName("layout", name, names())
    module: Layout = importlib.import_module(f"harope_bench.layouts.{name}")
    return module


def opened(folder: Path, suite_name: str | None = None, count: int | None = None, side: int | None = None) -> SampleSet | None:
    """The images, or the first `count`, of a folder that has a known layout (of this suite, where one is named), or None.

    side: of an image in pixels, where a layout joins several in a picture; half the picture's width if None.
    """
    for name in names() if folder.is_dir() else ():
        found = layout(name)
        if suite_name in (None, found.SUITE) and found.recognise(folder):
            suite = registry.load("suites", found.SUITE)
            return first(found.open_layout(folder, suite) if side is None else found.open_layout(folder, suite, side), count)
    return None


def gathered(
    folder: Path,
    suite: PromptSuite,
    files: Mapping[int, Path],
    failed: dict[int, str],
    warnings: tuple[str, ...],
    boxes: Mapping[int, tuple[int, int, int, int]] | None = None,
) -> SampleSet:
    """The set of a folder; SampleError where it holds none of the suite's images."""
    if not files:
        raise SampleError(f"{folder} holds no image of {suite.title}; check the folder's form and the suite")
    asked = len(files) + len(failed)
    return SampleSet(folder.name, folder, None, asked, failed, sorted(files), dict(files), {}, {}, warnings, boxes=boxes)


def written(samples: SampleSet, name: str, folder: Path) -> Written:
    """Writes a set in the layout of that name; OptionError where the set is of another suite."""
    into = layout(name)
    if samples.plan is not None and samples.plan.suite != into.SUITE:
        raise OptionError(
            f"{samples.path} was drawn for suite {samples.plan.suite}, the layout {name} is of {into.SUITE}; choose another --to"
        )
    return into.write(samples, registry.load("suites", into.SUITE), folder)


def empty(folder: Path) -> None:
    """SampleError where something lies in the folder already."""
    with disk(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise SampleError(f"{folder} is not an empty folder; choose another place")


def few(things: list[str], most: int = 3) -> str:
    """The first of a list in words."""
    return ", ".join(things[:most]) + (f" and {len(things) - most:,} more" if len(things) > most else "")
