"""The command `train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from harope_bench.commands.option_types import (
    KeyValueType,
    RegisteredName,
)
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from harope_bench.core.record_base import Option


@cloup.command()
@click.argument("recipe", type=RegisteredName("recipes", can_be_path=True))
@cloup.option(
    "--encoding",
    type=RegisteredName("encodings"),
    metavar="NAME",
    help=(
        "Positional encoding to train with; see `list encodings`. Required for recipes of"
        " generators and classifiers."
    ),
)
@cloup.option(
    "--option",
    "options",
    type=KeyValueType(),
    multiple=True,
    help="Option of the encoding, such as base=100; may be repeated.",
)
@cloup.option(
    "--name",
    "checkpoint_name",
    metavar="NAME",
    help="Name of the new checkpoint. Default: SUITE-ENCODING, such as digits-harope.",
)
@cloup.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the weights, the log and the snapshots. Default: runs/train/NAME.",
)
@cloup.option(
    "--base",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Weights file to start from, for recipe shapes-mmdit. Default: the base of this package.",
)
@cloup.option(
    "--resume/--no-resume",
    default=True,
    help="Continue from the last snapshot in the output folder, or start over.",
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

    A recipe is a file with all settings of a training. Those of this package (see `list recipes`)
    made its small checkpoints, its small judges, and the reference statistics of its suites. They
    run on two CPU cores.

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
