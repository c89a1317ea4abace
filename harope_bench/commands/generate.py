"""The commands `generate`, `verify` and `convert`, which work on samples."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harope_bench.commands.options import (
    EXIT_NO,
    EXIT_NOT_CHECKED,
    IndicesType,
    generation_options,
    json_object_text,
    prompt_folder_options,
    real_image_options,
    record_json,
    select_indices,
)
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from harope_bench.pipeline.eval_options import GenerationOptions, RealImageOptions
    from harope_bench.pipeline.verify_findings import Findings
    from harope_bench.suites.official_layouts.prompt_folder import PromptFolderOptions


@click.command()
@click.argument("checkpoint")
@click.option(
    "--suite",
    metavar="NAME",
    help=(
        "Suite: the labels or prompts to generate, their number and the image size; see `list"
        " suites`. Default: the suite registered with the checkpoint."
    ),
)
@generation_options
@click.option(
    "--resolution",
    type=click.IntRange(1),
    help="Side of the images in pixels. Default: the resolution of the suite.",
)
@click.option(
    "--count",
    type=click.IntRange(1),
    help=(
        "Number of samples: those with the indices 0 to COUNT - 1. Default: the number of samples"
        " of the suite."
    ),
)
@click.option(
    "--indices",
    type=IndicesType(),
    help=(
        "Generate only the samples with these indices, such as 0-499 or 0-9,20-29, for example to"
        " share a run among machines. Not with --count. Default: as --count."
    ),
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Run folder to write: the images, their records and the settings (plan.json).",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the settings and the number of samples that are not generated yet, then stop.",
)
def generate(
    checkpoint: str,
    suite: str | None,
    batch: int | None,
    count: int | None,
    indices: list[int] | None,
    out: Path,
    dry_run: bool,
    generation: GenerationOptions,
) -> None:
    """Generate samples of a registered CHECKPOINT.

    CHECKPOINT is a name from `list checkpoints`. If the command is interrupted, run it again: it
    generates only the samples that the run folder lacks. Later, `eval` computes metrics from the
    run folder; `eval CHECKPOINT` does both.

    \b
    harope-bench generate digits-harope --suite digits --count 500 \\
        --out runs/harope
    """
    from harope_bench.data.run_folder import RunFolder
    from harope_bench.pipeline.generate import generate, make_plan, missing_requests

    plan = make_plan(checkpoint, suite, generation.overrides())
    sample_indices = select_indices(plan.suite, count, indices)
    if dry_run:
        missing = missing_requests(plan, sample_indices, RunFolder(out))
        summary = {
            "plan": record_json(plan),
            "digest": plan.digest,
            "n_asked": len(sample_indices),
            "n_missing": len(missing),
        }
        echo(json_object_text(summary))
        return
    generation_summary = generate(plan, sample_indices, out, batch)
    echo(
        f"{generation_summary.folder}: {generation_summary.n_requested:,} requested,"
        f" {generation_summary.n_generated:,} generated, {generation_summary.n_failed:,} failed"
    )


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--redraw",
    type=click.IntRange(0),
    default=3,
    help=(
        "Number of samples in each run, chosen at random, that are generated again and compared (or"
        " of images that a classifier classifies again)."
    ),
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    help="Seed of the random choice of --redraw. Default: another choice each time.",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="The file that `eval` was given as --reference. Default: the reference of the suite.",
)
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help=(
        "Where the images or official results that were evaluated are now, if they have moved."
        " Default: the path that the results state."
    ),
)
@real_image_options
@click.option(
    "--json", "json_", is_flag=True, help="Print one JSON object with the status of each check."
)
def verify(
    run: Path,
    redraw: int,
    seed: int | None,
    reference: Path | None,
    source: Path | None,
    real_images: RealImageOptions,
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


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--to",
    type=click.Choice(["adm", "png", "geneval", "dpg", "compbench"]),
    required=True,
    help=(
        "Layout to write. adm: an .npz file with images arr_0 and labels arr_1, as of OpenAI's"
        " guided-diffusion. png: a folder with 000000.png, 000001.png, ... geneval, dpg, compbench:"
        " folders as the scoring scripts of GenEval, DPG-Bench and T2I-CompBench read them."
    ),
)
@click.option(
    "--suite",
    metavar="NAME",
    help=(
        "Suite whose prompts the images show, such as geneval; see `list suites`. Required if"
        " SOURCE is no run folder and has no known layout."
    ),
)
@prompt_folder_options
@click.option(
    "--resolution",
    "side",
    type=click.IntRange(1),
    help=(
        "Side in pixels of each image that is joined with others in a file of a DPG-Bench folder;"
        " an alternative to --tiles."
    ),
)
@click.option(
    "--count",
    type=click.IntRange(1),
    help="Number of samples: those with the indices 0 to COUNT - 1. Default: all.",
)
@click.option(
    "--replace", is_flag=True, help="Overwrite an .npz file TARGET that exists with other content."
)
def convert(
    source: Path,
    target: Path,
    to: str,
    suite: str | None,
    prompt_folder: PromptFolderOptions,
    count: int | None,
    replace: bool,
) -> None:
    """Convert samples to another layout.

    SOURCE is a run folder, an image folder, an .npz file, or a folder that the generation script of
    GenEval, DPG-Bench or T2I-CompBench wrote. TARGET is the file or folder to write. SOURCE is not
    changed.

    \b
    harope-bench convert runs/harope harope.npz --to adm
    harope-bench convert images/ folders/ --to geneval --suite geneval \\
        --pattern '{prompt_index}_{copy}.png'
    """
    from harope_bench.suites.official_layouts.conversion import convert

    conversion, n_failed = convert(source, target, to, suite, count, prompt_folder, replace)
    excluded = f", {n_failed:,} failed samples excluded" if n_failed else ""
    lines = [f"{target}: {conversion.image_count:,} images{excluded}", *conversion.warnings]
    echo("\n  ".join(lines))
