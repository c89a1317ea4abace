"""What the lower rooms read of plug-ins whose base classes are in rooms above them.

`models/backbones/base.py`, `suites/base.py` and `evaluators/base.py` derive the whole contracts
from these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from harope_bench.core.errors import MissingMemberError
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Checkpoint, Metric, Request, Settings

Task = Literal[
    "draw", "prompts", "classify"
]  # images as a set, prompt by prompt, or real pictures that are classified


@dataclass(frozen=True)
class Conditioning:
    """What a network takes beside noise, or what a suite asks for.

    Attributes:
        kind: labels, prompts, pictures (of a classifier, which answers with a label) or nothing.
        classes: number of labels; None where it is not known.
        is_optional: of a network, whether it also generates without label or prompt.
    """

    kind: Literal["labels", "prompts", "pictures", "nothing"]
    classes: int | None = None
    is_optional: bool = False

    def __str__(self) -> str:
        count = "" if self.classes is None else f"{self.classes:,} "
        words = {
            "labels": f"{count}labels",
            "pictures": f"pictures of {count}classes",
            "nothing": "no labels and no prompts",
        }
        return words.get(self.kind, self.kind)

    def is_compatible_with(self, requested: Conditioning) -> bool:
        """Return whether a network that takes this can serve a suite that asks for `asked`."""
        if requested.kind == "nothing":
            return self.kind == "nothing" or self.is_optional
        counts = {self.classes, requested.classes} - {None}
        return self.kind == requested.kind and len(counts) < 2


class BackboneContract:
    """The part of a backbone that says what its networks take."""

    def conditioning(self, config: Mapping[str, Option]) -> Conditioning:
        """Return what a network of these sizes takes beside noise, or what a classifier looks at;
        OptionError for wrong sizes.
        """
        raise MissingMemberError(self, "conditioning")

    def check_request(self, checkpoint: Checkpoint, request: Request) -> None:
        """Raise OptionError for a request that the network cannot read; by default it reads every
        one.
        """


class SuiteContract:
    """The part of a suite that says what it asks for."""

    task: Task = "draw"  # how its images are evaluated
    requested_conditioning: Conditioning | None = (
        None  # what it asks of a network; None: what its task or its first request shows
    )
    parent_suite: str | None = (
        # the suite of which it has whole categories, so that its numbers stand in that suite's
        # columns
        None
    )

    def requests(self, indices: Iterable[int], settings: Settings | None = None) -> list[Request]:
        """Return the request of each index, a function of the index and the plan's settings
        alone.
        """
        raise MissingMemberError(self, "requests")


class EvaluatorContract:
    """The part of an evaluator that says what it measures."""

    version: int  # raised where its numbers or intervals move
    metrics: tuple[Metric, ...]
