"""Contracts of the judges: the networks, or parsers, that look at images.

A feature extractor turns images into arrays. An annotator answers a query about one image. A
plug-in describes its judge and loads no weights. `open_judge` loads the weights and checks the
judge, `judge_record` returns what a result records of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from harope_bench.core import registry
from harope_bench.core.annotations import Annotation, Query
from harope_bench.core.errors import JudgeError, MissingMemberError, OptionError
from harope_bench.core.extras import require_packages
from harope_bench.core.record_base import Option
from harope_bench.core.schema import ErrorRate, JudgeClass, JudgeRecord
from harope_bench.core.storage import sha256_bytes

# -------------------------------------------------------------------------------------------------
# loaded judges


class LoadedFeatureExtractor:
    """Base class of feature extractors with their weights."""

    weights_sha256: str  # hash of the weights that are loaded
    # lines for the result about how features were computed; read after the last `extract`
    notes: Sequence[str] = ()

    @property
    def numerics(self) -> Mapping[str, Option]:
        """Return how features are computed, as far as that changes last bits.

        `network` is plain, folded or compiled; `tf32` is whether products may round to TF32. Both
        are read after the last `extract`.
        """
        return {}

    def extract(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return float32 arrays by name, one row per image, for images (B, H, W, 3) uint8."""
        raise MissingMemberError(self, "extract")

    def preprocess(self, images: np.ndarray) -> Any:
        """Return what `extract_preprocessed` takes for images (B, H, W, 3) uint8.

        It is called in a thread, beside the network, so it is the place of a slow resize on the
        CPU. By default the images themselves.
        """
        return images

    # Any: each judge takes what its own `preprocess` returns
    def extract_preprocessed(self, inputs: Any) -> dict[str, np.ndarray]:
        """Return the arrays that `extract` returns for the images before `preprocess`."""
        return self.extract(inputs)


class LoadedAnnotator:
    """Base class of annotators with their weights."""

    weights_sha256: str  # hash of the weights that are loaded

    def annotate(self, role: str, image: np.ndarray, query: Query) -> Annotation:
        """Return the annotation of an image (H, W, 3) uint8 for a query.

        Args:
            role: one of the judge's `roles`, which decides the types of query and annotation.

        Returns:
            An annotation that depends on nothing but the arguments and the weights.
        """
        raise MissingMemberError(self, "annotate")

    # Any: each judge takes what its own `run_network` returns
    def run_network(self, role: str, image: np.ndarray, query: Query) -> Any:
        """Return what `finish_annotation` takes for the arguments of `annotate`.

        By default the annotation itself.
        """
        return self.annotate(role, image, query)

    def finish_annotation(self, outputs: Any) -> Annotation:
        """Return the annotation that `annotate` returns, from the value of `run_network`.

        It is called in a thread, while the network works on the next image, so it is the place of
        slow steps after the network. It must leave the process's settings, such as TF32, alone.
        """
        annotation: Annotation = outputs
        return annotation

    @property
    def has_own_finish(self) -> bool:
        """Return whether the class defines `finish_annotation`."""
        return type(self).finish_annotation is not LoadedAnnotator.finish_annotation


Loaded_co = TypeVar("Loaded_co", bound=LoadedFeatureExtractor | LoadedAnnotator, covariant=True)


# -------------------------------------------------------------------------------------------------
# self-checks

# Any: each judge defines checks of its own loaded class, which are called with no other
Check = Callable[[Any], str | None]


class SelfCheck(Protocol):
    """A check that a loaded judge must pass before it is used."""

    @property
    def name(self) -> str:
        """Return the name of the check."""

    @property
    def check(self) -> Check:
        """Return the function that returns what is wrong with a loaded judge, or None."""


class NamedCheck(NamedTuple):
    """A self-check by name; `check` is that of SelfCheck."""

    name: str
    check: Check


class AnnotationCheck(NamedTuple):
    """A self-check that an annotator answers one query correctly.

    name: what the image shows and what is expected. is_correct: whether an annotation is right.
    """

    name: str
    role: str
    image: np.ndarray
    query: Query
    is_correct: Callable[[Annotation], bool]

    def check(self, annotator: LoadedAnnotator) -> str | None:
        """Return the wrong annotation in words, or None where the annotation is right."""
        annotation = annotator.annotate(self.role, self.image, self.query)
        if self.is_correct(annotation):
            return None
        return f"it answers {annotation.to_json()[:200]}"


# -------------------------------------------------------------------------------------------------
# plug-ins


