"""Contracts of the judges: networks, or parsers, that look at images.

A feature extractor turns images into arrays, an annotator answers a query about one image. A
plug-in holds the facts of its judge and
loads no weights. `open_judge` gives the judge with its weights, `judge_record` what a result says
of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from harope_bench.core import registry
from harope_bench.core.annotations import Annotation, Query
from harope_bench.core.errors import JudgeError, MissingMemberError, OptionError
from harope_bench.core.record_base import Option
from harope_bench.core.schema import ErrorRate, JudgeClass, JudgeRecord
from harope_bench.core.storage import sha256_bytes

# -------------------------------------------------------------------------------------------------
# with weights


class LoadedFeatureExtractor:
    """Base class of feature extractors with their weights."""

    weights_sha256: str  # hash of the weights that are loaded
    notes: Sequence[
        str
    ] = ()  # lines that a result must say of how it looked; read after it has looked

    @property
    def numerics(self) -> Mapping[str, Option]:
        """Return how it computes, as far as that moves last bits: `path` (plain, folded, compiled)
        and `tf32`; read as `notes`.
        """
        return {}

    def extract(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return the named float32 arrays, one row an image, for images (B, H, W, 3) uint8."""
        raise MissingMemberError(self, "extract")


class LoadedAnnotator:
    """Base class of annotators with their weights."""

    weights_sha256: str  # hash of the weights that are loaded

    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        """Return the answer of a role for an image (H, W, 3) uint8; it depends on nothing else."""
        raise MissingMemberError(self, "annotate")


Loaded_co = TypeVar("Loaded_co", bound=LoadedFeatureExtractor | LoadedAnnotator, covariant=True)


# Any: each judge writes checks of its own class with weights, and is asked no other's
Check = Callable[[Any], str | None]


class SelfCheck(Protocol):
    """A case that a judge must pass before it is believed."""

    @property
    def name(self) -> str:
        """Return what the case is called."""

    @property
    def check(self) -> Check:
        """Return the function that says in words what is wrong with the judge with its weights, or
        None.
        """


class NamedCheck(NamedTuple):
    """A self-check by name; `check` is as in SelfCheck."""

    name: str
    check: Check


class AnnotationCheck(NamedTuple):
    """A self-check that asks an annotator: what it shows in words, the question, and whether an
    answer is right.
    """

    name: str
    role: str
    image: np.ndarray
    query: Query
    is_correct: Callable[[Annotation], bool]

    def check(self, loaded: LoadedAnnotator) -> str | None:
        """Return the wrong answer in words, or None."""
        answer = loaded.annotate(self.role, self.image, self.query)
        return None if self.is_correct(answer) else f"it answers {answer.to_json()[:200]}"


# -----------------------------------------------------------------------------------------------------
# plug-ins


class Judge(Generic[Loaded_co]):
    """Base class of all judges. A plug-in is derived from FeatureExtractor or Annotator."""

    version: int  # raised where its numbers or answers change
    preprocessing: str  # from an image to the network's input, in words
    packages: tuple[str, ...] = ()  # optional packages that opening it imports
    needs_model: bool = (
        False  # it has no weights of its own, `of` binds it to a model of the user's
    )
    runner: Path | None = (
        None  # a self-contained file that another Python executes in place of `open`
    )
    arrays: tuple[str, ...] = ()  # of a feature extractor: what `observe` returns
    roles: tuple[str, ...] = ()  # of an annotator: which of those in core/annotations.py it takes

    @property
    def judge_class(self) -> JudgeClass:
        """Return how near it is to the published judge; a plug-in may state it as an attribute."""
        raise MissingMemberError(self, "judge_class")

    def weights_sha256(self) -> str:
        """Return the recorded hash of its weights without opening them; NotHere names the command
        that brings them.
        """
        raise MissingMemberError(self, "weights_sha256")

    def open(self, device: str) -> Loaded_co:
        """Load the weights, hash checked first; WeightsError where they are missing or altered.
        `open_judge` calls it.
        """
        raise MissingMemberError(self, "open")

    def with_model(self, model: str) -> Judge[Loaded_co] | None:
        """Return the judge on a folder or hub id of the user's; None where it has its own
        weights.
        """
        return None

    def self_checks(self) -> tuple[SelfCheck, ...]:
        """Return the cases that it must pass with its weights before it is believed."""
        return ()

    def warnings(self) -> tuple[str, ...]:
        """Return what a result must say of the judge; without opening its weights."""
        return ()

    def error_rates(self) -> tuple[ErrorRate, ...]:
        """Return how often it was wrong where the truth is known; without opening its weights."""
        return ()


