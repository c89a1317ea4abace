"""Checks a run against its own records: images, results judged and scored again, and some samples drawn again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from harope_bench import registry
from harope_bench.catalogue import checkpoint, open_drawer, weights_path
from harope_bench.classify import Wanted, reads, recheck
from harope_bench.errors import BenchError, OptionError, SampleError
from harope_bench.evaluate import OBSERVATIONS, RESULTS, Asked, Way, notes, read_result, set_digest, way
from harope_bench.generate import draw_one
from harope_bench.observe import DIFFERENT, Seen, judge_record, observe, others
from harope_bench.pixels import encode
from harope_bench.records import Checkpoint, Measurement, Plan, Result, SampleRecord
from harope_bench.references import Opened, open_reference
from harope_bench.remark import marked_here, remark
from harope_bench.samples import PLAN, Run, SampleSet, open_samples
from harope_bench.store import check_hash, load_arrays, sha256_bytes, sha256_file

CAUSES = "altered, or other hardware, threads or library versions"


@dataclass
class Findings:
    """What was checked, in words, and what was wrong."""

    checked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Given(NamedTuple):
    """The run, and the reference file that its results may have been scored against."""

    samples: SampleSet
    plan: Plan
    reference: Path | None
    reference_sha256: str | None


def verify(
    folder: Path,
    redraw: int,
    seed: int | None = None,
    reference: Path | None = None,
    images: Path | None = None,
    labels: Path | None = None,
    crop_ratio: float | None = None,
) -> Findings:
    """Checks image hashes, judges all images again, scores them again, and redraws `redraw` samples of a run folder.

    A classifier's run has its predictions compared and scored again instead, and `redraw` pictures named again.

    Args:
        seed: which samples are drawn again; None chooses at random.
        reference: the file that `eval --reference` was given; a result of a reference that is neither the suite's nor this is wrong.
        images, labels, crop_ratio: where a classifier's pictures lie and how they were cut, as `eval` was told.

    Raises:
        SampleError: the folder is no run, or its checkpoint is another one now. StorageError: the reference is not readable.
    """
    chooser = random.SystemRandom() if seed is None else random.Random(seed)
    plan = Run(folder).plan
    if plan is not None and reads(plan.suite):
        return Findings(*recheck(folder, Wanted(images, labels, crop_ratio=crop_ratio), redraw, chooser))
    samples = open_samples(folder) if (folder / PLAN).exists() else None
    if samples is None or samples.plan is None:
        raise SampleError(f"{folder} has no {PLAN}; give a folder that `generate` or `eval` made")
    given = Given(samples, samples.plan, reference, sha256_file(reference) if reference else None)
    drawable = _checkpoint(given.plan) if redraw else None  # cheap, and may fail: before all images are judged
    findings = Findings()
    sound = _images(samples, findings)
    _results(given, sound, findings)
    if drawable is not None:
        _redraw(given, drawable, redraw, chooser, findings)
    return findings


def _images(samples: SampleSet, findings: Findings) -> bool:
    """Whether every image is the recorded one."""
    before = len(findings.wrong)
    for index in samples.indices:
        try:
            samples.check(index)
        except SampleError as error:
            findings.wrong.append(str(error))
    wrong = len(findings.wrong) - before
    findings.checked.append(f"{len(samples.indices):,} image hashes, {wrong:,} wrong")
    return not wrong


# ---------------------------------------------------------------------------------------------- results


def _results(given: Given, sound: bool, findings: Findings) -> None:
    """Every result file against what it should say; images are judged again once per judge, never read from the run's observations."""
    folder, paths = given.samples.path, sorted((given.samples.path / RESULTS).glob("*.json"))
    with TemporaryDirectory(prefix="harope-bench-") as temporary:
        look = cache(lambda judge: observe(given.samples, judge, Path(temporary) / judge, "cpu", rescore=False))
        for path in paths:
            wrong, judged, told = _marked(path, given, Path(temporary), sound) or (*_wrong_in(path, given, look if sound else None), "")
            findings.wrong += [f"{path}: {line}" for line in wrong]
            again = f"{judged:,} images judged again, measurements and arrays scored again" if judged else "images not judged again"
            findings.checked.append(f"{path.name}: plan, judge, reference and versions compared; {again}{told}; {len(wrong):,} wrong")
        _observations(folder, Path(temporary), findings)
    if not paths:
        findings.checked.append("no results to check")


