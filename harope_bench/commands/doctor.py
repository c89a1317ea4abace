"""The command `doctor`: the check of the installation."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from harope_bench.commands.options import (
    EXIT_NO,
    device_option,
    json_object_text,
    json_option,
)
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from harope_bench.pipeline.doctor import Finding

STATUS_TITLES = {"ok": "Works", "missing": "Missing, optional", "broken": "Broken"}


@cloup.command()
@cloup.option(
    "--golden",
    "check_golden",
    is_flag=True,
    help=(
        "Also evaluate the samples that OpenAI published for ADM, and compare the metrics with the"
        " published ones. Needs `fetch` of golden-imagenet-128 or golden-imagenet-256, and of"
        " inception-2015."
    ),
)
@cloup.option(
    "--golden-from",
    "folder",
    type=click.Path(path_type=Path),
    help=(
        "Like --golden, with the samples and references in this folder instead of the fetched ones."
    ),
)
@device_option("Device that the feature extractor of --golden runs on.")
@json_option
def doctor(check_golden: bool, folder: Path | None, device: str, json_: bool) -> None:
    """Check the installation.

    The first three lines count what works, what is missing (optional) and what is broken. Then
    comes a group of lines for packages, devices, checkpoints, judges, references and so on: what
    each is, or what is wrong and the command that repairs it. Nothing is changed. The exit code is
    3 if something is broken; missing is not broken.

    \b
    harope-bench doctor
    """
    # A golden set is samples of ADM that OpenAI published, with the metrics published for them.
    from harope_bench.pipeline.doctor import check_installation

    findings = check_installation(check_golden or folder is not None, folder, device)
    if json_:
        echo(json_object_text({"findings": [finding._asdict() for finding in findings]}))
    else:
        for line in [*summary_lines(findings), *group_lines(findings)]:
            echo(line)
    if any(finding.status == "broken" for finding in findings):
        sys.exit(EXIT_NO)


def summary_lines(findings: Sequence[Finding]) -> list[str]:
    """Return a line for each status: the number of findings, and in which areas they are."""
    lines = []
    for status, title in STATUS_TITLES.items():
        areas = Counter(finding.area for finding in findings if finding.status == status)
        counts = ", ".join(f"{count} {area}" for area, count in areas.items())
        lines.append(f"{title}: {areas.total()}" + (f" ({counts})" if counts else ""))
    return lines


def group_lines(findings: Sequence[Finding]) -> list[str]:
    """Return the findings by area; within one, what is broken or missing comes first."""
    lines = []
    order = list(reversed(STATUS_TITLES))
    for area, group in itertools.groupby(findings, key=lambda finding: finding.area):
        lines += ["", area]
        for finding in sorted(group, key=lambda finding: order.index(finding.status)):
            fix = f"  -> {finding.fix}" if finding.fix else ""
            lines.append(f"  {finding.status:8} {finding.name:20} {finding.detail}{fix}")
    return lines
