"""Checkpoint and real pictures to predictions, and these to a result. Knows no network and no rule.

A run folder holds plan.json, what the checkpoint said of each picture (observations/NAME/00000.npz, a file a shard, kept and
resumed) and results/. The pictures themselves stay where they are; their hashes are in the shards.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError
from tqdm import tqdm

from harope_bench.core import checksums, registry
from harope_bench.core.conditioning import check_suite, fitting_suites, taken_by
from harope_bench.core.device import require
from harope_bench.core.errors import OptionError, PlanMismatch, SampleError, StorageError, WeightsError
from harope_bench.core.provenance import now, provenance
from harope_bench.core.schema import LENIENT, Checkpoint, JudgeRecord, Measurement, Plan, Provenance, Result, Settings, fault
from harope_bench.core.storage import arrays_bytes, check_hash, load_arrays, sha256_bytes, write_bytes
from harope_bench.data.sample_set import REQUESTS, Run
from harope_bench.evaluators.base import Observations, Score
from harope_bench.models.backbones.base import Classifier, load_backbone
from harope_bench.models.load_checkpoint import check_settings, checkpoint, open_classifier, weights_path
from harope_bench.pipeline.evaluate import LATER_FIELDS, OBSERVATIONS, RESULTS, Scored, read_result, standing, write_result
from harope_bench.suites.base import Pictures, load_suite

SHARD = 250  # pictures a file of predictions: what a kill may cost
ANSWERS = 5  # classes kept of each picture, the most likely first
TASK = "classify"
PICTURES = "pictures"  # per-sample array of the pictures' hashes


@dataclass(frozen=True)
class Wanted:
    """Which pictures are named, and how they are cut: a folder and a list where the suite ships none; `count` takes the first.

    lenient: Score although listed pictures are missing or damaged.
    """

    place: Path | None = None
    labels: Path | None = None
    count: int | None = None
    crop_ratio: float | None = None
    rescore: bool = False
    lenient: bool = False


class Shard(NamedTuple):
    """What a checkpoint said of some pictures: indices and ranked classes and logits of those that could be read, reasons of the rest."""

    indices: np.ndarray
    ranked: np.ndarray
    logits: np.ndarray
    failed: dict[int, str]
    rows: tuple[tuple[str, int, str], ...]


def reads(name: str) -> bool:
    """Whether a suite's pictures are named instead of drawn."""
    return load_suite(name).task == TASK


def names_pictures(found: Checkpoint) -> bool:
    """Whether a checkpoint is a classifier's."""
    return load_backbone(found.backbone).task == TASK


def reading_plan(name: str, suite: str | None, overrides: Mapping[str, Any]) -> Plan:
    """The plan of a classifier and a suite of real pictures.

    Raises:
        OptionError: no classifier, no such suite, another number of classes, or a setting that means nothing here.
    """
    found = checkpoint(name)
    chosen = suite or found.suite
    taken = taken_by(found.backbone, found.config)
    if chosen is None:
        known = ", ".join(fitting_suites(taken)) or "none is registered that it can serve"
        raise OptionError(f"checkpoint {name} has no suite of its own; add --suite, one of: {known}")
    check_suite(found, chosen)
    if taken.kind != "pictures":
        raise OptionError(f"checkpoint {name} ({found.backbone}) generates images and is no classifier; harope-bench generate {name}")
    plugin, backbone = load_suite(chosen), load_backbone(found.backbone)
    given = {key: value for key, value in overrides.items() if value is not None}
    check_settings(found, {**found.drawing, **given})
    try:
        settings = Settings(**{"resolution": plugin.resolution, "tile": backbone.tile, **found.drawing, **given})
    except ValidationError as error:
        raise OptionError(f"{fault(error)}; give --{error.errors()[0]['loc'][0]} another value") from error
    require(settings.device)
    backbone.check(found, settings)
    return Plan(checkpoint=found, suite=chosen, suite_version=plugin.version, settings=settings)


