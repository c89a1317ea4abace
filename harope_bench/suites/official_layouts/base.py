"""What a layout module offers, and which layout a folder has.

A layout is how another program keeps the images of a suite of prompts in a folder. Its module has
`SUITE`, the suite's name; `SUITES`,
all suites whose images it holds; `TILED`, whether a picture joins several images;
`recognise(folder)`, whether a folder has this form; `open_layout(folder, suite)`, the images as a
set whose indices are the suite's,
with a reason for each that is not there; `write(samples, suite, folder)`, the other way.

A reader of finished runs knows the results file of an official script. Its module has `RESULTS_OF`, the
suite's name; `recognise(path)`;
`imported(path, suite, lenient, rules)`, the score.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from harope_bench.core.errors import OptionError, SampleError, UnknownNameError
from harope_bench.data.image_io import misnamed_files_text
from harope_bench.data.sample_set import SampleSet, check_not_source
from harope_bench.evaluators.base import EvaluatorOutput
from harope_bench.suites.base import PromptSuite, load_prompt_suite


class WriteReport(NamedTuple):
    """How many images were written, and what a user must know of those that were not."""

    image_count: int
    warnings: tuple[str, ...]


class Layout(Protocol):
    """A layout's module."""

    SUITE: str
    SUITES: tuple[str, ...]
    IS_TILED: bool

    def is_layout(self, folder: Path) -> bool:
        """Whether the folder has this form."""

    def open_layout(
        self, folder: Path, suite: PromptSuite, side: int | None = None, tiles: int | None = None
    ) -> SampleSet:
        """Return as many images of each prompt as the folder holds, a missing one failed with a
        reason; warn of the rest.

        side: of an image in pixels, tiles: images in a picture; of layouts that join several.
        """

    def write_images(self, samples: SampleSet, suite: PromptSuite, folder: Path) -> WriteReport:
        """Write the images in this form; an existing folder must be empty or hold a part of
        them.
        """


class ResultsReader(Protocol):
    """The module of a reader of finished runs."""

    RESULTS_OF: str

    def is_results_file(self, path: Path) -> bool:
        """Whether the file is such a results file."""

    def import_scores(
        self, path: Path, suite: PromptSuite, lenient: bool = False, rules: str = "official"
    ) -> EvaluatorOutput:
        """Its measurements; a metric with a missing image is None unless `lenient`."""


def module_names(mark: str = "SUITE") -> list[str]:
    """The layouts (or with `RESULTS_OF` the readers), by file name."""
    found = [
        file
        for file in sorted(Path(__file__).parent.glob("*.py"))
        if f"\n{mark} = ".encode() in file.read_bytes()
    ]
    return [file.stem for file in found]


def find_results_reader(path: Path) -> ResultsReader | None:
    """What reads this file as the results of an official script, or None."""
    modules: list[ResultsReader] = [
        importlib.import_module(f"harope_bench.suites.official_layouts.{name}")
        for name in module_names("RESULTS_OF")
    ]
    return next((module for module in modules if module.is_results_file(path)), None)


def load_layout(name: str) -> Layout:
    """A layout's module; UnknownName offers the nearest."""
    if name not in module_names():
        raise UnknownNameError("layout", name, module_names())
    module: Layout = importlib.import_module(f"harope_bench.suites.official_layouts.{name}")
    return module


def suites_of_layout(found: Layout) -> tuple[str, ...]:
    """The suites whose images a layout holds."""
    return found.SUITES


def find_layout(folder: Path, suite_name: str | None = None) -> Layout | None:
    """The layout that a folder has (of this suite, where one is named), or None."""
    known = (load_layout(name) for name in module_names()) if folder.is_dir() else ()
    return next(
        (
            one
            for one in known
            if (suite_name is None or suite_name in suites_of_layout(one)) and one.is_layout(folder)
        ),
        None,
    )


def make_sample_set(
    folder: Path,
    suite: PromptSuite,
    files: Mapping[int, Path],
    failed: dict[int, str],
    warnings: tuple[str, ...],
    boxes: Mapping[int, tuple[int, int, int, int]] | None = None,
) -> SampleSet:
    """The set of a folder; SampleError where it holds none of the suite's images, with what the
    warnings say of the others.
    """
    if not files:
        why = f" ({'; '.join(warnings)})" if warnings else ""
        raise SampleError(
            f"{folder} holds no image of {suite.title}{why}; check the folder's form and the suite"
        )
    asked = len(files) + len(failed)
    if line := misnamed_files_text(
        dict.fromkeys(files.values())
    ):  # a grid of several images is one file
        warnings += (f"images: {line}",)
    return SampleSet(
        folder.name,
        folder,
        None,
        asked,
        failed,
        sorted(files),
        dict(files),
        {},
        {},
        warnings,
        boxes=boxes,
    )


def write_layout(
    samples: SampleSet, name: str, folder: Path, suite_name: str | None = None
) -> WriteReport:
    """Write a set in the layout of that name; OptionError where the set, or the suite that is
    named, is another.
    """
    into = load_layout(name)
    check_not_source(samples, folder)
    suite_name = samples.plan.suite if samples.plan is not None else suite_name or into.SUITE
    if suite_name not in suites_of_layout(into):
        raise OptionError(
            f"{samples.path} was drawn for suite {suite_name}, the layout {name} is of"
            f" {into.SUITE}; choose another --to"
        )
    return into.write_images(samples, load_prompt_suite(suite_name), folder)


def copies_warnings(copies: int, expected: int, what: str = "prompt") -> tuple[str, ...]:
    """Return a warning where there are fewer images of each prompt than the suite asks for."""
    return (
        ()
        if copies == expected
        else (f"images: {copies} of {expected} of each {what}, as many as there are",)
    )


def shorten_list(things: list[str], most: int = 3) -> str:
    """The first of a list in words."""
    return ", ".join(things[:most]) + (
        f" and {len(things) - most:,} more" if len(things) > most else ""
    )
