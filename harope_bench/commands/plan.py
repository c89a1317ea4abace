"""The command `plan`, which estimates what it costs to resolve a difference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from harope_bench.commands.option_types import (
    FiniteFloat,
    MetricName,
    RegisteredName,
)
from harope_bench.commands.options import (
    device_option,
    echo_estimate,
    estimate_options,
    json_object_text,
    json_option,
    precision_options,
    preset_option,
)
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from harope_bench.core.record_base import Option


@cloup.command()
@click.argument("checkpoint", type=RegisteredName("checkpoints"), required=False)
@cloup.option(
    "--suite",
    type=RegisteredName("suites"),
    metavar="NAME",
    help=(
        "Suite (labels or prompts, and reference) of the study; see `list suites`. Default: the"
        " suite registered with the checkpoint."
    ),
)
@cloup.option(
    "--metric",
    type=MetricName(),
    metavar="NAME",
    default="fid",
    help="Metric that is compared, by the name that `eval` prints.",
)
@cloup.option(
    "--difference",
    type=FiniteFloat(1e-9),
    help=(
        "Smallest true difference between two methods to detect, in the unit of the metric."
        " Required with CHECKPOINT."
    ),
)
@cloup.option(
    "--power",
    type=FiniteFloat(0.5, 0.9999),
    default=0.8,
    help="Probability of detecting a true difference of that size.",
)
@cloup.option(
    "--runs",
    type=click.Path(path_type=Path),
    help=(
        "Folder with evaluated runs, from which the noise of the metric is measured. Default:"
        " published constants."
    ),
)
@cloup.option(
    "--value",
    type=FiniteFloat(0, min_open=True),
    help="Expected value of the metric. Default: the measured one in --runs; required without one.",
)
@cloup.option(
    "--count",
    "images",
    type=click.IntRange(2),
    help="Number of images of each run. Default: the number of samples of the suite.",
)
@cloup.option(
    "--rate",
    type=FiniteFloat(1e-9),
    help="Images generated per second. Default: one batch is generated and timed.",
)
@cloup.option(
    "--resolution",
    type=click.IntRange(1),
    help="Side of the images in pixels. Default: the resolution of the suite.",
)
@device_option("Device that the timed batch runs on.")
@cloup.option_group(
    "The paper's protocol (without CHECKPOINT)",
    cloup.option(
        "--table",
        "tables",
        type=RegisteredName("tables"),
        multiple=True,
        metavar="NAME",
        help="Table to estimate, as 2 or table2; may be repeated. Default: all.",
    ),
    *estimate_options,
    preset_option,
    *precision_options,
)
@json_option
def plan(
    checkpoint: str | None,
    suite: str | None,
    metric: str,
    difference: float | None,
    power: float,
    runs: Path | None,
    value: float | None,
    images: int | None,
    rate: float | None,
    resolution: int | None,
    device: str,
    tables: tuple[str, ...],
    gpus: int | None,
    rates: Path | None,
    preset: str | None,
    dtype: str | None,
    tf32: bool | None,
    tile: int | None,
    json_: bool,
) -> None:
    """Estimate the cost of a study, or of the paper's tables.

    Two methods differ by --difference. The output states how many images and training seeds of each
    method a comparison needs to find this with probability --power, and the disk space and time for
    that. CHECKPOINT is a name from `list checkpoints`; it gives the size of the network.

    \b
    harope-bench plan digits-harope --metric fid --difference 3 --power 0.8 \\
        --runs runs/table2

    Without CHECKPOINT, --gpus N estimates all runs of the paper's tables: what is missing, images,
    GPU hours, wall time on N GPUs and disk space. `reproduce --dry-run` does so for its folder.

    \b
    harope-bench plan --gpus 8
    """
    if checkpoint is None:
        if gpus is None:
            raise click.UsageError("give a CHECKPOINT with --difference, or --gpus N")
        from harope_bench.pipeline.row_plans import ALL_TABLES
        from harope_bench.pipeline.table_costs import estimate_costs

        overrides: dict[str, Option | None] = {
            "preset": preset,
            "dtype": dtype,
            "tf32": tf32,
            "tile": tile,
        }
        estimate, missing = estimate_costs(
            tables or (ALL_TABLES,),
            "paper",
            images,
            None,
            device,
            overrides,
            n_gpus=gpus,
            rates_path=rates,
        )
        echo_estimate(estimate, missing, json_)
        return
    paper_options = (gpus, rates, preset, dtype, tf32, tile)
    if tables or any(value is not None for value in paper_options):
        raise click.UsageError(
            "--table, --gpus, --rates, --preset, --dtype, --tf32 and --tile estimate the paper's"
            " tables; leave CHECKPOINT out"
        )
    if difference is None:
        raise click.UsageError("Missing option '--difference'.")
    from harope_bench.pipeline.plan_study import (
        budget_fields,
        budget_lines,
        estimate_budget,
        plan_for,
    )

    budget = estimate_budget(
        plan_for(checkpoint, suite, resolution, device),
        metric,
        difference,
        power,
        runs,
        value,
        images,
        rate,
    )
    if json_:
        echo(json_object_text(budget_fields(budget)))
    else:
        echo("\n".join(budget_lines(budget)))
