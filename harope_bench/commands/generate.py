"""The command `generate`: samples of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from harope_bench.commands.option_types import (
    IndicesType,
    RegisteredName,
)
from harope_bench.commands.options import (
    generation_options,
    json_object_text,
    record_json,
    select_indices,
    shard_option,
    worker_options,
)
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from harope_bench.core.shard import Shard
    from harope_bench.pipeline.eval_options import GenerationOptions
    from harope_bench.pipeline.worker_options import WorkerOptions


@cloup.command()
@click.argument("checkpoint", type=RegisteredName("checkpoints"))
@cloup.option(
    "--suite",
    type=RegisteredName("suites"),
    metavar="NAME",
    help=(
        "Suite: the labels or prompts to generate, their number and the image size; see `list"
        " suites`. Or your own prompts: prompts:FILE with a .txt, .csv or .jsonl file,"
        " prompts:FILE,copies=4 for 4 images each. Default: the suite registered with the"
        " checkpoint."
    ),
)
@generation_options
@cloup.option(
    "--resolution",
    type=click.IntRange(1),
    help="Side of the images in pixels. Default: the resolution of the suite.",
)
@cloup.option(
    "--count",
    type=click.IntRange(1),
    help=(
        "Number of samples: those with the indices 0 to COUNT - 1. Default: the number of samples"
        " of the suite."
    ),
)
@cloup.option(
    "--indices",
    type=IndicesType(),
    help=(
        "Generate only the samples with these indices, such as 0-499 or 0-9,20-29. Several"
        " processes may generate different samples of a run at the same time. Not with --count."
        " Default: as --count."
    ),
)
@shard_option(
    "Generate only part I of N parts of the samples, as 2/16, for example in a job array. Then run"
    " `generate` or `eval` without --shard."
)
@worker_options
@cloup.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Run folder to write: the images, their records and the settings (plan.json).",
)
@cloup.option(
    "--pattern",
    metavar="PATTERN",
    help=(
        "For prompts: also write the images to FOLDER/named under names like '{id}_{copy}.png'."
        " Placeholders: {id}, {prompt}, {prompt_index}, {copy}, {index}; a number may have leading"
        " zeros, as {index:06d}."
    ),
)
@cloup.option(
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
    shard: Shard | None,
    out: Path,
    pattern: str | None,
    dry_run: bool,
    generation: GenerationOptions,
    processes: WorkerOptions,
) -> None:
    """Generate samples of a registered CHECKPOINT.

    CHECKPOINT is a name from `list checkpoints`. If the command is interrupted, run it again: it
    generates only the samples that the run folder lacks. Later, `eval` computes metrics from the
    run folder; `eval CHECKPOINT` does both.

    \b
    harope-bench generate digits-harope --suite digits --count 500 \\
        --out runs/harope
    harope-bench generate my-flux --suite prompts:my.csv,copies=4 \\
        --pattern '{id}_{copy}.png' --out runs/my-prompts
    """
    from harope_bench.core.extras import require_network_packages

    require_network_packages("generate")

    from harope_bench.data.run_folder import RunFolder
    from harope_bench.pipeline.generate import (
        generate,
        indices_part,
        make_plan,
        missing_requests,
        shard_part,
    )
    from harope_bench.pipeline.named_images import copy_named_images, image_names
    from harope_bench.pipeline.requirements import requirements_of_machines
    from harope_bench.pipeline.unmet_requirements import raise_missing
    from harope_bench.pipeline.worker_options import use_workers

    if shard is not None and indices is not None:
        raise click.UsageError("--shard and --indices exclude each other; give one of them")
    plan = make_plan(checkpoint, suite, generation.overrides())
    sample_indices = select_indices(plan.suite, count, indices)
    part = None if indices is None else indices_part(sample_indices)
    if shard is not None:
        part = shard_part(shard, sample_indices, plan.settings.tile)
        sample_indices = part.indices
    names = image_names(pattern, plan.suite, sample_indices) if pattern is not None else {}
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
    with use_workers(processes, plan.settings.device):
        raise_missing(requirements_of_machines([plan.checkpoint], suites=[]))
        generation_summary = generate(plan, sample_indices, out, batch, part=part)
    if indices is not None:
        RunFolder(out).finalize_last_part()
    echo(
        f"{generation_summary.folder}: {generation_summary.n_requested:,} requested,"
        f" {generation_summary.n_generated:,} generated, {generation_summary.n_failed:,} failed"
    )
    if names:
        named_images = copy_named_images(out, names)
        echo(f"{named_images.folder}: {named_images.image_count:,} images")
