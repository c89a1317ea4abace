"""Results against the same work done again: judged and scored anew, read anew from an official file, or counted anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harope_bench.analysis.cost.forwards import FILE, read_forwards
from harope_bench.core import registry
from harope_bench.core.array_archive import load_arrays
from harope_bench.core.errors import BenchError, OptionError, SampleError, UnknownName
from harope_bench.core.schema import Measurement, Plan, Result, ResultWarning, Source, warnings_of
from harope_bench.core.storage import sha256_file
from harope_bench.data.result_paths import arrays_path
from harope_bench.data.result_store import (
    NO_SAMPLES,
    Method,
    Scored,
    Subject,
    build_result,
    read_result,
    set_digest,
)
from harope_bench.data.run_folder import OBSERVATIONS
from harope_bench.data.sample_set import SampleSet
from harope_bench.evaluators.base import load_evaluator, load_feature_evaluator
from harope_bench.judges.base import judge_record, load_judge
from harope_bench.pipeline.differing_fields import differing_fields
from harope_bench.pipeline.evaluate import (
    Asked,
    Way,
    chosen_samples,
    evaluate,
    notes,
    stated_form,
    warnings_before,
    way,
)
from harope_bench.pipeline.evaluate_prompts import FOREIGN, Marking, brought, files_digest
from harope_bench.pipeline.extract_features import Seen, known_errors, observe
from harope_bench.pipeline.reference_stats import Looking, Opened, open_reference
from harope_bench.pipeline.rescore_prompts import Remarked, marked_here, other_facts, other_files, other_names, remark
from harope_bench.pipeline.verify_files import is_vouched
from harope_bench.pipeline.verify_findings import CAUSES, Findings, NotCheckedError, Status, status_of
from harope_bench.pipeline.verify_observations import check_observations
from harope_bench.suites.base import load_prompt_suite, load_suite
from harope_bench.suites.official_layouts.prompt_folder import FolderForm, open_prompt_images

UNSOUND = "not judged again, because images are wrong"


class References(NamedTuple):
    """The file that results may have been scored against, its hash, and where a judge's view of it is kept meanwhile."""

    path: Path | None
    sha256: str | None
    cache: Path


class Given(NamedTuple):
    """A run, what its results are checked with, and whether its images are the recorded ones, without which none is judged again."""

    samples: SampleSet
    plan: Plan
    references: References
    images: Status


class Wrong(NamedTuple):
    """What is wrong in a result, how many images were judged to know it, and what else a reader must know."""

    lines: list[str]
    judged: int = 0
    note: str = ""


# ---------------------------------------------------------------------------------------- images of a run


def check_results(folder: Path, paths: Sequence[Path], given: Given, temporary: Path, findings: Findings) -> None:
    """Check every result of a run's own images; these are judged again once per judge, never read from the run's observations."""

    @cache
    def look(judge: str) -> Seen:
        return observe(given.samples, judge, temporary / judge, "cpu", rescore=False)

    for path in paths:
        check_result(path, findings, partial(_again, path, given, look, temporary / "prompts"))
    check_observations(folder, temporary, given.samples, findings)


def check_result(path: Path, findings: Findings, redo: Callable[[Result], Wrong]) -> None:
    """Check one result by doing its work again; what cannot be done again is told apart from what is altered."""
    vouched = is_vouched(path)
    try:
        stored = read_result(path, is_checked=False)
    except BenchError as error:
        findings.add(status_of(error, vouched), path, f"{path}: is not a result this version reads: {error}")
        return
    try:
        if vouched:
            _same_software(stored)
        outcome = redo(stored)
    except BenchError as error:
        findings.add(status_of(error, vouched), path, f"{path}: {error}")
        return
    findings.add("altered", path, *(f"{path}: {line}" for line in outcome.lines))
    again = f"{outcome.judged:,} images judged again, measurements and arrays scored again" if outcome.judged else "images not judged again"
    if not outcome.lines:
        summary = f"{path.name}: plan, judge, reference and versions compared; {again}{outcome.note}; 0 wrong"
        findings.add("ok", path, summary)


