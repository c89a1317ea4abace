"""Requirements of runs that are missing, found before any work.

Requirements are checkpoints, prompts, judges, references and optional packages. `doctor` checks
everything that is registered with these functions. `eval` and `reproduce` check what their runs
need, and list everything that is missing at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from harope_bench.core import registry
from harope_bench.core.errors import (
    COMMAND_STARTS,
    BenchError,
    MissingAssetError,
    MissingExtraError,
    MissingRequirementsError,
    MissingVaeError,
    WeightsError,
)
from harope_bench.core.extras import (
    EXTRAS,
    NETWORK_MODULES,
    install_command,
    missing_modules,
    missing_text,
)
from harope_bench.core.schema import Checkpoint, Plan
from harope_bench.judges.base import JudgeChoice
from harope_bench.models import lora_manifest
from harope_bench.models.backbones.base import load_backbone
from harope_bench.models.load_checkpoint import find_weights_path
from harope_bench.models.pipeline_manifest import check_manifest
from harope_bench.pipeline.annotator_choice import AnnotatorOptions
from harope_bench.pipeline.chosen_judges import chosen_feature_extractor
from harope_bench.pipeline.evaluate import FeatureScoring, resolve_profile
from harope_bench.pipeline.evaluate_prompts import (
    PromptScoring,
    is_prompt_suite,
    select_prompt_evaluators,
)
from harope_bench.suites.base import (
    ClassificationSuite,
    PromptSuite,
    Suite,
    load_prompt_suite,
    load_suite,
)
from harope_bench.suites.suite_reference import find_suite_reference, making_advice


class UnmetRequirement(NamedTuple):
    """Something that a run needs and that is missing, and the command that provides it.

    status: broken where it exists and is altered or damaged.
    is_blocking: a run cannot start without it. An annotator that runs in another Python is not
        blocking, because it can annotate after generation.
    """

    area: str
    name: str
    detail: str
    command: str
    status: Literal["missing", "broken"] = "missing"
    is_blocking: bool = True

    @property
    def text(self) -> str:
        """Return detail and command in one line without a semicolon."""
        is_command = self.command.startswith(COMMAND_STARTS)
        advice = f"run: {self.command}" if is_command else self.command
        text = f"{self.detail} - {advice}" if advice else self.detail
        return text.replace(";", ",")


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
    missing += suite_requirements([plan.suite for plan in plan_list], scoring)
    return _unique(missing)


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
    return _unique(missing)


def _scoring_requirements(
    name: str, suite: Suite, scoring: RequiredScoring
) -> list[UnmetRequirement | None]:
    """Return what the evaluators of one suite need and that is missing.

    An evaluator of prompts needs an annotator for each role. An evaluator of features needs one
    feature extractor and its reference.
    """
    missing: list[UnmetRequirement | None] = []
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
        judge_choices = [choice for e in evaluators for choice in e.judges.values()]
        for judge_choice in dict.fromkeys(judge_choices):
            missing += judge_requirements(judge_choice, scoring.python)

    feature_evaluators = [
        evaluator
        for evaluator in scoring.evaluators or suite.evaluators
        if evaluator not in prompt_evaluator_names
    ]
    judge = scoring.judge
    if is_prompt_suite(name):
        judge = chosen_feature_extractor(judge, bool(prompt_evaluator_names))
    for profile in scoring.profiles if feature_evaluators else ():
        feature_scoring = FeatureScoring(
            name, scoring.reference, scoring.rules, profile=profile, judge=judge
        )
        for evaluator in feature_evaluators:
            extractor = resolve_profile(suite, evaluator, feature_scoring).judge
            missing += judge_requirements(JudgeChoice(extractor), scoring.python)
            if not scoring.reference:
                missing.append(reference_requirement(name, extractor))
    return missing


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
    return _requirement("checkpoint", name, lambda: check_manifest(path, checkpoint), command)


def backbone_packages(plan: Plan) -> list[UnmetRequirement]:
    """Return the missing packages that a plan's network or autoencoder needs."""
    packages = (*NETWORK_MODULES, *load_backbone(plan.checkpoint.backbone).packages)
    if plan.settings.vae:
        packages = (*packages, "diffusers")
    return package_requirements(packages)


