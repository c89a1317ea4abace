"""The command `failures`: the generated images that scored below the maximum, and why."""

from __future__ import annotations

from pathlib import Path

import click
import cloup

from harope_bench.commands.terminal import echo


@cloup.command()
@click.argument("runs", type=click.Path(path_type=Path))
@cloup.option(
    "--format",
    "format_",
    type=click.Choice(["jsonl", "csv"]),
    default="jsonl",
    show_default=True,
    help="Output format.",
)
@cloup.option(
    "--all", "include_all", is_flag=True, help="List all images, also those with the full score."
)
def failures(runs: Path, format_: str, include_all: bool) -> None:
    """List images that scored below the maximum.

    RUNS is a run folder, or a folder that contains run folders, of suites of prompts (shapes,
    geneval, ...) that `eval` has evaluated. Each row has the prompt, the score and its reason, and
    what the judges found in the image: boxes, answers, colours. Rows go to stdout, warnings to
    stderr.

    \b
    harope-bench failures runs/shapes-harope --format csv > wrong.csv
    """
    from harope_bench.reports.failures import (
        read_failures,
        read_warnings,
        rows_csv,
        rows_jsonl,
    )

    rows = read_failures(runs, include_all)
    for line in read_warnings(runs):
        echo(f"warning: {line}", err=True)
    text = rows_csv(rows) if format_ == "csv" else rows_jsonl(rows)
    echo(text, nl=False)
