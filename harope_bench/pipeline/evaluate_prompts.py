"""Images of prompts to results: asks witnesses, calls the rules by name. Knows no benchmark and no network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from harope_bench.core import registry
from harope_bench.core.device import require
from harope_bench.core.errors import OptionError, PlanMismatch, PluginError, SampleError, WeightsError
from harope_bench.core.provenance import now, provenance
from harope_bench.core.schema import CLASSES, LENIENT, NO_JUDGE, UNRECORDED, JudgeRecord, ResultWarning, Source, warnings_of
from harope_bench.core.storage import sha256_bytes, sha256_file
from harope_bench.data.result_paths import result_path
from harope_bench.data.result_store import (
    Method,
    Scored,
    Subject,
    build_result,
    claim_results,
    find_current,
    find_result,
    subject_of,
    write_result,
)
from harope_bench.data.run_folder import OBSERVATIONS, Run
from harope_bench.data.sample_set import SampleSet
from harope_bench.evaluators.base import AnnotationEvaluator, Score, Sight, load_annotation_evaluator, load_evaluator
from harope_bench.judges.base import JudgeChoice
from harope_bench.pipeline import external_judge
from harope_bench.pipeline.annotate import Terms, choose, perceive
from harope_bench.pipeline.evaluate import source_of
from harope_bench.pipeline.extract_features import known_errors
from harope_bench.suites.base import Case, PromptSuite, Suite, load_prompt_suite, load_suite
from harope_bench.suites.official_layouts.base import reader
from harope_bench.suites.official_layouts.prompt_folder import FolderForm, open_prompt_images

FOREIGN = JudgeRecord(
    name="official-run",
    version=1,
    judge_class="official",
    weights_sha256=UNRECORDED,
    preprocessing="judges: as the official scorer ran elsewhere; its weights and versions are not in its file",
)


@dataclass(frozen=True)
class Marking:
    """How a sample set is to be marked.

    judge: `role=NAME` in place of the suite's own; lenient: score what could be judged; form: which file of a folder is which image.
    """

    suite: str
    rules: Literal["official", "corrected"] = "official"
    judge: str | None = None
    lenient: bool = False
    terms: Terms = field(default_factory=Terms)
    form: FolderForm = field(default_factory=FolderForm)


class Rule(NamedTuple):
    """An evaluator, its judges by role, and what its result's file is called beside the evaluator."""

    name: str
    evaluator: AnnotationEvaluator
    judges: Mapping[str, JudgeChoice]
    suffix: str


def of_prompts(suite: str) -> bool:
    """Whether a suite's images are marked prompt by prompt."""
    return suite in registry.entries("suites") and isinstance(load_suite(suite), PromptSuite)


def scores_annotations(evaluator: str) -> bool:
    """Return whether an evaluator scores annotations of prompts, not features; UnknownName where there is none."""
    return isinstance(load_evaluator(evaluator), AnnotationEvaluator)


def judge_names(suite: Suite, suite_name: str, evaluator: str) -> Mapping[str, str]:
    """Return the suite's own judges of an evaluator of annotations, by role.

    Raises:
        PluginError: The suite names a feature extractor for it.
    """
    names = suite.judges[evaluator]
    if isinstance(names, str):
        raise PluginError(f"suite {suite_name} must name judges of evaluator {evaluator} by role, it names {names}")
    return names


def rules_of(suite: Suite, asked: Marking, evaluators: Sequence[str] | None) -> list[Rule]:
    """The evaluators asked for (the suite's own if none) that mark prompts; OptionError for what suite or evaluator does not have."""
    found = []
    for name in evaluators or suite.evaluators:
        registry.find("evaluators", name)
        if name not in suite.judges:
            raise OptionError(f"suite {asked.suite} has no judges for evaluator {name}; it has {', '.join(suite.judges) or 'none'}")
        plugin = load_evaluator(name)
        if not isinstance(plugin, AnnotationEvaluator):
            continue
        if asked.rules not in plugin.rules:
            raise OptionError(f"evaluator {name} has {', '.join(plugin.rules)} rules, not {asked.rules}; leave --rules out")
        names = judge_names(suite, asked.suite, name)
        usual = choose(None, names)
        judges = choose(_for(asked.judge, names), names)
        other = "".join(f"_{role}-{judges[role].folder}" for role in sorted(judges) if judges[role] != usual[role])
        found.append(Rule(name, plugin, judges, f"{other}{scoring_suffix(asked)}"))
    _every_role_used(asked, found)
    return found


