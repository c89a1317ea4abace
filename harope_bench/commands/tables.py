"""Verbs of tables: table, reproduce, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harope_bench.commands.options import KeyValueType, entry_options, scaling_option
from harope_bench.commands.terminal import echo

if TYPE_CHECKING:
    from harope_bench.core.record_base import Option
    from harope_bench.leaderboards.board import Show
    from harope_bench.leaderboards.match_runs import Scale


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option(
    "--runs",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with runs to measure from.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["md", "csv", "tex", "html", "json"]),
    default="md",
    help="Output format.",
)
@click.option(
    "--show",
    type=click.Choice(["published", "measured", "both"]),
    help="Default: both with --runs, else published.",
)
@entry_options
def table(
    names: tuple[str, ...],
    runs: Path | None,
    format_: str,
    show: Show | None,
    add: tuple[str, ...],
    row: tuple[str, ...],
) -> None:
    """The paper's tables, same rows, columns and decimals, with measured values beside them.

    \b
    harope-bench table 2 --runs runs/table2 --show both --format md
    harope-bench table 2 --runs runs/table2 --add my-pe="MyPE (ours)"
    """
    from harope_bench.data.result_store import read_results
    from harope_bench.leaderboards import board
    from harope_bench.leaderboards.entries import parse_entries
    from harope_bench.reports import tables

    if show in ("measured", "both") and runs is None:
        raise click.UsageError(f"--show {show} needs --runs DIR")
    if (add or row) and (runs is None or show == "published"):
        raise click.UsageError(
            "--add and --row show measured runs; give --runs DIR and leave --show published out"
        )
    chosen = [board.load_table(name) for name in names]
    entries = parse_entries(add, row, runs)
    results = read_results(runs) if runs else []
    boards = board.build_boards(
        chosen, results, show or ("both" if runs else "published"), None, entries
    )
    texts = [tables.render_table(each, format_) for each in boards]
    if format_ == "json" and len(texts) > 1:
        texts = [f'{{"tables": [\n{",".join(texts)}]}}\n']  # several tables are still one object
    echo("\n".join(texts), nl=False)


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option(
    "--scale",
    type=click.Choice(["micro", "paper"]),
    required=True,
    help="micro: shipped checkpoints, two CPU cores.",
)
@click.option(
    "--count",
    type=click.IntRange(2),
    help="Samples of each row; the suite's own number if left out.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of all runs, tables and the report.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "mps"]),
    default="cpu",
    help="Where the networks run.",
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Base seed.")
@scaling_option(
    "How rows larger than their training meet positions beyond its grid; none if left out."
)
@click.option(
    "--judge",
    help=(
        "For prompts ROLE=NAME or ROLE=NAME:MODEL, comma-separated, in place of the suites' own"
        " judges."
    ),
)
@click.option(
    "--judge-python",
    "python",
    type=click.Path(path_type=Path),
    help="Python that runs a judge of another environment.",
)
@click.option(
    "--judge-option",
    "runner",
    type=KeyValueType(),
    multiple=True,
    help="key=value for that judge's runner (weights=F, checkout=DIR).",
)
@entry_options
def reproduce(
    names: tuple[str, ...],
    scale: Scale,
    count: int | None,
    out: Path,
    device: str,
    seed: int,
    pos_scaling: str | None,
    judge: str | None,
    judge_python: Path | None,
    judge_options: tuple[tuple[str, Option], ...],
    add: tuple[str, ...],
    row: tuple[str, ...],
) -> None:
    """Every row of the named tables, or of `all`: draw, score, tabulate, report. A second call does
    what is missing.

    \b
    harope-bench reproduce table2 --scale micro --count 500 --out runs/table2
    harope-bench reproduce table2 --scale micro --out runs/table2 --add my-pe="MyPE (ours)"
    """
    from harope_bench.leaderboards.entries import parse_entries
    from harope_bench.pipeline.annotate import AnnotatorOptions
    from harope_bench.pipeline.reproduce import reproduce

    terms = AnnotatorOptions(
        device,
        python=judge_python,
        runner_options={key: str(value) for key, value in judge_options},
    )
    done = reproduce(
        names,
        scale,
        count,
        out,
        device,
        seed,
        judge,
        terms,
        pos_scaling,
        parse_entries(add, row, out),
    )
    for path in done.written_paths:
        echo(path)
    echo(
        f"{done.n_rows} rows: {done.n_generated:,} images drawn, {done.n_scored} results scored"
        + ("" if done.n_generated or done.n_scored else "; everything stood already, no work done")
    )
    for line in done.missing_checkpoints:
        echo(line)


@click.command()
@click.option(
    "--runs",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="Folder with runs.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The HTML file.")
@entry_options
def report(runs: Path, out: Path, add: tuple[str, ...], row: tuple[str, ...]) -> None:
    """One offline HTML file about all runs below a folder.

    \b
    harope-bench report --runs runs/table2 --out report.html
    harope-bench report --runs runs/table2 --out report.html --add my-pe="MyPE (ours)"
    """
    from harope_bench.leaderboards.entries import parse_entries
    from harope_bench.reports.report_page import write_report

    write_report(runs, out, parse_entries(add, row, runs))
    echo(out)
