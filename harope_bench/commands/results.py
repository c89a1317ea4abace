"""The command `results`: all measurements below a folder as rows."""

from __future__ import annotations

from pathlib import Path

import click
import cloup

from harope_bench.commands.terminal import echo


@cloup.command()
@click.argument("runs", metavar="DIR", type=click.Path(path_type=Path))
@cloup.option(
    "--format",
    "format_",
    type=click.Choice(["csv", "json", "table"]),
    default="table",
    show_default=True,
    help="Output format. csv and json have all columns.",
)
@cloup.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Write this file instead of printing."
)
def results(runs: Path, format_: str, out: Path | None) -> None:
    """List the measurements of all runs at and below a folder.

    Each row is one metric of one run, with its standard error, confidence interval, number of
    scored samples, judge and profile.

    \b
    harope-bench results runs/table2
    harope-bench results runs --format csv --out results.csv
    """
    from harope_bench.core.storage import write_text
    from harope_bench.reports.result_rows import read_result_rows, result_rows_text

    text = result_rows_text(read_result_rows(runs), format_)
    if out is None:
        echo(text, nl=False)
        return
    write_text(out, text)
    echo(out)
