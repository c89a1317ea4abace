"""From the target of `eval` to its results: one function for each kind of target.

All requirements of all runs are checked before the first run starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harope_bench.core.errors import OptionError, PendingAnswersError
from harope_bench.data.result_store import EvaluatedResult, set_label
from harope_bench.data.run_claim import claim_run
from harope_bench.data.run_folder import RunFolder
from harope_bench.evaluators.base import load_evaluator
from harope_bench.pipeline import evaluate_prompts
from harope_bench.pipeline.chosen_judges import chosen_feature_extractor, without_feature_extractor
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
from harope_bench.pipeline.register_target import register_target
from harope_bench.pipeline.rejected_options import check_options
from harope_bench.pipeline.requirements import (
    missing_requirements,
    prompts_requirement,
    requirements_of_machines,
    suite_requirements,
)
from harope_bench.pipeline.target import (
    CHECKPOINTS,
    CLASSIFIERS,
    RUN_FOLDERS,
    Target,
    TargetKind,
    plan_target,
    resolve_target,
)
from harope_bench.pipeline.unmet_requirements import (
    UnmetRequirement,
    plan_or_requirement,
    raise_missing,
)
from harope_bench.suites.base import load_suite
from harope_bench.suites.official_layouts.prompt_folder import is_tiled

TargetRun = tuple[Target, EvalOptions]  # one run: target and options of one suite and resolution


@dataclass(frozen=True)
class Evaluation:
    """The results of all runs of a target.

    Attributes:
        pending: One error for each run with pending answers.
    """

    results: tuple[EvaluatedResult, ...]
    pending: tuple[PendingAnswersError, ...] = ()

    @property
    def pending_error(self) -> PendingAnswersError | None:
        """Return one error for all runs with pending answers; None if there is none."""
        if not self.pending:
            return None
        n_others = len(self.pending) - 1
        suffix = f" (and {n_others} more runs wait)" if n_others else ""
        return PendingAnswersError(f"{self.pending[0]}{suffix}")


def evaluate_target(
    text: str, options: EvalOptions, suites: Sequence[str] = (), resolutions: Sequence[int] = ()
) -> Evaluation:
    """Evaluate a target, once for each suite and resolution.

    The images of a checkpoint are generated first. Pending answers do not raise an error; they are
    part of the return value.

    Args:
        text: Name of a checkpoint, or a path.
        suites, resolutions: If empty, the suite and the resolution in `options` are used.

    Raises:
        MissingRequirementsError: Names everything that any run lacks; nothing is written.
        BenchError: A name, an option or an image is wrong.
    """
    runs = resolve_runs(text, options, suites, resolutions)
    results: list[EvaluatedResult] = []
    pending: list[PendingAnswersError] = []
    for target, run_options in runs:
        try:
            results += label_results(evaluate_run(target, run_options), options.label)
        except PendingAnswersError as error:  # does not stop the other runs
            pending.append(error)
    return Evaluation(tuple(results), tuple(pending))


def folder_of_work(text: str, out: Path | None) -> Path:
    """Return the folder that workers read images from: the target, or else the run folder."""
    path = Path(text)
    return path if path.exists() else out or Path()


def resolve_runs(
    text: str, options: EvalOptions, suites: Sequence[str], resolutions: Sequence[int]
) -> list[TargetRun]:
    """Return one checked run for each suite and resolution. Arguments, errors: `evaluate_target`.

    Nothing is written.
    """
    has_image_evaluators(options)  # raises an error if an evaluator does not exist
    options_by_run = options_of_runs(text, options, suites, resolutions)
    return prepare_runs([resolve_run(text, run_options) for run_options in options_by_run])


def evaluate_run(target: Target, options: EvalOptions) -> list[EvaluatedResult]:
    """Evaluate one run: first the cost of its network, if requested, then its images.

    Raises:
        RunBusyError: Another process writes the folder of the results.
    """
    with claim_run(target.out):
        return _evaluate_claimed_run(target, options)


def _evaluate_claimed_run(target: Target, options: EvalOptions) -> list[EvaluatedResult]:
    """Evaluate one run while no other process writes its folder."""
    if target.plan is not None and target.out == target.path and target.kind in RUN_FOLDERS:
        RunFolder(target.out).take_parts()
    cost_results = [measure_cost(target, options)] if network_evaluators(options) else []
    if not has_image_evaluators(options):
        return cost_results
    image_options = replace(options, evaluators=image_evaluators(options))
    return cost_results + EVALUATE[target.kind](target, image_options)


def label_results(results: Sequence[EvaluatedResult], label: str | None) -> list[EvaluatedResult]:
    """Write a row label to results and their files; None leaves them as they are."""
    if label is None:
        return list(results)
    return [r._replace(result=set_label(r.path, r.result, label)) for r in results]


# ------------------------------------------------------------------------------------ evaluators


def is_network_evaluator(evaluator: str) -> bool:
    """Return whether an evaluator measures the network, not images.

    Raises:
        UnknownNameError: The evaluator does not exist.
    """
    return load_evaluator(evaluator).subject == "network"


def network_evaluators(options: EvalOptions) -> tuple[str, ...]:
    """Return the requested evaluators of the network."""
    return tuple(filter(is_network_evaluator, options.evaluators or ()))


def image_evaluators(options: EvalOptions) -> tuple[str, ...] | None:
    """Return the requested evaluators of images; None for the suite's evaluators."""
    names = tuple(name for name in options.evaluators or () if not is_network_evaluator(name))
    return names or None


