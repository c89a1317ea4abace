"""Verification of results by doing their work again.

Features and annotations are computed again from the images, official files are read again, and
costs are counted again.
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
    LIKELY_CAUSES,
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

IMAGES_ALTERED = "not evaluated again, because image hashes differ from the records"


class GivenReference(NamedTuple):
    """A reference file that the user gave, its hash, and a cache folder for its features."""

    path: Path | None
    sha256: str | None
    cache_folder: Path


class RunToCheck(NamedTuple):
    """A run, and what its results are checked with.

    images_status: result of hashing the images; results are only scored again where it is ok.
    """

    samples: SampleSet
    plan: Plan
    references: GivenReference
    images_status: Status


class ResultDifferences(NamedTuple):
    """Differences of a result from the same work done again.

    judged_count: images that were evaluated again to find them.
    note: what else the summary line says.
    """

    lines: list[str]
    judged_count: int = 0
    note: str = ""


# ------------------------------------------------------------------------------------------------
# images of a run


def check_results(
    folder: Path, paths: Sequence[Path], run: RunToCheck, scratch: Path, findings: Findings
) -> None:
    """Check every result of a run's images.

    Features are extracted again once for each judge, and never read from the run folder.
    """

    @cache
    def extract(judge: str) -> ExtractedFeatures:
        return extract_features(run.samples, judge, scratch / judge, "cpu", rescore=False)

    for path in paths:
        check_result(path, findings, partial(_rescore, path, run, extract, scratch / "prompts"))
    check_features(folder, scratch, run.samples, findings)


def check_result(
    path: Path, findings: Findings, rescore: Callable[[Result], ResultDifferences]
) -> None:
    """Check one result by doing its work again.

    An error becomes a finding: could-not-check where the files have their recorded hashes.
    """
    is_intact = has_recorded_hashes(path)
    try:
        stored_result = read_result(path, needs_matching_hash=False)
    except BenchError as error:
        message = f"{path}: is not a result this version reads: {error}"
        findings.add(status_of(error, is_intact), path, message)
        return
    try:
        if is_intact:
            _check_same_software(stored_result)
        differences = rescore(stored_result)
    except BenchError as error:
        findings.add(status_of(error, is_intact), path, f"{path}: {error}")
        return

    findings.add("altered", path, *(f"{path}: {line}" for line in differences.lines))
    if differences.lines:
        return
    work_text = "images not evaluated again"
    if differences.judged_count:
        work_text = (
            f"{differences.judged_count:,} images evaluated again, measurements and arrays"
            " recomputed"
        )
    summary = (
        f"{path.name}: plan, judge, reference and versions compared; {work_text}"
        f"{differences.note}; 0 differences"
    )
    findings.add("ok", path, summary)


def _check_same_software(stored_result: Result) -> None:
    """Raise NotCheckedError where the installed evaluator or judge differs from the recorded one.

    A judge that runs in another Python, or with a model of its own, is not compared.
    """
    evaluator_name = stored_result.evaluator
    if evaluator_name not in registry.list_entries("evaluators"):
        raise UnknownNameError("evaluator", evaluator_name, registry.list_names("evaluators"))
    version = load_evaluator(evaluator_name).version
    if version != stored_result.version:
        raise NotCheckedError(
            f"scored by {evaluator_name}@{stored_result.version}, installed is @{version}; run eval"
            " again"
        )

    judge_names = registry.list_entries("judges")
    for record in stored_result.judges.values() or [stored_result.judge]:
        if record.name not in judge_names or record.model is not None:
            continue
        if load_judge(record.name).runner is not None:
            continue
        installed_record = judge_record(record.name)
        if installed_record != record:
            fields = ", ".join(differing_fields(record, installed_record))
            raise NotCheckedError(
                f"the installed judge {record.name} differs from the recorded one in {fields};"
                " install the recorded one, or run eval again"
            )


def _rescore(
    path: Path,
    run: RunToCheck,
    extract: Callable[[str], ExtractedFeatures],
    scratch: Path,
    stored_result: Result,
) -> ResultDifferences:
    """Score a result of a run again, by prompts or by features."""
    if run.images_status == "could-not-check":
        raise NotCheckedError("not evaluated again, because images cannot be read")
    has_images = run.images_status == "ok"
    if is_prompt_result(stored_result):
        if not has_images:
            return ResultDifferences([IMAGES_ALTERED])
        return _prompt_result_differences(
            rescore_result(run.samples.path, path, stored_result, scratch / path.stem)
        )
    return _feature_result_differences(path, stored_result, run, extract if has_images else None)


def _prompt_result_differences(rescored_result: RescoredResult) -> ResultDifferences:
    """Return the differences of a result of prompts, with a note on trusted annotations."""
    note = ""
    if rescored_result.trusted_judges:
        note = (
            f"; stored annotations of {', '.join(rescored_result.trusted_judges)} used, which run"
            " in another Python"
        )
    return ResultDifferences(rescored_result.differences, rescored_result.judged_count, note)


def _feature_result_differences(
    path: Path,
    stored_result: Result,
    run: RunToCheck,
    extract: Callable[[str], ExtractedFeatures] | None,
) -> ResultDifferences:
    """Return the differences of a result of features.

    Args:
        extract: features of the run by judge; None where the images are altered.

    Raises:
        NotCheckedError: An intact result is of a reference that was not given.
    """
    evaluator_profile = _profile_of_result(stored_result, run.plan.suite)
    lines = list(_field_differences(stored_result, path, evaluator_profile, run))
    if extract is None:
        return ResultDifferences([*lines, IMAGES_ALTERED])

    reference = _open_result_reference(stored_result, evaluator_profile, run)
    lines += _reference_differences(stored_result, reference, run.references)
    if reference.sha256 != stored_result.reference_sha256:
        if has_recorded_hashes(path) and not lines[:-1]:
            raise NotCheckedError(lines[-1])
        return ResultDifferences(lines)

    extraction = extract(evaluator_profile.judge)
    lines += _score_differences(stored_result, path, evaluator_profile, reference, run, extraction)
    return ResultDifferences(lines, extraction.extracted_count)


def _profile_of_result(stored_result: Result, suite_name: str) -> EvaluatorProfile:
    """Return the evaluator and judge of a result; the suite's defaults where they are unknown."""
    suite = load_suite(suite_name)
    if stored_result.evaluator not in registry.list_entries("evaluators"):
        raise OptionError(
            f"evaluator {stored_result.evaluator} has no judge in this suite; it has"
            f" {', '.join(suite.judges) or 'none'}"
        )
    profile: str | None = stored_result.profile
    if profile not in load_feature_evaluator(stored_result.evaluator).profiles:
        profile = None
    judge: str | None = stored_result.judge.name
    if judge not in registry.list_entries("judges"):
        judge = None  # resolve_profile then reports an evaluator that the suite does not name
    scoring = FeatureScoring(suite_name, profile=profile, judge=judge)
    return resolve_profile(suite, stored_result.evaluator, scoring)