class Judge(Generic[Loaded_co]):
    """Base class of all judges. A plug-in is derived from FeatureExtractor or Annotator."""

    version: int  # raised whenever its numbers or annotations change
    preprocessing: str  # steps from an image to the network's input, in words
    packages: tuple[str, ...] = ()  # optional packages that `open` imports
    needs_model: bool = False  # it has no weights; `with_model` binds it to a model of the user
    runner: Path | None = None  # stand-alone script that another Python runs in place of `open`
    arrays: tuple[str, ...] = ()  # of a feature extractor: names of the arrays it extracts
    roles: tuple[str, ...] = ()  # of an annotator: its roles, out of those in core/annotations.py

    @property
    def judge_class(self) -> JudgeClass:
        """Return how close the judge is to the published one: see core/schema.py.

        It is official, equivalent, substitute or micro. A plug-in may set an attribute.
        """
        raise MissingMemberError(self, "judge_class")

    @property
    def published_class(self) -> JudgeClass:
        """Return the judge class with the published weights, which may be missing here."""
        return self.judge_class

    def weights_sha256(self) -> str:
        """Return the recorded hash of its weights without loading them.

        Raises:
            MissingAssetError: The weights are missing; the message names the command to fetch them.
        """
        raise MissingMemberError(self, "weights_sha256")

    def open(self, device: str) -> Loaded_co:
        """Load the weights after checking their hash. Callers use `open_judge`.

        Raises:
            WeightsError: The weights are missing or altered.
        """
        raise MissingMemberError(self, "open")

    def with_model(self, model: str) -> Judge[Loaded_co] | None:
        """Return the judge bound to a folder or hub id; None if it has weights of its own."""
        return None

    def self_checks(self) -> tuple[SelfCheck, ...]:
        """Return the checks that the loaded judge must pass before it is used."""
        return ()

    def warnings(self) -> tuple[str, ...]:
        """Return the warnings for a result about this judge, without loading its weights."""
        return ()

    def error_rates(self) -> tuple[ErrorRate, ...]:
        """Return how often it was wrong on cases with known truth, without loading its weights."""
        return ()


class FeatureExtractor(Judge[LoadedFeatureExtractor]):
    """Base class of judges that turn images into arrays, which `arrays` names."""

    batch_size: int = 50  # images per call of `extract`

    @property
    def widths(self) -> Mapping[str, int]:
        """Return the numbers per row of each array, as far as known.

        A reference of another width is rejected.
        """
        return {}


class Annotator(Judge[LoadedAnnotator]):
    """Base class of judges that answer queries about one image, in their `roles`."""


# -------------------------------------------------------------------------------------------------
# lookup by name


class JudgeChoice(NamedTuple):
    """The registered name of a judge and, where the user chose one, the model that it runs."""

    name: str
    model: str | None = None

    @property
    def folder_name(self) -> str:
        """Return a folder name that differs between two models of one judge."""
        if self.model is None:
            return self.name
        return f"{self.name}-{sha256_bytes(self.model.encode())[:8]}"

    @property
    def judge(self) -> Judge[LoadedFeatureExtractor | LoadedAnnotator]:
        """Return the judge, bound to its model.

        Raises:
            OptionError: The judge needs a model and has none, or takes no model and has one.
        """
        judge = load_judge(self.name)
        if self.model is None:
            if judge.needs_model:
                raise OptionError(
                    f"judge {self.name} runs a model that you provide, found none; write"
                    f" {self.name}:FOLDER or {self.name}:HUB-ID"
                )
            return judge
        bound_judge = judge.with_model(self.model)
        if bound_judge is None:
            raise OptionError(
                f"judge {self.name} has its own weights and takes no model, found {self.model};"
                f" write {self.name}"
            )
        return bound_judge

    @property
    def annotator(self) -> Annotator:
        """Return the judge as an annotator; raise OptionError for a feature extractor."""
        message = (
            f"judge {self.name} extracts features, wanted an annotator; use it with an evaluator of"
            " features"
        )
        return registry.require_kind(self.judge, Annotator, message)


def load_judge(name: str) -> Judge[LoadedFeatureExtractor | LoadedAnnotator]:
    """Return the plug-in that is registered by a name.

    Raises:
        UnknownNameError: No judge has this name.
        PluginError: The plug-in is not derived from Judge.
        BenchError: The plug-in cannot be imported.
    """
    return registry.load_plugin("judges", name, Judge)


def load_feature_extractor(name: str) -> FeatureExtractor:
    """Return the feature extractor that is registered by a name.

    Raises:
        OptionError: The judge is an annotator. Other errors are those of `load_judge`.
    """
    judge = load_judge(name)
    message = (
        f"judge {name} extracts no features, its roles are {', '.join(judge.roles)}; choose a"
        " feature extractor"
    )
    return registry.require_kind(judge, FeatureExtractor, message)


def judge_record(name: str, model: str | None = None) -> JudgeRecord:
    """Return what a result records of a judge, without loading its weights.

    Raises:
        OptionError: See `JudgeChoice.judge`.
        MissingAssetError: See `Judge.weights_sha256`.
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


def open_judge(name: str, plugin: Judge[Loaded_co], device: str) -> Loaded_co:
    """Load a judge and run its self-checks.

    Args:
        name: registered name of the judge, for messages.

    Raises:
        WeightsError: Its weights are missing, altered, or of another network.
        MissingExtraError: A package that it needs is not installed.
        JudgeError: A self-check fails.
    """
    require_packages(f"judge {name}", *plugin.packages)
    loaded_judge = plugin.open(device)
    for self_check in plugin.self_checks():
        if complaint := self_check.check(loaded_judge):
            raise JudgeError(
                f"{name} fails its self-check {self_check.name}: {complaint}; check its libraries"
                " with harope-bench doctor"
            )
    return loaded_judge
