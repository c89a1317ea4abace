"""The command `failures`: the generated images that scored below the maximum, and why."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click
import cloup

from harope_bench.commands.terminal import echo


@cloup.command()
@click.argument("runs", type=click.Path(path_type=Path))
@cloup.option(
    "--format",
    "format_",
    type=click.Choice(["table", "jsonl", "csv", "html"]),
    help=(
        "table: aligned text. jsonl: one JSON object an image, with all evidence. csv: boxes and"
        " answers as texts, a column for each score. html: one page with the images and their"
        " boxes. Default: table on a terminal, jsonl into a file or another program."
    ),
)
@cloup.option(
    "--all", "include_all", is_flag=True, help="List all images, also those with the full score."
)
def failures(runs: Path, format_: str | None, include_all: bool) -> None:
    """List images that scored below the maximum.

    RUNS is a run folder, or a folder that contains run folders, of suites of prompts (shapes,
    geneval, ...) that `eval` has evaluated. Each row has the prompt, the score and its reason, and
    what the judges found in the image: boxes, answers, colours. Rows go to stdout, warnings to
    stderr.

    \b
    harope-bench failures runs/shapes-harope
    harope-bench failures runs/shapes-harope --format csv > wrong.csv
    harope-bench failures runs/shapes-harope --format html > wrong.html
    """
    from harope_bench.reports.failures import read_failures, read_warnings

    rows = read_failures(runs, include_all=True)
    for line in read_warnings(runs):
        echo(f"warning: {line}", err=True)
    default_format = "table" if is_terminal() else "jsonl"
    echo(_render(runs, rows, format_ or default_format, include_all), nl=False)


def is_terminal() -> bool:
    """Return whether a person reads the output, not a file or another program."""
    return sys.stdout.isatty()


def _render(runs: Path, rows: list[dict[str, object]], format_name: str, include_all: bool) -> str:
    """Return the listed rows in a format.

    Args:
        rows: the rows of all images.
        include_all: list all images, also those with the full score.
    """
    from harope_bench.reports import failures, failures_page, failures_table

    if format_name == "table":
        width = shutil.get_terminal_size(fallback=(100, 24)).columns
        return failures_table.failures_table(rows, include_all, width)
    if format_name == "html":
        return failures_page.render_failures_page(runs, rows, include_all)
    listed_rows = [row for row in rows if include_all or failures.is_failure(row)]
    is_csv = format_name == "csv"
    return failures.rows_csv(listed_rows) if is_csv else failures.rows_jsonl(listed_rows)
