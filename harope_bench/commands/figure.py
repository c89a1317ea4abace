"""The command `figure`: the paper's figures 5, 6 and 7 for checkpoints and training logs."""

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
    generation_options,
)
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from harope_bench.analysis.learned_matrices import Show
    from harope_bench.core.chart_schema import HeadMatrix, SweepChart, SweepPoint
    from harope_bench.leaderboards.sweep import Axis
    from harope_bench.pipeline.eval_options import GenerationOptions


class NumberList(click.ParamType):
    """The option type of a list of numbers: `100,500,900`."""

    name = "numbers"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Return the numbers; raise a usage error if one is not a finite number."""
        parts = str(value).split(",")
        try:
            return tuple(FiniteFloat().convert(part, param, ctx) for part in parts)
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers", param, ctx)


out_option = cloup.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The .svg file to write; .json and .csv files of the same name are written too.",
)


@cloup.group()
def figure() -> None:
    """Plot attention, matrices, loss curves or sweeps.

    `report --runs RUNS` includes every figure that is in the folder RUNS/figures.

    \b
    harope-bench figure attention-distance digits-rope-axial digits-harope \\
        --out runs/figures/distance.svg
    harope-bench figure matrices digits-harope --show m-i \\
        --out runs/figures/matrices.svg
    harope-bench figure loss runs/train/*/log.csv --ema 0.9 \\
        --out runs/figures/loss.svg
    """


@figure.command("attention-distance")
@click.argument("checkpoints", type=RegisteredName("checkpoints"), nargs=-1, required=True)
@cloup.option(
    "--count",
    type=click.IntRange(1),
    default=64,
    help="Number of samples to average over; for a classifier, of real images.",
)
@cloup.option(
    "--timesteps",
    type=NumberList(),
    default="100,300,500,700,900",
    help=(
        "Timesteps to measure at, comma-separated, between 0 (clean image) and 1,000 (noise); the"
        " nearest step of the sampler is used."
    ),
)
@cloup.option(
    "--suite",
    type=RegisteredName("suites"),
    metavar="NAME",
    help=(
        "Suite: where the labels or prompts come from; see `list suites`. Default: the suite"
        " registered with the checkpoint."
    ),
)
@cloup.option(
    "--resolution",
    type=click.IntRange(1),
    help="Side of the images in pixels. Default: the resolution of the suite.",
)
@cloup.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Folder of real images, for a classifier whose suite includes none (imagenet-val).",
)
@generation_options
@out_option
def attention_distance(
    checkpoints: tuple[str, ...],
    count: int,
    timesteps: tuple[float, ...],
    suite: str | None,
    images: Path | None,
    out: Path,
    batch: int | None,
    generation: GenerationOptions,
) -> None:
    """Plot the attention distance of each head (Figure 5).

    CHECKPOINTS are names from `list checkpoints`. The attention distance of a head is the distance
    in pixels between a query and its keys, weighted by the attention.

    It is measured while the model generates samples with its sampler, on the conditional pass of
    guidance. Text tokens (flux, sd3) and the class token (deit) are excluded. A classifier
    processes real images.

    \b
    harope-bench figure attention-distance digits-rope-axial digits-harope \\
        --out runs/figures/distance.svg
    """
    from harope_bench.core.extras import require_network_packages

    require_network_packages("figure attention-distance")

    from harope_bench.analysis.attention_distance import measure_distances, settings_text
    from harope_bench.core.chart_schema import AttentionDistanceChart
    from harope_bench.pipeline.target import plan_checkpoint
    from harope_bench.reports.chart_files import write_figure

    plans = [plan_checkpoint(name, suite, generation) for name in checkpoints]
    runs = tuple(measure_distances(plan, count, timesteps, images) for plan in plans)
    chart = AttentionDistanceChart(
        settings_text=settings_text(runs, count, timesteps), checkpoints=runs
    )
    for path in write_figure(chart, out):
        echo(path)
    for run in runs:
        deviations = " ".join(f"{value:.2f}" for value in run.standard_deviation)
        excluded = f"; {run.excluded_tokens} excluded" if run.excluded_tokens else ""
        echo(
            f"{run.checkpoint}: standard deviation over heads by layer {deviations} px; uniform"
            f" attention {run.uniform_distance:.2f} px{excluded}"
        )


@figure.command()
@click.argument("checkpoint", type=RegisteredName("checkpoints"))
@cloup.option(
    "--show",
    type=click.Choice(["m", "m-i", "m-inverse-t", "operator"]),
    default="m",
    help=(
        "What to plot of the learned matrix M of the queries. m: M. m-i: M - I, its difference from"
        " the identity. m-inverse-t: the inverse transpose of M. operator: M^T R_D M_k, with the"
        " rotation R_D of an offset D and the matrix M_k of the keys."
    ),
)
@cloup.option(
    "--offset",
    "position_offsets",
    type=NumberList(),
    multiple=True,
    metavar="ROW,COLUMN",
    help="Offset D of the operator in tokens; may be repeated. Default: 1,0 and 0,1.",
)
@cloup.option(
    "--layer",
    "layers",
    type=click.IntRange(0),
    multiple=True,
    help="Number of a layer to plot, from 0; may be repeated. Default: all layers.",
)
@out_option
def matrices(
    checkpoint: str,
    show: Show,
    position_offsets: tuple[tuple[float, ...], ...],
    layers: tuple[int, ...],
    out: Path,
) -> None:
    """Plot the learned matrices of each head (Figure 6).

    Their statistics are printed. CHECKPOINT is a name from `list checkpoints` whose encoding
    multiplies queries and keys by learned matrices, such as harope.

    \b
    harope-bench figure matrices digits-harope --show m-i \\
        --out runs/figures/matrices.svg
    """
    from harope_bench.core.extras import require_network_packages

    require_network_packages("figure matrices")

    from harope_bench.analysis.learned_matrices import measure_matrices
    from harope_bench.models import load_checkpoint
    from harope_bench.reports.chart_files import write_figure
    from harope_bench.reports.charts_svg import MATRIX_AMBIGUITY_NOTE

    chart = measure_matrices(
        load_checkpoint.load_checkpoint_record(checkpoint),
        show,
        position_offsets or ((1.0, 0.0), (0.0, 1.0)),
        layers or None,
    )
    for path in write_figure(chart, out):
        echo(path)
    for matrix in chart.matrices:
        echo(_matrix_line(matrix))
    echo(f"note: {MATRIX_AMBIGUITY_NOTE}")


def _matrix_line(matrix: HeadMatrix) -> str:
    """Return the statistics of one learned matrix as text."""
    head = "all heads" if matrix.head is None else f"head {matrix.head}"
    changes = " ".join(f"{value:.3g}" for value in matrix.operator_change)
    number = matrix.condition_number
    condition = "singular" if number is None else f"{number:.4g}"
    return (
        f"layer {matrix.layer}, {head}: |M-I| {matrix.distance_from_identity:.4g}, cond"
        f" {condition}, coupling {matrix.axis_coupling:.2%}, |M^T R_D M_k - R_D| {changes}"
    )


@figure.command()
@click.argument("runs", type=click.Path(path_type=Path, exists=True, file_okay=False))
@cloup.option(
    "--suite",
    type=RegisteredName("suites"),
    metavar="NAME",
    help="Suite of the results. Required if RUNS has results of several suites.",
)
@cloup.option(
    "--metric",
    type=MetricName(),
    metavar="NAME",
    required=True,
    help="Metric, by the name that `eval` prints, such as fid or overall.",
)
@cloup.option(
    "--axis",
    type=click.Choice(["resolution", "training-resolution", "pos-scaling"]),
    default="resolution",
    help=(
        "Setting on the horizontal axis: the side of the generated images, the side of the training"
        " images, or the option --pos-scaling."
    ),
)
@out_option
def sweep(runs: Path, suite: str | None, metric: str, axis: Axis, out: Path) -> None:
    """Plot a metric against a setting.

    Each checkpoint has a line. RUNS is a folder that contains run folders, as `eval --resolution
    28,56` writes. Runs of one checkpoint that differ in another setting have a line each. The
    values are printed too.

    \b
    harope-bench figure sweep runs --metric overall --axis resolution \\
        --out runs/figures/overall.svg
    """
    from harope_bench.data.result_store import read_results
    from harope_bench.leaderboards.sweep import build_sweep_chart
    from harope_bench.reports.chart_files import write_figure

    results = read_results(runs)
    chart = build_sweep_chart(results, suite, metric, axis)
    checkpoints = [
        stored_result.result.plan.checkpoint
        for stored_result in results
        if stored_result.result.plan
    ]
    for path in write_figure(chart, out, checkpoints):
        echo(path)
    for line in chart.lines:
        for point in line.points:
            echo(f"{line.label:40} {_point_text(point, chart)}")
    for reason in chart.excluded:
        echo(f"excluded: {reason}")


def _point_text(point: SweepPoint, chart: SweepChart) -> str:
    """Return the value and the confidence interval of one point of a sweep."""
    interval = ""
    if point.low is not None and point.high is not None:
        interval = f"  {point.low:.{chart.decimals}f} to {point.high:.{chart.decimals}f}"
    value = f"{point.value:.{chart.decimals}f}"
    return f"{point.axis_value:>14} {value}{interval}  ({point.images:,} images)"


@figure.command()
@click.argument(
    "logs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@cloup.option(
    "--ema",
    type=FiniteFloat(0, 1, max_open=True),
    default=0.0,
    help="Decay of the exponential moving average that smooths the losses; 0 smooths nothing.",
)
@out_option
def loss(logs: tuple[Path, ...], ema: float, out: Path) -> None:
    """Plot training losses against the step (Figure 7).

    LOGS are log.csv files that `train` wrote, log.txt files of DiT's training script, or .csv files
    with the columns step, loss and run.

    \b
    harope-bench figure loss runs/train/*/log.csv --ema 0.9 \\
        --out runs/figures/loss.svg
    """
    from harope_bench.reports.chart_files import write_figure
    from harope_bench.reports.loss_logs import read_losses

    chart = read_losses(logs, ema)
    for path in write_figure(chart, out):
        echo(path)
    for curve in chart.curves:
        losses = curve.smoothed_loss or curve.loss
        echo(f"{curve.label}: step {curve.steps[-1]:,.0f}, loss {losses[-1]:.4f}")
