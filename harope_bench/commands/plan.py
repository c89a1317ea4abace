"""The verb plan."""

from __future__ import annotations

from pathlib import Path

import click

from harope_bench.commands.options import FiniteFloat, json_object_text
from harope_bench.commands.terminal import echo


@click.command()
@click.argument("checkpoint")
@click.option("--suite", help="What to draw; the checkpoint's own if left out.")
@click.option("--metric", default="fid", help="The metric that shall tell.")
@click.option(
    "--difference",
    type=FiniteFloat(1e-9),
    required=True,
    help="The difference to find, in the metric's unit.",
)
@click.option(
    "--power",
    type=FiniteFloat(0.5, 0.9999),
    default=0.8,
    help="How often a true difference shall be found.",
)
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    help="Runs to measure the noise from; else published constants.",
)
@click.option(
    "--value",
    type=FiniteFloat(0, min_open=True),
    help="The metric's value to expect, where no run tells it.",
)
@click.option(
    "--count",
    "images",
    type=click.IntRange(2),
    help="Images of each run; the suite's own number if left out.",
)
@click.option(
    "--rate", type=FiniteFloat(1e-9), help="Images a second; a tile is drawn and timed if left out."
)
@click.option(
    "--resolution", type=click.IntRange(1), help="Side in pixels; the suite's own if left out."
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "mps"]),
    default="cpu",
    help="Where the tile is drawn.",
)
@click.option("--json", "json_", is_flag=True, help="One JSON object.")
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
    """Images, training seeds, disk and time that a wanted difference costs, before anything runs.

    \b
    harope-bench plan digits-harope --metric fid --difference 3 --power 0.8 --runs runs/table2
    """
    from harope_bench.pipeline.plan_study import (
        budget_fields,
        budget_lines,
        estimate_budget,
        plan_for,
    )

    found = estimate_budget(
        plan_for(checkpoint, suite, resolution, device),
        metric,
        difference,
        power,
        runs,
        value,
        images,
        rate,
    )
    echo(json_object_text(budget_fields(found)) if json_ else "\n".join(budget_lines(found)))
