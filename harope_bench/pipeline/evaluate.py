"""Sample set to results: calls judges and evaluators by name. Knows no metric and no model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from harope_bench.core import registry
from harope_bench.core.device import require_device
from harope_bench.core.errors import OptionError, SampleError, TooManyImagesError
from harope_bench.core.provenance import make_provenance, utc_now
from harope_bench.core.schema import ImageSource, Plan, Result, ResultWarning, make_warnings
from harope_bench.data.adm_npz import array_names, images_shape
from harope_bench.data.image_io import misnamed_files_text
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
from harope_bench.evaluators.base import FeatureEvaluator, load_feature_evaluator
from harope_bench.judges.base import load_feature_extractor, open_judge
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
from harope_bench.suites.base import PromptSuite, Suite, load_suite
from harope_bench.suites.official_layouts.prompt_folder import (
    PromptFolderOptions,
    open_prompt_images,
)


@dataclass(frozen=True)
class FeatureScoring:
    """How a sample set is to be scored. None takes the suite's own profile and judge; `subset` is
    the seed of a random choice.
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
    """One evaluator in the profile asked for, the judge it reads, and what its result's file is
    called beside the evaluator.
    """

    name: str
    evaluator: FeatureEvaluator
    judge: str
    suffix: str


class ScoringJob(NamedTuple):
    """A way to score, and the reference that it scores against."""

    evaluator_profile: EvaluatorProfile
    reference: LoadedReference


def evaluate(
    target: Path,
    out: Path,
    asked: FeatureScoring,
    evaluators: Sequence[str] | None = None,
    count: int | None = None,
) -> list[EvaluatedResult]:
    """Scores a sample set with each evaluator; results and observations go below `out`.

    A result of the same images, judge, reference and evaluator version is kept, unless asked to
    rescore.

    Args:
        count: only the first so many samples, or so many chosen at random. A run's own folder holds
            the score of all that was asked for.

    Raises:
        SampleError: images missing, corrupt or altered. UnknownName: a name nobody knows.
        PlanMismatch: `out` holds results of other images. OptionError: rules, a profile or a judge
            that are not there.
        TooManyImages: the suite is scored on fewer images than the target holds.
    """
    return evaluate_profiles(target, out, (asked,), evaluators, count)


def evaluate_profiles(
    target: Path,
    out: Path,
    wanted: Sequence[FeatureScoring],
    evaluators: Sequence[str] | None = None,
    count: int | None = None,
) -> list[EvaluatedResult]:
    """`evaluate` in several profiles: each is known, has its reference and may be written before
    the first image is looked at.

    Args:
        wanted: not empty; they differ in their profile alone.
    """
    asked = wanted[0]
    plugin = load_suite(wanted[0].suite)
    ways = _resolve_profiles(plugin, wanted, evaluators)
    samples = select_samples(target, asked, count)
    if samples.plan is not None and samples.plan.suite != asked.suite:
        raise OptionError(
            f"{target} was drawn for suite {samples.plan.suite}, asked for {asked.suite}; leave"
            " --suite out"
        )
    if (
        count is not None
        and out == target
        and (more := len(RunFolder(out).requested_indices())) > count
    ):
        raise OptionError(
            f"{out} was asked for {more:,} samples, --count {count:,} would score a part; leave"
            " --count out or give another --out"
        )
    told = image_notes(samples, plugin, asked.suite, asked.reference)
    jobs = [
        ScoringJob(
            chosen,
            open_reference(
                plugin,
                chosen.judge,
                asked.reference,
                reference_extraction(out, chosen.judge, asked),
                samples.shape,
            ),
        )
        for chosen in ways
    ]
    check_results_belong(out, samples)
    source = make_source(
        target, out, asked.suite, samples.plan, asked.folder_options, count, asked.subset
    )
    return [_score(samples, job, out, asked, told, source) for job in jobs]


