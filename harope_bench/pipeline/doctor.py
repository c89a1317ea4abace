"""What can run here, what is missing, and the command that brings it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from harope_bench.assets import local_files
from harope_bench.core import registry
from harope_bench.core.errors import BenchError, JudgeError, MissingAssetError, MissingExtraError
from harope_bench.core.provenance import package_version
from harope_bench.core.schema import highest_error_text
from harope_bench.core.state_dicts import check_sha256
from harope_bench.core.storage import home
from harope_bench.judges.base import (
    Judge,
    JudgeChoice,
    LoadedAnnotator,
    LoadedFeatureExtractor,
    load_judge,
    open_judge,
)
from harope_bench.models.load_checkpoint import load_checkpoint_record, weights_path
from harope_bench.pipeline import selftest
from harope_bench.pipeline.requirements import (
    EXTRAS,
    Requirement,
    checkpoint_requirement,
    extra_requirement,
    judge_requirements,
    prompts_requirement,
    reference_requirement,
)
from harope_bench.suites.base import PromptSuite, load_suite

REQUIRED_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "jinja2",
    "click",
    "matplotlib",
    "safetensors",
    "pydantic",
    "scipy",
    "pillow",
    "torch-fidelity",
    "open-clip-torch",
    "timm",
    "huggingface-hub",
)


class Finding(NamedTuple):
    """One line of the doctor: state is ok, missing (optional) or broken."""

    area: str
    name: str
    status: str
    detail: str
    fix: str


def check_installation(
    golden: bool = False, folder: Path | None = None, device: str = "cpu"
) -> list[Finding]:
    """Everything, without the network; weights and references are hashed.

    Args:
        golden: also score OpenAI's public samples where they are here (`folder`, what fetch
            brought), which takes hours on a CPU.
    """
    areas = (
        _packages,
        _extras,
        _devices,
        _checkpoints,
        _judges,
        _references,
        _self_test,
        _assets,
        _home,
    )
    found = [finding for area in areas for finding in _safely(area.__name__.strip("_"), area)]
    return [*found, *_safely("golden", lambda: _check_golden(folder, device))] if golden else found


def _check_golden(folder: Path | None, device: str) -> list[Finding]:
    states = {None: "missing", True: "ok", False: "broken"}
    return [
        Finding("golden", o.name, states[o.is_within_tolerance], o.message, o.command)
        for o in selftest.check_golden_sets(folder, device)
    ]


def _safely(name: str, area: Callable[[], list[Finding]]) -> list[Finding]:
    """What an area finds; a fault of the whole area, such as a name claimed twice, is a finding
    too.
    """
    try:
        return area()
    except BenchError as error:
        return [Finding(name, "-", "broken", str(error), "")]


def _packages() -> list[Finding]:
    found = []
    for name in REQUIRED_PACKAGES:
        installed = package_version(name)
        found.append(
            Finding(
                "package",
                name,
                "ok" if installed else "broken",
                installed or "not installed",
                "" if installed else f"pip install {name}",
            )
        )
    return found


def _extras() -> list[Finding]:
    return [
        _finding_of_requirement("extra", extra, extra_requirement(extra), "installed")
        for extra in EXTRAS
    ]


def _finding_of_requirement(
    area: str, name: str, lacking: Requirement | None, detail: str
) -> Finding:
    """Return what a run that needs this thing would be told of it."""
    if lacking is None:
        return Finding(area, name, "ok", detail, "")
    return Finding(area, name, lacking.status, lacking.detail, lacking.command)


def _devices() -> list[Finding]:
    try:
        import torch
    except ImportError as error:
        return [
            Finding(
                "device",
                "cpu",
                "broken",
                f"torch does not import: {error}",
                "pip install --force-reinstall torch",
            )
        ]
    found = [Finding("device", "cpu", "ok", f"{torch.get_num_threads()} threads", "")]
    for i in range(torch.cuda.device_count()):
        found.append(Finding("device", f"cuda:{i}", "ok", torch.cuda.get_device_name(i), ""))
    if not torch.cuda.is_available():
        found.append(
            Finding("device", "cuda", "missing", "none here; the micro scale does not need one", "")
        )
    return found


def _checkpoints() -> list[Finding]:
    return [_checkpoint(name) for name in registry.list_names("checkpoints")]


def _checkpoint(name: str) -> Finding:
    """Return what a run would lack of a checkpoint, or whether its weights are the recorded
    ones.
    """
    try:
        known = load_checkpoint_record(name)
        if lacking := checkpoint_requirement(known):
            return Finding("checkpoint", name, "broken", lacking.detail, lacking.command)
        check_sha256(weights_path(known), known.sha256)
    except BenchError as error:
        return Finding(
            "checkpoint", name, "broken", str(error), f"harope-bench register {name} --weights FILE"
        )
    return Finding(
        "checkpoint", name, "ok", f"{known.scale}, {known.backbone}, {known.encoding}", ""
    )


def _judges() -> list[Finding]:
    found = []
    for name in registry.list_names("judges"):
        judge = load_judge(name)
        if judge.needs_model:
            found.append(
                Finding(
                    "judge",
                    name,
                    "ok",
                    f"{judge.judge_class}; runs a model of yours, --judge ROLE={name}:FOLDER",
                    "",
                )
            )
            continue
        found.append(_judge(name, judge))
    return found


def _judge(name: str, judge: Judge[LoadedFeatureExtractor | LoadedAnnotator]) -> Finding:
    """Return what a run would lack of a judge, or what opening it and its self-check say."""
    if lacking := judge_requirements(JudgeChoice(name)):
        return _finding_of_requirement("judge", name, lacking[0], "")
    try:
        return Finding("judge", name, "ok", _describe_judge(name, judge), "")
    except JudgeError as error:
        return Finding("judge", name, "broken", str(error), "reinstall harope-bench and its extras")
    except (MissingAssetError, MissingExtraError) as error:
        return _missing_finding("judge", name, error)
    except BenchError as error:
        return Finding("judge", name, "broken", str(error), "reinstall harope-bench")


def _describe_judge(name: str, judge: Judge[LoadedFeatureExtractor | LoadedAnnotator]) -> str:
    """Return what is said of a judge that opens and passes its self-check; its errors are the
    caller's.
    """
    checks = [case.name for case in judge.self_checks()]
    loaded = open_judge(name, judge, "cpu")
    told = f", self-check: {', '.join(checks)}" if checks else ""
    if rates := judge.error_rates():
        told += f"; on known cases {highest_error_text(rates)}"
    return f"{judge.judge_class}, weights {loaded.weights_sha256[:12]}{told}"


def _missing_finding(area: str, name: str, error: BenchError) -> Finding:
    """Something optional that is not here: what it is, and the command that the error names."""
    return Finding(area, name, "missing", error.detail, error.advice)


def _self_test() -> list[Finding]:
    """The formulas on small synthetic sets, against values worked out another way."""
    wrong = selftest.check_formulas()
    if wrong:
        return [
            Finding(
                "self-test",
                "fidelity",
                "broken",
                "; ".join(wrong),
                "reinstall harope-bench and its numpy",
            )
        ]
    return [
        Finding(
            "self-test", "fidelity", "ok", f"{selftest.CHECKS} formulas agree with slow ones", ""
        )
    ]


def _references() -> list[Finding]:
    found = []
    for name in registry.list_names("suites"):
        suite = load_suite(name)
        if isinstance(suite, PromptSuite):
            found.append(_prompts(name, suite))
        for judge in sorted(
            {
                judge
                for key, judge in suite.judges.items()
                if isinstance(judge, str) and "/" not in key
            }
        ):  # of the suites' own profiles
            lacking = reference_requirement(name, judge)
            reference = suite.reference(judge) if lacking is None else None
            if lacking is not None or reference is not None:
                found.append(
                    _finding_of_requirement(
                        "reference",
                        name,
                        lacking,
                        f"{reference.name}, seen by {judge}" if reference else "",
                    )
                )
    return found


def _prompts(name: str, suite: PromptSuite) -> Finding:
    lacking = prompts_requirement(name)
    detail = "" if lacking else "{}, {:.12}".format(*suite.prompts_source())
    return _finding_of_requirement("prompts", name, lacking, detail)


def _assets() -> list[Finding]:
    """Return what was fetched, and what shows of each file that it is the published one."""
    found = []
    for name in registry.list_names("assets"):
        receipts = local_files.read_receipts(name)
        for file in local_files.load_asset(name).files:
            if file.name in receipts and (local_files.asset_folder(name) / file.name).is_file():
                how = (
                    ""
                    if file.is_pinned or receipts[file.name].is_from_url
                    else "; it came by --from"
                )
                found.append(
                    Finding("asset", name, "ok", f"{file.name}: {file.verification}{how}", "")
                )
    return found


def _home() -> list[Finding]:
    place = home()
    at = next(p for p in [place, *place.parents] if p.exists())
    free = shutil.disk_usage(at).free / 2**30
    return [
        Finding("disk", str(place), "ok", f"your own checkpoints go here; {free:.0f} GiB free", "")
    ]
