"""Requirements of runs that are missing, found before any work.

Requirements are checkpoints, prompts, judges, references and optional packages. `doctor` checks
everything that is registered with these functions. `eval` and `reproduce` check what their runs
need, and list everything that is missing at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from harope_bench.core import registry
from harope_bench.core.extras import (
    EXTRAS,
    NETWORK_MODULES,
    install_command,
    missing_modules,
    missing_text,
)
from harope_bench.core.schema import Checkpoint, Plan
from harope_bench.judges.base import Judge, JudgeChoice, LoadedAnnotator, LoadedFeatureExtractor
from harope_bench.models import lora_manifest
from harope_bench.models.backbones.base import load_backbone
from harope_bench.models.load_checkpoint import check_weights_file, find_weights_path
from harope_bench.models.pipeline_manifest import check_manifest
from harope_bench.pipeline.annotator_choice import AnnotatorOptions
from harope_bench.pipeline.chosen_judges import chosen_feature_extractor
from harope_bench.pipeline.evaluate import FeatureScoring, resolve_profile
from harope_bench.pipeline.evaluate_prompts import (
    PromptScoring,
    is_prompt_suite,
    select_prompt_evaluators,
)
from harope_bench.pipeline.unmet_requirements import (
    UnmetRequirement,
    probe_requirement,
    unique_requirements,
)
from harope_bench.pipeline.workers import current_executor
from harope_bench.suites.base import (
    ClassificationSuite,
    PromptSuite,
    Suite,
    load_prompt_suite,
    load_suite,
)
from harope_bench.suites.suite_reference import find_suite_reference, making_advice

WEIGHTS_ON_MACHINES_ADVICE = (
    "register the same weights there, or share HAROPE_BENCH_HOME among all machines"
)

AnyJudge = Judge[LoadedFeatureExtractor | LoadedAnnotator]


@dataclass(frozen=True)
class RequiredScoring:
    """Options of scoring that decide which judges, references and packages are needed.

    None stands for the suite's default.
    """

    evaluators: Sequence[str] | None = None
    judge: str | None = None
    profiles: Sequence[str | None] = (None,)
    rules: Literal["official", "corrected"] = "official"
    reference: Path | None = None
    python: Path | None = None
    is_rescored: bool = False


class RequiredJudges(NamedTuple):
    """The judges that a suite's evaluators need; an extractor once for each evaluator."""

    annotators: list[JudgeChoice]
    extractors: list[str]


class MachineJudge(NamedTuple):
    """A judge as it travels to other machines, with the hash of the weights that they need."""

    name: str
    judge: AnyJudge
    weights_sha256: str


def missing_requirements(
    plans: Plan | Sequence[Plan], scoring: RequiredScoring | None = None
) -> list[UnmetRequirement]:
    """Return everything that runs of these plans need and that is missing, each once.

    Raises:
        OptionError, UnknownNameError: A judge, profile or evaluator that the suites do not have.
    """
    plan_list = [plans] if isinstance(plans, Plan) else list(plans)
    missing: list[UnmetRequirement | None] = [
        checkpoint_requirement(plan.checkpoint) for plan in plan_list
    ]
    for plan in plan_list:
        missing += backbone_packages(plan)
        missing.append(requests_requirement(plan))
    suites = [plan.suite for plan in plan_list]
    missing += suite_requirements(suites, scoring)
    missing += requirements_of_machines([plan.checkpoint for plan in plan_list], suites, scoring)
    return unique_requirements(missing)


def requirements_of_machines(
    checkpoints: Sequence[Checkpoint],
    suites: Iterable[str],
    scoring: RequiredScoring | None = None,
) -> list[UnmetRequirement]:
    """Return what the other machines of a cluster lack to do parts of the work.

    Prompts and references stay with the driver.
    """
    judges = _machine_judges(suites, scoring or RequiredScoring())
    unique_checkpoints = list({checkpoint.name: checkpoint for checkpoint in checkpoints}.values())
    answers = current_executor().ask_machines(worker_requirements, unique_checkpoints, judges)
    return [
        requirement._replace(detail=f"{host}: {requirement.detail}")
        for host, requirements in answers
        for requirement in requirements
    ]


