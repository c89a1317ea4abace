"""The command `new`, which writes the starting point of a plug-in."""

from __future__ import annotations

from pathlib import Path

import click
import cloup

from harope_bench.commands.option_types import StarterKind
from harope_bench.commands.terminal import echo


@cloup.command("new")
@click.argument("kind", type=StarterKind())
@click.argument("name")
@cloup.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the package, new or written by this command before. Default: NAME-plugin.",
)
def write_plugin(kind: str, name: str, out: Path | None) -> None:
    """Write a plug-in NAME to start from.

    KIND is encoding, backbone, sampler, suite, prompt-suite, feature-extractor, annotator,
    evaluator, prompt-evaluator, recipe or table. The plug-in is a working example in a small
    package that pip can install. In a package that exists, the command adds the module, its test
    and its entry point. No file is overwritten.

    \b
    harope-bench new encoding my-encoding --out my-plugins
    """
    from harope_bench.testing.new_plugin import create_plugin

    plugin = create_plugin(kind, name, out)
    for path in plugin.paths:
        echo(path)
    echo("next:", err=True)
    for command in plugin.commands:
        echo(f"  {command}", err=True)
