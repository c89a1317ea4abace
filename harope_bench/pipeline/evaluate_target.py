"""A target to its results: one function for each kind of target.

Everything that any run lacks is named before the first one works.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from harope_bench.core.errors import OptionError, PendingAnswersError
from harope_bench.data.result_store import EvaluatedResult, set_label
from harope_bench.data.run_folder import RunFolder
from harope_bench.evaluators.base import load_evaluator
from harope_bench.pipeline import evaluate_prompts
from harope_bench.pipeline.classify import classify
from harope_bench.pipeline.eval_options import (
    EvalOptions,
    feature_scorings,
    options_of_runs,
    prompt_scoring,
    real_image_selection,
    required_scoring,
)
from harope_bench.pipeline.evaluate import check_feature_scoring, evaluate_profiles
from harope_bench.pipeline.evaluate_prompts import import_official_results, is_prompt_suite
from harope_bench.pipeline.generate import generate, requested_indices
from harope_bench.pipeline.rejected_options import check_options
from harope_bench.pipeline.requirements import (
    Requirement,
    missing_requirements,
    plan_or_requirement,
    prompts_requirement,
    raise_missing,
    suite_requirements,
)
from harope_bench.pipeline.target import (
    CHECKPOINTS,
    Target,
    TargetKind,
    plan_target,
    resolve_target,
)
from harope_bench.suites.base import load_suite
from harope_bench.suites.official_layouts.prompt_folder import is_tiled

TargetRun = tuple[Target, EvalOptions]  # one run of a target: its suite, resolution and folder


@dataclass(frozen=True)
class Evaluation:
    """The results of all runs of a target, and an error for each run with pending answers."""

    results: tuple[EvaluatedResult, ...]
    pending: tuple[PendingAnswersError, ...] = ()

    @property
    def pending_error(self) -> PendingAnswersError | None:
        """Return the error that stands for all pending runs; None where there is none."""
        if not self.pending:
            return None
        more = len(self.pending) - 1
        return PendingAnswersError(
            f"{self.pending[0]}{f' (and {more} more runs wait)' if more else ''}"
        )


def evaluate_target(
    text: str, options: EvalOptions, suites: Sequence[str] = (), resolutions: Sequence[int] = ()
) -> Evaluation:
    """Evaluate a target, once for each suite and resolution; a checkpoint generates first.

    Args:
        text: Name of a checkpoint, or a path, as `resolve` takes it.
        suites, resolutions: In place of the one in `options`; several make a run each.

    Raises:
        MissingRequirementsError: What any run lacks, all at once; nothing is written.
        BenchError: A name, an option or an image is wrong. Pending answers are no error here.
    """
    has_image_evaluators(options)  # an evaluator that nobody knows is named first
    options_by_run = options_of_runs(text, options, suites, resolutions)
    runs = prepare_runs([resolve_run(text, run_options) for run_options in options_by_run])
    results: list[EvaluatedResult] = []
    pending: list[PendingAnswersError] = []
    for target, run_options in runs:
        try:
            results += label_results(evaluate_run(target, run_options), options.label)
        except PendingAnswersError as error:  # the other runs are evaluated nevertheless
            pending.append(error)
    return Evaluation(tuple(results), tuple(pending))


def evaluate_run(target: Target, options: EvalOptions) -> list[EvaluatedResult]:
    """Return the results of one run: its network's cost, if asked for, then those of its images."""
    costs = [measure_cost(target, options)] if network_evaluators(options) else []
    if not has_image_evaluators(options):
        return costs
    return costs + EVALUATE[target.kind](
        target, replace(options, evaluators=image_evaluators(options))
    )


def label_results(results: Sequence[EvaluatedResult], label: str | None) -> list[EvaluatedResult]:
    """Return the results with a label in them and in their files; nothing is scored again."""
    if label is None:
        return list(results)
    return [
        scored._replace(result=set_label(scored.path, scored.result, label)) for scored in results
    ]


# ------------------------------------------------------------------------------------ evaluators


def is_network_evaluator(evaluator: str) -> bool:
    """Return whether an evaluator looks at the network itself, not at images.

    Raises:
        UnknownName: No evaluator has this name.
    """
    return load_evaluator(evaluator).subject == "network"


