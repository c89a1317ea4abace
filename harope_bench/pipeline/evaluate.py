"""From samples to results with evaluators of features.

Suites, judges and evaluators are called by name; this module knows no metric and no model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from harope_bench.core.device import require_device
from harope_bench.core.errors import OptionError, SampleError, TooManyImagesError
from harope_bench.core.provenance import make_provenance, utc_now
from harope_bench.core.schema import ImageSource, Plan, Result, ResultWarning, make_warnings
from harope_bench.data.adm_npz import array_names, images_shape
from harope_bench.data.image_io import wrong_suffixes_text
from harope_bench.data.result_paths import result_path
from harope_bench.data.result_store import (
    EvaluatedResult,
    ResultMethod,
    build_result,
    check_results_belong,
    find_current_result,
    make_subject,
    write_result,
)
from harope_bench.data.run_folder import FEATURES_FOLDER, RunFolder
from harope_bench.data.sample_set import SampleSet, open_samples
from harope_bench.evaluators.base import FeatureEvaluator
from harope_bench.judges.base import load_feature_extractor, open_judge
from harope_bench.pipeline.chosen_judges import load_evaluator_of_suite, missing_judge_error
from harope_bench.pipeline.extract_features import (
    ExtractedFeatures,
    extract_features,
    find_extractor_record,
    judge_error_rates,
)
from harope_bench.pipeline.reference_stats import (
    LoadedReference,
    ReferenceExtraction,
    open_reference,
)
from harope_bench.pipeline.stored_requests import check_stored_requests
from harope_bench.pipeline.workers import current_executor
from harope_bench.suites.base import LabelSuite, PromptSuite, Suite, load_suite
from harope_bench.suites.official_layouts.prompt_folder import (
    PromptFolderOptions,
    open_prompt_images,
)


@dataclass(frozen=True)
class FeatureScoring:
    """How a sample set is scored.

    Attributes:
        reference: An .npz file instead of the suite's reference.
        is_rescored: Only stored features are used; no judge is loaded.
        profile: Profile of the evaluators. None selects the suite's.
        judge: Feature extractor. None selects the suite's.
        subset: Seed of a random choice of images. None selects the first ones.
        folder_options: How the files of an image folder match prompts.
    """

    suite: str
    reference: Path | None = None
    rules: Literal["official", "corrected"] = "official"
    is_rescored: bool = False
    device: str = "cpu"
    profile: str | None = None
    judge: str | None = None
    subset: int | None = None
    folder_options: PromptFolderOptions = field(default_factory=PromptFolderOptions)


class EvaluatorProfile(NamedTuple):
    """An evaluator in one profile, with its judge.

    Attributes:
        judge: The feature extractor whose features the evaluator reads.
        suffix: What the name of the result's file has after the evaluator's name.
    """

    name: str
    evaluator: FeatureEvaluator
    judge: str
    suffix: str


class ScoringJob(NamedTuple):
    """An evaluator in one profile, and the reference that it compares with."""

    evaluator_profile: EvaluatorProfile
    reference: LoadedReference


def evaluate(
    target: Path,
    out: Path,
    scoring: FeatureScoring,
    evaluators: Sequence[str] | None = None,
    count: int | None = None,
) -> list[EvaluatedResult]:
    """Score a sample set with each evaluator; write results and features below `out`.

    A stored result of the same images, judge, reference and evaluator version is up to date and
    is not computed again, unless `scoring.is_rescored`.

    Args:
        evaluators: Names of evaluators. None selects the suite's.
        count: Number of samples; None selects all. The folder options decide between the first
            samples and a random choice. If `out` is the run folder, it must be None or all.

    Raises:
        SampleError: Images are missing, corrupt or altered.
        UnknownNameError: A suite, judge or evaluator does not exist.
        PlanMismatchError: `out` holds results of other images.
        OptionError: The rules, profile or judge do not apply.
        TooManyImagesError: The target holds more images than the suite is scored on.
    """
    return evaluate_profiles(target, out, (scoring,), evaluators, count)


def evaluate_profiles(
    target: Path,
    out: Path,
    scorings: Sequence[FeatureScoring],
    evaluators: Sequence[str] | None = None,
    count: int | None = None,
) -> list[EvaluatedResult]:
    """Score a sample set in several profiles, like `evaluate`.

    All profiles, references and stored results are checked before the first image is read.

    Args:
        scorings: At least one; they differ in their profile only.
        count: Number of the first samples to score. None scores all.
    """
    return [score() for score in extract_then_score(target, out, scorings, evaluators, count)]


def extract_then_score(
    target: Path,
    out: Path,
    scorings: Sequence[FeatureScoring],
    evaluators: Sequence[str] | None = None,
    count: int | None = None,
) -> Iterator[Callable[[], EvaluatedResult]]:
    """Yield, for each evaluator, the function that computes and writes its result.

    Its features are extracted before. The function needs no network and no device, so another
    thread may call it. Arguments and errors: `evaluate_profiles`.
    """
    scoring = scorings[0]
    suite = load_suite(scoring.suite)
    evaluator_profiles = _resolve_profiles(suite, scorings, evaluators)
    samples = select_samples(target, scoring, count)
    check_run_suite(target, samples, scoring.suite)
    check_whole_run(target, out, count)

    notes = image_notes(samples, suite, scoring.suite, scoring.reference)
    jobs = [
        ScoringJob(profile, _open_reference(suite, profile.judge, scoring, out, samples.shape))
        for profile in evaluator_profiles
    ]
    check_results_belong(out, samples)
    source = make_source(
        target, out, scoring.suite, samples.plan, scoring.folder_options, count, scoring.subset
    )
    for job in jobs:
        yield _extract_for_score(samples, job, out, scoring, notes, source)


def check_run_suite(target: Path, samples: SampleSet, suite: str) -> None:
    """Raise OptionError if a run was generated for another suite.

    Raises:
        PlanMismatchError: The suite requests other labels or prompts now than were generated.
    """
    if samples.plan is None:
        return
    if samples.plan.suite != suite:
        raise OptionError(
            f"{target} was generated for suite {samples.plan.suite}, not for {suite}; leave"
            " --suite out"
        )
    check_stored_requests(samples.plan, samples.path, RunFolder(samples.path).read_records())


def check_whole_run(target: Path, out: Path, count: int | None) -> None:
    """Raise OptionError if only the first `count` samples would be scored in a run's own folder."""
    if count is None or out != target:
        return
    n_requested = len(RunFolder(out).requested_indices())
    if n_requested > count:
        raise OptionError(
            f"{out} was asked for {n_requested:,} samples, --count {count:,} would score a part;"
            " leave --count out or give another --out"
        )


