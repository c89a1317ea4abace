"""Sample set to results: calls judges and evaluators by name. Knows no metric and no model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from harope_bench.core import registry
from harope_bench.core.device import require
from harope_bench.core.errors import OptionError, SampleError, TooManyImages
from harope_bench.core.provenance import now, provenance
from harope_bench.core.schema import Plan, Result, ResultWarning, Source, warnings_of
from harope_bench.data.adm_npz import members, shape_of
from harope_bench.data.image_io import misnamed
from harope_bench.data.result_paths import result_path
from harope_bench.data.result_store import (
    Method,
    Scored,
    build_result,
    claim_results,
    find_current,
    subject_of,
    write_result,
)
from harope_bench.data.run_folder import OBSERVATIONS, Run
from harope_bench.data.sample_set import SampleSet, open_samples
from harope_bench.evaluators.base import FeatureEvaluator, load_feature_evaluator
from harope_bench.judges.base import load_feature_extractor, open_judge
from harope_bench.pipeline.extract_features import Seen, known_errors, looker, observe
from harope_bench.pipeline.reference_stats import Looking, Opened, open_reference
from harope_bench.suites.base import PromptSuite, Suite, load_suite
from harope_bench.suites.official_layouts.prompt_folder import FolderForm, open_prompt_images


@dataclass(frozen=True)
class Asked:
    """How a sample set is to be scored. None takes the suite's own profile and judge; `subset` is the seed of a random choice."""

    suite: str
    reference: Path | None = None
    rules: Literal["official", "corrected"] = "official"
    rescore: bool = False
    device: str = "cpu"
    profile: str | None = None
    judge: str | None = None
    subset: int | None = None
    form: FolderForm = field(default_factory=FolderForm)


class Way(NamedTuple):
    """One evaluator in the profile asked for, the judge it reads, and what its result's file is called beside the evaluator."""

    name: str
    evaluator: FeatureEvaluator
    judge: str
    suffix: str


class Job(NamedTuple):
    """A way to score, and the reference that it scores against."""

    way: Way
    reference: Opened


def evaluate(target: Path, out: Path, asked: Asked, evaluators: Sequence[str] | None = None, count: int | None = None) -> list[Scored]:
    """Scores a sample set with each evaluator; results and observations go below `out`.

    A result of the same images, judge, reference and evaluator version is kept, unless asked to rescore.

    Args:
        count: only the first so many samples, or so many chosen at random. A run's own folder holds the score of all that was asked for.

    Raises:
        SampleError: images missing, corrupt or altered. UnknownName: a name nobody knows.
        PlanMismatch: `out` holds results of other images. OptionError: rules, a profile or a judge that are not there.
        TooManyImages: the suite is scored on fewer images than the target holds.
    """
    return evaluate_each(target, out, (asked,), evaluators, count)


def evaluate_each(
    target: Path, out: Path, wanted: Sequence[Asked], evaluators: Sequence[str] | None = None, count: int | None = None
) -> list[Scored]:
    """`evaluate` in several profiles: each is known, has its reference and may be written before the first image is looked at.

    Args:
        wanted: not empty; they differ in their profile alone.
    """
    asked, plugin = wanted[0], load_suite(wanted[0].suite)
    ways = _ways(plugin, wanted, evaluators)
    samples = chosen_samples(target, asked, count)
    if samples.plan is not None and samples.plan.suite != asked.suite:
        raise OptionError(f"{target} was drawn for suite {samples.plan.suite}, asked for {asked.suite}; leave --suite out")
    if count is not None and out == target and (more := len(Run(out).asked())) > count:
        raise OptionError(
            f"{out} was asked for {more:,} samples, --count {count:,} would score a part; leave --count out or give another --out"
        )
    told = notes(samples, plugin, asked.suite, asked.reference)
    jobs = [
        Job(chosen, open_reference(plugin, chosen.judge, asked.reference, looking(out, chosen.judge, asked), samples.shape))
        for chosen in ways
    ]
    claim_results(out, samples)
    source = source_of(target, out, asked.suite, samples.plan, asked.form, count, asked.subset)
    return [_score(samples, job, out, asked, told, source) for job in jobs]


def ready(out: Path, wanted: Sequence[Asked], evaluators: Sequence[str] | None = None, count: int | None = None) -> None:
    """`evaluate_each` as far as it needs no sample: before images are drawn, all else that it will need is known, opened and fits.

    Raises:
        as `evaluate_each`; WeightsError: the judge's weights are not here, altered, or of another network.
    """
    asked, plugin = wanted[0], load_suite(wanted[0].suite)
    ways = _ways(plugin, wanted, evaluators)
    if asked.subset is not None and count is None:
        raise OptionError("--subset chooses --count images, and no --count is given; give one, or leave --subset out")
    if count is not None and plugin.exact and count > plugin.count:
        raise TooManyImages(f"{asked.suite} is scored on {plugin.count:,} images, --count asks for {count:,}; give --count {plugin.count}")
    for judge in () if asked.rescore else dict.fromkeys(chosen.judge for chosen in ways):
        open_judge(judge, load_feature_extractor(judge), asked.device)
    for judge in dict.fromkeys(chosen.judge for chosen in ways):
        open_reference(plugin, judge, asked.reference, looking(out, judge, asked))


