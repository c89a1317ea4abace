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
@click.option("--suite", help="Suite to generate. Default: the checkpoint's suite.")
@generation_options
@click.option(
    "--resolution",
    type=click.IntRange(1),
    help="Image side in pixels. Default: the suite's resolution.",
)
@click.option(
    "--count",
    type=click.IntRange(1),
    help="Generate samples 0 to COUNT - 1. Default: the suite's number.",
)
@click.option(
    "--indices", type=IndicesType(), help="Generate these samples only: 0-499 or 0-9,20-29."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Run folder; an interrupted run resumes.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print the plan and the number of missing samples, then stop."
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

    Samples that the run folder has already are not generated again.

    \b
    harope-bench generate digits-harope --suite digits --count 500 --out runs/harope
    """
    from harope_bench.core.extras import require_network_packages

    require_network_packages("generate")

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
    help="Number of randomly chosen samples to generate (or images to classify) again.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    help="Seed of that random choice. Default: a new choice each time.",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="Reference file of results that were not scored against the suite's own reference.",
)
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="New location of evaluated images or official results that have moved.",
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
    """Check runs and results for alterations.

    Every run and result below the folder RUN is compared with the recorded hashes. Results are
    scored again and some samples are generated again. Exit code 3: something was altered. 1:
    something could not be checked.

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
        "Layout to write. adm: an .npz with images arr_0 and labels arr_1. png: 000000.png and so"
        " on. geneval, dpg, compbench: the folders of the official benchmarks."
    ),
)
@click.option(
    "--suite", help="Suite of the prompts; required if SOURCE is no run and has no known layout."
)
@prompt_folder_options
@click.option(
    "--resolution",
    "side",
    type=click.IntRange(1),
    help="Side in pixels of each image in DPG-Bench's tiled files.",
)
@click.option("--count", type=click.IntRange(1), help="Convert samples 0 to COUNT - 1 only.")
@click.option("--replace", is_flag=True, help="Overwrite an .npz file with other content.")
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

    SOURCE is a run folder, an image folder, an .npz file, or the folder of an official benchmark.
    TARGET is written in the layout --to.

    \b
    harope-bench convert runs/harope harope.npz --to adm
    harope-bench convert images/ folders/ --to geneval --pattern '{prompt_index}_{copy}.png'
    """
    from harope_bench.suites.official_layouts.conversion import convert

    conversion, n_failed = convert(source, target, to, suite, count, prompt_folder, replace)
    excluded = f", {n_failed:,} failed samples excluded" if n_failed else ""
    lines = [f"{target}: {conversion.image_count:,} images{excluded}", *conversion.warnings]
    echo("\n  ".join(lines))
