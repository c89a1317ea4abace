"""Base classes of the suites.

A suite defines what to generate or classify, and the reference or the judges that it is evaluated
with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from harope_bench.core import registry
from harope_bench.core.errors import MissingAssetError, MissingMemberError, OptionError
from harope_bench.core.plugin_contracts import SuiteContract
from harope_bench.core.record_base import Option
from harope_bench.evaluators.base import Metadata

OWN_PROMPTS = "prompts-"  # how the names of suites of a user's own prompts start


class ReferenceFile(NamedTuple):
    """A file with the statistics of real images under one judge, and a name for these images."""

    name: str
    path: Path
    sha256: str
    judge_sha256: str


class Suite(SuiteContract):
    """Base class of all suites.

    A plug-in derives from LabelSuite, CaptionSuite, PromptSuite or ClassificationSuite.

    version: increases where requests, reference or images change.
    resolution: side of an image, in pixels.
    judges: by evaluator or `evaluator/profile`, the feature extractor or the annotators by role.
    evaluators: the evaluators that apply to the suite.
    has_exact_count: whether `count` is part of the protocol.
    has_exact_resolution: whether `resolution` is. If not, it is for checkpoints that name no suite
        of their own; others take the resolution of that suite.
    profiles: by evaluator, the profile where it is not the evaluator's default.
    presets: settings by name.
    """

    version: int
    title: str
    resolution: int
    judges: Mapping[str, str | Mapping[str, str]]
    evaluators: tuple[str, ...]
    has_exact_count: bool = False
    has_exact_resolution: bool = True
    profiles: Mapping[str, str] = {}
    presets: Mapping[str, Mapping[str, Option]] = {}

    @property
    def count(self) -> int:
        """Return the number of images; a plug-in may declare an attribute instead."""
        raise MissingMemberError(self, "count")

    def label_policy(self, requested_policy: str | None) -> str | None:
        """Return the label policy that a plan records, None where a suite fixes the labels.

        Args:
            requested_policy: the policy of the settings; None for the suite's default.
        """
        return None

    def reference(self, judge: str) -> ReferenceFile | None:
        """Return the reference statistics for a judge, None where the suite has none.

        Raises:
            MissingAssetError: The file is missing; the message has the command that fetches it.
            WeightsError: The sha256 of the file differs.
        """
        return None

    def images(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the real images of a split and their labels.

        Returns:
            Images (N, H, W) or (N, H, W, 3) uint8, and labels (N,) int64.

        Raises:
            OptionError: The suite has no images of this split.
        """
        raise OptionError(f"{self.title} has no images of split {split!r}; choose another suite")


class LabelSuite(Suite):
    """Base class of suites of labels, whose images are compared with a reference as a set."""


class CaptionSuite(Suite):
    """Base class of suites of captions, whose images are compared with a reference as a set.

    The images are not compared with their captions.
    """


@dataclass(frozen=True)
class PromptCase:
    """One request of a suite of prompts: the prompt, and the number of its image.

    prompt_index: position of the prompt in the suite.
    copy: number of the image among those of the prompt, from 0.
    metadata: by an evaluator's key, the data that the evaluator needs.
    """

    prompt_index: int
    copy: int
    prompt: str
    metadata: Mapping[str, Metadata]

    @property
    def item_id(self) -> str | None:
        """Return the benchmark's id of the prompt, the key `item` of its metadata; None without."""
        items = [str(values["item"]) for values in self.metadata.values() if "item" in values]
        return items[0] if items else None

    def metadata_for(self, metadata_key: str | None) -> Metadata | None:
        """Return the metadata that an evaluator with this key reads; None where there is none.

        An evaluator without a key reads the prompt alone.
        """
        if metadata_key is None:
            return {"prompt": self.prompt}
        return self.metadata.get(metadata_key)


class PromptSuite(Suite):
    """Base class of suites of prompts with `copies` images each.

    index = copy * number of prompts + prompt index, so the first N indices of N prompts are one
    image of each prompt.
    """

    task = "prompts"
    copies: int

    def case(self, index: int) -> PromptCase:
        """Return the prompt and copy at an index.

        Raises:
            OptionError: The index is beyond the last one.
        """
        raise MissingMemberError(self, "case")

    def prompts_source(self) -> tuple[str, str]:
        """Return a name for the source of the prompts and the sha256 of its contents.

        A plug-in must define it. A source of several files has one name and one common hash.

        Raises:
            MissingAssetError: A file is missing; the message has the command that fetches it.
        """
        raise MissingMemberError(self, "prompts_source")


class RealImages(Protocol):
    """Real images with labels, in a fixed order."""

    @property
    def is_complete(self) -> bool:
        """Return whether these are all images that the suite defines."""

    @property
    def names(self) -> Sequence[str]:
        """Return the name of each image."""

    @property
    def labels(self) -> Sequence[int]:
        """Return the class of each image."""

    def read_bytes(self, index: int) -> bytes:
        """Return the bytes of an image, which identify it.

        Raises:
            SampleError: The file cannot be read.
        """

    def decode(self, index: int, data: bytes, side: int, crop_ratio: float) -> np.ndarray:
        """Return the image in these bytes, resized and cropped to (side, side, 3) uint8.

        Raises:
            SampleError: The bytes are damaged.
        """


class ClassificationSuite(Suite):
    """Base class of suites of real images that a classifier labels.

    crop_ratio: side of the centre crop / shorter side of the resized image.
    """

    task = "classify"
    classes: int
    crop_ratio: float

    def real_images(self, folder: Path | None, labels: Path | None) -> RealImages:
        """Return the real images, from the user's folder where the suite ships none.

        Args:
            labels: file of the user with the labels, where the folder does not determine them.

        Raises:
            OptionError: Folder and labels do not fit the suite.
        """
        raise MissingMemberError(self, "real_images")


def load_suite(name: str) -> Suite:
    """Return the suite with this name.

    Raises:
        UnknownNameError: There is no such suite.
        MissingAssetError: It is of a user's own prompts, which are not on this machine.
        PluginError: The plug-in is not derived from Suite.
        BenchError: The plug-in cannot be imported.
    """
    if name.startswith(OWN_PROMPTS) and name not in registry.list_entries("suites"):
        raise MissingAssetError(
            f"the prompts of suite {name} are not on this machine",
            advice="give --suite prompts:FILE with the file that it was made of",
        )
    return registry.load_plugin("suites", name, Suite)


def load_prompt_suite(name: str) -> PromptSuite:
    """Return the suite of prompts with this name.

    Raises:
        OptionError: The suite is of another kind. Other errors are those of `load_suite`.
    """
    message = f"suite {name} has no prompts; choose a suite of prompts"
    return registry.require_kind(load_suite(name), PromptSuite, message)


def load_classification_suite(name: str) -> ClassificationSuite:
    """Return the suite of real images with this name.

    Raises:
        OptionError: The suite is of another kind. Other errors are those of `load_suite`.
    """
    message = f"suite {name} has no images to classify; choose a suite for classifiers"
    return registry.require_kind(load_suite(name), ClassificationSuite, message)
