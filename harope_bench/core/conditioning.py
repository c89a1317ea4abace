"""Whether a checkpoint can generate, or classify, what a suite asks for: labels, prompts, pictures
or nothing.

A backbone declares what its network takes (`conditioning`), a suite what it asks for (`asks`).
Plans, runs and trainings
compare the two here, before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harope_bench.core import registry
from harope_bench.core.errors import BenchError, OptionError
from harope_bench.core.plugin_contracts import BackboneContract, SuiteContract
from harope_bench.core.plugin_contracts import (
    Conditioning as Conditioning,
)  # plug-ins take it from here
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Checkpoint, Request


def backbone_conditioning(backbone: str, config: Mapping[str, Option]) -> Conditioning:
    """Return what the networks of a backbone take at these sizes.

    Raises:
        OptionError: The sizes are wrong. PluginError: The backbone does not declare it.
    """
    return registry.load_plugin("backbones", backbone, BackboneContract).conditioning(config)


def suite_conditioning(suite: str) -> Conditioning:
    """Return what a suite asks for: its `asks`, else what its task or its first request shows.

    Raises:
        UnknownName: No such suite. BenchError: Its prompts are not here.
    """
    return _suite_conditioning(registry.load_plugin("suites", suite, SuiteContract))


def _suite_conditioning(suite: SuiteContract) -> Conditioning:
    if suite.requested_conditioning is not None:
        return suite.requested_conditioning
    if suite.task != "draw":
        return Conditioning("pictures" if suite.task == "classify" else "prompts")
    (request,) = suite.requests([0])
    if request.prompt is not None:
        return Conditioning("prompts")
    return Conditioning("nothing" if request.label is None else "labels")


def check_checkpoint_suite(checkpoint: Checkpoint, suite: str) -> None:
    """Raise OptionError unless the checkpoint takes what the suite asks for; both sides are
    named.
    """
    taken = backbone_conditioning(checkpoint.backbone, checkpoint.config)
    check_conditioning(f"checkpoint {checkpoint.name} ({checkpoint.backbone})", taken, suite)


def check_conditioning(what: str, conditioning: Conditioning, suite: str) -> None:
    """Raise OptionError unless a network that takes `taken` can serve the suite.

    Args:
        what: The checkpoint or the recipe, for the message.
    """
    asked = suite_conditioning(suite)
    if conditioning.is_compatible_with(asked):
        return
    is_classifier = (
        "pictures" in (conditioning.kind, asked.kind) and conditioning.kind != asked.kind
    )
    if is_classifier and conditioning.kind == "pictures":
        raise OptionError(
            f"{what} is a classifier of {conditioning.classes or 'some'} classes and cannot"
            f" generate images, suite {suite} asks for {asked}; {_suite_advice(conditioning)}"
        )
    if is_classifier:
        raise OptionError(
            f"{what} generates images from {conditioning} and is no classifier, suite {suite} asks"
            f" for {asked}; {_suite_advice(conditioning)}"
        )
    raise OptionError(
        f"{what} takes {conditioning}, suite {suite} asks for {asked};"
        f" {_suite_advice(conditioning)}{_off_by_one(conditioning, asked)}"
    )


def check_rescored_suite(folder: str, generated_for: str, suite: str) -> None:
    """Raise OptionError for a run of one suite that is to be scored by another one that asks for
    something else.

    Args:
        generated_for: The suite of the run's plan.
    """
    asked = suite_conditioning(generated_for)
    other = suite_conditioning(suite)
    if not asked.is_compatible_with(other):
        raise OptionError(
            f"{folder} was generated for suite {generated_for}, which asks for {asked}, suite"
            f" {suite} asks for {other}; leave --suite out or generate for that suite"
        )


def _suite_advice(taken: Conditioning) -> str:
    names = compatible_suites(taken)
    return (
        f"choose a suite of {taken}: {', '.join(names)}"
        if names
        else f"no registered suite asks for {taken}"
    )


def _off_by_one(taken: Conditioning, asked: Conditioning) -> str:
    """The hint for a network whose last label was taken for "no label", because its file does not
    tell.
    """
    if (
        taken.kind == asked.kind == "labels"
        and taken.is_optional
        and asked.classes == (taken.classes or 0) + 1
    ):
        return (
            f", or register it with --config classes={asked.classes} if it has no row for no label"
        )
    return ""


def compatible_suites(taken: Conditioning) -> list[str]:
    """Return the names of registered suites that a network can serve, leaving out those that do not
    load.
    """
    names = []
    for name in registry.list_names("suites"):
        try:
            if taken.is_compatible_with(suite_conditioning(name)):
                names.append(name)
        except (
            BenchError
        ):  # a plug-in that is broken or whose prompts are not here cannot be advised
            continue
    return names


def check_requests(checkpoint: Checkpoint, requests: Iterable[Request]) -> None:
    """Raise OptionError for a request that the checkpoint's network cannot serve, named by its
    index.
    """
    taken = backbone_conditioning(checkpoint.backbone, checkpoint.config)
    backbone = registry.load_plugin("backbones", checkpoint.backbone, BackboneContract)
    for request in requests:
        _check_request(checkpoint, taken, request)
        backbone.check_request(checkpoint, request)


def _check_request(checkpoint: Checkpoint, taken: Conditioning, request: Request) -> None:
    what = f"checkpoint {checkpoint.name} ({checkpoint.backbone}) takes {taken}"
    if request.prompt is not None and taken.kind != "prompts":
        raise OptionError(f"{what}, sample {request.index} has a prompt; choose another suite")
    if request.label is not None and taken.kind != "labels":
        raise OptionError(f"{what}, sample {request.index} has a label; choose another suite")
    if (
        request.prompt is None
        and request.label is None
        and not taken.is_compatible_with(Conditioning("nothing"))
    ):
        raise OptionError(f"{what}, sample {request.index} has none; choose another suite")
    if request.label is not None and not 0 <= request.label < (taken.classes or request.label + 1):
        raise OptionError(
            f"{what} from 0 on, sample {request.index} has label {request.label}; choose another"
            " suite"
        )
