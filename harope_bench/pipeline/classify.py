"""Checkpoint and real pictures to predictions, and these to a result. Knows no network and no rule.

A run folder holds plan.json, what the checkpoint said of each picture (observations/NAME/00000.npz,
a file a shard, kept and
resumed) and results/. The pictures themselves stay where they are; their hashes are in the shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from harope_bench.core import checksums, registry
from harope_bench.core.array_archive import load_arrays
from harope_bench.core.conditioning import (
    backbone_conditioning,
    check_checkpoint_suite,
    compatible_suites,
)
from harope_bench.core.device import require_device
from harope_bench.core.errors import BenchError, OptionError, PlanMismatchError, WeightsError
from harope_bench.core.provenance import make_provenance, utc_now
from harope_bench.core.record_base import Option, validation_summary
from harope_bench.core.schema import (
    LENIENT_WARNING,
    Checkpoint,
    JudgeRecord,
    Measurement,
    Plan,
    Provenance,
    Result,
    Settings,
    make_warnings,
)
from harope_bench.core.state_dicts import check_sha256
from harope_bench.core.storage import sha256_bytes
from harope_bench.data.result_paths import arrays_path, result_path, result_paths
from harope_bench.data.result_store import (
    EvaluatedResult,
    ResultMethod,
    ResultSubject,
    build_result,
    find_current_result,
    find_result,
    read_result,
    write_result,
)
from harope_bench.data.run_folder import PREDICTIONS_FOLDER, REQUESTS_FILE, RunFolder
from harope_bench.evaluators.base import EvaluatorOutput, Features, load_feature_evaluator
from harope_bench.models.backbones.base import load_backbone
from harope_bench.models.load_checkpoint import (
    check_settings,
    load_checkpoint_record,
    open_classifier,
    weights_path,
)
from harope_bench.pipeline.differing_fields import differing_fields
from harope_bench.pipeline.predictions import (
    SHARD_SIZE,
    PredictionShard,
    classify_images,
    find_shard,
    predict,
    read_image_bytes,
    shard_key,
    shard_path,
)
from harope_bench.suites.base import (
    ClassificationSuite,
    RealImages,
    load_classification_suite,
    load_suite,
)

TASK = "classify"
IMAGE_HASHES = "pictures"  # per-sample array of the pictures' hashes


@dataclass(frozen=True)
class RealImageSelection:
    """Which pictures are named, and how they are cut: a folder and a list where the suite ships
    none; `count` takes the first.

    lenient: Score although listed pictures are missing or damaged.
    """

    folder: Path | None = None
    labels: Path | None = None
    count: int | None = None
    crop_ratio: float | None = None
    is_rescored: bool = False
    is_lenient: bool = False


def is_classification_suite(name: str) -> bool:
    """Whether a suite's pictures are named instead of drawn."""
    return isinstance(load_suite(name), ClassificationSuite)


def is_classifier(found: Checkpoint) -> bool:
    """Whether a checkpoint is a classifier's."""
    return load_backbone(found.backbone).task == TASK


def make_classifier_plan(
    name: str, suite: str | None, overrides: Mapping[str, Option | None]
) -> Plan:
    """The plan of a classifier and a suite of real pictures.

    Raises:
        OptionError: no classifier, no such suite, another number of classes, or a setting that
            means nothing here.
    """
    found = load_checkpoint_record(name)
    chosen = suite or found.suite
    taken = backbone_conditioning(found.backbone, found.config)
    if chosen is None:
        known = ", ".join(compatible_suites(taken)) or "none is registered that it can serve"
        raise OptionError(
            f"checkpoint {name} has no suite of its own; add --suite, one of: {known}"
        )
    check_checkpoint_suite(found, chosen)
    if taken.kind != "pictures":
        raise OptionError(
            f"checkpoint {name} ({found.backbone}) generates images and is no classifier;"
            f" harope-bench generate {name}"
        )
    plugin = load_suite(chosen)
    backbone = load_backbone(found.backbone)
    given = {key: value for key, value in overrides.items() if value is not None}
    check_settings(found, {**found.drawing, **given})
    try:
        settings = Settings.model_validate(
            {"resolution": plugin.resolution, "tile": backbone.tile, **found.drawing, **given}
        )
    except ValidationError as error:
        raise OptionError(
            f"{validation_summary(error)}; give --{error.errors()[0]['loc'][0]} another value"
        ) from error
    require_device(settings.device)
    backbone.check_inputs(found, settings)
    return Plan(checkpoint=found, suite=chosen, suite_version=plugin.version, settings=settings)


