"""The check of an installation: what works, what is missing, and the command that fixes it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from harope_bench.assets import local_files
from harope_bench.core import registry
from harope_bench.core.errors import BenchError, JudgeError, MissingAssetError, MissingExtraError
from harope_bench.core.extras import EXTRAS, install_command, is_installed
from harope_bench.core.provenance import package_version
from harope_bench.core.schema import highest_error_text
from harope_bench.core.storage import home
from harope_bench.judges.base import (
    Judge,
    JudgeChoice,
    LoadedAnnotator,
    LoadedFeatureExtractor,
    load_judge,
    open_judge,
)
from harope_bench.models.load_checkpoint import check_weights_file, load_checkpoint_record
from harope_bench.pipeline import selftest
from harope_bench.pipeline.requirements import (
    checkpoint_requirement,
    extra_requirement,
    judge_requirements,
    prompts_requirement,
    reference_requirement,
)
from harope_bench.pipeline.unmet_requirements import UnmetRequirement
from harope_bench.suites.base import PromptSuite, Suite, load_suite

REQUIRED_PACKAGES = (
    "numpy",
    "click",
    "cloup",
    "jinja2",
    "pydantic",
    "pillow",
    "tomli-w",
    "filelock",
    "tqdm",
)


class Finding(NamedTuple):
    """One line of `doctor`.

    Attributes:
        area: Kind of the object: package, extra, device, checkpoint, judge and so on.
        status: ok, missing (optional) or broken.
        fix: Command that fixes it; empty if nothing has to be fixed.
    """

    area: str
    name: str
    status: str
    detail: str
    fix: str = ""


def check_installation(
    check_golden: bool = False, folder: Path | None = None, device: str = "cpu"
) -> list[Finding]:
    """Return the findings of every area; hash weights and references, without the network.

    Args:
        check_golden: Also score the golden sets, the ADM samples that OpenAI published with their
            metrics, and compare the metrics; takes hours on a CPU.
        folder: Folder with these samples. None selects those that `fetch` downloaded.
        device: Device of the judge that scores them.
    """
    areas = dict(AREAS)
    if check_golden:
        areas["golden"] = lambda: _golden_findings(folder, device)
    return [finding for name, check in areas.items() for finding in _safe_findings(name, check)]


def _golden_findings(folder: Path | None, device: str) -> list[Finding]:
    """Return a finding for each of OpenAI's sample sets: whether it scores as published."""
    statuses = {None: "missing", True: "ok", False: "broken"}
    return [
        Finding("golden", o.name, statuses[o.is_within_tolerance], o.message, o.command)
        for o in selftest.check_golden_sets(folder, device)
    ]


