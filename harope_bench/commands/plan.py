"""The command `plan`, which estimates what it costs to resolve a difference."""

from __future__ import annotations

from pathlib import Path

import click
import cloup

from harope_bench.commands.option_types import (
    FiniteFloat,
    MetricName,
    RegisteredName,
)
from harope_bench.commands.options import (
    device_option,
    json_object_text,
    json_option,
)
from harope_bench.commands.terminal import echo


@cloup.command()
@click.argument("checkpoint", type=RegisteredName("checkpoints"))
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
    required=True,
    help="Smallest true difference between two methods to detect, in the unit of the metric.",
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
@json_option
def plan(
    checkpoint: str,
    suite: str | None,
    metric: str,
    difference: float,
    power: float,
    runs: Path | None,
    value: float | None,
    images: int | None,
    rate: float | None,
    resolution: int | None,
    device: str,
    json_: bool,
) -> None:
    """Estimate the cost of detecting a difference between two methods.

    Two methods differ by --difference. The output states how many images and training seeds of each
    method a comparison needs to find this with probability --power, and the disk space and time for
    that. CHECKPOINT is a name from `list checkpoints`; it gives the size of the network.

    \b
    harope-bench plan digits-harope --metric fid --difference 3 --power 0.8 \\
        --runs runs/table2
    """
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
