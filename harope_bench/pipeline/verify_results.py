"""Results against the same work done again: judged and scored anew, read anew from an official
file, or counted anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harope_bench.analysis.cost.forwards import FORWARDS_FILE, read_forwards
from harope_bench.core import registry
from harope_bench.core.array_archive import load_arrays
from harope_bench.core.errors import BenchError, OptionError, SampleError, UnknownNameError
from harope_bench.core.schema import (
    ImageSource,
    Measurement,
    Plan,
    Result,
    ResultWarning,
    make_warnings,
)
from harope_bench.core.storage import sha256_file
from harope_bench.data.result_paths import arrays_path
from harope_bench.data.result_store import (
    NO_SAMPLES_SHA256,
    EvaluatedResult,
    ResultMethod,
    ResultSubject,
    build_result,
    read_result,
    sample_set_digest,
)
from harope_bench.data.run_folder import FORWARDS_FOLDER
from harope_bench.data.sample_set import SampleSet
from harope_bench.evaluators.base import load_evaluator, load_feature_evaluator
from harope_bench.judges.base import judge_record, load_judge
from harope_bench.pipeline.differing_fields import differing_fields
from harope_bench.pipeline.evaluate import (
    EvaluatorProfile,
    FeatureScoring,
    evaluate,
    folder_options_of,
    image_notes,
    resolve_profile,
    select_samples,
    warnings_before,
)
from harope_bench.pipeline.evaluate_prompts import (
    OFFICIAL_RUN,
    PromptScoring,
    files_digest,
    import_official_results,
)
from harope_bench.pipeline.extract_features import (
    ExtractedFeatures,
    extract_features,
    judge_error_rates,
)
from harope_bench.pipeline.reference_stats import (
    LoadedReference,
    ReferenceExtraction,
    open_reference,
)
from harope_bench.pipeline.rescore_prompts import (
    RescoredResult,
    field_differences,
    file_differences,
    file_name_differences,
    is_prompt_result,
    rescore_result,
)
from harope_bench.pipeline.verify_features import check_features
from harope_bench.pipeline.verify_files import has_recorded_hashes
from harope_bench.pipeline.verify_findings import (
    CAUSES,
    Findings,
    NotCheckedError,
    Status,
    status_of,
)
from harope_bench.suites.base import load_prompt_suite, load_suite
from harope_bench.suites.official_layouts.prompt_folder import (
    PromptFolderOptions,
    open_prompt_images,
)

IMAGES_ALTERED = "not judged again, because images are wrong"


class GivenReference(NamedTuple):
    """The file that results may have been scored against, its hash, and where a judge's view of it
    is kept meanwhile.
    """

    path: Path | None
    sha256: str | None
    cache_folder: Path


class RunToCheck(NamedTuple):
    """A run, what its results are checked with, and whether its images are the recorded ones,
    without which none is judged again.
    """

    samples: SampleSet
    plan: Plan
    references: GivenReference
    images_status: Status


class ResultDifferences(NamedTuple):
    """What is wrong in a result, how many images were judged to know it, and what else a reader
    must know.
    """

    lines: list[str]
    judged_count: int = 0
    note: str = ""


# ---------------------------------------------------------------------------------------- images of
# a run


def check_results(
    folder: Path, paths: Sequence[Path], given: RunToCheck, temporary: Path, findings: Findings
) -> None:
    """Check every result of a run's own images; these are judged again once per judge, never read
    from the run's observations.
    """

    @cache
    def look(judge: str) -> ExtractedFeatures:
        return extract_features(given.samples, judge, temporary / judge, "cpu", rescore=False)

    for path in paths:
        check_result(path, findings, partial(_rescore, path, given, look, temporary / "prompts"))
    check_features(folder, temporary, given.samples, findings)


def check_result(
    path: Path, findings: Findings, redo: Callable[[Result], ResultDifferences]
) -> None:
    """Check one result by doing its work again; what cannot be done again is told apart from what
    is altered.
    """
    vouched = has_recorded_hashes(path)
    try:
        stored = read_result(path, is_checked=False)
    except BenchError as error:
        findings.add(
            status_of(error, vouched), path, f"{path}: is not a result this version reads: {error}"
        )
        return
    try:
        if vouched:
            _check_same_software(stored)
        outcome = redo(stored)
    except BenchError as error:
        findings.add(status_of(error, vouched), path, f"{path}: {error}")
        return
    findings.add("altered", path, *(f"{path}: {line}" for line in outcome.lines))
    again = (
        f"{outcome.judged_count:,} images judged again, measurements and arrays scored again"
        if outcome.judged_count
        else "images not judged again"
    )
    if not outcome.lines:
        summary = (
            f"{path.name}: plan, judge, reference and versions compared; {again}{outcome.note}; 0"
            " wrong"
        )
        findings.add("ok", path, summary)


def _check_same_software(stored: Result) -> None:
    """Raise NotCheckedError where evaluator or judge are of another version here, so that nothing
    can be done again.
    """
    if stored.evaluator not in registry.list_entries("evaluators"):
        raise UnknownNameError("evaluator", stored.evaluator, registry.list_names("evaluators"))
    version = load_evaluator(stored.evaluator).version
    if version != stored.version:
        raise NotCheckedError(
            f"scored by {stored.evaluator}@{stored.version}, here is @{version}; run eval again"
        )
    names = registry.list_entries("judges")
    for record in stored.judges.values() or [stored.judge]:
        if (
            record.name not in names
            or record.model is not None
            or load_judge(record.name).runner is not None
        ):
            continue
        here = judge_record(record.name)
        if here != record:
            fields = ", ".join(differing_fields(record, here))
            raise NotCheckedError(
                f"judge {record.name} here is another one ({fields}); bring the recorded one, or"
                " run eval again"
            )


def _rescore(
    path: Path,
    given: RunToCheck,
    look: Callable[[str], ExtractedFeatures],
    room: Path,
    stored: Result,
) -> ResultDifferences:
    if given.images_status == "could-not-check":
        raise NotCheckedError("not judged again, because images cannot be read")
    if is_prompt_result(stored):
        if given.images_status == "altered":
            return ResultDifferences([IMAGES_ALTERED])
        remarked = rescore_result(given.samples.path, path, stored, room / path.stem)
        return ResultDifferences(
            remarked.differences, remarked.judged_count, _trusted_judges_text(remarked)
        )
    return _feature_result_differences(
        path, stored, given, look if given.images_status == "ok" else None
    )


def _trusted_judges_text(remarked: RescoredResult) -> str:
    """Return in words whose answers had to be believed."""
    return (
        f"; answers of {', '.join(remarked.trusted_judges)} believed, which run elsewhere"
        if remarked.trusted_judges
        else ""
    )


def _feature_result_differences(
    path: Path, stored: Result, given: RunToCheck, look: Callable[[str], ExtractedFeatures] | None
) -> ResultDifferences:
    chosen = _profile_of_result(stored, given.plan.suite)
    lines = list(_field_differences(stored, path, chosen, given))
    if look is None:
        return ResultDifferences([*lines, IMAGES_ALTERED])
    reference = _open_result_reference(stored, chosen, given)
    lines += _reference_differences(stored, reference, given.references)
    if reference.sha256 != stored.reference_sha256:
        if has_recorded_hashes(path) and not lines[:-1]:
            raise NotCheckedError(lines[-1])
        return ResultDifferences(lines)
    seen = look(chosen.judge)
    return ResultDifferences(
        [*lines, *_score_differences(stored, path, chosen, reference, given, seen)],
        seen.extracted_count,
    )


def _profile_of_result(stored: Result, suite_name: str) -> EvaluatorProfile:
    """Return the evaluator in the profile of a result, and its judge; the suite's own where this
    version has none of that name.
    """
    suite = load_suite(suite_name)
    if stored.evaluator not in suite.judges:
        raise OptionError(
            f"evaluator {stored.evaluator} has no judge in this suite; it has"
            f" {', '.join(suite.judges) or 'none'}"
        )
    profile = (
        stored.profile
        if stored.profile in load_feature_evaluator(stored.evaluator).profiles
        else None
    )
    judge = stored.judge.name if stored.judge.name in registry.list_entries("judges") else None
    return resolve_profile(
        suite, stored.evaluator, FeatureScoring(suite_name, profile=profile, judge=judge)
    )


def _open_result_reference(
    stored: Result, chosen: EvaluatorProfile, given: RunToCheck
) -> LoadedReference:
    """The file given if the result is of it, else the suite's; its images are judged again like
    those of the run.
    """
    suite = load_suite(given.plan.suite)
    references = given.references
    theirs = references.path if references.sha256 == stored.reference_sha256 else None
    return open_reference(
        suite,
        chosen.judge,
        theirs,
        ReferenceExtraction(cache_folder=references.cache_folder),
        given.samples.shape,
    )


def _field_differences(
    stored: Result, path: Path, chosen: EvaluatorProfile, given: RunToCheck
) -> Iterator[str]:
    """Everything a result says that no network is needed for."""
    evaluator = chosen.evaluator
    record = judge_record(chosen.judge)
    facts = {
        "version": evaluator.version,
        "profile": evaluator.profile,
        "parity": evaluator.parity,
        "scale": "micro" if record.judge_class == "micro" else "paper",
        "plan": given.plan.model_dump(mode="json"),
        "plan_digest": given.plan.digest,
        "samples_sha256": sample_set_digest(given.samples),
        "judge": record.model_dump(mode="json"),
        "judges": {},
        "judge_errors": {
            name: [r.model_dump(mode="json") for r in rates]
            for name, rates in judge_error_rates([record]).items()
        },
        "answers_sha256": None,
        "per_sample": arrays_path(path).name,
        "rows": None,
        "suite": given.plan.suite,
        "resolution": given.plan.settings.resolution,
        "is_lenient": False,
    }
    yield from mapping_differences(stored.model_dump(mode="json", include=set(facts)), facts)
    if stored.rules not in evaluator.rules:
        yield (
            f"rules is {stored.rules}, evaluator {stored.evaluator} has"
            f" {', '.join(evaluator.rules)}"
        )


def _reference_differences(
    stored: Result, reference: LoadedReference, references: GivenReference
) -> Iterator[str]:
    if reference.sha256 != stored.reference_sha256:
        found = stored.reference_sha256[:12]
        own = reference.sha256[:12]
        yield (
            f"reference {stored.reference} ({found}...) is not the suite's ({own}...); give the"
            " file it was scored against"
        )
    elif (
        reference.sha256 != references.sha256 and reference.name != stored.reference
    ):  # a user's file may move, its hash decides
        yield f"reference is {stored.reference}, should be {reference.name}"


def _score_differences(
    stored: Result,
    path: Path,
    chosen: EvaluatorProfile,
    reference: LoadedReference,
    given: RunToCheck,
    seen: ExtractedFeatures,
) -> Iterator[str]:
    """Measurements, warnings and per-sample arrays against a score of what the judge saw just
    now.
    """
    score = chosen.evaluator.evaluate(seen.features, reference.arrays)
    name = given.plan.suite
    told = image_notes(given.samples, load_suite(name), name, given.references.path)
    yield from (
        f"{line} ({CAUSES})"
        for line in mapping_differences(_by_name(stored.measurements), _by_name(score.measurements))
    )
    before = warnings_before(given.samples, told, seen, reference)
    method = ResultMethod(
        stored.evaluator, chosen.evaluator, stored.judge, reference.name, reference.sha256
    )
    again = build_result(
        path,
        ResultSubject(stored.target, stored.samples_sha256),
        method,
        score,
        stored.provenance,
        before,
    )
    then = [
        w for w in stored.warnings if w.code != "judge-paths"
    ]  # of how it was looked at then, which is over
    yield from mapping_differences(
        _warnings_and_order(stored, then), _warnings_and_order(again, again.warnings)
    )
    yield from _array_differences(
        arrays_path(path), {**score.per_sample, "indices": seen.features.indices}
    )


def _warnings_and_order(result: Result, warnings: Iterable[ResultWarning]) -> dict[str, object]:
    """Return what a result says in words and in which order."""
    return {
        "warnings": [(warning.code, warning.text) for warning in warnings],
        "rule_differences": [
            (item.metric, item.official, item.corrected) for item in result.rule_differences
        ],
        "order": [m.name for m in result.measurements],
    }


def _array_differences(path: Path, arrays: Mapping[str, np.ndarray]) -> Iterator[str]:
    if not path.is_file():
        yield f"{path.name} beside it is gone; run eval --rescore"
        return
    different = array_differences(
        load_arrays(path), {name: np.asarray(row) for name, row in arrays.items()}
    )
    yield from (
        f"{path.name}: {name} is not what was scored again ({CAUSES})" for name in different
    )


# ------------------------------------------------------------------------------- images that lie
# elsewhere


def check_external_images(
    folder: Path,
    path: Path,
    source: Path | None,
    references: GivenReference,
    temporary: Path,
    findings: Findings,
) -> None:
    """Check a result whose images are not in its run folder, from where they lie; could-not-check
    where that is gone.
    """
    check_result(
        path,
        findings,
        lambda stored: _rescore_external(
            folder, path, stored, source, references, temporary / path.stem
        ),
    )


def _rescore_external(
    folder: Path,
    path: Path,
    stored: Result,
    source: Path | None,
    references: GivenReference,
    room: Path,
) -> ResultDifferences:
    place, origin = _locate_images(folder, stored, source)
    form = folder_options_of(origin, folder, place)
    if line := _images_difference(place, origin, stored, form):
        return ResultDifferences([line])
    if is_prompt_result(stored):
        remarked = rescore_result(folder, path, stored, room, place)
        return ResultDifferences(
            remarked.differences, remarked.judged_count, _trusted_judges_text(remarked)
        )
    if stored.judge == OFFICIAL_RUN:
        again = _import_again(place, origin, stored, form, room)
    else:
        again = _score_again(place, origin, stored, form, references, room)
    lines = [
        *field_differences(stored, again.result),
        *file_name_differences(stored, path),
        *file_differences(path, again.path),
    ]
    return ResultDifferences(
        [f"{line} ({CAUSES})" for line in lines], again.result.measurements[0].n_asked
    )


def _import_again(
    place: Path, origin: ImageSource, stored: Result, form: PromptFolderOptions, room: Path
) -> EvaluatedResult:
    """An official results file read again."""
    again = import_official_results(
        place,
        room,
        PromptScoring(
            origin.suite, stored.rules, is_lenient=stored.is_lenient, folder_options=form
        ),
    )
    if again is None:
        raise NotCheckedError(
            f"{place} is not read as results of {stored.evaluator} by this version"
        )
    return again


def _score_again(
    place: Path,
    origin: ImageSource,
    stored: Result,
    form: PromptFolderOptions,
    references: GivenReference,
    room: Path,
) -> EvaluatedResult:
    """Images elsewhere judged and scored again."""
    chosen = _profile_of_result(stored, origin.suite)
    theirs = references.path if references.sha256 == stored.reference_sha256 else None
    options = FeatureScoring(
        origin.suite,
        theirs,
        stored.rules,
        profile=chosen.evaluator.profile,
        judge=chosen.judge,
        subset=origin.subset_seed,
        folder_options=form,
    )
    (again,) = evaluate(place, room, options, [stored.evaluator], origin.count)
    if again.result.reference_sha256 != stored.reference_sha256:
        raise NotCheckedError(
            f"reference {stored.reference} is not the suite's; give the file it was scored against"
        )
    return again


def _images_difference(
    place: Path, origin: ImageSource, stored: Result, form: PromptFolderOptions
) -> str | None:
    """Return a line where what lies elsewhere is not what was scored, by its hashes alone; None
    where it is.
    """
    try:
        if stored.judge == OFFICIAL_RUN:
            digest = files_digest(place)
        elif is_prompt_result(stored):
            suite = load_prompt_suite(origin.suite)
            digest = sample_set_digest(
                open_prompt_images(place, origin.suite, suite, origin.count, form)
            )
        else:
            digest = sample_set_digest(
                select_samples(
                    place,
                    FeatureScoring(origin.suite, subset=origin.subset_seed, folder_options=form),
                    origin.count,
                )
            )
    except SampleError as error:
        return f"{place} is not what was scored: {error}"
    return (
        None
        if digest == stored.samples_sha256
        else f"{place} is not what was scored: its sha256 is another one"
    )


def _locate_images(folder: Path, stored: Result, source: Path | None) -> tuple[Path, ImageSource]:
    """Where the images lie; NotCheckedError where nothing says so or they are gone."""
    if stored.source is None:
        raise NotCheckedError(
            "does not say where its images lie, so only its sha256 is checked; run eval on the"
            " images again"
        )
    place = source or folder / stored.source.path
    if not place.exists():
        raise NotCheckedError(
            f"its images are not at {place}; give --source with where they are now"
        )
    return place, stored.source


# -------------------------------------------------------------------------------------------- the
# network


def check_cost(folder: Path, path: Path, plan: Plan | None, findings: Findings) -> None:
    """Check a result of the network itself: its numbers from the forwards that are kept; what was
    timed cannot be timed again.
    """
    check_result(path, findings, lambda stored: _cost_differences(folder, stored, plan))


def _cost_differences(folder: Path, stored: Result, plan: Plan | None) -> ResultDifferences:
    evaluator = load_feature_evaluator(stored.evaluator)
    score = evaluator.evaluate(read_forwards(folder / FORWARDS_FOLDER / FORWARDS_FILE, evaluator), {})
    facts = {
        "version": evaluator.version,
        "profile": evaluator.profile,
        "parity": evaluator.parity,
        "rules": "official",
        "samples_sha256": NO_SAMPLES_SHA256,
        "plan_digest": (plan or stored.plan).digest if plan or stored.plan else None,  # type: ignore[union-attr]
        "warnings": [
            warning.model_dump() for warning in make_warnings("evaluator", score.warnings)
        ],
        "rule_differences": [],
        "is_lenient": False,
    }
    lines = list(mapping_differences(stored.model_dump(mode="json", include=set(facts)), facts))
    lines += mapping_differences(_by_name(stored.measurements), _by_name(score.measurements))
    return ResultDifferences(lines, 0, "; measurements scored again from the forwards")


# -----------------------------------------------------------------------------------------------
# compared


def given_reference(path: Path | None, cache_folder: Path) -> GivenReference:
    """Return the reference that the user names; StorageError where it cannot be read."""
    return GivenReference(path, sha256_file(path) if path else None, cache_folder)


def _by_name(measurements: Sequence[Measurement]) -> dict[str, object]:
    return {m.name: m.model_dump(mode="json") for m in measurements}


def mapping_differences(
    found: Mapping[str, object], wanted: Mapping[str, object], name: str = ""
) -> Iterator[str]:
    """Where two nested mappings differ, as `judge.version is 2, should be 1`."""
    for key in {**wanted, **found}:
        a = found.get(key)
        b = wanted.get(key)
        here = f"{name}.{key}".strip(".")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from mapping_differences(a, b, here)
        elif a != b:
            yield f"{here} is {_shorten_text(a)}, should be {_shorten_text(b)}"


def _shorten_text(value: object) -> str:
    text = "absent" if value is None else "there" if isinstance(value, Mapping) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def array_differences(
    found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]
) -> list[str]:
    """Names of arrays that are missing, too many, or differ in dtype, shape or any value."""
    return [
        k
        for k in sorted({*found, *wanted})
        if k not in found or k not in wanted or not _is_same_array(found[k], wanted[k])
    ]


def _is_same_array(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
