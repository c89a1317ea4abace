"""The members of plug-in base classes that `core` itself uses.

The complete base classes are in `models/backbones/base.py`, `suites/base.py` and
`evaluators/base.py`. They derive from the classes here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from harope_bench.core.errors import MissingMemberError
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Checkpoint, Metric, Request, Settings

# generate: images that are evaluated as a set. prompts: images that are scored one by one against
# their prompts. classify: real images that the network classifies.
Task = Literal["generate", "prompts", "classify"]


@dataclass(frozen=True)
class Conditioning:
    """The input of a network beside noise, or the input that a suite requests.

    Attributes:
        kind: labels, prompts, images (the input of a classifier, which returns labels) or nothing.
        classes: Number of classes; None if it is not known.
        is_optional: Whether the network can also generate without label or prompt.
    """

    kind: Literal["labels", "prompts", "images", "nothing"]
    classes: int | None = None
    is_optional: bool = False

    def __str__(self) -> str:
        """Return the conditioning in words, such as "1,000 classes"."""
        count = "" if self.classes is None else f"{self.classes:,} "
        texts = {
            "labels": f"{count}classes" if count else "class labels",
            "images": f"images of {count}classes",
            "nothing": "no labels and no prompts",
        }
        return texts.get(self.kind, self.kind)

    def is_compatible_with(self, suite_conditioning: Conditioning) -> bool:
        """Return whether a network with this conditioning can serve what a suite requests."""
        if suite_conditioning.kind == "nothing":
            return self.kind == "nothing" or self.is_optional
        known_counts = {self.classes, suite_conditioning.classes} - {None}
        return self.kind == suite_conditioning.kind and len(known_counts) < 2


class BackboneContract:
    """The conditioning of a backbone's networks."""

    def conditioning(self, config: Mapping[str, Option]) -> Conditioning:
        """Return the conditioning of a network of these sizes.

        Raises:
            OptionError: The sizes are invalid.
        """
        raise MissingMemberError(self, "conditioning")

    def check_request(self, checkpoint: Checkpoint, request: Request) -> None:
        """Raise OptionError for a request that the network cannot serve; by default none."""


class SuiteContract:
    """The task and the requests of a suite.

    Attributes:
        task: How the images of the suite are evaluated.
        requested_conditioning: What the requests contain. None: `suite_conditioning` derives it
            from the task or from the first request.
        parent_suite: Suite of which this one contains whole categories. Its numbers share the
            columns of that suite.
        resolution: Side of an image, in pixels.
    """

    task: Task = "generate"
    resolution: int
    requested_conditioning: Conditioning | None = None
    parent_suite: str | None = None

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """Return the request of each sample index; it depends only on index and settings."""
        raise MissingMemberError(self, "requests")


class EvaluatorContract:
    """The metrics of an evaluator and the version of its numbers.

    Attributes:
        version: Increased whenever values or intervals change.
        title: Name in charts and reports, such as "GenEval"; empty for the registered name.
    """

    version: int
    title: str = ""
    metrics: tuple[Metric, ...]

    def profile_metrics(self, profile: str) -> tuple[Metric, ...]:
        """Return the metrics under a profile; by default every profile has the same ones."""
        return self.metrics