def _open_result_reference(
    stored_result: Result, evaluator_profile: EvaluatorProfile, run: RunToCheck
) -> LoadedReference:
    """Return the given reference if the result is of it, else the suite's.

    Features of the reference's images are extracted again.
    """
    references = run.references
    is_given = references.sha256 == stored_result.reference_sha256
    return open_reference(
        load_suite(run.plan.suite),
        evaluator_profile.judge,
        references.path if is_given else None,
        ReferenceExtraction(cache_folder=references.cache_folder),
        run.samples.shape,
    )


def _field_differences(
    stored_result: Result, path: Path, evaluator_profile: EvaluatorProfile, run: RunToCheck
) -> Iterator[str]:
    """Yield the differences in fields that need no network: plan, versions, hashes and names."""
    evaluator = evaluator_profile.evaluator
    record = judge_record(evaluator_profile.judge)
    expected = {
        "version": evaluator.version,
        "profile": evaluator.profile,
        "parity": evaluator.parity,
        "scale": "micro" if record.judge_class == "micro" else "paper",
        "plan": run.plan.model_dump(mode="json"),
        "plan_digest": run.plan.digest,
        "samples_sha256": sample_set_digest(run.samples),
        "judge": record.model_dump(mode="json"),
        "judges": {},
        "judge_error_rates": {
            name: [r.model_dump(mode="json") for r in rates]
            for name, rates in judge_error_rates([record]).items()
        },
        "annotations_sha256": None,
        "arrays_file": arrays_path(path).name,
        "sample_scores_file": None,
        "suite": run.plan.suite,
        "resolution": run.plan.settings.resolution,
        "is_lenient": False,
    }
    stored_fields = stored_result.model_dump(mode="json", include=set(expected))
    yield from mapping_differences(stored_fields, expected)
    if stored_result.rules not in evaluator.rules:
        yield (
            f"rules is {stored_result.rules}, evaluator {stored_result.evaluator} has"
            f" {', '.join(evaluator.rules)}"
        )