def check_feature_scoring(
    out: Path,
    wanted: Sequence[FeatureScoring],
    evaluators: Sequence[str] | None = None,
    count: int | None = None,
) -> None:
    """`evaluate_each` as far as it needs no sample: before images are drawn, all else that it will
    need is known, opened and fits.

    Raises:
        as `evaluate_each`; WeightsError: the judge's weights are not here, altered, or of another
        network.
    """
    asked = wanted[0]
    plugin = load_suite(wanted[0].suite)
    ways = _resolve_profiles(plugin, wanted, evaluators)
    if asked.subset is not None and count is None:
        raise OptionError(
            "--subset chooses --count images, and no --count is given; give one, or leave"
            " --subset out"
        )
    if count is not None and plugin.has_exact_count and count > plugin.count:
        raise TooManyImagesError(
            f"{asked.suite} is scored on {plugin.count:,} images, --count asks for {count:,}; give"
            f" --count {plugin.count}"
        )
    for judge in () if asked.is_rescored else dict.fromkeys(chosen.judge for chosen in ways):
        open_judge(judge, load_feature_extractor(judge), asked.device)
    for judge in dict.fromkeys(chosen.judge for chosen in ways):
        open_reference(plugin, judge, asked.reference, reference_extraction(out, judge, asked))


def _resolve_profiles(
    plugin: Suite, wanted: Sequence[FeatureScoring], evaluators: Sequence[str] | None
) -> list[EvaluatorProfile]:
    require_device(wanted[0].device)
    return [
        resolve_profile(plugin, name, each)
        for each in wanted
        for name in evaluators or plugin.evaluators
    ]


def reference_extraction(out: Path, judge: str, asked: FeatureScoring) -> ReferenceExtraction:
    """How references are looked at; when rescoring by the judge that saw the samples, whose weights
    need not be here.
    """
    looked = (
        find_extractor_record(judge, out / FEATURES_FOLDER / judge, rescore=True).record
        if asked.is_rescored
        else None
    )
    return ReferenceExtraction(asked.device, asked.is_rescored, looked)


def select_samples(target: Path, asked: FeatureScoring, count: int | None) -> SampleSet:
    """The images to score: all, the first, or a random choice."""
    if asked.subset is None:
        return _open_images(target, asked, count)
    samples = _open_images(target, asked)
    if count is None or count > len(samples.indices):
        raise OptionError(
            f"--subset chooses --count images of {target}, which holds {len(samples.indices):,};"
            " give a --count up to that"
        )
    return samples.random_subset(count, asked.subset)


def _open_images(target: Path, asked: FeatureScoring, count: int | None = None) -> SampleSet:
    """Return the images of a target; those of prompts at the suite's indices, so that all
    evaluators see one set.
    """
    suite = load_suite(asked.suite)
    if isinstance(suite, PromptSuite):
        return open_prompt_images(target, asked.suite, suite, count, asked.folder_options)
    if asked.folder_options.stated_options:
        raise OptionError(
            f"suite {asked.suite} has no prompts to place images at; leave"
            f" {' and '.join(asked.folder_options.stated_options)} out"
        )
    return open_samples(target, count)


def image_notes(
    samples: SampleSet, suite: Suite, name: str, reference: Path | None = None
) -> tuple[str, ...]:
    """What a result must say of the images themselves; errors as `protocol` and `sized`."""
    return (
        *count_notes(samples, suite, name),
        *size_notes(samples, suite, name, reference),
        *repeated_prompts_notes(samples, suite),
    )


