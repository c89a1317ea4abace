"""The verb train."""

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
@click.option("--encoding", help="Encoding to train, for recipes of a denoiser.")
@click.option(
    "--option",
    "options",
    type=KeyValueType(),
    multiple=True,
    help="Option of the encoding, key=value.",
)
@click.option("--name", "called", help="Of the checkpoint; SUITE-ENCODING if left out.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; runs/train/NAME if left out.")
@click.option(
    "--from",
    "base",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Weights file to start from, for recipes of a painter.",
)
@click.option("--resume/--no-resume", default=True, help="Go on from the folder's snapshot.")
def train(
    recipe: str,
    encoding: str | None,
    options: tuple[tuple[str, Option], ...],
    checkpoint_name: str | None,
    out: Path | None,
    base: Path | None,
    resume: bool,
) -> None:
    """Carry out a RECIPE (name or .toml): a micro checkpoint, a judge, or reference statistics.

    \b
    harope-bench train digits-dit --encoding harope --out runs/train/harope
    """
    from harope_bench.training.run_recipe import run_recipe

    folder, what = run_recipe(recipe, encoding, dict(options), checkpoint_name, out, resume, base)
    echo(f"{folder}: {what}")