def requests_requirement(plan: Plan) -> UnmetRequirement | None:
    """Return what the suite needs to make its first request; None where nothing is missing.

    Suites of prompts and of classification are left out; `prompts_requirement` checks prompts.
    """
    suite = load_suite(plan.suite)
    if isinstance(suite, PromptSuite | ClassificationSuite):
        return None
    return _requirement(
        "prompts",
        plan.suite,
        lambda: suite.requests([0], plan.settings),
        f"harope-bench fetch {plan.suite}",
    )


def prompts_requirement(name: str) -> UnmetRequirement | None:
    """Return the prompts of a suite if they are missing or altered."""
    return _requirement(
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
    return _requirement("reference", name, lambda: find_suite_reference(suite, judge), command)


def judge_requirements(choice: JudgeChoice, python: Path | None = None) -> list[UnmetRequirement]:
    """Return the missing weights and packages of a judge.

    A judge that runs in another Python needs nothing here if that Python is given.
    """
    judge = choice.judge
    is_external = judge.runner is not None
    if is_external and python is not None:
        return []
    missing = package_requirements(judge.packages)
    weights = _requirement("judge", choice.name, judge.weights_sha256, "reinstall harope-bench")
    if weights is not None:
        missing.insert(0, weights._replace(is_blocking=not is_external))
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


def _requirement(
    area: str, name: str, probe: Callable[[], object], command: str
) -> UnmetRequirement | None:
    """Return the requirement for the error that a probe raises; None where it raises none.

    Advice of the error takes precedence over `command`.
    """
    try:
        probe()
    except MissingExtraError as error:
        return _requirement_of_error("extra", name, error, command, "missing")
    except MissingAssetError as error:
        return _requirement_of_error(area, name, error, command, "missing")
    except BenchError as error:
        return _requirement_of_error(area, name, error, command, "broken")
    return None


def _requirement_of_error(
    area: str, name: str, error: BenchError, command: str, status: Literal["missing", "broken"]
) -> UnmetRequirement:
    return UnmetRequirement(area, name, error.detail, error.advice or command, status)


# ------------------------------------------------------------------------------------------------
# errors about all missing requirements


def plan_or_requirement(make: Callable[[], Plan]) -> Plan | UnmetRequirement:
    """Return the plan, or what is missing to make it: a base, an autoencoder, a package.

    Raises:
        OptionError, UnknownNameError: The plan itself is wrong.
    """
    try:
        return make()
    except MissingExtraError as error:
        return _requirement_of_error("extra", "plan", error, command="", status="missing")
    except (WeightsError, MissingVaeError) as error:
        return _requirement_of_error("checkpoint", "plan", error, command="", status="missing")


def blocking_requirements(missing: Iterable[UnmetRequirement]) -> list[UnmetRequirement]:
    """Return the requirements without which no run can start."""
    return [requirement for requirement in missing if requirement.is_blocking]


def raise_missing(missing: Sequence[UnmetRequirement]) -> None:
    """Raise one error about all missing requirements, if any keeps a run from starting.

    Raises:
        MissingRequirementsError: One line with the count, and the command of each requirement.
    """
    requirements = _unique(missing)
    if not blocking_requirements(requirements):
        return
    if len(requirements) == 1:
        raise MissingRequirementsError(requirements[0].detail, requirements[0].command)
    texts = "; ".join(
        f"({number}) {requirement.text}" for number, requirement in enumerate(requirements, 1)
    )
    raise MissingRequirementsError(f"{len(requirements)} requirements are not met: {texts}")


def _unique(missing: Iterable[UnmetRequirement | None]) -> list[UnmetRequirement]:
    """Return each requirement once; two are equal in area and detail.

    Extras are equal in their command too: one installation provides all packages of an extra.
    """
    by_key: dict[tuple[str, str], UnmetRequirement] = {}
    for item in missing:
        if item is not None:
            is_install = item.area == "extra" and item.command.startswith("pip install")
            by_key.setdefault((item.area, item.command if is_install else item.detail), item)
    return list(by_key.values())