def _same_software(stored: Result) -> None:
    """Raise NotCheckedError where evaluator or judge are of another version here, so that nothing can be done again."""
    if stored.evaluator not in registry.entries("evaluators"):
        raise UnknownName("evaluator", stored.evaluator, registry.names("evaluators"))
    version = load_evaluator(stored.evaluator).version
    if version != stored.version:
        raise NotCheckedError(f"scored by {stored.evaluator}@{stored.version}, here is @{version}; run eval again")
    names = registry.entries("judges")
    for record in stored.judges.values() or [stored.judge]:
        if record.name not in names or record.model is not None or load_judge(record.name).runner is not None:
            continue
        here = judge_record(record.name)
        if here != record:
            fields = ", ".join(differing_fields(record, here))
            raise NotCheckedError(f"judge {record.name} here is another one ({fields}); bring the recorded one, or run eval again")


def _again(path: Path, given: Given, look: Callable[[str], Seen], room: Path, stored: Result) -> Wrong:
    if given.images == "could-not-check":
        raise NotCheckedError("not judged again, because images cannot be read")
    if marked_here(stored):
        if given.images == "altered":
            return Wrong([UNSOUND])
        remarked = remark(given.samples.path, path, stored, room / path.stem)
        return Wrong(remarked.wrong, remarked.judged, _believed(remarked))
    return _wrong_in(path, stored, given, look if given.images == "ok" else None)


def _believed(remarked: Remarked) -> str:
    """Return in words whose answers had to be believed."""
    return f"; answers of {', '.join(remarked.believed)} believed, which run elsewhere" if remarked.believed else ""


def _wrong_in(path: Path, stored: Result, given: Given, look: Callable[[str], Seen] | None) -> Wrong:
    chosen = _way_of(stored, given.plan.suite)
    lines = list(_wrong_facts(stored, path, chosen, given))
    if look is None:
        return Wrong([*lines, UNSOUND])
    reference = _reference_of(stored, chosen, given)
    lines += _wrong_reference(stored, reference, given.references)
    if reference.sha256 != stored.reference_sha256:
        if is_vouched(path) and not lines[:-1]:
            raise NotCheckedError(lines[-1])
        return Wrong(lines)
    seen = look(chosen.judge)
    return Wrong([*lines, *_wrong_scores(stored, path, chosen, reference, given, seen)], seen.fresh)


def _way_of(stored: Result, suite_name: str) -> Way:
    """Return the evaluator in the profile of a result, and its judge; the suite's own where this version has none of that name."""
    suite = load_suite(suite_name)
    if stored.evaluator not in suite.judges:
        raise OptionError(f"evaluator {stored.evaluator} has no judge in this suite; it has {', '.join(suite.judges) or 'none'}")
    profile = stored.profile if stored.profile in load_feature_evaluator(stored.evaluator).profiles else None
    judge = stored.judge.name if stored.judge.name in registry.entries("judges") else None
    return way(suite, stored.evaluator, Asked(suite_name, profile=profile, judge=judge))


def _reference_of(stored: Result, chosen: Way, given: Given) -> Opened:
    """The file given if the result is of it, else the suite's; its images are judged again like those of the run."""
    suite, references = load_suite(given.plan.suite), given.references
    theirs = references.path if references.sha256 == stored.reference_sha256 else None
    return open_reference(suite, chosen.judge, theirs, Looking(cache=references.cache), given.samples.shape)


def _wrong_facts(stored: Result, path: Path, chosen: Way, given: Given) -> Iterator[str]:
    """Everything a result says that no network is needed for."""
    evaluator, record = chosen.evaluator, judge_record(chosen.judge)
    facts = {
        "version": evaluator.version,
        "profile": evaluator.profile,
        "parity": evaluator.parity,
        "scale": "micro" if record.judge_class == "micro" else "paper",
        "plan": given.plan.model_dump(mode="json"),
        "plan_digest": given.plan.digest,
        "samples_sha256": set_digest(given.samples),
        "judge": record.model_dump(mode="json"),
        "judges": {},
        "judge_errors": {name: [r.model_dump(mode="json") for r in rates] for name, rates in known_errors([record]).items()},
        "answers_sha256": None,
        "per_sample": arrays_path(path).name,
        "rows": None,
        "suite": given.plan.suite,
        "resolution": given.plan.settings.resolution,
        "is_lenient": False,
    }
    yield from unequal(stored.model_dump(mode="json", include=set(facts)), facts)
    if stored.rules not in evaluator.rules:
        yield f"rules is {stored.rules}, evaluator {stored.evaluator} has {', '.join(evaluator.rules)}"