def classify(plan: Plan, out: Path, wanted: Wanted, evaluators: Sequence[str] | None = None) -> list[Scored]:
    """Names every picture that is not named yet, then scores; results and predictions go below `out`.

    Raises:
        OptionError: pictures missing or not fitting, an evaluator this suite has not. PlanMismatch: `out` is another plan's, or
            holds predictions of other pictures. WeightsError: weights missing, altered or not fitting.
    """
    check_suite(plan.checkpoint, plan.suite)
    suite = registry.load("suites", plan.suite)
    names = list(evaluators or suite.evaluators)
    for name in names:
        registry.find("evaluators", name)
        if name not in suite.evaluators:
            raise OptionError(f"suite {plan.suite} is scored by {', '.join(suite.evaluators)}, not by {name}; leave --with out")
    pictures = suite.pictures(wanted.place, wanted.labels)
    count = _count(pictures, wanted.count, plan.suite)
    check_hash(weights_path(plan.checkpoint), plan.checkpoint.sha256)
    run, judge = Run(out), judge_of(plan, pictures, wanted.crop_ratio)
    if run.plan is not None:
        run.claim(plan)  # another plan's folder is rejected as that
    if (more := len(run.asked())) > count:
        raise OptionError(
            f"{out} was asked for {more:,} pictures, --count {count:,} would score a part; leave it out or give another --out"
        )
    for name in names:
        _unclaimed(out / RESULTS / f"{name}.json", judge)

    # Nothing is written above this line: what is refused changes no run that stands there.
    run.claim(plan)
    run.ask(range(count))
    checksums.record_files(out, [REQUESTS])
    shards = _predict(plan, pictures, count, judge, out / OBSERVATIONS / plan.checkpoint.name, wanted)
    missing = missing_pictures(shards)
    return [_score(plan, shards, name, judge, out, missing, wanted.lenient) for name in names]


def missing_pictures(shards: Sequence[Shard]) -> int:
    """Return how many pictures have no answer: not there, damaged, or the network's output was not finite."""
    return sum(len(shard.failed) for shard in shards)


def without_values(measurements: Sequence[Measurement], missing: int, lenient: bool) -> tuple[Measurement, ...]:
    """Return the measurements, without values where pictures have no answer and nobody said to score the rest."""
    if not missing or lenient:
        return tuple(measurements)
    reason = f"{missing:,} pictures are missing, damaged or without an answer; mend them or the list, or --allow-missing scores the rest"
    absent = {"value": None, "se": None, "low": None, "high": None, "interval": None, "reason": reason}
    return tuple(Measurement.model_validate({**m.model_dump(), **absent}) for m in measurements)


def _unclaimed(path: Path, judge: JudgeRecord) -> None:
    """PlanMismatch if a result of other pictures, labels or another crop lies where this one would go."""
    found = read_result(path)
    if found is not None and found.judge != judge:
        fields = [key for key in ("preprocessing", "weights_sha256", "judge_class") if getattr(found.judge, key) != getattr(judge, key)]
        what = {"preprocessing": "another crop", "weights_sha256": "other pictures or labels"}.get(
            fields[0] if fields else "", "other labels"
        )
        raise PlanMismatch(f"{path} is of {what}; choose another --out")


def _count(pictures: Pictures, count: int | None, suite: str) -> int:
    held = len(pictures.names)
    if count is not None and count > held:
        raise OptionError(f"suite {suite} has {held:,} pictures here, --count asks for {count:,}; lower it")
    return count or held


def judge_of(plan: Plan, pictures: Pictures, crop_ratio: float | None) -> JudgeRecord:
    """Who judges a classifier: the labels. The hash is that of all pictures' names and labels."""
    suite = registry.load("suites", plan.suite)
    ratio = suite.crop_ratio if crop_ratio is None else crop_ratio
    side = plan.settings.resolution
    kind = "official" if pictures.whole and len(pictures.names) == suite.count else "substitute"
    return JudgeRecord(
        name=f"{plan.suite}-labels",
        version=plan.suite_version,
        judge_class="micro" if plan.checkpoint.scale == "micro" else kind,
        weights_sha256=sha256_bytes(repr(list(zip(pictures.names, pictures.labels, strict=True))).encode()),
        preprocessing=f"RGB; shorter side to {side}/{ratio:g}, bicubic; middle {side} x {side}",
    )


# ----------------------------------------------------------------------------------------------- predictions


