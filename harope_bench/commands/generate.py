"""Verbs of samples: generate, verify, convert."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harope_bench.commands.options import (  # fmt: skip
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
    from harope_bench.suites.official_layouts.prompt_folder import PromptFolderOptions


@click.command()
@click.argument("checkpoint")
@click.option("--suite", help="What to draw; the checkpoint's own if left out.")
@generation_options
@click.option(
    "--resolution", type=click.IntRange(1), help="Side in pixels; the suite's own if left out."
)
@click.option(
    "--count",
    type=click.IntRange(1),
    help="Samples 0 to COUNT - 1; the suite's own number if left out.",
)
@click.option("--indices", type=IndicesType(), help="Just these samples, as 0-499 or 0-9,20-29.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Run folder; a finished part is kept.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and what is missing; draw nothing.")
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
    """Draw samples from a registered CHECKPOINT; a second call draws what is missing.

    \b
    harope-bench generate digits-harope --suite digits --count 500 --out runs/harope
    """
    from harope_bench.data.run_folder import RunFolder
    from harope_bench.pipeline.generate import generate, make_plan, missing_requests

    plan = make_plan(checkpoint, suite, generation.overrides())
    wanted = select_indices(plan.suite, count, indices)
    if dry_run:
        lacking = missing_requests(plan, wanted, RunFolder(out))
        echo(
            json_object_text(
                {
                    "plan": record_json(plan),
                    "digest": plan.digest,
                    "asked": len(wanted),
                    "missing": len(lacking),
                }
            )
        )
        return
    drawn = generate(plan, wanted, out, batch)
    echo(
        f"{drawn.folder}: {drawn.n_requested:,} asked, {drawn.n_generated:,} drawn now,"
        f" {drawn.n_failed:,} failed"
    )


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--redraw",
    type=click.IntRange(0),
    default=3,
    help="Samples to draw, or pictures to name, again, chosen at random.",
)
@click.option("--seed", type=click.IntRange(0), help="Of that choice, to make the same one again.")
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="The file that results were scored against, where it is not the suite's own.",
)
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="Images, or official results, that were scored from elsewhere and have moved.",
)
@real_image_options
@click.option(
    "--json", "json_", is_flag=True, help="One JSON object, with the status of each check."
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
    """Check every run and result in a folder again; exit 3 if anything was altered, 1 if something
    could not be checked.

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
        real_images.truth,
        real_images.crop_ratio,
        source,
    )
    if json_:
        checks = [check._asdict() for check in findings.checks]
        told = {
            "checked": findings.passed_messages,
            "wrong": findings.altered_messages,
            "not_checked": findings.unchecked_messages,
        }
        echo(
            json_object_text(
                {"status": findings.status, "ok": findings.status == "ok", "checks": checks, **told}
            )
        )
    else:
        lines = [
            *findings.passed_messages,
            *(f"WRONG {line}" for line in findings.altered_messages),
        ]
        lines += [f"NOT CHECKED {line}" for line in findings.unchecked_messages]
        echo("\n".join(map(printable_line, lines)))
    if findings.status != "ok":
        sys.exit(EXIT_NO if findings.status == "altered" else EXIT_NOT_CHECKED)


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--to",
    type=click.Choice(["adm", "png", "geneval", "dpg", "compbench"]),
    required=True,
    help=(
        "adm: .npz with arr_0 (and labels arr_1); png: 000000.png ...; the others: the folders of"
        " the official benchmarks."
    ),
)
@click.option("--suite", help="Suite of the prompts, where neither a run nor the layout shows it.")
@prompt_folder_options
@click.option(
    "--resolution",
    "side",
    type=click.IntRange(1),
    help="Side in pixels of an image in DPG-Bench's pictures.",
)
@click.option("--count", type=click.IntRange(1), help="Only the first COUNT samples.")
@click.option("--replace", is_flag=True, help="Write over an .npz that holds something else.")
def convert(
    source: Path,
    target: Path,
    to: str,
    suite: str | None,
    prompt_folder: PromptFolderOptions,
    count: int | None,
    replace: bool,
) -> None:
    """Convert samples between layouts: run folder, image folder, .npz or a benchmark's folder to
    any of --to.

    \b
    harope-bench convert runs/harope harope.npz --to adm
    harope-bench convert pictures/ folders/ --to geneval --pattern '{prompt_index}_{copy}.png'
    """
    from harope_bench.suites.official_layouts.conversion import convert

    done, failed = convert(source, target, to, suite, count, prompt_folder, replace)
    left_out = f", {failed:,} failed samples left out" if failed else ""
    echo("\n  ".join((f"{target}: {done.image_count:,} images{left_out}", *done.warnings)))
