"""The command `verify`: whether runs and results were altered."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from harope_bench.commands.options import (
    EXIT_NO,
    EXIT_NOT_CHECKED,
    json_object_text,
    real_image_options,
    worker_options,
)
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from harope_bench.pipeline.eval_options import RealImageOptions
    from harope_bench.pipeline.verify_findings import Findings
    from harope_bench.pipeline.worker_options import WorkerOptions


@cloup.command()
@click.argument("run", type=click.Path(path_type=Path))
@cloup.option(
    "--redraw",
    type=click.IntRange(0),
    default=3,
    help=(
        "Number of samples in each run, chosen at random, that are generated again and compared (or"
        " of images that a classifier classifies again)."
    ),
)
@cloup.option(
    "--seed",
    type=click.IntRange(0),
    help="Seed of the random choice of --redraw. Default: another choice each time.",
)
@cloup.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="The file that `eval` was given as --reference. Default: the reference of the suite.",
)
@cloup.option(
    "--source",
    type=click.Path(path_type=Path),
    help=(
        "Where the images or official results that were evaluated are now, if they have moved."
        " Default: the path that the results state."
    ),
)
@real_image_options
@worker_options
@cloup.option(
    "--json", "json_", is_flag=True, help="Print one JSON object with the status of each check."
)
def verify(
    run: Path,
    redraw: int,
    seed: int | None,
    reference: Path | None,
    source: Path | None,
    real_images: RealImageOptions,
    processes: WorkerOptions,
    json_: bool,
) -> None:
    """Check whether runs and results were altered.

    RUN is a run folder, or a folder that contains run folders. All files are compared with the
    hashes that were recorded when they were written, metrics are computed again from the stored
    features and annotations, and some samples are generated again.

    Exit code 0: everything is as it was written. 3: something was altered. 1: something could not
    be checked.

    \b
    harope-bench verify runs/harope --redraw 5
    """
    from harope_bench.core.escaping import printable_line
    from harope_bench.pipeline.verify import verify
    from harope_bench.pipeline.worker_options import use_workers

    with use_workers(processes, "cpu", run):
        findings = verify(
            run,
            redraw,
            seed,
            reference,
            real_images.images,
            real_images.ground_truth,
            real_images.crop_ratio,
            source,
        )
    if json_:
        echo(json_object_text(findings_json(findings)))
    else:
        echo("\n".join(map(printable_line, findings_lines(findings))))
    if findings.status != "ok":
        sys.exit(EXIT_NO if findings.status == "altered" else EXIT_NOT_CHECKED)


def findings_json(findings: Findings) -> dict[str, object]:
    """Return the findings of `verify` as JSON values."""
    return {
        "status": findings.status,
        "ok": findings.status == "ok",
        "checks": [check._asdict() for check in findings.checks],
        "passed": findings.passed_messages,
        "altered": findings.altered_messages,
        "not_checked": findings.unchecked_messages,
    }


def findings_lines(findings: Findings) -> list[str]:
    """Return the findings of `verify` as text: passed, altered, then not checked."""
    return [
        *findings.passed_messages,
        *(f"ALTERED {message}" for message in findings.altered_messages),
        *(f"NOT CHECKED {message}" for message in findings.unchecked_messages),
    ]