def network_evaluators(options: EvalOptions) -> tuple[str, ...]:
    """Return the evaluators of the network itself that are asked for."""
    return tuple(filter(is_network_evaluator, options.evaluators or ()))


def image_evaluators(options: EvalOptions) -> tuple[str, ...] | None:
    """Return the evaluators of images that are asked for; None for the suite's own."""
    names = tuple(name for name in options.evaluators or () if not is_network_evaluator(name))
    return names or None


def has_image_evaluators(options: EvalOptions) -> bool:
    """Return whether images are evaluated, not the network alone."""
    return not options.evaluators or image_evaluators(options) is not None


# ------------------------------------------------------------------------------- before any work


def resolve_run(text: str, options: EvalOptions) -> TargetRun:
    """Return the target of one run, and its options; errors as `resolve`.

    Of files that join several images, and of official results, `--resolution` is the side of an
    image and not a setting of generation.
    """
    target = resolve_target(text, options)
    is_joined = target.kind is TargetKind.PROMPT_FOLDER and is_tiled(str(target.suite))
    if is_joined or target.kind is TargetKind.OFFICIAL_RESULTS:
        form = replace(options.folder_options, side=options.generation.resolution)
        generation = replace(options.generation, resolution=None)
        options = replace(options, folder_options=form, generation=generation)
    return target, options


def prepare_runs(runs: Sequence[TargetRun]) -> list[TargetRun]:
    """Return the runs, with the plans of checkpoints, once nothing keeps one from starting.

    Raises:
        OptionError: An option does not apply to the target, or a plan cannot be made.
        MissingRequirementsError: Everything that any run lacks.
    """
    planned_runs: list[TargetRun] = []
    missing: list[Requirement] = []
    for target, options in runs:
        planned_target, requirements = _plan_run(target, options)
        planned_runs.append((planned_target, options))
        missing += requirements
    raise_missing(missing)
    for target, options in planned_runs:
        if has_image_evaluators(options):
            check_options(target, options)

    if len(planned_runs) > 1:  # judges of the last run are looked for before the first generates
        check_prompt_judges(planned_runs)
    return planned_runs


def _plan_run(target: Target, options: EvalOptions) -> tuple[Target, list[Requirement]]:
    """Return the target with its plan, if it is a checkpoint, and what the run lacks."""
    if target.kind not in CHECKPOINTS:
        return target, _missing_for_images(target, options) if has_image_evaluators(options) else []
    if not has_image_evaluators(options):
        return replace(target, plan=plan_target(target, options)), []
    if target.kind is TargetKind.CLASSIFIER:
        check_options(target, options)  # its plan would name a setting's reason, not the option
        return replace(target, plan=plan_target(target, options)), []

    plan = plan_or_requirement(lambda: plan_target(target, options))
    scoring = required_scoring(options, image_evaluators(options))
    if isinstance(plan, Requirement):
        suites = [target.suite] if target.suite is not None else []
        return target, [plan, *suite_requirements(suites, scoring)]
    return replace(target, plan=plan), missing_requirements(plan, scoring)


def _missing_for_images(target: Target, options: EvalOptions) -> list[Requirement]:
    """Return the prompts and judges that images of prompts lack; nothing if prompts are here.

    Which judges a folder needs follows from its prompts, so they are looked for later.
    """
    suite = options.suite
    if suite is None or target.kind is TargetKind.CLASSIFIER_RUN or not is_prompt_suite(suite):
        return []
    prompts = prompts_requirement(suite)
    if prompts is None:
        return []
    if target.kind is TargetKind.OFFICIAL_RESULTS:  # which holds the answers of its judges
        return [prompts]
    return suite_requirements([suite], required_scoring(options, image_evaluators(options)))


def check_prompt_judges(runs: Sequence[TargetRun]) -> None:
    """Raise the error of prompts or of a judge that a suite of any run lacks, once a suite."""
    checked: set[str | None] = set()
    for target, options in runs:
        if target.kind is not TargetKind.PROMPT_CHECKPOINT or not has_image_evaluators(options):
            continue
        if target.suite not in checked:
            scoring = prompt_scoring(options, str(target.suite))
            evaluate_prompts.check_prompt_scoring(scoring, image_evaluators(options))
            checked.add(target.suite)