def classify(
    plan: Plan, out: Path, wanted: RealImageSelection, evaluators: Sequence[str] | None = None
) -> list[EvaluatedResult]:
    """Names every picture that is not named yet, then scores; results and predictions go below
    `out`.

    Raises:
        OptionError: pictures missing or not fitting, an evaluator this suite has not. PlanMismatch:
            `out` is another plan's, or
            holds predictions of other pictures. WeightsError: weights missing, altered or not
            fitting.
    """
    check_checkpoint_suite(plan.checkpoint, plan.suite)
    suite = load_classification_suite(plan.suite)
    names = list(evaluators or suite.evaluators)
    for name in names:
        registry.find_entry("evaluators", name)
        if name not in suite.evaluators:
            raise OptionError(
                f"suite {plan.suite} is scored by {', '.join(suite.evaluators)}, not by {name};"
                " leave --with out"
            )
    pictures = suite.real_images(wanted.folder, wanted.labels)
    count = _count(pictures, wanted.count, plan.suite)
    check_sha256(weights_path(plan.checkpoint), plan.checkpoint.sha256)
    run = RunFolder(out)
    judge = label_judge_record(plan, pictures, wanted.crop_ratio)
    if run.plan is not None:
        run.tie_to_plan(plan)  # another plan's folder is rejected as that
    if (more := len(run.requested_indices())) > count:
        raise OptionError(
            f"{out} was asked for {more:,} pictures, --count {count:,} would score a part; leave it"
            " out or give another --out"
        )
    for name in names:
        _check_unclaimed(result_path(out, name), judge)

    # Nothing is written above this line: what is refused changes no run that stands there.
    run.tie_to_plan(plan)
    run.record_request(range(count))
    checksums.record_file_hashes(out, [REQUESTS_FILE])
    ratio = suite.crop_ratio if wanted.crop_ratio is None else wanted.crop_ratio
    shards = predict(
        plan,
        pictures,
        count,
        judge,
        out / PREDICTIONS_FOLDER / plan.checkpoint.name,
        ratio,
        wanted.is_rescored,
    )
    missing = count_missing_images(shards)
    return [_score(plan, shards, name, judge, out, missing, wanted.is_lenient) for name in names]


def count_missing_images(shards: Sequence[PredictionShard]) -> int:
    """Return how many pictures have no answer: not there, damaged, or the network's output was not
    finite.
    """
    return sum(len(shard.failed) for shard in shards)


def drop_values(
    measurements: Sequence[Measurement], missing: int, lenient: bool
) -> tuple[Measurement, ...]:
    """Return the measurements, without values where pictures have no answer and nobody said to
    score the rest.
    """
    if not missing or lenient:
        return tuple(measurements)
    reason = (
        f"{missing:,} pictures are missing, damaged or without an answer; mend them or the list, or"
        " --allow-missing scores the rest"
    )
    absent = {
        "value": None,
        "se": None,
        "low": None,
        "high": None,
        "interval": None,
        "reason": reason,
    }
    return tuple(Measurement.model_validate({**m.model_dump(), **absent}) for m in measurements)


def _check_unclaimed(path: Path, judge: JudgeRecord) -> None:
    """PlanMismatch if a result of other pictures, labels or another crop lies where this one would
    go.
    """
    found = find_result(path)
    if found is not None and found.judge != judge:
        raise PlanMismatchError(
            f"{path} is of {_different_pictures(found.judge, judge)}; choose another --out"
        )


