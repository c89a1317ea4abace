"""A target to its results: each kind of target has one function, and all that a run lacks is named before any work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from harope_bench.core import registry
from harope_bench.core.errors import OptionError, Waiting
from harope_bench.data.sample_set import Run
from harope_bench.pipeline import evaluate_prompts
from harope_bench.pipeline.classify import classify
from harope_bench.pipeline.eval_options import (
    EvalOptions,
    feature_scorings,
    options_of_runs,
    picture_selection,
    prompt_scoring,
    required_scoring,
)
from harope_bench.pipeline.evaluate import Scored, evaluate_each, ready, relabel
from harope_bench.pipeline.evaluate_prompts import brought, mark, of_prompts
from harope_bench.pipeline.generate import generate, requested_indices
from harope_bench.pipeline.rejected_options import check_options
from harope_bench.pipeline.requirements import (
    Requirement,
    missing_of_suites,
    missing_requirements,
    plan_or_requirement,
    prompts_requirement,
    raise_missing,
)
from harope_bench.pipeline.target import CHECKPOINTS, Kind, Target, plan_target, resolve
from harope_bench.suites.official_layouts.prompt_folder import is_tiled

TargetRun = tuple[Target, EvalOptions]  # one run of a target: its suite, resolution and folder


@dataclass(frozen=True)
class Evaluation:
    """The results of all runs of a target, and an error for each run whose judge has not answered yet."""

    results: tuple[Scored, ...]
    pending: tuple[Waiting, ...] = ()

    @property
    def pending_error(self) -> Waiting | None:
        """Return the error that stands for all pending runs; None where there is none."""
        if not self.pending:
            return None
        more = len(self.pending) - 1
        return Waiting(f"{self.pending[0]}{f' (and {more} more runs wait)' if more else ''}")


def evaluate_target(text: str, options: EvalOptions, suites: Sequence[str] = (), resolutions: Sequence[int] = ()) -> Evaluation:
    """Evaluate a target, once for each suite and resolution; images of a checkpoint are generated first.

    Args:
        text: Name of a checkpoint, or a path, as `resolve` takes it.
        suites, resolutions: In place of the one in `options`; several make a run each.

    Raises:
        MissingRequirementsError: What any run lacks, all at once; nothing is written.
        BenchError: A name, an option or an image is wrong. Pending answers are no error here.
    """
    scores_images(options)  # an evaluator that nobody knows is named first
    each = options_of_runs(text, options, suites, resolutions)
    runs = prepare_runs([resolve_run(text, run_options) for run_options in each])
    results: list[Scored] = []
    pending: list[Waiting] = []
    for target, run_options in runs:
        try:
            results += label_results(evaluate_run(target, run_options), options.label)
        except Waiting as error:  # the other runs are evaluated nevertheless
            pending.append(error)
    return Evaluation(tuple(results), tuple(pending))


def evaluate_run(target: Target, options: EvalOptions) -> list[Scored]:
    """Return the results of one run: the cost of its network if asked for, then those of its images."""
    costs = [measure_cost(target, options)] if network_evaluators(options) else []
    if not scores_images(options):
        return costs
    return costs + EVALUATE[target.kind](target, replace(options, evaluators=image_evaluators(options)))


def label_results(results: Sequence[Scored], label: str | None) -> list[Scored]:
    """Return the results with a label; files of finished ones are written again, not scored again."""
    if label is None:
        return list(results)
    return [replace(scored, result=relabel(scored.path, scored.result, label)) for scored in results]


# ------------------------------------------------------------------------------------ evaluators


def measures_network(evaluator: str) -> bool:
    """Return whether an evaluator looks at the network itself, not at images; UnknownName if there is none."""
    return getattr(registry.load("evaluators", evaluator), "looks_at", "images") == "network"


def network_evaluators(options: EvalOptions) -> tuple[str, ...]:
    """Return the evaluators of the network itself that are asked for."""
    return tuple(filter(measures_network, options.evaluators or ()))


def image_evaluators(options: EvalOptions) -> tuple[str, ...] | None:
    """Return the evaluators of images that are asked for; None for the suite's own."""
    names = tuple(name for name in options.evaluators or () if not measures_network(name))
    return names or None


def scores_images(options: EvalOptions) -> bool:
    """Return whether images are evaluated, not the network alone."""
    return not options.evaluators or image_evaluators(options) is not None


# ------------------------------------------------------------------------------- before any work


def resolve_run(text: str, options: EvalOptions) -> TargetRun:
    """Return the target of one run, and its options; errors as `resolve`.

    Of files that join several images, and of official results, `--resolution` is the side of an
    image and not a setting of generation.
    """
    target = resolve(text, options)
    is_joined = target.kind is Kind.PROMPT_FOLDER and is_tiled(str(target.suite))
    if is_joined or target.kind is Kind.OFFICIAL_RESULTS:
        form = replace(options.form, side=options.generation.resolution)
        generation = replace(options.generation, resolution=None)
        options = replace(options, form=form, generation=generation)
    return target, options


def prepare_runs(runs: Sequence[TargetRun]) -> list[TargetRun]:
    """Return the runs, those of checkpoints with their plans, once nothing keeps one from starting.

    Raises:
        OptionError: An option does not apply to the target, or a plan cannot be made.
        MissingRequirementsError: Everything that any run lacks.
    """
    for target, options in runs:
        if scores_images(options):
            check_options(target, options)

    prepared: list[TargetRun] = []
    missing: list[Requirement] = []
    for target, options in runs:
        planned, lacking = _plan_run(target, options)
        prepared.append((planned, options))
        missing += lacking
    raise_missing(missing)

    if len(prepared) > 1:  # the last run's judges are opened before the first run generates
        check_prompt_judges(prepared)
    return prepared


