"""From images of prompts to results with evaluators of annotations.

Suites, judges and evaluators are called by name; this module knows no benchmark and no network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from harope_bench.core import registry
from harope_bench.core.device import require_device
from harope_bench.core.errors import (
    OptionError,
    PlanMismatchError,
    PluginError,
    SampleError,
    WeightsError,
)
from harope_bench.core.extras import require_packages
from harope_bench.core.provenance import make_provenance, utc_now
from harope_bench.core.schema import (
    JUDGE_CLASSES,
    LENIENT_WARNING,
    NO_JUDGE,
    UNKNOWN_SHA256,
    ImageSource,
    JudgeRecord,
    ResultWarning,
    make_warnings,
)
from harope_bench.core.storage import sha256_bytes, sha256_file
from harope_bench.data.result_paths import result_path
from harope_bench.data.result_store import (
    EvaluatedResult,
    ResultMethod,
    ResultSubject,
    build_result,
    check_results_belong,
    find_current_result,
    make_subject,
    read_result_or_none,
    write_result,
)
from harope_bench.data.run_folder import ANNOTATIONS_FOLDER
from harope_bench.data.sample_set import SampleSet
from harope_bench.evaluators.base import (
    AnnotatedImage,
    AnnotationEvaluator,
    EvaluatorOutput,
    FeatureEvaluator,
    load_annotation_evaluator,
    load_evaluator,
)
from harope_bench.judges.base import JudgeChoice
from harope_bench.pipeline import external_annotator
from harope_bench.pipeline.annotate import annotate_samples
from harope_bench.pipeline.annotation_folder import take_annotations_of_parts
from harope_bench.pipeline.annotator_choice import AnnotatorOptions, parse_judges
from harope_bench.pipeline.chosen_judges import (
    check_metadata,
    evaluator_roles,
    missing_judge_error,
    without_feature_extractor,
)
from harope_bench.pipeline.evaluate import check_run_suite, check_whole_run, make_source
from harope_bench.pipeline.extract_features import judge_error_rates
from harope_bench.pipeline.workers import current_executor
from harope_bench.suites.base import PromptCase, PromptSuite, Suite, load_prompt_suite, load_suite
from harope_bench.suites.official_layouts.base import find_results_reader
from harope_bench.suites.official_layouts.prompt_folder import (
    PromptFolderOptions,
    open_prompt_images,
)

OFFICIAL_RUN = JudgeRecord(
    name="official-run",
    version=1,
    judge_class="official",
    weights_sha256=UNKNOWN_SHA256,
    preprocessing=(
        "judges: as the official scorer ran elsewhere; its weights and versions are not in its file"
    ),
)


@dataclass(frozen=True)
class PromptScoring:
    """How the images of a prompt suite are scored.

    Attributes:
        judge: `--judge`: `ROLE=NAME,...` instead of the suite's judges.
        needs_all_judges: Whether each role of an evaluator that the suite does not name must have
            a judge. A stored result names the judges of the roles that were queried alone.
        is_lenient: Scores are computed although images or annotations are missing.
        folder_options: How the files of an image folder match prompts.
    """

    suite: str
    rules: Literal["official", "corrected"] = "official"
    judge: str | None = None
    needs_all_judges: bool = True
    is_lenient: bool = False
    annotator_options: AnnotatorOptions = field(default_factory=AnnotatorOptions)
    folder_options: PromptFolderOptions = field(default_factory=PromptFolderOptions)


class EvaluatorWithJudges(NamedTuple):
    """An evaluator with its judges.

    Attributes:
        judges: Judges by role.
        suffix: What the name of the result's file has after the evaluator's name.
    """

    name: str
    evaluator: AnnotationEvaluator
    judges: Mapping[str, JudgeChoice]
    suffix: str


def is_prompt_suite(suite: str) -> bool:
    """Return whether a name is that of a prompt suite."""
    return suite in registry.list_entries("suites") and isinstance(load_suite(suite), PromptSuite)


def scores_annotations(evaluator: str) -> bool:
    """Return whether an evaluator scores annotations, not features.

    Raises:
        UnknownNameError: The evaluator does not exist.
    """
    return isinstance(load_evaluator(evaluator), AnnotationEvaluator)


# ------------------------------------------------------------------------- evaluators and judges


def judge_names(suite: Suite, suite_name: str, evaluator: str) -> Mapping[str, str]:
    """Return the suite's judges for an evaluator of annotations, by role.

    Raises:
        PluginError: The suite names a feature extractor for it.
    """
    names = suite.judges[evaluator]
    if isinstance(names, str):
        raise PluginError(
            f"suite {suite_name} must name judges of evaluator {evaluator} by role, it names"
            f" {names}"
        )
    return names


def select_prompt_evaluators(
    suite: Suite, scoring: PromptScoring, evaluators: Sequence[str] | None
) -> list[EvaluatorWithJudges]:
    """Return the evaluators of annotations, with their judges.

    Args:
        evaluators: Names, of which evaluators of features are skipped. None selects the suite's.

    Raises:
        OptionError: The suite or the evaluator does not have an evaluator, judge or rules.
    """
    evaluators_by_name = {name: load_evaluator(name) for name in evaluators or suite.evaluators}
    if any(isinstance(e, FeatureEvaluator) for e in evaluators_by_name.values()):
        scoring = replace(scoring, judge=without_feature_extractor(scoring.judge))
    selected_evaluators = [
        _with_judges(suite, scoring, name, evaluator)
        for name, evaluator in evaluators_by_name.items()
        if isinstance(evaluator, AnnotationEvaluator)
    ]
    _check_roles_used(scoring, selected_evaluators)
    return selected_evaluators


def _with_judges(
    suite: Suite, scoring: PromptScoring, name: str, evaluator: AnnotationEvaluator
) -> EvaluatorWithJudges:
    """Return an evaluator with the judges that the suite or the user chooses.

    Raises:
        OptionError: The evaluator does not have the rules, or a judge does not have its role.
    """
    if scoring.rules not in evaluator.rules:
        raise OptionError(
            f"evaluator {name} has {', '.join(evaluator.rules)} rules, not {scoring.rules}; leave"
            " --rules out"
        )
    names: Mapping[str, str] = {}
    roles = evaluator_roles(evaluator)
    if name in suite.judges:
        names = judge_names(suite, scoring.suite, name)
        roles = tuple(names)
    elif isinstance(suite, PromptSuite):
        check_metadata(suite, scoring.suite, name, evaluator)
    default_judges = parse_judges(text=None, default_judges=names)
    judges = parse_judges(_judges_for_roles(scoring.judge, roles), names, roles)
    missing_roles = [role for role in roles if role not in judges]
    if missing_roles and scoring.needs_all_judges:
        raise missing_judge_error(scoring.suite, name, evaluator, missing_roles)

    # A result of other judges has a file of its own.
    judges_suffix = "".join(
        f"_{role}-{judges[role].folder_name}"
        for role in sorted(judges)
        if judges[role] != default_judges.get(role)
    )
    suffix = f"{judges_suffix}{scoring_suffix(scoring)}"
    return EvaluatorWithJudges(name, evaluator, judges, suffix)


def scoring_suffix(scoring: PromptScoring) -> str:
    """Return the part of a result's file name that states rules and leniency.

    It is empty for official rules without leniency.
    """
    rules_suffix = "" if scoring.rules == "official" else f"_{scoring.rules}"
    return f"{rules_suffix}{'_lenient' if scoring.is_lenient else ''}"


def check_prompt_scoring(
    scoring: PromptScoring,
    evaluators: Sequence[str] | None,
    target: Path | None = None,
    count: int | None = None,
) -> list[str]:
    """Check that prompts and judges are present; return the names of the evaluators.

    The judge of another Python is not checked.

    Args:
        target: The images. Only judges that these images need are checked. None checks all, before
            the images are generated.
        count: Number of images to score.

    Raises:
        MissingAssetError, MissingExtraError: Something is missing; names the command to install it.
        OptionError: A name does not apply.
    """
    suite = load_prompt_suite(scoring.suite)
    selected_evaluators = select_prompt_evaluators(suite, scoring, evaluators)
    names = [evaluator_choice.name for evaluator_choice in selected_evaluators]
    if selected_evaluators:
        suite.prompts_source()
    if scoring.annotator_options.is_rescored or not selected_evaluators:
        return names

    # A dictionary keeps the order of the judges, so the same error is raised each time.
    judge_choices = dict.fromkeys(
        judge_choice
        for evaluator_choice in selected_evaluators
        for judge_choice in evaluator_choice.judges.values()
    )
    judges = {judge_choice: judge_choice.judge for judge_choice in judge_choices}
    has_external_judge = any(judge.runner is not None for judge in judges.values())
    if scoring.annotator_options.python is not None and has_external_judge:
        external_annotator.interpreter_path(scoring.annotator_options.python)

    cases = None if target is None else _cases(target, scoring, suite, count)
    needed_judges = _needed_judges(selected_evaluators, cases)
    for judge_choice, judge in judges.items():
        if judge_choice in needed_judges and judge.runner is None:
            require_packages(f"judge {judge_choice.name}", *judge.packages)
            judge.weights_sha256()
    return names


def _cases(
    target: Path, scoring: PromptScoring, suite: PromptSuite, count: int | None
) -> list[PromptCase]:
    """Return the prompt cases of the images, or first `count` images, that a target holds."""
    samples = open_prompt_images(target, scoring.suite, suite, count, scoring.folder_options)
    return [suite.case(index) for index in samples.indices]


def _needed_judges(
    selected_evaluators: Sequence[EvaluatorWithJudges], cases: Sequence[PromptCase] | None
) -> set[JudgeChoice]:
    """Return the judges that may be needed for these cases; all if the cases are not known."""
    return {
        judge_choice
        for evaluator_choice in selected_evaluators
        for role, judge_choice in evaluator_choice.judges.items()
        if cases is None or _is_role_needed(evaluator_choice.evaluator, role, cases)
    }


def _is_role_needed(evaluator: AnnotationEvaluator, role: str, cases: Sequence[PromptCase]) -> bool:
    """Return whether a query of this role may be needed for one of these cases."""
    predicates = [r.is_needed for r in evaluator.annotator_roles if r.role == role]
    metadata = [case.metadata_for(evaluator.metadata_key) for case in cases]
    return any(
        is_needed(values) for values in metadata if values is not None for is_needed in predicates
    )


def judges_by_suite(
    judge: str, suites: Sequence[str], evaluators: Sequence[str] = ()
) -> dict[str | None, str | None]:
    """Return the part of `--judge` that applies to each of several suites; None for an empty part.

    `ROLE=NAME` applies to the suites that have the role, a NAME without a role to every suite.

    Args:
        evaluators: Names of the chosen evaluators; a suite that does not name one has its roles.

    Raises:
        UnknownNameError: A suite does not exist.
        OptionError: No suite has a role.
    """
    roles_by_suite = {name: _roles_of_suite(name, evaluators) for name in suites}
    known_roles = sorted(set().union(*roles_by_suite.values()))
    parts = [part.strip() for part in judge.split(",") if part.strip()]
    for part in parts:
        role = _role_of(part)
        if role is not None and role not in known_roles:
            raise OptionError(
                f"--judge {part!r} names no role of these suites; they have"
                f" {', '.join(known_roles) or 'none'}"
            )
    parts_by_suite: dict[str | None, str | None] = {}
    for name, roles in roles_by_suite.items():
        suite_parts = [part for part in parts if _role_of(part) in (None, *roles)]
        parts_by_suite[name] = ",".join(suite_parts) or None
    return parts_by_suite


def _roles_of_suite(name: str, evaluators: Sequence[str]) -> set[str]:
    """Return the roles of all annotators that a suite names, and of evaluators it does not name."""
    suite_judges = load_suite(name).judges
    roles = {
        role for judges in suite_judges.values() if not isinstance(judges, str) for role in judges
    }
    for evaluator_name in evaluators:
        evaluator = load_evaluator(evaluator_name)
        if evaluator_name not in suite_judges and isinstance(evaluator, AnnotationEvaluator):
            roles.update(evaluator_roles(evaluator))
    return roles


def _role_of(part: str) -> str | None:
    """Return ROLE of `ROLE=NAME`; None for a NAME without a role."""
    role, equals, _ = part.partition("=")
    return role.strip() if equals else None


def _judges_for_roles(text: str | None, roles: Sequence[str]) -> str | None:
    """Return the parts of `--judge` that apply to an evaluator's roles; None if there is none.

    Other parts may be for another evaluator of the suite.
    """
    parts = [part for part in (text or "").split(",") if part and _role_of(part) in (None, *roles)]
    return ",".join(parts) or None


def _check_roles_used(
    scoring: PromptScoring, selected_evaluators: Sequence[EvaluatorWithJudges]
) -> None:
    """Raise OptionError if `--judge` names a role that no evaluator has."""
    known_roles = {
        role for evaluator_choice in selected_evaluators for role in evaluator_choice.judges
    }
    for part in scoring.judge.split(",") if scoring.judge else ():
        role = _role_of(part)
        if role is not None and role not in known_roles:
            raise OptionError(
                f"--judge {part!r} names no role of these evaluators; they have"
                f" {', '.join(sorted(known_roles)) or 'none'}"
            )


# -------------------------------------------------------------------------------------- evaluation


def evaluate_prompts(
    target: Path,
    out: Path,
    scoring: PromptScoring,
    evaluators: Sequence[str] | None = None,
    count: int | None = None,
) -> list[EvaluatedResult]:
    """Score images of prompts with each evaluator; write results and annotations below `out`.

    An evaluator that has no prompt among the images is skipped, unless that is true of all.

    Args:
        target: A run, or a folder in an official layout.
        count: Number of samples. None selects all.

    Raises:
        SampleError: Images are missing or altered.
        UnknownNameError, OptionError: A name or a judge does not exist or does not apply.
        PlanMismatchError: `out` holds results of other images, or annotations of another judge.
        JudgeError: A judge fails on every image.
    """
    suite = load_prompt_suite(scoring.suite)
    selected_evaluators = select_prompt_evaluators(suite, scoring, evaluators)
    require_device(scoring.annotator_options.device)
    check_whole_run(target, out, count)
    samples = open_prompt_images(target, scoring.suite, suite, count, scoring.folder_options)
    check_run_suite(target, samples, scoring.suite)
    cases = {i: suite.case(i) for i in sorted({*samples.indices, *samples.failed})}
    check_results_belong(out, samples)

    with_prompts = [
        evaluator_choice
        for evaluator_choice in selected_evaluators
        if any(
            case.metadata_for(evaluator_choice.evaluator.metadata_key) is not None
            for case in cases.values()
        )
    ]
    source = make_source(target, out, scoring.suite, samples.plan, scoring.folder_options, count)
    results = [
        _evaluate_one(
            samples, evaluator_choice, out, scoring, cases, suite.prompts_source(), source
        )
        for evaluator_choice in with_prompts or selected_evaluators
    ]
    if not scoring.annotator_options.is_rescored:
        judges = [j for choice in selected_evaluators for j in choice.judges.values()]
        take_annotations_of_parts(out / ANNOTATIONS_FOLDER, judges)
    return results


def _evaluate_one(
    samples: SampleSet,
    evaluator_choice: EvaluatorWithJudges,
    out: Path,
    scoring: PromptScoring,
    cases: Mapping[int, PromptCase],
    prompts_source: tuple[str, str],
    source: ImageSource | None,
) -> EvaluatedResult:
    """Annotate the images, evaluate and write the result; return one that is up to date.

    Args:
        prompts_source: Name and sha256 of the prompts' file.
        source: Where the images are, if not in `out`.
    """
    start_time = utc_now()
    name = evaluator_choice.name
    evaluator = evaluator_choice.evaluator
    judges = evaluator_choice.judges
    path = result_path(out, f"{name}{evaluator_choice.suffix}")
    images, records = annotate_samples(
        samples,
        cases,
        evaluator.metadata_key,
        evaluator.annotator_roles,
        judges,
        out / ANNOTATIONS_FOLDER,
        scoring.annotator_options,
    )
    if not images:
        raise SampleError(
            f"{samples.path} has no image that {name} can score; generate more of suite"
            f" {scoring.suite}"
        )

    subject = make_subject(samples, scoring.suite, source)
    prompts_name, prompts_sha256 = prompts_source
    method = ResultMethod(
        name,
        evaluator,
        combine_judge_records(records),
        prompts_name,
        prompts_sha256,
        scoring.rules,
        records,
        annotations_digest(images),
        scoring.is_lenient,
    )
    if not scoring.annotator_options.is_rescored:
        current_result = find_current_result(path, subject, method)
        if current_result is not None:
            return EvaluatedResult(current_result, path, is_new=False)

    output = evaluator.evaluate(images, scoring.rules, scoring.is_lenient)
    result = build_result(
        path,
        subject,
        method,
        output,
        make_provenance(
            start_time, scoring.annotator_options.device, current_executor().provenance()
        ),
        (
            *make_warnings("images", samples.warnings),
            *make_warnings("substitute", substitute_warnings(records)),
            *make_warnings("judge", judge_weights_warnings(judges.values(), records)),
            *make_warnings("devices", current_executor().device_warnings()),
            *lenient_warnings(scoring),
        ),
        judge_error_rates(records.values()),
        has_sample_scores=True,
    )
    stored_result = write_result(path, result, output.per_sample, sample_scores_text(output))
    return EvaluatedResult(stored_result, path, is_new=True)


def sample_scores_text(output: EvaluatorOutput) -> str:
    """Return the sample scores as JSON lines."""
    return "".join(
        json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in output.sample_scores
    )


def annotations_digest(images: Sequence[AnnotatedImage]) -> str:
    """Return the hex sha256 of all annotations and failures.

    A stored result is up to date only while this digest is the same.
    """
    digest = hashlib.sha256()
    for image in images:
        annotations = {role: a.to_json() for role, a in sorted(image.annotations.items())}
        digest.update(json.dumps([image.index, image.failure, annotations]).encode())
    return digest.hexdigest()


# ------------------------------------------------------------------------------ judges of a result


def combine_judge_records(records: Mapping[str, JudgeRecord]) -> JudgeRecord:
    """Return one record for all judges of a result.

    It has their names joined, the highest version, the weakest class, and the sha256 of their
    hashes and versions.

    Args:
        records: Records by role.
    """
    distinct_records = list(dict.fromkeys(record for _, record in sorted(records.items())))
    if len(distinct_records) == 1:
        return distinct_records[0]
    if not distinct_records:
        return JudgeRecord(
            name=NO_JUDGE,
            version=1,
            judge_class="official",
            weights_sha256=UNKNOWN_SHA256,
            preprocessing="no image needed a judge",
        )
    hashes = "".join(
        f"{role}{record.weights_sha256}{record.version}" for role, record in sorted(records.items())
    )
    names = dict.fromkeys(record.name for record in distinct_records)
    judge_classes = [record.judge_class for record in distinct_records]
    return JudgeRecord(
        name="-".join(names)[:100],
        version=max(record.version for record in distinct_records),
        judge_class=max(judge_classes, key=JUDGE_CLASSES.index),
        weights_sha256=hashlib.sha256(hashes.encode()).hexdigest(),
        preprocessing="; ".join(
            f"{role}: {record.preprocessing}" for role, record in sorted(records.items())
        ),
    )


def judge_weights_warnings(
    judges: Iterable[JudgeChoice], records: Mapping[str, JudgeRecord]
) -> tuple[str, ...]:
    """Return the warnings of the judges that annotated, about their weights.

    A judge whose weights are missing now gives no warning.
    """
    warnings: dict[str, None] = {}  # an ordered set
    names = {record.name for record in records.values()}
    for judge_choice in judges:
        if judge_choice.name not in names:
            continue
        judge = judge_choice.judge
        with suppress(WeightsError):
            warnings.update(dict.fromkeys(judge.warnings()))
    return tuple(warnings)


def substitute_warnings(records: Mapping[str, JudgeRecord]) -> tuple[str, ...]:
    """Return one warning for each judge that replaces the official one."""
    return tuple(
        f"judge: {record.name}{f' with {record.model}' if record.model else ''} stands in for the"
        f" official {role}; not comparable with published numbers"
        for role, record in sorted(records.items())
        if record.judge_class == "substitute"
    )


def lenient_warnings(scoring: PromptScoring) -> tuple[ResultWarning, ...]:
    """Return the warning that something may be missing, if the scoring is lenient."""
    return make_warnings("lenient", (LENIENT_WARNING,) if scoring.is_lenient else ())


# -------------------------------------------------------------------------------- official results


def import_official_results(
    path: Path, out: Path, scoring: PromptScoring
) -> EvaluatedResult | None:
    """Write the result of a finished run of an official script.

    The scores are computed again from the annotations in the script's files. The judges count as
    official; the files do not state their weights and versions.

    Args:
        path: File or folder that the script wrote. The result is None if it is neither.

    Raises:
        OptionError: The files are of another suite.
        PlanMismatchError: `out` holds a result of other images.
    """
    suite = load_prompt_suite(scoring.suite)
    start_time = utc_now()
    reader = find_results_reader(path)
    if reader is None:
        return None
    name = reader.RESULTS_OF  # name of the evaluator, and of its suite
    if name not in suite.judges:
        raise OptionError(
            f"{path} is a finished run of {name}, not of suite {scoring.suite}; give --suite {name}"
        )
    output = reader.import_scores(path, suite, scoring.is_lenient, scoring.rules)
    destination = result_path(out, f"{name}{scoring_suffix(scoring)}")
    sha256 = files_digest(path)
    _check_same_files(destination, path, sha256)

    prompts_name, prompts_sha256 = suite.prompts_source()
    source = make_source(path, out, scoring.suite, folder_options=scoring.folder_options)
    subject = ResultSubject(
        path.name,
        sha256,
        suite=scoring.suite,
        resolution=scoring.folder_options.side,
        source=source,
    )
    method = ResultMethod(
        name,
        load_annotation_evaluator(name),
        OFFICIAL_RUN,
        prompts_name,
        prompts_sha256,
        scoring.rules,
        is_lenient=scoring.is_lenient,
    )
    result = build_result(
        destination,
        subject,
        method,
        output,
        make_provenance(start_time, scoring.annotator_options.device),
        (*make_warnings("imported", [OFFICIAL_RUN.preprocessing]), *lenient_warnings(scoring)),
        has_sample_scores=True,
    )
    stored_result = write_result(destination, result, output.per_sample, sample_scores_text(output))
    return EvaluatedResult(stored_result, destination, is_new=True)


def _check_same_files(destination: Path, path: Path, sha256: str) -> None:
    """Raise PlanMismatchError if a result at the destination is of samples of another sha256."""
    stored_result = read_result_or_none(destination)
    if stored_result is not None and stored_result.samples_sha256 != sha256:
        raise PlanMismatchError(
            f"{destination} is the result of other images ({stored_result.target}), not of"
            f" {path.name}; choose another --out"
        )


def files_digest(path: Path) -> str:
    """Return the hex sha256 of a file, or of the names and hashes of all files in a folder."""
    if path.is_file():
        return sha256_file(path)
    lines = [
        f"{file.relative_to(path)} {sha256_file(file)}"
        for file in sorted(path.rglob("*"))
        if file.is_file()
    ]
    return sha256_bytes("\n".join(lines).encode())
