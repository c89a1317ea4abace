"""The verb figure: the paper's figures 5, 6 and 7 of registered checkpoints and of training
logs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harope_bench.commands.options import FiniteFloat, generation_options
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from harope_bench.analysis.learned_matrices import Show
    from harope_bench.leaderboards.sweep import Axis
    from harope_bench.pipeline.eval_options import GenerationOptions


class NumberList(click.ParamType):
    """`100,500,900`."""

    name = "numbers"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """A tuple of floats; a usage error otherwise."""
        try:
            found = tuple(FiniteFloat().convert(part, param, ctx) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers", param, ctx)
        return found


out_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The .svg; .json and .csv go beside it.",
)


@click.group()
def figure() -> None:
    """Draw attention distances, learned matrices, loss curves or sweeps. What lies in RUNS/figures
    is shown by the report.

    \b
    harope-bench figure attention-distance digits-rope-axial digits-harope --out
    runs/figures/distance.svg
    harope-bench figure matrices digits-harope --show m-i --out runs/figures/matrices.svg
    harope-bench figure loss runs/train/*/log.csv --ema 0.9 --out runs/figures/loss.svg
    """


@figure.command("attention-distance")
@click.argument("checkpoints", nargs=-1, required=True)
@click.option(
    "--images",
    type=click.IntRange(1),
    default=64,
    help="Requests 0 to IMAGES - 1; or so many real pictures.",
)
@click.option(
    "--times",
    type=NumberList(),
    default="100,300,500,700,900",
    help="Of 1,000, from clean to noise; the nearest step is taken.",
)
@click.option("--suite", help="Whose labels; the checkpoint's own if left out.")
@click.option(
    "--resolution", type=click.IntRange(1), help="Side in pixels; the suite's own if left out."
)
@click.option(
    "--pictures",
    type=click.Path(path_type=Path),
    help="Folder of real pictures for a classifier whose suite ships none.",
)
@generation_options
@out_option
def attention_distance(
    checkpoints: tuple[str, ...],
    images: int,
    times: tuple[float, ...],
    suite: str | None,
    pictures: Path | None,
    out: Path,
    batch: int | None,
    generation: GenerationOptions,
) -> None:
    """How far each head looks, by layer (Figure 5): post-rotation queries and keys on the model's
    own way, labelled or prompted branch.

    \b
    harope-bench figure attention-distance digits-rope-axial digits-harope --out
    runs/figures/distance.svg

    Text tokens (flux, sd3) and the class token (deit) are left out. A classifier looks at real
    pictures.
    """
    from harope_bench.analysis.attention_distance import measure_distances, settings_text
    from harope_bench.core.chart_schema import AttentionDistanceChart
    from harope_bench.pipeline.target import plan_checkpoint
    from harope_bench.reports.chart_files import write_figure

    plans = [plan_checkpoint(name, suite, generation) for name in checkpoints]
    runs = tuple(measure_distances(plan, images, times, pictures) for plan in plans)
    for path in write_figure(
        AttentionDistanceChart(settings_text=settings_text(runs, images, times), checkpoints=runs),
        out,
    ):
        echo(path)
    for run in runs:
        spread = " ".join(f"{value:.2f}" for value in run.standard_deviation)
        without = f"; {run.excluded_tokens} left out" if run.excluded_tokens else ""
        echo(
            f"{run.checkpoint}: spread over heads by layer {spread} px; even attention"
            f" {run.uniform_distance:.2f} px{without}"
        )


@figure.command()
@click.argument("checkpoint")
@click.option(
    "--show",
    type=click.Choice(["m", "m-i", "m-inverse-t", "operator"]),
    default="m",
    help="operator: M^T R_D M_k.",
)
@click.option(
    "--offset",
    "offsets",
    type=NumberList(),
    multiple=True,
    help="D as row,column; (1,0) and (0,1) if left out.",
)
@click.option("--layer", "layers", type=click.IntRange(0), multiple=True, help="Only these layers.")
@out_option
def matrices(
    checkpoint: str,
    show: Show,
    offsets: tuple[tuple[float, ...], ...],
    layers: tuple[int, ...],
    out: Path,
) -> None:
    """The learned matrices by layer and head, with their numbers (Figure 6).

    \b
    harope-bench figure matrices digits-harope --show m-i --out runs/figures/matrices.svg
    """
    from harope_bench.analysis.learned_matrices import measure_matrices
    from harope_bench.models import load_checkpoint
    from harope_bench.reports.chart_files import write_figure
    from harope_bench.reports.charts_svg import MATRIX_AMBIGUITY_NOTE

    found = measure_matrices(
        load_checkpoint.load_checkpoint_record(checkpoint),
        show,
        offsets or ((1.0, 0.0), (0.0, 1.0)),
        layers or None,
    )
    for path in write_figure(found, out):
        echo(path)
    for one in found.matrices:
        condition = "singular" if one.condition_number is None else f"{one.condition_number:.4g}"
        moved = " ".join(f"{value:.3g}" for value in one.operator_change)
        place = f"layer {one.layer}, {'all heads' if one.head is None else f'head {one.head}'}"
        echo(
            f"{place}: |M-I| {one.distance_from_identity:.4g}, cond {condition}, coupling"
            f" {one.axis_coupling:.2%}, |M^T R_D M_k - R_D| {moved}"
        )
    echo(f"note: {MATRIX_AMBIGUITY_NOTE}")


@figure.command()
@click.argument("runs", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--suite", help="Of which suite; needed where the runs have several.")
@click.option(
    "--metric", required=True, help="Of which metric, as a result names it (overall, fid)."
)
@click.option(
    "--axis",
    type=click.Choice(["resolution", "training-resolution", "pos-scaling"]),
    default="resolution",
    help="What the runs differ in.",
)
@out_option
def sweep(runs: Path, suite: str | None, metric: str, axis: Axis, out: Path) -> None:
    """A metric along an axis, a line for each checkpoint and what else differs; the table goes to
    the terminal.

    \b
    harope-bench figure sweep runs --metric overall --axis resolution --out runs/figures/overall.svg
    """
    from harope_bench.data.result_store import read_results
    from harope_bench.leaderboards.sweep import build_sweep_chart as swept
    from harope_bench.reports.chart_files import write_figure

    found = swept(read_results(runs), suite, metric, axis)
    for path in write_figure(found, out):
        echo(path)
    for line in found.lines:
        for point in line.points:
            interval = (
                ""
                if point.low is None or point.high is None
                else f"  {point.low:.{found.decimals}f} to {point.high:.{found.decimals}f}"
            )
            echo(
                f"{line.label:40} {point.axis_value:>14} {point.value:.{found.decimals}f}{interval}"
                f"  ({point.images:,} images)"
            )
    for told in found.excluded:
        echo(f"left out: {told}")


@figure.command()
@click.argument(
    "logs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@click.option(
    "--ema",
    type=FiniteFloat(0, 1, max_open=True),
    default=0.0,
    help="Weight of the past in a running average; 0 draws the log as it is.",
)
@out_option
def loss(logs: tuple[Path, ...], ema: float, out: Path) -> None:
    """Training loss against step (Figure 7), from our log.csv, DiT's log.txt, or csv of step, loss,
    run.

    \b
    harope-bench figure loss runs/train/*/log.csv --ema 0.9 --out runs/figures/loss.svg
    """
    from harope_bench.reports.chart_files import write_figure
    from harope_bench.reports.loss_logs import read_losses

    found = read_losses(logs, ema)
    for path in write_figure(found, out):
        echo(path)
    for run in found.curves:
        echo(
            f"{run.label}: step {run.steps[-1]:,.0f}, loss"
            f" {(run.smoothed_loss or run.loss)[-1]:.4f}"
        )
