"""Options of `eval` that do not apply to a kind of target are rejected, before any work."""

from __future__ import annotations

from collections.abc import Iterable

from harope_bench.core import registry
from harope_bench.core.conditioning import check_rescored
from harope_bench.core.errors import OptionError
from harope_bench.pipeline.eval_options import EvalOptions
from harope_bench.pipeline.target import CHECKPOINTS, CLASSIFIERS, RUN_FOLDERS, Kind, Target

PICTURES = ("images", "truth", "crop_ratio")
PLACING = ("order", "pattern", "file_list", "tiles")
OF_PROMPTS = ("allow_missing", "judge_python", *PLACING)

# A reason, and the options that do not apply: names of `EvalOptions.conditional_options`.
_NO_CLASSIFIER = ("is no classifier", PICTURES)
_CLASSIFIER = ("names real pictures", ("reference", "batch", "labels", *PLACING))
_NO_PROMPTS = ("asks for no prompts", OF_PROMPTS)
REJECTED: dict[Kind, tuple[tuple[str, tuple[str, ...]], ...]] = {
    Kind.CHECKPOINT: (_NO_CLASSIFIER, _NO_PROMPTS),
    Kind.PROMPT_CHECKPOINT: (_NO_CLASSIFIER, ("is no folder of images", PLACING)),
    Kind.CLASSIFIER: (_CLASSIFIER,),
    Kind.RUN: (_NO_CLASSIFIER, _NO_PROMPTS),
    Kind.PROMPT_RUN: (_NO_CLASSIFIER,),
    Kind.CLASSIFIER_RUN: (_CLASSIFIER,),
    Kind.IMAGE_FOLDER: (_NO_CLASSIFIER, _NO_PROMPTS),
    Kind.PROMPT_FOLDER: (_NO_CLASSIFIER,),
    Kind.IMAGE_FILE: (_NO_CLASSIFIER, _NO_PROMPTS),
    Kind.PROMPT_FILE: (_NO_CLASSIFIER,),
    Kind.OFFICIAL_RESULTS: (
        _NO_CLASSIFIER,
        ("is a finished run of an official script", PLACING),
    ),
}


def check_options(target: Target, options: EvalOptions) -> None:
    """Raise OptionError for an option that does not apply to this target, or a missing suite.

    Raises:
        OptionError: One line, with the option and what the target is.
    """
    for reason, names in REJECTED[target.kind]:
        if target.suite is not None or names is not OF_PROMPTS:  # they may apply to the suite
            _reject(target, reason, names, options)
    if target.kind in CHECKPOINTS or target.kind is Kind.OFFICIAL_RESULTS:
        return

    # Images are there already, so what would generate others is a mistake.
    if stated := options.generation.stated_options:
        state = "has its plan already" if target.kind in CLASSIFIERS else "is drawn already"
        raise OptionError(f"{target.name} {state}, {stated[0]} would change nothing; leave it out")
    if target.suite is None:
        known = ", ".join(registry.names("suites"))
        raise OptionError(f"{target.name} does not say its suite; add --suite, one of: {known}")
    if target.kind in RUN_FOLDERS and target.plan is not None and target.suite != target.plan.suite:
        check_rescored(target.name, target.plan.suite, target.suite)


def _reject(target: Target, reason: str, names: Iterable[str], options: EvalOptions) -> None:
    values = options.conditional_options()
    stated = [name for name in names if values[name] is not None]
    if stated:
        option = f"--{stated[0].replace('_', '-')}"
        raise OptionError(f"{target.name} {reason}, {option} means nothing to it; leave it out")
