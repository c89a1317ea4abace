"""Rejection of `eval` options that do not apply to a kind of target, before any work."""

from __future__ import annotations

from collections.abc import Iterable

from harope_bench.core import registry
from harope_bench.core.conditioning import check_rescored_suite
from harope_bench.core.errors import OptionError
from harope_bench.pipeline.eval_options import EvalOptions
from harope_bench.pipeline.target import CHECKPOINTS, CLASSIFIERS, RUN_FOLDERS, Target, TargetKind

CLASSIFIER_OPTIONS = ("images", "ground_truth", "crop_ratio")
ORDER_OPTIONS = ("order", "pattern", "file_list", "tiles")
PROMPT_OPTIONS = ("allow_missing", "judge_python", *ORDER_OPTIONS)

# A reason, and the options that do not apply for it: names of `EvalOptions.conditional_options`.
_NO_CLASSIFIER = ("is no classifier", CLASSIFIER_OPTIONS)
_CLASSIFIER = ("classifies real images", ("reference", "batch", "labels", *ORDER_OPTIONS))
_NO_PROMPTS = ("has no prompts", PROMPT_OPTIONS)
REJECTED_OPTIONS: dict[TargetKind, tuple[tuple[str, tuple[str, ...]], ...]] = {
    TargetKind.CHECKPOINT: (_NO_CLASSIFIER, _NO_PROMPTS),
    TargetKind.PROMPT_CHECKPOINT: (_NO_CLASSIFIER, ("is no folder of images", ORDER_OPTIONS)),
    TargetKind.CLASSIFIER: (_CLASSIFIER,),
    TargetKind.RUN: (_NO_CLASSIFIER, _NO_PROMPTS),
    TargetKind.PROMPT_RUN: (_NO_CLASSIFIER,),
    TargetKind.CLASSIFIER_RUN: (_CLASSIFIER,),
    TargetKind.IMAGE_FOLDER: (_NO_CLASSIFIER, _NO_PROMPTS),
    TargetKind.PROMPT_FOLDER: (_NO_CLASSIFIER,),
    TargetKind.IMAGE_FILE: (_NO_CLASSIFIER, _NO_PROMPTS),
    TargetKind.PROMPT_FILE: (_NO_CLASSIFIER,),
    TargetKind.OFFICIAL_RESULTS: (
        _NO_CLASSIFIER,
        ("is a finished run of an official script", ORDER_OPTIONS),
    ),
}


def check_options(target: Target, options: EvalOptions) -> None:
    """Raise OptionError for an option that does not apply to this target, or a missing suite."""
    for reason, names in REJECTED_OPTIONS[target.kind]:
        # Without a suite, prompt options may still apply.
        if target.suite is not None or names is not PROMPT_OPTIONS:
            _reject(target, reason, names, options)
    if target.kind in CHECKPOINTS or target.kind is TargetKind.OFFICIAL_RESULTS:
        return

    # The images exist already, so options of generation have no effect.
    explicit_options = options.generation.stated_options
    if explicit_options:
        state = "has a plan" if target.kind in CLASSIFIERS else "is generated"
        raise OptionError(
            f"{target.name} {state} already, {explicit_options[0]} would have no effect; leave it"
            " out"
        )
    if target.suite is None:
        suite_names = ", ".join(registry.list_names("suites"))
        raise OptionError(
            f"{target.name} does not record its suite; add --suite, one of: {suite_names}"
        )
    if target.kind in RUN_FOLDERS and target.plan is not None and target.suite != target.plan.suite:
        check_rescored_suite(target.name, target.plan.suite, target.suite)


def _reject(target: Target, reason: str, names: Iterable[str], options: EvalOptions) -> None:
    """Raise OptionError if any of these options was given."""
    values = options.conditional_options()
    explicit_names = [name for name in names if values[name] is not None]
    if explicit_names:
        option = f"--{explicit_names[0].replace('_', '-')}"
        raise OptionError(f"{target.name} {reason}, {option} does not apply; leave it out")
