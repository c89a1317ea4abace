"""Verification of run folders and results.

Each check ends as ok, altered, or could-not-check. What can be recomputed is recomputed: labels and
prompts from the suite, features and annotations from the images, measurements from features and
annotations, and some images from the checkpoint. Everything else is compared with its hash in
SHA256SUMS.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from harope_bench.core.device import device_type
from harope_bench.core.errors import BenchError, SampleError
from harope_bench.core.schema import REPEATABLE_KEY, Checkpoint, Plan, Result, SampleRecord
from harope_bench.data.image_io import decode_image
from harope_bench.data.result_paths import result_paths, result_paths_below, run_folder_of
from harope_bench.data.result_store import read_result
from harope_bench.data.run_folder import (
    FEATURES_FOLDER,
    PLAN_FILE,
    RESULTS_FOLDER,
    EncodedSample,
    RunFolder,
)
from harope_bench.data.sample_set import SampleSet
from harope_bench.models.backbones.base import load_backbone
from harope_bench.models.load_checkpoint import (
    check_weights_file,
    load_checkpoint_record,
)
from harope_bench.pipeline.classify import (
    RealImageSelection,
    is_classification_suite,
    recheck_classifier,
)
from harope_bench.pipeline.generate import generate_again
from harope_bench.pipeline.verify_files import (
    check_archives,
    check_requests,
    check_rows,
    check_sums,
    open_plan,
    open_run,
)
from harope_bench.pipeline.verify_findings import (
    LIKELY_CAUSES,
    Findings,
    NotCheckedError,
    Status,
    status_of,
)
from harope_bench.pipeline.verify_results import (
    GivenReference,
    RunToCheck,
    check_cost,
    check_external_images,
    check_results,
    given_reference,
)
from harope_bench.pipeline.workers import SerialExecutor

COST = "cost"  # evaluator of the network itself; its results are in a folder of the same name


@dataclass(frozen=True)
class VerifyOptions:
    """Options of `verify`.

    redraw: number of samples of each run to generate again.
    seed: of the choice of these samples; None chooses at random.
    source: where the images of an external result are now.
    """

    redraw: int
    seed: int | None
    source: Path | None
    real_image_selection: RealImageSelection


def verify(
    folder: Path,
    redraw: int,
    seed: int | None = None,
    reference: Path | None = None,
    images: Path | None = None,
    labels: Path | None = None,
    crop_ratio: float | None = None,
    source: Path | None = None,
) -> Findings:
    """Check every run and every result at or below a folder.

    Images are hashed, features and annotations are computed again, and `redraw` samples of each run
    are generated again. For a classifier's run, predictions are compared and scored again, and
    `redraw` images are classified again. A result of external images is scored again from them.

    Args:
        seed: of the choice of samples to generate again; None chooses at random.
        reference: the file that `eval --reference` was given. A result against a reference that is
            neither the suite's nor this one is not checked.
        images, labels, crop_ratio: a classifier's images, their labels and their crop, as `eval`
            was given.
        source: where the images of a result without a run are, if they were moved.

    Raises:
        SampleError: The folder has no run and no result.
        StorageError: The reference is not readable.
    """
    folders = run_folders(folder)
    if not folders:
        raise SampleError(
            f"{folder} holds no {PLAN_FILE} and no results; give a folder that `generate` or `eval`"
            " wrote"
        )
    options = VerifyOptions(
        redraw, seed, source, RealImageSelection(images, labels, crop_ratio=crop_ratio)
    )
    given_reference(reference, folder)  # an unreadable reference fails before any image is read
    findings = Findings()
    for run_folder in folders:
        _check_folder(run_folder, options, reference, findings)
    return findings


def run_folders(folder: Path) -> list[Path]:
    """Return every folder at or below this one that holds a plan or results, in order.

    A results folder, given itself or found below, counts as the run folder that holds it.
    """
    if folder.name == RESULTS_FOLDER and result_paths(folder.parent):
        return [folder.parent]
    plans = {path.parent for path in folder.glob(f"**/{PLAN_FILE}")}
    results = {run_folder_of(path) for path in result_paths_below(folder)}
    return sorted(plans | results)


def _check_folder(
    folder: Path, options: VerifyOptions, reference: Path | None, findings: Findings
) -> None:
    """Check one run folder; an error in one part becomes a finding and the others are checked."""
    check_sums(folder, findings)
    check_rows(folder, findings)
    plan = open_plan(folder, findings)
    try:
        with _scratch_folder() as scratch:
            references = given_reference(reference, scratch / "references")
            if plan is not None and is_classification_suite(plan.suite):
                _check_classifier(folder, options, findings)
            elif plan is not None:
                _check_run(folder, plan, references, options, scratch, findings)
            else:
                _check_results_alone(folder, references, options, scratch, findings)
    except BenchError as error:
        findings.add(status_of(error, is_intact=True), folder, f"{folder}: {error}")


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    """Yield a temporary folder for recomputed files.

    Raises:
        NotCheckedError: The folder cannot be made or written, which says nothing about the run.
    """
    try:
        with TemporaryDirectory(prefix="harope-bench-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
    except OSError as error:
        raise NotCheckedError(
            f"no temporary space for recomputed files ({error.strerror or error}); free some, or"
            " set TMPDIR"
        ) from error


def _check_classifier(folder: Path, options: VerifyOptions, findings: Findings) -> None:
    check_archives(folder, findings)
    rng = random.SystemRandom() if options.seed is None else random.Random(options.seed)
    outcome = recheck_classifier(folder, options.real_image_selection, options.redraw, rng)
    findings.add("ok", folder, *outcome.passed_messages)
    findings.add("altered", folder, *outcome.altered_messages)
    findings.add("could-not-check", folder, *outcome.unchecked_messages)


def _check_results_alone(
    folder: Path,
    references: GivenReference,
    options: VerifyOptions,
    scratch: Path,
    findings: Findings,
) -> None:
    """Check results without a plan: of external images, of an official file, or of a network."""
    check_archives(folder, findings)
    parent = _plan_above(folder)
    for path in result_paths(folder):
        result = _read_result_or_none(path)
        if result is not None and result.evaluator == COST:
            check_cost(folder, path, parent, findings)
        else:
            check_external_images(folder, path, options.source, references, scratch, findings)


def _plan_above(folder: Path) -> Plan | None:
    """Return the plan of the run above a folder of costs; None where there is no readable plan."""
    try:
        return (
            RunFolder(folder.parent, needs_matching_hashes=False).plan
            if folder.name == COST
            else None
        )
    except BenchError:
        return None  # the check of that folder reports the error


# ------------------------------------------------------------------------------------------------
# a run


def _check_run(
    folder: Path,
    plan: Plan,
    references: GivenReference,
    options: VerifyOptions,
    scratch: Path,
    findings: Findings,
) -> None:
    samples = open_run(folder, findings)
    if samples is None:
        return
    check_requests(samples, plan, findings)
    run = RunToCheck(samples, plan, references, _check_images(samples, findings))

    # Results of the run's images, then results of images outside the run folder.
    paths = result_paths(folder)
    run_paths = [path for path in paths if not _has_external_images(_read_result_or_none(path))]
    check_results(folder, run_paths, run, scratch / FEATURES_FOLDER, findings)
    for path in [path for path in paths if path not in run_paths]:
        check_external_images(
            folder, path, options.source, references, scratch / "elsewhere", findings
        )
    if not paths:
        findings.add("ok", folder, "no results to check")
    if options.redraw:
        _check_regenerated(samples, plan, options, findings)


def _read_result_or_none(path: Path) -> Result | None:
    """Return a result; None where it cannot be read, which its own check reports."""
    try:
        return read_result(path, needs_matching_hash=False)
    except BenchError:
        return None


def _has_external_images(result: Result | None) -> bool:
    return result is not None and result.source is not None


def _check_images(samples: SampleSet, findings: Findings) -> Status:
    """Hash every image again and return the worst status."""
    statuses: list[Status] = []
    for index in samples.indices:
        try:
            samples.check_image(index)
        except SampleError as error:
            statuses.append(_status_of_image(error))
            findings.add(statuses[-1], samples.path, str(error))
    count = len(samples.indices)
    findings.add(
        "ok", samples.path, f"{count - len(statuses):,} of {count:,} image hashes are as recorded"
    )
    if "altered" in statuses:
        return "altered"
    return "could-not-check" if statuses else "ok"


def _status_of_image(error: SampleError) -> Status:
    """Return the status for an image error.

    A missing image is altered, because it was recorded. An image that the disk refuses to read
    could not be checked.
    """
    cause = error.__cause__
    is_unreadable = isinstance(cause, OSError) and cause.errno not in (None, errno.ENOENT)
    return "could-not-check" if is_unreadable else "altered"


# ------------------------------------------------------------------------------------------------
# samples generated again


def _check_regenerated(
    samples: SampleSet, plan: Plan, options: VerifyOptions, findings: Findings
) -> None:
    """Generate some samples again, including failed ones, and compare them with their records."""
    try:
        plan = plan.model_copy(update={"checkpoint": _find_checkpoint(plan)})
        records = RunFolder(samples.path, needs_matching_hashes=False).read_records()
        rng = random.SystemRandom() if options.seed is None else random.Random(options.seed)
        all_indices = sorted({*samples.indices, *samples.failed})
        indices = sorted(rng.sample(all_indices, min(options.redraw, len(all_indices))))
        executor = None
        if device_type(plan.settings.device) != "cpu":
            executor = SerialExecutor()  # the workers of `verify` have no GPU
        altered_indices: list[int] = []
        try:
            for index, sample in generate_again(plan, indices, executor):
                if not _matches_record(samples, records[index], sample):
                    altered_indices.append(index)
        finally:
            _add_altered_samples(samples, altered_indices, findings)
    except BenchError as error:
        findings.add(
            "could-not-check", samples.path, f"{samples.path}: nothing generated again: {error}"
        )
        return
    index_text = ", ".join(map(str, indices))
    findings.add("ok", samples.path, f"{len(indices)} samples generated again: {index_text}")


def _add_altered_samples(samples: SampleSet, indices: list[int], findings: Findings) -> None:
    """Add a finding for each sample, in order; workers return them in any."""
    for index in sorted(indices):
        findings.add(
            "altered",
            samples.path,
            f"sample {index} generated again is another image ({LIKELY_CAUSES})",
        )


def _find_checkpoint(plan: Plan) -> Checkpoint:
    """Return the registered checkpoint of a plan; raise SampleError if its weights are others."""
    has_weights_file = load_backbone(plan.checkpoint.backbone).has_weights_file
    if not has_weights_file and plan.checkpoint.has_known_weights:
        raise SampleError(
            f"{plan.checkpoint.name} is a Python generator, which is in no file, so no sample can"
            " be generated again; --redraw 0 checks the rest"
        )
    if plan.checkpoint.config.get(REPEATABLE_KEY) is False:
        raise SampleError(
            f"{plan.checkpoint.name} is not repeatable, so no sample can be compared with one"
            " generated again; --redraw 0 checks the rest"
        )
    checkpoint = load_checkpoint_record(plan.checkpoint.name)
    if checkpoint.identity != plan.checkpoint.identity:
        raise SampleError(
            f"checkpoint {checkpoint.name} is registered with other weights than this run's, so no"
            " sample can be generated again; --redraw 0 checks the rest"
        )
    check_weights_file(checkpoint)
    return checkpoint


def _matches_record(samples: SampleSet, record: SampleRecord, sample: EncodedSample) -> bool:
    """Return whether a sample that was generated again is what the record says."""
    if sample.png is None:
        return record.status == "failed"
    if record.status != "ok":
        return False
    if record.sha256 == sample.record.sha256:
        return True
    # Another version of this package or of zlib may have compressed the same pixels otherwise.
    try:
        stored_image = samples.image(record.index)
    except SampleError:
        return False
    image = decode_image(sample.png, f"sample {record.index}").image
    return np.array_equal(stored_image, image)
