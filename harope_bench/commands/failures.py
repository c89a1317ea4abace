"""The verb failures: which images of prompts were held wrong, and why."""

from __future__ import annotations

from pathlib import Path

import click

from harope_bench.commands.terminal import echo


@click.command()
@click.argument("runs", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "kind",
    type=click.Choice(["jsonl", "csv"]),
    default="jsonl",
    show_default=True,
    help="Form of the rows.",
)
@click.option("--all", "everything", is_flag=True, help="Images held right too.")
def failures(runs: Path, format: str, include_all: bool) -> None:
    """List the images below RUNS that scored less than all, with reason, boxes and answers;
    warnings go to stderr.

    \b
    harope-bench failures runs/shapes-harope --format csv > wrong.csv
    """
    from harope_bench.reports import failures as found

    rows = found.read_failures(runs, include_all)
    for line in found.read_warnings(runs):
        echo(f"warning: {line}", err=True)
    echo((found.rows_csv if format == "csv" else found.rows_jsonl)(rows), nl=False)