def _different_pictures(stored: JudgeRecord, judge: JudgeRecord) -> str:
    """Return in words in what the labels that judge a classifier differ."""
    if stored.preprocessing != judge.preprocessing:
        return "another crop"
    return (
        "other pictures or labels"
        if stored.weights_sha256 != judge.weights_sha256
        else "other labels"
    )


def _count(pictures: RealImages, count: int | None, suite: str) -> int:
    held = len(pictures.names)
    if count is not None and count > held:
        raise OptionError(
            f"suite {suite} has {held:,} pictures here, --count asks for {count:,}; lower it"
        )
    return count or held


def label_judge_record(plan: Plan, pictures: RealImages, crop_ratio: float | None) -> JudgeRecord:
    """Who judges a classifier: the labels. The hash is that of all pictures' names and labels."""
    suite = load_classification_suite(plan.suite)
    ratio = suite.crop_ratio if crop_ratio is None else crop_ratio
    side = plan.settings.resolution
    kind = (
        "official" if pictures.is_complete and len(pictures.names) == suite.count else "substitute"
    )
    return JudgeRecord(
        name=f"{plan.suite}-labels",
        version=plan.suite_version,
        judge_class="micro" if plan.checkpoint.scale == "micro" else kind,
        weights_sha256=sha256_bytes(
            repr(list(zip(pictures.names, pictures.labels, strict=True))).encode()
        ),
        preprocessing=f"RGB; shorter side to {side}/{ratio:g}, bicubic; middle {side} x {side}",
    )


# ---------------------------------------------------------------------------------------------------
# results


def join_predictions(shards: Sequence[PredictionShard]) -> Features:
    """All predictions in index order, with the labels of the pictures."""
    rows = _rows(shards)
    indices = np.concatenate([shard.indices for shard in shards])
    ranked = np.concatenate([shard.ranked_classes for shard in shards])
    logits = np.concatenate([shard.logits for shard in shards])
    labels = np.array([label for _, label, _ in rows], dtype=np.int64)[indices]
    return Features(
        indices,
        labels,
        {"ranked": ranked, "logits": logits},
        failed=sum(len(s.failed) for s in shards),
    )


def _subject(plan: Plan, shards: Sequence[PredictionShard], out: Path) -> ResultSubject:
    """Return the pictures as the subject of a result."""
    failed = sorted((i, why) for shard in shards for i, why in shard.failed.items())
    sha256 = sha256_bytes(f"{plan.digest}{_rows(shards)}{failed}".encode())
    return ResultSubject(out.name, sha256, plan, plan.suite, plan.settings.resolution)


def _method(
    plan: Plan, shards: Sequence[PredictionShard], name: str, judge: JudgeRecord, is_lenient: bool
) -> ResultMethod:
    """Return how an evaluator scores the predictions; is_lenient: pictures are missing and may
    be.
    """
    rows = _rows(shards)
    reference = f"labels of {len(rows):,} pictures of {plan.suite}"
    return ResultMethod(
        name,
        load_feature_evaluator(name),
        judge,
        reference,
        sha256_bytes(repr(rows).encode()),
        is_lenient=is_lenient,
    )


def _rows(shards: Sequence[PredictionShard]) -> list[tuple[str, int, str]]:
    return [row for shard in shards for row in shard.image_rows]


def _score_predictions(
    name: str, shards: Sequence[PredictionShard]
) -> tuple[Features, EvaluatorOutput]:
    """All predictions, and what an evaluator gives for them."""
    seen = join_predictions(shards)
    return seen, load_feature_evaluator(name).evaluate(seen, {})