def _machine_judges(suites: Iterable[str], scoring: RequiredScoring) -> list[MachineJudge]:
    """Return the judges that run in workers. Those that this machine lacks are left out."""
    machine_judges: list[MachineJudge] = []
    for name in dict.fromkeys(suites):
        suite = load_suite(name)
        if scoring.is_rescored or isinstance(suite, ClassificationSuite):
            continue
        judges = _required_judges(name, suite, scoring)
        for choice in dict.fromkeys([*judges.annotators, *map(JudgeChoice, judges.extractors)]):
            judge = choice.judge
            if judge.runner is None and not judge_requirements(choice):
                sha256 = judge.weights_sha256()
                machine_judges.append(MachineJudge(choice.name, judge, sha256))
    return machine_judges


def worker_requirements(
    checkpoints: Sequence[Checkpoint], judges: Sequence[MachineJudge]
) -> list[UnmetRequirement]:
    """Return what this machine lacks to generate and to judge: weights and packages."""
    missing: list[UnmetRequirement | None] = []
    for checkpoint in checkpoints:
        weights = probe_requirement(
            "checkpoint", checkpoint.name, partial(check_weights_file, checkpoint), ""
        )
        if weights is not None:
            missing.append(weights._replace(command=WEIGHTS_ON_MACHINES_ADVICE))
        packages = load_backbone(checkpoint.backbone).packages
        missing += package_requirements((*NETWORK_MODULES, *packages))
    for name, judge, sha256 in judges:
        requirements = _requirements_of_judge(name, judge)
        if not requirements and judge.weights_sha256() != sha256:
            detail = f"weights of judge {name} differ from those of the driver"
            requirements = [UnmetRequirement("judge", name, detail, WEIGHTS_ON_MACHINES_ADVICE)]
        missing += requirements
    return unique_requirements(missing)


def suite_requirements(
    suites: Iterable[str], scoring: RequiredScoring | None = None
) -> list[UnmetRequirement]:
    """Return the missing prompts, judges, references and packages for scoring these suites."""
    scoring = scoring or RequiredScoring()
    missing: list[UnmetRequirement | None] = []
    for name in dict.fromkeys(suites):
        suite = load_suite(name)
        if isinstance(suite, ClassificationSuite):
            continue
        if is_prompt_suite(name):
            missing.append(prompts_requirement(name))
        if not scoring.is_rescored:
            missing += _scoring_requirements(name, suite, scoring)
    return unique_requirements(missing)


def _scoring_requirements(
    name: str, suite: Suite, scoring: RequiredScoring
) -> list[UnmetRequirement | None]:
    """Return the missing judges and references of the evaluators of one suite."""
    missing: list[UnmetRequirement | None] = []
    judges = _required_judges(name, suite, scoring)
    for judge_choice in judges.annotators:
        missing += judge_requirements(judge_choice, scoring.python)
    for extractor in judges.extractors:
        missing += judge_requirements(JudgeChoice(extractor), scoring.python)
        if not scoring.reference:
            missing.append(reference_requirement(name, extractor))
    return missing


def _required_judges(name: str, suite: Suite, scoring: RequiredScoring) -> RequiredJudges:
    """Return the judges of the evaluators of one suite.

    An evaluator of prompts needs an annotator for each role. An evaluator of features needs one
    feature extractor.
    """
    annotators: list[JudgeChoice] = []
    prompt_evaluator_names: list[str] = []
    if is_prompt_suite(name):
        prompt_scoring = PromptScoring(
            name,
            scoring.rules,
            scoring.judge,
            annotator_options=AnnotatorOptions(python=scoring.python),
        )
        evaluators = select_prompt_evaluators(suite, prompt_scoring, scoring.evaluators)
        prompt_evaluator_names = [evaluator.name for evaluator in evaluators]
        annotators = [choice for e in evaluators for choice in e.judges.values()]

    feature_evaluators = [
        evaluator
        for evaluator in scoring.evaluators or suite.evaluators
        if evaluator not in prompt_evaluator_names
    ]
    judge = scoring.judge
    if is_prompt_suite(name):
        judge = chosen_feature_extractor(judge, bool(prompt_evaluator_names))
    extractors: list[str] = []
    for profile in scoring.profiles if feature_evaluators else ():
        feature_scoring = FeatureScoring(
            name, scoring.reference, scoring.rules, profile=profile, judge=judge
        )
        extractors += [
            resolve_profile(suite, evaluator, feature_scoring).judge
            for evaluator in feature_evaluators
        ]
    return RequiredJudges(list(dict.fromkeys(annotators)), extractors)