def _predict(plan: Plan, pictures: Pictures, count: int, judge: JudgeRecord, folder: Path, wanted: Wanted) -> list[Shard]:
    """The shards of the first `count` pictures: those on disk that are of these bytes, the rest made now."""
    done: list[Shard] = []
    reader: Classifier | None = None
    ratio = registry.load("suites", plan.suite).crop_ratio if wanted.crop_ratio is None else wanted.crop_ratio
    with tqdm(total=count, desc=f"name {plan.checkpoint.name}", unit="picture", file=sys.stderr, disable=None) as bar:
        for first in range(0, count, SHARD):
            indices, path = range(first, min(count, first + SHARD)), folder / f"{first // SHARD:05d}.npz"
            taken = _bytes(pictures, indices)
            key = shard_key(plan, judge, taken.rows)
            shard = kept(path, key, taken.rows)
            if shard is None and wanted.rescore:
                raise SampleError(f"{folder} lacks what {plan.checkpoint.name} said of pictures {first:,} on; run eval without --rescore")
            if shard is None:
                reader = reader or open_classifier(plan.checkpoint, plan.settings)
                shard = _named(reader, plan, pictures, taken, ratio)
                data = arrays_bytes({**_arrays(shard), "key": np.array(key)})
                checksums.record(folder, {path.name: sha256_bytes(data)})  # first: a kill leaves no shard that nothing vouches for
                write_bytes(path, data)
            done.append(shard)
            bar.update(len(indices))
    return done


class Taken(NamedTuple):
    """The bytes of some pictures, why some have none, and a row (name, label, sha256 or reason) of each."""

    data: dict[int, bytes]
    failed: dict[int, str]
    rows: tuple[tuple[str, int, str], ...]


def _bytes(pictures: Pictures, indices: Sequence[int]) -> Taken:
    data, failed, rows, names, labels = {}, {}, [], pictures.names, pictures.labels
    for i in indices:
        try:
            data[i] = pictures.data(i)
            told = sha256_bytes(data[i])
        except SampleError as error:
            failed[i] = told = str(error)
        rows.append((names[i], int(labels[i]), told))
    return Taken(data, failed, tuple(rows))


def shard_key(plan: Plan, judge: JudgeRecord, rows: Sequence[tuple[str, int, str]]) -> str:
    """Hex digest of plan, preprocessing and pictures: a shard with another key is of other work and is made again."""
    return hashlib.sha256(f"{plan.digest}{judge.preprocessing}{list(rows)}".encode()).hexdigest()


def _arrays(shard: Shard) -> dict[str, np.ndarray]:
    reasons = {"failed": np.array(list(shard.failed), dtype=np.int64), "reasons": np.array(list(shard.failed.values()), dtype=np.str_)}
    return {"indices": shard.indices, "ranked": shard.ranked, "logits": shard.logits, **reasons}


def kept(path: Path, key: str, rows: tuple[tuple[str, int, str], ...]) -> Shard | None:
    """The shard on disk if it is of exactly this work; a damaged or altered one is made again."""
    if not path.is_file() or not checksums.intact(path.parent, path.name):
        return None
    try:
        a = load_arrays(path)
        if str(a["key"]) != key:
            return None
        failed = dict(zip(a["failed"].tolist(), map(str, a["reasons"]), strict=True))
        return Shard(a["indices"], a["ranked"], a["logits"], failed, rows)
    except (StorageError, KeyError, TypeError, ValueError):
        return None