def _wrong_reference(stored: Result, reference: Opened, references: References) -> Iterator[str]:
    if reference.sha256 != stored.reference_sha256:
        found, own = stored.reference_sha256[:12], reference.sha256[:12]
        yield f"reference {stored.reference} ({found}...) is not the suite's ({own}...); give the file it was scored against"
    elif reference.sha256 != references.sha256 and reference.name != stored.reference:  # a user's file may move, its hash decides
        yield f"reference is {stored.reference}, should be {reference.name}"


def _wrong_scores(stored: Result, path: Path, chosen: Way, reference: Opened, given: Given, seen: Seen) -> Iterator[str]:
    """Measurements, warnings and per-sample arrays against a score of what the judge saw just now."""
    score = chosen.evaluator.score(seen.observations, reference.arrays)
    name = given.plan.suite
    told = notes(given.samples, load_suite(name), name, given.references.path)
    yield from (f"{line} ({CAUSES})" for line in unequal(_by_name(stored.measurements), _by_name(score.measurements)))
    before = warnings_before(given.samples, told, seen, reference)
    method = Method(stored.evaluator, chosen.evaluator, stored.judge, reference.name, reference.sha256)
    again = build_result(path, Subject(stored.target, stored.samples_sha256), method, score, stored.provenance, before)
    then = [w for w in stored.warnings if w.code != "judge-paths"]  # of how it was looked at then, which is over
    yield from unequal(_told(stored, then), _told(again, again.warnings))
    yield from _wrong_rows(arrays_path(path), {**score.per_sample, "indices": seen.observations.indices})


def _told(result: Result, warnings: Iterable[ResultWarning]) -> dict[str, object]:
    """Return what a result says in words and in which order."""
    return {
        "warnings": [(warning.code, warning.text) for warning in warnings],
        "rule_differences": [(item.metric, item.official, item.corrected) for item in result.rule_differences],
        "order": [m.name for m in result.measurements],
    }


def _wrong_rows(path: Path, arrays: Mapping[str, np.ndarray]) -> Iterator[str]:
    if not path.is_file():
        yield f"{path.name} beside it is gone; run eval --rescore"
        return
    different = other_arrays(load_arrays(path), {name: np.asarray(row) for name, row in arrays.items()})
    yield from (f"{path.name}: {name} is not what was scored again ({CAUSES})" for name in different)


# ------------------------------------------------------------------------------- images that lie elsewhere


def check_elsewhere(folder: Path, path: Path, source: Path | None, references: References, temporary: Path, findings: Findings) -> None:
    """Check a result whose images are not in its run folder, from where they lie; could-not-check where that is gone."""
    check_result(path, findings, lambda stored: _elsewhere(folder, path, stored, source, references, temporary / path.stem))


def _elsewhere(folder: Path, path: Path, stored: Result, source: Path | None, references: References, room: Path) -> Wrong:
    place, origin = _place(folder, stored, source)
    form = stated_form(origin, folder, place)
    if line := _other_images(place, origin, stored, form):
        return Wrong([line])
    if marked_here(stored):
        remarked = remark(folder, path, stored, room, place)
        return Wrong(remarked.wrong, remarked.judged, _believed(remarked))
    if stored.judge == FOREIGN:
        again = _imported(place, origin, stored, form, room)
    else:
        again = _scored(place, origin, stored, form, references, room)
    lines = [*other_facts(stored, again.result), *other_names(stored, path), *other_files(path, again.path)]
    return Wrong([f"{line} ({CAUSES})" for line in lines], again.result.measurements[0].n_asked)


def _imported(place: Path, origin: Source, stored: Result, form: FolderForm, room: Path) -> Scored:
    """An official results file read again."""
    again = brought(place, room, Marking(origin.suite, stored.rules, lenient=stored.is_lenient, form=form))
    if again is None:
        raise NotCheckedError(f"{place} is not read as results of {stored.evaluator} by this version")
    return again


