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
@cloup.option(
    "--add",
    multiple=True,
    metavar="NAME[=LABEL]",
    help=(
        "Mark the runs named NAME as your own and call them LABEL. NAME is the checkpoint of a run,"
        " its folder, its target in `eval`, or its --label; it may be a folder outside of FOLDER."
        " May be repeated."
    ),
)
@cloup.option(
    "--metadata",
    "metadata_path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help=(
        "TOML file with title, description and url of the leaderboard, and a table [runs.NAME] for"
        " a run with label, authors, url, date and note."
    ),
)
def build_pages(folder: Path, out: Path, add: tuple[str, ...], metadata_path: Path | None) -> None:
    """Write static HTML pages of every results/*.json below FOLDER.

    FOLDER contains run folders, at any depth. The first page has a table for each protocol: results
    that were evaluated alike (same suite, number of images, judge, reference, rules) and may be
    ranked together. The tables of further protocols are folded. Each run has a page of its own. The
    pages need no web server.

    \b
    harope-bench leaderboard build runs --out site
    harope-bench leaderboard build runs --out site --add my-pe="MyPE (ours)"
    """
    from harope_bench.leaderboards.entries import parse_entries
    from harope_bench.reports.leaderboard_metadata import NO_METADATA, read_metadata
    from harope_bench.reports.leaderboard_pages import write_leaderboard

    metadata = read_metadata(metadata_path) if metadata_path else NO_METADATA
    page_paths = write_leaderboard(folder, out, parse_entries(add, (), folder), metadata)
    n_runs = len(page_paths) - 1  # the first page is the index
    echo(f"{page_paths[0]}: {n_runs} {'run' if n_runs == 1 else 'runs'}")