# ------------------------------------------------------------------------------------------------
# single requirements


def checkpoint_requirement(checkpoint: Checkpoint) -> UnmetRequirement | None:
    """Return what a checkpoint lacks; None where it is complete.

    It may lack its registration, its weights, or for an adapter a file of its folder or its base.
    """
    name = checkpoint.name
    command = f"harope-bench register {name} --weights FILE"
    if name not in registry.list_entries("checkpoints"):
        detail = f"checkpoint {name} is not registered here"
        return UnmetRequirement("checkpoint", name, detail, command)
    if not checkpoint.has_known_weights:  # an endpoint has no weights file
        return None
    path = find_weights_path(checkpoint)
    if not path.is_file():
        detail = f"weights {path} of checkpoint {name} are missing"
        return UnmetRequirement("checkpoint", name, detail, command)
    if path.name != lora_manifest.MANIFEST:
        return None
    return probe_requirement("checkpoint", name, lambda: check_manifest(path, checkpoint), command)


def backbone_packages(plan: Plan) -> list[UnmetRequirement]:
    """Return the missing packages that a plan's network or autoencoder needs."""
    packages = (*NETWORK_MODULES, *load_backbone(plan.checkpoint.backbone).packages)
    if plan.settings.vae:
        packages = (*packages, "diffusers")
    return package_requirements(packages)


def captions_requirement(name: str) -> UnmetRequirement | None:
    """Return the captions of a suite if they are missing or altered."""
    return probe_requirement(
        "prompts", name, lambda: load_suite(name).requests([0]), f"harope-bench fetch {name}"
    )


def requests_requirement(plan: Plan) -> UnmetRequirement | None:
    """Return what the suite needs to make its first request; None where nothing is missing.

    Suites of prompts and of classification are left out; `prompts_requirement` checks prompts.
    """
    suite = load_suite(plan.suite)
    if isinstance(suite, PromptSuite | ClassificationSuite):
        return None
    return probe_requirement(
        "prompts",
        plan.suite,
        lambda: suite.requests([0], plan.settings),
        f"harope-bench fetch {plan.suite}",
    )


def prompts_requirement(name: str) -> UnmetRequirement | None:
    """Return the prompts of a suite if they are missing or altered."""
    return probe_requirement(
        "prompts", name, load_prompt_suite(name).prompts_source, f"harope-bench fetch {name}"
    )


def reference_requirement(name: str, judge: str) -> UnmetRequirement | None:
    """Return the reference of a suite for a judge if it is missing or altered.

    A suite without a reference for the judge gives None.
    """
    suite = load_suite(name)
    command = f"harope-bench train {name}-reference"
    if f"{name}-reference" not in registry.list_entries("recipes"):
        command = making_advice(judge, suite.resolution)
    return probe_requirement("reference", name, lambda: find_suite_reference(suite, judge), command)


def judge_requirements(choice: JudgeChoice, python: Path | None = None) -> list[UnmetRequirement]:
    """Return the missing weights and packages of a judge.

    A judge that runs in another Python needs nothing here if that Python is given.
    """
    judge = choice.judge
    if judge.runner is not None and python is not None:
        return []
    return _requirements_of_judge(choice.name, judge)


def _requirements_of_judge(name: str, judge: AnyJudge) -> list[UnmetRequirement]:
    """Return the missing weights and packages of a judge that runs with this Python."""
    missing = package_requirements(judge.packages)
    weights = probe_requirement("judge", name, judge.weights_sha256, "reinstall harope-bench")
    if weights is not None:
        missing.insert(0, weights._replace(is_blocking=judge.runner is None))
    return missing


def package_requirements(modules: Iterable[str]) -> list[UnmetRequirement]:
    """Return the extras that install the missing ones of these packages."""
    requirements = []
    needed_modules = set(modules)
    for extra_name in EXTRAS:
        if absent_modules := missing_modules(extra_name, needed_modules):
            detail = missing_text(absent_modules)
            command = install_command(extra_name)
            requirements.append(UnmetRequirement("extra", extra_name, detail, command))
    return requirements


def extra_requirement(extra_name: str) -> UnmetRequirement | None:
    """Return an extra if any of its packages is not installed."""
    requirements = package_requirements(EXTRAS[extra_name])
    return next((item for item in requirements if item.name == extra_name), None)
