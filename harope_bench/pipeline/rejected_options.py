"""Options of `eval` that do not apply to a kind of target are rejected, before any work."""

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

# A reason, and the options that do not apply: names of `EvalOptions.conditional_options`.
_NO_CLASSIFIER = ("is no classifier", CLASSIFIER_OPTIONS)
_CLASSIFIER = ("names real pictures", ("reference", "batch", "labels", *ORDER_OPTIONS))
_NO_PROMPTS = ("asks for no prompts", PROMPT_OPTIONS)
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
    """Raise OptionError for an option that does not apply to this target, or a missing suite.

    Raises:
        OptionError: One line, with the option and what the target is.
    """
    for reason, names in REJECTED_OPTIONS[target.kind]:
        if target.suite is not None or names is not PROMPT_OPTIONS:  # they may apply to the suite
            _reject(target, reason, names, options)
    if target.kind in CHECKPOINTS or target.kind is TargetKind.OFFICIAL_RESULTS:
        return

    # Images are there already, so what would generate others is a mistake.
    if stated := options.generation.stated_options:
        state = "has its plan already" if target.kind in CLASSIFIERS else "is drawn already"
        raise OptionError(f"{target.name} {state}, {stated[0]} would change nothing; leave it out")
    if target.suite is None:
        known = ", ".join(registry.list_names("suites"))
        raise OptionError(f"{target.name} does not say its suite; add --suite, one of: {known}")
    if target.kind in RUN_FOLDERS and target.plan is not None and target.suite != target.plan.suite:
        check_rescored_suite(target.name, target.plan.suite, target.suite)


def _reject(target: Target, reason: str, names: Iterable[str], options: EvalOptions) -> None:
    values = options.conditional_options()
    stated = [name for name in names if values[name] is not None]
    if stated:
        option = f"--{stated[0].replace('_', '-')}"
        raise OptionError(f"{target.name} {reason}, {option} means nothing to it; leave it out")