def _safe_findings(area: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """Return the findings of an area; an error of the whole area is one broken finding.

    An example of such an error is a name that two plug-ins register.
    """
    try:
        return check()
    except BenchError as error:
        return [Finding(area, "-", "broken", str(error))]


def _package_findings() -> list[Finding]:
    return [_package_finding(name) for name in REQUIRED_PACKAGES]


def _package_finding(name: str) -> Finding:
    version = package_version(name)
    if not version:
        return Finding("package", name, "broken", "not installed", f"pip install {name}")
    return Finding("package", name, "ok", version)


def _extra_findings() -> list[Finding]:
    return [
        _requirement_finding("extra", name, extra_requirement(name), "installed") for name in EXTRAS
    ]


def _requirement_finding(
    area: str, name: str, unmet: UnmetRequirement | None, detail: str = ""
) -> Finding:
    """Return the unmet requirement as a finding; ok with `detail` if there is none."""
    if unmet is None:
        return Finding(area, name, "ok", detail)
    return Finding(area, name, unmet.status, unmet.detail, unmet.command)


def _device_findings() -> list[Finding]:
    if not is_installed("torch"):
        detail = "torch is not installed"
        return [Finding("device", "cpu", "missing", detail, install_command("torch"))]
    try:
        import torch
    except ImportError as error:
        detail = f"torch cannot be imported: {error}"
        return [Finding("device", "cpu", "broken", detail, "pip install --force-reinstall torch")]

    findings = [Finding("device", "cpu", "ok", f"{torch.get_num_threads()} threads")]
    for i in range(torch.cuda.device_count()):
        findings.append(Finding("device", f"cuda:{i}", "ok", torch.cuda.get_device_name(i)))
    if not torch.cuda.is_available():
        detail = "no CUDA device; the micro scale does not need one"
        findings.append(Finding("device", "cuda", "missing", detail))
    return findings


def _checkpoint_findings() -> list[Finding]:
    return [_checkpoint_finding(name) for name in registry.list_names("checkpoints")]


def _checkpoint_finding(name: str) -> Finding:
    """Return a finding on the weights of a checkpoint: whether they have the recorded hash."""
    try:
        checkpoint = load_checkpoint_record(name)
        if requirement := checkpoint_requirement(checkpoint):
            return Finding("checkpoint", name, "broken", requirement.detail, requirement.command)
        check_weights_file(checkpoint)
    except MissingExtraError as error:
        return Finding("checkpoint", name, "missing", error.detail, error.advice)
    except BenchError as error:
        fix = f"harope-bench register {name} --weights FILE"
        return Finding("checkpoint", name, "broken", str(error), fix)
    detail = f"{checkpoint.scale}, {checkpoint.backbone}, {checkpoint.encoding}"
    return Finding("checkpoint", name, "ok", detail)


def _judge_findings() -> list[Finding]:
    return [_judge_finding(name) for name in registry.list_names("judges")]


def _judge_finding(name: str) -> Finding:
    """Return a finding on a judge: whether it can be loaded and passes its self-check."""
    try:
        judge = load_judge(name)
    except MissingExtraError as error:  # a judge of another package may import torch at its top
        return Finding("judge", name, "missing", error.detail, error.advice)
    if judge.needs_model:
        detail = f"{judge.judge_class}; runs a model that you provide, --judge ROLE={name}:FOLDER"
        return Finding("judge", name, "ok", detail)
    if requirements := judge_requirements(JudgeChoice(name)):
        return _requirement_finding("judge", name, requirements[0])
    try:
        return Finding("judge", name, "ok", _describe_judge(name, judge))
    except JudgeError as error:
        return Finding("judge", name, "broken", str(error), "reinstall harope-bench and its extras")
    except (MissingAssetError, MissingExtraError) as error:
        return Finding("judge", name, "missing", error.detail, error.advice)
    except BenchError as error:
        return Finding("judge", name, "broken", str(error), "reinstall harope-bench")


def _describe_judge(name: str, judge: Judge[LoadedFeatureExtractor | LoadedAnnotator]) -> str:
    """Load a judge, which runs its self-check; return its class, weights and checks as text.

    Raises:
        BenchError: The judge cannot be loaded or fails its self-check.
    """
    checks = [case.name for case in judge.self_checks()]
    loaded_judge = open_judge(name, judge, "cpu")
    description = f"{judge.judge_class}, weights {loaded_judge.weights_sha256[:12]}"
    if checks:
        description += f", self-check: {', '.join(checks)}"
    if rates := judge.error_rates():
        description += f"; on known cases {highest_error_text(rates)}"
    return description


def _suite_findings() -> list[Finding]:
    """Return findings on the prompts and references of every suite: present, or how to get them."""
    findings = []
    for name in registry.list_names("suites"):
        suite = load_suite(name)
        if isinstance(suite, PromptSuite):
            findings.append(_prompts_finding(name, suite))
        for judge in _feature_judges(suite):
            findings += _reference_findings(name, suite, judge)
    return findings


def _feature_judges(suite: Suite) -> list[str]:
    """Return the feature extractors of a suite's own profiles, in alphabetical order.

    A key EVALUATOR/PROFILE names the judge of another profile.
    """
    judges = {
        judge for key, judge in suite.judges.items() if isinstance(judge, str) and "/" not in key
    }
    return sorted(judges)


def _reference_findings(name: str, suite: Suite, judge: str) -> list[Finding]:
    """Return a finding on a suite's reference for a judge; none if the suite has no reference."""
    requirement = reference_requirement(name, judge)
    if requirement is not None:
        return [_requirement_finding("reference", name, requirement)]
    reference = suite.reference(judge)
    if reference is None:
        return []
    return [Finding("reference", name, "ok", f"{reference.name}, features of {judge}")]


def _prompts_finding(name: str, suite: PromptSuite) -> Finding:
    requirement = prompts_requirement(name)
    if requirement is not None:
        return _requirement_finding("prompts", name, requirement)
    source, sha256 = suite.prompts_source()
    return Finding("prompts", name, "ok", f"{source}, {sha256:.12}")


def _self_test_findings() -> list[Finding]:
    """Return a finding on the metrics: whether they agree with slow reference formulas."""
    mismatches = selftest.check_formulas()
    if mismatches:
        fix = "reinstall harope-bench and its numpy"
        return [Finding("self-test", "fidelity", "broken", "; ".join(mismatches), fix)]
    detail = f"{selftest.CHECKS} formulas agree with slow reference formulas"
    return [Finding("self-test", "fidelity", "ok", detail)]


def _asset_findings() -> list[Finding]:
    """Return a finding for each fetched file: how it was compared with the published one."""
    findings = []
    for name in registry.list_names("assets"):
        receipts = local_files.read_receipts(name)
        for file in local_files.load_asset(name).files:
            is_present = (local_files.asset_folder(name) / file.name).is_file()
            if file.name not in receipts or not is_present:
                continue
            is_verifiable = file.has_known_hash or receipts[file.name].is_from_url
            origin = "" if is_verifiable else "; copied with fetch --from"
            detail = f"{file.name}: {file.verification}{origin}"
            findings.append(Finding("asset", name, "ok", detail))
    return findings


def _disk_findings() -> list[Finding]:
    """Return a finding with the free space of HAROPE_BENCH_HOME or of its nearest parent folder."""
    home_folder = home()
    existing_folder = next(p for p in [home_folder, *home_folder.parents] if p.exists())
    free_gib = shutil.disk_usage(existing_folder).free / 2**30
    detail = f"folder of your registered checkpoints; {free_gib:.0f} GiB free"
    return [Finding("disk", str(home_folder), "ok", detail)]


AREAS: dict[str, Callable[[], list[Finding]]] = {
    "packages": _package_findings,
    "extras": _extra_findings,
    "devices": _device_findings,
    "checkpoints": _checkpoint_findings,
    "judges": _judge_findings,
    "references": _suite_findings,
    "self-test": _self_test_findings,
    "assets": _asset_findings,
    "disk": _disk_findings,
}