def _ways(plugin: Suite, wanted: Sequence[Asked], evaluators: Sequence[str] | None) -> list[Way]:
    require(wanted[0].device)
    return [way(plugin, name, each) for each in wanted for name in evaluators or plugin.evaluators]


def looking(out: Path, judge: str, asked: Asked) -> Looking:
    """How references are looked at; when rescoring by the judge that saw the samples, whose weights need not be here."""
    looked = looker(judge, out / OBSERVATIONS / judge, rescore=True).record if asked.rescore else None
    return Looking(asked.device, asked.rescore, looked)


def chosen_samples(target: Path, asked: Asked, count: int | None) -> SampleSet:
    """The images to score: all, the first, or a random choice."""
    if asked.subset is None:
        return _opened(target, asked, count)
    samples = _opened(target, asked)
    if count is None or count > len(samples.indices):
        raise OptionError(f"--subset chooses --count images of {target}, which holds {len(samples.indices):,}; give a --count up to that")
    return samples.chosen(count, asked.subset)


def _opened(target: Path, asked: Asked, count: int | None = None) -> SampleSet:
    """Return the images of a target; those of prompts at the suite's indices, so that all evaluators see one set."""
    suite = load_suite(asked.suite)
    if isinstance(suite, PromptSuite):
        return open_prompt_images(target, asked.suite, suite, count, asked.form)
    if asked.form.stated:
        raise OptionError(f"suite {asked.suite} has no prompts to place images at; leave {' and '.join(asked.form.stated)} out")
    return open_samples(target, count)


def notes(samples: SampleSet, suite: Suite, name: str, reference: Path | None = None) -> tuple[str, ...]:
    """What a result must say of the images themselves; errors as `protocol` and `sized`."""
    return (*protocol(samples, suite, name), *sized(samples, suite, name, reference), *repeated(samples, suite))