def _named(reader: Classifier, plan: Plan, pictures: Pictures, taken: Taken, ratio: float) -> Shard:
    """Every picture of a shard named, tile by tile; index i sits in row i % tile, so neighbours change nothing."""
    tile, side, failed = plan.settings.tile, plan.settings.resolution, dict(taken.failed)
    logits: dict[int, np.ndarray] = {}
    for number in sorted({i // tile for i in taken.data}):
        images = np.zeros((tile, side, side, 3), dtype=np.uint8)
        for i in (i for i in taken.data if i // tile == number):
            try:
                images[i % tile] = pictures.look(i, taken.data[i], side, ratio)
                logits[i] = images[i % tile]  # a place, filled below
            except SampleError as error:
                failed[i] = str(error)
        said = reader.classify(images)
        for i in [i for i in logits if i // tile == number]:
            logits[i] = said[i % tile]
            if not np.isfinite(logits[i]).all():
                failed[i] = "the network's output is not finite"
                del logits[i]
    return _shard(logits, failed, taken.rows)


def _shard(logits: dict[int, np.ndarray], failed: dict[int, str], rows: tuple[tuple[str, int, str], ...]) -> Shard:
    indices = sorted(logits)
    whole = np.stack([logits[i] for i in indices]) if indices else np.zeros((0, ANSWERS), dtype=np.float32)
    ranked = np.argsort(-whole, axis=1, kind="stable")[:, :ANSWERS]
    best = np.take_along_axis(whole, ranked, 1).astype(np.float32)
    return Shard(np.array(indices, dtype=np.int64), ranked.astype(np.int64), best, dict(sorted(failed.items())), rows)


# --------------------------------------------------------------------------------------------------- results


def seen_in(shards: Sequence[Shard]) -> Observations:
    """All predictions in index order, with the labels of the pictures."""
    rows = [row for shard in shards for row in shard.rows]
    joined = {name: np.concatenate([getattr(s, name) for s in shards]) for name in ("indices", "ranked", "logits")}
    labels = np.array([label for _, label, _ in rows], dtype=np.int64)[joined["indices"]]
    return Observations(joined.pop("indices"), labels, joined, failed=sum(len(s.failed) for s in shards))


def _facts(plan: Plan, shards: Sequence[Shard], name: str, judge: JudgeRecord, out: Path) -> dict[str, Any]:
    """What decides a result beside the predictions."""
    evaluator: Any = registry.load("evaluators", name)
    rows = [row for shard in shards for row in shard.rows]
    failed = sorted((i, why) for shard in shards for i, why in shard.failed.items())
    return {
        "evaluator": name,
        "version": evaluator.version,
        "profile": evaluator.profile,
        "rules": "official",
        "samples_sha256": sha256_bytes(f"{plan.digest}{rows}{failed}".encode()),
        "reference_sha256": sha256_bytes(repr(rows).encode()),
        "target": out.name,
        "judge": judge,
    }


def _scored(name: str, shards: Sequence[Shard]) -> tuple[Observations, Score]:
    """All predictions, and what an evaluator gives for them."""
    seen = seen_in(shards)
    return seen, registry.load("evaluators", name).score(seen, {})


def _score(plan: Plan, shards: Sequence[Shard], name: str, judge: JudgeRecord, out: Path, missing: int, lenient: bool) -> Scored:
    started, path = now(), out / RESULTS / f"{name}.json"
    current = standing(path, _facts(plan, shards, name, judge, out))
    # A version before scored the rest where a picture was damaged.
    is_of_rest = current is not None and any(m.value is not None for m in current.measurements)
    if current is not None and current.lenient == (lenient and missing > 0) and (lenient or not (missing and is_of_rest)):
        return Scored(current, path, False)
    seen, score = _scored(name, shards)
    made_by = provenance(started, plan.settings.device)
    result = _result(plan, shards, name, judge, out, score, made_by, path, missing, lenient)
    return Scored(write_result(path, result, _per_sample(score, seen, shards)), path, True)


def _result(
    plan: Plan,
    shards: Sequence[Shard],
    name: str,
    judge: JudgeRecord,
    out: Path,
    score: Score,
    made_by: Provenance,
    path: Path,
    missing: int,
    lenient: bool,
) -> Result:
    """Return the result of these predictions; all of it but target and provenance follows from what is here."""
    return Result(
        **_facts(plan, shards, name, judge, out),
        parity=registry.load("evaluators", name).parity,
        scale=plan.checkpoint.scale,
        suite=plan.suite,
        resolution=plan.settings.resolution,
        plan=plan,
        plan_digest=plan.digest,
        reference=f"labels of {sum(len(s.rows) for s in shards):,} pictures of {plan.suite}",
        measurements=without_values(score.measurements, missing, lenient),
        warnings=(*((LENIENT,) if lenient and missing else ()), *_first_reasons(shards), *score.warnings),
        per_sample=path.with_suffix(".npz").name,
        provenance=made_by,
    )


def _per_sample(score: Score, seen: Observations, shards: Sequence[Shard]) -> dict[str, np.ndarray]:
    """Return the scores with what each picture is: its hash as `pictures` (N, 32) uint8, and its label, so that equal pictures pair."""
    rows = [row for shard in shards for row in shard.rows]
    hashes = b"".join(bytes.fromhex(rows[i][2]) for i in seen.indices.tolist())
    arrays = {k: np.asarray(v) for k, v in score.per_sample.items()}
    pictures = np.frombuffer(hashes, dtype=np.uint8).reshape(-1, 32)
    return arrays | {"indices": seen.indices, "labels": np.asarray(seen.labels, dtype=np.int64), PICTURES: pictures}


def _first_reasons(shards: Sequence[Shard]) -> tuple[str, ...]:
    """Why the first few pictures failed."""
    failed = [(i, why) for shard in shards for i, why in shard.failed.items()]
    return tuple(f"picture {i} failed: {why}" for i, why in failed[:3])


# ---------------------------------------------------------------------------------------------------- verify


class Checked(NamedTuple):
    """What was checked, in words, what was wrong, and what could not be checked."""

    checked: list[str]
    wrong: list[str]
    unchecked: list[str]


def recheck(folder: Path, wanted: Wanted, chosen: int, chooser: Any) -> Checked:
    """Pictures hashed again, predictions scored again, `chosen` shards' worth of pictures named again, all compared with the records.

    Raises:
        OptionError: the pictures are not there.
    """
    run = Run(folder, is_checked=False)
    plan = run.plan
    assert plan is not None
    suite = registry.load("suites", plan.suite)
    pictures, count = suite.pictures(wanted.place, wanted.labels), len(run.asked())
    judge = judge_of(plan, pictures, wanted.crop_ratio)
    told = Checked([], [], [])
    if not count:
        told.wrong.append(f"{folder / REQUESTS} asks for no picture, and a classifier's run names at least one")
        return told
    shards = _kept_shards(plan, pictures, count, judge, folder, told)
    missing = missing_pictures(shards)
    if len(shards) == -(-count // SHARD):
        for path in sorted((folder / RESULTS).glob("*.json")):
            told.wrong.extend(f"{path}: {line}" for line in _wrong_result(path, plan, shards, judge, folder, missing))
            told.checked.append(f"{path.name}: facts, measurements and arrays scored again from the predictions")
    if chosen and shards:
        ratio = suite.crop_ratio if wanted.crop_ratio is None else wanted.crop_ratio
        try:
            _name_again(plan, pictures, shards, chosen, chooser, ratio, told)
        except WeightsError as error:
            told.unchecked.append(f"{folder}: nothing named again: {error}")
    return told


def _kept_shards(plan: Plan, pictures: Pictures, count: int, judge: JudgeRecord, folder: Path, told: Checked) -> list[Shard]:
    shards = []
    for first in range(0, count, SHARD):
        path = folder / OBSERVATIONS / plan.checkpoint.name / f"{first // SHARD:05d}.npz"
        rows = _bytes(pictures, range(first, min(count, first + SHARD))).rows
        shard = kept(path, shard_key(plan, judge, rows), rows)
        if shard is None:
            told.wrong.append(f"{path} is missing, damaged, or of other pictures or another crop than are here now")
        else:
            shards.append(shard)
    told.checked.append(f"{count:,} picture hashes and labels compared with those that were named")
    return shards


def _wrong_result(path: Path, plan: Plan, shards: Sequence[Shard], judge: JudgeRecord, folder: Path, missing: int) -> list[str]:
    stored = read_result(path)
    if stored is None:
        return ["is not a result this version reads"]
    if stored.evaluator not in registry.load("suites", plan.suite).evaluators:
        return [f"evaluator {stored.evaluator} is not one of suite {plan.suite}"]
    seen, score = _scored(stored.evaluator, shards)
    again = _result(plan, shards, stored.evaluator, judge, folder, score, stored.provenance, path, missing, stored.lenient)
    exempt = {"target", "label", "measurements"}  # a folder may be moved, a label is the user's; measurements are compared below
    exempt |= {name for name in LATER_FIELDS if getattr(stored, name) is None}
    fields = [name for name in Result.model_fields if name not in exempt]
    wrong = [f"{name} is not what is here now" for name in fields if getattr(stored, name) != getattr(again, name)]
    if stored.measurements != again.measurements:
        wrong.append("measurements are not what the predictions give")
    held = load_arrays(path.with_suffix(".npz")) if path.with_suffix(".npz").is_file() else {}
    fresh = _per_sample(score, seen, shards)
    if PICTURES not in held:  # results written before pictures had their hashes there
        fresh = {name: array for name, array in fresh.items() if name not in (PICTURES, "labels")}
    if held.keys() != fresh.keys() or any(not np.array_equal(held[k], fresh[k]) for k in fresh):
        wrong.append("per-sample arrays are not what the predictions give")
    return wrong


def _name_again(plan: Plan, pictures: Pictures, shards: Sequence[Shard], count: int, chooser: Any, ratio: float, told: Checked) -> None:
    """Some pictures named again; the same five classes and logits must come out."""
    known = {int(i): (s.ranked[k], s.logits[k]) for s in shards for k, i in enumerate(s.indices)}
    chosen = sorted(chooser.sample(sorted(known), min(count, len(known))))
    reader = open_classifier(plan.checkpoint, plan.settings)
    for i in chosen:
        again = _named(reader, plan, pictures, _bytes(pictures, [i]), ratio)
        if i in again.failed or not (np.array_equal(again.ranked[0], known[i][0]) and np.allclose(again.logits[0], known[i][1], atol=1e-4)):
            told.wrong.append(f"picture {i} named again gives other classes or logits (altered, or other hardware, threads or libraries)")
    told.checked.append(f"{len(chosen)} pictures named again: {', '.join(map(str, chosen))}")
