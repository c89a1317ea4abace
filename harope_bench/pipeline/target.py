"""Kinds of targets of `eval`, and how the text of a target is resolved.

A target is a text: the name of a registered checkpoint, the id of a model on the Hugging Face Hub,
or a path to a run folder, to images, to the results file of an official script, or to weights. An
existing path takes precedence over a checkpoint of the same name, unless it holds weights. Weights
and models are registered before they are evaluated (pipeline/register_target.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from harope_bench.core import registry
from harope_bench.core.errors import UnknownNameError
from harope_bench.core.schema import Plan
from harope_bench.core.state_dicts import INDEX_SUFFIX
from harope_bench.core.storage import convert_os_errors
from harope_bench.data.run_folder import PLAN_FILE, RunFolder
from harope_bench.models import lora_manifest
from harope_bench.models.load_checkpoint import load_checkpoint_record
from harope_bench.models.pipeline_manifest import MODULAR_INDEX
from harope_bench.models.register_checkpoint import find_hub_model
from harope_bench.pipeline.classify import (
    is_classification_suite,
    is_classifier,
    make_classifier_plan,
)
from harope_bench.pipeline.eval_options import RUNS, EvalOptions, GenerationOptions
from harope_bench.pipeline.evaluate_prompts import is_prompt_suite
from harope_bench.pipeline.generate import make_plan
from harope_bench.suites.official_layouts.base import find_results_reader, recognise_suite


class TargetKind(Enum):
    """Every kind of target. The suite decides whether images are scored prompt by prompt."""

    CHECKPOINT = "checkpoint that generates images"
    PROMPT_CHECKPOINT = "checkpoint that generates images of prompts"
    CLASSIFIER = "checkpoint of a classifier"
    RUN = "run folder"
    PROMPT_RUN = "run folder of prompts"
    CLASSIFIER_RUN = "run folder of a classifier"
    IMAGE_FOLDER = "folder of images"
    PROMPT_FOLDER = "folder of images of prompts"
    IMAGE_FILE = "file of images"
    PROMPT_FILE = "file of images of prompts"
    OFFICIAL_RESULTS = "finished run of an official script"


CHECKPOINTS = frozenset(
    {TargetKind.CHECKPOINT, TargetKind.PROMPT_CHECKPOINT, TargetKind.CLASSIFIER}
)
WEIGHTS_SUFFIXES = frozenset({".safetensors", ".pt", ".pth"})
CLASSIFIERS = frozenset({TargetKind.CLASSIFIER, TargetKind.CLASSIFIER_RUN})
RUN_FOLDERS = frozenset({TargetKind.RUN, TargetKind.PROMPT_RUN, TargetKind.CLASSIFIER_RUN})


@dataclass(frozen=True)
class Target:
    """A resolved target.

    name: as the user typed it.
    path: what is evaluated; for a checkpoint, the run folder that its images are written to.
    out: folder of the results.
    suite: None where neither the options, a plan nor the layout of the files give one.
    plan: of a run folder, its plan; of a checkpoint, None until `plan_target` makes it.
    weights: what is registered as a checkpoint first: a path, or the id of a model of the hub.
    """

    kind: TargetKind
    name: str
    path: Path
    out: Path
    suite: str | None = None
    plan: Plan | None = None
    weights: Path | None = None


def resolve_target(text: str, options: EvalOptions | None = None) -> Target:
    """Return the resolved target for the suite and the output folder of the options.

    Raises:
        UnknownNameError: Neither a path nor a checkpoint has this name, or the suite is unknown.
        PlanMismatchError: The folder's plan.json is no plan.
        StorageError: The path cannot be read, for example because it is too long.
    """
    options = options or EvalOptions()
    if options.suite is not None:
        registry.find_entry("suites", options.suite)
    path = Path(text)
    with convert_os_errors(path):
        exists = path.exists()
    if exists:
        return _resolve_path(text, path, options)
    if text not in registry.list_entries("checkpoints"):
        if find_hub_model(path) is not None:
            return _resolve_weights(path, options)
        raise UnknownNameError(
            "file, folder or checkpoint", text, registry.list_names("checkpoints")
        )
    return resolve_checkpoint(text, options)


def resolve_checkpoint(name: str, options: EvalOptions) -> Target:
    """Return the target of a registered checkpoint, even if a path has the same name.

    Raises:
        UnknownNameError: No checkpoint has this name.
    """
    checkpoint = load_checkpoint_record(name)
    suite = options.suite or checkpoint.suite
    folder = options.out or RUNS / name
    if is_classifier(checkpoint):
        kind = TargetKind.CLASSIFIER
    elif suite is not None and is_prompt_suite(suite):
        kind = TargetKind.PROMPT_CHECKPOINT
    else:
        kind = TargetKind.CHECKPOINT
    return Target(kind, name, folder, folder, suite)


def _resolve_path(text: str, path: Path, options: EvalOptions) -> Target:
    """Return the target of an existing file or folder.

    A checkpoint precedes a path of the same name if the path holds weights, such as its own.
    """
    if is_weights_path(path):
        if text in registry.list_entries("checkpoints"):
            return resolve_checkpoint(text, options)
        return _resolve_weights(path, options)
    plan = RunFolder(path).plan if path.is_dir() else None
    suite = options.suite or (recognise_suite(path) if plan is None else plan.suite)
    kind = _kind_of_path(path, plan, suite)
    if kind is TargetKind.CLASSIFIER_RUN and plan is not None:
        suite = plan.suite  # a classifier's plan decides its images, whatever suite is requested
    out = options.out or (path if kind in RUN_FOLDERS else RUNS / f"eval-{path.stem}")
    return Target(kind, text, path, out, suite, plan)


def is_weights_path(path: Path) -> bool:
    """Return whether a path is a file of weights, or a folder with a pipeline, a LoRA or one
    network.
    """
    if path.is_file():
        return path.suffix in WEIGHTS_SUFFIXES or path.name.endswith(INDEX_SUFFIX)
    if (path / PLAN_FILE).exists():
        return False
    indices = (lora_manifest.PIPELINE_INDEX, MODULAR_INDEX)
    return any((path / name).is_file() for name in indices) or any(path.glob("*.safetensors"))


def _resolve_weights(path: Path, options: EvalOptions) -> Target:
    """Return the target of weights that are not registered, or of a model of the hub."""
    name = checkpoint_name(path)
    is_prompts = options.suite is not None and is_prompt_suite(options.suite)
    kind = TargetKind.PROMPT_CHECKPOINT if is_prompts else TargetKind.CHECKPOINT
    folder = options.out or RUNS / name
    return Target(kind, name, folder, folder, options.suite, weights=path)


def checkpoint_name(path: Path) -> str:
    """Return the name under which weights are registered: owner--name for a model of the hub."""
    model = find_hub_model(path)
    if model is not None:
        return model.repository.replace("/", "--")
    if path.is_file():
        return path.name.removesuffix(INDEX_SUFFIX).removesuffix(path.suffix)
    return lora_manifest.base_name(str(path)).removeprefix("models--")


def _kind_of_path(path: Path, plan: Plan | None, suite: str | None) -> TargetKind:
    if plan is not None and is_classification_suite(plan.suite):
        return TargetKind.CLASSIFIER_RUN
    has_prompts = suite is not None and is_prompt_suite(suite)
    if has_prompts and find_results_reader(path) is not None:
        return TargetKind.OFFICIAL_RESULTS
    if plan is not None:
        return TargetKind.PROMPT_RUN if has_prompts else TargetKind.RUN
    if path.is_dir():
        return TargetKind.PROMPT_FOLDER if has_prompts else TargetKind.IMAGE_FOLDER
    return TargetKind.PROMPT_FILE if has_prompts else TargetKind.IMAGE_FILE


def plan_target(target: Target, options: EvalOptions) -> Plan:
    """Return the plan by which a checkpoint generates images, or classifies real images.

    Raises:
        UnknownNameError, OptionError: A suite or a setting does not fit.
        WeightsError: The checkpoint lacks its base or its autoencoder.
    """
    assert target.kind in CHECKPOINTS
    make = make_classifier_plan if target.kind is TargetKind.CLASSIFIER else make_plan
    return make(target.name, options.suite, options.generation.overrides())


def plan_checkpoint(name: str, suite: str | None, generation: GenerationOptions) -> Plan:
    """Return the plan of a checkpoint by its name, for a classifier or a generator.

    Raises:
        UnknownNameError, OptionError, WeightsError: See `resolve_checkpoint` and `plan_target`.
    """
    options = EvalOptions(suite=suite, generation=generation)
    return plan_target(resolve_checkpoint(name, options), options)