def has_image_evaluators(options: EvalOptions) -> bool:
    """Return whether images are evaluated, not only the network."""
    return not options.evaluators or image_evaluators(options) is not None


# --------------------------------------------------------------------- checks before the first run


def resolve_run(text: str, options: EvalOptions) -> TargetRun:
    """Resolve the target of one run; return it with its options.

    For tiled files and for official results, `--resolution` is the side of one image and not a
    setting of generation.

    Raises:
        BenchError: The text is neither a checkpoint nor a path that can be evaluated.
    """
    target = resolve_target(text, options)
    if options.suite is None and target.plan is None and target.kind not in CHECKPOINTS:
        options = replace(options, suite=target.suite)  # recognised from the layout of the files
    has_tiled_files = target.kind is TargetKind.PROMPT_FOLDER and is_tiled(str(target.suite))
    if has_tiled_files or target.kind is TargetKind.OFFICIAL_RESULTS:
        folder_options = replace(options.folder_options, side=options.generation.resolution)
        generation = replace(options.generation, resolution=None)
        options = replace(options, folder_options=folder_options, generation=generation)
    return target, options


def prepare_runs(runs: Sequence[TargetRun]) -> list[TargetRun]:
    """Plan and check all runs; return them with the plans of checkpoints.

    Raises:
        OptionError: An option does not apply to the target, or a plan cannot be made.
        MissingRequirementsError: Names everything that any run lacks.
    """
    planned_runs: list[TargetRun] = []
    all_requirements: list[UnmetRequirement] = []
    for target, options in runs:
        planned_target, requirements = _plan_run(target, options)
        planned_runs.append((planned_target, options))
        all_requirements += requirements
    raise_missing(all_requirements)
    for target, options in planned_runs:
        if has_image_evaluators(options):
            check_options(target, options)

    # The judges of the last run are checked before the first run generates images.
    if len(planned_runs) > 1:
        check_prompt_judges(planned_runs)
    return planned_runs


def _plan_run(target: Target, options: EvalOptions) -> tuple[Target, list[UnmetRequirement]]:
    """Return the target, with its plan if it is a checkpoint, and the unmet requirements.

    Weights that are not registered are registered first.
    """
    if target.weights is not None:
        has_images = has_image_evaluators(options)
        evaluators = image_evaluators(options) if has_images else None
        registered = register_target(target, options, evaluators, has_images)
        if not isinstance(registered, Target):
            return target, registered
        target = registered
    if target.kind not in CHECKPOINTS:
        if not has_image_evaluators(options):
            return target, []
        return target, [
            *_missing_for_images(target, options),
            *_missing_on_machines(target, options),
        ]
    if not has_image_evaluators(options):
        return replace(target, plan=plan_target(target, options)), []
    if target.kind is TargetKind.CLASSIFIER:
        check_options(target, options)  # its error names the option; that of the plan a setting
        target = replace(target, plan=plan_target(target, options))
        return target, _missing_on_machines(target, options)

    plan = plan_or_requirement(lambda: plan_target(target, options))
    scoring = required_scoring(options, image_evaluators(options))
    if isinstance(plan, UnmetRequirement):
        suites = [target.suite] if target.suite is not None else []
        return target, [plan, *suite_requirements(suites, scoring)]
    return replace(target, plan=plan), missing_requirements(plan, scoring)


def _missing_for_images(target: Target, options: EvalOptions) -> list[UnmetRequirement]:
    """Return the unmet requirements of images of prompts; nothing if the prompts are present.

    The judges that a folder needs depend on its prompts, so they are checked later.
    """
    suite = options.suite
    if suite is None or target.kind is TargetKind.CLASSIFIER_RUN or not is_prompt_suite(suite):
        return []
    prompts = prompts_requirement(suite)
    if prompts is None:
        return []
    if target.kind is TargetKind.OFFICIAL_RESULTS:  # these contain annotations and need no judge
        return [prompts]
    return suite_requirements([suite], required_scoring(options, image_evaluators(options)))


