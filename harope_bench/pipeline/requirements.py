"""What a run needs and lacks, all at once and before any work: checkpoints, prompts, judges,
references, optional packages.

`doctor` looks at everything that is registered with the same functions; `eval` and `reproduce` ask
for what their runs need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from harope_bench.core import registry
from harope_bench.core.errors import (
    BenchError,
    MissingAssetError,
    MissingExtraError,
    MissingRequirementsError,
    MissingVaeError,
    WeightsError,
)
from harope_bench.core.schema import Checkpoint, Plan
from harope_bench.judges.base import JudgeChoice
from harope_bench.models import lora_manifest
from harope_bench.models.backbones.base import load_backbone
from harope_bench.models.load_checkpoint import weights_path
from harope_bench.pipeline.annotate import AnnotatorOptions
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

EXTRAS = {"t2i": ("transformers", "diffusers", "peft"), "mmdet": ("mmdet", "mmcv")}


class Requirement(NamedTuple):
    """Something that a run lacks, and the one command that brings it.

    state: missing, or broken where it is there and altered or damaged. is_blocking: a run cannot
    start without it; a judge of another
    Python can still answer when the images are drawn.
    """

    area: str
    name: str
    detail: str
    command: str
    status: Literal["missing", "broken"] = "missing"
    is_blocking: bool = True

    @property
    def text(self) -> str:
        """Return what lacks and the command in one line without a semicolon."""
        return (
            f"{self.detail}, {self.command}".replace(";", ",")
            if self.command
            else self.detail.replace(";", ",")
        )


@dataclass(frozen=True)
class RequiredScoring:
    """How runs are to be scored: what decides which judges, references and packages they need; None
    is the suite's own.
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
) -> list[Requirement]:
    """Return everything that runs of these plans lack, each once; empty where they can start.

    Raises:
        OptionError, UnknownName: a judge, profile or evaluator that the suites do not have.
    """
    several = [plans] if isinstance(plans, Plan) else list(plans)
    lacking: list[Requirement | None] = [
        checkpoint_requirement(plan.checkpoint) for plan in several
    ]
    for plan in several:
        lacking += backbone_packages(plan)
        lacking += [requests_requirement(plan)]
    return _unique([*lacking, *suite_requirements([plan.suite for plan in several], scoring)])


def suite_requirements(
    suites: Iterable[str], scoring: RequiredScoring | None = None
) -> list[Requirement]:
    """Return the prompts, judges, references and packages that scoring images of these suites
    lacks, each once.
    """
    scoring = scoring or RequiredScoring()
    lacking: list[Requirement | None] = []
    for name in dict.fromkeys(suites):
        suite = load_suite(name)
        if isinstance(suite, ClassificationSuite):
            continue
        lacking += [prompts_requirement(name)] if is_prompt_suite(name) else []
        if not scoring.is_rescored:
            lacking += _scoring_requirements(name, suite, scoring)
    return _unique(lacking)


def _scoring_requirements(
    name: str, suite: Suite, scoring: RequiredScoring
) -> list[Requirement | None]:
    """Return what the evaluators of one suite lack: judges of each role, or one judge and its
    reference.
    """
    lacking: list[Requirement | None] = []
    on_prompts: list[str] = []
    if is_prompt_suite(name):
        marking = PromptScoring(
            name,
            scoring.rules,
            scoring.judge,
            annotator_options=AnnotatorOptions(python=scoring.python),
        )
        rules = select_prompt_evaluators(suite, marking, scoring.evaluators)
        on_prompts = [rule.name for rule in rules]
        for chosen in dict.fromkeys(chosen for rule in rules for chosen in rule.judges.values()):
            lacking += judge_requirements(chosen, scoring.python)
    others = [
        evaluator
        for evaluator in scoring.evaluators or suite.evaluators
        if evaluator not in on_prompts
    ]
    judge = None if on_prompts else scoring.judge
    for profile in scoring.profiles if others else ():
        for evaluator in others:
            chosen_way = resolve_profile(
                suite,
                evaluator,
                FeatureScoring(
                    name, scoring.reference, scoring.rules, profile=profile, judge=judge
                ),
            )
            lacking += judge_requirements(JudgeChoice(chosen_way.judge), scoring.python)
            lacking += [] if scoring.reference else [reference_requirement(name, chosen_way.judge)]
    return lacking


# -------------------------------------------------------------------------------------------- one
# thing each


def checkpoint_requirement(found: Checkpoint) -> Requirement | None:
    """Return what a registered checkpoint lacks: its weights, a file of its adapter folder, or its
    base; None where all is there.
    """
    command = f"harope-bench register {found.name} --weights FILE"
    if found.name not in registry.list_entries("checkpoints"):
        return Requirement(
            "checkpoint", found.name, f"checkpoint {found.name} is not registered here", command
        )
    path = weights_path(found)
    if not path.is_file():
        return Requirement(
            "checkpoint",
            found.name,
            f"weights {path} of checkpoint {found.name} are not there",
            command,
        )
    if path.name != lora_manifest.MANIFEST:
        return None
    return _requirement(
        "checkpoint", found.name, lambda: lora_manifest.check_adapter(path, found), command
    )