class Wrong(NamedTuple):
    """What is wrong in a result, and how many images were judged to know it."""

    lines: list[str]
    judged: int = 0


def _marked(path: Path, given: Given, room: Path, sound: bool) -> tuple[list[str], int, str] | None:
    """The same of a result of prompts, and whose answers had to be believed; None for any other result."""
    stored = read_result(path)
    if stored is None or not marked_here(stored):
        return None
    if not sound:
        return ["not judged again, because images are wrong"], 0, ""
    try:
        found = remark(given.samples.path, path, stored, room / path.stem)
    except BenchError as error:
        return [str(error)], 0, ""
    believed = f"; answers of {', '.join(found.believed)} believed, which run elsewhere" if found.believed else ""
    return found.wrong, found.judged, believed


def _wrong_in(path: Path, given: Given, look: Callable[[str], Seen] | None) -> Wrong:
    stored = read_result(path)
    if stored is None:
        return Wrong(["is not a result this version reads"])
    lines: list[str] = []
    try:
        chosen, reference = _rules_of(stored, path, given, None if look is None else given.samples.shape)
        lines += _wrong_facts(stored, path, chosen, given)
        lines += _wrong_reference(stored, reference, given)
        if look is None:
            return Wrong([*lines, "not judged again, because images are wrong"])
        if reference.sha256 != stored.reference_sha256:
            return Wrong(lines)
        seen = look(chosen.judge)
        return Wrong([*lines, *_wrong_scores(stored, path, chosen, reference, given, seen)], seen.fresh)
    except BenchError as error:
        return Wrong([*lines, str(error)])


def _rules_of(stored: Result, path: Path, given: Given, shape: tuple[int, ...] | None) -> tuple[Way, Opened]:
    """Evaluator, profile and judge, and the reference: the file given if the result is of it, else the suite's.

    A profile or a judge that is not the suite's own stands in the name of the file.
    """
    suite, parts = registry.load("suites", given.plan.suite), path.stem.split("_")[1:]
    if stored.evaluator not in suite.judges:
        raise OptionError(f"evaluator {stored.evaluator} has no judge in this suite; it has {', '.join(suite.judges) or 'none'}")
    profile = stored.profile if stored.profile in parts else None
    judge = stored.judge.name if stored.judge.name in parts else None
    chosen = way(suite, stored.evaluator, Asked(given.plan.suite, profile=profile, judge=judge))
    theirs = given.reference if given.reference_sha256 == stored.reference_sha256 else None
    return chosen, open_reference(suite, chosen.judge, theirs, shape=shape)


def _wrong_facts(stored: Result, path: Path, chosen: Way, given: Given) -> Iterator[str]:
    """Everything a result says that no network is needed for."""
    evaluator, record = chosen.evaluator, judge_record(chosen.judge)
    facts = {
        "version": evaluator.version,
        "profile": evaluator.profile,
        "scale": "micro" if record.judge_class == "micro" else "paper",
        "plan": given.plan.model_dump(mode="json"),
        "plan_digest": given.plan.digest,
        "samples_sha256": set_digest(given.samples),
        "judge": record.model_dump(mode="json"),
        "per_sample": path.with_suffix(".npz").name,
    }
    yield from unequal(stored.model_dump(mode="json", include=set(facts)), facts)
    if stored.rules not in evaluator.rules:
        yield f"rules is {stored.rules}, evaluator {stored.evaluator} has {', '.join(evaluator.rules)}"


def _wrong_reference(stored: Result, reference: Opened, given: Given) -> Iterator[str]:
    if reference.sha256 != stored.reference_sha256:
        found, own = stored.reference_sha256[:12], reference.sha256[:12]
        yield f"reference {stored.reference} ({found}...) is not the suite's ({own}...); give the file it was scored against"
    elif reference.sha256 != given.reference_sha256 and reference.name != stored.reference:  # a user's file may move, its hash decides
        yield f"reference is {stored.reference}, should be {reference.name}"


