"""The command group `leaderboard`."""

from __future__ import annotations

from pathlib import Path

import click
import cloup

from harope_bench.commands.terminal import echo


@cloup.group()
def leaderboard() -> None:
    """Build leaderboard pages from a folder of result files.

    \b
    harope-bench leaderboard build runs --out site
    """


@leaderboard.command("build")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@cloup.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for the HTML pages; index.html is the first page.",
)
def build_pages(folder: Path, out: Path) -> None:
    """Write static HTML pages of every results/*.json below FOLDER.

    FOLDER contains run folders, at any depth. The first page has a table for each protocol: results
    that were evaluated alike (same suite, number of images, judge, reference, rules) and may be
    ranked together. Each run has a page of its own. The pages need no web server.

    \b
    harope-bench leaderboard build runs --out site
    """
    from harope_bench.reports.leaderboard_pages import write_leaderboard

    page_paths = write_leaderboard(folder, out)
    n_runs = len(page_paths) - 1  # the first page is the index
    echo(f"{page_paths[0]}: {n_runs} {'run' if n_runs == 1 else 'runs'}")
