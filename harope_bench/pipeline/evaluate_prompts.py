"""Images of prompts to results: asks witnesses, calls the rules by name. Knows no benchmark and no
network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
    find_result,
    make_subject,
    write_result,
)
from harope_bench.data.run_folder import ANNOTATIONS_FOLDER, RunFolder
from harope_bench.data.sample_set import SampleSet
from harope_bench.evaluators.base import (
    AnnotatedImage,
    AnnotationEvaluator,
    EvaluatorOutput,
    load_annotation_evaluator,
    load_evaluator,
)
from harope_bench.judges.base import JudgeChoice
from harope_bench.pipeline import external_annotator
from harope_bench.pipeline.annotate import AnnotatorOptions, annotate_samples, parse_judges
from harope_bench.pipeline.evaluate import make_source
from harope_bench.pipeline.extract_features import judge_error_rates
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
    """How a sample set is to be marked.

    judge: `role=NAME` in place of the suite's own; lenient: score what could be judged; form: which
    file of a folder is which image.
    """

    suite: str
    rules: Literal["official", "corrected"] = "official"
    judge: str | None = None
    is_lenient: bool = False
    annotator_options: AnnotatorOptions = field(default_factory=AnnotatorOptions)
    folder_options: PromptFolderOptions = field(default_factory=PromptFolderOptions)


class EvaluatorWithJudges(NamedTuple):
    """An evaluator, its judges by role, and what its result's file is called beside the
    evaluator.
    """

    name: str
    evaluator: AnnotationEvaluator
    judges: Mapping[str, JudgeChoice]
    suffix: str


def is_prompt_suite(suite: str) -> bool:
    """Whether a suite's images are marked prompt by prompt."""
    return suite in registry.list_entries("suites") and isinstance(load_suite(suite), PromptSuite)


def scores_annotations(evaluator: str) -> bool:
    """Return whether an evaluator scores annotations of prompts, not features; UnknownName where
    there is none.
    """
    return isinstance(load_evaluator(evaluator), AnnotationEvaluator)