def _score(
    plan: Plan,
    shards: Sequence[PredictionShard],
    name: str,
    judge: JudgeRecord,
    out: Path,
    missing: int,
    lenient: bool,
) -> EvaluatedResult:
    started = utc_now()
    path = result_path(out, name)
    subject = _subject(plan, shards, out)
    method = _method(plan, shards, name, judge, lenient and missing > 0)
    current = find_current_result(path, subject, method)
    # A version before scored the rest where a picture was damaged.
    is_of_rest = current is not None and any(m.value is not None for m in current.measurements)
    if current is not None and (lenient or not (missing and is_of_rest)):
        return EvaluatedResult(current, path, False)
    seen, score = _score_predictions(name, shards)
    result = _result(
        path,
        subject,
        method,
        score,
        shards,
        missing,
        make_provenance(started, plan.settings.device),
    )
    return EvaluatedResult(write_result(path, result, _per_sample(score, seen, shards)), path, True)


def _result(
    path: Path,
    subject: ResultSubject,
    method: ResultMethod,
    score: EvaluatorOutput,
    shards: Sequence[PredictionShard],
    missing: int,
    made_by: Provenance,
) -> Result:
    """Return the result of these predictions; all of it but target and provenance follows from what
    is here.
    """
    valued = score._replace(
        measurements=drop_values(score.measurements, missing, method.is_lenient)
    )
    warnings = (
        *make_warnings("lenient", [LENIENT_WARNING] if method.is_lenient else []),
        *make_warnings("images", _first_reasons(shards)),
    )
    scale = subject.plan.checkpoint.scale if subject.plan is not None else None
    return build_result(path, subject, method, valued, made_by, warnings, scale=scale)


def _per_sample(
    score: EvaluatorOutput, seen: Features, shards: Sequence[PredictionShard]
) -> dict[str, np.ndarray]:
    """Return the scores with what each picture is: its hash as `pictures` (N, 32) uint8, and its
    label, so that equal pictures pair.
    """
    rows = _rows(shards)
    hashes = b"".join(bytes.fromhex(rows[i][2]) for i in seen.indices.tolist())
    arrays = {k: np.asarray(v) for k, v in score.per_sample.items()}
    pictures = np.frombuffer(hashes, dtype=np.uint8).reshape(-1, 32)
    return arrays | {
        "indices": seen.indices,
        "labels": np.asarray(seen.labels, dtype=np.int64),
        IMAGE_HASHES: pictures,
    }


def _first_reasons(shards: Sequence[PredictionShard]) -> tuple[str, ...]:
    """Why the first few pictures failed."""
    failed = [(i, why) for shard in shards for i, why in shard.failed.items()]
    return tuple(f"picture {i} failed: {why}" for i, why in failed[:3])


# ----------------------------------------------------------------------------------------------------
# verify


class RecheckOutcome(NamedTuple):
    """What was checked, in words, what was wrong, and what could not be checked."""

    passed_messages: list[str]
    altered_messages: list[str]
    unchecked_messages: list[str]