class FeatureExtractor(Judge[LoadedFeatureExtractor]):
    """Base class of judges that turn images into arrays; `arrays` names them."""

    batch_size: int = 50  # images that `observe` is given at once

    @property
    def widths(self) -> Mapping[str, int]:
        """Return how many numbers a row has, by array, as far as that is known; a reference of
        another width is rejected.
        """
        return {}


class Annotator(Judge[LoadedAnnotator]):
    """Base class of judges that answer queries about one image, in their `roles`."""


class JudgeChoice(NamedTuple):
    """A judge by its registered name and, where the user names one, the model that it runs."""

    name: str
    model: str | None = None

    @property
    def folder_name(self) -> str:
        """Return a plain name that tells two models of one judge apart."""
        return (
            self.name
            if self.model is None
            else f"{self.name}-{sha256_bytes(self.model.encode())[:8]}"
        )

    @property
    def judge(self) -> Judge[LoadedFeatureExtractor | LoadedAnnotator]:
        """Return the judge, bound to its model; OptionError where it takes none or needs one."""
        judge = load_judge(self.name)
        if self.model is None:
            if judge.needs_model:
                raise OptionError(
                    f"judge {self.name} runs a model of yours; write {self.name}:FOLDER or"
                    f" {self.name}:HUB-ID"
                )
            return judge
        bound = judge.with_model(self.model)
        if bound is None:
            raise OptionError(
                f"judge {self.name} has its own weights, it takes no model ({self.model}); write"
                f" {self.name}"
            )
        return bound

    @property
    def annotator(self) -> Annotator:
        """Return the judge as an annotator; OptionError where it is none."""
        message = (
            f"judge {self.name} gives features, it is no annotator; give it to an evaluator on"
            " features"
        )
        return registry.require_kind(self.judge, Annotator, message)


def load_judge(name: str) -> Judge[LoadedFeatureExtractor | LoadedAnnotator]:
    """Return the judge of that name.

    Raises:
        UnknownName: No such judge. PluginError: It is not derived from Judge. BenchError: It does
            not load.
    """
    return registry.load_plugin("judges", name, Judge)


def load_feature_extractor(name: str) -> FeatureExtractor:
    """Return the feature extractor of that name; errors as `load_judge`, and OptionError for an
    annotator.
    """
    judge = load_judge(name)
    message = (
        f"judge {name} extracts no features, its roles are {', '.join(judge.roles)}; choose a"
        " feature extractor"
    )
    return registry.require_kind(judge, FeatureExtractor, message)


def judge_record(name: str, model: str | None = None) -> JudgeRecord:
    """Return what a result says of a judge, without opening its weights; errors as
    `JudgeChoice.judge` and `weights_sha256`.
    """
    judge = JudgeChoice(name, model).judge
    return JudgeRecord(
        name=name,
        version=judge.version,
        judge_class=judge.judge_class,
        weights_sha256=judge.weights_sha256(),
        preprocessing=judge.preprocessing,
        model=model,
    )


def open_judge(name: str, judge: Judge[Loaded_co], device: str) -> Loaded_co:
    """Return a judge with its weights, once its self-check has found nothing.

    Args:
        name: that the judge is registered by.

    Raises:
        WeightsError: Its weights are missing, altered, or of another network.
        JudgeError: A case of its self-check fails.
    """
    loaded = judge.open(device)
    for case in judge.self_checks():
        if complaint := case.check(loaded):
            raise JudgeError(
                f"{name} fails its self-check {case.name}: {complaint}; check its libraries with"
                " harope-bench doctor"
            )
    return loaded