def judge_names(suite: Suite, suite_name: str, evaluator: str) -> Mapping[str, str]:
    """Return the suite's own judges of an evaluator of annotations, by role.

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
    suite: Suite, asked: PromptScoring, evaluators: Sequence[str] | None
) -> list[EvaluatorWithJudges]:
    """The evaluators asked for (the suite's own if none) that mark prompts; OptionError for what
    suite or evaluator does not have.
    """
    found = []
    for name in evaluators or suite.evaluators:
        registry.find_entry("evaluators", name)
        if name not in suite.judges:
            raise OptionError(
                f"suite {asked.suite} has no judges for evaluator {name}; it has"
                f" {', '.join(suite.judges) or 'none'}"
            )
        plugin = load_evaluator(name)
        if not isinstance(plugin, AnnotationEvaluator):
            continue
        if asked.rules not in plugin.rules:
            raise OptionError(
                f"evaluator {name} has {', '.join(plugin.rules)} rules, not {asked.rules}; leave"
                " --rules out"
            )
        names = judge_names(suite, asked.suite, name)
        usual = parse_judges(None, names)
        judges = parse_judges(_judges_for_roles(asked.judge, names), names)
        other = "".join(
            f"_{role}-{judges[role].folder_name}"
            for role in sorted(judges)
            if judges[role] != usual[role]
        )
        found.append(EvaluatorWithJudges(name, plugin, judges, f"{other}{scoring_suffix(asked)}"))
    _check_roles_used(asked, found)
    return found


def scoring_suffix(asked: PromptScoring) -> str:
    """Return what a result's file name carries beside evaluator and judges: rules and leniency
    where they are not the usual ones.
    """
    return f"{'' if asked.rules == 'official' else f'_{asked.rules}'}{'_lenient' if asked.is_lenient else ''}"


def check_prompt_scoring(
    asked: PromptScoring,
    evaluators: Sequence[str] | None,
    target: Path | None = None,
    count: int | None = None,
) -> list[str]:
    """Names of the evaluators that mark, once prompts and judges are known to be here; a judge of
    another Python is not looked for.

    Args:
        target: Where the images lie already, so that only judges of what these show are needed;
            None before they are drawn.

    Raises:
        NotHere, MissingExtra: what is missing, with the command that brings it. OptionError: a name
            that does not fit.
    """
    suite = load_prompt_suite(asked.suite)
    rules = select_prompt_evaluators(suite, asked, evaluators)
    if rules:
        suite.prompts_source()
    if asked.annotator_options.is_rescored or not rules:
        return [rule.name for rule in rules]

    # Dictionaries keep one order, so that an error is the same each time.
    judges = dict.fromkeys(chosen for rule in rules for chosen in rule.judges.values())
    plugins = {chosen: chosen.judge for chosen in judges}
    if asked.annotator_options.python is not None and any(
        plugin.runner is not None for plugin in plugins.values()
    ):
        external_annotator.interpreter_path(asked.annotator_options.python)

    cases = None if target is None else _cases(target, asked, suite, count)
    needed = {
        rule.judges[role]
        for rule in rules
        for role in rule.judges
        if cases is None or _is_needed(rule.evaluator, role, cases)
    }
    for chosen, plugin in plugins.items():
        if chosen in needed and plugin.runner is None:
            plugin.weights_sha256()
    return [rule.name for rule in rules]


def _cases(
    target: Path, asked: PromptScoring, suite: PromptSuite, count: int | None
) -> list[PromptCase]:
    """Return the cases of the images that a target holds."""
    samples = open_prompt_images(target, asked.suite, suite, count, asked.folder_options)
    return [suite.case(index) for index in samples.indices]


def _is_needed(evaluator: AnnotationEvaluator, role: str, cases: Sequence[PromptCase]) -> bool:
    """Return whether a judge of this role may be asked about one of these cases."""
    needs = [look.is_needed for look in evaluator.annotator_roles if look.role == role]
    facts = (
        case.metadata[evaluator.metadata_key]
        for case in cases
        if evaluator.metadata_key in case.metadata
    )
    return any(need(fact) for fact in facts for need in needs)


def judges_by_suite(judge: str, suites: Sequence[str]) -> dict[str | None, str | None]:
    """Of `role=NAME,...` the parts whose role each suite has, of several suites; a NAME without
    role is for each of them.

    Raises:
        UnknownName: no such suite. OptionError: a role that none of them has.
    """
    roles = {
        name: {
            role
            for own in load_suite(name).judges.values()
            if not isinstance(own, str)
            for role in own
        }
        for name in suites
    }
    known = sorted(set().union(*roles.values()))
    parts = [part.strip() for part in judge.split(",") if part.strip()]
    for part in parts:
        role, equals, _ = part.partition("=")
        if equals and role.strip() not in known:
            raise OptionError(
                f"--judge {part!r} names no role of these suites; they have"
                f" {', '.join(known) or 'none'}"
            )
    fitting = {
        name: [p for p in parts if "=" not in p or p.partition("=")[0].strip() in own]
        for name, own in roles.items()
    }
    return {name: ",".join(own) or None for name, own in fitting.items()}


def _judges_for_roles(text: str | None, usual: Mapping[str, str]) -> str | None:
    """Of `role=NAME,...` the parts for roles that this evaluator has; others may be meant for
    another evaluator of the suite.
    """
    parts = [
        part
        for part in (text or "").split(",")
        if part and ("=" not in part or part.partition("=")[0].strip() in usual)
    ]
    return ",".join(parts) or None


def _check_roles_used(asked: PromptScoring, found: Sequence[EvaluatorWithJudges]) -> None:
    known = {role for rule in found for role in rule.judges}
    for part in (asked.judge or "").split(",") if asked.judge else ():
        role, equals, _ = part.partition("=")
        if equals and role.strip() not in known:
            raise OptionError(
                f"--judge {part!r} names no role of these evaluators; they have"
                f" {', '.join(sorted(known)) or 'none'}"
            )


def evaluate_prompts(
    target: Path,
    out: Path,
    asked: PromptScoring,
    evaluators: Sequence[str] | None = None,
    count: int | None = None,
) -> list[EvaluatedResult]:
    """Marks the images of a run, or of a folder in an official layout, with each evaluator that has
    a prompt among them.

    Results and answers go below `out`.

    Args:
        count: only the first so many samples.

    Raises:
        SampleError: images missing or altered. UnknownName, OptionError: a name or judge that is
            not there.
        PlanMismatch: `out` holds results of other images, or answers of another judge. JudgeError:
            a judge that fails on everything.
    """
    suite = load_prompt_suite(asked.suite)
    chosen = select_prompt_evaluators(suite, asked, evaluators)
    require_device(asked.annotator_options.device)
    if (
        count is not None
        and out == target
        and (more := len(RunFolder(out).requested_indices())) > count
    ):
        raise OptionError(
            f"{out} was asked for {more:,} samples, --count {count:,} would mark a part; leave it"
            " out or give another --out"
        )
    samples = open_prompt_images(target, asked.suite, suite, count, asked.folder_options)
    if samples.plan is not None and samples.plan.suite != asked.suite:
        raise OptionError(
            f"{target} was drawn for suite {samples.plan.suite}, asked for {asked.suite}; leave"
            " --suite out"
        )
    cases = {i: suite.case(i) for i in sorted({*samples.indices, *samples.failed})}
    check_results_belong(out, samples)
    with_prompts = [
        rule
        for rule in chosen
        if any(rule.evaluator.metadata_key in case.metadata for case in cases.values())
    ]
    origin = make_source(target, out, asked.suite, samples.plan, asked.folder_options, count)
    return [
        _evaluate_one(samples, rule, out, asked, cases, suite.prompts_source(), origin)
        for rule in with_prompts or chosen
    ]


def _evaluate_one(
    samples: SampleSet,
    rule: EvaluatorWithJudges,
    out: Path,
    asked: PromptScoring,
    cases: Mapping[int, PromptCase],
    source: tuple[str, str],
    origin: ImageSource | None,
) -> EvaluatedResult:
    started = utc_now()
    evaluator = rule.evaluator
    path = result_path(out, f"{rule.name}{rule.suffix}")
    sights, records = annotate_samples(
        samples,
        cases,
        evaluator.metadata_key,
        evaluator.annotator_roles,
        rule.judges,
        out / ANNOTATIONS_FOLDER,
        asked.annotator_options,
    )
    if not sights:
        raise SampleError(
            f"{samples.path} has no image that {rule.name} could mark; draw more of suite"
            f" {asked.suite}"
        )
    subject = make_subject(samples, asked.suite, origin)
    judge = combine_judge_records(records)
    digest = annotations_digest(sights)
    method = ResultMethod(
        rule.name,
        evaluator,
        judge,
        source[0],
        source[1],
        asked.rules,
        records,
        digest,
        asked.is_lenient,
    )
    if (
        not asked.annotator_options.is_rescored
        and (current := find_current_result(path, subject, method)) is not None
    ):
        return EvaluatedResult(current, path, False)

    score = evaluator.evaluate(sights, asked.rules, asked.is_lenient)
    result = build_result(
        path,
        subject,
        method,
        score,
        make_provenance(started, asked.annotator_options.device),
        (
            *make_warnings("images", samples.warnings),
            *make_warnings("substitute", substitute_warnings(records)),
            *make_warnings("judge", judge_weights_warnings(rule.judges.values(), records)),
            *lenient_warnings(asked),
        ),
        judge_error_rates(records.values()),
        has_sample_scores=True,
    )
    return EvaluatedResult(
        write_result(path, result, score.per_sample, sample_scores_text(score)), path, True
    )


def sample_scores_text(score: EvaluatorOutput) -> str:
    """Return verdict and reason of each image, a line each."""
    return "".join(
        json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in score.sample_scores
    )


def annotations_digest(sights: Sequence[AnnotatedImage]) -> str:
    """Hex sha256 of every answer and fault: a result stands only while these are the same."""
    whole = hashlib.sha256()
    for sight in sights:
        told = {role: answer.to_json() for role, answer in sorted(sight.annotations.items())}
        whole.update(json.dumps([sight.index, sight.failure, told]).encode())
    return whole.hexdigest()


def combine_judge_records(records: Mapping[str, JudgeRecord]) -> JudgeRecord:
    """One record for all judges of a result: their names, the sum of their versions, the weakest
    class, one hash of all hashes.
    """
    parts = list(dict.fromkeys(record for _, record in sorted(records.items())))
    if len(parts) == 1:
        return parts[0]
    if not parts:
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
    return JudgeRecord(
        name="-".join(dict.fromkeys(record.name for record in parts))[:100],
        version=max(record.version for record in parts),
        judge_class=max((record.judge_class for record in parts), key=JUDGE_CLASSES.index),
        weights_sha256=hashlib.sha256(hashes.encode()).hexdigest(),
        preprocessing="; ".join(
            f"{role}: {record.preprocessing}" for role, record in sorted(records.items())
        ),
    )


def judge_weights_warnings(
    judges: Iterable[JudgeChoice], records: Mapping[str, JudgeRecord]
) -> tuple[str, ...]:
    """What the judges that answered say of their own weights; nothing where these are not here any
    more.
    """
    found: dict[str, None] = {}
    used = {record.name for record in records.values()}
    for plugin in (chosen.judge for chosen in judges if chosen.name in used):
        try:
            found.update(dict.fromkeys(plugin.warnings()))
        except WeightsError:
            continue
    return tuple(found)


def substitute_warnings(records: Mapping[str, JudgeRecord]) -> tuple[str, ...]:
    """A line for each judge that stands in for the official one."""
    told = {
        role: record
        for role, record in sorted(records.items())
        if record.judge_class == "substitute"
    }
    return tuple(
        f"judge: {record.name}{f' with {record.model}' if record.model else ''} stands in for the"
        f" official {role}; not comparable with published numbers"
        for role, record in told.items()
    )


def lenient_warnings(asked: PromptScoring) -> tuple[ResultWarning, ...]:
    """What a result must say that was scored although something may be missing."""
    return make_warnings("lenient", (LENIENT_WARNING,) if asked.is_lenient else ())


def import_official_results(path: Path, out: Path, asked: PromptScoring) -> EvaluatedResult | None:
    """The result of a finished official run that `path` holds in the form its own scorer wrote;
    None where it is no such file.

    Its judges are the official ones by its own word: weights and versions are not in such files.
    """
    suite = load_prompt_suite(asked.suite)
    started = utc_now()
    found = find_results_reader(path)
    if found is None:
        return None
    name = found.RESULTS_OF  # an official script's results are scored by the evaluator of its name
    if name not in suite.judges:
        raise OptionError(
            f"{path} is a finished run of {name}, asked for suite {asked.suite}; give --suite"
            f" {name}"
        )
    score = found.import_scores(path, suite, asked.is_lenient, asked.rules)
    evaluator = load_annotation_evaluator(name)
    written = result_path(out, f"{name}{scoring_suffix(asked)}")
    prompts, sha256_of_prompts = suite.prompts_source()
    sha256 = files_digest(path)
    if (stored := find_result(written)) is not None and stored.samples_sha256 != sha256:
        raise PlanMismatchError(
            f"{written} is of other images ({stored.target}), asked for {path.name}; choose another"
            " --out"
        )
    origin = make_source(path, out, asked.suite, form=asked.folder_options)
    result = build_result(
        written,
        ResultSubject(
            path.name,
            sha256,
            suite=asked.suite,
            resolution=asked.folder_options.side,
            source=origin,
        ),
        ResultMethod(
            name,
            evaluator,
            OFFICIAL_RUN,
            prompts,
            sha256_of_prompts,
            asked.rules,
            is_lenient=asked.is_lenient,
        ),
        score,
        make_provenance(started, asked.annotator_options.device),
        (*make_warnings("imported", [OFFICIAL_RUN.preprocessing]), *lenient_warnings(asked)),
        has_sample_scores=True,
    )
    return EvaluatedResult(
        write_result(written, result, score.per_sample, sample_scores_text(score)), written, True
    )


def files_digest(path: Path) -> str:
    """Return the hex sha256 of a file, or of the names and contents of a folder's files."""
    if path.is_file():
        return sha256_file(path)
    told = [
        f"{file.relative_to(path)} {sha256_file(file)}"
        for file in sorted(path.rglob("*"))
        if file.is_file()
    ]
    return sha256_bytes("\n".join(told).encode())