# ----------------------------------------------------------------------- one function for a kind


def score_features(target: Target, options: EvalOptions) -> list[EvaluatedResult]:
    """Return the results of features of images, once for each profile.

    Images of a checkpoint are generated when everything that scores them is there.
    """
    suite = str(target.suite)
    evaluators = options.evaluators
    count = options.count
    scorings = feature_scorings(options, suite, options.judge)
    if target.kind in CHECKPOINTS:
        check_feature_scoring(target.out, scorings, evaluators, count)
        generate_images(target, options)
    return evaluate_profiles(target.path, target.out, scorings, evaluators, count)


def score_prompts(target: Target, options: EvalOptions) -> list[EvaluatedResult]:
    """Return the results of images of prompts: of evaluators of annotations, then of features."""
    suite = str(target.suite)
    count = options.count
    scoring = prompt_scoring(options, suite)
    is_generated = target.kind in CHECKPOINTS

    # What can fail cheaply comes before the first image is generated.
    names = evaluate_prompts.check_prompt_scoring(
        scoring, options.evaluators, None if is_generated else target.path, count
    )
    evaluators = options.evaluators or load_suite(suite).evaluators
    on_features = [name for name in evaluators if name not in names]
    if is_generated:
        generate_images(target, options)
    results = (
        evaluate_prompts.evaluate_prompts(target.path, target.out, scoring, names, count)
        if names
        else []
    )
    if on_features:
        scorings = feature_scorings(options, suite, None)
        results += evaluate_profiles(target.path, target.out, scorings, on_features, count)
    return results


def import_results(target: Target, options: EvalOptions) -> list[EvaluatedResult]:
    """Return the result of a finished run of an official script, as its own files say it."""
    result = import_official_results(
        target.path, target.out, prompt_scoring(options, str(target.suite))
    )
    return [] if result is None else [result]


def score_classifier(target: Target, options: EvalOptions) -> list[EvaluatedResult]:
    """Return the results of a classifier; of a run on as many pictures as it has, or `count`."""
    assert target.plan is not None
    count = options.count
    if count is None and target.kind is TargetKind.CLASSIFIER_RUN:
        count = len(RunFolder(target.path).requested_indices())
    return list(
        classify(target.plan, target.out, real_image_selection(options, count), options.evaluators)
    )


def measure_cost(target: Target, options: EvalOptions) -> EvaluatedResult:
    """Return the cost of a checkpoint's network, or of the one that generated a run.

    Raises:
        OptionError: The target does not say which network generated it.
    """
    from harope_bench.analysis.cost.measure_cost import measure_cost

    if target.plan is None:
        raise OptionError(
            f"{target.name} does not say which network drew it; give a checkpoint's name or a run"
            " folder"
        )
    return measure_cost(target.plan, target.out, options.count, options.batch, options.is_rescored)


def generate_images(target: Target, options: EvalOptions) -> None:
    """Generate what is missing of the first `count` images of a checkpoint, or of all."""
    assert target.plan is not None
    indices = requested_indices(target.plan.suite, options.count)
    generate(target.plan, indices, target.path, options.batch)


EVALUATE: dict[TargetKind, Callable[[Target, EvalOptions], list[EvaluatedResult]]] = {
    TargetKind.CHECKPOINT: score_features,
    TargetKind.PROMPT_CHECKPOINT: score_prompts,
    TargetKind.CLASSIFIER: score_classifier,
    TargetKind.RUN: score_features,
    TargetKind.PROMPT_RUN: score_prompts,
    TargetKind.CLASSIFIER_RUN: score_classifier,
    TargetKind.IMAGE_FOLDER: score_features,
    TargetKind.PROMPT_FOLDER: score_prompts,
    TargetKind.IMAGE_FILE: score_features,
    TargetKind.PROMPT_FILE: score_prompts,
    TargetKind.OFFICIAL_RESULTS: import_results,
}
