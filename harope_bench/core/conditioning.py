"""Checks that a checkpoint can generate, or classify, what a suite requests.

A backbone declares the input of its network (`conditioning`). A suite declares what it requests
(`requested_conditioning`): labels, prompts, images to classify, or nothing. Both are compared here
before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harope_bench.core import registry
from harope_bench.core.errors import BenchError, OptionError
from harope_bench.core.plugin_contracts import BackboneContract, SuiteContract
from harope_bench.core.plugin_contracts import (
    Conditioning as Conditioning,  # plug-ins import it from here
)
from harope_bench.core.record_base import Option
from harope_bench.core.schema import Checkpoint, Request


def backbone_conditioning(backbone: str, config: Mapping[str, Option]) -> Conditioning:
    """Return the conditioning that the networks of a backbone take.

    Args:
        backbone: Name of the backbone.
        config: Sizes of the network.

    Raises:
        OptionError: The sizes are invalid.
        PluginError: The backbone does not declare its conditioning.
    """
    return registry.load_plugin("backbones", backbone, BackboneContract).conditioning(config)


def suite_conditioning(suite_name: str) -> Conditioning:
    """Return the conditioning that a suite requests.

    For a suite that does not declare it, it follows from the task or from the first request.

    Raises:
        UnknownNameError: There is no such suite.
        BenchError: The prompts of the suite are not installed.
    """
    return _suite_conditioning(registry.load_plugin("suites", suite_name, SuiteContract))


def _suite_conditioning(suite: SuiteContract) -> Conditioning:
    if suite.requested_conditioning is not None:
        return suite.requested_conditioning
    if suite.task != "generate":
        return Conditioning("images" if suite.task == "classify" else "prompts")

    (request,) = suite.requests([0])
    if request.prompt is not None:
        return Conditioning("prompts")
    return Conditioning("nothing" if request.label is None else "labels")


def check_checkpoint_suite(checkpoint: Checkpoint, suite_name: str) -> None:
    """Raise OptionError unless the checkpoint takes what the suite requests."""
    conditioning = backbone_conditioning(checkpoint.backbone, checkpoint.config)
    title = f"checkpoint {checkpoint.name} (backbone {checkpoint.backbone})"
    check_conditioning(title, conditioning, suite_name)


def check_conditioning(title: str, conditioning: Conditioning, suite_name: str) -> None:
    """Raise OptionError unless a network with this conditioning can serve the suite.

    Args:
        title: The checkpoint or the recipe, for the message.
    """
    requested_conditioning = suite_conditioning(suite_name)
    if conditioning.is_compatible_with(requested_conditioning):
        return

    # A classifier for a generative suite, or the reverse, gets a message of its own.
    kinds = (conditioning.kind, requested_conditioning.kind)
    is_wrong_task = "images" in kinds and conditioning.kind != requested_conditioning.kind
    if is_wrong_task and conditioning.kind == "images":
        raise OptionError(
            f"{title} is a classifier of {conditioning.classes or 'some'} classes and cannot"
            f" generate images, but suite {suite_name} asks for {requested_conditioning};"
            f" {_suite_advice(conditioning)}"
        )
    if is_wrong_task:
        raise OptionError(
            f"{title} generates images from {conditioning} and is no classifier, but suite"
            f" {suite_name} asks for {requested_conditioning};"
            f" {_suite_advice(conditioning)}"
        )
    verb = "classifies" if conditioning.kind == "images" else "is conditioned on"
    raise OptionError(
        f"{title} {verb} {conditioning}, but suite {suite_name} asks for"
        f" {requested_conditioning};"
        f" {_suite_advice(conditioning)}"
        f"{_null_label_advice(conditioning, requested_conditioning)}"
    )


def check_rescored_suite(folder: str, generated_for: str, suite_name: str) -> None:
    """Raise OptionError if a run cannot be scored by another suite than that of its plan.

    Args:
        folder: The run folder, for the message.
        generated_for: The suite of the run's plan.
        suite_name: The suite that will score the run.
    """
    plan_conditioning = suite_conditioning(generated_for)
    new_conditioning = suite_conditioning(suite_name)
    if not plan_conditioning.is_compatible_with(new_conditioning):
        raise OptionError(
            f"{folder} was generated for suite {generated_for}, which asks for"
            f" {plan_conditioning}, but suite {suite_name} asks for {new_conditioning}; leave"
            " --suite out or generate for that suite"
        )


def _suite_advice(conditioning: Conditioning) -> str:
    names = compatible_suites(conditioning)
    if not names:
        return f"no registered suite asks for {conditioning}"
    return f"choose a suite that asks for {conditioning}: {', '.join(names)}"


def _null_label_advice(conditioning: Conditioning, requested_conditioning: Conditioning) -> str:
    """Return advice for a network with one class fewer than the suite; else an empty text.

    The last row of a label table is assumed to be the null label of classifier-free guidance. A
    network without a null label is therefore registered with one class too few.
    """
    are_labels = conditioning.kind == requested_conditioning.kind == "labels"
    n_suite_classes = requested_conditioning.classes
    is_one_class_less = n_suite_classes == (conditioning.classes or 0) + 1
    if are_labels and conditioning.is_optional and is_one_class_less:
        return (
            f", or register it with --config classes={n_suite_classes} if it has no"
            " row for no label"
        )
    return ""


def compatible_suites(conditioning: Conditioning) -> list[str]:
    """Return the names of the registered suites that a network can serve.

    Suites that do not load, because of an error or because their prompts are not installed, are
    omitted.
    """
    names = []
    for name in registry.list_names("suites"):
        try:
            is_compatible = conditioning.is_compatible_with(suite_conditioning(name))
        except BenchError:
            continue
        if is_compatible:
            names.append(name)
    return names


def check_requests(checkpoint: Checkpoint, requests: Iterable[Request]) -> None:
    """Raise OptionError for the first request that the checkpoint's network cannot serve."""
    conditioning = backbone_conditioning(checkpoint.backbone, checkpoint.config)
    backbone = registry.load_plugin("backbones", checkpoint.backbone, BackboneContract)
    for request in requests:
        _check_request(checkpoint, conditioning, request)
        backbone.check_request(checkpoint, request)


def _check_request(checkpoint: Checkpoint, conditioning: Conditioning, request: Request) -> None:
    title = f"checkpoint {checkpoint.name} (backbone {checkpoint.backbone})"
    start = f"{title} takes {conditioning}"
    sample = f"sample {request.index}"

    # The kind of the request: prompt, label or neither.
    if request.prompt is not None and conditioning.kind != "prompts":
        raise OptionError(f"{start}, {sample} has a prompt; choose another suite")
    if request.label is not None and conditioning.kind != "labels":
        raise OptionError(f"{start}, {sample} has a label; choose another suite")
    is_unconditional = request.prompt is None and request.label is None
    if is_unconditional and not conditioning.is_compatible_with(Conditioning("nothing")):
        raise OptionError(f"{start}, {sample} has none; choose another suite")

    # The range of the label; any label passes where the number of classes is not known.
    if request.label is not None:
        n_classes = conditioning.classes or request.label + 1
        if not 0 <= request.label < n_classes:
            raise OptionError(
                f"{title} takes labels 0 to {n_classes - 1:,}, {sample} has label"
                f" {request.label}; choose another suite"
            )
