"""The command `train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harope_bench.commands.options import KeyValueType
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from harope_bench.core.record_base import Option


@click.command()
@click.argument("recipe")
@click.option("--encoding", help="Positional encoding to train with; for recipes of a generator.")
@click.option(
    "--option",
    "options",
    type=KeyValueType(),
    multiple=True,
    help="Option of the encoding as key=value; may be repeated.",
)
@click.option(
    "--name", "checkpoint_name", help="Name of the new checkpoint. Default: SUITE-ENCODING."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Output folder. Default: runs/train/NAME."
)
@click.option(
    "--base",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Weights file to start from; for text-to-image recipes.",
)
@click.option(
    "--resume/--no-resume",
    default=True,
    help="Resume from the snapshot in the output folder, or start over.",
)
def train(
    recipe: str,
    encoding: str | None,
    options: tuple[tuple[str, Option], ...],
    checkpoint_name: str | None,
    out: Path | None,
    base: Path | None,
    resume: bool,
) -> None:
    """Run the training RECIPE (a name or a .toml file).

    A recipe produces a micro checkpoint, a micro judge or reference statistics.

    \b
    harope-bench train digits-dit --encoding harope --out runs/train/harope
    """
    from harope_bench.core.extras import require_network_packages

    require_network_packages("train")

    from harope_bench.training.run_recipe import run_recipe

    folder, summary = run_recipe(
        recipe, encoding, dict(options), checkpoint_name, out, resume, base
    )
    echo(f"{folder}: {summary}")
