"""Layouts: the folders in which other programs keep the images of a suite of prompts.

A module with the constant `SUITE` is a layout and has the members of the protocol `Layout`. A
module with the constant `RESULTS_OF` reads the results file of an official script and has the
members of the protocol `ResultsReader`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from harope_bench.core.errors import (
    MissingAssetError,
    OptionError,
    SampleError,
    UnknownNameError,
)
from harope_bench.data.image_io import wrong_suffixes_text
from harope_bench.data.sample_set import SampleSet, check_not_source
from harope_bench.evaluators.base import EvaluatorOutput
from harope_bench.suites.base import PromptSuite, load_prompt_suite


class WriteReport(NamedTuple):
    """The number of written images, and warnings about images that were not written."""

    image_count: int
    warnings: tuple[str, ...]


class Layout(Protocol):
    """The module of a layout.

    SUITE: name of the suite that the layout belongs to. SUITES: all suites whose images it can
    have.
    IS_TILED: whether an image file joins several images.
    """

    SUITE: str
    SUITES: tuple[str, ...]
    IS_TILED: bool

    def is_layout(self, folder: Path) -> bool:
        """Return whether the folder has this layout."""

    def is_unmistakable(self, folder: Path) -> bool:
        """Return whether a folder of this layout cannot be a folder of other images."""

    def open_layout(
        self, folder: Path, suite: PromptSuite, side: int | None = None, tiles: int | None = None
    ) -> SampleSet:
        """Return the images of the folder at the indices of the suite.

        The set has as many images of each prompt as the folder. Missing images fail with a reason,
        and other files give warnings.

        Args:
            side, tiles: side of an image in pixels and number of images in a file, for layouts
                that join several images.
        """

    def write_images(self, samples: SampleSet, suite: PromptSuite, folder: Path) -> WriteReport:
        """Write the images in this layout; a folder that exists must be empty or a part of them."""


class ResultsReader(Protocol):
    """The module of a reader of official results; RESULTS_OF is the name of its suite."""

    RESULTS_OF: str

    def is_results_file(self, path: Path) -> bool:
        """Return whether the file is such a results file."""

    def import_scores(
        self, path: Path, suite: PromptSuite, is_lenient: bool = False, rules: str = "official"
    ) -> EvaluatorOutput:
        """Return the measurements; a metric with a missing image is None unless `is_lenient`."""


def module_names(constant: str = "SUITE") -> list[str]:
    """Return the names of the layouts, or with `RESULTS_OF` of the readers of results."""
    assignment = f"\n{constant} = ".encode()
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [file.stem for file in files if assignment in file.read_bytes()]


def find_results_reader(path: Path) -> ResultsReader | None:
    """Return the reader whose official script wrote this file, None without one."""
    modules: list[ResultsReader] = [
        importlib.import_module(f"harope_bench.suites.official_layouts.{name}")
        for name in module_names("RESULTS_OF")
    ]
    return next((module for module in modules if module.is_results_file(path)), None)


def load_layout(name: str) -> Layout:
    """Return the module of a layout; raise UnknownNameError, which suggests the nearest name."""
    if name not in module_names():
        raise UnknownNameError("layout", name, module_names())
    module: Layout = importlib.import_module(f"harope_bench.suites.official_layouts.{name}")
    return module


def suites_of_layout(layout: Layout) -> tuple[str, ...]:
    """Return the names of the suites whose images a layout can have."""
    return layout.SUITES


def find_layout(folder: Path, suite_name: str | None = None) -> Layout | None:
    """Return the layout of a folder, None without one.

    Args:
        suite_name: consider only the layouts of this suite.
    """
    if not folder.is_dir():
        return None
    for layout in map(load_layout, module_names()):
        is_of_suite = suite_name is None or suite_name in suites_of_layout(layout)
        if is_of_suite and layout.is_layout(folder):
            return layout
    return None


def recognise_suite(path: Path) -> str | None:
    """Return the suite whose images or official results a path holds; None if none is recognised.

    A layout that several suites share belongs to the first of them of which the folder has images,
    otherwise to the first whose prompts are missing here, if the layout is unmistakable.
    """
    results_reader = find_results_reader(path)
    if results_reader is not None:
        return results_reader.RESULTS_OF
    layout = find_layout(path)
    if layout is None:
        return None
    suites_without_prompts = []
    for name in suites_of_layout(layout):
        try:
            layout.open_layout(path, load_prompt_suite(name))
        except MissingAssetError:
            if layout.is_unmistakable(path):
                suites_without_prompts.append(name)
        except OptionError:  # the size of an image is ambiguous, so there are images of the suite
            return name
        except SampleError:
            continue
        else:
            return name
    return next(iter(suites_without_prompts), None)


def make_sample_set(
    folder: Path,
    suite: PromptSuite,
    files: Mapping[int, Path],
    failed: dict[int, str],
    warnings: tuple[str, ...],
    boxes: Mapping[int, tuple[int, int, int, int]] | None = None,
) -> SampleSet:
    """Return the sample set of a folder.

    Args:
        files: file of each index. failed: reason of each index without a file.
        boxes: box (x0, y0, x1, y1) of each index in its file, where a file joins several images.

    Raises:
        SampleError: The folder has no image of the suite; the message has the warnings.
    """
    if not files:
        details = f" ({'; '.join(warnings)})" if warnings else ""
        raise SampleError(
            f"{folder} has no image of {suite.title}{details}; check the layout of the folder and"
            " the suite"
        )
    # A file that joins several images is checked once.
    wrong_suffixes = wrong_suffixes_text(dict.fromkeys(files.values()))
    if wrong_suffixes:
        warnings += (f"images: {wrong_suffixes}",)
    return SampleSet(
        name=folder.name,
        path=folder,
        plan=None,
        n_asked=len(files) + len(failed),
        failed=failed,
        indices=sorted(files),
        files=dict(files),
        recorded_hashes={},
        labels={},
        warnings=warnings,
        boxes=boxes,
    )


def write_layout(
    samples: SampleSet, name: str, folder: Path, suite_name: str | None = None
) -> WriteReport:
    """Write a sample set in the layout with this name.

    Raises:
        OptionError: The samples are of a suite that the layout does not support.
    """
    layout = load_layout(name)
    check_not_source(samples, folder)
    suite_name = samples.plan.suite if samples.plan is not None else suite_name or layout.SUITE
    if suite_name not in suites_of_layout(layout):
        raise OptionError(
            f"{samples.path} was generated for suite {suite_name}, the layout {name} is of"
            f" {layout.SUITE}; choose another --to"
        )
    return layout.write_images(samples, load_prompt_suite(suite_name), folder)


def copies_warnings(copies: int, expected: int, unit: str = "prompt") -> tuple[str, ...]:
    """Return a warning where there are fewer images of each prompt than the suite requests."""
    if copies == expected:
        return ()
    return (f"images: {copies} of {expected} of each {unit}, as many as there are",)


def shorten_list(items: list[str], max_items: int = 3) -> str:
    """Return the first items, separated by commas, and the number of the others."""
    text = ", ".join(items[:max_items])
    n_omitted = len(items) - max_items
    return f"{text} and {n_omitted:,} more" if n_omitted > 0 else text
