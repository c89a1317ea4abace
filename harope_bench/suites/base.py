"""Contracts of the suites: what to generate or classify, and against which reference or by which
judges it is evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from harope_bench.core import registry
from harope_bench.core.errors import MissingMemberError, OptionError
from harope_bench.core.plugin_contracts import SuiteContract
from harope_bench.core.record_base import Option
from harope_bench.evaluators.base import Metadata


class ReferenceFile(NamedTuple):
    """Statistics of the real images as one judge saw them, and who they are."""

    name: str
    path: Path
    sha256: str
    judge_sha256: str


class Suite(SuiteContract):
    """Base class of all suites. A plug-in is derived from LabelSuite, CaptionSuite, PromptSuite or
    PictureSuite.
    """

    version: int  # raised where requests, reference or pictures change
    title: str
    resolution: int  # pixels of a side
    judges: Mapping[
        str, str | Mapping[str, str]
    ]  # by evaluator or `evaluator/profile`: the feature extractor, or annotators by role
    evaluators: tuple[str, ...]
    has_exact_count: bool = False  # whether `count` is part of the protocol
    profiles: Mapping[str, str] = {}  # by evaluator, where it is not the evaluator's own
    presets: Mapping[str, Mapping[str, Option]] = {}  # named settings

    @property
    def count(self) -> int:
        """Return how many images it asks for; a plug-in may state it as an attribute."""
        raise MissingMemberError(self, "count")

    def label_policy(self, asked: str | None) -> str | None:
        """Return what a plan records of a label policy that is asked for; None where the suite
        leaves no choice of labels.
        """
        return None

    def reference(self, judge: str) -> ReferenceFile | None:
        """Return the reference statistics for a judge; None where the suite has none.

        Raises:
            NotHere, WeightsError: They are not here, or altered; the command that brings them is
                named.
        """
        return None

    def images(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Return real images (N, H, W) or (N, H, W, 3) uint8 and labels (N,) int64 of a split;
        OptionError where it has none.
        """
        raise OptionError(f"{self.title} has no images of split {split!r}; choose another suite")


class LabelSuite(Suite):
    """Base class of suites of labels, whose images are compared with a reference as a set."""


class CaptionSuite(Suite):
    """Base class of suites of captions, whose images are compared with a reference as a set and not
    with their captions.
    """


@dataclass(frozen=True)
class PromptCase:
    """One prompt of a suite and which copy of its image; `facts` holds, by an evaluator's form,
    what that evaluator needs to know.
    """

    prompt_index: int
    copy: int
    prompt: str
    metadata: Mapping[str, Metadata]


class PromptSuite(Suite):
    """Base class of suites of prompts, `copies` images each, index = copy * number of prompts +
    prompt.

    So the first N indices of N prompts are one image of each.
    """

    task = "prompts"
    copies: int

    def case(self, index: int) -> PromptCase:
        """Return what is asked at an index; OptionError beyond the last."""
        raise MissingMemberError(self, "case")

    def prompts_source(self) -> tuple[str, str]:
        """Return name and sha256 of the prompts' file or files; NotHere names the command that
        brings them.
        """
        raise MissingMemberError(self, "prompts_source")


class RealImages(Protocol):
    """Real pictures with labels, in a fixed order. whole: these are all pictures of the suite as it
    is defined.
    """

    @property
    def is_complete(self) -> bool:
        """Return whether these are all."""

    @property
    def names(self) -> Sequence[str]:
        """Return a name of each picture."""

    @property
    def labels(self) -> Sequence[int]:
        """Return the class of each picture."""

    def read_bytes(self, index: int) -> bytes:
        """Return the bytes that a picture is known by; SampleError where they cannot be read."""

    def decode(self, index: int, data: bytes, side: int, crop_ratio: float) -> np.ndarray:
        """Return the picture in these bytes as (side, side, 3) uint8; SampleError where they are
        damaged.
        """


class ClassificationSuite(Suite):
    """Base class of suites of real pictures, which a classifier names."""

    task = "classify"
    classes: int
    crop_ratio: float

    def real_images(self, place: Path | None, labels: Path | None) -> RealImages:
        """Return the pictures, of the user's folder where the suite ships none; OptionError where
        that does not fit.
        """
        raise MissingMemberError(self, "real_images")


def load_suite(name: str) -> Suite:
    """Return the suite of that name.

    Raises:
        UnknownName: No such suite. PluginError: It is not derived from Suite. BenchError: It does
            not load.
    """
    return registry.load_plugin("suites", name, Suite)


def load_prompt_suite(name: str) -> PromptSuite:
    """Return the suite of prompts of that name; errors as `load_suite`, and OptionError for a suite
    of another kind.
    """
    message = f"suite {name} has no prompts; choose a suite of prompts"
    return registry.require_kind(load_suite(name), PromptSuite, message)


def load_classification_suite(name: str) -> ClassificationSuite:
    """Return the suite of pictures of that name; errors as `load_suite`, and OptionError for a
    suite of another kind.
    """
    message = f"suite {name} has no pictures; choose a suite of pictures"
    return registry.require_kind(load_suite(name), ClassificationSuite, message)