def repeated_prompts_notes(samples: SampleSet, suite: Suite) -> tuple[str, ...]:
    """What a result must say whose errors count images, where several of these were drawn from one
    prompt.
    """
    if not isinstance(suite, PromptSuite):
        return ()
    found = len(samples.indices)
    prompts = len({i % (suite.count // suite.copies) for i in samples.indices})
    told = (
        f"prompts: {found:,} images of {prompts:,} prompts count as independent draws; errors are"
        " too small where images of one prompt are alike"
    )
    return (told,) if prompts < found else ()


def count_notes(samples: SampleSet, suite: Suite, name: str) -> tuple[str, ...]:
    """What a result must say of the number of images where the suite's is exact.

    Raises:
        TooManyImages: the target holds more. SampleError: files are of another format than their
            names say.
    """
    found = len(samples.indices)
    if not suite.has_exact_count:
        return ()
    if samples.files is not None and (line := misnamed_files_text(samples.files.values())):
        raise SampleError(
            f"{samples.path}: {line}; {name} is scored on lossless images, save them as PNG and"
            " name them so"
        )
    if found == suite.count:
        return ()
    if found > suite.count:
        raise TooManyImagesError(
            f"{samples.path} holds {found:,} images, {name} is scored on {suite.count:,}; --count"
            f" {suite.count} takes the first, --count {suite.count} --subset 0 a random choice"
        )
    return (
        (
            f"images: {found:,}, the protocol of {name} asks for {suite.count:,}; FID rises as"
            " images get fewer"
        ),
    )


def size_notes(
    samples: SampleSet, suite: Suite, name: str, reference: Path | None = None
) -> tuple[str, ...]:
    """What a result must say of the images' size where it is neither the suite's nor, unless the
    protocol is exact, the plan's.

    Raises:
        SampleError: the protocol is exact, no plan asked for that size, and no `reference` is given
            that holds images of it.
    """
    height, width, _ = samples.shape
    side = suite.resolution
    planned = samples.plan is not None and height == width == samples.plan.settings.resolution
    exact = suite.has_exact_count
    if height == width == side or (planned and not exact):
        return ()
    if (
        exact
        and not planned
        and not (
            reference
            and "arr_0" in array_names(reference)
            and images_shape(reference, True)[1:] == samples.shape
        )
    ):
        raise SampleError(
            f"{samples.path} holds images of {width}x{height}, {name} is scored at {side}x{side};"
            " give the suite of that size, or a --reference with images of it"
        )
    return (f"images: {width}x{height}, the protocol of {name} is for {side}x{side}",)


def resolve_profile(suite: Suite, name: str, asked: FeatureScoring) -> EvaluatorProfile:
    """The evaluator, profile and judge that are asked for; OptionError where the suite or the
    evaluator has no such thing.
    """
    registry.find_entry("evaluators", name)
    if name not in suite.judges:
        raise OptionError(
            f"suite {asked.suite} has no judge for evaluator {name}; it has"
            f" {', '.join(suite.judges) or 'none'}"
        )
    plugin = load_feature_evaluator(name)
    if asked.rules not in plugin.rules:
        raise OptionError(
            f"evaluator {name} has {', '.join(plugin.rules)} rules, not {asked.rules}; leave"
            " --rules out"
        )
    own = suite.profiles.get(name, plugin.profile)
    profile = asked.profile or own
    if profile not in plugin.profiles:
        raise OptionError(
            f"evaluator {name} has profiles {', '.join(plugin.profiles)}, not {profile}; choose one"
            " of these"
        )
    evaluator = plugin if profile == plugin.profile else plugin.with_profile(profile)
    theirs = suite.judges.get(
        f"{name}/{profile}",
        None if profile in plugin.profiles_with_own_judge else suite.judges[name],
    )
    if asked.judge is None and theirs is None:
        raise OptionError(
            f"profile {profile} needs a judge of its own, suite {asked.suite} has none; give"
            " --judge"
        )
    judge = asked.judge or str(theirs)
    load_feature_extractor(judge)
    suffix = ("" if profile == own else f"_{profile}") + ("" if judge == theirs else f"_{judge}")
    return EvaluatorProfile(name, evaluator, judge, suffix)


def _score(
    samples: SampleSet,
    job: ScoringJob,
    out: Path,
    asked: FeatureScoring,
    told: tuple[str, ...],
    source: ImageSource | None,
) -> EvaluatedResult:
    started = utc_now()
    way, reference = job
    evaluator = job.evaluator_profile.evaluator
    path = result_path(
        out, result_name(way, asked.rules, None if asked.reference is None else reference.sha256)
    )
    seen = extract_features(
        samples, way.judge, out / FEATURES_FOLDER / way.judge, asked.device, asked.is_rescored
    )
    subject = make_subject(samples, asked.suite, source)
    method = ResultMethod(
        way.name, evaluator, seen.judge, reference.name, reference.sha256, asked.rules
    )
    if (
        not asked.is_rescored
        and (current := find_current_result(path, subject, method)) is not None
    ):
        return EvaluatedResult(current, path, False)

    score = evaluator.evaluate(seen.features, reference.arrays)
    result = build_result(
        path,
        subject,
        method,
        score,
        make_provenance(started, asked.device, seen.flags),
        warnings_before(samples, told, seen, reference),
        judge_error_rates([seen.judge]),
    )
    arrays = {**score.per_sample, "indices": seen.features.indices}
    return EvaluatedResult(write_result(path, result, arrays), path, True)


def warnings_before(
    samples: SampleSet, told: Sequence[str], seen: ExtractedFeatures, reference: LoadedReference
) -> tuple[ResultWarning, ...]:
    """Return what a result must say of images, judge and reference, before what its evaluator says.

    Args:
        told: the lines of `notes`.
    """
    return (
        *make_warnings("images", samples.warnings),
        *make_warnings("protocol", told),
        *seen.warnings,
        *make_warnings("reference", reference.warnings),
    )


def make_source(
    target: Path,
    out: Path,
    suite: str,
    plan: Plan | None = None,
    form: PromptFolderOptions | None = None,
    count: int | None = None,
    subset: int | None = None,
) -> ImageSource | None:
    """Return where the images lie and what was stated of them; None for those of a run in its own
    folder.
    """
    if out.resolve() == target.resolve() and plan is not None:
        return None
    form = form or PromptFolderOptions()
    listed = None if form.file_list is None else _relative_path(out, form.file_list)
    stated = {
        "order": form.order,
        "pattern": form.pattern,
        "file_list": listed,
        "side": form.side,
        "tiles": form.tiles,
    }
    return ImageSource.model_validate(
        {
            "suite": suite,
            "path": _relative_path(out, target),
            "count": count,
            "subset_seed": subset,
            **stated,
        }
    )


def _relative_path(folder: Path, path: Path) -> str:
    """Return a path as it is reached from a folder."""
    here = folder.resolve()
    there = path.resolve()
    try:
        return Path(os.path.relpath(there, here)).as_posix()
    except ValueError:  # another drive
        return there.as_posix()


def folder_options_of(
    source: ImageSource | None, folder: Path, images: Path | None = None
) -> PromptFolderOptions:
    """Return what was stated of a folder's images; a list of files is looked for from the run
    folder, then beside the images.
    """
    if source is None:
        return PromptFolderOptions()
    listed = None if source.file_list is None else folder / source.file_list
    if listed is not None and not listed.exists() and images is not None:
        listed = images / listed.name
    return PromptFolderOptions(source.order, source.pattern, listed, source.side, source.tiles)


def result_name(way: EvaluatorProfile, rules: str, reference_sha256: str | None = None) -> str:
    """Return what a result's file is called without its ending.

    Args:
        reference_sha256: Of a reference that is not the suite's own.
    """
    name = f"{way.name}{way.suffix}{'' if rules == 'official' else f'_{rules}'}"
    return name if reference_sha256 is None else f"{name}_ref-{reference_sha256[:8]}"


def is_same_result(a: Result, b: Result) -> bool:
    """Whether two results say the same, provenance aside."""
    return a.model_copy(update={"provenance": b.provenance}) == b