def scoring_suffix(asked: Marking) -> str:
    """Return what a result's file name carries beside evaluator and judges: rules and leniency where they are not the usual ones."""
    return f"{'' if asked.rules == 'official' else f'_{asked.rules}'}{'_lenient' if asked.lenient else ''}"


def ready(asked: Marking, evaluators: Sequence[str] | None, target: Path | None = None, count: int | None = None) -> list[str]:
    """Names of the evaluators that mark, once prompts and judges are known to be here; a judge of another Python is not looked for.

    Args:
        target: Where the images lie already, so that only judges of what these show are needed; None before they are drawn.

    Raises:
        NotHere, MissingExtra: what is missing, with the command that brings it. OptionError: a name that does not fit.
    """
    suite = load_prompt_suite(asked.suite)
    rules = rules_of(suite, asked, evaluators)
    if rules:
        suite.source()
    if asked.terms.rescore or not rules:
        return [rule.name for rule in rules]

    # Dictionaries keep one order, so that an error is the same each time.
    judges = dict.fromkeys(chosen for rule in rules for chosen in rule.judges.values())
    plugins = {chosen: chosen.judge for chosen in judges}
    if asked.terms.python is not None and any(plugin.runner is not None for plugin in plugins.values()):
        external_judge.program(asked.terms.python)

    cases = None if target is None else _cases(target, asked, suite, count)
    needed = {rule.judges[role] for rule in rules for role in rule.judges if cases is None or _is_needed(rule.evaluator, role, cases)}
    for chosen, plugin in plugins.items():
        if chosen in needed and plugin.runner is None:
            plugin.weights_sha256()
    return [rule.name for rule in rules]


def _cases(target: Path, asked: Marking, suite: PromptSuite, count: int | None) -> list[Case]:
    """Return the cases of the images that a target holds."""
    samples = open_prompt_images(target, asked.suite, suite, count, asked.form)
    return [suite.case(index) for index in samples.indices]


def _is_needed(evaluator: AnnotationEvaluator, role: str, cases: Sequence[Case]) -> bool:
    """Return whether a judge of this role may be asked about one of these cases."""
    needs = [look.needs for look in evaluator.looks if look.role == role]
    facts = (case.facts[evaluator.form] for case in cases if evaluator.form in case.facts)
    return any(need(fact) for fact in facts for need in needs)


def shared(judge: str, suites: Sequence[str]) -> dict[str | None, str | None]:
    """Of `role=NAME,...` the parts whose role each suite has, of several suites; a NAME without role is for each of them.

    Raises:
        UnknownName: no such suite. OptionError: a role that none of them has.
    """
    roles = {name: {role for own in load_suite(name).judges.values() if not isinstance(own, str) for role in own} for name in suites}
    known = sorted(set().union(*roles.values()))
    parts = [part.strip() for part in judge.split(",") if part.strip()]
    for part in parts:
        role, equals, _ = part.partition("=")
        if equals and role.strip() not in known:
            raise OptionError(f"--judge {part!r} names no role of these suites; they have {', '.join(known) or 'none'}")
    fitting = {name: [p for p in parts if "=" not in p or p.partition("=")[0].strip() in own] for name, own in roles.items()}
    return {name: ",".join(own) or None for name, own in fitting.items()}


def _for(text: str | None, usual: Mapping[str, str]) -> str | None:
    """Of `role=NAME,...` the parts for roles that this evaluator has; others may be meant for another evaluator of the suite."""
    parts = [part for part in (text or "").split(",") if part and ("=" not in part or part.partition("=")[0].strip() in usual)]
    return ",".join(parts) or None


