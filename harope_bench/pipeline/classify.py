"""From a classifier and real images to predictions and results.

Backbones, suites and evaluators are called by name; this module knows no network and no metric.

A run folder holds plan.json, the predictions (predictions/NAME/00000.npz and so on, one file for
each shard of images) and results/. The images stay where they are; the shards hold their hashes.
"""

from __future__ import annotations

import math
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
from harope_bench.core.index_ranges import IndexRanges
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
from harope_bench.core.shard import Shard
from harope_bench.core.state_dicts import check_sha256
from harope_bench.core.storage import sha256_bytes
from harope_bench.data.array_checks import IMAGE_HASHES
from harope_bench.data.result_paths import arrays_path, result_path, result_paths
from harope_bench.data.result_store import (
    EvaluatedResult,
    ResultMethod,
    ResultSubject,
    build_result,
    find_current_result,
    read_result,
    read_result_or_none,
    write_result,
)
from harope_bench.data.run_claim import RunPart, claim_run, remove_empty_parts
from harope_bench.data.run_folder import PREDICTIONS_FOLDER, REQUESTS_FILE, RunFolder
from harope_bench.evaluators.base import EvaluatorOutput, Features, load_feature_evaluator
from harope_bench.models.backbones.base import load_backbone
from harope_bench.models.load_checkpoint import (
    check_settings,
    find_weights_path,
    load_checkpoint_record,
    open_classifier,
)
from harope_bench.pipeline.differing_fields import differing_fields
from harope_bench.pipeline.predictions import (
    SHARD_SIZE,
    ClassifiedImages,
    PredictionConfig,
    PredictionShard,
    classify_images,
    find_shard,
    predict,
    predict_shard,
    read_image_bytes,
    shard_key,
    shard_path,
)
from harope_bench.pipeline.workers import current_executor
from harope_bench.suites.base import (
    ClassificationSuite,
    RealImages,
    load_classification_suite,
    load_suite,
)

TASK = "classify"


@dataclass(frozen=True)
class RealImageSelection:
    """Which real images are classified, and how.

    Attributes:
        folder: Folder of the images, if the suite includes none.
        labels: Label file, for images that are not in class folders.
        count: Number of images from the start. None selects all.
        crop_ratio: Resolution divided by the side that images are resized to before the crop. None
            selects the suite's ratio.
        is_rescored: Only stored predictions are used; no network is loaded.
        is_lenient: Scores are computed although listed images are missing or damaged.
    """

    folder: Path | None = None
    labels: Path | None = None
    count: int | None = None
    crop_ratio: float | None = None
    is_rescored: bool = False
    is_lenient: bool = False


def is_classification_suite(name: str) -> bool:
    """Return whether a suite's images are classified, not generated."""
    return isinstance(load_suite(name), ClassificationSuite)


