"""The command `figure`: the paper's figures 5, 6 and 7 for checkpoints and training logs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harope_bench.commands.options import FiniteFloat, generation_options
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


out_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The .svg file; .json and .csv files of the same name are written too.",
)


@click.group()
def figure() -> None:
    """Plot attention, matrices, loss curves or sweeps.

    The report includes every figure in RUNS/figures.

    \b
    harope-bench figure attention-distance digits-rope-axial digits-harope --out
    runs/figures/distance.svg
    harope-bench figure matrices digits-harope --show m-i --out runs/figures/matrices.svg
    harope-bench figure loss runs/train/*/log.csv --ema 0.9 --out runs/figures/loss.svg
    """


@figure.command("attention-distance")
@click.argument("checkpoints", nargs=-1, required=True)
@click.option(
    "--count",
    type=click.IntRange(1),
    default=64,
    help="Number of samples (0 to COUNT - 1), or of real images for a classifier.",
)
@click.option(
    "--timesteps",
    type=NumberList(),
    default="100,300,500,700,900",
    help="Timesteps between 0 (clean) and 1,000 (noise); the nearest sampler step is used.",
)
@click.option("--suite", help="Suite with the labels or prompts. Default: the checkpoint's suite.")
@click.option(
    "--resolution",
    type=click.IntRange(1),
    help="Image side in pixels. Default: the suite's resolution.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Folder of real images, for a classifier whose suite includes none.",
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
    """Plot the mean attention distance of each head by layer (Figure 5).

    The distances are computed from the rotated queries and keys, while the model generates with
    its sampler; of the two guidance branches, the conditional one is used. Text tokens (flux, sd3)
    and the class token (deit) are excluded. A classifier processes real images.

    \b
    harope-bench figure attention-distance digits-rope-axial digits-harope --out
    runs/figures/distance.svg
    """
    from harope_bench.core.extras import NETWORK_MODULES, require_packages

    require_packages("figure attention-distance", *NETWORK_MODULES, "matplotlib")

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
@click.argument("checkpoint")
@click.option(
    "--show",
    type=click.Choice(["m", "m-i", "m-inverse-t", "operator"]),
    default="m",
    help="Matrix to plot: M, M - I, the inverse transpose of M, or operator (M^T R_D M_k).",
)
@click.option(
    "--offset",
    "offsets",
    type=NumberList(),
    multiple=True,
    help="Offset D of the operator as row,column; may be repeated. Default: 1,0 and 0,1.",
)
@click.option(
    "--layer",
    "layers",
    type=click.IntRange(0),
    multiple=True,
    help="Layer to plot; may be repeated. Default: all.",
)
@out_option
def matrices(
    checkpoint: str,
    show: Show,
    offsets: tuple[tuple[float, ...], ...],
    layers: tuple[int, ...],
    out: Path,
) -> None:
    """Plot the learned matrices by layer and head, and print their statistics (Figure 6).

    \b
    harope-bench figure matrices digits-harope --show m-i --out runs/figures/matrices.svg
    """
    from harope_bench.core.extras import NETWORK_MODULES, require_packages

    require_packages("figure matrices", *NETWORK_MODULES, "matplotlib")

    from harope_bench.analysis.learned_matrices import measure_matrices
    from harope_bench.models import load_checkpoint
    from harope_bench.reports.chart_files import write_figure
    from harope_bench.reports.charts_svg import MATRIX_AMBIGUITY_NOTE

    chart = measure_matrices(
        load_checkpoint.load_checkpoint_record(checkpoint),
        show,
        offsets or ((1.0, 0.0), (0.0, 1.0)),
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
@click.option("--suite", help="Suite of the results; required if the runs have several suites.")
@click.option("--metric", required=True, help="Metric as named in the results (overall, fid).")
@click.option(
    "--axis",
    type=click.Choice(["resolution", "training-resolution", "pos-scaling"]),
    default="resolution",
    help="Setting on the horizontal axis.",
)
@out_option
def sweep(runs: Path, suite: str | None, metric: str, axis: Axis, out: Path) -> None:
    """Plot a metric against a setting, with one line for each checkpoint.

    Runs of one checkpoint that differ in another setting have a line each. The values are printed
    too.

    \b
    harope-bench figure sweep runs --metric overall --axis resolution --out runs/figures/overall.svg
    """
    from harope_bench.core.extras import require_packages

    require_packages("figure sweep", "matplotlib")

    from harope_bench.data.result_store import read_results
    from harope_bench.leaderboards.sweep import build_sweep_chart
    from harope_bench.reports.chart_files import write_figure

    chart = build_sweep_chart(read_results(runs), suite, metric, axis)
    for path in write_figure(chart, out):
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
@click.option(
    "--ema",
    type=FiniteFloat(0, 1, max_open=True),
    default=0.0,
    help="Decay of the exponential moving average; 0 plots the raw losses.",
)
@out_option
def loss(logs: tuple[Path, ...], ema: float, out: Path) -> None:
    """Plot the training loss against the step (Figure 7).

    LOGS are log.csv files of this package, log.txt files of DiT, or .csv files with the columns
    step, loss and run.

    \b
    harope-bench figure loss runs/train/*/log.csv --ema 0.9 --out runs/figures/loss.svg
    """
    from harope_bench.core.extras import require_packages

    require_packages("figure loss", "matplotlib")

    from harope_bench.reports.chart_files import write_figure
    from harope_bench.reports.loss_logs import read_losses

    chart = read_losses(logs, ema)
    for path in write_figure(chart, out):
        echo(path)
    for curve in chart.curves:
        losses = curve.smoothed_loss or curve.loss
        echo(f"{curve.label}: step {curve.steps[-1]:,.0f}, loss {losses[-1]:.4f}")