def _missing_on_machines(target: Target, options: EvalOptions) -> list[UnmetRequirement]:
    """Return what other machines lack to judge images, or to classify, before the first image."""
    if target.kind is TargetKind.OFFICIAL_RESULTS or target.suite is None:
        return []
    if target.kind in CLASSIFIERS:
        assert target.plan is not None
        return requirements_of_machines([target.plan.checkpoint], suites=[])
    scoring = required_scoring(options, image_evaluators(options))
    return requirements_of_machines([], [target.suite], scoring)


def check_prompt_judges(runs: Sequence[TargetRun]) -> None:
    """Check prompts and judges of the suites of all runs, each suite once.

    Raises:
        BenchError: Prompts or a judge are missing.
    """
    checked_suites: set[str | None] = set()
    for target, options in runs:
        if target.kind is not TargetKind.PROMPT_CHECKPOINT or not has_image_evaluators(options):
            continue
        if target.suite not in checked_suites:
            scoring = prompt_scoring(options, str(target.suite))
            evaluate_prompts.check_prompt_scoring(scoring, image_evaluators(options))
            checked_suites.add(target.suite)


# ----------------------------------------------------------- one function for each kind of target


def score_features(target: Target, options: EvalOptions) -> list[EvaluatedResult]:
    """Score the features of images, in each profile.

    The images of a checkpoint are generated after judge and reference have been checked.
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
    """Score images of prompts: first with evaluators of annotations, then of features."""
    suite = str(target.suite)
    count = options.count
    check_has_evaluators(suite, options)
    scoring = prompt_scoring(options, suite)
    is_generated = target.kind in CHECKPOINTS

    # Checks come before the first image is generated.
    annotation_evaluators = evaluate_prompts.check_prompt_scoring(
        scoring, options.evaluators, None if is_generated else target.path, count
    )
    evaluators = options.evaluators or load_suite(suite).evaluators
    feature_evaluators = [name for name in evaluators if name not in annotation_evaluators]
    extractor = chosen_feature_extractor(options.judge, bool(annotation_evaluators))
    scorings = feature_scorings(options, suite, extractor)
    if feature_evaluators:
        check_feature_scoring(target.out, scorings, feature_evaluators, count)
        scoring = replace(scoring, judge=without_feature_extractor(scoring.judge))
    if is_generated:
        generate_images(target, options)

    results: list[EvaluatedResult] = []
    if annotation_evaluators:
        results += evaluate_prompts.evaluate_prompts(
            target.path, target.out, scoring, annotation_evaluators, count
        )
    if feature_evaluators:
        results += evaluate_profiles(target.path, target.out, scorings, feature_evaluators, count)
    return results


def check_has_evaluators(suite: str, options: EvalOptions) -> None:
    """Raise OptionError if neither the suite nor the options name an evaluator."""
    if options.evaluators or load_suite(suite).evaluators:
        return
    raise OptionError(
        f"suite {suite} has prompts of your own and names no evaluator",
        advice="give --with NAME, such as fidelity with --judge and --reference",
    )


def import_results(target: Target, options: EvalOptions) -> list[EvaluatedResult]:
    """Import the result of a finished run of an official script; empty if it is no such run."""
    result = import_official_results(
        target.path, target.out, prompt_scoring(options, str(target.suite))
    )
    return [] if result is None else [result]


def score_classifier(target: Target, options: EvalOptions) -> list[EvaluatedResult]:
    """Classify real images and score the predictions.

    Without `count`, a stored run uses as many images as it has, and a checkpoint all of the suite.
    """
    assert target.plan is not None
    count = options.count
    if count is None and target.kind is TargetKind.CLASSIFIER_RUN:
        count = len(RunFolder(target.path).requested_indices())
    return list(
        classify(target.plan, target.out, real_image_selection(options, count), options.evaluators)
    )


def measure_cost(target: Target, options: EvalOptions) -> EvaluatedResult:
    """Measure the cost of a checkpoint's network, or of the network that generated a run.

    Raises:
        OptionError: The target does not state its network.
    """
    from harope_bench.analysis.cost.measure_cost import measure_cost

    if target.plan is None:
        raise OptionError(
            f"{target.name} does not state the network that generated it; give a checkpoint's name"
            " or a run folder"
        )
    return measure_cost(target.plan, target.out, options.count, options.batch, options.is_rescored)


def generate_images(target: Target, options: EvalOptions) -> None:
    """Generate the missing images of a checkpoint: of the first `count`, or of all."""
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