def recheck_classifier(
    folder: Path, wanted: RealImageSelection, chosen: int, chooser: Random
) -> RecheckOutcome:
    """Pictures hashed again, predictions scored again, `chosen` shards' worth of pictures named
    again, all compared with the records.

    Raises:
        OptionError: the pictures are not there.
    """
    run = RunFolder(folder, is_checked=False)
    plan = run.plan
    assert plan is not None
    suite = load_classification_suite(plan.suite)
    pictures = suite.real_images(wanted.folder, wanted.labels)
    count = len(run.requested_indices())
    judge = label_judge_record(plan, pictures, wanted.crop_ratio)
    told = RecheckOutcome([], [], [])
    if not count:
        told.altered_messages.append(
            f"{folder / REQUESTS_FILE} asks for no picture, and a classifier's run names at"
            " least one"
        )
        return told
    shards = _find_stored_shards(plan, pictures, count, judge, folder, told)
    missing = count_missing_images(shards)
    if len(shards) == -(-count // SHARD_SIZE):
        for path in result_paths(folder):
            told.altered_messages.extend(
                f"{path}: {line}"
                for line in _result_differences(path, plan, shards, judge, folder, missing)
            )
            told.passed_messages.append(
                f"{path.name}: facts, measurements and arrays scored again from the predictions"
            )
    if chosen and shards:
        ratio = suite.crop_ratio if wanted.crop_ratio is None else wanted.crop_ratio
        try:
            _classify_again(plan, pictures, shards, chosen, chooser, ratio, told)
        except WeightsError as error:
            told.unchecked_messages.append(f"{folder}: nothing named again: {error}")
    return told


def _find_stored_shards(
    plan: Plan,
    pictures: RealImages,
    count: int,
    judge: JudgeRecord,
    folder: Path,
    told: RecheckOutcome,
) -> list[PredictionShard]:
    shards = []
    for first in range(0, count, SHARD_SIZE):
        path = shard_path(folder / PREDICTIONS_FOLDER / plan.checkpoint.name, first)
        rows = read_image_bytes(pictures, range(first, min(count, first + SHARD_SIZE))).image_rows
        shard = find_shard(path, shard_key(plan, judge, rows), rows)
        if shard is None:
            told.altered_messages.append(
                f"{path} is missing, damaged, or of other pictures or another crop than are"
                " here now"
            )
        else:
            shards.append(shard)
    told.passed_messages.append(
        f"{count:,} picture hashes and labels compared with those that were named"
    )
    return shards


def _result_differences(
    path: Path,
    plan: Plan,
    shards: Sequence[PredictionShard],
    judge: JudgeRecord,
    folder: Path,
    missing: int,
) -> list[str]:
    try:
        stored = read_result(path, is_checked=False)
    except BenchError as error:
        return [f"is not a result this version reads: {error}"]
    if stored.evaluator not in load_suite(plan.suite).evaluators:
        return [f"evaluator {stored.evaluator} is not one of suite {plan.suite}"]
    subject = _subject(plan, shards, folder)
    method = _method(plan, shards, stored.evaluator, judge, stored.is_lenient and missing > 0)
    seen, score = _score_predictions(stored.evaluator, shards)
    again = _result(path, subject, method, score, shards, missing, stored.provenance)
    exempt = {
        "target",
        "label",
        "measurements",
    }  # a folder may be moved, a label is the user's; measurements are compared below
    wrong = [
        f"{name} is not what is here now"
        for name in differing_fields(stored, again)
        if name not in exempt
    ]
    if stored.measurements != again.measurements:
        wrong.append("measurements are not what the predictions give")
    held = load_arrays(arrays_path(path)) if arrays_path(path).is_file() else {}
    fresh = _per_sample(score, seen, shards)
    if held.keys() != fresh.keys() or any(not np.array_equal(held[k], fresh[k]) for k in fresh):
        wrong.append("per-sample arrays are not what the predictions give")
    return wrong


def _classify_again(
    plan: Plan,
    pictures: RealImages,
    shards: Sequence[PredictionShard],
    count: int,
    chooser: Random,
    ratio: float,
    told: RecheckOutcome,
) -> None:
    """Some pictures named again; the same five classes and logits must come out."""
    known = {
        int(i): (s.ranked_classes[k], s.logits[k]) for s in shards for k, i in enumerate(s.indices)
    }
    chosen = sorted(chooser.sample(sorted(known), min(count, len(known))))
    reader = open_classifier(plan.checkpoint, plan.settings)
    for i in chosen:
        again = classify_images(reader, plan, pictures, read_image_bytes(pictures, [i]), ratio)
        if i in again.failed or not (
            np.array_equal(again.ranked_classes[0], known[i][0])
            and np.allclose(again.logits[0], known[i][1], atol=1e-4)
        ):
            told.altered_messages.append(
                f"picture {i} named again gives other classes or logits (altered, or other"
                " hardware, threads or libraries)"
            )
    told.passed_messages.append(
        f"{len(chosen)} pictures named again: {', '.join(map(str, chosen))}"
    )