def _reference_differences(
    stored_result: Result, reference: LoadedReference, references: GivenReference
) -> Iterator[str]:
    stored_name = stored_result.reference
    if reference.sha256 != stored_result.reference_sha256:
        stored_hash = stored_result.reference_sha256[:12]
        suite_hash = reference.sha256[:12]
        yield (
            f"reference {stored_name} ({stored_hash}...) is not the suite's ({suite_hash}...); give"
            " the file it was scored against"
        )
    elif reference.sha256 != references.sha256 and reference.name != stored_name:
        # The name of a given file is not compared: a user may move it.
        yield f"reference is {stored_name}, should be {reference.name}"


def _score_differences(
    stored_result: Result,
    path: Path,
    evaluator_profile: EvaluatorProfile,
    reference: LoadedReference,
    run: RunToCheck,
    extraction: ExtractedFeatures,
) -> Iterator[str]:
    """Yield the differences in measurements, warnings and per-sample arrays."""
    features = extraction.features.for_evaluator(evaluator_profile.name, evaluator_profile.judge)
    score = evaluator_profile.evaluator.evaluate(features, reference.arrays)
    stored_measurements = _measurements_by_name(stored_result.measurements)
    new_measurements = _measurements_by_name(score.measurements)
    for line in mapping_differences(stored_measurements, new_measurements):
        yield f"{line} ({LIKELY_CAUSES})"

    # Build the whole result again to compare its warnings and the order of its metrics.
    suite_name = run.plan.suite
    notes = image_notes(run.samples, load_suite(suite_name), suite_name, run.references.path)
    method = ResultMethod(
        stored_result.evaluator,
        evaluator_profile.evaluator,
        stored_result.judge,
        reference.name,
        reference.sha256,
    )
    new_result = build_result(
        path,
        ResultSubject(stored_result.target, stored_result.samples_sha256),
        method,
        score,
        stored_result.provenance,
        warnings_before(run.samples, notes, extraction, reference),
    )
    # Mixed numerics and devices are properties of the former extraction, which is not compared.
    stored_warnings = [
        w for w in stored_result.warnings if w.code not in ("judge-paths", "devices")
    ]
    yield from mapping_differences(
        _warnings_and_order(stored_result, stored_warnings),
        _warnings_and_order(new_result, new_result.warnings),
    )
    new_arrays = {**score.per_sample, "indices": extraction.features.indices}
    yield from _array_file_differences(arrays_path(path), new_arrays)


def _warnings_and_order(result: Result, warnings: Iterable[ResultWarning]) -> dict[str, object]:
    """Return a result's texts and the order of its metrics, as plain values to compare."""
    return {
        "warnings": [(warning.code, warning.text) for warning in warnings],
        "rule_differences": [
            (item.metric, item.official, item.corrected) for item in result.rule_differences
        ],
        "order": [m.name for m in result.measurements],
    }


def _array_file_differences(path: Path, arrays: Mapping[str, np.ndarray]) -> Iterator[str]:
    if not path.is_file():
        yield f"{path.name} beside it is missing; run eval --rescore"
        return
    new_arrays = {name: np.asarray(values) for name, values in arrays.items()}
    for name in array_differences(load_arrays(path), new_arrays):
        yield f"{path.name}: {name} is not what was recomputed ({LIKELY_CAUSES})"


# ------------------------------------------------------------------------------------------------
# images outside a run folder