def _every_role_used(asked: Marking, found: Sequence[Rule]) -> None:
    known = {role for rule in found for role in rule.judges}
    for part in (asked.judge or "").split(",") if asked.judge else ():
        role, equals, _ = part.partition("=")
        if equals and role.strip() not in known:
            raise OptionError(f"--judge {part!r} names no role of these evaluators; they have {', '.join(sorted(known)) or 'none'}")


def mark(target: Path, out: Path, asked: Marking, evaluators: Sequence[str] | None = None, count: int | None = None) -> list[Scored]:
    """Marks the images of a run, or of a folder in an official layout, with each evaluator that has a prompt among them.

    Results and answers go below `out`.

    Args:
        count: only the first so many samples.

    Raises:
        SampleError: images missing or altered. UnknownName, OptionError: a name or judge that is not there.
        PlanMismatch: `out` holds results of other images, or answers of another judge. JudgeError: a judge that fails on everything.
    """
    suite = load_prompt_suite(asked.suite)
    chosen = rules_of(suite, asked, evaluators)
    require(asked.terms.device)
    if count is not None and out == target and (more := len(Run(out).asked())) > count:
        raise OptionError(f"{out} was asked for {more:,} samples, --count {count:,} would mark a part; leave it out or give another --out")
    samples = open_prompt_images(target, asked.suite, suite, count, asked.form)
    if samples.plan is not None and samples.plan.suite != asked.suite:
        raise OptionError(f"{target} was drawn for suite {samples.plan.suite}, asked for {asked.suite}; leave --suite out")
    cases = {i: suite.case(i) for i in sorted({*samples.indices, *samples.failed})}
    claim_results(out, samples)
    with_prompts = [rule for rule in chosen if any(rule.evaluator.form in case.facts for case in cases.values())]
    origin = source_of(target, out, asked.suite, samples.plan, asked.form, count)
    return [_mark(samples, rule, out, asked, cases, suite.source(), origin) for rule in with_prompts or chosen]


def _mark(
    samples: SampleSet,
    rule: Rule,
    out: Path,
    asked: Marking,
    cases: Mapping[int, Case],
    source: tuple[str, str],
    origin: Source | None,
) -> Scored:
    started, evaluator = now(), rule.evaluator
    path = result_path(out, f"{rule.name}{rule.suffix}")
    sights, records = perceive(samples, cases, evaluator.form, evaluator.looks, rule.judges, out / OBSERVATIONS, asked.terms)
    if not sights:
        raise SampleError(f"{samples.path} has no image that {rule.name} could mark; draw more of suite {asked.suite}")
    subject = subject_of(samples, asked.suite, origin)
    judge, digest = together(records), answers_digest(sights)
    method = Method(rule.name, evaluator, judge, source[0], source[1], asked.rules, records, digest, asked.lenient)
    if not asked.terms.rescore and (current := find_current(path, subject, method)) is not None:
        return Scored(current, path, False)

    score = evaluator.assess(sights, asked.rules, asked.lenient)
    result = build_result(
        path,
        subject,
        method,
        score,
        provenance(started, asked.terms.device),
        (
            *warnings_of("images", samples.warnings),
            *warnings_of("substitute", substitutes(records)),
            *warnings_of("judge", doubts(rule.judges.values(), records)),
            *lenient(asked),
        ),
        known_errors(records.values()),
        has_rows=True,
    )
    return Scored(write_result(path, result, score.per_sample, rows_text(score)), path, True)


def rows_text(score: Score) -> str:
    """Return verdict and reason of each image, a line each."""
    return "".join(json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in score.rows)


def answers_digest(sights: Sequence[Sight]) -> str:
    """Hex sha256 of every answer and fault: a result stands only while these are the same."""
    whole = hashlib.sha256()
    for sight in sights:
        told = {role: answer.to_json() for role, answer in sorted(sight.seen.items())}
        whole.update(json.dumps([sight.index, sight.fault, told]).encode())
    return whole.hexdigest()