def _plan_run(target: Target, options: EvalOptions) -> tuple[Target, list[Requirement]]:
    """Return the target with its plan, if it is a checkpoint, and what the run lacks."""
    if target.kind not in CHECKPOINTS:
        return target, _missing_for_images(target, options) if scores_images(options) else []
    if target.kind is Kind.CLASSIFIER or not scores_images(options):
        return replace(target, plan=plan_target(target, options)), []

    plan = plan_or_requirement(lambda: plan_target(target, options))
    scoring = required_scoring(options, image_evaluators(options))
    if isinstance(plan, Requirement):
        suites = [target.suite] if target.suite is not None else []
        return target, [plan, *missing_of_suites(suites, scoring)]
    return replace(target, plan=plan), missing_requirements(plan, scoring)


def _missing_for_images(target: Target, options: EvalOptions) -> list[Requirement]:
    """Return the prompts and judges that images of prompts lack; if prompts are here, judges are looked for later.

    Which judges a folder needs follows from its prompts, so all of them count only without these.
    """
    suite = options.suite
    if suite is None or target.kind is Kind.CLASSIFIER_RUN or not of_prompts(suite):
        return []
    prompts = prompts_requirement(suite)
    if prompts is None:
        return []
    if target.kind is Kind.OFFICIAL_RESULTS:  # which holds the answers of its judges
        return [prompts]
    return missing_of_suites([suite], required_scoring(options, image_evaluators(options)))


def check_prompt_judges(runs: Sequence[TargetRun]) -> None:
    """Raise the error of a judge or of prompts that are missing for the checkpoint's suites of prompts."""
    checked: set[str | None] = set()
    for target, options in runs:
        if target.kind is not Kind.PROMPT_CHECKPOINT or not scores_images(options):
            continue
        if target.suite not in checked:
            scoring = prompt_scoring(options, str(target.suite))
            evaluate_prompts.ready(scoring, image_evaluators(options))
            checked.add(target.suite)


# ----------------------------------------------------------------------- one function for a kind


def score_features(target: Target, options: EvalOptions) -> list[Scored]:
    """Return the results of features of images, once for each profile.

    Images of a checkpoint are generated when everything that scores them is there.
    """
    suite, evaluators, count = str(target.suite), options.evaluators, options.count
    scorings = feature_scorings(options, suite, options.judge)
    if target.kind in CHECKPOINTS:
        ready(target.out, scorings, evaluators, count)
        generate_images(target, options)
    return evaluate_each(target.path, target.out, scorings, evaluators, count)


def score_prompts(target: Target, options: EvalOptions) -> list[Scored]:
    """Return the results of images of prompts: of evaluators of annotations, then of features."""
    suite, count = str(target.suite), options.count
    scoring = prompt_scoring(options, suite)
    is_generated = target.kind in CHECKPOINTS

    # What can fail cheaply comes before the first image is generated.
    names = evaluate_prompts.ready(scoring, options.evaluators, None if is_generated else target.path, count)
    chosen = options.evaluators or registry.load("suites", suite).evaluators
    others = [name for name in chosen if name not in names]
    if is_generated:
        generate_images(target, options)
    results = mark(target.path, target.out, scoring, names, count) if names else []
    if others:
        features = feature_scorings(options, suite, None)
        results += evaluate_each(target.path, target.out, features, others, count)
    return results


def import_results(target: Target, options: EvalOptions) -> list[Scored]:
    """Return the result of a finished run of an official script, as its own files say it."""
    result = brought(target.path, target.out, prompt_scoring(options, str(target.suite)))
    return [] if result is None else [result]


def score_classifier(target: Target, options: EvalOptions) -> list[Scored]:
    """Return the results of a classifier's answers; a run's own pictures again if no count is given."""
    assert target.plan is not None
    count = options.count
    if count is None and target.kind is Kind.CLASSIFIER_RUN:
        count = len(Run(target.path).asked())
    return list(classify(target.plan, target.out, picture_selection(options, count), options.evaluators))


def measure_cost(target: Target, options: EvalOptions) -> Scored:
    """Return the cost of a checkpoint's network, or of the one that generated a run, with its settings.

    Raises:
        OptionError: The target does not say which network generated it.
    """
    from harope_bench.analysis.cost.profile import weigh

    if target.plan is None:
        raise OptionError(f"{target.name} does not say which network drew it; give a checkpoint's name or a run folder")
    weighed = weigh(target.plan, target.out, options.count, options.batch, options.is_rescored)
    return Scored(weighed.result, weighed.path, weighed.fresh)


def generate_images(target: Target, options: EvalOptions) -> None:
    """Generate what is missing of the first `count` images of a checkpoint, or of all of its suite."""
    assert target.plan is not None
    indices = requested_indices(target.plan.suite, options.count)
    generate(target.plan, indices, target.path, options.batch)


EVALUATE: dict[Kind, Callable[[Target, EvalOptions], list[Scored]]] = {
    Kind.CHECKPOINT: score_features,
    Kind.PROMPT_CHECKPOINT: score_prompts,
    Kind.CLASSIFIER: score_classifier,
    Kind.RUN: score_features,
    Kind.PROMPT_RUN: score_prompts,
    Kind.CLASSIFIER_RUN: score_classifier,
    Kind.IMAGE_FOLDER: score_features,
    Kind.PROMPT_FOLDER: score_prompts,
    Kind.IMAGE_FILE: score_features,
    Kind.PROMPT_FILE: score_prompts,
    Kind.OFFICIAL_RESULTS: import_results,
}