def backbone_packages(plan: Plan) -> list[Requirement]:
    """Return the packages that a plan's network, or its autoencoder, needs and that are not
    installed.
    """
    needed = load_backbone(plan.checkpoint.backbone).packages
    return package_requirements((*needed, "diffusers") if plan.settings.vae else needed)


def requests_requirement(plan: Plan) -> Requirement | None:
    """Return the prompts that a suite's first request needs; None where they are there or the suite
    has none.
    """
    suite = load_suite(plan.suite)
    if isinstance(suite, PromptSuite | ClassificationSuite):
        return None  # `prompts_requirement` looks at those of a suite of prompts
    return _requirement(
        "prompts",
        plan.suite,
        lambda: suite.requests([0], plan.settings),
        f"harope-bench fetch {plan.suite}",
    )


def prompts_requirement(name: str) -> Requirement | None:
    """Return the prompts of a suite if they are missing or altered."""
    return _requirement(
        "prompts", name, load_prompt_suite(name).prompts_source, f"harope-bench fetch {name}"
    )


def reference_requirement(name: str, judge: str) -> Requirement | None:
    """Return the reference of a suite for a judge if it is missing or altered; None also where the
    suite has none.
    """
    suite = load_suite(name)
    return _requirement(
        "reference", name, lambda: suite.reference(judge), f"harope-bench train {name}-reference"
    )


def judge_requirements(chosen: JudgeChoice, python: Path | None = None) -> list[Requirement]:
    """Return the weights and packages that a judge lacks; one of another Python lacks nothing here
    but that Python.
    """
    judge = chosen.judge
    is_elsewhere = judge.runner is not None
    if is_elsewhere and python is not None:
        return []
    weights = _requirement("judge", chosen.name, judge.weights_sha256, "reinstall harope-bench")
    found = [weights._replace(is_blocking=not is_elsewhere)] if weights else []
    return [*found, *package_requirements(judge.packages)]


def package_requirements(modules: Iterable[str]) -> list[Requirement]:
    """Return the extras that bring those of these packages which are not installed."""
    return [
        Requirement(
            "extra",
            extra,
            f"{', '.join(absent)} {'are' if len(absent) > 1 else 'is'} not installed",
            _install(extra),
        )
        for extra, brought in EXTRAS.items()
        if (
            absent := [
                module for module in brought if module in modules and find_spec(module) is None
            ]
        )
    ]


def extra_requirement(extra: str) -> Requirement | None:
    """Return an extra if any package that it brings is not installed."""
    return next(iter(r for r in package_requirements(EXTRAS[extra]) if r.name == extra), None)


def _install(extra: str) -> str:
    return f"pip install 'harope-bench[{extra}]'"


def _requirement(
    area: str, name: str, probe: Callable[[], object], command: str
) -> Requirement | None:
    """Return what a probe says is missing; what it says is damaged comes with `command` unless the
    error names one.
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
    area: str, name: str, error: BenchError, command: str, state: Literal["missing", "broken"]
) -> Requirement:
    return Requirement(area, name, error.detail, error.advice or command, state)


# --------------------------------------------------------------------------------------------------
# together


def plan_or_requirement(make: Callable[[], Plan]) -> Plan | Requirement:
    """Return the plan, or what is missing to make it: a base, an autoencoder, an optional package.

    Raises:
        OptionError, UnknownName: the plan itself is wrong.
    """
    try:
        return make()
    except MissingExtraError as error:
        return _requirement_of_error("extra", "plan", error, "", "missing")
    except (WeightsError, MissingVaeError) as error:
        return _requirement_of_error("checkpoint", "plan", error, "", "missing")


def blocking_requirements(missing: Iterable[Requirement]) -> list[Requirement]:
    """Return those without which no run can start."""
    return [requirement for requirement in missing if requirement.is_blocking]


def raise_missing(missing: Sequence[Requirement]) -> None:
    """Raise one error that names everything, if anything that is missing keeps a run from starting.

    Raises:
        MissingRequirementsError: one line, with the count and the command of each.
    """
    listed = _unique(missing)
    if not blocking_requirements(listed):
        return
    if len(listed) == 1:
        raise MissingRequirementsError(listed[0].detail, listed[0].command)
    raise MissingRequirementsError(
        f"{len(listed)} things are missing: {'; '.join(item.text for item in listed)}"
    )


def _unique(missing: Iterable[Requirement | None]) -> list[Requirement]:
    """Return each requirement once: by what it says, packages by their extra."""
    return list({(item.area, item.detail): item for item in missing if item is not None}.values())