def repeated(samples: SampleSet, suite: Suite) -> tuple[str, ...]:
    """What a result must say whose errors count images, where several of these were drawn from one prompt."""
    if not isinstance(suite, PromptSuite):
        return ()
    found, prompts = len(samples.indices), len({i % (suite.count // suite.copies) for i in samples.indices})
    told = (
        f"prompts: {found:,} images of {prompts:,} prompts count as independent draws; errors are too small where images of one prompt "
        "are alike"
    )
    return (told,) if prompts < found else ()


def protocol(samples: SampleSet, suite: Suite, name: str) -> tuple[str, ...]:
    """What a result must say of the number of images where the suite's is exact.

    Raises:
        TooManyImages: the target holds more. SampleError: files are of another format than their names say.
    """
    found = len(samples.indices)
    if not suite.exact:
        return ()
    if samples.files is not None and (line := misnamed(samples.files.values())):
        raise SampleError(f"{samples.path}: {line}; {name} is scored on lossless images, save them as PNG and name them so")
    if found == suite.count:
        return ()
    if found > suite.count:
        raise TooManyImages(
            f"{samples.path} holds {found:,} images, {name} is scored on {suite.count:,}; --count {suite.count} takes the first, "
            f"--count {suite.count} --subset 0 a random choice"
        )
    return (f"images: {found:,}, the protocol of {name} asks for {suite.count:,}; FID rises as images get fewer",)


def sized(samples: SampleSet, suite: Suite, name: str, reference: Path | None = None) -> tuple[str, ...]:
    """What a result must say of the images' size where it is neither the suite's nor, unless the protocol is exact, the plan's.

    Raises:
        SampleError: the protocol is exact, no plan asked for that size, and no `reference` is given that holds images of it.
    """
    (height, width, _), side = samples.shape, suite.resolution
    planned = samples.plan is not None and height == width == samples.plan.settings.resolution
    exact = suite.exact
    if height == width == side or (planned and not exact):
        return ()
    if exact and not planned and not (reference and "arr_0" in members(reference) and shape_of(reference, True)[1:] == samples.shape):
        raise SampleError(
            f"{samples.path} holds images of {width}x{height}, {name} is scored at {side}x{side}; give the suite of that size, "
            "or a --reference with images of it"
        )
    return (f"images: {width}x{height}, the protocol of {name} is for {side}x{side}",)


def way(suite: Suite, name: str, asked: Asked) -> Way:
    """The evaluator, profile and judge that are asked for; OptionError where the suite or the evaluator has no such thing."""
    registry.find("evaluators", name)
    if name not in suite.judges:
        raise OptionError(f"suite {asked.suite} has no judge for evaluator {name}; it has {', '.join(suite.judges) or 'none'}")
    plugin = load_feature_evaluator(name)
    if asked.rules not in plugin.rules:
        raise OptionError(f"evaluator {name} has {', '.join(plugin.rules)} rules, not {asked.rules}; leave --rules out")
    own = suite.profiles.get(name, plugin.profile)
    profile = asked.profile or own
    if profile not in plugin.profiles:
        raise OptionError(f"evaluator {name} has profiles {', '.join(plugin.profiles)}, not {profile}; choose one of these")
    evaluator = plugin if profile == plugin.profile else plugin.under(profile)
    theirs = suite.judges.get(f"{name}/{profile}", None if profile in plugin.apart else suite.judges[name])
    if asked.judge is None and theirs is None:
        raise OptionError(f"profile {profile} needs a judge of its own, suite {asked.suite} has none; give --judge")
    judge = asked.judge or str(theirs)
    load_feature_extractor(judge)
    suffix = ("" if profile == own else f"_{profile}") + ("" if judge == theirs else f"_{judge}")
    return Way(name, evaluator, judge, suffix)


def _score(samples: SampleSet, job: Job, out: Path, asked: Asked, told: tuple[str, ...], source: Source | None) -> Scored:
    started, (way, reference), evaluator = now(), job, job.way.evaluator
    path = result_path(out, result_name(way, asked.rules, None if asked.reference is None else reference.sha256))
    seen = observe(samples, way.judge, out / OBSERVATIONS / way.judge, asked.device, asked.rescore)
    subject = subject_of(samples, asked.suite, source)
    method = Method(way.name, evaluator, seen.judge, reference.name, reference.sha256, asked.rules)
    if not asked.rescore and (current := find_current(path, subject, method)) is not None:
        return Scored(current, path, False)

    score = evaluator.score(seen.observations, reference.arrays)
    result = build_result(
        path,
        subject,
        method,
        score,
        provenance(started, asked.device, seen.flags),
        warnings_before(samples, told, seen, reference),
        known_errors([seen.judge]),
    )
    arrays = {**score.per_sample, "indices": seen.observations.indices}
    return Scored(write_result(path, result, arrays), path, True)


def warnings_before(samples: SampleSet, told: Sequence[str], seen: Seen, reference: Opened) -> tuple[ResultWarning, ...]:
    """Return what a result must say of images, judge and reference, before what its evaluator says.

    Args:
        told: the lines of `notes`.
    """
    return (
        *warnings_of("images", samples.warnings),
        *warnings_of("protocol", told),
        *seen.warnings,
        *warnings_of("reference", reference.warnings),
    )


def source_of(
    target: Path,
    out: Path,
    suite: str,
    plan: Plan | None = None,
    form: FolderForm | None = None,
    count: int | None = None,
    subset: int | None = None,
) -> Source | None:
    """Return where the images lie and what was stated of them; None for those of a run in its own folder."""
    if out.resolve() == target.resolve() and plan is not None:
        return None
    form = form or FolderForm()
    listed = None if form.file_list is None else _from(out, form.file_list)
    stated = {"order": form.order, "pattern": form.pattern, "file_list": listed, "side": form.side, "tiles": form.tiles}
    return Source.model_validate({"suite": suite, "path": _from(out, target), "count": count, "subset": subset, **stated})


def _from(folder: Path, path: Path) -> str:
    """Return a path as it is reached from a folder."""
    here, there = folder.resolve(), path.resolve()
    try:
        return Path(os.path.relpath(there, here)).as_posix()
    except ValueError:  # another drive
        return there.as_posix()


def stated_form(source: Source | None, folder: Path, images: Path | None = None) -> FolderForm:
    """Return what was stated of a folder's images; a list of files is looked for from the run folder, then beside the images."""
    if source is None:
        return FolderForm()
    listed = None if source.file_list is None else folder / source.file_list
    if listed is not None and not listed.exists() and images is not None:
        listed = images / listed.name
    return FolderForm(source.order, source.pattern, listed, source.side, source.tiles)


def result_name(way: Way, rules: str, reference_sha256: str | None = None) -> str:
    """Return what a result's file is called without its ending.

    Args:
        reference_sha256: Of a reference that is not the suite's own.
    """
    name = f"{way.name}{way.suffix}{'' if rules == 'official' else f'_{rules}'}"
    return name if reference_sha256 is None else f"{name}_ref-{reference_sha256[:8]}"


def same_numbers(a: Result, b: Result) -> bool:
    """Whether two results say the same, provenance aside."""
    return a.model_copy(update={"provenance": b.provenance}) == b