def together(records: Mapping[str, JudgeRecord]) -> JudgeRecord:
    """One record for all judges of a result: their names, the sum of their versions, the weakest class, one hash of all hashes."""
    parts = list(dict.fromkeys(record for _, record in sorted(records.items())))
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return JudgeRecord(
            name=NO_JUDGE, version=1, judge_class="official", weights_sha256=UNRECORDED, preprocessing="no image needed a judge"
        )
    hashes = "".join(f"{role}{record.weights_sha256}{record.version}" for role, record in sorted(records.items()))
    return JudgeRecord(
        name="-".join(dict.fromkeys(record.name for record in parts))[:100],
        version=max(record.version for record in parts),
        judge_class=max((record.judge_class for record in parts), key=CLASSES.index),
        weights_sha256=hashlib.sha256(hashes.encode()).hexdigest(),
        preprocessing="; ".join(f"{role}: {record.preprocessing}" for role, record in sorted(records.items())),
    )


def doubts(judges: Iterable[JudgeChoice], records: Mapping[str, JudgeRecord]) -> tuple[str, ...]:
    """What the judges that answered say of their own weights; nothing where these are not here any more."""
    found: dict[str, None] = {}
    used = {record.name for record in records.values()}
    for plugin in (chosen.judge for chosen in judges if chosen.name in used):
        try:
            found.update(dict.fromkeys(plugin.warnings()))
        except WeightsError:
            continue
    return tuple(found)


def substitutes(records: Mapping[str, JudgeRecord]) -> tuple[str, ...]:
    """A line for each judge that stands in for the official one."""
    told = {role: record for role, record in sorted(records.items()) if record.judge_class == "substitute"}
    return tuple(
        f"judge: {record.name}{f' with {record.model}' if record.model else ''} stands in for the official {role}; "
        "not comparable with published numbers"
        for role, record in told.items()
    )


def lenient(asked: Marking) -> tuple[ResultWarning, ...]:
    """What a result must say that was scored although something may be missing."""
    return warnings_of("lenient", (LENIENT,) if asked.lenient else ())


def brought(path: Path, out: Path, asked: Marking) -> Scored | None:
    """The result of a finished official run that `path` holds in the form its own scorer wrote; None where it is no such file.

    Its judges are the official ones by its own word: weights and versions are not in such files.
    """
    suite = load_prompt_suite(asked.suite)
    started, found = now(), reader(path)
    if found is None:
        return None
    name = found.READS  # an official script's results are scored by the evaluator of its name
    if name not in suite.judges:
        raise OptionError(f"{path} is a finished run of {name}, asked for suite {asked.suite}; give --suite {name}")
    score = found.imported(path, suite, asked.lenient, asked.rules)
    evaluator = load_annotation_evaluator(name)
    written = result_path(out, f"{name}{scoring_suffix(asked)}")
    prompts, sha256_of_prompts = suite.source()
    sha256 = files_digest(path)
    if (stored := find_result(written)) is not None and stored.samples_sha256 != sha256:
        raise PlanMismatch(f"{written} is of other images ({stored.target}), asked for {path.name}; choose another --out")
    origin = source_of(path, out, asked.suite, form=asked.form)
    result = build_result(
        written,
        Subject(path.name, sha256, suite=asked.suite, resolution=asked.form.side, source=origin),
        Method(name, evaluator, FOREIGN, prompts, sha256_of_prompts, asked.rules, is_lenient=asked.lenient),
        score,
        provenance(started, asked.terms.device),
        (*warnings_of("imported", [FOREIGN.preprocessing]), *lenient(asked)),
        has_rows=True,
    )
    return Scored(write_result(written, result, score.per_sample, rows_text(score)), written, True)


def files_digest(path: Path) -> str:
    """Return the hex sha256 of a file, or of the names and contents of a folder's files."""
    if path.is_file():
        return sha256_file(path)
    told = [f"{file.relative_to(path)} {sha256_file(file)}" for file in sorted(path.rglob("*")) if file.is_file()]
    return sha256_bytes("\n".join(told).encode())