def check_feature_scoring(
    out: Path,
    scorings: Sequence[FeatureScoring],
    evaluators: Sequence[str] | None = None,
    count: int | None = None,
) -> None:
    """Check everything that `evaluate_profiles` needs except the samples.

    It is called before a checkpoint generates images.

    Raises:
        WeightsError: The judge's weights are missing, altered or do not fit.
        BenchError: An error of `evaluate_profiles` that does not depend on the samples.
    """
    scoring = scorings[0]
    suite = load_suite(scoring.suite)
    evaluator_profiles = _resolve_profiles(suite, scorings, evaluators)
    if scoring.subset is not None and count is None:
        raise OptionError(
            "--subset chooses --count images, and no --count is given; give one, or leave"
            " --subset out"
        )
    if count is not None and suite.has_exact_count and count > suite.count:
        raise TooManyImagesError(
            f"{scoring.suite} is scored on {suite.count:,} images, --count asks for {count:,}; give"
            f" --count {suite.count}"
        )

    judges = list(dict.fromkeys(profile.judge for profile in evaluator_profiles))
    if not scoring.is_rescored:
        for judge in judges:
            open_judge(judge, load_feature_extractor(judge), scoring.device)
    for judge in judges:
        _open_reference(suite, judge, scoring, out)


def _resolve_profiles(
    suite: Suite, scorings: Sequence[FeatureScoring], evaluators: Sequence[str] | None
) -> list[EvaluatorProfile]:
    """Return every evaluator in every profile."""
    require_device(scorings[0].device)
    return [
        resolve_profile(suite, name, scoring)
        for scoring in scorings
        for name in evaluators or suite.evaluators
    ]


def _open_reference(
    suite: Suite,
    judge: str,
    scoring: FeatureScoring,
    out: Path,
    shape: tuple[int, ...] | None = None,
) -> LoadedReference:
    """Open the suite's reference for a judge, or the file that the user gives.

    Args:
        shape: Shape of the samples (H, W, 3), if they are known.
    """
    extraction = reference_extraction(out, judge, scoring)
    return open_reference(suite, judge, scoring.reference, extraction, shape)


