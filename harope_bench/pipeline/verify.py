"""Checks folders of results against what vouches for them: hashes, images, results judged and
scored again, samples drawn again.

Each check ends as ok, altered, or could-not-check. What can be recomputed is recomputed: labels and
prompts from the suite, features
and annotations from the images, measurements from these. The rest has its hash in another file,
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
from typing import NamedTuple

import numpy as np

from harope_bench.core.errors import BenchError, SampleError
from harope_bench.core.schema import Checkpoint, Plan, Result, SampleRecord
from harope_bench.core.state_dicts import check_sha256
from harope_bench.core.storage import sha256_bytes
from harope_bench.data.image_io import encode_png
from harope_bench.data.result_paths import result_paths, result_paths_below, run_folder_of
from harope_bench.data.result_store import read_result
from harope_bench.data.run_folder import FEATURES_FOLDER, PLAN_FILE, RESULTS_FOLDER, RunFolder
from harope_bench.data.sample_set import SampleSet
from harope_bench.models.backbones.base import ImageGenerator
from harope_bench.models.load_checkpoint import load_checkpoint_record, open_generator, weights_path
from harope_bench.pipeline.classify import (
    RealImageSelection,
    is_classification_suite,
    recheck_classifier,
)
from harope_bench.pipeline.generate import generate_one
from harope_bench.pipeline.verify_files import (
    check_archives,
    check_requests,
    check_rows,
    check_sums,
    open_plan,
    open_run,
)
from harope_bench.pipeline.verify_findings import (
    CAUSES,
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

COST = "cost"  # the evaluator of the network itself, whose results lie in a folder of their own


@dataclass(frozen=True)
class VerifyOptions:
    """What a verify is given beside the folder.

    redraw: how many samples of each run are drawn again, chosen by `seed`, at random if None.
    source: where images lie now that a
    result was made of elsewhere.
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

    Images are hashed, judged and scored again, and `redraw` samples of each run are drawn again. A
    classifier's run has its predictions
    compared and scored again instead, and `redraw` pictures named again. A result of images
    elsewhere is scored again from these.

    Args:
        seed: which samples are drawn again; None chooses at random.
        reference: the file that `eval --reference` was given; a result of a reference that is
            neither the suite's nor this is not checked.
        images, labels, crop_ratio: where a classifier's pictures lie and how they were cut, as
            `eval` was told.
        source: where the images of a result without a run lie, if no longer where they were scored.

    Raises:
        SampleError: nothing there is a run or a result. StorageError: the reference is not
            readable.
    """
    folders = run_folders(folder)
    if not folders:
        raise SampleError(
            f"{folder} holds no {PLAN_FILE} and no results; give a folder that `generate` or `eval`"
            " made"
        )
    options = VerifyOptions(
        redraw, seed, source, RealImageSelection(images, labels, crop_ratio=crop_ratio)
    )
    given_reference(reference, folder)  # cheap, and may fail: before all images are judged
    findings = Findings()
    for place in folders:
        _check_folder(place, options, reference, findings)
    return findings


def run_folders(folder: Path) -> list[Path]:
    """Return every folder at or below this one that holds a plan or results, in order.

    A folder that is named as results itself, or is named by one of its results, counts as the
    folder that holds it.
    """
    if folder.name == RESULTS_FOLDER and result_paths(folder.parent):
        return [folder.parent]
    plans = {path.parent for path in folder.glob(f"**/{PLAN_FILE}")}
    results = {run_folder_of(path) for path in result_paths_below(folder)}
    return sorted(plans | results)


def _check_folder(
    folder: Path, options: VerifyOptions, reference: Path | None, findings: Findings
) -> None:
    """Check one run folder; what stops a part of it is told and does not stop the rest."""
    check_sums(folder, findings)
    check_rows(folder, findings)
    plan = open_plan(folder, findings)
    try:
        with _scratch() as temporary:
            references = given_reference(reference, temporary / "references")
            if plan is not None and is_classification_suite(plan.suite):
                _check_classifier(folder, options, findings)
            elif plan is not None:
                _check_run(folder, plan, references, options, temporary, findings)
            else:
                _check_results_alone(folder, references, options, temporary, findings)
    except BenchError as error:
        findings.add(status_of(error, True), folder, f"{folder}: {error}")


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for what is made again; that it cannot be had says nothing of the run."""
    try:
        with TemporaryDirectory(prefix="harope-bench-", ignore_cleanup_errors=True) as temporary:
            yield Path(temporary)
    except OSError as error:
        raise NotCheckedError(
            f"no room for what is made again ({error.strerror or error}); free some, or set TMPDIR"
        ) from error