def _scored(place: Path, origin: Source, stored: Result, form: FolderForm, references: References, room: Path) -> Scored:
    """Images elsewhere judged and scored again."""
    chosen = _way_of(stored, origin.suite)
    theirs = references.path if references.sha256 == stored.reference_sha256 else None
    options = Asked(
        origin.suite,
        theirs,
        stored.rules,
        profile=chosen.evaluator.profile,
        judge=chosen.judge,
        subset=origin.subset,
        form=form,
    )
    (again,) = evaluate(place, room, options, [stored.evaluator], origin.count)
    if again.result.reference_sha256 != stored.reference_sha256:
        raise NotCheckedError(f"reference {stored.reference} is not the suite's; give the file it was scored against")
    return again


def _other_images(place: Path, origin: Source, stored: Result, form: FolderForm) -> str | None:
    """Return a line where what lies elsewhere is not what was scored, by its hashes alone; None where it is."""
    try:
        if stored.judge == FOREIGN:
            digest = files_digest(place)
        elif marked_here(stored):
            suite = load_prompt_suite(origin.suite)
            digest = set_digest(open_prompt_images(place, origin.suite, suite, origin.count, form))
        else:
            digest = set_digest(chosen_samples(place, Asked(origin.suite, subset=origin.subset, form=form), origin.count))
    except SampleError as error:
        return f"{place} is not what was scored: {error}"
    return None if digest == stored.samples_sha256 else f"{place} is not what was scored: its sha256 is another one"


def _place(folder: Path, stored: Result, source: Path | None) -> tuple[Path, Source]:
    """Where the images lie; NotCheckedError where nothing says so or they are gone."""
    if stored.source is None:
        raise NotCheckedError("does not say where its images lie, so only its sha256 is checked; run eval on the images again")
    place = source or folder / stored.source.path
    if not place.exists():
        raise NotCheckedError(f"its images are not at {place}; give --source with where they are now")
    return place, stored.source


# -------------------------------------------------------------------------------------------- the network


def check_cost(folder: Path, path: Path, plan: Plan | None, findings: Findings) -> None:
    """Check a result of the network itself: its numbers from the forwards that are kept; what was timed cannot be timed again."""
    check_result(path, findings, lambda stored: _wrong_cost(folder, stored, plan))


def _wrong_cost(folder: Path, stored: Result, plan: Plan | None) -> Wrong:
    evaluator = load_feature_evaluator(stored.evaluator)
    score = evaluator.score(read_forwards(folder / OBSERVATIONS / FILE, evaluator), {})
    facts = {
        "version": evaluator.version,
        "profile": evaluator.profile,
        "parity": evaluator.parity,
        "rules": "official",
        "samples_sha256": NO_SAMPLES,
        "plan_digest": (plan or stored.plan).digest if plan or stored.plan else None,  # type: ignore[union-attr]
        "warnings": [warning.model_dump() for warning in warnings_of("evaluator", score.warnings)],
        "rule_differences": [],
        "is_lenient": False,
    }
    lines = list(unequal(stored.model_dump(mode="json", include=set(facts)), facts))
    lines += unequal(_by_name(stored.measurements), _by_name(score.measurements))
    return Wrong(lines, 0, "; measurements scored again from the forwards")


# ----------------------------------------------------------------------------------------------- compared


def reference_given(path: Path | None, cache_folder: Path) -> References:
    """Return the reference that the user names; StorageError where it cannot be read."""
    return References(path, sha256_file(path) if path else None, cache_folder)


def _by_name(measurements: Sequence[Measurement]) -> dict[str, object]:
    return {m.name: m.model_dump(mode="json") for m in measurements}


def unequal(found: Mapping[str, object], wanted: Mapping[str, object], name: str = "") -> Iterator[str]:
    """Where two nested mappings differ, as `judge.version is 2, should be 1`."""
    for key in {**wanted, **found}:
        a, b, here = found.get(key), wanted.get(key), f"{name}.{key}".strip(".")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from unequal(a, b, here)
        elif a != b:
            yield f"{here} is {_short(a)}, should be {_short(b)}"


def _short(value: object) -> str:
    text = "absent" if value is None else "there" if isinstance(value, Mapping) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def other_arrays(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> list[str]:
    """Names of arrays that are missing, too many, or differ in dtype, shape or any value."""
    return [k for k in sorted({*found, *wanted}) if k not in found or k not in wanted or not _same(found[k], wanted[k])]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