def reference_extraction(out: Path, judge: str, scoring: FeatureScoring) -> ReferenceExtraction:
    """Return how the features of a reference are extracted.

    When rescoring, they must be of the judge whose features of the samples are stored; its weights
    may be missing.
    """
    extractor_record = None
    if scoring.is_rescored:
        folder = out / FEATURES_FOLDER / judge
        extractor_record = find_extractor_record(judge, folder, rescore=True).record
    return ReferenceExtraction(scoring.device, scoring.is_rescored, extractor_record)


# --------------------------------------------------------------------------------------- the images


def select_samples(target: Path, scoring: FeatureScoring, count: int | None) -> SampleSet:
    """Return the images to score: all, the first `count`, or a random choice of `count`."""
    if scoring.subset is None:
        return _open_images(target, scoring, count)
    samples = _open_images(target, scoring)
    n_images = len(samples.indices)
    if count is None or count > n_images:
        raise OptionError(
            f"--subset chooses --count images of {target}, which holds {n_images:,}; give a"
            " --count up to that"
        )
    return samples.random_subset(count, scoring.subset)


def _open_images(target: Path, scoring: FeatureScoring, count: int | None = None) -> SampleSet:
    """Open the images of a target.

    Images of prompts get the suite's indices, so that all evaluators score the same set. `count`
    opens the first images only.
    """
    suite = load_suite(scoring.suite)
    if isinstance(suite, PromptSuite):
        return open_prompt_images(target, scoring.suite, suite, count, scoring.folder_options)
    if scoring.folder_options.stated_options:
        raise OptionError(
            f"suite {scoring.suite} has no prompts to match images with; leave"
            f" {' and '.join(scoring.folder_options.stated_options)} out"
        )
    return open_samples(target, count)


def image_notes(
    samples: SampleSet, suite: Suite, name: str, reference: Path | None = None
) -> tuple[str, ...]:
    """Return the warnings about number, size and prompts of the images.

    Args:
        name: Name of the suite.
        reference: The file that the user gives instead of the suite's reference.

    Raises:
        TooManyImagesError, SampleError: See `count_notes` and `size_notes`.
    """
    return (
        *count_notes(samples, suite, name),
        *size_notes(samples, suite, name, reference),
        *repeated_prompts_notes(samples, suite),
    )


