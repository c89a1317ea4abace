"""The command `plan`, which estimates what it costs to resolve a difference."""

from __future__ import annotations

from pathlib import Path

import click

from harope_bench.commands.options import FiniteFloat, json_object_text
from harope_bench.commands.terminal import echo


@click.command()
@click.argument("checkpoint")
@click.option("--suite", help="Suite to generate. Default: the checkpoint's suite.")
@click.option("--metric", default="fid", help="Metric that is compared.")
@click.option(
    "--difference",
    type=FiniteFloat(1e-9),
    required=True,
    help="Smallest true difference to detect, in the metric's unit.",
)
@click.option(
    "--power",
    type=FiniteFloat(0.5, 0.9999),
    default=0.8,
    help="Probability of detecting a true difference of that size.",
)
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    help="Folder of runs to measure the noise from. Default: published constants.",
)
@click.option(
    "--value",
    type=FiniteFloat(0, min_open=True),
    help="Expected value of the metric, if no run has measured it.",
)
@click.option(
    "--count",
    "images",
    type=click.IntRange(2),
    help="Images of each run. Default: the suite's number.",
)
@click.option(
    "--rate",
    type=FiniteFloat(1e-9),
    help="Images generated per second. Default: one batch is generated and timed.",
)
@click.option(
    "--resolution",
    type=click.IntRange(1),
    help="Image side in pixels. Default: the suite's resolution.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "mps"]),
    default="cpu",
    help="Device for the timed batch.",
)
@click.option("--json", "json_", is_flag=True, help="Print one JSON object.")
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
    """Estimate the cost of resolving a difference.

    The output states the images, training seeds, disk space and time that are needed. The study
    compares two methods on CHECKPOINT's suite and must detect --difference with probability
    --power.

    \b
    harope-bench plan digits-harope --metric fid --difference 3 --power 0.8 --runs runs/table2
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
