"""The contract of a suite: what to draw, and against which reference it is judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from harope_bench.core import registry
from harope_bench.core.conditioning import Conditioning
from harope_bench.core.schema import Request, Settings


class Reference(NamedTuple):
    """Statistics of the real images as one judge saw them, and who they are."""

    name: str
    path: Path
    sha256: str
    judge_sha256: str


class Suite(Protocol):
    """What a suite module's PLUGIN offers.

    `asks` says what it asks of a network (harope_bench/core/conditioning.py): labels with their number, prompts, pictures or nothing.
    `judges` maps an evaluator, or `evaluator/profile`, to the judge it reads. Optional: `profiles`, the profile of an evaluator where
    it is not the evaluator's own; `exact`, whether `count` is part of the protocol; `presets`, named settings; `policy(asked)`,
    where labels can be chosen: what the plan records.
    """

    version: int
    title: str
    count: int
    asks: Conditioning
    resolution: int
    judges: dict[str, str]
    evaluators: tuple[str, ...]

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """The request of each index; a function of the index and the plan's settings alone."""

    def reference(self, judge: str) -> Reference:
        """Where the reference statistics for that judge lie; NotHere (of fetch) or WeightsError if they are not there."""

    def images(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Real images (N, H, W) or (N, H, W, 3) uint8 and labels (N,) int64 of a split."""


@dataclass(frozen=True)
class Case:
    """One prompt of a suite and which copy of its image; `facts` holds, by an evaluator's form, what that evaluator needs to know."""

    prompt: int
    copy: int
    text: str
    facts: Mapping[str, Mapping[str, Any]]


class PromptSuite(Protocol):
    """What a suite of prompts offers (`task` is "prompts"): `copies` images each, index = copy * number of prompts + prompt.

    So the first N indices of N prompts are one image of each. `judges` maps an evaluator to the judge of each role. `source` is the
    name and sha256 of the prompts' file or files; NotHere names the command that brings them. Optional: `part_of`, the suite of which
    this one has whole categories, so that its numbers stand in that suite's columns.
    """

    task: str
    asks: Conditioning
    version: int
    title: str
    count: int
    copies: int
    resolution: int
    judges: Mapping[str, Mapping[str, str]]
    evaluators: tuple[str, ...]

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """The request of each index."""

    def case(self, index: int) -> Case:
        """What is asked at an index; OptionError beyond the last."""

    def source(self) -> tuple[str, str]:
        """Name and sha256 of the prompts."""


class Pictures(Protocol):
    """Real pictures with labels, in a fixed order. whole: these are all pictures of the suite as it is defined."""

    whole: bool

    @property
    def names(self) -> Sequence[str]:
        """A name of each picture."""

    @property
    def labels(self) -> Sequence[int]:
        """The class of each picture."""

    def missing(self, count: int) -> int:
        """How many of the first `count` pictures are not there."""

    def data(self, index: int) -> bytes:
        """The bytes that a picture is known by; SampleError where they cannot be read."""

    def look(self, index: int, data: bytes, side: int, crop_ratio: float) -> np.ndarray:
        """The picture in these bytes as (side, side, 3) uint8; SampleError where they are damaged."""


class NamingSuite(Protocol):
    """What a suite offers whose pictures a classifier names (`task` is "classify") instead of drawing any."""

    task: str
    asks: Conditioning
    version: int
    title: str
    count: int
    classes: int
    resolution: int
    crop_ratio: float
    judges: dict[str, str]
    evaluators: tuple[str, ...]

    def pictures(self, place: Path | None, labels: Path | None) -> Pictures:
        """The pictures, of the user's folder where the suite ships none; OptionError where that does not fit."""


def load_suite(name: str) -> Suite:
    """Return the suite of that name.

    Raises:
        UnknownName: No such suite. PluginError: It is not derived from Suite. BenchError: It does not load.
    """
    return registry.load_plugin("suites", name, Suite)