def check_external_images(
    folder: Path,
    path: Path,
    source: Path | None,
    references: GivenReference,
    scratch: Path,
    findings: Findings,
) -> None:
    """Check a result whose images are outside its run folder; could-not-check if they are missing.

    Args:
        source: where the images are now; None if they were not moved.
    """
    rescore = partial(_rescore_external, folder, path, source, references, scratch / path.stem)
    check_result(path, findings, rescore)


def _rescore_external(
    folder: Path,
    path: Path,
    source: Path | None,
    references: GivenReference,
    scratch: Path,
    stored_result: Result,
) -> ResultDifferences:
    """Score a result of external images again, and return the differences."""
    images_path, origin = _locate_images(folder, stored_result, source)
    folder_options = folder_options_of(origin, folder, images_path)
    images = ExternalImages(images_path, origin, folder_options)
    if line := _images_difference(images, stored_result):
        return ResultDifferences([line])
    if is_prompt_result(stored_result):
        return _prompt_result_differences(
            rescore_result(folder, path, stored_result, scratch, images_path)
        )

    if stored_result.judge == OFFICIAL_RUN:
        new_result = _import_again(images, stored_result, scratch)
    else:
        new_result = _score_again(images, stored_result, references, scratch)
    lines = [
        *field_differences(stored_result, new_result.result),
        *file_name_differences(stored_result, path),
        *file_differences(path, new_result.path),
    ]
    return ResultDifferences(
        [f"{line} ({LIKELY_CAUSES})" for line in lines], new_result.result.measurements[0].n_asked
    )


class ExternalImages(NamedTuple):
    """Images outside a run folder: their path now, their recorded origin, and how to open them."""

    path: Path
    origin: ImageSource
    folder_options: PromptFolderOptions


def _import_again(images: ExternalImages, stored_result: Result, scratch: Path) -> EvaluatedResult:
    """Return the result of an official results file, read again."""
    scoring = PromptScoring(
        images.origin.suite,
        stored_result.rules,
        is_lenient=stored_result.is_lenient,
        folder_options=images.folder_options,
    )
    imported_result = import_official_results(images.path, scratch, scoring)
    if imported_result is None:
        raise NotCheckedError(
            f"{images.path} is not read as results of {stored_result.evaluator} by this version"
        )
    return imported_result


def _score_again(
    images: ExternalImages, stored_result: Result, references: GivenReference, scratch: Path
) -> EvaluatedResult:
    """Return a result of external images, with features extracted and scored again."""
    origin = images.origin
    evaluator_profile = _profile_of_result(stored_result, origin.suite)
    is_given = references.sha256 == stored_result.reference_sha256
    scoring = FeatureScoring(
        origin.suite,
        references.path if is_given else None,
        stored_result.rules,
        profile=evaluator_profile.evaluator.profile,
        judge=evaluator_profile.judge,
        subset=origin.subset_seed,
        folder_options=images.folder_options,
    )
    (evaluated_result,) = evaluate(
        images.path, scratch, scoring, [stored_result.evaluator], origin.count
    )
    if evaluated_result.result.reference_sha256 != stored_result.reference_sha256:
        raise NotCheckedError(
            f"reference {stored_result.reference} is not the suite's; give the file it was scored"
            " against"
        )
    return evaluated_result


def _images_difference(images: ExternalImages, stored_result: Result) -> str | None:
    """Return a line where the hash of external images is not the recorded one; None otherwise."""
    path = images.path
    try:
        digest = _external_images_digest(images, stored_result)
    except SampleError as error:
        return f"{path} is not what was scored: {error}"
    if digest == stored_result.samples_sha256:
        return None
    return f"{path} is not what was scored: its sha256 is another one"


def _external_images_digest(images: ExternalImages, stored_result: Result) -> str:
    """Return the hex digest of an official file, of images of prompts, or of other images."""
    origin = images.origin
    if stored_result.judge == OFFICIAL_RUN:
        return files_digest(images.path)
    if is_prompt_result(stored_result):
        suite = load_prompt_suite(origin.suite)
        return sample_set_digest(
            open_prompt_images(
                images.path, origin.suite, suite, origin.count, images.folder_options
            )
        )
    scoring = FeatureScoring(
        origin.suite, subset=origin.subset_seed, folder_options=images.folder_options
    )
    return sample_set_digest(select_samples(images.path, scoring, origin.count))