def repeated_prompts_notes(samples: SampleSet, suite: Suite) -> tuple[str, ...]:
    """Return a warning if several images have one prompt; their features are not independent."""
    if not isinstance(suite, PromptSuite):
        return ()
    n_images = len(samples.indices)
    n_prompts = len({i % (suite.count // suite.copies) for i in samples.indices})
    if n_prompts == n_images:
        return ()
    return (
        f"prompts: {n_images:,} images of {n_prompts:,} prompts count as independent samples;"
        " standard errors are too small if images of one prompt are alike",
    )


def count_notes(samples: SampleSet, suite: Suite, name: str) -> tuple[str, ...]:
    """Return a warning if the protocol states the number of images and there are fewer.

    Raises:
        TooManyImagesError: The target holds more images than the protocol states.
        SampleError: The format of a file is not that of its name.
    """
    if not suite.has_exact_count:
        return ()
    n_images = len(samples.indices)
    misnamed_text = None if samples.files is None else wrong_suffixes_text(samples.files.values())
    if misnamed_text:
        raise SampleError(
            f"{samples.path}: {misnamed_text}; {name} is scored on lossless images, save them as"
            " PNG with the ending .png"
        )
    if n_images > suite.count:
        raise TooManyImagesError(
            f"{samples.path} holds {n_images:,} images, {name} is scored on {suite.count:,};"
            f" --count {suite.count} takes the first, --count {suite.count} --subset 0 a random"
            " choice"
        )
    if n_images == suite.count:
        return ()
    return (
        f"images: {n_images:,}, the protocol of {name} asks for {suite.count:,}; FID rises as"
        " images get fewer",
    )


def size_notes(
    samples: SampleSet, suite: Suite, name: str, reference: Path | None = None
) -> tuple[str, ...]:
    """Return a warning if the images do not have the suite's resolution.

    If the protocol does not state the number of images, the resolution of the run's plan is
    accepted too.

    Raises:
        SampleError: The protocol states the number of images, no plan has this size, and
            `reference` does not hold images of this size.
    """
    height, width, _ = samples.shape
    side = suite.resolution
    if height == width == side:
        return ()
    plan = samples.plan
    is_planned = plan is not None and height == width == plan.settings.resolution
    if is_planned and not suite.has_exact_count:
        return ()
    if (
        suite.has_exact_count
        and not is_planned
        and not _has_images_of_shape(reference, samples.shape)
    ):
        raise SampleError(
            f"{samples.path} holds images of {width}x{height}, {name} is scored at {side}x{side};"
            " give the suite of that size, or a --reference with images of it"
        )
    return (f"images: {width}x{height}, the protocol of {name} is for {side}x{side}",)


def _has_images_of_shape(reference: Path | None, shape: tuple[int, ...]) -> bool:
    """Return whether a reference file holds images (arr_0) of a shape (H, W, 3)."""
    if not reference or "arr_0" not in array_names(reference):
        return False
    return images_shape(reference, is_reference=True)[1:] == shape


# ------------------------------------------------------------------------------------ the evaluator


def resolve_profile(suite: Suite, name: str, scoring: FeatureScoring) -> EvaluatorProfile:
    """Return an evaluator in the requested profile, with its judge.

    Raises:
        OptionError: The suite or the evaluator does not have the rules, profile or judge.
    """
    evaluator = load_evaluator_of_suite(suite, scoring.suite, name)
    if name not in suite.judges and scoring.judge is None:
        raise missing_judge_error(scoring.suite, name, evaluator)
    if scoring.rules not in evaluator.rules:
        raise OptionError(
            f"evaluator {name} has {', '.join(evaluator.rules)} rules, not {scoring.rules}; leave"
            " --rules out"
        )

    suite_profile = suite.profiles.get(name, evaluator.profile)
    profile = scoring.profile or suite_profile
    if profile not in evaluator.profiles:
        raise OptionError(
            f"evaluator {name} has no profile {profile!r}; choose one of"
            f" {', '.join(evaluator.profiles)}"
        )
    suite_judge = _suite_judge(suite, name, evaluator, profile)
    if scoring.judge is None and suite_judge is None:
        raise OptionError(
            f"profile {profile} needs a judge of its own, suite {scoring.suite} has none; give"
            " --judge"
        )
    if scoring.judge is not None and "=" in scoring.judge:
        rejection = f"evaluator {name} takes no annotators"
        if isinstance(suite, LabelSuite):
            rejection = f"suite {scoring.suite} has labels and takes no annotators"
        example = f", such as {suite_judge}" if suite_judge else " of `list judges`"
        raise OptionError(
            f"--judge {scoring.judge} assigns an annotator to a role, but {rejection}; give a"
            f" feature extractor{example}"
        )
    judge = scoring.judge or str(suite_judge)
    load_feature_extractor(judge)

    # A result of another profile or judge has a file of its own.
    profile_suffix = "" if profile == suite_profile else f"_{profile}"
    judge_suffix = "" if judge == suite_judge else f"_{judge}"
    if profile != evaluator.profile:
        evaluator = evaluator.with_profile(profile)
    return EvaluatorProfile(name, evaluator, judge, profile_suffix + judge_suffix)


def _suite_judge(
    suite: Suite, name: str, evaluator: FeatureEvaluator, profile: str
) -> str | Mapping[str, str] | None:
    """Return the suite's judge for an evaluator's profile; None if the suite has none.

    A suite names a profile's judge by the key EVALUATOR/PROFILE.
    """
    profile_key = f"{name}/{profile}"
    if profile_key in suite.judges or profile in evaluator.profiles_with_own_judge:
        return suite.judges.get(profile_key)
    return suite.judges.get(name)


def _extract_for_score(
    samples: SampleSet,
    job: ScoringJob,
    out: Path,
    scoring: FeatureScoring,
    notes: tuple[str, ...],
    source: ImageSource | None,
) -> Callable[[], EvaluatedResult]:
    """Extract features; return the function that evaluates them and writes the result.

    Args:
        notes: Warnings about the images.
    """
    start_time = utc_now()
    profile = job.evaluator_profile
    extraction = extract_features(
        samples,
        profile.judge,
        out / FEATURES_FOLDER / profile.judge,
        scoring.device,
        scoring.is_rescored,
    )
    return partial(_score, samples, job, out, scoring, notes, source, extraction, start_time)


def _score(
    samples: SampleSet,
    job: ScoringJob,
    out: Path,
    scoring: FeatureScoring,
    notes: tuple[str, ...],
    source: ImageSource | None,
    extraction: ExtractedFeatures,
    start_time: str,
) -> EvaluatedResult:
    """Evaluate features and write the result; return a result that is up to date."""
    profile = job.evaluator_profile
    reference = job.reference
    reference_sha256 = None if scoring.reference is None else reference.sha256
    path = result_path(out, result_name(profile, scoring.rules, reference_sha256))
    subject = make_subject(samples, scoring.suite, source)
    method = ResultMethod(
        profile.name,
        profile.evaluator,
        extraction.judge,
        reference.name,
        reference.sha256,
        scoring.rules,
    )
    if not scoring.is_rescored:
        current_result = find_current_result(path, subject, method)
        if current_result is not None:
            return EvaluatedResult(current_result, path, is_new=False)

    features = extraction.features.for_evaluator(profile.name, profile.judge)
    output = profile.evaluator.evaluate(features, reference.arrays)
    result = build_result(
        path,
        subject,
        method,
        output,
        make_provenance(
            start_time, scoring.device, {**extraction.flags, **current_executor().provenance()}
        ),
        (
            *warnings_before(samples, notes, extraction, reference),
            *make_warnings("devices", current_executor().device_warnings()),
        ),
        judge_error_rates([extraction.judge]),
    )
    arrays = {**output.per_sample, "indices": extraction.features.indices}
    return EvaluatedResult(write_result(path, result, arrays), path, is_new=True)


def warnings_before(
    samples: SampleSet,
    notes: Sequence[str],
    extraction: ExtractedFeatures,
    reference: LoadedReference,
) -> tuple[ResultWarning, ...]:
    """Return the warnings about images, judge and reference; those of the evaluator follow them.

    Args:
        notes: The warnings of `image_notes`.
    """
    return (
        *make_warnings("images", samples.warnings),
        *make_warnings("protocol", notes),
        *extraction.warnings,
        *make_warnings("reference", reference.warnings),
    )


# --------------------------------------------------------------------------- the record of a result


def make_source(
    target: Path,
    out: Path,
    suite: str,
    plan: Plan | None = None,
    folder_options: PromptFolderOptions | None = None,
    count: int | None = None,
    subset: int | None = None,
) -> ImageSource | None:
    """Return where the images are and the options they were read with.

    Paths are relative to `out`; `count` is how many first images were read.
    The result is None for a run that is scored in its own folder.
    """
    if out.resolve() == target.resolve() and plan is not None:
        return None
    folder_options = folder_options or PromptFolderOptions()
    file_list = folder_options.file_list
    return ImageSource.model_validate(
        {
            "suite": suite,
            "path": _relative_path(out, target),
            "count": count,
            "subset_seed": subset,
            "order": folder_options.order,
            "pattern": folder_options.pattern,
            "file_list": None if file_list is None else _relative_path(out, file_list),
            "side": folder_options.side,
            "tiles": folder_options.tiles,
        }
    )


def _relative_path(folder: Path, path: Path) -> str:
    """Return a path relative to a folder, with forward slashes."""
    absolute_folder = folder.resolve()
    absolute_path = path.resolve()
    try:
        return Path(os.path.relpath(absolute_path, absolute_folder)).as_posix()
    except ValueError:  # another drive of Windows
        return absolute_path.as_posix()


def folder_options_of(
    source: ImageSource | None, folder: Path, images: Path | None = None
) -> PromptFolderOptions:
    """Return the options with which the images of a result were read.

    Args:
        source: The source in the result.
        folder: Run folder of the result.
        images: Folder of the images now. A file list that is not at its stored path is read from
            there.
    """
    if source is None:
        return PromptFolderOptions()
    file_list = None if source.file_list is None else folder / source.file_list
    if file_list is not None and not file_list.exists() and images is not None:
        file_list = images / file_list.name
    return PromptFolderOptions(source.order, source.pattern, file_list, source.side, source.tiles)


def result_name(
    evaluator_profile: EvaluatorProfile, rules: str, reference_sha256: str | None = None
) -> str:
    """Return the name of a result file without `.json`.

    Args:
        reference_sha256: sha256 of the user's reference; None for the suite's own.
    """
    rules_suffix = "" if rules == "official" else f"_{rules}"
    reference_suffix = "" if reference_sha256 is None else f"_ref-{reference_sha256[:8]}"
    return f"{evaluator_profile.name}{evaluator_profile.suffix}{rules_suffix}{reference_suffix}"


def is_same_result(a: Result, b: Result) -> bool:
    """Return whether two results are equal apart from their provenance."""
    return a.model_copy(update={"provenance": b.provenance}) == b