def _check_classifier(folder: Path, options: VerifyOptions, findings: Findings) -> None:
    check_archives(folder, findings)
    chooser = random.SystemRandom() if options.seed is None else random.Random(options.seed)
    outcome = recheck_classifier(folder, options.real_image_selection, options.redraw, chooser)
    findings.add("ok", folder, *outcome.passed_messages)
    findings.add("altered", folder, *outcome.altered_messages)
    findings.add("could-not-check", folder, *outcome.unchecked_messages)


def _check_results_alone(
    folder: Path,
    references: GivenReference,
    options: VerifyOptions,
    temporary: Path,
    findings: Findings,
) -> None:
    """Check results without a plan beside them: of images elsewhere, of an official file, or of a
    network.
    """
    check_archives(folder, findings)
    parent = _plan_above(folder)
    for path in result_paths(folder):
        stored = _read_result_or_none(path)
        if stored is not None and stored.evaluator == COST:
            check_cost(folder, path, parent, findings)
        else:
            check_external_images(folder, path, options.source, references, temporary, findings)


def _plan_above(folder: Path) -> Plan | None:
    """Return the plan of the run that a folder of costs belongs to, where there is one that can be
    read.
    """
    try:
        return RunFolder(folder.parent, is_checked=False).plan if folder.name == COST else None
    except BenchError:
        return None  # told of that folder itself


# ------------------------------------------------------------------------------------------------ a
# run


def _check_run(
    folder: Path,
    plan: Plan,
    references: GivenReference,
    options: VerifyOptions,
    temporary: Path,
    findings: Findings,
) -> None:
    samples = open_run(folder, findings)
    if samples is None:
        return
    check_requests(samples, plan, findings)
    given = RunToCheck(samples, plan, references, _check_images(samples, findings))
    paths = result_paths(folder)
    own = [path for path in paths if not _has_external_images(_read_result_or_none(path))]
    check_results(folder, own, given, temporary / FEATURES_FOLDER, findings)
    for path in [path for path in paths if path not in own]:
        check_external_images(
            folder, path, options.source, references, temporary / "elsewhere", findings
        )
    if not paths:
        findings.add("ok", folder, "no results to check")
    if options.redraw:
        _check_regenerated(samples, plan, options, findings)


def _read_result_or_none(path: Path) -> Result | None:
    """Return a result, None where it cannot be read; whoever checks it tells why."""
    try:
        return read_result(path, is_checked=False)
    except BenchError:
        return None


def _has_external_images(stored: Result | None) -> bool:
    return stored is not None and stored.source is not None


def _check_images(samples: SampleSet, findings: Findings) -> Status:
    """Hash every image again; the worst status of any."""
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
    return "altered" if "altered" in statuses else "could-not-check" if statuses else "ok"


def _status_of_image(error: SampleError) -> Status:
    """An image that is gone was recorded; one that the disk does not give says nothing."""
    cause = error.__cause__
    refused = isinstance(cause, OSError) and cause.errno not in (None, errno.ENOENT)
    return "could-not-check" if refused else "altered"


# -----------------------------------------------------------------------------------------------
# redraw


class Regeneration(NamedTuple):
    """What draws a run's samples again, and their records."""

    generator: ImageGenerator
    records: dict[int, SampleRecord]


def _check_regenerated(
    samples: SampleSet, plan: Plan, options: VerifyOptions, findings: Findings
) -> None:
    """Draw some samples again, failed ones among them, and compare with their records."""
    try:
        drawing = Regeneration(
            open_generator(_find_checkpoint(plan), plan.settings),
            RunFolder(samples.path, is_checked=False).read_records(),
        )
        chooser = random.SystemRandom() if options.seed is None else random.Random(options.seed)
        known = sorted({*samples.indices, *samples.failed})
        chosen = sorted(chooser.sample(known, min(options.redraw, len(known))))
        for index in chosen:
            if not _matches_record(
                drawing.records[index], generate_one(drawing.generator, plan, index)
            ):
                findings.add(
                    "altered",
                    samples.path,
                    f"sample {index} drawn again is another image ({CAUSES})",
                )
    except BenchError as error:
        findings.add(
            "could-not-check", samples.path, f"{samples.path}: nothing drawn again: {error}"
        )
        return
    findings.add(
        "ok", samples.path, f"{len(chosen)} samples drawn again: {', '.join(map(str, chosen))}"
    )


def _find_checkpoint(plan: Plan) -> Checkpoint:
    """The run's checkpoint, if it is here with the run's weights."""
    found = load_checkpoint_record(plan.checkpoint.name)
    if found.sha256 != plan.checkpoint.sha256:
        raise SampleError(
            f"checkpoint {found.name} is registered with other weights than this run's, nothing can"
            " be drawn again; --redraw 0 checks the rest"
        )
    check_sha256(weights_path(found), found.sha256)
    return found


def _matches_record(record: SampleRecord, image: np.ndarray | None) -> bool:
    if image is None:
        return record.status == "failed"
    return record.status == "ok" and record.sha256 == sha256_bytes(encode_png(image))