def _locate_images(
    folder: Path, stored_result: Result, source: Path | None
) -> tuple[Path, ImageSource]:
    """Return where external images are now, and their recorded origin.

    Raises:
        NotCheckedError: The result records no origin, or the images are missing.
    """
    if stored_result.source is None:
        raise NotCheckedError(
            "does not record where its images are, so only its sha256 is checked; run eval on the"
            " images again"
        )
    images_path = source or folder / stored_result.source.path
    if not images_path.exists():
        raise NotCheckedError(
            f"its images are not at {images_path}; give --source with where they are now"
        )
    return images_path, stored_result.source


# ------------------------------------------------------------------------------------------------
# costs of a network


def check_cost(folder: Path, path: Path, plan: Plan | None, findings: Findings) -> None:
    """Check a result of the network's cost against the stored forward passes.

    Latencies cannot be checked, because they cannot be measured again.
    """
    check_result(path, findings, lambda result: _cost_differences(folder, result, plan))


def _cost_differences(
    folder: Path, stored_result: Result, run_plan: Plan | None
) -> ResultDifferences:
    evaluator = load_feature_evaluator(stored_result.evaluator)
    forwards = read_forwards(folder / FORWARDS_FOLDER / FORWARDS_FILE, evaluator)
    score = evaluator.evaluate(forwards, {})
    plan = run_plan or stored_result.plan
    warnings = make_warnings("evaluator", score.warnings)
    expected = {
        "version": evaluator.version,
        "profile": evaluator.profile,
        "parity": evaluator.parity,
        "rules": "official",
        "samples_sha256": NO_SAMPLES_SHA256,
        "plan_digest": plan.digest if plan else None,
        "warnings": [warning.model_dump() for warning in warnings],
        "rule_differences": [],
        "is_lenient": False,
    }
    stored_fields = stored_result.model_dump(mode="json", include=set(expected))
    lines = [
        *mapping_differences(stored_fields, expected),
        *mapping_differences(
            _measurements_by_name(stored_result.measurements),
            _measurements_by_name(score.measurements),
        ),
    ]
    return ResultDifferences(lines, 0, "; measurements recomputed from the forward passes")


# ------------------------------------------------------------------------------------------------
# comparison of values


def given_reference(path: Path | None, cache_folder: Path) -> GivenReference:
    """Return the reference that the user gave; raise StorageError where it cannot be read."""
    return GivenReference(path, sha256_file(path) if path else None, cache_folder)


def _measurements_by_name(measurements: Sequence[Measurement]) -> dict[str, object]:
    return {m.name: m.model_dump(mode="json") for m in measurements}


def mapping_differences(
    actual_values: Mapping[str, object], expected_values: Mapping[str, object], prefix: str = ""
) -> Iterator[str]:
    """Yield a line for each differing leaf, such as `judge.version is 2, should be 1`."""
    for key in {**expected_values, **actual_values}:
        actual_value = actual_values.get(key)
        expected_value = expected_values.get(key)
        key_path = f"{prefix}.{key}".strip(".")
        if isinstance(actual_value, Mapping) and isinstance(expected_value, Mapping):
            yield from mapping_differences(actual_value, expected_value, key_path)
        elif actual_value != expected_value:
            yield (
                f"{key_path} is {_shorten_text(actual_value)},"
                f" should be {_shorten_text(expected_value)}"
            )


def _shorten_text(value: object) -> str:
    """Return a value as text of at most 120 characters."""
    if value is None:
        return "absent"
    text = "there" if isinstance(value, Mapping) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def array_differences(
    actual_values: Mapping[str, np.ndarray], expected_values: Mapping[str, np.ndarray]
) -> list[str]:
    """Return the names of arrays that are missing or unexpected, or differ in any bit."""
    return [
        name
        for name in sorted({*actual_values, *expected_values})
        if name not in actual_values
        or name not in expected_values
        or not _is_same_array(actual_values[name], expected_values[name])
    ]


def _is_same_array(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