def is_classifier(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint is a classifier."""
    return load_backbone(checkpoint.backbone).task == TASK


def make_classifier_plan(
    name: str, suite: str | None, overrides: Mapping[str, Option | None]
) -> Plan:
    """Return the plan of a classifier on a suite of real images.

    Args:
        name: Name of the checkpoint.
        suite: Name of the suite. None selects the checkpoint's.
        overrides: Settings by field name; None where the checkpoint decides.

    Raises:
        OptionError: The checkpoint is no classifier, the suite does not exist or has another
            number of classes, or a setting does not apply.
    """
    checkpoint = load_checkpoint_record(name)
    suite_name = suite or checkpoint.suite
    conditioning = backbone_conditioning(checkpoint.backbone, checkpoint.config)
    if suite_name is None:
        suite_names = ", ".join(compatible_suites(conditioning)) or "no registered suite fits it"
        raise OptionError(
            f"checkpoint {name} has no default suite; add --suite, one of: {suite_names}"
        )
    check_checkpoint_suite(checkpoint, suite_name)
    if not is_classifier(checkpoint):
        raise OptionError(
            f"checkpoint {name} (backbone {checkpoint.backbone}) generates images and is no"
            f" classifier; harope-bench generate {name}"
        )

    loaded_suite = load_suite(suite_name)
    settings = _make_settings(checkpoint, loaded_suite.resolution, overrides)
    return Plan(
        checkpoint=checkpoint,
        suite=suite_name,
        suite_version=loaded_suite.version,
        settings=settings,
    )


def _make_settings(
    checkpoint: Checkpoint, resolution: int, overrides: Mapping[str, Option | None]
) -> Settings:
    """Return the settings of a classifier: defaults, the checkpoint's, then the user's.

    Raises:
        OptionError: A setting does not apply or has an invalid value.
    """
    backbone = load_backbone(checkpoint.backbone)
    given_settings = {key: value for key, value in overrides.items() if value is not None}
    check_settings(checkpoint, {**checkpoint.drawing, **given_settings})
    defaults = {"resolution": resolution, "tile": backbone.tile}
    try:
        settings = Settings.model_validate({**defaults, **checkpoint.drawing, **given_settings})
    except ValidationError as error:
        option = error.errors()[0]["loc"][0]
        raise OptionError(f"{validation_summary(error)}; give --{option} another value") from error
    require_device(settings.device)
    backbone.check_inputs(checkpoint, settings)
    return settings


def classify(
    plan: Plan, out: Path, selection: RealImageSelection, evaluators: Sequence[str] | None = None
) -> list[EvaluatedResult]:
    """Classify every image without a stored prediction, then score all predictions.

    Predictions and results are written below `out`.

    Args:
        evaluators: Names of evaluators. None selects the suite's.

    Raises:
        OptionError: Images are missing or do not fit, or the suite does not have an evaluator.
        PlanMismatchError: `out` is of another plan, or holds results of other images.
        WeightsError: The weights are missing, altered or do not fit.
    """
    check_checkpoint_suite(plan.checkpoint, plan.suite)
    suite = load_classification_suite(plan.suite)
    names = _resolve_evaluators(plan.suite, suite, evaluators)
    real_images = suite.real_images(selection.folder, selection.labels)
    count = _resolve_count(real_images, selection.count, plan.suite)
    check_sha256(find_weights_path(plan.checkpoint), plan.checkpoint.sha256)
    judge = label_judge_record(plan, real_images, selection.crop_ratio)
    run = RunFolder(out)
    _check_run_folder(run, plan, count)
    for name in names:
        _check_unclaimed(result_path(out, name), judge)

    # Nothing is written before this line, so that a rejected call does not change a run.
    run.tie_to_plan(plan)
    run.take_part_requests()
    run.record_request(range(count))
    checksums.record_file_hashes(out, [REQUESTS_FILE])
    shards = predict(
        plan,
        real_images,
        count,
        judge,
        out / PREDICTIONS_FOLDER / plan.checkpoint.name,
        _crop_ratio(suite, selection),
        selection.is_rescored,
    )
    n_missing = count_missing_images(shards)
    return [
        _score(plan, shards, name, judge, out, n_missing, selection.is_lenient) for name in names
    ]


def classify_shard(
    plan: Plan,
    out: Path,
    selection: RealImageSelection,
    shard: Shard,
    evaluators: Sequence[str] | None = None,
) -> ClassifiedImages:
    """Classify one shard of the images into a part of the run.

    Nothing is scored. The next `classify` of the whole run takes the predictions.

    Args:
        evaluators: Names of the evaluators that will score the run. None selects the suite's.

    Raises:
        RunBusyError: Another process writes the run folder or this shard.
        BenchError: See `classify`.
    """
    check_checkpoint_suite(plan.checkpoint, plan.suite)
    suite = load_classification_suite(plan.suite)
    _resolve_evaluators(plan.suite, suite, evaluators)
    real_images = suite.real_images(selection.folder, selection.labels)
    count = _resolve_count(real_images, selection.count, plan.suite)
    check_sha256(find_weights_path(plan.checkpoint), plan.checkpoint.sha256)
    judge = label_judge_record(plan, real_images, selection.crop_ratio)
    _check_run_folder(RunFolder(out), plan, count)
    part = RunPart(
        shard.name, shard.take_batches(range(count), SHARD_SIZE), IndexRanges.from_count(count)
    )
    with claim_run(out, part):
        run = RunFolder(out, part=part)
        run.tie_to_plan(plan)
        run.record_request(range(count))
        folder = out / PREDICTIONS_FOLDER / plan.checkpoint.name
        crop_ratio = _crop_ratio(suite, selection)
        config = PredictionConfig(plan, real_images, judge, folder, crop_ratio, rescore=False)
        classified = predict_shard(config, count, shard, part.folder(out))
    remove_empty_parts(out)
    return classified


def _resolve_evaluators(
    suite_name: str, suite: ClassificationSuite, evaluators: Sequence[str] | None
) -> list[str]:
    """Return the given evaluators or the suite's; raise OptionError for one that it lacks."""
    names = list(evaluators or suite.evaluators)
    for name in names:
        registry.find_entry("evaluators", name)
        if name not in suite.evaluators:
            raise OptionError(
                f"suite {suite_name} is scored by {', '.join(suite.evaluators)}, not by {name};"
                " leave --with out"
            )
    return names


def _check_run_folder(run: RunFolder, plan: Plan, count: int) -> None:
    """Check that a run folder is of this plan and did not request more than `count` images.

    Raises:
        PlanMismatchError: The folder is of another plan.
        OptionError: Only a part of the run would be scored.
    """
    if run.plan is not None:
        run.tie_to_plan(plan)
    n_requested = len(run.requested_indices())
    if n_requested > count:
        raise OptionError(
            f"{run.folder} was asked for {n_requested:,} images, --count {count:,} would score a"
            " part; leave --count out or give another --out"
        )


def _crop_ratio(suite: ClassificationSuite, selection: RealImageSelection) -> float:
    """Return the user's crop ratio, or the suite's."""
    return suite.crop_ratio if selection.crop_ratio is None else selection.crop_ratio


def count_missing_images(shards: Sequence[PredictionShard]) -> int:
    """Return the number of images without a prediction.

    They are missing or damaged, or the output of the network was not finite.
    """
    return sum(len(shard.failed) for shard in shards)


def drop_values_if_images_missing(
    measurements: Sequence[Measurement], n_missing: int, is_lenient: bool
) -> tuple[Measurement, ...]:
    """Return the measurements; without values if images are missing and scoring is not lenient.

    Args:
        measurements: Measurements over the images that have a prediction.
        n_missing: Number of images without a prediction.
        is_lenient: Whether images may be missing (--allow-missing).
    """
    if not n_missing or is_lenient:
        return tuple(measurements)
    reason = (
        f"{n_missing:,} images are missing, damaged or without a prediction; fix the images or the"
        " list, or score the others with --allow-missing"
    )
    no_value = {
        "value": None,
        "se": None,
        "low": None,
        "high": None,
        "interval": None,
        "reason": reason,
    }
    return tuple(Measurement.model_validate({**m.model_dump(), **no_value}) for m in measurements)


def _check_unclaimed(path: Path, judge: JudgeRecord) -> None:
    """Raise PlanMismatchError if a result of other images, labels or another crop is stored."""
    stored_result = read_result_or_none(path)
    if stored_result is not None and stored_result.judge != judge:
        raise PlanMismatchError(
            f"{path} is of {_different_inputs(stored_result.judge, judge)}; choose another --out"
        )


def _different_inputs(stored_judge: JudgeRecord, judge: JudgeRecord) -> str:
    """Return in words how two records of ground-truth labels differ."""
    if stored_judge.preprocessing != judge.preprocessing:
        return "another crop"
    if stored_judge.weights_sha256 != judge.weights_sha256:
        return "other images or labels"
    return "other labels"


def _resolve_count(real_images: RealImages, count: int | None, suite: str) -> int:
    """Return `count`, or the number of images if None; raise OptionError if there are fewer."""
    n_images = len(real_images.names)
    if count is not None and count > n_images:
        raise OptionError(
            f"suite {suite} has {n_images:,} images here, --count asks for {count:,}; lower it"
        )
    return count or n_images


def label_judge_record(
    plan: Plan, real_images: RealImages, crop_ratio: float | None
) -> JudgeRecord:
    """Return the judge record of a classifier's result, which stands for the ground-truth labels.

    Its hash is that of the names and labels of all images.
    """
    suite = load_classification_suite(plan.suite)
    ratio = suite.crop_ratio if crop_ratio is None else crop_ratio
    side = plan.settings.resolution
    is_official = real_images.is_complete and len(real_images.names) == suite.count
    judge_class = "official" if is_official else "substitute"
    labelled_names = list(zip(real_images.names, real_images.labels, strict=True))
    return JudgeRecord(
        name=f"{plan.suite}-labels",
        version=plan.suite_version,
        judge_class="micro" if plan.checkpoint.scale == "micro" else judge_class,
        weights_sha256=sha256_bytes(repr(labelled_names).encode()),
        preprocessing=f"RGB; shorter side to {side}/{ratio:g}, bicubic; middle {side} x {side}",
    )


# ---------------------------------------------------------------------------------------- results


def join_predictions(shards: Sequence[PredictionShard]) -> Features:
    """Return the predictions of all shards in index order, with the labels of the images.

    The arrays are ranked_classes (N, 5) int64 and logits (N, 5) float32, the highest first.
    """
    indices = np.concatenate([shard.indices for shard in shards])  # (N,)
    ranked_classes = np.concatenate([shard.ranked_classes for shard in shards])  # (N, 5)
    logits = np.concatenate([shard.logits for shard in shards])  # (N, 5)
    all_labels = np.array([label for _, label, _ in _image_rows(shards)], dtype=np.int64)
    return Features(
        indices,
        all_labels[indices],
        {"ranked_classes": ranked_classes, "logits": logits},
        failed=count_missing_images(shards),
    )


def _subject(plan: Plan, shards: Sequence[PredictionShard], out: Path) -> ResultSubject:
    """Return the classified images as the subject of a result."""
    failures = sorted(item for shard in shards for item in shard.failed.items())
    sha256 = sha256_bytes(f"{plan.digest}{_image_rows(shards)}{failures}".encode())
    return ResultSubject(out.name, sha256, plan, plan.suite, plan.settings.resolution)


def _method(
    plan: Plan, shards: Sequence[PredictionShard], name: str, judge: JudgeRecord, is_lenient: bool
) -> ResultMethod:
    """Return how an evaluator scores the predictions.

    Args:
        is_lenient: Images are missing, and the user allows it.
    """
    image_rows = _image_rows(shards)
    reference = f"labels of {len(image_rows):,} images of {plan.suite}"
    return ResultMethod(
        name,
        load_feature_evaluator(name),
        judge,
        reference,
        sha256_bytes(repr(image_rows).encode()),
        is_lenient=is_lenient,
    )


def _image_rows(shards: Sequence[PredictionShard]) -> list[tuple[str, int, str]]:
    """Return name, label, and sha256 or failure of every image."""
    return [row for shard in shards for row in shard.image_rows]


def _evaluate_predictions(
    name: str, shards: Sequence[PredictionShard]
) -> tuple[Features, EvaluatorOutput]:
    """Return all predictions, and the output of an evaluator for them."""
    predictions = join_predictions(shards)
    return predictions, load_feature_evaluator(name).evaluate(predictions, {})


def _score(
    plan: Plan,
    shards: Sequence[PredictionShard],
    name: str,
    judge: JudgeRecord,
    out: Path,
    n_missing: int,
    is_lenient: bool,
) -> EvaluatedResult:
    """Evaluate the predictions and write the result; return one that is up to date."""
    start_time = utc_now()
    path = result_path(out, name)
    subject = _subject(plan, shards, out)
    method = _method(plan, shards, name, judge, is_lenient and n_missing > 0)
    current_result = find_current_result(path, subject, method)
    if current_result is not None:
        # An earlier version computed values although images were missing.
        has_value = any(m.value is not None for m in current_result.measurements)
        if is_lenient or not (n_missing and has_value):
            return EvaluatedResult(current_result, path, is_new=False)

    predictions, output = _evaluate_predictions(name, shards)
    provenance = make_provenance(start_time, plan.settings.device, current_executor().provenance())
    result = _make_result(path, subject, method, output, shards, n_missing, provenance)
    arrays = _per_sample_arrays(output, predictions, shards)
    return EvaluatedResult(write_result(path, result, arrays), path, is_new=True)


def _make_result(
    path: Path,
    subject: ResultSubject,
    method: ResultMethod,
    output: EvaluatorOutput,
    shards: Sequence[PredictionShard],
    n_missing: int,
    provenance: Provenance,
) -> Result:
    """Return the result record of a classifier's predictions.

    Args:
        path: the result file that will be written.
        output: measurements over the images that have a prediction.
        shards: the predictions, whose failed images become warnings.
        n_missing: number of images without a prediction.
    """
    measurements = drop_values_if_images_missing(output.measurements, n_missing, method.is_lenient)
    warnings = (
        *make_warnings("lenient", [LENIENT_WARNING] if method.is_lenient else []),
        *make_warnings("images", _failure_warnings(shards)),
        *make_warnings("devices", current_executor().device_warnings()),
    )
    scale = subject.plan.checkpoint.scale if subject.plan is not None else None
    return build_result(
        path,
        subject,
        method,
        output._replace(measurements=measurements),
        provenance,
        warnings,
        scale=scale,
    )


def _per_sample_arrays(
    output: EvaluatorOutput, predictions: Features, shards: Sequence[PredictionShard]
) -> dict[str, np.ndarray]:
    """Return the per-sample arrays of a result.

    Indices, labels and hashes identify the images, so that two results of equal images can be
    compared in pairs.
    """
    image_rows = _image_rows(shards)
    hashes = b"".join(bytes.fromhex(image_rows[i][2]) for i in predictions.indices.tolist())
    arrays = {name: np.asarray(array) for name, array in output.per_sample.items()}
    return arrays | {
        "indices": predictions.indices,
        "labels": np.asarray(predictions.labels, dtype=np.int64),
        IMAGE_HASHES: np.frombuffer(hashes, dtype=np.uint8).reshape(-1, 32),  # (N, 32)
    }


def _failure_warnings(shards: Sequence[PredictionShard]) -> tuple[str, ...]:
    """Return why the first three failed images failed."""
    failures = [item for shard in shards for item in shard.failed.items()]
    return tuple(f"image {i} failed: {reason}" for i, reason in failures[:3])


# ----------------------------------------------------------------------------------------- verify


class RecheckOutcome(NamedTuple):
    """The messages of a check: what passed, what was altered, and what could not be checked."""

    passed_messages: list[str]
    altered_messages: list[str]
    unchecked_messages: list[str]


def recheck_classifier(
    folder: Path, selection: RealImageSelection, sample_count: int, rng: Random
) -> RecheckOutcome:
    """Compare a classifier's run with its images.

    The images are hashed again, the stored predictions are scored again, and some images are
    classified again.

    Args:
        sample_count: Number of images to classify again.
        rng: Chooses these images.

    Raises:
        OptionError: The images are missing.
    """
    run = RunFolder(folder, needs_matching_hashes=False)
    plan = run.plan
    assert plan is not None
    suite = load_classification_suite(plan.suite)
    real_images = suite.real_images(selection.folder, selection.labels)
    count = len(run.requested_indices())
    judge = label_judge_record(plan, real_images, selection.crop_ratio)
    outcome = RecheckOutcome(passed_messages=[], altered_messages=[], unchecked_messages=[])
    if not count:
        outcome.altered_messages.append(
            f"{folder / REQUESTS_FILE} requests no image, and a classifier's run has at least one"
        )
        return outcome

    shards = _find_stored_shards(plan, real_images, count, judge, folder, outcome)
    n_shards = math.ceil(count / SHARD_SIZE)
    if len(shards) == n_shards:
        for path in result_paths(folder):
            lines = _result_differences(path, plan, shards, judge, folder)
            outcome.altered_messages.extend(f"{path}: {line}" for line in lines)
            outcome.passed_messages.append(
                f"{path.name}: record, measurements and arrays compared with those computed from"
                " the predictions"
            )
    if sample_count and shards:
        ratio = _crop_ratio(suite, selection)
        try:
            _classify_again(plan, real_images, shards, sample_count, rng, ratio, outcome)
        except WeightsError as error:
            outcome.unchecked_messages.append(f"{folder}: no image classified again: {error}")
    return outcome


def _find_stored_shards(
    plan: Plan,
    real_images: RealImages,
    count: int,
    judge: JudgeRecord,
    folder: Path,
    outcome: RecheckOutcome,
) -> list[PredictionShard]:
    """Return the stored shards of the first `count` images; report the others as altered."""
    shards = []
    for start in range(0, count, SHARD_SIZE):
        path = shard_path(folder / PREDICTIONS_FOLDER / plan.checkpoint.name, start)
        indices = range(start, min(count, start + SHARD_SIZE))
        image_rows = read_image_bytes(real_images, indices).image_rows
        shard = find_shard(path, shard_key(plan, judge, image_rows), image_rows)
        if shard is None:
            outcome.altered_messages.append(
                f"{path} is missing, damaged, or of other images or another crop than now"
            )
        else:
            shards.append(shard)
    outcome.passed_messages.append(
        f"{count:,} image hashes and labels compared with those of the predictions"
    )
    return shards


def _result_differences(
    path: Path, plan: Plan, shards: Sequence[PredictionShard], judge: JudgeRecord, folder: Path
) -> list[str]:
    """Return in which parts a stored result differs from one computed from the predictions."""
    try:
        stored_result = read_result(path, needs_matching_hash=False)
    except BenchError as error:
        return [f"is not a result that this version can read: {error}"]
    if stored_result.evaluator not in load_suite(plan.suite).evaluators:
        return [f"evaluator {stored_result.evaluator} is not one of suite {plan.suite}"]

    n_missing = count_missing_images(shards)
    subject = _subject(plan, shards, folder)
    is_lenient = stored_result.is_lenient and n_missing > 0
    method = _method(plan, shards, stored_result.evaluator, judge, is_lenient)
    predictions, output = _evaluate_predictions(stored_result.evaluator, shards)
    expected_result = _make_result(
        path, subject, method, output, shards, n_missing, stored_result.provenance
    )

    # A folder may have moved, a label is the user's, and measurements are compared below.
    exempt_fields = {"target", "label", "measurements"}
    differences = [
        f"{name} differs from what the predictions give"
        for name in differing_fields(stored_result, expected_result)
        if name not in exempt_fields
    ]
    if stored_result.measurements != expected_result.measurements:
        differences.append("measurements differ from what the predictions give")
    expected_arrays = _per_sample_arrays(output, predictions, shards)
    if not _are_equal_arrays(_stored_arrays(path), expected_arrays):
        differences.append("per-sample arrays differ from what the predictions give")
    return differences


def _stored_arrays(path: Path) -> Mapping[str, np.ndarray]:
    """Return the per-sample arrays of a stored result; empty if their file is missing."""
    return load_arrays(arrays_path(path)) if arrays_path(path).is_file() else {}


def _are_equal_arrays(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    """Return whether two sets of arrays have the same names and values."""
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in b)


def _classify_again(
    plan: Plan,
    real_images: RealImages,
    shards: Sequence[PredictionShard],
    sample_count: int,
    rng: Random,
    ratio: float,
    outcome: RecheckOutcome,
) -> None:
    """Classify randomly chosen images again and compare with their predictions.

    The five classes must be equal, and their logits within 1e-4.
    """
    stored_predictions = {
        int(index): (shard.ranked_classes[row], shard.logits[row])
        for shard in shards
        for row, index in enumerate(shard.indices)
    }
    n_chosen = min(sample_count, len(stored_predictions))
    chosen_indices = sorted(rng.sample(sorted(stored_predictions), n_chosen))
    classifier = open_classifier(plan.checkpoint, plan.settings)
    for i in chosen_indices:
        ranked_classes, logits = stored_predictions[i]
        image_bytes = read_image_bytes(real_images, [i])
        shard = classify_images(classifier, plan, real_images, image_bytes, ratio)
        is_equal = (
            i not in shard.failed
            and np.array_equal(shard.ranked_classes[0], ranked_classes)
            and np.allclose(shard.logits[0], logits, atol=1e-4)
        )
        if not is_equal:
            outcome.altered_messages.append(
                f"image {i} classified again gives other classes or logits (it was altered, or the"
                " hardware, threads or libraries are others)"
            )
    outcome.passed_messages.append(
        f"{len(chosen_indices)} images classified again: {', '.join(map(str, chosen_indices))}"
    )