def _wrong_scores(stored: Result, path: Path, chosen: Way, reference: Opened, given: Given, seen: Seen) -> Iterator[str]:
    """Measurements, warnings and per-sample arrays against a score of what the judge saw just now."""
    score = chosen.evaluator.score(seen.observations, reference.arrays)
    suite = registry.load("suites", given.plan.suite)
    name = given.plan.suite
    told = notes(given.samples, suite, name, given.reference)
    yield from (f"{line} ({CAUSES})" for line in unequal(_by_name(stored.measurements), _by_name(score.measurements)))
    warnings = [*given.samples.warnings, *told, *seen.warnings, *reference.warnings, *score.warnings]
    facts = {"warnings": warnings, "order": [m.name for m in score.measurements]}
    said = [line for line in stored.warnings if not line.startswith(DIFFERENT)]  # of how it was looked at then, which is over
    yield from unequal({"warnings": said, "order": [m.name for m in stored.measurements]}, facts)
    yield from _wrong_rows(path.with_suffix(".npz"), {**score.per_sample, "indices": seen.observations.indices})


def _wrong_rows(path: Path, rows: Mapping[str, np.ndarray]) -> Iterator[str]:
    if not path.is_file():
        yield f"{path.name} beside it is gone; run eval --rescore"
        return
    different = other_arrays(load_arrays(path), {name: np.asarray(row) for name, row in rows.items()})
    yield from (f"{path.name}: {name} is not what was scored again ({CAUSES})" for name in different)


def _by_name(measurements: Sequence[Measurement]) -> dict[str, Any]:
    return {m.name: m.model_dump(mode="json") for m in measurements}


def unequal(found: Mapping[str, Any], wanted: Mapping[str, Any], name: str = "") -> Iterator[str]:
    """Where two nested mappings differ, as `judge.version is 2, should be 1`."""
    for key in {**wanted, **found}:
        a, b, here = found.get(key), wanted.get(key), f"{name}.{key}".strip(".")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from unequal(a, b, here)
        elif a != b:
            yield f"{here} is {_short(a)}, should be {_short(b)}"


def _short(value: Any) -> str:
    text = "absent" if value is None else "there" if isinstance(value, Mapping) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def other_arrays(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> list[str]:
    """Names of arrays that are missing, too many, or differ in dtype, shape or any value."""
    return [k for k in sorted({*found, *wanted}) if k not in found or k not in wanted or not _same(found[k], wanted[k])]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _observations(folder: Path, fresh: Path, findings: Findings) -> None:
    """The shards that the run keeps against those of now; one that is gone is no fault, eval makes it again."""
    pairs = [(folder / OBSERVATIONS / s.parent.name / s.name, s) for s in sorted(fresh.glob("*/[0-9]*.json"))]
    kept = [(old, new) for old, new in pairs if old.is_file()]
    for old, new in kept:
        if names := others(old, new):
            findings.wrong.append(f"{old}: {', '.join(names)} not what {old.parent.name} sees now ({CAUSES})")
    if kept:
        findings.checked.append(f"{len(kept):,} shards of observations compared with what the judge sees now")


# ----------------------------------------------------------------------------------------------- redraw


def _checkpoint(plan: Plan) -> Checkpoint:
    """The run's checkpoint, if it is here with the run's weights."""
    found = checkpoint(plan.checkpoint.name)
    if found.sha256 != plan.checkpoint.sha256:
        raise SampleError(
            f"checkpoint {found.name} is registered with other weights than this run's, nothing can be drawn again; "
            "--redraw 0 checks the rest"
        )
    check_hash(weights_path(found), found.sha256)
    return found


def _redraw(given: Given, found: Checkpoint, count: int, chooser: random.Random, findings: Findings) -> None:
    """Draws some samples again, failed ones among them, and compares with their records."""
    drawer, records = open_drawer(found, given.plan.settings), Run(given.samples.path).records()
    known = sorted({*given.samples.indices, *given.samples.failed})
    chosen = sorted(chooser.sample(known, min(count, len(known))))
    for index in chosen:
        if not _is_of(records[index], draw_one(drawer, given.plan, index)):
            findings.wrong.append(f"sample {index} drawn again is another image ({CAUSES})")
    findings.checked.append(f"{len(chosen)} samples drawn again: {', '.join(map(str, chosen))}")


def _is_of(record: SampleRecord, image: np.ndarray | None) -> bool:
    if image is None:
        return record.status == "failed"
    return record.status == "ok" and record.sha256 == sha256_bytes(encode(image))
