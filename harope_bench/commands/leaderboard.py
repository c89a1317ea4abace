"""The verb group leaderboard."""

from __future__ import annotations

from pathlib import Path

import click

from harope_bench.commands.terminal import echo


@click.group()
def leaderboard() -> None:
    """A folder of result JSON, in git or anywhere, as a leaderboard.

    \b
    harope-bench leaderboard build runs --out site
    """


@leaderboard.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the pages; index.html is the start.",
)
def build_pages(folder: Path, out: Path) -> None:
    """Static pages from every results/*.json below FOLDER: a section a protocol, a page a run, no
    server.

    \b
    harope-bench leaderboard build runs --out site
    """
    from harope_bench.reports.leaderboard_pages import write_leaderboard

    written = write_leaderboard(folder, out)
    echo(f"{written[0]}: {len(written) - 1} {'run' if len(written) == 2 else 'runs'}")
